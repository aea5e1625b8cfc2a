"""Real images against the survey presets: python benchmarks/sky_comparison.py [--quick]

The same code measures real images and simulated frames of the preset of the same survey and band:
noise of source-free pixels, correlation of adjacent pixels, PSF width, sky brightness where the
header tells, and sources per square arcmin down to a fixed magnitude. Writes a table into
docs/simulation.md (where that has the markers) and docs/figures/sky_comparison.png. The real images
are found through AUTOFIT_ML_TEST_DATA, else ../shared/data.

Bars, for the median of a preset's real images: noise within 0.3 mag of the simulated, lag 1 within
0.1, PSF width inside the simulated range widened by 15 %, sky within 0.35 mag, source density
within a factor of 2 (or 2.5 sigma of the counts). Masks of neighbours do not hold for the counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from documents import DATA, DOCS, markdown_table, write_section
from scipy import ndimage

from autofit_ml.images.stamp import PSF
from autofit_ml.measure import measure_sky, object_mask, psf_fwhm
from autofit_ml.simulation.compose import compose_recipe
from autofit_ml.simulation.generate import simulate_one
from autofit_ml.simulation.psf import draw_psf
from autofit_ml.simulation.survey import Survey

BOX = 15
"""Side of the box whose mean is the local sky, pixels: wings of sources do not count as noise."""
FEWEST = 500
"""Sky pixels for which a noise is measured."""
COUNT_LIMIT = 1.0
"""Sources are counted down to the preset's depth minus this, mag."""
FRAME = 256
"""Side of the simulated frames, pixels."""


@dataclass(frozen=True)
class Image:
    """A real or simulated image; NaN where something is not known.

    Attributes
    ----------
    data, mask : ndarray, shape (ny, nx)
    psf : PSF or None
    pixel_scale, zeropoint : float
    sky : float
        All of the sky per pixel, image units.
    scale : float
        Factor on the noise: to the preset's exposure time.
    target : bool
        A galaxy that the image was cut out for fills its centre: it is not counted.
    countable : bool
        Whether the image shows the sky as it is (no neighbours removed, no blend chosen).
    bad : ndarray or None
        Pixels that hold nothing; `mask` (None: the same) has neighbours of the target too.
    """

    data: np.ndarray
    mask: np.ndarray
    psf: PSF | None
    pixel_scale: float
    zeropoint: float = float("nan")
    sky: float = float("nan")
    scale: float = 1.0
    target: bool = True
    countable: bool = True
    bad: np.ndarray | None = None


@dataclass(frozen=True)
class Sample:
    """Real images of one kind: what they are, and which quantities mean what the preset means."""

    label: str
    load: Callable[[], Iterator[Image]]
    noise: bool = True
    lag: bool = True


@dataclass(frozen=True)
class Measured:
    """Of one image; NaN: unknown.

    Noise in the preset's units and as 1 sigma in 1 arcsec^2 (mag), PSF width in arcsec, `found`
    sources brighter than the limit on `area` square arcmin.
    """

    noise: float
    noise_mag: float
    lag: float
    fwhm: float
    sky: float
    found: float
    area: float


def sky_pixels(data: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(source-free pixels, sky level, noise)."""
    sky = measure_sky(data, mask)
    level, rms = sky.level, sky.rms
    if not np.isfinite(rms) or rms <= 0:
        return np.zeros(data.shape, bool), np.nan, np.nan
    return ~object_mask(data, level, rms, mask, threshold=1.2, grow=1.0) & ~mask, level, rms


def noise_and_lag(data: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Robust noise per sky pixel and mean correlation of pixels adjacent along x and y.

    The mean of the sky pixels in a box of `BOX` pixels is subtracted first, which takes 1 / BOX^2
    of the variance away.
    """
    use, level, _ = sky_pixels(data, mask)
    if use.sum() < FEWEST:
        return np.nan, np.nan
    weight = ndimage.uniform_filter(use.astype(float), BOX, mode="constant")
    local = ndimage.uniform_filter(np.where(use, data - level, 0.0), BOX, mode="constant")
    residual = np.where(use, data - level - local / np.maximum(weight, 1e-9), np.nan)
    noise = 1.4826 * np.nanmedian(np.abs(residual - np.nanmedian(residual)))
    residual[np.abs(residual) > 4 * noise] = np.nan
    products = [
        (residual[:, 1:] * residual[:, :-1]).ravel(),
        (residual[1:] * residual[:-1]).ravel(),
    ]
    return float(noise), float(np.nanmean(np.concatenate(products)) / np.nanmean(residual**2))


def count_sources(image: Image, limit: float) -> tuple[float, float]:
    """Sources brighter than `limit` (isophotal AB mag) and the area searched, square arcmin."""
    bad = image.mask if image.bad is None else image.bad
    use, level, rms = sky_pixels(image.data, image.mask)
    if not (np.isfinite(image.zeropoint) and image.countable and use.any()):
        return np.nan, np.nan
    work = np.ascontiguousarray(np.where(bad, 0.0, image.data - level)) / rms
    sources, labels = sep.extract(work, 1.5, mask=bad, minarea=5, segmentation_map=True)
    ny, nx = work.shape
    keep = np.ones(len(sources), dtype=bool)
    searched = ~bad
    if image.target and len(sources):
        nearest = int(np.argmin(np.hypot(sources["x"] - (nx - 1) / 2, sources["y"] - (ny - 1) / 2)))
        keep[nearest] = False
        # Nothing fainter could be told apart from the target within its isophote, widened.
        own = labels == nearest + 1
        radius = np.sqrt(own.sum() / np.pi)
        searched &= ndimage.distance_transform_edt(~own) > 0.5 * radius
        centres = np.round([sources["y"], sources["x"]]).astype(int)
        keep &= searched[centres[0].clip(0, ny - 1), centres[1].clip(0, nx - 1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = image.zeropoint - 2.5 * np.log10(sources["flux"] * rms)
    area = searched.sum() * (image.pixel_scale / 60) ** 2
    return float((keep & (magnitude < limit)).sum()), float(area)


def measure(image: Image, survey: Survey) -> Measured:
    """Everything of one image, noise in the units of `survey`."""
    noise, lag = noise_and_lag(image.data, image.mask)
    noise *= image.scale
    found, area = count_sources(image, survey.depth - COUNT_LIMIT)
    scale, zeropoint = image.pixel_scale, image.zeropoint
    return Measured(
        noise=noise * 10 ** (0.4 * (survey.zeropoint - zeropoint)),
        noise_mag=zeropoint - 2.5 * np.log10(noise / scale) if noise > 0 else np.nan,
        lag=lag,
        fwhm=np.nan if image.psf is None else psf_fwhm(image.psf) * scale,
        sky=zeropoint - 2.5 * np.log10(image.sky / scale**2) if image.sky > 0 else np.nan,
        found=found,
        area=area,
    )


def read(stem: str, **changes: Any) -> tuple[Image, fits.Header]:
    """Image, mask and PSF of a data set in the shared convention."""
    with fits.open(DATA / f"{stem}_image.fits.gz") as hdus:
        data, header = np.asarray(hdus[0].data, dtype=float), hdus[0].header.copy()
    bad = ~np.isfinite(data)
    path = DATA / f"{stem}_sigma.fits.gz"
    if path.exists():
        bad |= ~(fits.getdata(path) < 1e9)
    path = DATA / f"{stem}_mask.fits.gz"
    mask = bad | (fits.getdata(path) > 0) if path.exists() else bad
    path = DATA / f"{stem}_psf.fits.gz"
    psf = PSF(np.asarray(fits.getdata(path), np.float32)) if path.exists() else None
    image = Image(
        np.where(bad, 0.0, data), mask, psf, header["PIXSCALE"], header.get("ZP", np.nan), bad=bad
    )
    return replace(image, **changes), header


def stems(pattern: str) -> list[str]:
    """Data sets of a pattern, sorted."""
    found = sorted(DATA.glob(f"{pattern}_image.fits.gz"))
    if not found:
        raise SystemExit(f"no images {pattern} in {DATA}; set AUTOFIT_ML_TEST_DATA")
    return [str(path.relative_to(DATA)).removesuffix("_image.fits.gz") for path in found]


def plain(pattern: str, **changes: Any) -> Callable[[], Iterator[Image]]:
    """Images as they are."""
    return lambda: (read(stem, **changes)[0] for stem in stems(pattern))


def pymorph(gain: float) -> Callable[[], Iterator[Image]]:
    """SDSS DR7 images in DN/s without zero point: from their electrons, given e-/nanomaggy."""

    def load() -> Iterator[Image]:
        for stem in stems("pymorph_sdss/*_r"):
            image, header = read(stem)
            zeropoint = 22.5 + 2.5 * np.log10(gain / header["GAIN"])
            yield replace(image, zeropoint=zeropoint, sky=header["SKYLEVEL"])

    return load


def stripe82(band: str) -> Callable[[], Iterator[Image]]:
    """One spot in SDSS Stripe 82: the first frame of each run, resampled to a common grid."""

    def load() -> Iterator[Image]:
        runs = set()
        with fits.open(DATA / f"celeste_stripe82/stamp-{band}-5.0073-0.0739.fits") as hdus:
            for plane, weight in zip(hdus[::2], hdus[1::2], strict=True):
                header = plane.header
                if header["RUN"] in runs:
                    continue
                runs.add(header["RUN"])
                data, mask = np.asarray(plane.data, dtype=float), ~(weight.data > 0)
                sky = header["SKY"] * header["CALIB"]
                psf = _gaussian_mixture([header[f"PSF_P{i}"] for i in range(18)])
                data = np.where(mask, 0.0, data)
                # The same sources in every run: not counted.
                yield Image(data, mask, psf, 0.396, 22.5, sky, countable=False)

    return load


def _gaussian_mixture(values: list[float], size: int = 51) -> PSF:
    """Three Gaussians: amplitudes, means (x, y), covariances (xx, yy, xy), pixels."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.zeros((size, size))
    for k in range(3):
        xx, yy, xy = values[9 + 3 * k : 12 + 3 * k]
        inverse = np.linalg.inv([[xx, xy], [xy, yy]])
        offset = np.stack([x - values[3 + 2 * k], y - values[4 + 2 * k]])
        square = np.einsum("iyx,ij,jyx->yx", offset, inverse, offset)
        image += values[k] * np.sqrt(np.linalg.det(inverse)) * np.exp(-square / 2)
    return PSF((image / image.sum()).astype(np.float32))


def decam(pattern: str, exposure: float, brightness: float) -> Callable[[], Iterator[Image]]:
    """Single exposures in ADU; the noise as of a stack of `exposure` s under a sky of `brightness`.

    The survey exposed longer where the sky was brighter, so time alone would not compare like with
    like; the sky dominates the noise.
    """

    def load() -> Iterator[Image]:
        for stem in stems(pattern):
            image, header = read(stem)
            sky = header.get("SKYMEAS", header["SKYLEVEL"])
            own = image.zeropoint - 2.5 * np.log10(sky / image.pixel_scale**2)
            ratio = header["EXPTIME"] / exposure * 10 ** (0.4 * (own - brightness))
            yield replace(image, sky=sky, scale=float(np.sqrt(ratio)), countable=False)

    return load


EXPOSURE = {"g": 261.0, "r": 201.0, "z": 300.0}
"""Exposure time of the presets legacysurvey-*, s."""
DES_EXPOSURE = 900.0
"""Of the coadd at hand, which lies in the footprint of DES (ten exposures of 90 s; assumed)."""


def samples() -> dict[str, list[Sample]]:
    """Real images by preset."""
    spot = "Stripe 82 (resampled)"
    result = {
        f"sdss-{band}": [Sample(spot, stripe82(band), noise=False, lag=False)] for band in "gri"
    }
    gain = preset("sdss-r").noise.gain
    result["sdss-r"] = [
        Sample("DR7 galaxies, zero point from electrons", pymorph(gain)),
        Sample("frame in bad seeing", plain("misc_fields/sdss1000-1-100_r", target=False)),
        Sample(
            "GAMA (resampled to 0.339 arcsec)",
            plain("profit_kids_sdss/*_sdss-r"),
            noise=False,
            lag=False,
        ),
        *result["sdss-r"],
    ]
    for band, exposure in EXPOSURE.items():
        scale, brightness = np.sqrt(DES_EXPOSURE / exposure), preset(f"legacysurvey-{band}").noise
        coadd = plain(f"pysersic/decals-field_{band}", target=False, scale=scale)
        patterns = {"single exposures": f"legacypipe_decam/testcase*_{band}*"}
        if band == "z":
            patterns["single exposure 520206"] = "misc_fields/decam520206_z"
        result[f"legacysurvey-{band}"] = [
            Sample("coadd in the DES footprint, noise scaled from 900 s", coadd),
            *(
                Sample(
                    f"{label}, noise scaled by time and sky",
                    decam(pattern, exposure, brightness.sky_brightness),
                    lag=False,
                )
                for label, pattern in patterns.items()
            ),
        ]
    result["hsc-i"] = [
        Sample("coadds, band unknown", plain("pysersic/hsc-gal?")),
        Sample("UltraDeep blend", plain("scarlet_hsc_hst/blend35_i", countable=False), noise=False),
    ]
    result["kids-r"] = [Sample("coadds", plain("profit_kids_sdss/*_kids-r"))]
    result["hst-acs-f814w"] = [
        Sample("COSMOS stamps", plain("cosmos_hst_btk/cosmos0*_F814W", countable=False))
    ]
    return result


def preset(name: str) -> Survey:
    """A survey preset."""
    return compose_recipe([f"survey={name}"]).survey


def simulated(survey: Survey, number: int) -> Iterator[Image]:
    """Frames of a preset, with galaxies and stars by their counts."""
    recipe = compose_recipe(
        [
            "data=frame",
            f"survey={survey.name}",
            f"data.shape=[{FRAME},{FRAME}]",
            f"data.neighbours.magnitude=[16,{survey.depth + 0.5:.2f}]",
            f"data.neighbours.faint_magnitude={survey.depth + 2.5:.2f}",
        ]
    )
    for index in range(number):
        item = simulate_one(recipe, index)
        yield Image(
            np.where(item.mask, 0.0, item.data).astype(float),
            item.mask,
            item.psf,
            item.pixel_scale,
            item.zeropoint,
            target=False,
        )


def preset_sky(survey: Survey) -> np.ndarray:
    """5, 50 and 95 % of the sky brightness."""
    return survey.noise.sky_brightness + np.array([-1.645, 0, 1.645]) * survey.noise.scatter


def preset_widths(survey: Survey, number: int = 200) -> np.ndarray:
    """5, 50 and 95 % of the PSF widths, arcsec."""
    rng = np.random.default_rng(1)
    psfs = [draw_psf(survey.psf, survey.pixel_scale, rng) for _ in range(number)]
    widths = [psf_fwhm(psf) * survey.pixel_scale for psf in psfs]
    return np.percentile(widths, [5, 50, 95])


QUANTITIES = {
    "noise_mag": ("noise: 1 sigma in 1 arcsec$^2$", "AB mag"),
    "lag": ("correlation of adjacent pixels", ""),
    "fwhm": ("PSF FWHM with pixel", "arcsec"),
    "sky": ("sky", "AB mag / arcsec$^2$"),
    "density": ("sources above depth - 1 mag", "per arcmin$^2$"),
}


def values(items: list[Measured], name: str) -> np.ndarray:
    """The finite values of a quantity; the density is one of all images together."""
    if name == "density":
        use = [item for item in items if item.area > 0]
        area = sum(item.area for item in use)
        return np.array([sum(item.found for item in use) / area]) if area else np.zeros(0)
    given = np.array([getattr(item, name) for item in items], dtype=float)
    return given[np.isfinite(given)]


def cell(given: np.ndarray, form: str) -> str:
    """Median and range."""
    if not len(given):
        return "-"
    low, middle, high = (
        format(value, form).replace("-0.00", "0.00") for value in np.percentile(given, [0, 50, 100])
    )
    return middle if len(given) == 1 else f"{middle} ({low}..{high})"


def density_cell(items: list[Measured]) -> str:
    """Number, per square arcmin, with its Poisson error."""
    use = [item for item in items if item.area > 0]
    if not use:
        return "-"
    found, area = sum(item.found for item in use), sum(item.area for item in use)
    return f"{found / area:.1f} ± {np.sqrt(max(found, 1)) / area:.1f}"


def limits_cell(limits: np.ndarray) -> str:
    """A preset's 50 % (5 to 95 %)."""
    low, middle, high = limits
    return f"{middle:.2f} ({low:.2f}..{high:.2f})"


def row(name: str, label: str, items: list[Measured], survey: Survey | None = None) -> list[str]:
    """One line of the table; with a survey, that of its simulated frames."""
    return [
        name,
        label,
        str(len(items)),
        cell(values(items, "noise"), ".3g"),
        cell(values(items, "noise_mag"), ".2f"),
        cell(values(items, "lag"), ".2f"),
        limits_cell(preset_widths(survey)) if survey else cell(values(items, "fwhm"), ".2f"),
        limits_cell(preset_sky(survey)) if survey else cell(values(items, "sky"), ".2f"),
        density_cell(items),
    ]


def misses(
    survey: Survey, drawn: list[Measured], real: list[tuple[Sample, list[Measured]]]
) -> list[str]:
    """The bars that this preset misses."""
    missed = []
    for name in QUANTITIES:
        chosen = [
            item
            for sample, items in real
            if not (name == "noise_mag" and not sample.noise)
            and not (name == "lag" and not sample.lag)
            for item in items
        ]
        given, expected = values(chosen, name), values(drawn, name)
        if name in ("sky", "fwhm"):
            expected = preset_sky(survey) if name == "sky" else preset_widths(survey)
        if not (len(given) and len(expected)):
            continue
        found, middle = float(np.median(given)), float(np.median(expected))
        if name == "fwhm":
            good = expected.min() / 1.15 <= found <= expected.max() * 1.15
        elif name == "density":
            areas = [sum(x.area for x in items if x.area > 0) for items in (chosen, drawn)]
            error = np.sqrt(sum(max(middle, 1 / area) / area for area in areas))
            good = 0.5 <= found / middle <= 2 or abs(found - middle) < 2.5 * error
        else:
            good = abs(found - middle) <= {"noise_mag": 0.3, "lag": 0.1, "sky": 0.35}[name]
        if not good:
            missed.append(f"{survey.name}: {name} {found:.3g}, simulated {middle:.3g}")
    return missed


def figure(
    surveys: list[Survey],
    drawn: list[list[Measured]],
    real: list[list[tuple[Sample, list[Measured]]]],
    path: Path,
) -> None:
    """One panel a quantity: bars are the presets, points real images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 12})
    panels, axes = plt.subplots(len(QUANTITIES), 1, figsize=(11, 15), sharex=True)
    for axis, (name, (title, unit)) in zip(axes, QUANTITIES.items(), strict=True):
        for x, (survey, simulated_ones, samples_of) in enumerate(
            zip(surveys, drawn, real, strict=True)
        ):
            given = values(simulated_ones, name)
            if name in ("sky", "fwhm"):
                given = preset_sky(survey) if name == "sky" else preset_widths(survey)
            if len(given):
                low, high = given.min(), given.max()
                if name == "density":
                    area = sum(item.area for item in simulated_ones if item.area > 0)
                    spread = np.sqrt(max(given[0] * area, 1)) / area
                    low, high = given[0] - spread, given[0] + spread
                low, high = _visible(axis, low, high, name)
                axis.bar(x, high - low, 0.7, bottom=low, color="#9ecae1", edgecolor="#4292c6")
            for sample, items in samples_of:
                points = values(items, name)
                if not len(points):
                    continue
                fair = {"noise_mag": sample.noise, "lag": sample.lag}.get(name, True)
                place = x + np.linspace(-0.22, 0.22, len(points)) if len(points) > 1 else [x]
                colour = "#d94801" if fair else "none"
                error = None
                if name == "density":
                    area = sum(item.area for item in items if item.area > 0)
                    error = np.sqrt(np.maximum(points * area, 1)) / area
                axis.errorbar(
                    place, points, error, fmt="o", ms=7, mfc=colour, mec="#d94801", ecolor="#d94801"
                )
        axis.set_title(title, loc="left", fontsize=13)
        axis.set_ylabel(unit)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    axes[2].set_yscale("log")
    axes[2].set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    axes[2].set_ylim(0.08, 3)
    axes[2].minorticks_off()
    axes[4].set_yscale("log")
    axes[-1].set_xticks(range(len(surveys)), [survey.name for survey in surveys], rotation=30)
    for label in axes[-1].get_xticklabels():
        label.set_horizontalalignment("right")
    panels.suptitle(
        "Bars: presets (simulated frames; PSF and sky: 5 to 95 %).  "
        "Points: real images (open: other resampling than the preset)",
        fontsize=12,
    )
    panels.tight_layout(rect=(0, 0, 1, 0.99))
    panels.savefig(path, dpi=110)
    plt.close(panels)


def _visible(axis: Any, low: float, high: float, name: str) -> tuple[float, float]:
    """A bar of some thickness even where the simulated images agree exactly."""
    least = {"noise_mag": 0.04, "lag": 0.01, "sky": 0.04}.get(name, 0.0)
    extra = max(least - (high - low), 0) / 2
    return low - extra, high + extra


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=8, help="simulated frames per preset")
    parser.add_argument("--quick", action="store_true", help="2 frames; documents untouched")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no real images at {DATA}; set AUTOFIT_ML_TEST_DATA")
    number = 2 if arguments.quick else arguments.n
    rows, missed, surveys, drawn, real = [], [], [], [], []
    for name, kinds in samples().items():
        survey = preset(name)
        ours = [measure(image, survey) for image in simulated(survey, number)]
        theirs = [(kind, [measure(image, survey) for image in kind.load()]) for kind in kinds]
        rows.append(row(name, "**simulated**", ours, survey))
        rows += [row("", kind.label, items) for kind, items in theirs]
        missed += misses(survey, ours, theirs)
        surveys.append(survey)
        drawn.append(ours)
        real.append(theirs)
        print(f"{name}: done", flush=True)
    header = (
        "preset",
        "images",
        "N",
        "noise per pixel",
        "1 sigma in 1 arcsec², mag",
        "lag 1",
        "PSF FWHM, arcsec",
        "sky, mag/arcsec²",
        "sources per arcmin²",
    )
    text = markdown_table(header, rows)
    print(text)
    print("\n".join(f"MISSED {item}" for item in missed) or "every bar is met")
    if not arguments.quick:
        figure(surveys, drawn, real, DOCS / "figures" / "sky_comparison.png")
        if (DOCS / "simulation.md").exists():
            write_section("simulation.md", "sky", text)
        else:
            print(f"{DOCS / 'simulation.md'} does not exist: the table is printed only")
    raise SystemExit(int(bool(missed)))


if __name__ == "__main__":
    main()
