"""Sky level and noise, against images whose sky and noise are known."""

from __future__ import annotations

import numpy as np
import pytest
from fits_builders import galaxy
from scipy import ndimage

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError
from autofit_ml.images import ReadOptions, discover, read_source
from autofit_ml.measure import background_map, expected_source, measure_sky, model_sigma


def disc(shape, flux, scale, q=0.7):
    y, x = np.indices(shape, dtype=float)
    radius = np.hypot(x - (shape[1] - 1) / 2, (y - (shape[0] - 1) / 2) / q)
    return flux / (2 * np.pi * q * scale**2) * np.exp(-radius / scale)


@pytest.mark.parametrize("level", [0.0, 5.0, -3.0, 6852.0])
@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e12])
def test_sky_beside_a_galaxy(level, unit):
    """Bias under 0.1 sigma of a pixel; rms within 4 %."""
    rng = np.random.default_rng(1)
    image = (disc((100, 100), 3000.0, 4.0) + level + rng.normal(0, 1, (100, 100))) * unit
    sky = measure_sky(image)
    assert sky.level / unit == pytest.approx(level, abs=0.1)
    assert sky.rms / unit == pytest.approx(1.0, rel=0.04)
    assert 0.005 < sky.level_err / unit < 0.1


def test_sky_error_covers():
    """The error holds the true scatter: 68 % intervals contain the sky in 50 to 90 of 100."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sky = measure_sky(rng.normal(2.0, 1.0, (60, 60)))
        inside += abs(sky.level - 2.0) < sky.level_err
    assert 50 <= inside <= 90


def test_sky_error_knows_correlated_noise():
    rng = np.random.default_rng(2)
    white = rng.normal(0, 1, (100, 100))
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (100, 100)), 2.0)
    smooth /= smooth.std()
    assert measure_sky(smooth).level_err > 2 * measure_sky(white).level_err


def test_masked_pixels_do_not_count():
    rng = np.random.default_rng(3)
    image = rng.normal(0, 1, (60, 60))
    mask = np.zeros(image.shape, bool)
    image[:, :20] += 100
    mask[:, :20] = True
    assert measure_sky(image, mask).level == pytest.approx(0, abs=0.15)


def test_object_that_fills_the_image():
    sky = measure_sky(disc((40, 40), 1e6, 15.0))
    assert sky.n_pixels == 0 or sky.level_err > 0


def test_too_few_pixels():
    for image in (np.zeros((4, 4)), np.full((9, 9), np.nan)):
        sky = measure_sky(image)
        assert sky.n_pixels == 0
        assert np.isnan([sky.level, sky.level_err, sky.rms]).all()


def test_background_map_follows_a_gradient():
    rng = np.random.default_rng(4)
    y, x = np.indices((400, 400), dtype=float)
    truth = 100 + 0.02 * x - 0.01 * y
    image = truth + rng.normal(0, 2, truth.shape)
    for cx, cy in rng.uniform(20, 380, (40, 2)):
        image += 300 * np.exp(-np.hypot(x - cx, y - cy) / 4)
    background, rms, objects = background_map(image)
    assert np.abs(background - truth).mean() < 0.25
    assert np.median(rms) == pytest.approx(2.0, rel=0.05)
    assert 0.2 < objects.mean() < 0.7


@pytest.mark.parametrize("sky_card", ["SKYSUB", "SKYLEVEL"])
def test_sigma_from_the_ccd_equation(sky_card, writer):
    """Against the Poisson model that made the image: 5 % everywhere."""
    rng = np.random.default_rng(5)
    gain, read, sky = 2.5, 8.0, 60.0
    model = disc((90, 90), 40000.0, 5.0)
    electrons = rng.poisson((model + sky) * gain) + rng.normal(0, read, model.shape)
    image = electrons / gain - (sky if sky_card == "SKYSUB" else 0.0)
    truth = np.sqrt((model + sky) / gain + (read / gain) ** 2)
    cards = {"GAIN": gain, "RDNOISE": read, sky_card: sky}
    path = writer.object(image=image.astype(np.float32), sigma=False, cards=cards)
    stamp = read_source(discover(path)[0]).stamp
    assert stamp.flags & Flag.SIGMA_ESTIMATED
    np.testing.assert_allclose(stamp.sigma, truth, rtol=0.12)
    assert np.median(stamp.sigma / truth) == pytest.approx(1, abs=0.01)
    assert np.sqrt(np.mean((stamp.sigma / truth - 1) ** 2)) < 0.03


def test_weights_do_not_follow_the_noise():
    """The flux by weighted mean of a flat source: to 1 %; raw counts lose over 3 %."""
    rng = np.random.default_rng(6)
    counts = rng.poisson(25.0, (300, 300)).astype(float)
    weight = 1.0 / np.maximum(expected_source(counts, 0.1, 1.0), 1e-3)
    raw = 1.0 / np.maximum(counts, 1.0)
    # The local mean has 25 pixels, one of which is the pixel itself: 1/25 of the bias is left.
    assert (weight * counts).sum() / weight.sum() == pytest.approx(25.0, rel=0.01)
    assert (raw * counts).sum() / raw.sum() < 24.2


def test_sharp_peaks_keep_their_counts():
    y, x = np.indices((31, 31)) - 15.0
    star = 1e4 * np.exp(-0.5 * (x**2 + y**2) / 1.2**2)
    noise = np.sqrt(star + 25)
    noisy = star + np.random.default_rng(7).normal(0, 1, star.shape) * noise
    assert expected_source(noisy, 5.0)[15, 15] == pytest.approx(1e4, rel=0.05)


def test_sigma_from_the_sky_alone(writer):
    path = writer.object(image=galaxy((80, 80), noise=3.0), sigma=False)
    stamp = read_source(discover(path)[0]).stamp
    assert np.ptp(stamp.sigma) == 0
    assert stamp.sigma[0, 0] == pytest.approx(3.0, rel=0.06)
    assert any("photon noise is left out" in " ".join(m.split()) for m in stamp.messages)


def test_sigma_from_sky_and_gain(writer):
    path = writer.object(image=galaxy((80, 80)), sigma=False, cards={"GAIN": 2.0})
    stamp = read_source(discover(path)[0]).stamp
    assert stamp.sigma[40, 40] > 1.5 * stamp.sigma[2, 2]


def test_noise_model_on_request(writer):
    path = writer.object(image=galaxy((80, 80), noise=3.0), sigma=77.0)
    stamp = read_source(discover(path)[0], ReadOptions(noise="model")).stamp
    assert stamp.sigma[0, 0] == pytest.approx(3.0, rel=0.06)
    assert stamp.flags & Flag.SIGMA_ESTIMATED


def test_nothing_to_build_from():
    with pytest.raises(InputError, match="no scatter"):
        model_sigma(np.pad(np.ones((2, 2)), 9), np.zeros((20, 20), bool))


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("pymorph_sdss", "00000001_r"),
        ("pymorph_sdss", "00000009_r"),
        ("imfit_sdss", "ic3478_r"),
        ("sfft_decam", "ep20160818a_i"),
    ],
)
def test_built_noise_of_real_images(dataset, name, real_data):
    """Against the published map of the same image: 2 % in the median, 6 % scatter."""
    source = discover(real_data / dataset / f"{name}_image.fits.gz")[0]
    options = ReadOptions(psf="none", mode="stamp")
    given = read_source(source, options).stamp
    built = read_source(source, options.replace(noise="model")).stamp
    ratio = (built.sigma / given.sigma)[~given.mask]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    assert np.std(ratio) < 0.06
