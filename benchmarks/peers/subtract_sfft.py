"""Subtract a pair with SFFT on the CPU; files: see subtraction.py.

The kernel and the flat background of ours, without masks; pixels have no noise for it. Of two pairs
each is subtracted with the kernel of the other.
"""

from __future__ import annotations

import functools

import numpy as np
from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract
from subtraction import HALF, run

NUMPY = {"BACKEND_4SUBTRACT": "Numpy", "NUM_CPU_THREADS_4SUBTRACT": 1, "VERBOSE_LEVEL": 0}


@functools.cache
def compiled(ny: int, nx: int, half: int):
    return SingleSFFTConfigure.SSC(
        NX=nx, NY=ny, KerHW=half, KerPolyOrder=0, BGPolyOrder=0, ConstPhotRatio=True,
        NUMBA_CACHE=False, **NUMPY,
    )  # fmt: skip


def subtract(
    science: np.ndarray, reference: np.ndarray, *, half: int = HALF, **_: np.ndarray
) -> np.ndarray:
    """The difference; of two pairs (2, ny, nx) each by the kernel of the other pair."""
    moved, fixed = (
        np.ascontiguousarray(one.swapaxes(-1, -2), np.float64) for one in (reference, science)
    )
    config = compiled(*science.shape[-2:], int(half))

    def by(other: np.ndarray, its: np.ndarray, one: np.ndarray, mine: np.ndarray) -> np.ndarray:
        return GeneralSFFTSubtract.GSS(
            PixA_I=one, PixA_J=mine, PixA_mI=other, PixA_mJ=its, ContamMask_I=None,
            SFFTConfig=config, **NUMPY,
        )[1].T  # fmt: skip

    if science.ndim == 2:
        return by(moved, fixed, moved, fixed)
    return np.stack([by(moved[1 - k], fixed[1 - k], moved[k], fixed[k]) for k in (0, 1)])


if __name__ == "__main__":
    run("SFFT 1.7.3", subtract)
