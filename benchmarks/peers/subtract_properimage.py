"""Subtract a pair with properimage (ZOGY); files: see subtraction.py.

Its defaults: Gaussian PSFs fitted to stars, flux scale and shift fitted.
"""

from __future__ import annotations

import numpy as np
from properimage.operations import subtract as proper
from subtraction import run


def subtract(science: np.ndarray, reference: np.ndarray, **_: np.ndarray) -> object:
    return proper(ref=reference.astype(float), new=science.astype(float))


if __name__ == "__main__":
    run("properimage 0.7.2", subtract, times=1)
