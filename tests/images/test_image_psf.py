"""PSFs: analytic values, centring of every kind of array, stars of simulated and real frames."""

from __future__ import annotations

import numpy as np
import pytest
from fits_builders import gaussian
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from scipy import integrate

from autofit_ml.errors import InputError
from autofit_ml.images import (
    Frame,
    ReadOptions,
    centre_psf,
    discover,
    gaussian_psf,
    moffat_psf,
    no_psf,
    psf_from_stars,
    read_frame,
)
from autofit_ml.images.psf import crop_psf
from autofit_ml.measure import core_centroid, fourier_shift


def centroid(image):
    x, y, _ = core_centroid(np.asarray(image, float))
    return x - (image.shape[1] - 1) / 2, y - (image.shape[0] - 1) / 2


@pytest.mark.parametrize("fwhm", [0.8, 1.5, 3.0, 7.3])
def test_moffat_pixel_values(fwhm):
    """Pixel integrals agree with adaptive quadrature to 1e-6 of the peak."""
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / 3) - 1))
    psf = moffat_psf(fwhm)
    half = psf.data.shape[0] // 2

    def profile(y, x):
        return (1 + (x**2 + y**2) / alpha**2) ** -3.0 * 2 / (np.pi * alpha**2)

    values = {}
    for dy, dx in [(0, 0), (1, 0), (2, 3), (0, half)]:
        values[dy, dx] = integrate.dblquad(profile, dx - 0.5, dx + 0.5, dy - 0.5, dy + 0.5)[0]
    total = sum(psf.data[half + dy, half + dx] for dy, dx in [(0, 0)])
    assert total == pytest.approx(values[0, 0], rel=3e-3)  # the wings cut off hold 0.1 %
    for (dy, dx), value in values.items():
        ratio = psf.data[half + dy, half + dx] / psf.data[half, half]
        assert ratio == pytest.approx(value / values[0, 0], abs=2e-6)
    assert psf.data.sum() == pytest.approx(1, abs=1e-6)
    assert psf.has_pixel
    assert psf.source == "analytic"


def test_gaussian_width():
    """Variance of a pixel-integrated Gaussian: sigma^2 + 1/12."""
    psf = gaussian_psf(4.0, half_size=20)
    grid = np.arange(-20, 21)
    variance = (psf.data.sum(axis=0) * grid**2).sum()
    assert variance == pytest.approx((4 / 2.35482) ** 2 + 1 / 12, rel=1e-4)


def test_no_psf():
    assert no_psf().data.shape == (1, 1)
    assert not no_psf().has_pixel


@examples(40)
@given(
    height=st.integers(15, 34),
    width=st.integers(15, 34),
    dx=st.floats(-1.3, 1.3),
    dy=st.floats(-1.3, 1.3),
    fwhm=st.floats(2.2, 5.0),
    scale=st.sampled_from([1.0, 1e-12, 3e5]),
)
def test_centring(height, width, dx, dy, fwhm, scale):
    """Whatever the shape, parity and offset: sum 1, centroid on the centre, shift recorded."""
    given_image = scale * gaussian((height, width), fwhm, dx, dy)
    psf, messages = centre_psf(given_image)
    assert psf.data.sum() == pytest.approx(1, abs=1e-5)
    assert psf.data.dtype == np.float32
    ox, oy = centroid(psf.data)
    # 0.05: no shift below that; else 0.01 (a wing cut off by the array's edge).
    limit = 0.055 if max(abs(dx), abs(dy)) <= 0.06 else 0.01
    assert abs(ox) < limit
    assert abs(oy) < limit
    if max(abs(dx), abs(dy)) > 0.06:
        assert psf.shift == pytest.approx((-dx, -dy), abs=0.01)
        assert any("recentred" in m for m in messages)
    if scale != 1.0:
        assert any("normalised" in m for m in messages)


def test_half_pixel_offset_of_an_even_array_is_cut_not_interpolated():
    image = np.zeros((16, 16))
    image[1:, 1:] = gaussian((15, 15), 2.0)  # centred on pixel (8, 8), the FFT convention
    psf, _ = centre_psf(image)
    assert psf.data.shape == (15, 15)
    assert psf.shift == pytest.approx((-0.5, -0.5), abs=1e-3)
    np.testing.assert_allclose(psf.data, gaussian((15, 15), 2.0), atol=1e-7)


def test_well_centred_psf_is_untouched():
    image = gaussian((25, 25), 3.0, 0.03, -0.02)
    psf, messages = centre_psf(image)
    assert psf.shift == (0.0, 0.0)
    assert messages == ()
    np.testing.assert_array_equal(psf.data, (image / image.sum()).astype(np.float32))


def test_asymmetric_wings_do_not_shift_the_core():
    """A ghost with 3 % of the light 8 px away moves the mean by 0.24 px, the core by nothing."""
    image = gaussian((41, 41), 3.0)
    image += 0.03 * np.roll(gaussian((41, 41), 5.0), 8, axis=1)
    psf, messages = centre_psf(image)
    grid = np.arange(41) - 20
    assert (image.sum(axis=0) * grid).sum() / image.sum() > 0.2
    assert psf.shift == (0.0, 0.0)
    assert not any("recentred" in m for m in messages)


def test_noisy_wings_do_not_shift_the_core():
    rng = np.random.default_rng(3)
    image = gaussian((61, 61), 3.0)
    image += rng.normal(0, 2e-3 * image.max(), image.shape)
    psf, _ = centre_psf(image)
    assert psf.shift == (0.0, 0.0)


def test_negative_wings_are_kept():
    image = gaussian((25, 25), 3.0)
    image[2, 3] = -1e-4
    psf, _ = centre_psf(image)
    assert psf.data[2, 3] < 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (1, 5)])
def test_tiny_arrays(shape):
    image = np.zeros(shape)
    image[shape[0] // 2, shape[1] // 2] = 4.0
    psf, _ = centre_psf(image)
    assert psf.data.max() == 1.0
    assert psf.data.shape == shape
    assert psf.shift == (0.0, 0.0)


def test_crop_keeps_centre_and_sum():
    psf = moffat_psf(4.0, half_size=60)
    small, messages = crop_psf(psf, (20, 24))
    assert small.data.shape[0] <= 41
    assert small.data.sum() == pytest.approx(1, abs=1e-6)
    assert centroid(small.data) == pytest.approx((0, 0), abs=1e-3)
    assert messages == () or "wings" in messages[0]
    same, _ = crop_psf(psf, (200, 200))
    assert same is psf


def test_fourier_shift_is_exact_for_smooth_images():
    moved = fourier_shift(gaussian((31, 31), 4.0), 0.37, -1.21)
    np.testing.assert_allclose(moved, gaussian((31, 31), 4.0, 0.37, -1.21), atol=2e-7)


def star_field(seed=5, n_stars=25, n_galaxies=20, fwhm=3.2, size=300):
    """Stars with a Moffat PSF (beta 3) and exponential galaxies; noise 1, sky 50."""
    rng = np.random.default_rng(seed)
    frame = np.full((size, size), 50.0)
    y, x = np.indices(frame.shape, dtype=float)
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / 3) - 1))
    nodes, weights = np.polynomial.legendre.leggauss(3)

    def pixel(profile):
        total = np.zeros((61, 61))
        for ny, wy in zip(nodes / 2, weights / 2, strict=True):
            for nx, wx in zip(nodes / 2, weights / 2, strict=True):
                total += wx * wy * profile(ny, nx)
        return total

    for number in range(n_stars + n_galaxies):
        cx, cy = rng.uniform(35, size - 36, 2)
        flux = 10 ** rng.uniform(3.0, 4.3)
        window = (slice(int(cy) - 30, int(cy) + 31), slice(int(cx) - 30, int(cx) + 31))
        gx, gy = x[window] - cx, y[window] - cy
        a = alpha if number < n_stars else alpha * rng.uniform(1.6, 3.0)
        q = 1.0 if number < n_stars else rng.uniform(0.3, 0.9)

        def profile(ny, nx, gx=gx, gy=gy, a=a, q=q):
            r2 = ((gx + nx) ** 2 + ((gy + ny) / q) ** 2) / a**2
            return 2 / (np.pi * a**2 * q) * (1 + r2) ** -3.0

        frame[window] += flux * pixel(profile)
    frame += rng.normal(0, 1, frame.shape)
    return Frame(
        "field", frame.astype(np.float32), np.ones(frame.shape, np.float32),
        np.zeros(frame.shape, bool),
    )  # fmt: skip


def test_psf_from_stars_recovers_the_truth():
    """Pixel phases, neighbours and galaxies notwithstanding: 2 % of the peak everywhere."""
    psf, messages = psf_from_stars(star_field())
    half = min(psf.data.shape[0] // 2, 10)
    middle = psf.data.shape[0] // 2
    cut = psf.data[middle - half : middle + half + 1, middle - half : middle + half + 1]
    truth = moffat_psf(3.2).data
    centre = truth.shape[0] // 2
    truth = truth[centre - half : centre + half + 1, centre - half : centre + half + 1]
    np.testing.assert_allclose(cut / cut.sum(), truth / truth.sum(), atol=0.02 * truth.max())
    assert psf.source == "stars"
    assert psf.data.sum() == pytest.approx(1, abs=1e-5)
    assert "stars" in messages[0]


def test_too_few_stars():
    with pytest.raises(InputError, match="usable stars") as caught:
        psf_from_stars(star_field(n_stars=1, n_galaxies=3))
    assert "--psf-fwhm" in caught.value.remedy


@pytest.mark.parametrize(
    ("file", "low", "high"),
    [
        # Header FWHM 3.85 px; the matched Gaussian of a pixel-integrated Moffat is a bit wider.
        ("sfft_decam/ep20160818a_i_image.fits.gz", 3.5, 4.4),
        # Half-maximum width of the two brightest stars: 4.2 px.
        ("profound_viking/viking_Z_image.fits.gz", 3.8, 5.3),
        # r50 of the compact objects 1.15-1.25 px.
        ("misc_fields/na36_R_image.fits.gz", 1.9, 2.8),
    ],
)
def test_psf_from_stars_of_real_frames(file, low, high, real_data):
    frame = read_frame(discover(real_data / file)[0], ReadOptions())
    assert frame.psf is not None
    assert frame.psf.source == "stars"
    message = next(m for m in frame.messages if m.startswith("PSF built from"))
    assert low < float(message.split("FWHM")[1].split()[0]) < high
    assert abs(np.array(centroid(frame.psf.data))).max() < 0.05


def test_stars_against_a_published_psf(real_data):
    """legacypipe's PsfEx model: 5 % of the peak in the core (three stars, in a galaxy's halo)."""
    source = discover(real_data / "legacypipe_decam/testcase8_r_image.fits.gz")[0]
    frame = read_frame(source)
    assert frame.psf is not None
    built, _ = psf_from_stars(frame)
    half = 4
    cuts = []
    for image in (built.data, frame.psf.data):
        middle = image.shape[0] // 2
        cut = image[middle - half : middle + half + 1, middle - half : middle + half + 1]
        cuts.append(cut / cut.sum())
    assert np.abs(cuts[0] - cuts[1]).max() < 0.05 * cuts[1].max()
