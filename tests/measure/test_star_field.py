"""PSFs that vary over a frame, from its stars: size and ellipticity against the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autofit_ml.catalogue.flags import Flag
from autofit_ml.images import Frame, ReadOptions, cut_stamps, discover, read_source, with_star_psf
from autofit_ml.images.stamp import VaryingPSF
from autofit_ml.measure import adaptive_moments, fit_star_field, star_candidates

galsim = pytest.importorskip("galsim", reason="GalSim draws the stars")

SIDE = 700


def true_psf(x, y, amount):
    """Moffat profile; sizes vary by 15 %, ellipticities by 0.05, as squares of the position."""
    u, v = 2 * x / SIDE - 1, 2 * y / SIDE - 1
    width = 3.2 * (1 + amount * (0.05 * u - 0.03 * v + 0.02 * (u * u + v * v)))
    g1, g2 = 0.005 + amount * (0.02 * u + 0.01 * u * v), amount * (0.02 * v - 0.01 * u * u)
    return galsim.Moffat(beta=3.0, fwhm=width).shear(g1=g1, g2=g2)


def drawn(profile, side, dx=0.0, dy=0.0):
    image = galsim.Image(side, side, scale=1.0, dtype=float)
    return profile.drawImage(image, offset=(dx, dy)).array


def simulated(seed, stars=110, galaxies=30, amount=1.0, brightest=1e6):
    """A frame of stars of S/N 300 to 1400, and galaxies, a third of them as small as the seeing."""
    rng = np.random.default_rng(seed)
    light = np.zeros((SIDE, SIDE))
    for k in range(stars + galaxies):
        x, y = rng.uniform(8, SIDE - 9, 2)
        flux = np.exp(rng.uniform(np.log(brightest / 20), np.log(brightest)))
        profile = true_psf(x, y, amount)
        if k >= stars:
            size = rng.uniform(1.5, 6.0)
            galaxy = galsim.Exponential(half_light_radius=size).shear(g1=rng.uniform(-0.3, 0.3))
            profile = galsim.Convolve(galaxy, profile)
        half, column, row = 32, round(x), round(y)
        image = flux * drawn(profile, 2 * half + 1, x - column, y - row)
        y0, y1, x0, x1 = (
            max(0, row - half),
            row + half + 1,
            max(0, column - half),
            column + half + 1,
        )
        part = light[y0:y1, x0:x1]
        part += image[y0 - row + half :, x0 - column + half :][: part.shape[0], : part.shape[1]]
    sigma = np.sqrt(9.0 + np.maximum(light, 0) / 2)
    data = light + rng.normal(size=light.shape) * sigma + 20.0
    none = np.zeros(light.shape, bool)
    return Frame("f", data.astype(np.float32), sigma.astype(np.float32), none)


def shape_of(image):
    """ln size and the components of (a - b) / (a + b) of the matched Gaussian."""
    middle = (image.shape[0] - 1) / 2
    found = adaptive_moments(
        image.astype(float), middle, middle, 3.0, tolerance=1e-6, max_iterations=200
    )
    total = found.xx + found.yy
    e = np.array([found.xx - found.yy, 2 * found.xy]) / total
    return np.array([0.5 * np.log(total), *(e / (1 + np.sqrt(1 - np.sum(e**2))))])


PLACES = [values.ravel() for values in np.meshgrid(*[np.linspace(25.0, SIDE - 26, 6)] * 2)]


def off_truth(frame, amount=1.0):
    """ln size and ellipticity less the true ones, shape (36, 3)."""
    images = frame.psfs_at(*PLACES)
    side = images.shape[1]
    places = zip(*PLACES, strict=True)
    true = [shape_of(drawn(true_psf(x, y, amount), side)) for x, y in places]
    return np.array([shape_of(image) for image in images]) - true


@pytest.fixture(scope="module")
def frame():
    return simulated(1)


@pytest.fixture(scope="module")
def with_modes(frame):
    return with_star_psf(frame, "pixels")


def test_ellipticity_and_size_over_the_frame(frame):
    """Within 1e-3 and 0.5 % (root mean square); one PSF for all is ten times worse."""
    built = with_star_psf(frame)
    rms = np.sqrt(np.mean(off_truth(built) ** 2, axis=0))
    assert rms[0] < 0.005
    assert rms[1:].max() < 1e-3
    assert built.flags & Flag.PSF_ESTIMATED
    assert any("over the frame (degree 2)" in text for text in built.messages)
    one = with_star_psf(frame, "stack")
    assert one.varying_psf is None
    assert np.sqrt(np.mean(off_truth(one) ** 2, axis=0)).min() > 8e-3
    np.testing.assert_allclose(built.psfs_at(*PLACES).sum((1, 2)), 1.0, atol=1e-5)


def test_each_stamp_has_the_psf_of_its_place(frame):
    built = with_star_psf(frame)
    stamps = list(cut_stamps(built, [{"x": 60.0, "y": 80.0}, {"x": 640.0, "y": 600.0}]))
    shapes = np.array([shape_of(stamp.psf.data) for stamp in stamps])
    truth = [
        shape_of(drawn(true_psf(x, y, 1.0), built.psf.data.shape[0]))
        for x, y in ((60, 80), (640, 600))
    ]
    np.testing.assert_allclose(shapes, truth, atol=0.006)
    assert abs(shapes[0] - shapes[1]).max() > 0.03


def test_stars_that_do_not_vary():
    """A variation is claimed in none of these frames, however few or many the stars."""
    for seed, stars in ((1, 13), (2, 13), (3, 26), (4, 26), (5, 60)):
        frame = simulated(seed, stars, 5, amount=0.0)
        candidates = star_candidates(frame.data, frame.sigma, frame.mask)
        assert fit_star_field(candidates) is None


def test_few_stars_have_one_psf(frame):
    """Eight stars of a PSF that varies: said, and as before."""
    few = simulated(7, 8, 0)
    built = with_star_psf(few)
    assert built.varying_psf is None
    assert any("the same everywhere" in text for text in built.messages)
    np.testing.assert_array_equal(built.psf.data, with_star_psf(few, "stack").psf.data)


def test_the_modes_tell_how_uncertain_it_is(with_modes):
    """Size and ellipticity of the PSF are off by what the modes make of them, within a factor."""
    changes = []
    for x, y in zip(*PLACES, strict=True):
        psf = with_modes.psf_at(x, y)
        assert psf.modes is not None
        assert psf.modes.shape == (6, *psf.data.shape)
        np.testing.assert_allclose(psf.modes.sum((1, 2)), 0.0, atol=1e-5)
        here = shape_of(psf.data)
        changes.append([shape_of(psf.data + mode) - here for mode in psf.modes])
    expected = np.sqrt(np.sum(np.square(changes), axis=1))
    off = off_truth(with_modes)
    assert 0.5 < np.sqrt(np.mean((off / expected) ** 2)) < 2.5


def test_beyond_the_stars_the_psf_stays(frame):
    """Extrapolation ends a tenth of the stars' region beyond it."""
    model = with_star_psf(frame).varying_psf.model
    half = dataclasses.replace(model, region=(0.0, SIDE / 2, 0.0, SIDE))
    far, near = half(np.array([690.0, 0.55 * SIDE]), np.array([300.0, 300.0]))
    np.testing.assert_array_equal(far, near)


def test_read_from_a_file(frame, tmp_path):
    """The default of a frame without a PSF; `stack` and a PSF of one's own prevail."""
    from astropy.io import fits

    fits.writeto(tmp_path / "f.fits", frame.data)
    fits.writeto(tmp_path / "f_sigma.fits", frame.sigma)
    source = discover(tmp_path / "f.fits")[0]
    read = read_source(source).frame
    assert isinstance(read.varying_psf, VaryingPSF)
    assert read_source(source, ReadOptions(psf="stack")).frame.varying_psf is None
    assert read_source(source, ReadOptions(psf="moffat")).frame.varying_psf is None
    pixels = read_source(source, ReadOptions(psf="pixels")).frame
    stamp = next(iter(cut_stamps(pixels, [{"x": 300.0, "y": 300.0}])))
    assert stamp.psf.modes is not None
    assert len(stamp.psf.modes) == 6
