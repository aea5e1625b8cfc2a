"""R-hat and effective sample sizes against ArviZ, and on chains whose size is known."""

import warnings

import numpy as np
import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.diagnostics import diagnose, normal_scores


def autoregressive(phi, chains, draws, rng):
    x = np.zeros((chains, draws))
    noise = rng.standard_normal((chains, draws))
    x[:, 0] = noise[:, 0] / np.sqrt(1 - phi**2)
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + noise[:, t]
    return x


def test_agrees_with_arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announces its next version
        arviz = pytest.importorskip("arviz")
    rng = np.random.default_rng(0)
    for draws in (12, 50, 103, 400):
        chains = []
        for phi in (-0.5, 0.0, 0.6, 0.97):
            x = autoregressive(phi, 4, draws, rng)
            x[0] += 0.1
            # As it is; with ties, as rejections make them; heavy tails; few values.
            chains += [x, x[:, np.arange(draws) // 2 * 2], np.sinh(2 * x), np.round(x)]
        mine = diagnose(torch.tensor(np.stack(chains, axis=-1))[None])
        for i, x in enumerate(chains):
            expected = [arviz.rhat(x), arviz.ess(x, method="bulk"), arviz.ess(x, method="tail")]
            got = [float(field[0, i]) for field in mine]
            np.testing.assert_allclose(got[:2], np.array(expected[:2], dtype=float), rtol=1e-6)
            if i % 4 in (0, 2):
                # With ties ArviZ's quantile may miss the tie by rounding: then nothing to compare.
                np.testing.assert_allclose(got[2], float(expected[2]), rtol=1e-6)


def test_known_sizes():
    rng = np.random.default_rng(1)
    phi = np.array([-0.4, 0.0, 0.5, 0.8])
    x = np.stack([autoregressive(p, 4, 4000, rng) for p in phi], axis=-1)
    rhat, bulk, tail = diagnose(torch.tensor(x)[None])
    # An AR(1) chain of N is worth N (1 - phi) / (1 + phi); the estimate is good to some 10 %.
    np.testing.assert_allclose(bulk[0], 16000 * (1 - phi) / (1 + phi), rtol=0.15)
    assert (rhat < 1.01).all()
    assert ((rhat - 1).abs() < 0.01).all()
    assert (tail > 0.5 * bulk.clamp_max(16000)).all()


def test_disagreeing_chains():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 500, 1, generator=generator)
    x[0, 2] += 1.0  # another mean
    x[1, 1] *= 3.0  # another width: seen by the folded scores only
    x[2, :, 250:] += 1.0  # moves on: seen by the halves only
    rhat, _, _ = diagnose(x)
    assert (rhat[:, 0] > 1.05).all()


def test_parameters_that_do_not_move():
    x = torch.randn(2, 4, 100, 3, generator=torch.Generator().manual_seed(0))
    x[0, :, :, 1] = 7.0
    x[1, 2, 50, 2] = torch.nan
    for field in diagnose(x):
        assert torch.isnan(field).nonzero().tolist() == [[0, 1], [1, 2]]


def test_objects_do_not_matter_to_each_other(monkeypatch):
    x = torch.randn(7, 4, 60, 3, generator=torch.Generator().manual_seed(0))
    together = diagnose(x)
    monkeypatch.setattr("autofit_ml.posterior.diagnostics._ROWS", 1)
    for a, b in zip(together, diagnose(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_scores_of_ties():
    scores = normal_scores(torch.tensor([[3.0, 1.0, 3.0, 2.0]]))
    assert scores[0, 0] == scores[0, 2]
    assert scores[0, 1] < scores[0, 3] < scores[0, 0]


def test_too_few_draws():
    with pytest.raises(SettingsError, match="too few"):
        diagnose(torch.zeros(1, 2, 5, 1))
