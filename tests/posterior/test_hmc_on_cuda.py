"""Chains on a GPU: nothing is left on the host, which waits once a step and once a wall."""

import math

import pytest
import torch
from fake_cuda import fake_cuda

from autofit_ml.posterior import HMCSettings, flow, sample_hmc
from autofit_ml.posterior.chains import start_chains
from autofit_ml.posterior.flow import harmonic_flow
from autofit_ml.posterior.laplace import sample_laplace
from autofit_ml.posterior.reference import laplace_reference

B, D = 3, 4


def gaussian(index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return -theta.square().sum(1) / 2, -theta


def target() -> tuple[torch.Tensor, ...]:
    """Modes, covariances, bounds."""
    theta = torch.zeros(B, D, dtype=torch.float64, device="cuda")
    covariance = torch.eye(D, dtype=torch.float64, device="cuda").expand(B, D, D)
    return theta, covariance, theta - 1, theta + 1


def test_walls_cost_one_wait_each(monkeypatch):
    waits = []
    for walls in (1, 4):
        monkeypatch.setattr(flow, "_MOST_HITS", walls)
        with fake_cuda() as decisions:
            theta, covariance, lower, upper = target()
            z, p, _ = harmonic_flow(theta, theta, theta[:, 0], covariance, lower, upper)
            assert z.device.type == p.device.type == "cuda"
            waits.append(decisions.waits)
    assert waits == [1 + 1, 1 + 4]


@pytest.mark.parametrize("retry", [0, 2])
def test_a_step_waits_once_a_gradient(monkeypatch, retry):
    """And once for the walls' entry and each wall; three times for second proposals."""
    monkeypatch.setattr(flow, "_MOST_HITS", 1)
    waits = []
    for steps in (2, 5):
        settings = HMCSettings(chains=2, max_steps=steps, retry=retry)
        with fake_cuda() as decisions:
            theta, covariance, lower, upper = target()
            reference, good = laplace_reference(theta, covariance, lower, upper)
            keys = torch.arange(B, device="cuda")
            chains = start_chains(gaussian, theta, lower, upper, reference, good, settings, keys)
            before = decisions.waits
            accept = chains.step()
            assert accept.device.type == chains.theta.device.type == "cuda"
            waits.append(decisions.waits - before)
    travels = (
        3 * retry or 1
    )  # first proposals, second ones there and back; without values all go on
    assert waits[1] - waits[0] == travels * (5 - 2) * (1 + 1 + 1)


@pytest.mark.parametrize("answer", [False, True])
def test_samples(monkeypatch, answer):
    """Warm-up, reference, draws and diagnostics."""
    monkeypatch.setattr(flow, "_MOST_HITS", 1)
    settings = HMCSettings(chains=2, draws=10, warmup=20, rounds=1, max_steps=1, retry=0)
    with fake_cuda(answer):
        theta, covariance, lower, upper = target()
        for made in (
            sample_hmc(gaussian, theta, covariance, lower, upper, settings),
            sample_laplace(theta, covariance, lower, upper),
        ):
            assert made.draws.device.type == made.rhat.device.type == "cuda"
            assert made.draws.shape[-1] == D and math.prod(made.ok.shape) == B
