"""Errors where the model is wrong: pulls of nested apertures, coefficients, both errors."""

import dataclasses

import numpy as np
import pytest
import torch
from galaxies import known_segmentations

from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.fitting.model_error import (
    COEFFICIENTS,
    KINDS,
    ErrorModel,
    in_natural_terms,
    model_covariance,
)
from autofit_ml.fitting.residual_apertures import APERTURES
from autofit_ml.posterior.scenes import sample_fits, widened, with_posterior
from autofit_ml.scenes import sersic
from autofit_ml.scenes.layout import make_layout
from autofit_ml.simulation import compose_recipe, simulate_one
from autofit_ml.simulation.objects import to_stamps

OWN = list(range(7))


@pytest.fixture(scope="module")
def bulges():
    """8 bulges with discs at S/N 1000, and their fits with one Sérsic profile."""
    recipe = compose_recipe(["data=bulge_disc", "survey=sdss-r", "data.target.snr=[1000,1000]"])
    objects = [simulate_one(recipe, k, 7) for k in range(8)]
    settings = RefineSettings(keep=True)
    fits = refine(to_stamps(objects), segmentations=known_segmentations(objects), settings=settings)
    return objects, fits


def test_pulls_are_what_pixels_pull_and_all_together_pull_by_nothing(bulges):
    """Against the derivatives of every pixel: C J^T W r of an aperture."""
    fit = bulges[1][0]
    problem, theta = fit.problem, torch.as_tensor(fit.theta[None])
    at = torch.zeros(1, dtype=torch.int64)
    data = problem.images[0]
    model = sum(problem.component_images(at, theta, 0)) + problem.sky_image(at, theta, 0)
    score = (data.data - model) * data.root_weight**2
    pixels = problem.design(at, theta, 0) * score[:, None]
    white = torch.linalg.inv(problem.evaluate(at, theta).matrix[0])  # of uncorrelated noise
    whole = white @ pixels.to(torch.float64).sum((0, 2, 3))
    sigma = white.diagonal().sqrt().numpy()
    assert fit.pulls.shape == (7, len(APERTURES) - 1)
    assert (np.abs(whole[:7].numpy()) < 0.2 * sigma[:7]).all()  # a minimum
    x, y, re, q, pa = (fit[f"sersic.{name}"] for name in ("x", "y", "re", "q", "pa"))
    ny, nx = data.data.shape[1:]
    dx, dy = np.arange(nx) - x, np.arange(ny)[:, None] - y
    blur = (_fwhm(bulges) / 2) ** 2
    sin, cos = np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))
    along, across = -dx * sin + dy * cos, dx * cos + dy * sin
    radius = np.sqrt(along**2 / (re**2 + blur) + across**2 / ((q * re) ** 2 + blur))
    number = 1.6 * np.log1p((radius / 0.4) ** 2)
    for k in (0, 3, 9):
        inner = torch.as_tensor(np.clip(k + 1 - number, 0, 1)).to(pixels)
        direct = white @ (pixels * inner).to(torch.float64).sum((0, 2, 3))
        # float32 sums over 10 000 pixels against float64: a twentieth of an error
        assert np.allclose(fit.pulls[:, k], direct[:7], atol=0.05 * sigma[:7])


def test_a_wrong_profile_does_not_pull_at_the_centre_of_a_symmetric_galaxy(bulges):
    """Nor is its position's error larger than the noise's, though that of its flux is many times."""
    _, fits = bulges
    for name in ("x", "y"):
        pulls = [np.square(fit.pulls["xy".index(name)]).sum() for fit in fits]
        excess = np.array(pulls) / [fit.error_stat(f"sersic.{name}") ** 2 for fit in fits]
        assert np.median(excess) < 1.2  # under noise alone 0.5
        ratio = [fit.error(f"sersic.{name}") / fit.error_stat(f"sersic.{name}") for fit in fits]
        assert np.median(ratio) < 1.2
    assert np.median([fit.error("sersic.flux") / fit.error_stat("sersic.flux") for fit in fits]) > 4


def _fwhm(bulges):
    from autofit_ml.measure import psf_fwhm

    return psf_fwhm(to_stamps(bulges[0][:1])[0].psf)


def test_errors_hold_the_truth_where_those_of_the_noise_do_not(bulges):
    objects, fits = bulges
    for name in ("flux", "re", "q"):
        off = np.array([fit[f"sersic.{name}"] for fit in fits])
        off -= np.array([one.truth[name][0] for one in objects])
        total = np.array([fit.error(f"sersic.{name}") for fit in fits])
        noise = np.array([fit.error_stat(f"sersic.{name}") for fit in fits])
        assert np.median(np.abs(off) / noise) > 4  # the disease
        assert np.median(np.abs(off) / total) < 1.5
        assert np.mean(np.abs(off) < 2 * total) > 0.7
        assert np.median(np.abs(off) / total) > 0.3  # nor are they idle
        assert (total < 0.5 * np.array([fit[f"sersic.{name}"] for fit in fits])).all()
    for fit in fits:
        extra = np.linalg.eigvalsh(fit.cov - fit.cov_stat)
        assert extra.min() > -1e-6 * extra.max()
        assert fit.error("sky") == fit.error_stat("sky")


def test_the_term_vanishes_where_the_model_is_right(noisy):
    _, stamps, segmentations, _ = noisy
    fits = refine(stamps, segmentations=segmentations)
    ratio = fits.errors[:, :7] / fits.errors_stat[:, :7]
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) < 1.1
    plain = refine(stamps, segmentations=segmentations, settings=RefineSettings(model_error=False))
    assert np.array_equal(plain.errors, fits.errors_stat)
    assert np.array_equal(plain.errors, plain.errors_stat)


def test_images_unlike_those_of_the_weights_get_the_noise_alone_and_it_is_said(bulges):
    stamp = dataclasses.replace(to_stamps(bulges[0][:1])[0], pixel_scale=30.0)
    (fit,) = refine([stamp], segmentations=known_segmentations(bulges[0][:1]))
    assert np.array_equal(fit.errors, fit.errors_stat)
    assert "noise alone" in fit.message


def test_turning_the_image_turns_the_covariance(bulges):
    """The ellipticity has an error along and one across it, wherever it points."""
    fit = bulges[1][0]
    layout, model = make_layout(sersic()), ErrorModel()
    for k, name in enumerate(COEFFICIENTS):
        getattr(model, name)[:] = 0.5 + torch.arange(len(KINDS)) / (k + 2)
    theta, pulls = torch.as_tensor(fit.theta[None]), torch.as_tensor(fit.pulls[None])
    covariance = torch.as_tensor(fit.theta_cov_stat[None])
    angle = 0.7
    turn = torch.eye(8, dtype=torch.float64)
    turn[5:7, 5:7] = torch.tensor(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float64
    )
    added = model_covariance(model, layout, theta, covariance, OWN, pulls)
    turned = model_covariance(
        model, layout, theta @ turn.T, turn @ covariance @ turn.T, OWN, turn[:7, :7] @ pulls
    )
    assert torch.allclose(turned, turn @ added @ turn.T, rtol=1e-6, atol=1e-15)
    _, inner, _ = in_natural_terms(layout, theta, covariance, OWN, pulls)
    ln_re = (fit.error_stat("sersic.re") / fit["sersic.re"]) ** 2
    assert float(inner[0, 3, 3]) == pytest.approx(ln_re, rel=1e-6)


def test_samples_are_as_wide_as_the_total_error(bulges):
    bounds = np.array([[-np.inf], [np.inf]]) * np.ones(8)
    fit = dataclasses.replace(bulges[1][0], limits=bounds)
    generator = torch.Generator().manual_seed(3)
    root = torch.linalg.cholesky(
        torch.as_tensor(fit.theta_cov_stat) + 1e-18 * torch.eye(8, dtype=torch.float64)
    )
    draws = (
        torch.as_tensor(fit.theta)
        + torch.randn(20000, 8, generator=generator, dtype=torch.float64) @ root.T
    )
    spread = np.cov(widened(fit, draws).numpy().T)
    # 20 000 draws: 1 % of a standard deviation
    assert np.allclose(np.sqrt(np.diag(spread)), np.sqrt(np.diag(fit.theta_cov)), rtol=0.03)
    fit = bulges[1][0]
    (samples,) = sample_fits([fit], "laplace")
    sampled = with_posterior(fit, samples)
    at = [fit.names.index(f"sersic.{name}") for name in ("flux", "re")]
    assert np.allclose(sampled.errors[at], fit.errors[at], rtol=0.15)
    assert np.allclose(sampled.errors_stat[at], fit.errors_stat[at], rtol=0.15)
