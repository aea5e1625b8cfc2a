"""The sky of a frame is the mean of its photons, whatever their median."""

import numpy as np
import pytest

from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.sources import make_field


@pytest.mark.parametrize("electrons", [25, 400])
def test_what_is_left_beside_the_sources_goes(electrons):
    rng = np.random.default_rng(electrons)
    gain, shape = 160.0, (800, 800)
    image = rng.poisson(electrons, shape) + 2.0 * rng.standard_normal(shape)
    frame = Frame(
        "f",
        ((image - electrons) / gain).astype(np.float32),
        np.full(shape, np.sqrt(electrons + 4) / gain, np.float32),
        np.zeros(shape, bool),
        psf=PSF(np.ones((3, 3), np.float32) / 9),
        pixel_scale=0.4,
        zeropoint=22.5,
        gain=gain,
    )
    median = float(np.median(frame.data))
    band = make_field([frame], ["r"], [median]).first
    before = frame.data.copy()
    # the median is a sixth of an electron too low
    assert -median * gain == pytest.approx(1 / 6, abs=0.06)
    assert (median + band.subtract_rest().mean()) * gain == pytest.approx(0, abs=0.04)
    assert abs(band.subtract_rest()).max() * gain < 0.02, "nothing is left the second time"
    assert np.array_equal(frame.data, before)


def test_a_sky_that_bends_goes_where_there_are_pixels():
    """A slope and a bump as wide as the mesh, under noise; a corner is masked."""
    rng, shape = np.random.default_rng(4), (512, 768)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = 0.0005 * x + 0.5 * np.exp(-((x - 300) ** 2 + (y - 200) ** 2) / 2 / 250**2)
    mask = (x < 40) & (y < 40)
    data = np.where(mask, 1e4, sky + rng.normal(size=shape)).astype(np.float32)
    psf = PSF(np.ones((3, 3), np.float32) / 9)
    frame = Frame("f", data, np.ones(shape, np.float32), mask, psf, zeropoint=22.5)
    found = make_field([frame], ["r"], [0.0]).first.subtract_rest()
    # Lines between nodes 256 pixels apart are off by 256^2 / 8 of a curvature of 0.5 / 250^2.
    assert abs(found - sky)[~mask].max() < 0.1
