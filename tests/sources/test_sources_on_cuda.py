"""The density of sources and its minimum on a GPU: nothing is left on the host."""

import dataclasses

import pytest
import torch
from fake_cuda import fake_cuda, on_cuda
from test_posteriors import GALAXY, problem_of

from autofit_ml.fitting.levenberg_marquardt import LMSettings, minimise
from autofit_ml.profiles import get_profile
from autofit_ml.profiles.tables import profile_table
from autofit_ml.rendering import component, make_plan
from autofit_ml.sources.problem import BandPatch


def moved(band: BandPatch) -> BandPatch:
    """A band's patches on the GPU, with a plan and PSFs that are made there."""
    plan = make_plan(band.plan.shape, device="cuda")
    psf = torch.ones(1, plan.n_modes, dtype=torch.complex64, device="cuda")
    return dataclasses.replace(on_cuda(band), plan=plan, psf=psf, placement=on_cuda(band.placement))


@pytest.mark.parametrize("kind", [0, 1], ids=["star", "galaxy"])
def test_density_and_minimum(kind, monkeypatch):
    made = {"exp_dev": profile_table(get_profile("exp_dev"))}
    monkeypatch.setattr(component, "profile_table", lambda profile: made[profile.name])
    problem, theta = problem_of(kind, [GALAXY], "poisson", turn=30.0, scale=0.5)
    with fake_cuda(True) as decisions:
        bands = tuple(moved(band) for band in problem.bands)
        there = dataclasses.replace(problem, bands=bands, prior=on_cuda(problem.prior))
        theta = torch.zeros(theta.shape, dtype=theta.dtype, device="cuda")
        index = torch.zeros(1, dtype=torch.int64, device="cuda")
        state = there.pixels(index, theta)
        # The prior's slope comes from autograd, whose engine asks for a real device.
        prior = there.prior.log_density(theta)
        for tensor in (state.chi2, state.gradient, state.matrix, prior):
            assert tensor.device.type == "cuda"
        assert there.measure(index, theta).device.type == "cuda"
        assert all(image.device.type == "cuda" for image in there.images(index, theta))
        before = decisions.waits
        found = minimise(
            there.pixels, theta, theta - 1, theta + 1, torch.ones_like(theta[0]),
            LMSettings(max_iterations=4), there.measure,
        )  # fmt: skip
        assert found.theta.device.type == "cuda"
        assert decisions.waits - before == 4
