"""Nested sampling: evidences that are known, and agreement with Hamiltonian Monte Carlo."""

import importlib
import math

import numpy as np
import pytest
import torch
from posterior_targets import RadialProfile, by_autograd

from autofit_ml.errors import SettingsError
from autofit_ml.posterior import (
    HMCSettings,
    NestedSettings,
    box_transform,
    sample_hmc,
    sample_nested,
)

pytest.importorskip("nautilus")


def quick(**more):
    return NestedSettings(live=250, effective=1000, batch=200, **more)


def test_evidence_of_a_gaussian():
    """Inside its box the Gaussian holds all its mass: Z = 1 / volume."""
    covariance = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.01]]).double()
    normal = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance)
    lower, upper = np.array([-8.0, -9.0, -1.0]), np.array([9.0, 8.0, 2.0])
    result = sample_nested(normal.log_prob, box_transform(lower, upper), "xyz", quick())
    assert result.complete
    assert result.names == ("x", "y", "z")
    assert 0.005 < result.log_evidence_err < 0.1
    assert abs(result.log_evidence + np.log(upper - lower).sum()) < 4 * result.log_evidence_err
    sd = covariance.diagonal().sqrt().numpy()
    error = 4.5 / math.sqrt(result.effective)
    weight = np.exp(result.log_weight)
    mean = weight @ result.points
    found = (result.points - mean).T * weight @ (result.points - mean)
    assert (np.abs(mean / sd) < error).all()
    assert (np.abs(found - covariance.numpy()) / np.outer(sd, sd) < 1.5 * error).all()
    draws = result.samples()
    assert draws.draws.shape == (1, 1, 4000, 3)
    assert draws.ok.all()
    assert (np.abs(draws.draws[0, 0].numpy().mean(0) / sd) < 1.5 * error).all()


def test_agrees_with_hmc_where_the_posterior_is_curved():
    """A faint galaxy with a free sky, n between hard bounds (see `RadialProfile`)."""
    problem = RadialProfile(snr=12.0, n=1.0, seed=3)
    nested = sample_nested(
        problem.log_likelihood,
        box_transform(problem.lower, problem.upper),
        problem.names,
        quick(),
    )
    theta, covariance = problem.fit()
    hmc = sample_hmc(
        by_autograd(lambda index, at: problem.log_likelihood(at)),
        theta[None], covariance[None], problem.lower[None], problem.upper[None], HMCSettings(draws=500, warmup=150, rounds=1),
    )  # fmt: skip
    assert (hmc.rhat < 1.015).all()
    draws = hmc.draws[0].flatten(0, 1).numpy()
    sd = draws.std(0)
    laplace_sd = covariance.diagonal().sqrt().numpy()
    # Curved: Laplace is off by more than the samplers' disagreement is allowed to be.
    shift = np.abs(draws.mean(0) - theta.numpy()) / np.minimum(sd, laplace_sd)
    assert (shift > 0.2).any()
    size = torch.minimum(hmc.ess_bulk[0], hmc.ess_tail[0]).numpy()
    error = np.sqrt(1 / size + 1 / nested.effective)
    mean = np.exp(nested.log_weight) @ nested.points
    assert (np.abs(draws.mean(0) - mean) < 4 * sd * error).all()
    # Medians and the ends of the 68 % and 95 % intervals, as ranks in the other's draws.
    for share in (0.025, 0.16, 0.5, 0.84, 0.975):
        for k in range(4):
            rank = np.exp(nested.log_weight) @ (
                nested.points[:, k] < np.quantile(draws[:, k], share)
            )
            assert abs(rank - share) < 4 * math.sqrt(share * (1 - share)) * error[k] + 2e-3


def test_a_limit_of_evaluations():
    result = sample_nested(
        lambda theta: -0.5 * theta.square().sum(1),
        box_transform([-5.0, -5.0], [5.0, 5.0]),
        ["a", "b"],
        quick(most_evaluations=1000),
    )
    assert not result.complete
    assert not result.samples().ok.any()


def test_likelihoods_that_are_not_finite():
    def half(theta):
        return torch.where(theta[:, 0] > 0, torch.nan, -0.5 * theta.square().sum(1))

    result = sample_nested(half, box_transform([-5.0, -5.0], [5.0, 5.0]), ["a", "b"], quick())
    assert (result.draws[:, 0] <= 0).all()
    expected = math.log(math.pi / 100)  # half of 2 pi over the volume
    assert abs(result.log_evidence - expected) < 5 * result.log_evidence_err


def test_wrong_use(monkeypatch):
    with pytest.raises(SettingsError, match="finite box"):
        box_transform([0.0, -math.inf], [1.0, 1.0])
    with pytest.raises(SettingsError, match="two at least"):
        sample_nested(lambda t: t[:, 0], box_transform([0.0], [1.0]), ["a"])
    with pytest.raises(SettingsError):
        NestedSettings(live=0)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SettingsError, match="nautilus-sampler"):
        sample_nested(lambda t: t[:, 0], box_transform([0.0, 0.0], [1.0, 1.0]), ["a", "b"])
