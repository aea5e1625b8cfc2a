"""A galaxy in memory: its truth, its planes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRUTH = {
    "model": "sersic", "x": 41.3, "y": 38.7, "flux": 3000.0, "re": 6.0, "n": 2.0, "q": 0.7,
    "pa": 30.0,
}  # fmt: skip
QUICK = {"segmenter": "sep", "init": "moments", "workers": 0}
"""Without the networks."""


@dataclass(frozen=True)
class Galaxy:
    data: np.ndarray
    sigma: np.ndarray
    psf: np.ndarray
    mask: np.ndarray

    @property
    def planes(self) -> dict[str, np.ndarray]:
        return {"sigma": self.sigma, "psf": self.psf, "mask": self.mask}


def gaussian(side: int, sd: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.exp(-(x**2 + y**2) / (2 * sd**2))
    return image / image.sum()
