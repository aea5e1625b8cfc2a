"""The segmenters on real stamps: python benchmarks/segmentation_real.py [--data DIR]

Writes docs/figures/segmentation_real.png (outlines of the network and of sep beside each other) and
the agreement with the segmentations that come with the images into docs/segmentation.md. Real
images: $AUTOFIT_ML_TEST_DATA, or the shared folder beside the repository.
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path

import numpy as np
from documents import DATA, DOCS, markdown_table, write_section
from PIL import Image, ImageDraw

from autofit_ml.images import discover, read_source
from autofit_ml.images.stamp import Stamp
from autofit_ml.report import segmentation_png
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all

REPOSITORY = Path(__file__).resolve().parent.parent
STAMPS = (
    *(f"profit_kids_sdss/G{k}_kids-r" for k in (265911, 266035, 266662, 267525, 279148)),
    *(f"profit_kids_sdss/G{k}_sdss-r" for k in (265911, 266035, 266662, 267525, 279148)),
    *(f"pymorph_sdss/000000{k}_r" for k in ("01", "03", "09", "23", "58")),
    *(f"pysersic/hsc-gal{k}" for k in (1, 2, 3)),
    *(f"cosmos_hst_btk/cosmos{k:03d}_F814W" for k in (0, 2, 4, 6, 8, 12)),
    "galfitm_tests/galfit-example_F606W",
    "misc_fields/sdss1000-1-100_r",
)
COLUMNS = 5
PANEL = 200


def read(data: Path, name: str) -> Stamp | None:
    """A stamp of the shared data; None if it is not there."""
    folder, _, stem = name.partition("/")
    paths = sorted((data / folder).glob(f"{stem}_*.fits*"))
    if not paths:
        return None
    (source,) = discover(paths, mode="stamp").sources
    item = read_source(source).item
    if not isinstance(item, Stamp):
        raise SystemExit(f"{name} was read as a frame")
    return item


def agreement(stamp: Stamp, result: Segmentation) -> float:
    """Intersection over union with the given mask of the target."""
    if stamp.labels is None or stamp.target_label is None:
        return float("nan")
    given = stamp.labels == stamp.target_label
    own = (result.labels == result.target) & (result.target > 0)
    return float((given & own).sum() / max((given | own).sum(), 1))


def core_agreement(stamp: Stamp, result: Segmentation) -> float:
    """The same, among the given mask's pixels that are as bright as the network's faintest tenth.

    Given segmentations reach far into the sky (ProFound dilates them): only there can masks of
    another isophote agree.
    """
    if stamp.labels is None or stamp.target_label is None or not result.target:
        return float("nan")
    given, own = stamp.labels == stamp.target_label, result.labels == result.target
    lowest = np.percentile(stamp.data[own], 10)
    bright = stamp.data >= lowest
    return float((given & own & bright).sum() / max(((given | own) & bright).sum(), 1))


def panel(stamp: Stamp, result: Segmentation, caption: str) -> Image.Image:
    """The outlines, as large as the others'."""
    payload = segmentation_png(
        stamp.data - np.float32(result.sky_level),
        stamp.sigma,
        stamp.mask,
        result.labels,
        result.target,
        classes=result.classes,
    )
    picture = Image.open(io.BytesIO(payload)).convert("RGB")
    width = (picture.width - 6) // 2
    outlined = picture.crop((picture.width - width, 0, picture.width, picture.height))
    outlined.thumbnail((PANEL, PANEL), Image.Resampling.BOX)
    out = Image.new("RGB", (PANEL, PANEL + 16), (20, 22, 26))
    out.paste(outlined, ((PANEL - outlined.width) // 2, 16 + (PANEL - outlined.height) // 2))
    ImageDraw.Draw(out).text((3, 2), caption, fill=(232, 234, 237))
    return out


def main() -> None:
    """Segment, draw, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", default="", help="names or folders; default: the installed")
    parser.add_argument("--out", type=Path, default=DOCS / "figures" / "segmentation_real.png")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    stamps = {name: read(arguments.data, name) for name in STAMPS}
    there = {name: stamp for name, stamp in stamps.items() if stamp is not None}
    found = {}
    for method in ("maskrcnn", "sep"):
        results = segment_all(list(there.values()), method, arguments.weights)
        found[method] = dict(zip(there, results, strict=True))
    tiles, rows = [], []
    for name in there:
        for method, caption in (("maskrcnn", name.rpartition("/")[2]), ("sep", "sep")):
            stamp, result = found[method][name]
            if isinstance(result, Exception):
                raise result
            note = caption if result.method == method else f"{caption} (by sep)"
            tiles.append(panel(stamp, result, note))
        stamp, network = found["maskrcnn"][name]
        _, classical = found["sep"][name]
        if stamp.labels is not None:
            values = [
                rule(stamp, result)
                for rule in (agreement, core_agreement)
                for result in (network, classical)
            ]
            number = len(np.unique(stamp.labels[stamp.labels > 0]))
            others = [str(len(np.unique(r.labels[r.labels > 0]))) for r in (network, classical)]
            rows.append(
                [name.rpartition("/")[2], *(f"{v:.2f}" for v in values), str(number), *others]
            )
    lines = -(-len(tiles) // (2 * COLUMNS))
    sheet = Image.new("RGB", (2 * COLUMNS * PANEL, lines * (PANEL + 16)), (20, 22, 26))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % (2 * COLUMNS) * PANEL, k // (2 * COLUMNS) * (PANEL + 16)))
    sheet.quantize(128).save(arguments.out, optimize=True)
    header = ["stamp", "IoU network", "IoU sep", "bright part, network", "bright part, sep"]
    text = markdown_table([*header, "instances given", "network", "sep"], rows)
    print(text)
    if not arguments.weights:
        write_section("segmentation.md", "real", text)


if __name__ == "__main__":
    main()
