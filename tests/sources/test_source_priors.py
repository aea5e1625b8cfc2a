"""Priors: normalised, like the population they come from, in any bands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.scenes.populations import CELESTE, read_population, read_populations
from autofit_ml.sources.priors import Band, make_prior

STARS, GALAXIES = read_populations(CELESTE)
BANDS = [Band(name, 22.5) for name in "ugriz"]


def ln_fluxes(found: dict[str, np.ndarray]) -> np.ndarray:
    """ln nanomaggies in ugriz."""
    r = found["mag"]
    g, i = r + found["g-r"], r - found["r-i"]
    magnitudes = np.stack([g + found["u-g"], g, r, i, i - found["i-z"]], 1)
    return 0.4 * math.log(10) * (22.5 - magnitudes)


@pytest.mark.parametrize("population", [STARS, GALAXIES], ids=["stars", "galaxies"])
def test_fluxes_are_those_of_the_population(population):
    prior = make_prior(population, BANDS, 0.396)
    drawn = ln_fluxes(population.draw(20_000, 1))
    weights = prior.log_weights + torch.log(torch.linalg.det(torch.linalg.inv(prior.factors)))
    weights = torch.softmax(weights, 0).numpy()
    mean = weights @ prior.means.numpy()
    # 20 000 draws: means to a hundredth of the scatter, five of them.
    assert mean[:5] == pytest.approx(drawn.mean(0), abs=0.05 * drawn.std())


@pytest.mark.parametrize("shape", ["exp_dev", "sersic"])
def test_the_density_of_a_galaxy_integrates_to_one(shape):
    prior = make_prior(GALAXIES, BANDS[1:3], 0.396, shape)
    random = np.random.default_rng(2)
    n, width = 400_000, np.array([1, 1, 2.5, 2.5, 1.6, 2.5, 1.2, 1.2])
    theta = np.zeros((n, 8))
    theta[:, 2:4] = prior.means[:, :2].numpy().mean(0)
    z = random.standard_normal((n, 8))
    theta = theta + width * z
    log_q = -0.5 * (z[:, 2:] ** 2).sum(1) - np.log(width[2:]).sum() - 3 * math.log(2 * math.pi)
    weight = np.exp(prior.log_density(torch.as_tensor(theta)).numpy() - log_q)
    error = weight.std() / n**0.5
    assert error < 0.03
    assert weight.mean() == pytest.approx(1.0, abs=4 * error)


def test_axis_ratios_are_those_of_the_population():
    """Of draws from the prior, Beta(2, 2) has the mean 0.5 and the scatter 0.22."""
    prior = make_prior(GALAXIES, BANDS[2:3], 0.396)
    eta = np.linspace(-6, 6, 301)
    grid = np.stack(np.meshgrid(eta, eta), -1).reshape(-1, 2)
    theta = torch.zeros((len(grid), 7), dtype=torch.float64)
    theta[:, 5:] = torch.as_tensor(grid)
    # at one size: ln re, not ln rc
    theta[:, 3] = -torch.as_tensor(np.hypot(np.hypot(*grid.T), 0.4) - 0.4) / 2
    density = prior.log_density(theta).exp().numpy()
    q = np.exp(-np.hypot(*grid.T))
    assert np.average(q, weights=density) == pytest.approx(0.5, abs=0.04)


def test_a_band_that_the_population_does_not_know_says_little():
    prior = make_prior(STARS, [*BANDS, Band("y", 22.5)], 0.396)
    theta = torch.zeros((2, 8), dtype=torch.float64)
    theta[:, 2:] = 1.0
    theta[1, 7] += 0.92  # a magnitude
    near, far = prior.log_density(theta)
    assert 0.0 <= float(near - far) < 0.8


def test_names_of_bands_are_read_as_files_have_them():
    known = make_prior(STARS, [Band("SDSS r", 22.5)], 0.396)
    assert torch.allclose(known.means, make_prior(STARS, [Band("r", 22.5)], 0.396).means)


def test_what_depends_on_the_magnitude_does_so(tmp_path):
    file = tmp_path / "galaxies.yaml"
    file.write_text(
        "name: g\ntype: galaxy\nparameters:\n"
        "  mag: {normal: [20, 1], unit: mag, band: r}\n"
        "  ln_re: {on: mag, at: 20, mean: 0.0, slope: -0.5, scatter: 0.1, unit: arcsec}\n"
    )
    prior = make_prior(read_population(file), [Band("r", 22.5)], 1.0)
    theta = torch.zeros((2, 7), dtype=torch.float64)
    theta[:, 2] = 0.4 * math.log(10) * (22.5 - 19.0)  # a magnitude brighter: ln re is 0.5
    theta[0, 3], theta[1, 3] = 0.5, 0.0
    right, wrong = prior.log_density(theta)
    assert float(right - wrong) == pytest.approx(0.5 * 25, rel=0.01)


def test_a_distribution_without_a_density_here_is_refused(tmp_path):
    file = tmp_path / "galaxies.yaml"
    file.write_text(
        "name: g\ntype: galaxy\nparameters:\n  mag: {log-normal: [20, 1], unit: mag, band: r}\n"
    )
    with pytest.raises(SettingsError, match="mag: log-normal"):
        make_prior(read_population(file), BANDS, 1.0)
