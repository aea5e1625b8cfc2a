"""Galaxies that are large for a background's mesh, a tile, or the network: one row, and its truth."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import NOISE, assert_near, fitted, galaxy, header, noisy, point, psf_image, write

from autofit_ml.images.psf import moffat_psf
from autofit_ml.images.stamp import Frame
from autofit_ml.measure import background_map, large_objects
from autofit_ml.segmentation import detect_sources

BRIGHT = {"x": 299.7, "y": 300.4, "flux": 1e6, "re": 60.0, "n": 2.0, "q": 0.6, "pa": 35.0}
FAINT = {"x": 299.7, "y": 300.4, "flux": 2e5, "re": 130.0, "n": 1.0, "q": 0.9, "pa": 35.0}
"""The faint one is nowhere brighter than 1.5 sigma of a pixel."""


def put(folder, image):
    """An image of 600 x 600 pixels, a frame by its size, with its noise and PSF."""
    write(folder / "big_image.fits", image, header(image.shape))
    write(folder / "big_sigma.fits", np.full(image.shape, NOISE))
    write(folder / "big_psf.fits", psf_image())
    return folder


@pytest.mark.parametrize("segmenter", ["auto", "sep"])
@pytest.mark.parametrize("truth", [BRIGHT, FAINT], ids=["bright", "faint"])
def test_an_image_of_one_galaxy_has_one_row_as_good_as_a_stamps(tmp_path, segmenter, truth):
    folder = put(tmp_path, noisy(galaxy((600, 600), **truth), 1) + 20)
    (row,) = fitted(folder, segmenter=segmenter).values()
    (stamp,) = fitted(folder, segmenter=segmenter, mode="stamp").values()
    assert row["use"] and row["id"] == "big@1"
    assert_near(row, **truth)
    for name in ("x", "flux", "re", "n"):
        # The stamp that is cut out may leave the frame's corners out. Errors are compared by what
        # noise does: the model's part follows the residuals.
        assert abs(row[name] - stamp[name]) < 0.5 * stamp[f"{name}_err"]
        assert row[f"{name}_err_stat"] < 1.1 * stamp[f"{name}_err_stat"]


def test_two_galaxies_a_star_and_a_satellite_are_four_detections():
    """Each once, however large, and what lies on a galaxy stays."""
    shape = (500, 1000)
    places = [(260.0, 250.0), (740.0, 260.0), (400.0, 420.0), (330.0, 215.0)]
    image = galaxy(shape, x=260, y=250, re=70, n=3, flux=1e6, q=0.7)
    image += galaxy(shape, x=740, y=260, re=90, n=1, flux=8e5, q=0.5, pa=100)
    image += point(shape, 400, 420, 8000) + galaxy(shape, x=330, y=215, re=4, n=1, flux=8000)
    noise = np.full(shape, NOISE, np.float32)
    found = detect_sources(
        Frame("f", noisy(image, 2).astype(np.float32), noise, noise < 0, moffat_psf(3.0)), fwhm=3.0
    ).sources
    nearest = [np.hypot(found["x"] - x, found["y"] - y).min() for x, y in places]
    assert len(found) == 4 and max(nearest) < 4
    assert np.sort(found["radius"])[-2:].min() > 100


def test_backgrounds_do_not_take_a_galaxy_with_them():
    image = noisy(galaxy((600, 600), **BRIGHT), 3) + 20
    level, rms, objects = background_map(image)
    # A tenth of the noise: its wings are 0.3 at the border.
    assert np.abs(level - 20).max() < 0.3 and np.abs(rms / NOISE - 1).max() < 0.1
    assert objects[300, 300]


@pytest.mark.parametrize(
    "sky",
    [
        lambda x, y: 100 * x,
        lambda x, y: 3 * x + 2 * y,
        lambda x, y: -100 * ((x - 0.5) ** 2 + (y - 0.45) ** 2),
        lambda x, y: 100 * np.exp(-5 * x),
        lambda x, y: 100 * np.exp(-8 * np.hypot(x, y)),
        lambda x, y: 0 * x,
    ],
    ids=["steep", "slight", "brighter in the middle", "from one side", "from a corner", "flat"],
)
def test_an_uneven_sky_is_no_object(sky):
    y, x = np.mgrid[:600, :700] / 700
    image = noisy(sky(x, y), 4)
    covered, box = large_objects(image, np.zeros(image.shape, bool))
    assert not covered.any() and box == 64
