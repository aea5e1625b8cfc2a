"""Variance, shape and correlation of the simulated noise."""

from __future__ import annotations

import os

import numpy as np
import pytest
from astropy.io import fits

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.noise import add_noise, autocorrelation, correlate, observe

SHAPE = (400, 400)


def lag(field: np.ndarray, dy: int, dx: int) -> float:
    """Correlation of a field of mean 0 and variance 1 at one lag."""
    ny, nx = field.shape
    low, high = max(0, -dx), nx - max(0, dx)
    return float((field[: ny - dy, low:high] * field[dy:, low + dx : high + dx]).mean())


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("light", "sky", "gain", "read_noise"),
    [(0.0, 50.0, 4.0, 0.0), (3.0, 0.5, 2.0, 5.0), (1e4, 100.0, 0.5, 10.0), (0.0, 0.0, 900.0, 7.0)],
)
def test_mean_and_variance_follow_the_formula(light, sky, gain, read_noise):
    data, sigma = observe(np.full(SHAPE, light), sky, gain=gain, read_noise=read_noise, rng=rng())
    expected = np.sqrt((light + sky) * gain + read_noise**2) / gain
    np.testing.assert_allclose(sigma, expected, rtol=1e-12)
    deviates = (data - light - sky) / sigma
    # 160 000 pixels: 1 sigma is 0.0025 for the mean and 0.0018 for the scatter; 5 of them
    assert abs(deviates.mean()) < 0.0125
    assert deviates.std() == pytest.approx(1, abs=0.009)


def test_low_counts_are_poisson():
    data, _ = observe(np.full(SHAPE, 1.5), 0.5, gain=2.0, read_noise=0.0, rng=rng())
    electrons = data * 2.0
    np.testing.assert_allclose(electrons, np.round(electrons), atol=1e-9)
    assert electrons.min() > -1e-9
    standard = (electrons - 4) / 2
    # skewness 1 / sqrt(4); its scatter is about sqrt(15 / 160 000) = 0.01
    assert (standard**3).mean() == pytest.approx(0.5, abs=0.04)
    # P(0) = exp(-4) = 0.018 +- 0.0003
    assert (electrons < 0.5).mean() == pytest.approx(np.exp(-4), abs=0.0015)


def test_very_bright_pixels():
    light = np.full(SHAPE, 4e12)
    data, sigma = observe(light, 0.0, gain=1.0, read_noise=0.0, rng=rng())
    assert ((data - light) / sigma).std() == pytest.approx(1, abs=0.009)  # 5 sigma, as above
    # a bright pixel leaves its neighbours as they are
    light[:] = 0
    light[7, 9] = 4e12
    data, sigma = observe(light, 9.0, gain=1.0, read_noise=0.0, rng=rng())
    assert abs((data[7, 9] - light[7, 9]) / sigma[7, 9]) < 5
    assert abs(np.delete(data.ravel(), 7 * 400 + 9) - 9).max() < 9 * 3


def test_negative_light_is_kept_in_the_mean_and_not_in_sigma():
    light = np.full(SHAPE, -2.0)
    data, sigma = observe(light, 10.0, gain=3.0, read_noise=1.0, rng=rng())
    np.testing.assert_allclose(sigma, np.sqrt(31) / 3)
    assert data.mean() == pytest.approx(8, abs=5 * np.sqrt(25) / 3 / 400)


def test_sky_map():
    light = np.arange(12.0).reshape(3, 4)
    sky = np.linspace(5, 6, 12).reshape(3, 4)
    data, sigma = observe(light, sky, gain=2.0, read_noise=3.0, rng=rng())
    np.testing.assert_allclose(data, light + sky, atol=5 * sigma.max())
    np.testing.assert_allclose(sigma, np.sqrt((light + sky) * 2 + 9) / 2)


@pytest.mark.parametrize("correlation", [None, 0.4])
def test_same_seed_same_noise(correlation):
    kernel = autocorrelation(correlation or 0.0, (30, 37))
    one, two, three = (
        observe(np.ones((30, 37)), 4.0, gain=2.0, read_noise=1.0, rng=rng(s), correlation=kernel)[0]
        for s in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert abs(one - three).max() > 0.1
    assert one.shape == (30, 37)
    assert one.dtype == np.float64


def test_float_correlation():
    assert autocorrelation(0, SHAPE) is None
    assert autocorrelation(1e-5, SHAPE) is None
    array = autocorrelation(0.9, SHAPE)
    assert array.shape == (19, 19)  # 0.9**81 = 2e-4, 0.9**100 = 3e-5
    assert array[9, 9] == 1
    assert array[9, 10] == array[8, 9] == pytest.approx(0.9)
    assert array[8, 10] == pytest.approx(0.81)
    assert array[9].min() > 1e-4
    # in a small image the long lags do not occur
    assert autocorrelation(0.9, (5, 40)).shape == (9, 19)


# Interpolation by half a pixel along x; noise with negative correlations along y; noise that is
# correlated along one diagonal alone.
HALF_PIXEL = ((0.5, 1.0, 0.5),)
SHARPENED = tuple(
    tuple(row) for row in np.outer([-0.3, 1.0, -0.3], [0.05, 0.4, 1.0, 0.4, 0.05]).tolist()
)
SKEWED = ((0.0, 0.1, 0.3), (0.2, 1.0, 0.2), (0.3, 0.1, 0.0))


@pytest.mark.parametrize("setting", [0.2, 0.5, HALF_PIXEL, SHARPENED, SKEWED])
def test_noise_has_the_requested_correlation(setting):
    array = autocorrelation(setting, SHAPE)
    field, sigma = observe(
        np.zeros(SHAPE), 100.0, gain=3.0, read_noise=4.0, rng=rng(2), correlation=array
    )
    field = (field - 100) / sigma
    a, b = (side // 2 for side in array.shape)
    # 1 sigma of a correlation is sqrt(sum(array**2) / 160 000) = 0.004 to 0.006; 4 of them
    assert field.std() == pytest.approx(1, abs=0.02)
    for dy in range(min(a, 2) + 2):
        for dx in range(-min(b, 2) - 1, min(b, 2) + 2):
            wanted = array[a + dy, b + dx] if dy <= a and abs(dx) <= b else 0.0
            assert lag(field, dy, dx) == pytest.approx(wanted, abs=0.024), (dy, dx)


def test_correlation_from_a_file(tmp_path):
    """Any scale, a peak off the array's centre, small asymmetry: normalised and made symmetric."""
    wanted = np.array(SKEWED)
    image = np.zeros((9, 12))
    image[3:6, 6:9] = 37.0 * wanted
    image[3, 8] += 37 * 0.02  # opposite lags 0.32 and 0.3
    path = tmp_path / "acf.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image.astype(np.float32))]).writeto(path)
    array = autocorrelation(path, SHAPE)
    assert array.shape == (3, 3)
    expected = wanted + 0.01 * np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(array, expected, atol=1e-7)
    np.testing.assert_array_equal(autocorrelation(str(path), SHAPE), array)
    field = correlate(rng(3).standard_normal((402, 402)), array)
    assert field.shape == SHAPE
    assert lag(field, 1, -1) == pytest.approx(0.31, abs=0.02)  # 5 sigma
    assert lag(field, 1, 1) == pytest.approx(0.0, abs=0.02)
    assert lag(field, 1, 0) == pytest.approx(0.1, abs=0.02)


def test_bright_sources_keep_their_variance_in_correlated_noise():
    light = np.zeros(SHAPE)
    light[:, 200:] = 900.0  # ten times the variance of the sky
    array = autocorrelation(0.5, SHAPE)
    data, sigma = observe(light, 100.0, gain=2.0, read_noise=0.0, rng=rng(4), correlation=array)
    assert sigma[0, 399] == pytest.approx(np.sqrt(10) * sigma[0, 0])
    deviation = data - light - 100.0
    for part, expected in (
        (np.s_[:, :200], np.sqrt(200) / 2),
        (np.s_[:, 200:], np.sqrt(2000) / 2),
        (np.s_[:, 200:203], np.sqrt(2000) / 2),
    ):
        field = deviation[part] / expected
        # 3 columns hold 1200 pixels, about 400 independent ones: 1 sigma 0.035
        tolerance = 0.12 if field.shape[1] == 3 else 0.02
        assert field.std() == pytest.approx(1, abs=tolerance)
        assert lag(field, 1, 0) == pytest.approx(0.5, abs=tolerance)


def test_nothing_wraps_and_borders_are_like_the_rest():
    """Over many narrow fields: variance 1 at every border, opposite borders independent."""
    array = autocorrelation(0.6, (12, 13))
    fields = np.stack(
        [
            observe(
                np.zeros((12, 13)), 50.0, gain=1.0, read_noise=0.0, rng=rng(s), correlation=array
            )[0]
            for s in range(3000)
        ]
    )
    fields = (fields - 50) / np.sqrt(50)
    # 3000 fields: 1 sigma is 0.026 for a variance, 0.018 for a correlation; largest of 156 pixels
    np.testing.assert_allclose(fields.var(axis=0), 1, atol=0.12)
    np.testing.assert_allclose((fields[:, 0] * fields[:, -1]).mean(axis=0), 0, atol=0.075)
    np.testing.assert_allclose((fields[:, :, 0] * fields[:, :, -1]).mean(axis=0), 0, atol=0.075)
    np.testing.assert_allclose((fields[:, 0] * fields[:, 1]).mean(axis=0), 0.6, atol=0.09)


def test_slightly_negative_power_is_removed():
    """A function cut off at 0.03: power down to -1 %; the variance stays 1."""
    array = autocorrelation(0.6, SHAPE).copy()
    array[array < 0.03] = 0
    power = np.fft.fft2(np.fft.ifftshift(np.pad(array, 20))).real
    assert -0.02 * power.max() < power.min() < -0.002 * power.max()
    removed = np.maximum(-power, 0).mean()
    setting = tuple(tuple(row) for row in array)
    got = autocorrelation(setting, SHAPE)
    a, b = (side // 2 for side in got.shape)
    field = correlate(rng(5).standard_normal((400 + 2 * a, 400 + 2 * b)), got)
    assert field.std() == pytest.approx(1, abs=0.02)  # 4 sigma, as above
    bound = 2 * removed / (1 + removed) + 0.02
    assert lag(field, 1, 0) == pytest.approx(0.6, abs=bound)
    assert lag(field, 1, 1) == pytest.approx(0.36, abs=bound)


def test_add_noise_keeps_its_numbers():
    """Other code relies on seeds: the values of the first release, to rounding."""
    image, sigma = np.ones((20, 31)), np.full((20, 31), 2.0)
    for rho, first, last, scatter in (
        (None, 1.002460306714965, 4.401460414020059, 1.8554436775129033),
        (0.3, 1.224579774864361, -1.6593658412736252, 1.951891737260567),
        (0.9, 0.8656339255440697, -1.590998071762359, 1.8815276363013438),
    ):
        noisy = add_noise(image, sigma, rng(7), rho)
        found = (noisy[0, 0], noisy[19, 30], noisy.std())
        assert found == pytest.approx((first, last, scatter), rel=1e-10)
    with pytest.raises(SettingsError):
        add_noise(image, sigma, rng(), 0.95)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (0.95, "0.95"),
        (-0.1, "-0.1"),
        (float("nan"), "nan"),
        (((0.5, 1.0), (0.5, 0.2)), "odd sides"),
        (((0.5, 0.9, 0.5),), "centre"),
        (((0.5, 1.0, 1.5),), "centre"),
        (((0.5, 1.0, float("nan")),), "centre"),
        (((0.5, 1.0, 0.3),), "opposite lags differ by 0.2"),
        (((0.5,), (0.5, 1.0, 0.5), (0.1,)), "rows of equal length"),
        # a box: its power spectrum is a sinc with lobes of -22 %
        (tuple((1.0,) * 5 for _ in range(5)), "power spectrum falls to -2"),
        (((0.9, 1.0, 0.9),), "power spectrum"),
    ],
)
def test_wrong_correlations_are_refused(setting, message):
    with pytest.raises(SettingsError, match=message):
        autocorrelation(setting, SHAPE)


def test_wrong_correlation_files_are_refused(tmp_path):
    def written(name: str, array) -> object:
        path = tmp_path / name
        fits.writeto(path, np.asarray(array, dtype=float))
        return path

    text = tmp_path / "text.fits"
    text.write_text("not a FITS file at all")
    bad = [tmp_path / "missing.fits", text]
    bad.append(written("nan.fits", np.full((3, 3), np.nan)))
    bad.append(written("zero.fits", np.zeros((3, 3))))
    bad.append(written("cube.fits", np.ones((2, 3, 3))))
    bad.append(written("negative.fits", [[-2.0, 1.0, -2.0]]))
    bad.append(written("box.fits", np.pad(np.ones((5, 5)), 3) + np.pad([[0.5]], 5)))
    empty = tmp_path / "empty.fits"
    fits.PrimaryHDU().writeto(empty)
    for path in (*bad, empty):
        with pytest.raises(SettingsError) as caught:
            autocorrelation(path, SHAPE)
        assert caught.value.file == path
        assert caught.value.remedy


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "acf.fits"
    fits.writeto(path, np.array([[0.2, 1.0, 0.2]]))
    assert autocorrelation(path, SHAPE)[0, 0] == 0.2
    fits.writeto(path, np.array([[0.1, 1.0, 0.1]]), overwrite=True)
    os.utime(path, (1, 1))  # the size is the same; another time for certain
    assert autocorrelation(path, SHAPE)[0, 0] == 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"gain": 0.0},
        {"gain": np.inf},
        {"read_noise": -1.0},
        {"sky": 0.0, "read_noise": 0.0},
        {"sky": np.nan},
        {"light": np.full((3, 3), np.inf)},
    ],
)
def test_wrong_observations_are_refused(wrong):
    settings = {"light": np.zeros((3, 3)), "sky": 1.0, "gain": 1.0, "read_noise": 1.0, "rng": rng()}
    settings |= wrong
    with pytest.raises(SettingsError):
        observe(settings.pop("light"), settings.pop("sky"), **settings)


def test_a_field_without_border_is_refused():
    with pytest.raises(SettingsError, match="border"):
        correlate(np.zeros((4, 40)), autocorrelation(0.5, SHAPE))
