"""Real and simulated stamps of the same survey: python benchmarks/mosaic.py [--quick]

Writes docs/figures/mosaic.png: for each survey a row of real stamps and a row of simulated ones,
stretched alike. Real images: $AUTOFIT_ML_TEST_DATA, or the shared folder beside the repository.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from astropy.io import fits
from documents import DOCS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from autofit_ml.measure import measure_sky
from autofit_ml.simulation import compose_recipe, simulate_one

REPOSITORY = Path(__file__).resolve().parent.parent
COLUMNS = 8


@dataclass(frozen=True)
class Survey:
    """Which real stamps, and which simulated ones beside them."""

    title: str
    images: tuple[str, ...]
    recipe: tuple[str, ...]
    side: int = 96


_COUNTS = (
    "data.neighbours.number=null",
    "data.neighbours.clustering={fraction: 0.2, slope: 0.8, scale: 20}",
)
SURVEYS = (
    Survey(
        "SDSS r",
        (
            *(f"pymorph_sdss/000000{k}_r" for k in ("01", "03", "09", "23", "58")),
            *(f"profit_kids_sdss/{g}_sdss-r" for g in ("G265911", "G266035", "G266662")),
        ),
        (
            "survey=sdss-r",
            "data.target.snr=null",
            "data.target.magnitude=[15.5, 18.0]",
            "data.galaxies.re=null",
            "data.galaxies.re_limits=[5, 14]",
            "data.neighbours.magnitude=[15, 22.5]",
            "data.neighbours.faint_magnitude=24.5",
        ),
    ),
    Survey(
        "KiDS r",
        tuple(
            f"profit_kids_sdss/{g}_kids-r"
            for g in ("G265911", "G266035", "G266662", "G267525", "G279148")
        ),
        (
            "survey=kids-r",
            "data.target.snr=null",
            "data.target.magnitude=[15.0, 17.0]",
            "data.galaxies.re=null",
            "data.galaxies.re_limits=[14, 40]",
            "data.neighbours.magnitude=[16, 24.5]",
            "data.neighbours.faint_magnitude=26.5",
        ),
    ),
    Survey(
        "Legacy Surveys r",
        ("pysersic/decals-field_r",),
        (
            "survey=legacysurvey-r",
            "data.target.snr=null",
            "data.target.magnitude=[15.5, 19.5]",
            "data.galaxies.re=null",
            "data.galaxies.re_limits=[3, 12]",
            "data.neighbours.magnitude=[16, 23.5]",
            "data.neighbours.faint_magnitude=25.5",
        ),
        side=64,
    ),
    Survey(
        "HSC i",
        (
            "pysersic/hsc-gal1",
            "pysersic/hsc-gal2",
            "pysersic/hsc-gal3",
            "scarlet_hsc_hst/blend35_i",
        ),
        (
            "survey=hsc-i",
            "data.target.snr=null",
            "data.target.magnitude=[17.5, 20.5]",
            "data.galaxies.re=null",
            "data.galaxies.re_limits=[4, 16]",
            "data.neighbours.magnitude=[17, 26]",
            "data.neighbours.faint_magnitude=27.5",
        ),
    ),
    Survey(
        "HST ACS F814W",
        tuple(f"cosmos_hst_btk/cosmos0{k:02d}_F814W" for k in range(0, 20, 2)),
        (
            "survey=hst-acs-f814w",
            "data.target.snr=null",
            "data.target.magnitude=[22.3, 24.8]",
            "data.galaxies.re=null",
            "data.galaxies.re_limits=[4, 16]",
            "data.neighbours.magnitude=[22.5, 27]",
            "data.neighbours.faint_magnitude=28",
        ),
    ),
)


def real_folder() -> Path:
    """Where the real images are."""
    given = os.environ.get("AUTOFIT_ML_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        raise SystemExit(f"no real images at {folder}; set AUTOFIT_ML_TEST_DATA")
    return folder


def stretched(image: np.ndarray, level: float, noise: float) -> np.ndarray:
    """Asinh of the signal in units of the sky.rms, 0 to 1."""
    return np.clip((np.arcsinh((image - level) / noise / 2) + 0.9) / 5.5, 0, 1)


def cut(image: np.ndarray, x: float, y: float, side: int) -> np.ndarray:
    """A stamp (or what there is of it) around (x, y)."""
    y0, x0 = round(y) - side // 2, round(x) - side // 2
    return image[max(y0, 0) : y0 + side, max(x0, 0) : x0 + side]


def real_stamps(survey: Survey) -> list[np.ndarray]:
    """Stretched stamps, at most COLUMNS."""
    stamps: list[np.ndarray] = []
    for name in survey.images:
        path = real_folder() / f"{name}_image.fits.gz"
        image = np.asarray(fits.getdata(path), dtype=float)
        sky = measure_sky(image, np.zeros(image.shape, bool))
        shown = stretched(image, sky.level, sky.rms)
        ny, nx = image.shape
        if len(survey.images) == 1:  # a field: its brightest galaxies
            import sep

            found = sep.extract(image - sky.level, 5.0, err=sky.rms)
            half = survey.side / 2
            inside = (abs(found["x"] - nx / 2) < nx / 2 - half) & (
                abs(found["y"] - ny / 2) < ny / 2 - half
            )
            found = found[inside][np.argsort(-found["flux"][inside])][:COLUMNS]
            stamps += [cut(shown, item["x"], item["y"], survey.side) for item in found]
        else:
            stamps.append(cut(shown, (nx - 1) / 2, (ny - 1) / 2, survey.side))
    return stamps[:COLUMNS]


def simulated_stamps(survey: Survey, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Stretched simulated stamps of the same shapes as the real ones."""
    side = survey.side + survey.side % 2 + 1
    recipe = compose_recipe(
        ["data=realistic", f"data.shape=[{side},{side}]", *_COUNTS, *survey.recipe]
    )
    stamps = []
    for index, (ny, nx) in enumerate(shapes):
        item = simulate_one(recipe, index, seed=11)
        shown = stretched(item.data, item.sky, item.sky_rms)
        y0, x0 = (side - ny) // 2, (side - nx) // 2
        stamps.append(shown[y0 : y0 + ny, x0 : x0 + nx])
    return stamps


def main() -> None:
    """Draw the mosaic."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one survey; the figure untouched")
    quick = parser.parse_args().quick
    rows: list[tuple[str, list[np.ndarray]]] = []
    for survey in SURVEYS[:1] if quick else SURVEYS:
        real = real_stamps(survey)
        rows.append((f"{survey.title}\nreal", real))
        rows.append(("simulated", simulated_stamps(survey, [item.shape for item in real])))
    if quick:
        return
    size = 1.15
    figure, axes = plt.subplots(
        len(rows), COLUMNS, figsize=(COLUMNS * size + 1.5, len(rows) * size), squeeze=False
    )
    for line, (label, stamps) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, stamp in zip(line, stamps, strict=False):
            axis.imshow(stamp, origin="lower", cmap="gray", vmin=0, vmax=1)
        line[0].text(
            -0.08, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
    figure.subplots_adjust(
        left=0.15, right=0.995, bottom=0.005, top=0.995, wspace=0.03, hspace=0.03
    )
    path = DOCS / "figures" / "mosaic.png"
    figure.savefig(path, dpi=110)
    print(path)


if __name__ == "__main__":
    main()
