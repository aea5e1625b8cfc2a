"""chi2, gradient and Gauss-Newton matrix of scenes, against finite differences."""

import dataclasses

import numpy as np
import pytest
import torch
from scene_samples import bulge_and_disc, scene_object, single, stamp_of, starts_of, wcs_of

from autofit_ml.fitting import Likelihood, RefineSettings, join_images
from autofit_ml.fitting.batch import SceneBatch, search_blocks
from autofit_ml.fitting.first_guess import starts_of as first_guess
from autofit_ml.fitting.first_guess import with_neighbours
from autofit_ml.fitting.fit import _member
from autofit_ml.scenes import log_normal, normal, parse_model, read_model
from autofit_ml.scenes.layout import make_layout
from autofit_ml.scenes.model import Parameter

TIED = """
components:
  bulge: {profile: sersic, n: {prior: {log-normal: [3, 0.3]}}}
  disk: {profile: exponential, x: bulge.x, y: bulge.y, re: 2.5 * bulge.re, pa: {fixed: 40}}
sky: tilted
constraints: [disk.flux > bulge.flux]
"""


def problem_of(
    objects, scene, starts, *, bands=("",), blocks=None, dtype=torch.float64, **settings
):
    """A problem, its start, and the layout."""
    made = RefineSettings(**settings)
    members = [_member(k, one, starts, made) for k, one in enumerate(objects)]
    kinds = [item.profile for item in members[0].neighbours]
    modes = [0 if c is None else len(c) for c in members[0].psf_changes]
    layout = make_layout(with_neighbours(scene, kinds), bands, None, modes if any(modes) else ())
    batch = SceneBatch(members, layout, made, dtype)
    theta, *_ = first_guess(batch, scene, np.arange(len(objects)))
    if blocks == "search":
        blocks = search_blocks(members[0])
        assert max(blocks) > 1
    everyone = torch.arange(len(objects))
    return batch.problem(made.wide, everyone, blocks), theta[:, 0], layout


def check(problem, theta):
    """Gradient = -1/2 d chi2 by central differences, in double precision.

    Steps of 1e-3 standard deviations: their third-order error is under 1e-4 of one.
    """
    index = torch.arange(len(theta))
    state = problem.evaluate(index, theta)
    sigma = state.matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-12).rsqrt()
    for j in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[:, j] = 1e-3 * sigma[:, j]
        high = problem.evaluate(index, theta + step).chi2
        low = problem.evaluate(index, theta - step).chi2
        slope = -(high - low) / (4 * step[:, j])
        error = (state.gradient[:, j] - slope).abs() * sigma[:, j]
        size = 1 + (state.gradient[:, j] * sigma[:, j]).abs()
        assert float((error / size).max()) < 1e-4, (j, error, size)
    return state


@pytest.fixture(scope="module")
def galaxies():
    return [scene_object(bulge_and_disc(share=s), seed=k) for k, s in enumerate((0.3, 0.6))]


@pytest.fixture(scope="module")
def starts():
    return starts_of(bulge_and_disc(), bulge_and_disc())


@pytest.mark.parametrize("model", ["sersic", "sersic+exp", "psf+sersic", "moffat"])
def test_gradient_of_models(galaxies, starts, model):
    check(*problem_of(galaxies, parse_model(model), starts)[:2])


def test_gradient_with_ties_priors_and_constraints(galaxies, starts, tmp_path):
    (tmp_path / "model.yaml").write_text(TIED)
    problem, theta, layout = problem_of(galaxies, read_model(tmp_path / "model.yaml"), starts)
    assert layout.sky_terms == 3
    assert not layout.linear
    check(problem, theta)


@pytest.mark.parametrize("name", ["student-t:3", "huber", "cauchy", "poisson"])
def test_gradient_of_likelihoods(galaxies, starts, name):
    check(
        *problem_of(galaxies, parse_model("sersic"), starts, likelihood=Likelihood.parse(name))[:2]
    )


def test_gradient_on_binned_images(starts):
    """Blocks are an affine map with averaged pixels."""
    large = [scene_object(single(re=9.0, flux=40000.0), seed=4, shape=(64, 64))]
    problem, theta, _ = problem_of(
        large, parse_model("sersic", sky="tilted"), starts.some([0]), blocks="search"
    )
    check(problem, theta)


def test_gradient_with_neighbours(starts):
    pair = scene_object(single(), [single(x=33.0, y=30.0, flux=3000.0, re=3.0, pa=100.0)], seed=5)
    problem, theta, layout = problem_of([pair], parse_model("sersic"), starts_of(single()))
    assert "neighbour_1.ln_flux" in layout.names
    check(problem, theta)


def test_gradient_with_a_fitted_psf(starts):
    stamp, found = stamp_of(single(), seed=6)
    rng = np.random.default_rng(1)
    modes = 0.01 * stamp.psf.data.max() * rng.normal(size=(2, *stamp.psf.data.shape))
    psf = dataclasses.replace(stamp.psf, modes=modes.astype(np.float32))
    one = dataclasses.replace(scene_object(single()), stamps=(stamp.replace(psf=psf),))
    problem, theta, layout = problem_of([one], parse_model("sersic"), starts_of(single()))
    assert layout.names[-2:] == ("psf_1", "psf_2")
    theta[:, -2:] = torch.tensor([[0.7, -1.2]], dtype=torch.float64)
    check(problem, theta)
    assert found.target == 1


@pytest.mark.parametrize(
    ("angle", "scale", "mirrored"), [(0.0, 0.2, False), (35.0, 0.11, False), (120.0, 0.3, True)]
)
def test_gradient_over_images_of_other_pixels(angle, scale, mirrored):
    """Rotated, mirrored, of another scale: positions, sizes and directions follow the WCS."""
    first, found = stamp_of(single(), seed=7)
    second, _ = stamp_of(single(), seed=8)
    first = first.replace(wcs=wcs_of(0.2), pixel_scale=0.2)
    second = second.replace(
        wcs=wcs_of(scale, angle, mirrored=mirrored), pixel_scale=scale, filter="r"
    )
    one = join_images([first, second], found)
    problem, theta, _ = problem_of(
        [one], parse_model("sersic"), starts_of(single()), bands=("g", "r")
    )
    check(problem, theta)


def test_log_density_has_the_priors_measure(galaxies, starts):
    """ln p = -chi2/2 + ln prior; its gradient by differences; a uniform q has the volume in it."""
    scene = parse_model("sersic")
    parts = scene.components[0]
    changed = dataclasses.replace(
        parts,
        parameters={
            **parts.parameters,
            "n": Parameter(prior=log_normal(2.0, 0.3)),
            "x": Parameter(prior=normal(24.0, 0.5)),
        },
    )
    scene = dataclasses.replace(scene, components=(changed,))
    problem, theta, _ = problem_of(galaxies, scene, starts)
    index = torch.arange(len(theta))
    _, slope = problem.log_density(index, theta)
    sigma = problem.evaluate(index, theta).matrix.diagonal(dim1=1, dim2=2).rsqrt()
    for j in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[:, j] = 1e-3 * sigma[:, j]
        high, _ = problem.log_density(index, theta + step)
        low, _ = problem.log_density(index, theta - step)
        difference = (high - low) / (2 * step[:, j])
        error = (slope[:, j] - difference).abs() * sigma[:, j]
        assert float((error / (1 + (slope[:, j] * sigma[:, j]).abs())).max()) < 1e-4


def test_an_object_does_not_depend_on_its_batch(galaxies, starts):
    """To rounding: ten times less than what a step of the fit can see."""
    scene = parse_model("sersic+exp")
    both, theta, _ = problem_of(galaxies, scene, starts, dtype=torch.float32)
    alone, theta_alone, _ = problem_of(galaxies[1:], scene, starts.some([1]), dtype=torch.float32)
    a = both.evaluate(torch.arange(2), theta)
    b = alone.evaluate(torch.arange(1), theta_alone)
    torch.testing.assert_close(theta[1:], theta_alone, rtol=0, atol=0)
    assert float((a.chi2[1] - b.chi2[0]).abs()) < 1e-4 * float(b.chi2[0]) * 0.1
