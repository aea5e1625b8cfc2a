"""Starting values of an initialiser, and how far to trust them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["PARAMETERS", "Starts"]

PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")
"""Order of the columns of `Starts.values` (conventions and units as in the catalogue; positions
in stamp pixels, flux and sky in image units)."""


@dataclass(frozen=True)
class Starts:
    """Starting parameters of B objects.

    Attributes
    ----------
    values : ndarray, float64, shape (B, 8)
        Columns in the order of `PARAMETERS`; finite everywhere, flux > 0, re > 0.
    cov : ndarray, float64, shape (B, 8, 8), or None
        Covariance in the refiner's fit space (x, y, ln flux, ln rc, ln n, eta1, eta2, sky); rows
        of zeros where there is none.
    flags : ndarray, int32, shape (B,)
        INIT_FALLBACK, OUT_OF_DOMAIN where they apply.
    method : str
        "moments" or "resnet".
    weights : list of str
        Bundle that made each row, "" for moments; empty where there was none for any.
    """

    values: np.ndarray
    cov: np.ndarray | None
    flags: np.ndarray
    method: str = "moments"
    weights: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def some(self, members: Sequence[int] | np.ndarray) -> "Starts":
        """A part of the objects, by number, in that order."""
        index = np.asarray(members, dtype=np.intp)
        return Starts(
            self.values[index],
            None if self.cov is None else self.cov[index],
            self.flags[index],
            self.method,
            [self.weights[i] for i in index] if self.weights else [],
        )

    @classmethod
    def joined(cls, parts: "Sequence[Starts]") -> "Starts":
        """Several parts as one, in order; at least one."""
        cov = None
        if any(part.cov is not None for part in parts):
            cov = np.concatenate(
                [np.zeros((len(part), 8, 8)) if part.cov is None else part.cov for part in parts]
            )
        names = [name for part in parts for name in part.weights or [""] * len(part)]
        return cls(
            np.concatenate([part.values for part in parts]),
            cov,
            np.concatenate([part.flags for part in parts]),
            "resnet" if any(part.method == "resnet" for part in parts) else parts[0].method,
            names if any(names) else [],
        )
