"""Kernels and scenes on a GPU: nothing is left on the host, which waits once an iteration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from sky_pairs import frame, gaussian

from autofit_ml.difference.conjugate import MOST, system
from autofit_ml.difference.kernel import Design
from autofit_ml.difference.scene_problem import EpochScene, HostPixels
from autofit_ml.difference.solution import solve
from autofit_ml.difference.subtract import (
    _compared,
    _model_variance,
    _planes,
    _with_background,
)
from autofit_ml.fitting import RefineSettings, join_images
from autofit_ml.fitting.batch import Member, SceneBatch
from autofit_ml.fitting.first_guess import bounds_of
from autofit_ml.fitting.levenberg_marquardt import LMSettings, minimise
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.profiles import get_profile
from autofit_ml.profiles.tables import profile_table
from autofit_ml.rendering import component
from autofit_ml.scenes import parse_model
from autofit_ml.scenes.layout import make_layout
from autofit_ml.segmentation import Segmentation

SIDE = 48


def planes(number: int) -> list[torch.Tensor]:
    return [torch.ones((SIDE, SIDE), device="cuda") for _ in range(number)]


@pytest.mark.parametrize("variation", [0, 1])
@pytest.mark.parametrize("solver", ["dense", "conjugate"])
def test_kernels_are_solved_on_the_device(solver, variation):
    design = Design(5, variation=variation, solver=solver, background=1)
    with fake_cuda():
        science, reference, *variances = planes(4)
        found = solve(science, reference, *variances, science > 0, design)
        for one in (found.planes, found.background, found.covariance, found.fitted):
            assert one.device.type == "cuda"


def test_gradients_wait_once_an_iteration():
    with fake_cuda(answer=True) as decisions:
        inverse, right = system(*planes(3), Design(5))
        before = decisions.waits
        assert inverse(right).device.type == "cuda"
        assert MOST <= decisions.waits - before <= MOST + 1


@pytest.mark.parametrize("background", [0, 1])
def test_differences_and_their_variances_are_made_on_the_device(background):
    ones, design = np.ones((SIDE, SIDE)), Design(5, background=background, solver="dense")
    with fake_cuda():
        one, other = (
            _planes(frame(name, ones, ones), name, torch.float32, "cuda") for name in "sr"
        )
        variances = one.variance, other.variance
        kernel = solve(one.data, other.data, *variances, one.good, design)
        light, spread, _ = _compared(kernel, one, other, one.good)
        kernel, left = _with_background(kernel, one, light, spread, one.good)
        everything = left, light, spread, kernel.covariance, _model_variance(kernel, other)
        assert {one.device.type for one in everything} == {"cuda"}


def test_scenes_are_fitted_on_the_device(monkeypatch):
    made = {"sersic": profile_table(get_profile("sersic"))}
    monkeypatch.setattr(component, "profile_table", lambda profile: made[profile.name])
    ones = np.ones((SIDE, SIDE), np.float32)
    modes = np.stack([gaussian(3.0, 8)] * 2).astype(np.float32) / 100
    psf = PSF(gaussian(3.0, 8).astype(np.float32), modes=modes)
    stamps = [Stamp(name, ones, ones, ones == 0, psf) for name in "ab"]
    found = Segmentation(np.ones((SIDE, SIDE), np.int32), 1, ones == 0, 0.0, 1.0)
    start = np.array([23.0, 24.0, 1e3, 4.0, 2.0, 0.7, 30.0, 0.0])
    scene, settings = parse_model("sersic"), RefineSettings(device="cuda")
    layout = make_layout(scene, ("", ""), n_psf=[2, 2])
    iterations = 3
    with fake_cuda() as decisions:
        member = Member(
            0, join_images(stamps, found), start, np.zeros((8, 8)), [], found.contaminants,
            (modes, modes),
        )  # fmt: skip
        batch = SceneBatch([member], layout, settings)
        batch.base = torch.zeros((1, 2, layout.n_full), dtype=torch.float64)
        lower, upper = bounds_of(batch, scene, np.array([0]))
        host = batch.problem(settings.compact, torch.zeros(1, dtype=torch.int64, device="cuda"))
        at = torch.arange(20.0, 24.0, dtype=torch.float64, device="cuda")
        pixels = HostPixels(at, at, torch.eye(4, dtype=torch.float64, device="cuda"))
        problem = EpochScene(host, [False, True], (22.0, 22.0), 0.1, pixels, 0.01)
        theta = problem.start(torch.zeros((1, layout.size), dtype=torch.float64, device="cuda"))
        problem.settle(theta)
        before = decisions.waits
        limits = problem.bounds(lower, upper)
        result = minimise(problem.evaluate, theta, *limits, LMSettings(max_iterations=iterations))
        assert result.theta.device.type == "cuda"
        assert decisions.waits - before <= 20 * iterations
