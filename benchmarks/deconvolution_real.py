"""Deconvolution of real galaxies: python benchmarks/deconvolution_real.py [SECTION ...] [--docs]

- ``hsc_hst``: a blend seen by HSC (i, seeing 0.6") and by HST (F814W, 0.1"): what the deconvolved
  HSC image looks like beside HST's image through the same target PSF, at one and two output pixels
  per data pixel; Wiener (with HST's own power spectrum), Richardson-Lucy and total variation with
  their best settings, chosen by HST, beside it.
- ``kids_sdss``: five galaxies seen by SDSS (r, 1.2") and KiDS (r, 0.7"): deconvolved SDSS images
  against KiDS's, both seen through a Gaussian a little wider than KiDS's PSF.
- ``cosmos``: HST stamps, faint and with correlated noise; nothing to compare with: residuals,
  warnings, pictures.

The data are found through AUTOFIT_ML_TEST_DATA, else ../shared/data. Pictures: docs/figures.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.stats import mad_std
from deconvolution_baselines import mean_power, richardson_lucy, total_variation, wiener
from documents import DATA, DOCS, markdown_table, write_section
from scipy.ndimage import map_coordinates
from scipy.optimize import least_squares

from autofit_ml.deconvolution import SamplingSettings, Sharp, deconvolve_each
from autofit_ml.deconvolution.operator import observe
from autofit_ml.deconvolution.target import sigma_of
from autofit_ml.images import discover, read_item
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.deconvolve import cut_out, sky_correlation
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.settings import ReadOptions

# ------------------------------------------------------------------ images on one footing


@dataclass(frozen=True)
class Reference:
    """A sharper image of the same sky, at the target's PSF, to be sampled anywhere.

    Attributes
    ----------
    image : ndarray
        Through a Gaussian of the common FWHM; surface brightness per pixel of its own.
    place : callable
        Pixels (x, y) of the other image -> pixels (x, y) of this one.
    """

    image: np.ndarray
    place: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def through_gaussian(stamp: Stamp, fwhm: float) -> np.ndarray:
    """An image as a Gaussian PSF of `fwhm` pixels would have shown it, (ny, nx).

    Where the stamp's own PSF lets through less than a hundredth, nothing is amplified.
    """
    ny, nx = stamp.shape
    pad = math.ceil(2 * fwhm) + 8
    data = np.pad(np.where(stamp.mask, 0.0, stamp.data), pad)
    shape = data.shape
    kernel = np.zeros(shape)
    psf = np.asarray(stamp.psf.data, float)
    my, mx = min(len(psf), shape[0]), min(psf.shape[1], shape[1])
    oy, ox = (len(psf) - my) // 2, (psf.shape[1] - mx) // 2
    kernel[:my, :mx] = psf[oy : oy + my, ox : ox + mx]
    y, x = np.indices(kernel.shape)
    total = kernel.sum()
    cy, cx = (kernel * y).sum() / total, (kernel * x).sum() / total
    ky = 2 * np.pi * np.fft.fftfreq(shape[0])[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(shape[1])[None]
    seen = np.fft.rfft2(kernel / total) * np.exp(1j * (ky * cy + kx * cx))
    wanted = np.exp(-0.5 * sigma_of(fwhm) ** 2 * (ky**2 + kx**2))
    ratio = wanted * seen.conj() / np.maximum(np.abs(seen) ** 2, 1e-4)
    out = np.fft.irfft2(np.fft.rfft2(data) * ratio, s=shape)
    return out[pad : pad + ny, pad : pad + nx]


def gaussian_blur(images: np.ndarray, fwhm: float) -> np.ndarray:
    """Images (..., G, G) through a Gaussian, periodic."""
    if fwhm <= 0:
        return images
    side_y, side_x = images.shape[-2:]
    ky = 2 * np.pi * np.fft.fftfreq(side_y)[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(side_x)[None]
    gain = np.exp(-0.5 * sigma_of(fwhm) ** 2 * (ky**2 + kx**2))
    return np.fft.irfft2(np.fft.rfft2(images) * gain, s=(side_y, side_x))


@dataclass(frozen=True)
class Match:
    """An estimate beside the reference on its own pixels."""

    reference: np.ndarray
    estimate: np.ndarray
    correlation: float
    error: float
    shift: tuple[float, float]
    scale: float


def matched(estimate: np.ndarray, reference: Reference, use: np.ndarray) -> Match:
    """Scale, offset and a shift of up to a pixel or so are free: photometry and WCS are not tested.

    Parameters
    ----------
    estimate : ndarray, (ny, nx)
    reference : Reference
    use : ndarray of bool, (ny, nx)
    """
    y, x = np.indices(estimate.shape, dtype=float)

    def at(shift: np.ndarray) -> np.ndarray:
        rx, ry = reference.place(x + shift[0], y + shift[1])
        return map_coordinates(reference.image, [ry, rx], order=3, mode="constant")

    def model(shift: np.ndarray) -> tuple[np.ndarray, float]:
        seen = at(shift)
        matrix = np.stack([seen[use], np.ones(use.sum())], axis=1)
        (scale, offset), *_ = np.linalg.lstsq(matrix, estimate[use], rcond=None)
        return scale * seen + offset, float(scale)

    found = least_squares(
        lambda shift: (model(shift)[0] - estimate)[use], [0.0, 0.0], diff_step=0.05
    )
    seen, scale = model(found.x)
    correlation = float(np.corrcoef(seen[use], estimate[use])[0, 1])
    error = float(np.sqrt(np.mean((seen - estimate)[use] ** 2) / np.mean(seen[use] ** 2)))
    return Match(seen, estimate, correlation, error, (found.x[0], found.x[1]), scale)


def _by_wcs(one: Any, other: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return other.world_to_pixel(one.pixel_to_world(x, y))


def _by_scale(
    ratio: float, start: Sequence[float], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return start[0] + ratio * x, start[1] + ratio * y


def profile(image: np.ndarray, x: float, y: float, edges: np.ndarray) -> np.ndarray:
    """Azimuthal means in rings."""
    rows, columns = np.indices(image.shape)
    radius = np.hypot(columns - x, rows - y)
    return np.array(
        [image[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    )


def sharpened(stamp: Stamp, weights: str, **changes: Any) -> Sharp:
    """One stamp; an error is an error here."""
    settings = SamplingSettings(weights=weights, precision="bfloat16", **changes)
    ((_, found),) = deconvolve_each([stamp], settings)
    if isinstance(found, Exception):
        raise found
    return found


PSF_ERRORS = (0.02, 0.05)
"""Relative errors of the PSFs' width and ellipticity that are tried beside none."""


# ------------------------------------------------------------------ HSC and HST


def hsc_hst(weights: str, samples: int) -> str:
    """The blend `pair1`."""
    folder = DATA / "scarlet_hsc_hst"
    hsc = _read(folder / "pair1_hsc-i_image.fits.gz")
    hst = _read(folder / "pair1_hst-F814W_image.fits.gz")
    hsc = hsc.replace(noise_correlation=sky_correlation(hsc, _segmented(hsc)))
    rows, panels, rings = [], [], []
    for oversampling in (1, 2):
        fwhm = 2 * hsc.pixel_scale / oversampling  # arcsec
        image = through_gaussian(hst, fwhm / hst.pixel_scale)
        sharp = sharpened(hsc, weights, samples=samples, oversampling=oversampling)

        reference = Reference(image, partial(_by_wcs, sharp.wcs, hst.wcs))
        smooth = gaussian_blur(sharp.mean, 4)
        use = smooth > 0.03 * smooth.max()
        estimates = {"posterior mean": sharp.mean, "one sample": sharp.samples[0]}
        if oversampling == 1:
            estimates["data"] = sharp.data
            truth = matched(sharp.mean, reference, use).reference
            estimates |= _baselines(hsc, truth, reference, use)
        for name, estimate in estimates.items():
            one = matched(np.asarray(estimate, float), reference, use)
            rows.append(
                [
                    f'{fwhm:.2f}", {name}',
                    f"{one.correlation:.4f}",
                    f"{100 * one.error:.1f} %",
                    f"{hsc.pixel_scale / oversampling * math.hypot(*one.shift):.3f}",
                ]
            )
            if name in ("posterior mean", "data", "Wiener", "Richardson-Lucy"):
                panels.append((f'{name}, {fwhm:.2f}"', one.estimate))
                row, column = np.unravel_index(np.argmax(smooth), smooth.shape)
                edges = np.arange(0, 1.61, 0.2) / (hsc.pixel_scale / oversampling)
                ratio = profile(one.estimate, column, row, edges) / profile(
                    one.reference, column, row, edges
                )
                rings.append([f'{fwhm:.2f}", {name}', *(f"{value:.2f}" for value in ratio)])
            if name == "posterior mean":
                panels.append((f'HST at {fwhm:.2f}"', one.reference))
                covered = _coverage(sharp, one, use)
        inside = f'{fwhm:.2f}", pixels of HST within 1 σ / 2 σ of the samples'
        rows.append([inside, covered, "", ""])
        for error in PSF_ERRORS:
            other = sharpened(
                hsc, weights, samples=samples, oversampling=oversampling, psf_error=error
            )
            covered = _coverage(other, matched(other.mean, reference, use), use)
            rows.append([f"the same, PSF known to {100 * error:g} %", covered, "", ""])
    _panels(panels, DOCS / "figures" / "deconvolution_hsc_hst.png", 4)
    header = ["target, image", "correlation with HST", "difference", 'shift, "']
    radii = [f"{k / 5:.1f}-{(k + 1) / 5:.1f}" for k in range(8)]
    return (
        markdown_table(header, rows)
        + "\n\nMean profile of the brighter galaxy over HST's, in rings (arcsec):\n\n"
        + markdown_table(["image", *radii], rings)
    )


def _baselines(
    stamp: Stamp, truth: np.ndarray, reference: Reference, use: np.ndarray
) -> dict[str, np.ndarray]:
    """On the data's pixels, with the settings whose `Match.error` inside `use` is least.

    Wiener has the power spectrum of `truth`, the reference on the same pixels.
    """
    observation = observe([stamp])
    unit, (first, left) = float(observation.noise[0]), observation.corner[0]
    box = (slice(first, first + stamp.shape[0]), slice(left, left + stamp.shape[1]))
    whole = torch.zeros(observation.side, observation.side)
    whole[box] = torch.from_numpy(truth / unit).float()

    def off(image: torch.Tensor) -> float:
        return matched(image[box].double().numpy(), reference, use).error

    found = {
        "Wiener": wiener(observation, mean_power(whole[None])),
        "Richardson-Lucy": richardson_lucy(observation, stamp.psf, off),
        "total variation": total_variation(observation, off),
    }
    return {name: unit * image[box].numpy() for name, image in found.items()}


def _coverage(sharp: Sharp, one: Match, use: np.ndarray) -> str:
    """Share of the reference's pixels between the quantiles of samples with the reference's noise.

    That noise is measured on the sky around the galaxies.
    """
    sky = one.reference[~use & (one.reference != one.reference[0, 0])]
    noise = np.random.default_rng(1).normal(0, mad_std(sky), sharp.samples.shape)
    shares = []
    for low, high in ((0.1587, 0.8413), (0.025, 0.975)):
        bottom, top = np.quantile(sharp.samples + noise, [low, high], axis=0)
        shares.append(np.mean((one.reference > bottom)[use] & (one.reference < top)[use]))
    return f"{100 * shares[0]:.0f} / {100 * shares[1]:.0f} %"


# ------------------------------------------------------------------ KiDS and SDSS


def kids_sdss(weights: str, samples: int) -> str:
    """SDSS r deconvolved, against KiDS r."""
    rows, panels = [], []
    for path in sorted((DATA / "profit_kids_sdss").glob("*_sdss-r_image.fits.gz")):
        name = path.name.split("_")[0]
        sdss, kids = (
            _scaled(_read(path.with_name(f"{name}_{band}_image.fits.gz")))
            for band in ("sdss-r", "kids-r")
        )
        found = [_segmented(stamp) for stamp in (sdss, kids)]
        common = 1.15 * psf_fwhm(kids.psf) * kids.pixel_scale  # arcsec
        cut = cut_out(sdss, found[0], 0, 1)
        cut = cut.replace(noise_correlation=sky_correlation(sdss, found[0]))
        every = [
            sharpened(cut, weights, samples=samples, psf_error=error)
            for error in (0.0, *PSF_ERRORS)
        ]
        sharp = every[0]
        target = sharp.target_fwhm * sdss.pixel_scale
        common = max(common, 1.05 * target)
        more = math.sqrt(common**2 - target**2) / sdss.pixel_scale
        ratio = sdss.pixel_scale / kids.pixel_scale
        clean = kids.replace(
            data=kids.data - np.float32(found[1].sky_level), mask=found[1].contaminants
        )
        image = through_gaussian(clean, common / kids.pixel_scale)
        here, there = _centre(found[0]), _centre(found[1])
        start = [there[k] + ratio * (cut.origin[k] - sdss.origin[k] - here[k]) for k in range(2)]
        reference = Reference(image, partial(_by_scale, ratio, start))
        blurred = gaussian_blur(sharp.samples.astype(float), more)
        mean = blurred.mean(0)
        use = (mean > 0.03 * mean.max()) & ~cut.mask
        one = matched(mean, reference, use)
        before = matched(cut.data.astype(float), reference, use)
        away = []
        for other in every:
            images = gaussian_blur(other.samples.astype(float), more)
            scatter = np.hypot(images.std(0), 0.01 * mean.max())[use]
            off = matched(images.mean(0), reference, use).reference - images.mean(0)
            away.append(np.median(np.abs(off[use] / scatter)))
        row, column = _centre_of(mean)
        edges = np.array([0, 1.2, 2.4, 3.6, 6.0, 9.0])
        ratios = [
            profile(image, column, row, edges)[:2]
            / profile(match.reference, column, row, edges)[:2]
            for image, match in ((mean, one), (cut.data.astype(float), before))
        ]
        rows.append(
            [
                name,
                f'{psf_fwhm(sdss.psf) * sdss.pixel_scale:.2f}" -> {common:.2f}"',
                f"{before.correlation:.4f}",
                f"{one.correlation:.4f}",
                f"{100 * before.error:.1f} %",
                f"{100 * one.error:.1f} %",
                f"{ratios[1][0]:.2f} / {ratios[0][0]:.2f}",
                " / ".join(f"{value:.2f}" for value in away),
            ]
        )
        panels += [
            (f"{name}: SDSS", cut.data),
            ("deconvolved, mean", sharp.mean),
            (f'the same at {common:.2f}"', mean),
            (f'KiDS at {common:.2f}"', one.reference),
        ]
    _panels(panels, DOCS / "figures" / "deconvolution_kids_sdss.png", 4)
    header = [
        "galaxy", "PSF", "correlation, SDSS", "deconvolved", "difference, SDSS", "deconvolved",
        "centre over KiDS: SDSS / deconvolved", "median z, PSF known exactly / to 2 % / to 5 %",
    ]  # fmt: skip
    return markdown_table(header, rows)


def _scaled(stamp: Stamp) -> Stamp:
    """Maggies are of the order of 1e-10; figures and float32 like other numbers."""
    unit = np.float32(1 / np.median(stamp.sigma[~stamp.mask]))
    return stamp.replace(data=stamp.data * unit, sigma=stamp.sigma * unit)


# ------------------------------------------------------------------ COSMOS


def cosmos(weights: str, samples: int) -> str:
    """HST stamps as they are."""
    rows, panels = [], []
    for path in sorted((DATA / "cosmos_hst_btk").glob("cosmos*_image.fits.gz")):
        stamp = _read(path)
        found = _segmented(stamp)
        cut = cut_out(stamp, found, 0, 1)
        cut = cut.replace(noise_correlation=sky_correlation(stamp, found))
        sharp = sharpened(cut, weights, samples=samples)
        light = sharp.samples.sum((1, 2))
        signal = np.sqrt(np.sum((cut.data[~cut.mask] / cut.sigma[~cut.mask]).clip(0) ** 2))
        rows.append(
            [
                path.name.split("_")[0],
                f"{signal:.0f}",
                f"{light.mean():.2f} ± {light.std(ddof=1):.2f}",
                f"{sharp.chi2:.2f}",
                f"{sharp.detail:.2f}",
                f"{sharp.distance:.2f}",
                f"{len(sharp.warnings)}",
            ]
        )
        if len(panels) < 20:
            panels += [
                (path.name.split("_")[0], cut.data),
                ("mean", sharp.mean),
                ("scatter", sharp.std),
                ("one sample", sharp.samples[0]),
            ]
    _panels(panels, DOCS / "figures" / "deconvolution_cosmos.png", 4)
    header = ["stamp", "S/N", "flux", "chi2 a pixel", "DETAIL", "DISTANCE", "warnings"]
    return markdown_table(header, rows)


# ------------------------------------------------------------------ files, pictures


def _read(path: Path) -> Stamp:
    item = read_item(discover(path)[0], ReadOptions(mode="stamp"))
    assert isinstance(item, Stamp)
    return item


def _segmented(stamp: Stamp) -> Segmentation:
    ((_, found),) = segment_all([stamp], "auto", "", "cpu")
    if isinstance(found, Exception):
        raise found
    return found


def _centre(found: Segmentation) -> tuple[float, float]:
    rows, columns = np.nonzero(found.labels == found.target)
    return float(columns.mean()), float(rows.mean())


def _centre_of(image: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(np.argmax(image), image.shape)
    return int(row), int(column)


def _panels(panels: list[tuple[str, np.ndarray]], path: Path, columns: int) -> None:
    """Images in asinh scale, each of its own maximum."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, panels, strict=False):
        image = image - np.nanmedian(np.concatenate([image[[0, -1]].ravel(), image[:, 0]]))
        top = np.nanmax(image)
        axis.imshow(np.arcsinh(image / (0.02 * top)), origin="lower", cmap="gray_r",
                    vmin=-1.0, vmax=np.arcsinh(50))  # fmt: skip
        axis.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.4)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


SECTIONS = {"hsc_hst": hsc_hst, "kids_sdss": kids_sdss, "cosmos": cosmos}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("section", nargs="*", default=list(SECTIONS))
    parser.add_argument("--weights", default="deconvolve/galaxies-any", help="name or folder")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--docs", action="store_true", help="write into docs/deconvolution.md")
    arguments = parser.parse_args()
    if not DATA.exists():
        raise SystemExit(f"no data in {DATA}: set AUTOFIT_ML_TEST_DATA")
    for name in arguments.section:
        text = SECTIONS[name](arguments.weights, arguments.samples)
        print(f"## {name}\n\n{text}\n", flush=True)
        if arguments.docs:
            write_section("deconvolution.md", name, text)


if __name__ == "__main__":
    main()
