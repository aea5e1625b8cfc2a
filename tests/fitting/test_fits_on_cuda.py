"""The fit on a GPU: problem, minimiser and linear fluxes leave nothing on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda

from autofit_ml.fitting import Likelihood, RefineSettings, SceneObject, join_images, object_of
from autofit_ml.fitting.batch import Member, SceneBatch
from autofit_ml.fitting.first_guess import bounds_of
from autofit_ml.fitting.levenberg_marquardt import LMSettings, minimise
from autofit_ml.fitting.linear_fluxes import with_best_fluxes
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.images.psf import moffat_psf
from autofit_ml.images.stamp import Stamp
from autofit_ml.profiles import get_profile
from autofit_ml.profiles.tables import profile_table
from autofit_ml.rendering import component
from autofit_ml.scenes import parse_model
from autofit_ml.scenes.layout import make_layout
from autofit_ml.segmentation import Segmentation

SIDE = 40


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Tables of profiles, which are made once, on the host."""
    names = ("sersic", "exponential", "moffat")
    made = {name: profile_table(get_profile(name)) for name in names}
    monkeypatch.setattr(component, "profile_table", lambda profile: made[profile.name])


def member(number: int, images: int = 1) -> Member:
    """An object of one or several images without neighbours."""
    ones = np.ones((SIDE, SIDE), np.float32)
    stamps = [
        Stamp(f"{number}-{k}", ones, ones, ones == 0, moffat_psf(3.0), gain=5.0)
        for k in range(images)
    ]
    found = Segmentation(np.ones((SIDE, SIDE), np.int32), 1, ones == 0, 0.0, 1.0)
    one: SceneObject = object_of(stamps[0], found) if images == 1 else join_images(stamps, found)
    start = np.array([19.0, 20.0, 1e3, 4.0, 2.0, 0.7, 30.0, 0.0])
    nothing = np.zeros((8, 8))
    return Member(number, one, start, nothing, [], found.contaminants, (None,) * images)


def problem_on_cuda(
    model: str, images: int, **settings: object
) -> tuple[SceneBatch, SceneProblem, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of three, its problem, and starts and bounds."""
    scene, made = parse_model(model), RefineSettings(device="cuda", **settings)
    layout = make_layout(scene, tuple("gri"[:images]) if images > 1 else ("",))
    batch = SceneBatch([member(k, images) for k in range(3)], layout, made)
    # Starts are catalogue values, which are made on the host.
    batch.base = torch.zeros((3, images, layout.n_full), dtype=torch.float64)
    theta = torch.zeros((3, 1, layout.size), dtype=torch.float64, device="cuda")
    lower, upper = bounds_of(batch, scene, np.arange(3))
    everyone = torch.arange(3, device="cuda")
    return batch, batch.problem(made.compact, everyone), theta, lower, upper


CASES = [
    ("sersic", 1, {}),
    ("sersic+exp", 1, {}),
    ("psf+sersic", 3, {}),
    ("sersic", 1, {"likelihood": Likelihood("student-t")}),
    ("moffat", 1, {"likelihood": Likelihood("poisson")}),
]


@pytest.mark.parametrize(("model", "images", "settings"), CASES)
def test_chi2_and_derivatives(model, images, settings):
    with fake_cuda():
        _, problem, theta, _, _ = problem_on_cuda(model, images, **settings)
        everyone = torch.arange(3, device="cuda")
        state = problem.evaluate(everyone, theta[:, 0])
        for tensor in (state.chi2, state.gradient, state.matrix, state.light):
            assert tensor.device.type == "cuda"
        assert problem.measure(everyone, theta[:, 0]).device.type == "cuda"
        assert problem.design(everyone, theta[:, 0], 0).device.type == "cuda"


def waits_of(iterations: int) -> int:
    """How often the host waits in so many iterations, in none of which the problems end."""
    with fake_cuda(True) as decisions:
        batch, problem, theta, lower, upper = problem_on_cuda("sersic", 1)
        owner = torch.arange(3, device="cuda")
        max_step = batch.layout.max_step.to("cuda")
        own = torch.ones(theta.shape[-1], dtype=torch.bool, device="cuda")
        before = decisions.waits
        result = minimise(
            problem.evaluator(owner), theta[:, 0], lower, upper, max_step,
            LMSettings(max_iterations=iterations), lambda index, theta: problem.measure(owner[index], theta), own,
        )  # fmt: skip
        assert result.theta.device.type == "cuda"
        return decisions.waits - before


def test_minimiser_waits_once_an_iteration():
    """The host asks which problems go on, and nothing else."""
    assert waits_of(5) - waits_of(2) == 5 - 2


def test_linear_fluxes():
    with fake_cuda():
        _, problem, theta, lower, upper = problem_on_cuda("sersic+exp", 1)
        assert with_best_fluxes(problem, theta, lower, upper).device.type == "cuda"
