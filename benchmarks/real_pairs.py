"""Do two views of one real galaxy agree within their errors? python benchmarks/real_pairs.py

Galaxies seen by two surveys, at several epochs or in several bands of similar shape, each view
fitted by itself with the defaults: the difference of radius and axis ratio over the errors of both,
once with the errors of noise alone and once with the total ones. The robust scatter of what is left
should be 1; the bar is 0.8 to 1.3. Fluxes are compared where both views have the same band and
calibration. Galaxies also differ between bands (colour gradients): errors of no kind hold that.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from documents import DATA, markdown_table, write_section

import autofit_ml as afm
from autofit_ml.catalogue.flags import Flag

LEAST_SNR = 20.0
NEAR = 0.4 * u.arcsec
"""Distance within which two frames' detections are one galaxy."""


@dataclass(frozen=True)
class Views:
    """Several views of the same sky.

    Attributes
    ----------
    title : str
    files : tuple of str
        Patterns in the data's folder, one a view.
    of_frame : bool
        Views are frames with a WCS; else stamps, whose name before the underscore is the galaxy's.
    flux : bool
        Fluxes are comparable.
    """

    title: str
    files: tuple[str, ...]
    of_frame: bool = False
    flux: bool = False


SETS = (
    Views(
        "KiDS r and SDSS r",
        ("profit_kids_sdss/*_kids-r_*", "profit_kids_sdss/*_sdss-r_*"),
        flux=True,
    ),
    Views(
        "HSC i and HST F814W, a blend",
        ("scarlet_hsc_hst/pair1_hsc-i_*", "scarlet_hsc_hst/pair1_hst-F814W_*"),
        of_frame=True,
    ),
    Views(
        "HSC g, r, i, z, y, a blend",
        tuple(f"scarlet_hsc_hst/pair1_hsc-{band}_*" for band in "grizy"),
        of_frame=True,
    ),
    Views(
        "DECam g, r, z, a galaxy",
        tuple(f"legacypipe_decam/testcase9_{band}_*" for band in "grz"),
    ),
    Views(
        "DECam g, r, z, a field",
        tuple(f"pysersic/decals-field_{band}_*" for band in "grz"),
        of_frame=True,
    ),
    *(
        Views(
            "DECam i, one galaxy of a field, five times two epochs",
            (f"sfft_decam/ep20160818{one}_*", f"sfft_decam/ep20180804{one}_*"),
            of_frame=True,
        )
        for one in "abcde"
    ),
)
"""A title that occurs several times is one row."""


def fitted(pattern: str, of_frame: bool) -> Table:
    """Rows of one view, by the defaults."""
    with tempfile.TemporaryDirectory() as folder:
        for path in DATA.glob(pattern):
            shutil.copy(path, folder)
        return afm.fit(folder, mode="frame" if of_frame else "stamp", out=None)


def pairs(views: Views) -> Iterator[tuple[Table.Row, Table.Row]]:
    """Usable galaxies that two of the views have; in frames, what is nearest to each other."""
    tables = [good(fitted(pattern, views.of_frame)) for pattern in views.files]
    for first, second in itertools.combinations(tables, 2):
        if not views.of_frame:
            names = [str(row["id"]).partition("_")[0] for row in second]
            for row in first:
                name = str(row["id"]).partition("_")[0]
                if name in names:
                    yield row, second[names.index(name)]
        elif len(first) and len(second):
            places = [SkyCoord(table["ra"], table["dec"], unit="deg") for table in (first, second)]
            nearest, distance, _ = places[0].match_to_catalog_sky(places[1])
            back = places[1].match_to_catalog_sky(places[0])[0]
            for k, other in enumerate(nearest):
                if back[other] == k and distance[k] < NEAR:
                    yield first[k], second[int(other)]


def good(table: Table) -> Table:
    """Rows to be used of galaxies that are resolved."""
    star = (table["flags"] & int(Flag.POINT_SOURCE)) != 0
    return table[table["use"] & ~star & (table["snr"] > LEAST_SNR)]


QUANTITIES: dict[str, Callable[[Table.Row, str], tuple[float, float]]] = {
    "ln re": lambda row, kind: (
        float(np.log(row["re_arcsec"].value)),
        float(row[f"re_err{kind}"] / row["re"]),
    ),
    "q": lambda row, kind: (float(row["q"]), float(row[f"q_err{kind}"])),
    "ln flux": lambda row, kind: (
        float(np.log(row["flux"])),
        float(row[f"flux_err{kind}"] / row["flux"]),
    ),
}


def differences(
    found: Sequence[tuple[Table.Row, Table.Row]], name: str, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Differences and their errors; `kind` is "_stat" or nothing."""
    value = QUANTITIES[name]
    ones, others = (np.array([value(pair[k], kind) for pair in found]) for k in (0, 1))
    return ones[:, 0] - others[:, 0], np.hypot(ones[:, 1], others[:, 1])


def scatter(values: np.ndarray) -> float:
    """Robust scatter about zero: two views have the same expectation."""
    return float(np.median(np.abs(values)) / 0.6745)


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", action="store_true", help="write into docs/errors.md")
    chosen = parser.parse_args(arguments)
    if not DATA.is_dir():
        sys.exit(f"no real images in {DATA}: set AUTOFIT_ML_TEST_DATA")
    lines, everything = [], []
    for title in dict.fromkeys(views.title for views in SETS):
        some = [views for views in SETS if views.title == title]
        found = [pair for views in some for pair in pairs(views)]
        if found:
            lines.append(line(title, found, flux=some[0].flux))
            everything += found
    lines.append(line("all", everything, flux=False))
    text = markdown_table(["views", "pairs", *QUANTITIES], lines)
    print(text)
    if chosen.docs:
        write_section("errors.md", "pairs", text)


def line(title: str, found: Sequence[tuple[Table.Row, Table.Row]], *, flux: bool) -> list[str]:
    """Noise's scatter and the total errors' of each quantity."""
    cells = []
    for name in QUANTITIES:
        if name == "ln flux" and not flux:
            cells.append("–")
            continue
        off, error = differences(found, name, "")
        before, after = (
            scatter(off / some) for some in (differences(found, name, "_stat")[1], error)
        )
        cells.append(f"{before:.1f} → {after:.2f}")
        if name == "ln flux":
            middle = np.median(off)
            cells[-1] += f" ({scatter((off - middle) / error):.2f} with {middle:+.3f} taken off)"
    return [title, str(len(found)), *cells]


if __name__ == "__main__":
    main(sys.argv[1:])
