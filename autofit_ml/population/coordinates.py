r"""Coordinates in which the data's say on an object is Gaussian, and a population's parameters.

Of arrays they are the same. Of fits of this package they are the fit's own: ln rc and
(eta1, eta2) = -ln q (cos, sin)(2 pa + 180 deg), in which its priors are Gaussian too; a population
of axis ratios, whose directions are evenly distributed, has there the density

.. math:: p(\ln r_c, \eta_1, \eta_2) = p(\ln r_e, q)\, \frac{q}{2\pi\,|\ln q|}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from autofit_ml.errors import SettingsError

__all__ = ["Coordinates", "PlainCoordinates", "SersicCoordinates"]

Columns = dict[str, torch.Tensor]


class Coordinates(Protocol):
    """Coordinates of objects, and the parameters of a population that they stand for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, D."""

    def place(self, name: str) -> int:
        """Index of the coordinate that a parameter determines, given the others."""

    def parameters(self, theta: torch.Tensor) -> tuple[Columns, torch.Tensor]:
        """Parameters of coordinates (..., D); ln of the factor of their density."""

    def theta(self, x: Mapping[str, torch.Tensor], turn: torch.Tensor) -> torch.Tensor:
        """Coordinates (..., D) of parameters; `turn`, 0 to 1, makes directions."""

    def gaussian(
        self, mean: torch.Tensor, cov: torch.Tensor, names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gaussian near that of a population with a mean (n, P) and covariance of `names`."""


@dataclass(frozen=True)
class PlainCoordinates:
    """Coordinates that are the parameters."""

    names: tuple[str, ...]

    def place(self, name: str) -> int:
        """See `Coordinates`."""
        return self.names.index(name)

    def parameters(self, theta: torch.Tensor) -> tuple[Columns, torch.Tensor]:
        """See `Coordinates`."""
        return dict(zip(self.names, theta.unbind(-1), strict=True)), torch.zeros_like(theta[..., 0])

    def theta(self, x: Mapping[str, torch.Tensor], turn: torch.Tensor) -> torch.Tensor:
        """See `Coordinates`."""
        return torch.stack([x[name] for name in self.names], -1)

    def gaussian(
        self, mean: torch.Tensor, cov: torch.Tensor, names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Coordinates`."""
        known = [name for name in self.names if name in names]
        order = [list(names).index(name) for name in known]
        if len(known) == len(self.names):
            return mean[:, order], cov[:, order][:, :, order]
        raise ValueError(f"coordinates {self.names} of which the population has {tuple(names)}")


@dataclass(frozen=True)
class SersicCoordinates:
    """The fit's coordinates of a Sérsic profile, as far as a population needs them.

    Attributes
    ----------
    wanted : tuple of str
        Parameters of the population: mag, re or ln_re, n or ln_n, q, and others as they are.
        Sizes in arcsec.
    """

    wanted: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """See `Coordinates`; "ln_re" in place of "ln_rc" where q is not wanted."""
        out: list[str] = []
        for name in self.wanted:
            plain = name.removeprefix("ln_")
            if plain == "re":
                out.append("ln_rc" if "q" in self.wanted else "ln_re")
            elif plain == "q":
                out += ["eta1", "eta2"]
            else:
                out.append("ln_n" if plain == "n" else name)
        return tuple(out)

    def place(self, name: str) -> int:
        """See `Coordinates`; axis ratios have two."""
        plain = name.removeprefix("ln_")
        if plain == "q":
            raise SettingsError("q without scatter: its direction is free", "give it a scatter")
        size = "ln_rc" if "ln_rc" in self.names else "ln_re"
        return self.names.index({"re": size, "n": "ln_n"}.get(plain, name))

    def parameters(self, theta: torch.Tensor) -> tuple[Columns, torch.Tensor]:
        """See `Coordinates`."""
        at = dict(zip(self.names, theta.unbind(-1), strict=True))
        factor = torch.zeros_like(theta[..., 0])
        if "q" in self.wanted:
            length = (at.pop("eta1").square() + at.pop("eta2").square()).sqrt().clamp_min(1e-9)
            at["q"] = (-length).exp()
            factor = factor - length - length.log() - math.log(2 * math.pi)
            if "ln_rc" in at:
                at["ln_re"] = at.pop("ln_rc") + length / 2
        for name in ("re", "n"):
            if name in self.wanted:
                factor = factor + at[f"ln_{name}"]
                at[name] = at.pop(f"ln_{name}").exp()
        return at, factor

    def theta(self, x: Mapping[str, torch.Tensor], turn: torch.Tensor) -> torch.Tensor:
        """See `Coordinates`."""
        at = dict(x)
        for name in ("re", "n"):
            if name in at:
                at[f"ln_{name}"] = at[name].clamp_min(1e-9).log()
        if "q" in at:
            ln_q = at["q"].clamp(1e-6, 1.0).log()
            at["eta1"] = -ln_q * (2 * math.pi * turn).cos()
            at["eta2"] = -ln_q * (2 * math.pi * turn).sin()
            if "ln_re" in at:
                at["ln_rc"] = at["ln_re"] + ln_q / 2
        return torch.stack([at[name] for name in self.names], -1)

    def gaussian(
        self, mean: torch.Tensor, cov: torch.Tensor, names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Coordinates`; directions are independent of the rest."""
        n, columns = len(mean), list(names)
        logs, slopes = {}, {}
        for k, name in enumerate(columns):
            own, variance = mean[:, k], cov[:, k, k]
            if name in ("re", "n", "q"):
                at = own.clamp(0.02, 0.98) if name == "q" else own.clamp_min(1e-3)
                logs[name], slopes[name] = at.log(), 1 / torch.maximum(at, variance.sqrt() / 1.5)
            else:
                logs[name], slopes[name] = own, torch.ones_like(own)
        d = len(self.names)
        middle = torch.zeros((n, d), dtype=torch.float64)
        turn = torch.zeros((n, d, len(columns)), dtype=torch.float64)
        extra = torch.zeros((n, d), dtype=torch.float64)
        for j, name in enumerate(self.names):
            if name in ("eta1", "eta2") and name not in columns:
                k = columns.index("q")
                spread = cov[:, k, k] * slopes["q"].square()
                extra[:, j] = ((logs["q"].square() + spread) / 2).clamp_min(1e-3)
                continue
            made = {"ln_rc": ("re", "ln_re"), "ln_re": ("re",), "ln_n": ("n",)}.get(name, ())
            source = next(one for one in (name, *made) if one in columns)
            k = columns.index(source)
            middle[:, j], turn[:, j, k] = logs[source], slopes[source]
            if name == "ln_rc" != source:
                middle[:, j] += logs["q"] / 2
                turn[:, j, columns.index("q")] = slopes["q"] / 2
        return middle, turn @ cov @ turn.mT + torch.diag_embed(extra)
