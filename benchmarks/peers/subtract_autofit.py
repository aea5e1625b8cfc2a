"""Subtract a pair with autofit-ml; files: see subtraction.py. All that `subtract` gives is made."""

from __future__ import annotations

import os

import numpy as np
import torch
from subtraction import HALF, run

from autofit_ml import __version__
from autofit_ml.difference import subtract_images
from autofit_ml.images.stamp import Frame
from autofit_ml.settings import SubtractSettings


def subtract(
    science: np.ndarray, reference: np.ndarray, sigma: np.ndarray, reference_sigma: np.ndarray
) -> object:
    one, other = (
        Frame(name, data, noise, np.zeros(data.shape, bool))
        for name, data, noise in (("s", science, sigma), ("r", reference, reference_sigma))
    )
    return subtract_images(one, other, SubtractSettings(kernel_size=2 * HALF + 1))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run(f"autofit-ml {__version__}", subtract)
