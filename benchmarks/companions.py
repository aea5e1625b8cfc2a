"""Missed companions and cut-up galaxies: python benchmarks/companions.py [SECTION ...] [-n N]

- ``companions``: fits without and with the search for companions that the segmentation missed
  (`autofit_ml.fitting.companions`): blends by the share of others in the target's light, large
  galaxies with satellites;
- ``structured``: how many galaxies with arms and knots get a fragment of their own as a companion;
- ``ruined``: share of fits whose re is off by over 30 % with the true masks, with the network's
  instances as they come, and repaired or refused (`autofit_ml.segmentation.repair`); in
  brackets, in how many stamps the target's label has the brightest pixel within two FWHM;
- ``targets``: the same on real stamps;
- ``labels``: fits of real stamps with the network's labels beside those with sep's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
from documents import DATA, Section, run_sections
from hard_sets import RUINED, SATELLITES, of_recipe

from autofit_ml.catalogue.flags import usable
from autofit_ml.fitting import Fits, RefineSettings, SceneFit, refine
from autofit_ml.images import discover, read_source
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import initialise
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation import Segmentation, dispatch, maskrcnn
from autofit_ml.segmentation.fragments import join_fragments

BLENDS = of_recipe(("data=validation/blends",))
REALISTIC = of_recipe(("data=validation/realistic",))
REAL = (
    *("profit_kids_sdss", "pymorph_sdss", "imfit_sdss", "galfitm_tests", "pysersic"),
    *("cosmos_hst_btk", "splus_8band", "legacypipe_decam"),
)
"""Data sets of stamps that have one target."""

LARGEST_SIDE = 420


def segmented(stamps: Sequence[Stamp], segmenter: str = "maskrcnn") -> list[Segmentation]:
    """Segmentations, with what stands in for the network."""
    out = []
    for _, found in dispatch.segment_all(stamps, segmenter):
        if isinstance(found, Exception):
            raise found
        out.append(found)
    return out


def unrepaired(stamps: Sequence[Stamp]) -> list[Segmentation]:
    """The network's instances with nothing but their fragments joined."""
    with (
        mock.patch.object(maskrcnn, "repaired", lambda *given: join_fragments(*given[:4])),
        mock.patch.object(dispatch, "why_refused", return_value=""),
    ):
        return segmented(stamps)


def target(fits: Fits, name: str) -> np.ndarray:
    """A parameter of the targets; NaN where there is no fit."""
    return np.array([fit.value_in(f"{fit.names[0].partition('.')[0]}.{name}", 0) for fit in fits])


def spread(values: np.ndarray) -> str:
    """Median and dispersion."""
    low, middle, high = np.nanpercentile(values, [15.87, 50, 84.13])
    return f"{middle:+.3f} ({(high - low) / 2:.3f})"


def companions(number: int) -> Iterator[list[str]]:
    """Rows: set, targets, and without and with companions: usable, re, mag."""
    stamps, truth = BLENDS(number)
    share = truth["blend_fraction"]
    bins = {
        "blends, others under 5 % of the light": share < 0.05,
        "blends, 5-20 %": (share >= 0.05) & (share < 0.2),
        "blends, over 20 %": share >= 0.2,
    }
    yield from _compared(bins, stamps, truth)
    for name, make in SATELLITES.items():
        stamps, truth = make(max(8, number // 12))
        yield from _compared({name: np.ones(len(truth), bool)}, stamps, truth)


def _compared(
    bins: dict[str, np.ndarray], stamps: list[Stamp], truth: np.ndarray
) -> Iterator[list[str]]:
    found = segmented(stamps)
    starts = initialise(stamps, found)
    cells: dict[str, list[str]] = {name: [str(rows.sum())] for name, rows in bins.items()}
    for settings in (RefineSettings(companions=0), RefineSettings()):
        fits = refine(stamps, None, starts, found, settings)
        use = usable(fits.flags)
        with np.errstate(all="ignore"):
            re = target(fits, "re") / truth["re"] - 1
            mag = -2.5 * np.log10(target(fits, "flux") / truth["flux"])
        added = np.array([sum(item.label < 0 for item in fit.around) for fit in fits])
        for name, rows in bins.items():
            good = rows & use
            cells[name] += [str(good.sum()), spread(re[good]), spread(mag[good])]
            if settings.companions:
                cells[name].append(str(added[rows].sum()))
    yield from ([name, *texts] for name, texts in cells.items())


def structured(number: int) -> Iterator[list[str]]:
    """Rows: galaxies with arms and knots, and how many of them get a companion that is none."""
    stamps, _ = REALISTIC(number)
    objects = np.array([_false_companions(stamp) for stamp in stamps])
    yield [str(number), f"{100 * np.mean(objects > 0):.1f} %"]


def _false_companions(stamp: Stamp) -> int:
    """Companions at whose place no other source is the brightest."""
    labels = np.asarray(stamp.labels)
    count = 0
    (fit,) = refine([stamp], segmentations=segmented([stamp]))
    for k, item in enumerate(fit.around, start=1):
        if item.label < 0:
            x, y = (fit.value_in(f"neighbour_{k}.{axis}", 0) for axis in "xy")
            row, column = round(y), round(x)
            window = labels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            count += not np.any(window > 1)
    return count


def ruined(number: int) -> Iterator[list[str]]:
    """Rows: set, and the share of ruined fits by true masks, instances as they come, repaired."""
    for name, make in RUINED.items():
        stamps, truth = make(number)
        cells = []
        for found in (
            segmented(stamps, "given") if stamps[0].labels is not None else None,
            unrepaired(stamps),
            segmented(stamps),
        ):
            if found is None:
                cells.append("")
                continue
            fits = refine(stamps, segmentations=found)
            off = ~(np.abs(target(fits, "re") / truth["re"] - 1) <= 0.3)
            inside = [has_peak(*pair) for pair in zip(stamps, found, strict=True)]
            cells.append(f"{100 * off.mean():.0f} % ({100 * np.mean(inside):.0f} %)")
        yield [name, str(number), *cells]


def has_peak(stamp: Stamp, found: Segmentation) -> bool:
    """Whether the target's label has the brightest pixel within two FWHM of where it should be."""
    v, h = np.ogrid[: stamp.shape[0], : stamp.shape[1]]
    x, y = stamp.position
    near = (np.hypot(h - x, v - y) <= 2 * psf_fwhm(stamp.psf)) & ~stamp.mask
    top = np.where(near, stamp.data, -np.inf).argmax()
    return bool(found.target and found.labels.flat[top] == found.target)


def real_stamps(name: str) -> list[Stamp]:
    """Stamps of one of the real data sets."""
    stamps = []
    for source in discover(sorted((DATA / name).glob("*.fits.gz")), mode="stamp").sources:
        try:
            item = read_source(source).item
        except ValueError:  # no PSF
            continue
        if isinstance(item, Stamp) and max(item.shape) <= LARGEST_SIDE:
            stamps.append(item)
    return stamps


def targets(_: int) -> Iterator[list[str]]:
    """Rows: data set, stamps, and how many labels have the peak: as they come, repaired."""
    for name in REAL:
        stamps = real_stamps(name)
        cells = []
        for found in (unrepaired(stamps), segmented(stamps)):
            cells.append(str(sum(has_peak(*pair) for pair in zip(stamps, found, strict=True))))
        yield [name, str(len(stamps)), *cells]


def left(stamp: Stamp, fit: SceneFit) -> np.ndarray:
    """Residual over its noise, (ny, nx)."""
    assert fit.components is not None
    return (stamp.data - sum(fit.components[0].values())) / stamp.sigma


def labels(_: int) -> Iterator[list[str]]:
    """Rows: data set, stamps, and fits with the network's labels beside those with sep's.

    chi2 is that of the pixels which both leave in, over chi2 a pixel where that is above 1; its
    excess in sigma is the square root.
    """
    for name in REAL:
        stamps = real_stamps(name)
        found = [segmented(stamps), segmented(stamps, "sep")]
        fits = [refine(stamps, segmentations=one, components=True) for one in found]
        worse, moved = [], []
        for k, stamp in enumerate(stamps):
            pair, seen = [one[k] for one in fits], [one[k] for one in found]
            if not all(usable(fit.flags) for fit in pair):
                continue
            kept = ~(stamp.mask | seen[0].contaminants | seen[1].contaminants)
            chi2 = [float((left(stamp, fit)[kept] ** 2).sum()) for fit in pair]
            per_pixel = max(1.0, min(chi2) / kept.sum())
            excess = (chi2[0] - chi2[1]) / per_pixel
            worse.append(np.sign(excess) * np.sqrt(abs(excess)))
            moved.append(
                abs(pair[0].flux_total[0] - pair[1].flux_total[0])
                / np.hypot(pair[0].flux_total_err[0], pair[1].flux_total_err[0])
            )
        yield [
            name, str(len(stamps)), str(len(worse)),
            f"{max(worse, default=np.nan):+.1f}", str(sum(x > 3 for x in worse)),
            f"{np.median(moved):.2f} / {max(moved, default=np.nan):.1f}",
        ]  # fmt: skip


SECTIONS = {
    "companions": Section(
        companions,
        [
            *("set", "targets", "usable", "re", "mag"),
            *("usable, with companions", "re", "mag", "companions"),
        ],
        120, "accuracy.md",
    ),
    "structured": Section(structured, ["galaxies", "with a false companion"], 120, "accuracy.md"),
    "ruined": Section(
        ruined, ["set", "stamps", "true masks", "as they come", "repaired"], 100, "segmentation.md"
    ),
    "targets": Section(
        targets, ["data set", "stamps", "as they come", "repaired"], 1, "segmentation.md"
    ),
    "labels": Section(
        labels,
        [
            *("data set", "stamps", "usable with both", "chi2, worst, σ"),
            *("worse by over 3 σ", "flux: median / largest, errors"),
        ],
        1, "segmentation.md",
    ),
}  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run_sections(__doc__ or "", SECTIONS)
