"""The renderer's verdict on cut-outs: units, gradients, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("galsim")

from autofit_ml.initialisation.cutouts import cut_outs
from autofit_ml.initialisation.network import to_relative
from autofit_ml.initialisation.physics import cut_out_parameters, model_images, robust_chi2
from autofit_ml.initialisation.resnet import start_chi2
from autofit_ml.scenes import to_fit_space
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import simulate_sersic, to_stamps


@pytest.fixture(scope="module")
def cut_and_truth():
    """Sixteen galaxies on stamps of two sizes, the larger of them binned."""
    objects = [
        *simulate_sersic(8, seed=3, snr=(50.0, 300.0), re=(2.0, 6.0), sky=(0.0, 20.0)),
        *simulate_sersic(8, seed=4, size=160, snr=(200.0, 500.0), re=(14.0, 20.0)),
    ]
    found = [
        Segmentation(o.labels * (o.labels == 1), 1, o.labels > 1, o.sky, o.sky_rms) for o in objects
    ]
    cut = cut_outs(to_stamps(objects), found)
    truth = [
        [o.target.x, o.target.y, o.target.flux, o.target.re]
        + [o.target.n, o.target.q, o.target.pa, o.sky]
        for o in objects
    ]
    return cut, to_relative(cut, to_fit_space(torch.tensor(truth)))


def test_the_truth_has_a_chi2_of_one_binned_or_not(cut_and_truth):
    cut, truth = cut_and_truth
    assert set(cut.binning) >= {1, 2}
    chi2 = start_chi2(cut, truth).numpy()
    assert np.all((chi2 > 0.8) & (chi2 < 1.25)), chi2


def test_wrong_parameters_fit_worse(cut_and_truth):
    cut, truth = cut_and_truth
    right = start_chi2(cut, truth)
    for k, step in enumerate((0.5, 0.5, 0.3, 0.3, 0.7, 0.5, 0.5)):
        wrong = truth.clone()
        wrong[:, k] += step
        assert (start_chi2(cut, wrong) > right).all(), k


def test_gradient_is_that_of_finite_differences(cut_and_truth):
    cut, truth = cut_and_truth
    planes = [torch.as_tensor(v) for v in (cut.centre, cut.flux, cut.radius)]

    def chi2(relative):
        images = model_images(cut_out_parameters(relative, *planes), torch.as_tensor(cut.psf))
        data, root_weight = torch.as_tensor(cut.data), torch.as_tensor(cut.root_weight)
        return robust_chi2(images, data, root_weight, planes[0], planes[2])[0]

    at = (truth + 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(chi2(at).sum(), at)
    # The weights follow the model without a gradient, so that a bright model does not buy a good fit:
    # the derivatives agree where that matters little.
    for k in (0, 1, 4, 5):
        step = torch.zeros(7, dtype=at.dtype)
        step[k] = 0.02
        difference = (chi2(at + step) - chi2(at - step)).detach() / 0.04
        assert torch.corrcoef(torch.stack([difference, gradient[:, k]]))[0, 1] > 0.9, k


def test_absurd_parameters_are_drawn_within_limits(cut_and_truth):
    cut, truth = cut_and_truth
    for absurd in (torch.full_like(truth, 50.0), torch.full_like(truth, -50.0)):
        assert torch.isfinite(start_chi2(cut, absurd)).all()
