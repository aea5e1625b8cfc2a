"""Every set of the shared real data with default settings: python benchmarks/real_data.py [--docs]

Fits each folder as ``autofit-ml fit FOLDER`` does. Writes docs/real-data.md's tables (parameters
beside the published fits, differences in combined errors), a plot of these differences, and a
picture of every preview: data, model, residual, mask. What differs by more than 3 combined errors
has to be explained in `EXPLAINED`; the script ends with an error if it is not.

The data are found through AUTOFIT_ML_TEST_DATA, else ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from default_pipeline import column, columns
from documents import DATA, DOCS, markdown_table, write_section
from PIL import Image

import autofit_ml as afm
from autofit_ml.catalogue import flag_names

HERE = Path(__file__).resolve().parent
COMPARED = ("flux", "re", "n", "q")
LIMIT = 3.0
_ROWS = 20
"""Of a set's table: the brightest in units of their noise come first in frames."""

EXPLAINED = {
    "00000058_r": "a neighbour inside the galaxy's isophotes, which neither the network nor sep "
    "sees. The reference fits it (with an unconstrained second profile); one profile alone takes "
    "up its light. With the neighbour as a component the fit is the reference's (scenes.md).",
    "ic3478-64_r": "a cut-out from inside a galaxy: the default fits the sky, which nothing in 64 "
    "pixels can tell from the galaxy's outskirts; the reference has it fixed at 0. With "
    "`--sky fixed` all parameters are within the errors (accuracy.md).",
    "hsc-gal2": "the reference has a Student-t loss and no sky; ours is Gaussian with a free sky, "
    "and raises POOR_FIT: one profile does not describe the galaxy, and neither code's errors "
    "know of that. With `--sky fixed` n is 4 % lower than the reference's (accuracy.md).",
    "ngc4660_i": "the reference's sky sits on a limit and its convolution box is empty, as its "
    "own note says: a rough check only.",
    "decam520206_z": "the reference is the survey catalogue's, from other exposures and bands, a "
    "de Vaucouleurs profile whose re is a third of the stamp. Here n and the sky are free, and a "
    "faint galaxy on a free sky decides for a compact one; with the reference's model and "
    "neighbour the fit is the reference's, 12 % brighter, as the data's own note says (scenes.md).",
    "ic3478_r": "the reference is an exponential disc (n fixed at 1) without mask and PSF, and "
    "says itself that it is a poor model; ours has a free n.",
}
"""Object -> why it differs from its reference."""

PARTS = ("ngc3073_r", "vcc1512_r")
"""References of several components for one galaxy: nothing to compare one profile with."""


@dataclass(frozen=True)
class Set:
    """A folder of the shared data.

    Attributes
    ----------
    title : str
    options : mapping
        Beyond the defaults; what the files cannot say.
    prepare : callable, optional
        (folder of the set, temporary folder) -> paths to fit; default: its ``*_image.fits.gz``.
    """

    title: str
    options: Mapping[str, Any]
    prepare: Callable[[Path, Path], Sequence[Path]] | None = None


def _images(folder: Path, _: Path) -> list[Path]:
    return sorted(folder.glob("*_image.fits.gz"))


def _fields(folder: Path, _: Path) -> list[Path]:
    return [path for path in _images(folder, _) if "decam" not in path.name]


def _native(folder: Path, _: Path) -> list[Path]:
    """Of each night the frame that was not resampled."""
    return sorted(folder.glob("*a_i_image.fits.gz"))


def _decam(folder: Path, work: Path) -> list[Path]:
    """A manifest that says where the galaxy is."""
    path = DATA / "misc_fields" / "decam520206_z_image.fits.gz"
    planes = {name: str(path).replace("_image", f"_{name}") for name in ("sigma", "psf", "mask")}
    manifest = work / "manifest.csv"
    row = {"id": "decam520206_z", "image": str(path), **planes, "x": "29.3", "y": "49.1"}
    manifest.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    return [manifest]


def _celeste(folder: Path, work: Path) -> list[Path]:
    """The first frame of each band, its variance, and its PSF of three Gaussians, as own files."""
    out = []
    for path in sorted(folder.glob("stamp-*.fits")):
        band = path.name.split("-")[1]
        with fits.open(path) as hdus:
            header, image, inverse = hdus[0].header, hdus[0].data, hdus[1].data
            terms = np.array([header[f"PSF_P{k}"] for k in range(18)])
        half = 15
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
        psf = np.zeros_like(x)
        for k in range(3):
            mx, my = terms[3 + 2 * k : 5 + 2 * k]
            xx, yy, xy = terms[9 + 3 * k : 12 + 3 * k]
            inv = np.linalg.inv([[xx, xy], [xy, yy]])
            dx, dy = x - mx, y - my
            power = inv[0, 0] * dx**2 + 2 * inv[0, 1] * dx * dy + inv[1, 1] * dy**2
            psf += terms[k] * np.sqrt(np.linalg.det(inv)) / (2 * np.pi) * np.exp(-0.5 * power)
        sigma = np.where(inverse > 0, 1 / np.sqrt(np.maximum(inverse, 1e-30)), 1e10)
        cards = fits.Header([("ZP", 22.5), ("PIXSCALE", 0.396), ("FILTER", band)])
        for name, data in (("image", image), ("sigma", sigma)):
            fits.writeto(work / f"stripe82_{band}_{name}.fits", data.astype(np.float32), cards)
        fits.writeto(
            work / f"stripe82_{band}_psf.fits",
            (psf / psf.sum()).astype(np.float32),
            fits.Header([("PSFPIX", True)]),
        )
        out.append(work / f"stripe82_{band}_image.fits")
    return out


SETS = {
    "pymorph_sdss": Set("SDSS r, fits of GALFIT by PyMorph", {}),
    "imfit_sdss": Set("SDSS r and HST, fits of imfit", {}),
    "galfitm_tests": Set("HST F606W and SDSS i, fits of GALFITM", {}),
    "pysersic": Set("HSC and DECaLS, a fit of pysersic", {}),
    "profit_kids_sdss": Set("the same five galaxies in KiDS and SDSS r", {}),
    "misc_fields": Set("fields of SDSS and NTT", {"mode": "frame"}, _fields),
    "decam520206": Set("a DECam stamp whose galaxy is not in its middle", {}, _decam),
    "cosmos_hst_btk": Set("HST COSMOS, F814W, faint", {}),
    "legacypipe_decam": Set("DECam exposures of three fields, g, r, z", {}),
    "scarlet_hsc_hst": Set("blends, HSC and HST", {}),
    "splus_8band": Set("S-PLUS, eight bands, negative pixels cut off", {}),
    "celeste_stripe82": Set("Stripe 82, one spot, ugriz, one exposure each", {}, _celeste),
    "profound_viking": Set(
        "VIKING Z, neither noise map nor PSF", {"mode": "frame", "psf": "moffat"}
    ),
    "sfft_decam": Set("DECam i frames", {"mode": "frame", "psf": "moffat"}, _native),
}


def references() -> dict[str, dict[str, Any]]:
    """Image -> published fit of one component with the same data."""
    out = {}
    for entry in json.loads((DATA / "reference_fits.json").read_text())["fits"]:
        name = Path(entry["image"]).name.removesuffix("_image.fits.gz")
        if name not in PARTS:
            out[name] = entry
    return out


def fitted(name: str, one: Set, work: Path) -> tuple[QTable, list[Path], float, set[str]]:
    """Rows, previews, seconds an object, and what was fitted without a PSF."""
    folder = work / name
    folder.mkdir()
    paths = (one.prepare or _images)(DATA / name, folder)
    began = time.perf_counter()
    given: dict[str, Any] = {"data": paths}
    if paths[0].suffix == ".csv":
        given = {"manifest": paths[0]}
    table = afm.fit(out=folder / "results", save=("previews",), **given, **one.options)
    seconds = (time.perf_counter() - began) / max(len(table), 1)
    previews = sorted((folder / "results" / "previews").glob("*.png"))
    # What has no PSF is refused by default; a user would then say that there is none.
    bare = [str(row["id"]) for row in table if "no PSF" in str(row["message"])]
    if bare:
        again = [path for path in paths if path.name.partition("_image")[0] in bare]
        options = {**one.options, "psf": "none"}
        more = afm.fit(again, out=folder / "no_psf", save=("previews",), **options)
        table = vstack([table[~np.isin(table["id"], bare)], more], metadata_conflicts="silent")
        previews += sorted((folder / "no_psf" / "previews").glob("*.png"))
    if one.options.get("mode") == "frame":
        table = table[np.argsort(-np.nan_to_num(column(table, "snr")))]
    return table, previews, seconds, set(bare)


def rows_of(
    table: QTable, known: Mapping[str, Any], bare: Collection[str]
) -> tuple[list[list[str]], list[list[Any]]]:
    """Markdown rows, and (object, parameter, difference in errors) where there is a reference."""
    rows, pulls = [], []
    values = {key: column(table, key) for key in (*COMPARED, *(f"{k}_err" for k in COMPARED))}
    magnitude, chi2 = column(table, "mag"), column(table, "chi2_red")
    place = columns(table, ("x", "y"))
    for k in range(len(table)):
        name = str(table["id"][k])
        if table["status"][k] != "ok":
            rows.append([name, "failed", "", "", "", "", str(table["message"][k])])
            continue
        entry = known.get(name.partition("@")[0])
        target = _target(entry, "@" in name, *place[k])
        counts = entry is not None and "start values" not in entry.get("kind", "")
        error = target.get("err") or {}
        cells = []
        for key in COMPARED:
            value, spread = values[key][k], values[f"{key}_err"][k]
            text = f"{value:.4g} ± {spread:.2g}"
            if key == "flux" and np.isfinite(magnitude[k]):
                text += f" ({magnitude[k]:.2f} mag)"
            if key in target:
                known_error = error.get(key) or 0.0
                pull = (value - target[key]) / np.hypot(spread, known_error)
                text += f" [{target[key]:.4g}]"
                if counts:
                    pulls.append([name, key, float(pull), value / target[key] - 1])
                    text += f" **{pull:+.1f} σ**" if abs(pull) > LIMIT else ""
            cells.append(text)
        flags = ", ".join(flag_names(int(table["flags"][k]))) or "none"
        flags += " (--psf none)" if name.partition("@")[0] in bare else ""
        rows.append([name, *cells, f"{chi2[k]:.3f}", flags])
    return rows, pulls


def _target(entry: Mapping[str, Any] | None, frame: bool, x: float, y: float) -> dict[str, Any]:
    """The component to compare with: of a frame's objects the one within 3 pixels."""
    if entry is None:
        return {}
    parts = entry["components"]
    if not frame:
        return parts[0]
    near = [one for one in parts if np.hypot(one["x"] - x, one["y"] - y) < 3]
    return near[0] if near else {}


def montage(previews: Sequence[Path], path: Path, most: int = 16) -> None:
    """Previews under each other, in two columns where there are many."""
    images = [Image.open(one).convert("RGB") for one in previews[:most]]
    if not images:
        return
    width = 560
    images = [one.resize((width, round(one.height * width / one.width))) for one in images]
    filled = [0] * (1 if len(images) < 5 else 2)
    sheet = Image.new("RGB", (len(filled) * width, sum(one.height for one in images)), "#17171b")
    for one in images:
        k = filled.index(min(filled))
        sheet.paste(one, (k * width, filled[k]))
        filled[k] += one.height
    sheet.crop((0, 0, sheet.width, max(filled))).save(path, quality=80)


def pull_plot(pulls: Sequence[Sequence[Any]], path: Path) -> None:
    """Differences in combined errors, clipped at 15."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(one[0] for one in pulls))
    figure, axis = plt.subplots(figsize=(7, 0.32 * len(names) + 1))
    for key, marker in zip(COMPARED, "os^D", strict=True):
        some = [one for one in pulls if one[1] == key]
        axis.plot(
            np.clip([one[2] for one in some], -15, 15),
            [names.index(one[0]) for one in some],
            marker, label=key, alpha=0.8,
        )  # fmt: skip
    axis.axvspan(-LIMIT, LIMIT, color="0.9", zorder=0)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("ours - reference, in combined errors (at the frame: beyond 15)")
    axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.4, 1.14))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Fit everything and write the page's parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*SETS, []], default=[])
    parser.add_argument("--docs", action="store_true", help="write into docs/real-data.md")
    arguments = parser.parse_args()
    if not DATA.exists():
        raise SystemExit(f"no data in {DATA}: set AUTOFIT_ML_TEST_DATA")
    known = references()
    figures = DOCS / "figures" if arguments.docs else HERE / "out" / "real_data"
    figures.mkdir(parents=True, exist_ok=True)
    pulls: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name in arguments.names or SETS:
            table, previews, seconds, bare = fitted(name, SETS[name], Path(work))
            rows, some = rows_of(table, known, bare)
            pulls += some
            montage(previews, figures / f"real_{name}.jpg")
            left = len(rows) - _ROWS
            rows = rows[:_ROWS]
            header = ["object", "flux", "re [px]", "n", "q", "chi2/ndof", "flags"]
            text = markdown_table(header, rows)
            text += f"\n\nand {left} more." if left > 0 else ""
            said = f"{len(table)} objects, {seconds:.2f} s each"
            print(f"\n## {name}: {said}\n{text}", flush=True)
            if arguments.docs:
                write_section("real-data.md", name, text)
    far = [one for one in pulls if not abs(one[2]) <= LIMIT]
    within = len(pulls) - len(far)
    summary = f"{within} of {len(pulls)} parameters are within {LIMIT:g} combined errors."
    reasons = [f"- **{name}**: {EXPLAINED[name]}" for name in dict.fromkeys(o[0] for o in far)
               if name in EXPLAINED]  # fmt: skip
    print(summary, *reasons, sep="\n")
    if pulls and not arguments.names:
        pull_plot(pulls, figures / "real_pulls.png")
        if arguments.docs:
            write_section("real-data.md", "pulls", "\n".join([summary, "", *reasons]))
    missing = sorted({one[0] for one in far} - set(EXPLAINED))
    if missing:
        raise SystemExit(f"not explained: {', '.join(missing)}")


if __name__ == "__main__":
    main()
