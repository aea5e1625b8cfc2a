"""Blocks of pixels, and the one clipped level, against plain definitions."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import autofit_ml
from autofit_ml.measure import bin_images, block_sums, clipped_sky


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_block_sums_of_arrays_and_tensors(kind):
    image = np.arange(2 * 7 * 9, dtype=np.float32).reshape(2, 7, 9)
    found = np.asarray(block_sums(kind(image), 3))
    assert found.shape == (2, 2, 3)
    assert found[1, 1, 2] == image[1, 3:6, 6:9].sum()
    assert np.asarray(block_sums(kind(image > 5), 2)).max() == 4


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_binned_pixels_have_the_noise_they_say(kind):
    """Scatter over sigma of binned noise, with masked pixels: 1 to 1 % (10 000 blocks)."""
    rng = np.random.default_rng(1)
    sigma = rng.uniform(1, 3, (400, 400))
    root = np.where(rng.uniform(size=sigma.shape) < 0.2, 0.0, 1 / sigma)
    data = 5 + rng.normal(size=sigma.shape) * sigma
    data[root == 0] = 1e9
    mean, weight = (np.asarray(part) for part in bin_images(kind(data), kind(root), 4))
    pull = ((mean - 16 * 5) * weight)[weight > 0]
    assert pull.std() == pytest.approx(1, abs=0.03)
    assert pull.mean() == pytest.approx(0, abs=0.04)
    half = np.zeros((2, 2))
    half[0] = 1.0
    assert bin_images(half, half, 2)[1].item() == 0


@pytest.mark.parametrize("outliers", [0, 0.1, 0.25])
def test_clipped_sky_does_not_see_outliers(outliers):
    rng = np.random.default_rng(2)
    values = rng.normal(-7.0, 0.2, 50_000)
    values[: int(outliers * values.size)] += 40.0
    level, scatter = clipped_sky(rng.permutation(values))
    # The mean of 37 500 values is good to 0.001; 3 sigma are cut at 2.7 to 3.
    assert level == pytest.approx(-7.0, abs=0.005)
    assert scatter == pytest.approx(0.2, rel=0.02)


def test_clipped_sky_of_large_images_is_as_good():
    values = np.random.default_rng(3).normal(100.0, 5.0, (1100, 1000)).astype(np.float32)
    level, scatter = clipped_sky(values)
    assert level == pytest.approx(100.0, abs=4 * 5 / np.sqrt(180_000))
    assert scatter == pytest.approx(5.0, rel=0.01)


def test_nothing_below_is_imported():
    """`measure` knows of errors only; readers import it without loading PyTorch."""
    folder = Path(autofit_ml.__file__).parent / "measure"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autofit_ml"):
                assert node.module.split(".")[1] in ("measure", "errors"), path
            if isinstance(node, ast.Import) and path.name != "correlation.py":
                assert all(name.name != "torch" for name in node.names), path
