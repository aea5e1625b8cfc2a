"""Light curves: scene photometry beside differences, and galaxies in epochs on other grids.

    python benchmarks/light_curves.py [scenes] [grids] [-n NUMBER] [--docs]

`scenes`: fields of 150 x 150 pixels with 30 stars and a galaxy of three Gaussians (no Sérsic
profile) in which a source of 3000, 2000, 1000 and 400 flares up; six epochs, seeing 3 to 4 pixels,
sky noise 10. `grids`: one Sérsic profile fitted to four epochs together, on one grid and on four.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from astropy.wcs import WCS
from documents import Section, run_sections

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "difference"))

from epochs_of_sky import grid
from sky_pairs import stars

import autofit_ml as afm
from autofit_ml.difference import light_curve_of, measure_epoch
from autofit_ml.difference.epochs import places
from autofit_ml.images.stamp import PSF, Frame, Stamp
from autofit_ml.settings import LightCurveOptions

FLUXES = np.array([0.0, 0.0, 3000.0, 2000.0, 1000.0, 400.0])
CASES = {
    "exact PSF": {},
    "PSF 2 % too wide or narrow": {"wrong": 0.02},
    "host 10 x brighter, PSF 1 % wrong": {"wrong": 0.01, "host": 2.5e5},
    "one epoch without the source": {"wrong": 0.01, "absent": ":58000.5"},
    "undersampled (FWHM 1.5 to 2)": {"seeing": (1.5, 2.0), "oversampling": 3},
}
SIZE, PLACE, GALAXY = 150, (73.4, 77.2), (70.0, 75.0)


def psf_of(fwhm: float, oversampling: int) -> PSF:
    half = 12 * oversampling
    image = stars([(half, half)], [1.0], fwhm * oversampling, (2 * half + 1,) * 2)
    return PSF((image / image.sum()).astype("f4"), oversampling=oversampling)


def epochs(
    seed: int,
    *,
    wrong: float = 0.0,
    host: float = 25000.0,
    seeing: tuple[float, float] = (3.0, 4.0),
    oversampling: int = 1,
) -> list[Frame]:
    rng = np.random.default_rng(seed)
    spots, bright = rng.uniform(12, SIZE - 12, (30, 2)), 10 ** rng.uniform(3.3, 4.8, 30)
    keep = np.hypot(*(spots - PLACE).T) > 18
    out = []
    for e, flux in enumerate(FLUXES):
        seen = rng.uniform(*seeing) if e else seeing[0]
        believed = seen * (1 + wrong * rng.choice([-1, 1]))
        light = stars(spots[keep], bright[keep], seen, (SIZE, SIZE))
        light += stars([PLACE], [flux], seen, (SIZE, SIZE))
        for width, share in ((5.0, 0.4), (9.0, 0.35), (14.0, 0.25)):
            light += stars([GALAXY], [share * host], np.hypot(seen, width), (SIZE, SIZE))
        variance = 100 + light
        data = light + rng.normal(size=light.shape) * np.sqrt(variance)
        planes = (data.astype("f4"), np.sqrt(variance).astype("f4"), np.zeros(data.shape, bool))
        out.append(Frame(f"e{e}", *planes, psf=psf_of(believed, oversampling)))
    return out


def scenes(number: int) -> Iterator[Sequence[str]]:
    """Rms and pulls of both methods in each case."""
    for name, case in CASES.items():
        case = dict(case)
        absent = case.pop("absent", ":58001.5")
        settings = LightCurveOptions(method="both", kernel_size=9, absent=absent)
        off: dict[str, list] = {"difference": [], "scene": []}
        pulls: dict[str, list] = {"difference": [], "scene": []}
        for seed in range(number):
            frames = epochs(seed, **case)
            at = places([PLACE], frames[0])
            measured = [
                measure_epoch(frame, frames[0], at, settings, time=58000.0 + e)
                for e, frame in enumerate(frames)
            ]
            curve = light_curve_of(measured, 0, "a", settings)
            for method in off:
                rows = curve.rows(method)[-4:]
                error = np.asarray(rows["flux"]) - FLUXES[2:]
                off[method].append(error)
                pulls[method].append(error / np.asarray(rows["flux_err"]))
        cells = [name]
        for method in ("scene", "difference"):
            some = np.array(pulls[method])
            cells += [
                f"{np.sqrt(np.mean(np.square(off[method]))):.0f}",
                f"{some.mean():+.2f} / {some.std():.2f}",
            ]
        yield cells


def galaxies(number: int, turned: bool) -> list:
    """Objects with four epochs each."""
    out = []
    for seed in range(number):
        rng = np.random.default_rng(seed)
        wcs: list[WCS] = [grid(0, 31.5, 31.5)]
        for _ in range(3):
            angle, scale = (rng.uniform(0, 360), rng.uniform(0.18, 0.24)) if turned else (0, 0.2)
            wcs.append(grid(angle, 31.5, 31.5, scale))
        stamps = []
        for w in wcs:
            side = np.sqrt(abs(np.linalg.det(w.pixel_scale_matrix))) * 3600
            light = np.zeros((64, 64))
            for width, share in ((4.0, 0.5), (9.0, 0.5)):
                seen = np.hypot(3.0, width * 0.2 / side)
                light += stars([(31.5, 31.5)], [share * 20000], seen, (64, 64))
            data = light + rng.normal(size=light.shape) * 10
            planes = data.astype("f4"), np.full((64, 64), 10, "f4"), np.zeros((64, 64), bool)
            psf = psf_of(3.0, 1)
            stamps.append(Stamp(f"g{seed}", *planes, psf, wcs=w, pixel_scale=side))
        out.append(afm.join_images(stamps, afm.segment(stamps[0], "sep")))
    return out


def grids(number: int) -> Iterator[Sequence[str]]:
    """Time and fluxes of joint fits on one grid and on others."""
    objects = {name: galaxies(number, name != "one grid") for name in ("one grid", "four grids")}
    seconds: dict[str, list] = {name: [] for name in objects}
    fits = {}
    for _ in range(3):
        for name, some in objects.items():
            began = time.process_time()
            fits[name] = afm.refine(some, bands=("r",) * 4)
            seconds[name].append(time.process_time() - began)
    for name, some in fits.items():
        flux = np.array([one.values[list(one.names).index("sersic.flux")] for one in some])
        shared = min(seconds[name]) / min(seconds["one grid"])
        yield [
            name, f"{1e3 * min(seconds[name]) / number:.0f} ms", f"{shared:.2f}",
            f"{np.mean(flux) / 20000:.4f} ± {np.std(flux) / 20000:.4f}",
        ]  # fmt: skip


SECTIONS = {
    "scenes": Section(
        scenes,
        ("case", "scene: rms", "pulls", "difference: rms", "pulls"),
        12,
        "lightcurves.md",
    ),
    "grids": Section(
        grids, ("epochs", "CPU an object", "ratio", "flux over truth"), 24, "lightcurves.md"
    ),
}


if __name__ == "__main__":
    run_sections(__doc__, SECTIONS)
