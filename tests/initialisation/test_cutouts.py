"""The initialising network's view of a stamp, and the way back to the refiner's parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.initialisation.cutouts import PSF_SIDE, SIDE, cut_outs
from autofit_ml.initialisation.network import (
    InitialiseNetwork,
    InitialiseSettings,
    build,
    describe,
    inputs_of,
    to_absolute,
    to_relative,
)
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation.psf import moffat_psf


def stamp_and_footprint(shape, x, y, radius, *, fwhm=3.0, sky=5.0, unit=1.0):
    """A disc of light of 100 on a noiseless sky, and its segmentation."""
    rows, columns = np.indices(shape)
    own = np.hypot(columns - x, rows - y) <= radius
    data = (np.where(own, 100.0, 0.0) + sky) * unit
    stamp = Stamp(
        "s",
        data.astype(np.float32),
        np.full(shape, unit, np.float32),
        np.zeros(shape, bool),
        PSF(moffat_psf(fwhm).data),
    )
    empty = np.zeros(shape, bool)
    return stamp, Segmentation(own.astype(np.int32), 1, empty, sky * unit, unit)


@pytest.mark.parametrize(
    ("shape", "radius", "binning"),
    [((32, 40), 5, 1), ((64, 64), 12, 1), ((200, 180), 30, 2), ((512, 512), 200, 9)],
)
@pytest.mark.parametrize("unit", [1.0, 1e-10])
def test_the_target_fills_the_square_whatever_its_size(shape, radius, binning, unit):
    y, x = (side // 2 + 0.2 for side in shape)
    stamp, found = stamp_and_footprint(shape, x, y, radius, unit=unit)
    cut = cut_outs([stamp], [found])
    assert cut.binning[0] == binning
    assert cut.data.shape == (1, SIDE, SIDE)
    # All light of the disc that lies in the stamp, in image units.
    light = float(stamp.data.astype(float).sum() - 5.0 * unit * stamp.data.size)
    assert cut.data.sum() * cut.unit[0] == pytest.approx(light, rel=1e-3)
    assert cut.flux[0] * cut.unit[0] == pytest.approx(light, rel=0.05)
    assert cut.radius[0] * binning == pytest.approx(np.sqrt(found.labels.sum() / np.pi), rel=1e-6)
    weight = np.maximum(cut.data[0], 0)
    v, h = np.indices(weight.shape)
    centre = (weight * h).sum() / weight.sum(), (weight * v).sum() / weight.sum()
    place = cut.corner[0] + (np.array(centre) + 0.5) * binning
    np.testing.assert_allclose(place, (x, y), atol=0.3 * binning)
    np.testing.assert_allclose(cut.centre[0], centre, atol=1.0)
    # Noise of a block of b x b pixels of white noise is one unit.
    inside = cut.root_weight[0] > 0
    np.testing.assert_allclose(cut.root_weight[0][inside], 1.0, rtol=0.5)


def test_masked_pixels_and_neighbours_have_no_weight():
    stamp, found = stamp_and_footprint((64, 64), 32, 32, 8)
    mask, other = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[:, :5], other[50:, 50:] = True, True
    stamp = stamp.replace(mask=mask)
    found = Segmentation(found.labels, 1, other, 5.0, 1.0)
    cut = cut_outs([stamp], [found])
    left, low = (np.rint(cut.corner[0] + 0.5)).astype(int)
    used = np.zeros((64, 64), bool)
    y0, x0 = max(low, 0), max(left, 0)
    window = cut.root_weight[0][y0 - low : 64 - low, x0 - left : 64 - left] > 0
    used[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]] = window
    assert not used[:, :5].any()
    assert not used[50:, 50:].any()
    assert used[10:45, 10:60].all()


def test_no_target_is_a_circle_at_the_expected_position():
    stamp, found = stamp_and_footprint((48, 48), 20, 26, 4)
    nothing = Segmentation(np.zeros((48, 48), np.int32), 0, found.contaminants, 5.0, 1.0)
    cut = cut_outs([stamp.replace(x=20.0, y=26.0)], [nothing])
    assert cut.scalars[0, -1] == 0
    assert np.isfinite(cut.scalars).all()
    place = cut.corner[0] + (cut.centre[0] + 0.5) * cut.binning[0]
    np.testing.assert_allclose(place, (20, 26), atol=1.0)


@pytest.mark.parametrize("oversampling", [1, 3])
def test_the_psf_is_binned_and_stays_centred(oversampling):
    stamp, found = stamp_and_footprint((200, 200), 100, 100, 45)
    psf = PSF(moffat_psf(3.0 * oversampling).data, True, oversampling)
    cut = cut_outs([stamp.replace(psf=psf)], [found])
    assert cut.binning[0] == 2
    image = cut.psf[0].astype(float)
    assert image.shape == (PSF_SIDE, PSF_SIDE)
    assert image.sum() == pytest.approx(1, abs=1e-5)
    offset = np.arange(PSF_SIDE) - (PSF_SIDE - 1) / 2
    assert (image.sum(0) * offset).sum() == pytest.approx(0, abs=1e-3)
    half = (image > image.max() / 2).sum()
    assert half == pytest.approx(np.pi * (3.3 / 4) ** 2, abs=2)


def test_relative_and_absolute_parameters_are_inverse():
    """And a covariance transforms as the parameters do."""
    items = [
        stamp_and_footprint((64, 64), 30, 33, 8),
        stamp_and_footprint((200, 180), 90, 100, 40, unit=1e-9),
    ]
    cut = cut_outs([stamp for stamp, _ in items], [found for _, found in items])
    theta = torch.tensor(
        [
            [30.3, 33.1, 9.0, 1.5, 0.7, 0.2, -0.1],
            [90.0, 101.5, -10.0, 3.0, 1.2, -0.4, 0.3],
        ],
        dtype=torch.float64,
    )
    relative = to_relative(cut, theta)
    assert relative.abs().max() < 10
    rng = torch.Generator().manual_seed(1)
    lower = torch.tril(torch.randn(2, 7, 7, generator=rng, dtype=torch.float64))
    mean, covariance = to_absolute(cut, relative, lower)
    torch.testing.assert_close(mean, theta)
    assert covariance[1, 0, 0] == pytest.approx(
        float(cut.binning[1] ** 2 * (lower @ lower.mT)[1, 0, 0])
    )
    assert covariance[1, 2, 2] == pytest.approx(float((lower @ lower.mT)[1, 2, 2]))


def test_network_gives_a_gaussian_and_builds_again():
    items = [stamp_and_footprint((64, 64), 30, 33, 8), stamp_and_footprint((40, 90), 40, 20, 5)]
    cut = cut_outs([stamp for stamp, _ in items], [found for _, found in items])
    settings = InitialiseSettings(widths=(8, 8, 8), blocks=(1, 1, 1), psf_widths=(4,), hidden=16)
    network = InitialiseNetwork(settings).eval()
    with torch.no_grad():
        mean, lower = network(*inputs_of(cut))
        again = build(describe(network)).eval()
        again.load_state_dict(network.state_dict())
        same, _ = again(*inputs_of(cut))
    assert mean.shape == (2, 7)
    assert lower.shape == (2, 7, 7)
    assert (torch.diagonal(lower, dim1=1, dim2=2) > 0).all()
    assert (torch.triu(lower, 1) == 0).all()
    torch.testing.assert_close(mean, same)
