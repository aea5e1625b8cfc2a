"""Simulated surveys: they compose, say where they come from, and reach the published depths."""

from __future__ import annotations

import functools
import itertools
import math
from importlib import resources

import numpy as np
import pytest
from scipy.signal import fftconvolve

pytest.importorskip("hydra", reason="presets are Hydra configs")
pytest.importorskip("galsim", reason="PSFs are drawn with galsim")

from autofit_ml.measure import psf_fwhm
from autofit_ml.presets import list_surveys, simulated_surveys
from autofit_ml.simulation.compose import compose_recipe, list_recipes
from autofit_ml.simulation.noise import autocorrelation, observe
from autofit_ml.simulation.psf import draw_psf
from autofit_ml.simulation.survey import Survey

PRESETS = list(simulated_surveys())
WITH_SOURCE = (
    "zeropoint:",
    "depth:",
    "fwhm:",
    "lam_over_diam:",
    "sky_brightness:",
    "gain:",
    "read_noise:",
    "correlation:",
    "saturation:",
)
PUBLISHED_IN_APERTURES = {
    # preset: (5 sigma, aperture diameter in arcsec, corrected to total light); see the presets
    "kids-r": (25.02, 2.0, False),
    "hst-acs-f814w": (27.2, 0.24, True),
    "euclid-vis": (25.6 + 2.5 * math.log10(2), 1.3, False),
    "jwst-f200w": (29.2, 0.2, True),
}


@functools.cache
def survey(name: str) -> Survey:
    return compose_recipe([f"survey={name}"]).survey


def sky_rms(preset: Survey) -> float:
    noise = preset.noise
    sky = 10 ** (-0.4 * (noise.sky_brightness - preset.zeropoint)) * preset.pixel_scale**2
    return math.sqrt(sky * noise.gain + noise.read_noise**2) / noise.gain


@functools.cache
def psfs(name: str) -> list[np.ndarray]:
    """PSFs on image pixels, each of sum 1."""
    preset, images = survey(name), []
    for seed in range(15):
        psf = draw_psf(preset.psf, preset.pixel_scale, np.random.default_rng(seed))
        step, middle = psf.oversampling, psf.data.shape[0] // 2
        image = psf.data[middle % step :: step, middle % step :: step].astype(float)
        images.append(image / image.sum())
    return images


def variance(weights: np.ndarray, correlation: np.ndarray | None) -> float:
    """Of ``sum(weights * noise)`` for noise of unit variance per pixel."""
    if correlation is None:
        return float(np.sum(weights**2))
    product = fftconvolve(weights, weights[::-1, ::-1])
    y, x = (side // 2 for side in product.shape)
    b, a = (side // 2 for side in correlation.shape)
    return float(np.sum(product[y - b : y + b + 1, x - a : x + a + 1] * correlation))


def point_source_depth(name: str) -> float:
    """5 sigma of the PSF-weighted flux ``sum(psf * data) / sum(psf**2)``, correlation included."""
    preset = survey(name)
    correlation = autocorrelation(preset.noise.correlation, (99, 99))
    sigma = [
        sky_rms(preset) * math.sqrt(variance(psf, correlation)) / np.sum(psf**2)
        for psf in psfs(name)
    ]
    return preset.zeropoint - 2.5 * math.log10(5 * float(np.median(sigma)))


def test_hydra_knows_them_all():
    assert {"hsc-i", "sdss-r", "jwst-f200w"} <= set(PRESETS)
    assert list_recipes("survey") == {name: survey(name).title for name in PRESETS}


@pytest.mark.parametrize("name", list_surveys())
def test_every_number_has_its_source(name):
    text = resources.files("autofit_ml.presets").joinpath(f"{name}.yaml").read_text("utf-8")
    lines = text[text.index("simulation:") :].splitlines()
    numbers = 0
    for above, line in itertools.pairwise(lines):
        if line.strip().startswith(WITH_SOURCE):
            # On its line or in the comment above it.
            assert "#" in line or above.strip().startswith("#"), line
            numbers += 1
    assert numbers >= len(WITH_SOURCE) - 3


@pytest.mark.parametrize("name", PRESETS)
def test_composes_and_says_where_it_comes_from(name):
    preset = survey(name)
    assert preset.name == name
    assert preset.title
    assert preset.band.lower() in name
    assert len(preset.references) >= 3
    assert all(item.startswith(("https://", "http://")) for item in preset.references)


@pytest.mark.parametrize("name", PRESETS)
def test_noise_and_psf_reach_the_published_depth(name):
    # 0.35 mag: depths are medians of areas whose seeing, sky and number of exposures differ by as
    # much, and are rounded to 0.1 mag.
    assert point_source_depth(name) == pytest.approx(survey(name).depth, abs=0.35)


@pytest.mark.parametrize("name", sorted(PUBLISHED_IN_APERTURES))
def test_noise_reaches_the_published_depth_in_apertures(name):
    """The published numbers themselves, not the PSF-weighted depths derived from them."""
    preset = survey(name)
    depth, diameter, total = PUBLISHED_IN_APERTURES[name]
    radius = diameter / 2 / preset.pixel_scale
    half = math.ceil(radius) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    aperture = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
    correlation = autocorrelation(preset.noise.correlation, (99, 99))
    sigma = sky_rms(preset) * math.sqrt(variance(aperture, correlation))
    if total:
        inside = []
        for psf in psfs(name):
            c = psf.shape[0] // 2
            inside.append(np.sum(psf[c - half : c + half + 1, c - half : c + half + 1] * aperture))
        sigma /= float(np.median(inside))
    # 0.35 mag: as above.
    assert preset.zeropoint - 2.5 * math.log10(5 * sigma) == pytest.approx(depth, abs=0.35)


@pytest.mark.parametrize("name", PRESETS)
def test_psf_widths(name):
    """Seeing: the median is the geometric middle of the limits, widened by the pixel. Optics: FWHM."""
    preset = survey(name)
    widths = [
        psf_fwhm(draw_psf(preset.psf, preset.pixel_scale, np.random.default_rng(seed)))
        * preset.pixel_scale
        for seed in range(40)
    ]
    if preset.psf.kind == "optical":
        expected = {"hst-acs-f814w": 0.109, "euclid-vis": 0.16, "jwst-f200w": 0.075}[name]
        # 5 %: 24 aberrated PSFs scatter by 2 %.
        assert np.median(widths) == pytest.approx(expected, rel=0.05)
        return
    middle = math.sqrt(preset.psf.fwhm[0] * preset.psf.fwhm[1])
    # A square pixel adds its variance, 1/12 pixel^2, to the core's: FWHM^2 + 8 ln 2 / 12 pixel^2.
    expected = math.hypot(middle, math.sqrt(8 * math.log(2) / 12) * preset.pixel_scale)
    # 40 draws of a scatter below 0.21: the median is good to 1.25 x 0.21 / sqrt(40) = 4 %; 3 sigma.
    assert np.median(widths) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("name", PRESETS)
def test_empty_sky_has_the_noise_and_correlation_of_the_preset(name):
    preset = survey(name)
    noise, shape = preset.noise, (300, 300)
    level = 10 ** (-0.4 * (noise.sky_brightness - preset.zeropoint)) * preset.pixel_scale**2
    correlation = autocorrelation(noise.correlation, shape)
    data, sigma = observe(
        np.zeros(shape),
        level,
        gain=noise.gain,
        read_noise=noise.read_noise,
        rng=np.random.default_rng(1),
        correlation=correlation,
    )
    empty = (data - level) / sky_rms(preset)
    assert sigma == pytest.approx(sky_rms(preset), rel=1e-9)
    # 90000 pixels, at most 4.3 times fewer independent ones: errors of 0.5 % and 0.007; 4 sigma.
    assert empty.std() == pytest.approx(1, rel=0.02)
    lag = 0.0
    if correlation is not None:
        b, a = (side // 2 for side in correlation.shape)
        lag = correlation[b, a + 1]
    assert np.mean(empty[:, 1:] * empty[:, :-1]) == pytest.approx(lag, abs=0.03)
    # Every preset is limited by the sky, and no empty pixel is near saturation.
    assert level * noise.gain > noise.read_noise**2
    assert preset.artefacts.saturation > 5 * (level + 5 * sky_rms(preset))
