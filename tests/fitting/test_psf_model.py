"""PSFs from the stars of a frame, with what is not known of them."""

import dataclasses

import numpy as np
import pytest
from scene_samples import scene_object, single, stamp_of, starts_of

from autofit_ml.errors import InputError
from autofit_ml.fitting import refine
from autofit_ml.fitting.psf_model import fit_moffat_psf
from autofit_ml.images import with_star_psf
from autofit_ml.images.stamp import Frame
from autofit_ml.scenes import sersic
from autofit_ml.simulation.draw import render_source
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Source

TRUE = moffat_psf(3.2, beta=2.8, ellipticity=(0.03, 0.01), size=61)


def frame_of_stars(number, seed, flux=(1500.0, 9000.0), side=320):
    """A frame with stars of one PSF."""
    rng = np.random.default_rng(seed)
    light = np.zeros((side, side))
    grid = np.stack(np.meshgrid(*[np.arange(50, side - 40, 60)] * 2), -1).reshape(-1, 2)
    for x, y in rng.permutation(grid)[:number] + rng.uniform(-5, 5, (number, 2)):
        source = Source(x, y, np.exp(rng.uniform(*np.log(flux))), 0.0, np.nan)
        light += render_source(source, TRUE, light.shape)
    sigma = np.sqrt(1 + light / 10)
    data = light + rng.normal(size=light.shape) * sigma + 5.0
    none = np.zeros(light.shape, dtype=bool)
    return Frame("f", data.astype(np.float32), sigma.astype(np.float32), none)


def true_image(psf):
    """The true PSF on the pixels of another."""
    half = psf.data.shape[0] // 2
    return TRUE.data[30 - half : 31 + half, 30 - half : 31 + half]


def test_a_moffat_psf_is_found_within_its_errors():
    """The true PSF lies at unit Gaussian numbers of the modes: chi2 of 8 x 4 numbers."""
    pulls = []
    for seed in range(8):
        psf, (message,) = fit_moffat_psf(frame_of_stars(7, seed))
        assert "FWHM 3." in message
        assert psf.modes.shape == (4, *psf.data.shape)
        assert psf.data.sum() == pytest.approx(1.0, abs=1e-5)
        off = (true_image(psf) / true_image(psf).sum() - psf.data).ravel()
        modes = psf.modes.reshape(4, -1)
        coefficients = np.linalg.lstsq(modes.T, off, rcond=None)[0]
        pulls.append(coefficients)
        left = off - coefficients @ modes
        assert np.abs(left).max() < 2e-3 * psf.data.max()
    pulls = np.array(pulls)
    # The smallest mode of four may hide in what is second order: the three largest are judged.
    chi2 = np.sort(pulls**2, axis=1).sum()
    assert 0.4 < chi2 / pulls.size < 2.5


def test_pixels_have_modes_and_a_stack_none():
    frame = frame_of_stars(9, 3)
    pixels, stack = (with_star_psf(frame, model).psf for model in ("pixels", "stack"))
    assert stack.modes is None
    assert 1 <= len(pixels.modes) <= 6
    np.testing.assert_array_equal(pixels.data, stack.data)
    size = np.abs(pixels.modes).max((1, 2)) / pixels.data.max()
    assert 1e-4 < size[0] < 0.1
    assert np.all(np.diff(np.square(pixels.modes).sum((1, 2))) <= 1e-12)


def test_too_few_stars():
    with pytest.raises(InputError, match="stars"):
        fit_moffat_psf(frame_of_stars(1, 4))


def test_an_uncertain_psf_makes_errors_larger_and_right():
    """A compact galaxy, fitted with a PSF that is too wide by one and a half of its sigmas."""
    source = single(flux=20000.0, re=1.5, n=1.0, q=0.8)
    stamp, found = stamp_of(source, seed=1, psf=moffat_psf(3.0, beta=3.0, size=25))
    wide = moffat_psf(3.15, beta=3.0, size=25)
    step = (wide.data - stamp.psf.data) / 1.5
    believed = dataclasses.replace(wide, modes=step[None].astype(np.float32))
    one = dataclasses.replace(scene_object(source), segmentation=found)
    known, unknown = (
        refine(
            [dataclasses.replace(one, stamps=(stamp.replace(psf=psf),))], sersic(),
            starts_of(source),
        )[0]
        for psf in (wide, believed)
    )  # fmt: skip
    assert unknown.error("sersic.re") > 1.5 * known.error("sersic.re")
    assert abs(known["sersic.re"] - 1.5) > 4 * known.error("sersic.re")
    assert abs(unknown["sersic.re"] - 1.5) < 3 * unknown.error("sersic.re")
