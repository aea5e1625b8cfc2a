"""The density of sources and what is made of it: derivatives, errors, evidences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skies import Known, drawn, pixels

from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.images.stamp import Frame
from autofit_ml.settings import SourceSettings
from autofit_ml.sources.blends import with_blends
from autofit_ml.sources.field import make_field
from autofit_ml.sources.fluxes import solve_fluxes, templates
from autofit_ml.sources.gaussians import variational
from autofit_ml.sources.infer import make_priors
from autofit_ml.sources.laplace import laplace
from autofit_ml.sources.problem import SourceProblem
from autofit_ml.sources.scan import Scan, Starts, maxima

GALAXY = Known(0.3, -0.2, {"g": 4.0, "r": 8.0}, 0.9, 0.6, 40.0, 0.3)


def problem_of(kind: int, sources: list[Known], likelihood: str = "gaussian", **second) -> tuple:
    """The problem of one source in g and r, the latter on other pixels, and a point near it."""
    frames = [
        drawn(sources, "g", side=48, noise=1.0),
        drawn(sources, "r", side=64, noise=1.0, seed=2, **second),
    ]
    field = make_field(frames, ["g", "r"], [0.0, 0.0])
    x, y = pixels(sources[0], frames[0])
    anchor = np.rint([[x, y]]).astype(int)
    patches, _ = field.patches(40, anchor, [torch.zeros((1, 40, 40))] * 2)
    prior = make_priors(field, SourceSettings())[kind]
    one = sources[0]
    ln_flux = [
        math.log(one.flux[b] / band.scale) for b, band in zip("gr", field.bands, strict=True)
    ]
    theta = [x - anchor[0, 0], y - anchor[0, 1], *ln_flux]
    if kind:
        e, turn = -math.log(one.q), 2 * math.radians(one.pa + 90)
        rc = one.re * math.sqrt(one.q) / frames[0].pixel_scale
        share = min(max(one.dev, 0.01), 0.99)
        inner = math.log(share / (1 - share))
        theta += [math.log(rc), inner, e * math.cos(turn), e * math.sin(turn)]
    problem = SourceProblem(prior, patches, Likelihood.parse(likelihood))
    return problem, torch.tensor([theta], dtype=torch.float64)


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
@pytest.mark.parametrize("kind", [0, 1], ids=["star", "galaxy"])
def test_the_gradient_is_that_of_the_density(kind, likelihood):
    problem, theta = problem_of(kind, [GALAXY], likelihood, turn=30.0, scale=0.5, mirrored=True)
    index = torch.zeros(1, dtype=torch.int64)
    _, gradient = problem.log_density(index, theta + 0.05)
    for k in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[0, k] = 0.02
        high, low = (problem.measure(index, theta + 0.05 + sign * step) for sign in (1, -1))
        numeric = float(low - high) / 2 / 0.04
        scale = float(problem.evaluate(index, theta).matrix[0, k, k]) ** 0.5
        assert float(gradient[0, k]) == pytest.approx(
            numeric, abs=0.02 * scale + 0.01 * abs(numeric)
        )


def test_photons_do_not_make_an_undersampled_psf_better_known():
    """Errors of a bright star are those of the Gaussian likelihood, and not of photons alone."""
    star = Known(0.13, 0.07, {"r": 400.0})
    frame = drawn([star], "r", side=48, fwhm=0.8)
    field = make_field([photons(frame)], ["r"], [0.0])
    (x, y), (band,) = pixels(star, frame), field.bands
    anchor = np.rint([[x, y]]).astype(int)
    theta = torch.tensor([[x - anchor[0, 0], y - anchor[0, 1], math.log(400.0 / band.scale)]])
    none = torch.zeros((1, 40, 40))
    prior, index = make_priors(field, SourceSettings())[0], torch.zeros(1, dtype=torch.int64)
    first, _ = field.patches(40, anchor, [none])
    own = SourceProblem(prior, first, Likelihood("gaussian")).images(index, theta.double())
    error = {}
    for light in (none, own[0]):
        (patch,), _ = field.patches(40, anchor, [light])
        patches = (replace(patch, others=none),)
        for name in ("gaussian", "poisson"):
            known = SourceProblem(prior, patches, Likelihood(name)).pixels(index, theta.double())
            error[name, light is none] = float(known.matrix[0, 0, 0]) ** -0.5
    assert error["poisson", True] == pytest.approx(error["gaussian", True], rel=0.02)
    assert error["poisson", False] == pytest.approx(error["gaussian", False], rel=0.02)
    assert error["poisson", False] > 2 * error["poisson", True]


def photons(frame: Frame) -> Frame:
    """The same with the noise of its electrons (drawn without any)."""
    variance = frame.sigma**2 + np.clip(frame.data, 0, None) / frame.gain
    return frame.replace(sigma=np.sqrt(variance).astype(np.float32))


def test_the_truth_fits_on_pixels_that_are_turned_mirrored_and_of_another_size():
    problem, theta = problem_of(1, [GALAXY], turn=30.0, scale=0.5, mirrored=True)
    chi2 = problem.pixels(torch.zeros(1, dtype=torch.int64), theta).chi2
    n = 2 * 40 * 40
    assert float(chi2) == pytest.approx(n, abs=4 * math.sqrt(2 * n))


def test_the_error_of_a_bright_star_is_that_of_its_photons():
    star = Known(0.0, 0.0, {"g": 20.0, "r": 30.0})
    problem, theta = problem_of(0, [star])
    index = torch.zeros(1, dtype=torch.int64)
    theta = maxima(problem, index, [theta]).theta
    found = laplace(problem, index, theta)
    for b in range(2):
        image = problem.design(index, theta, b)[0, 2 + b] * problem.bands[b].root[0]
        expected = float(image.square().sum()) ** -0.5
        assert float(found.covariance[0, 2 + b, 2 + b]) ** 0.5 == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", [0, 1], ids=["star", "galaxy"])
def test_evidences_and_moments_are_those_of_importance_sampling(kind):
    """Laplace, and the variational bound below it, of a faint galaxy."""
    faint = Known(0.3, -0.2, {"g": 2.0, "r": 3.5}, 0.6, 0.6, 40.0, 0.3)
    problem, theta = problem_of(kind, [faint])
    index = torch.zeros(1, dtype=torch.int64)
    theta = maxima(problem, index, [theta]).theta
    found = laplace(problem, index, theta)
    bound = variational(problem, index, found)
    d, n, nu = theta.shape[1], 5_000, 5.0
    random = np.random.default_rng(1)
    z = random.standard_normal((n, d)) / np.sqrt(random.chisquare(nu, (n, 1)) / nu)
    root = torch.linalg.cholesky(1.5 * found.covariance[0])
    points = found.mean + torch.as_tensor(z) @ root.T
    log_p = -problem.measure(torch.zeros(n, dtype=torch.int64), points) / 2
    prior = problem.prior
    log_p += prior.log_density(points, exact=True) - prior.log_density(points)
    log_q = torch.as_tensor(
        math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        - (nu + d) / 2 * np.log1p((z**2).sum(1) / nu)
    ) - root.diagonal().log().sum()  # fmt: skip
    weight = (log_p - log_q - (log_p - log_q).max()).exp()
    evidence = float(torch.logsumexp(log_p - log_q, 0)) - math.log(n)
    mean = (weight[:, None] * points).sum(0) / weight.sum()
    sd = ((weight[:, None] * (points - mean).square()).sum(0) / weight.sum()).sqrt()
    assert float(found.log_evidence) == pytest.approx(evidence, abs=0.3)
    assert evidence - 0.8 < float(bound.log_evidence) < evidence + 0.1
    for one in (found, bound):
        assert ((one.mean[0] - mean) / sd).abs().max() < 0.5
        ratio = one.covariance[0].diagonal().sqrt() / sd
        # Position and fluxes; the shape of a faint galaxy is no Gaussian.
        assert float(ratio[:4].min()) > 0.85 and float(ratio[:4].max()) < 1.2
        assert float(ratio.min()) > 0.6 and float(ratio.max()) < 1.4


def test_fluxes_of_a_blend_are_exact_without_noise_and_their_errors_are_of_both():
    pair = [Known(-0.6, 0.0, {"g": 5.0}), Known(0.6, 0.1, {"g": 2.0}, 0.8, 0.7, 20.0, 0.5)]
    frame = drawn(pair, "g", side=64)
    field = make_field([frame], ["g"], [0.0])
    at = np.array([pixels(one, frame) for one in pair])
    anchor = np.rint(at).astype(int)
    one = pair[1]
    e, turn = -math.log(one.q), 2 * math.radians(one.pa + 90)
    rc = math.log(one.re * math.sqrt(one.q) / frame.pixel_scale)
    shape = np.hstack([at - anchor, [[0.0] * 4, [rc, 0.0, e * math.cos(turn), e * math.sin(turn)]]])
    priors = make_priors(field, SourceSettings())
    side = np.array([48, 48])
    (drawn_,) = templates(field, priors, anchor, side, np.array([True, False]), shape)
    found = solve_fluxes(drawn_)
    assert found.flux * field.first.scale == pytest.approx([5.0, 2.0], rel=2e-3)
    alone = [
        float((g * w).square().sum()) ** -0.5
        for g, w in zip(drawn_.images, drawn_.root, strict=True)
    ]
    assert (found.error > 1.05 * np.array(alone)).all()
    assert found.covariance[[0], [1]][0] < 0
    assert len(set(found.group)) == 1


def test_errors_in_a_blend_hold_what_both_sources_are_free_to_do():
    """Pairs of stars a seeing apart: errors of one alone are a third too small."""
    step, number = 20.0, 24
    at = [(6 * step / 2 - step * (k % 6) - 10, step * (k // 6) - 40) for k in range(number)]
    random = np.random.default_rng(3)
    pairs = []
    for east, north in at:
        turn = random.uniform(0, 2 * math.pi)
        dx, dy = 0.55 * math.cos(turn), 0.55 * math.sin(turn)
        pairs += [Known(east + s * dx, north + s * dy, {"g": f}) for s, f in ((1, 2.0), (-1, 3.0))]
    frame = drawn(pairs, "g", side=320, noise=1.0)
    field = make_field([frame], ["g"], [0.0])
    xy = np.array([pixels(one, frame) for one in pairs])
    flux = np.array([[one.flux["g"] / field.first.scale] for one in pairs])
    n = len(pairs)
    starts = Starts(*xy.T, flux, np.ones(n), np.zeros((n, 2)), np.full(n, 32))
    scan = Scan(field, starts, make_priors(field, SourceSettings()), Likelihood())
    scan.run(12)
    alone = scan.posterior("laplace")
    joint = with_blends(scan, alone)
    truth = np.log(flux[:, 0])
    spread = []
    for posterior in (alone, joint):
        star = posterior.p_star > 0.5
        pull = (posterior.stars.mean[:, 2].numpy() - truth) / posterior.stars.covariance[
            :, 2, 2
        ].sqrt().numpy()
        spread.append(1.4826 * np.median(abs(pull[star])))
    assert spread[1] < 0.9 * spread[0]
    assert spread[1] == pytest.approx(1.0, abs=0.3)
