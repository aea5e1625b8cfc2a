"""Subtract a pair with SFFT on the CPU; files: see subtraction.py.

The kernel and the flat background of ours, without masks; pixels have no noise for it.
"""

from __future__ import annotations

import functools

import numpy as np
from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract
from subtraction import HALF, run

NUMPY = {"BACKEND_4SUBTRACT": "Numpy", "NUM_CPU_THREADS_4SUBTRACT": 1, "VERBOSE_LEVEL": 0}


@functools.cache
def compiled(ny: int, nx: int):
    return SingleSFFTConfigure.SSC(
        NX=nx, NY=ny, KerHW=HALF, KerPolyOrder=0, BGPolyOrder=0, ConstPhotRatio=True,
        NUMBA_CACHE=False, **NUMPY,
    )  # fmt: skip


def subtract(science: np.ndarray, reference: np.ndarray, **_: np.ndarray) -> np.ndarray:
    moved, fixed = (np.ascontiguousarray(one.T, np.float64) for one in (reference, science))
    return GeneralSFFTSubtract.GSS(
        PixA_I=moved, PixA_J=fixed, PixA_mI=moved, PixA_mJ=fixed, ContamMask_I=None,
        SFFTConfig=compiled(*science.shape), **NUMPY,
    )[1]  # fmt: skip


if __name__ == "__main__":
    run("SFFT 1.7.3", subtract)
