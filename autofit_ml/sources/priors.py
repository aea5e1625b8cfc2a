r"""Priors of stars and galaxies in the parameters that are fitted, from a population file.

Fluxes in all bands, size (and Sérsic index) are, in their logarithms, one mixture of Gaussians:
magnitude and colours as the file has them, carried to the bands of the images by a linear map, what
depends on another parameter included. Axis ratio and de Vaucouleurs share are independent of it.
With a direction that is uniform, an axis ratio of density p has in the plane of
:math:`\eta` (:math:`|\eta| = -\ln q`) the density :math:`p(q)\,q / 2\pi|\eta|`.

Everything is normalised (per unit of the fitted parameters, positions apart): the evidences of star
and galaxy are compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.scenes.populations import Population, Term

__all__ = ["Band", "SourcePrior", "make_prior"]

MAGNITUDE = 2.5 / math.log(10.0)
"""Magnitudes of a factor e."""

_COLOUR = 1.0
"""Standard deviation of a colour that the population does not know, mag."""

_SIZE = (math.log(0.7), 1.0)
_INDEX = (math.log(1.8), 0.7)
"""ln re (arcsec) and ln n where the population has none: mean, standard deviation."""

_ROUND = 0.4
"""|eta| within which the density of ellipticities is rounded off: it has an edge at q = 1, on which
no Gaussian fits. The Gaussian about its rounded top holds as much as the edge does."""


@dataclass(frozen=True)
class Band:
    """A band of the images.

    Attributes
    ----------
    name : str
    zeropoint : float
        AB magnitude of the flux unit of the fit; NaN if unknown.
    """

    name: str
    zeropoint: float

    @property
    def short(self) -> str:
        """``r`` of ``SDSS-r`` or ``HSC-R``."""
        return re.split(r"[^A-Za-z0-9]+", self.name.strip())[-1].lower()


@dataclass(frozen=True)
class SourcePrior:
    """Density of the parameters of one type of source; see the module.

    Attributes
    ----------
    type : {"star", "galaxy"}
    log_share : float
        ln of the type's share of all sources.
    log_weights : Tensor, (K,)
    means : Tensor, (K, W)
    factors : Tensor, (K, W, W)
        Inverse Cholesky factors of the covariances.
    axis_ratio, dev : tuple of float
        a and b of their beta distributions.
    shape : {"exp_dev", "sersic"}
    """

    type: str
    log_share: float
    log_weights: torch.Tensor
    means: torch.Tensor
    factors: torch.Tensor
    axis_ratio: tuple[float, float]
    dev: tuple[float, float]
    shape: str

    def log_density(self, theta: torch.Tensor, exact: bool = False) -> torch.Tensor:
        """ln of the density at theta (A, D) with x and y first, float64, (A,); differentiable.

        `exact`: with the edge at q = 1, for integrals.
        """
        if self.type == "star":
            return self._mixture(theta[:, 2:])
        fluxes, (ln_rc, shape, eta1, eta2) = theta[:, 2:-4], theta[:, -4:].unbind(1)
        rounding = 0.0 if exact else _ROUND
        e = (eta1.square() + eta2.square() + rounding**2).sqrt() - rounding
        known = [fluxes, (ln_rc + e / 2)[:, None]]
        if self.shape == "sersic":
            known.append(shape[:, None])
            beyond = torch.zeros_like(e)
        else:
            a, b = self.dev
            low, high = (
                torch.nn.functional.logsigmoid(shape),
                torch.nn.functional.logsigmoid(-shape),
            )
            beyond = a * low + b * high - _log_beta(a, b)
        if exact:
            a, b = self.axis_ratio
            volume = math.log(2 * math.pi) + _log_beta(a, b)
            density = _edged(e.clamp_min(1e-9), a, b) - volume
        else:
            density = _round_density(e, *self.axis_ratio) - _round_volume(*self.axis_ratio)
        return self._mixture(torch.cat(known, 1)) + beyond + density

    def _mixture(self, values: torch.Tensor) -> torch.Tensor:
        off = torch.einsum("kij,akj->aki", self.factors, values[:, None] - self.means)
        return torch.logsumexp(self.log_weights - off.square().sum(2) / 2, 1)

    def pull(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient by the ln fluxes (A, bands), and a positive curvature (A, bands, bands)."""
        bands = theta.shape[1] - (2 if self.type == "star" else 6)
        values = theta[:, 2 : 2 + bands]
        if self.type == "galaxy":
            e = (theta[:, -2].square() + theta[:, -1].square()).sqrt()
            known = [values, (theta[:, -4] + e / 2)[:, None]]
            if self.shape == "sersic":
                known.append(theta[:, -3:-2])
            values = torch.cat(known, 1)
        off = torch.einsum("kij,akj->aki", self.factors, values[:, None] - self.means)
        share = (self.log_weights - off.square().sum(2) / 2).softmax(1)
        part = self.factors[:, :, :bands]
        slope = -torch.einsum("ak,aki,kij->aj", share, off, part)
        precision = part.transpose(1, 2) @ part
        return slope, torch.einsum("ak,kij->aij", share, precision)

    def evaluate(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ln density (A,), gradient (A, D) and second derivatives (A, D, D)."""
        with torch.enable_grad():
            point = theta.detach().requires_grad_(True)
            value = self.log_density(point)
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=True)
            rows = [torch.zeros_like(theta)] * 2  # flat in x and y
            rows += [
                torch.autograd.grad(slope[:, k].sum(), point, retain_graph=True)[0]
                for k in range(2, theta.shape[1])
            ]
        return value.detach(), slope.detach(), torch.stack(rows, 1)


def _round_density(e: torch.Tensor, a: float, b: float) -> torch.Tensor:
    """ln of the density in the plane of eta whose axis ratios are Beta(a, b), not normalised.

    q^a (1 - q)^(b - 1) / |eta|, with 1 - q = |eta| (1 - |eta| / 2 + ...).
    """
    return _edged(e + _ROUND / 8, a, b) + a * _ROUND / 8


def _edged(e: torch.Tensor, a: float, b: float) -> torch.Tensor:
    """ln of q^a (1 - q)^(b - 1) / |eta|."""
    thin = (-torch.expm1(-e) / e).log()
    return -a * e + (b - 1) * thin + (b - 2) * e.log()


@lru_cache
def _round_volume(a: float, b: float) -> float:
    """ln of the integral of that over the plane."""
    eta = torch.linspace(0, 40 / a, 20001, dtype=torch.float64)
    e = (eta.square() + _ROUND**2).sqrt() - _ROUND
    density = 2 * math.pi * eta * _round_density(e, a, b).exp()
    return math.log(float(torch.trapezoid(density, eta)))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def make_prior(
    population: Population, bands: Sequence[Band], pixel_scale: float, shape: str = "exp_dev"
) -> SourcePrior:
    """The prior of a population in the bands of some images.

    Parameters
    ----------
    population : Population
    bands : sequence of Band
    pixel_scale : float
        arcsec per pixel of the first band's image.
    shape : {"exp_dev", "sersic"}
        Of galaxies.

    Raises
    ------
    SettingsError
        A distribution that this has no use for.
    """
    joint = _Joint()
    shapes = {"q": (2.0, 2.0), "dev": (0.5, 0.5)}
    for term in population.terms:
        if term.names[0] in shapes:
            shapes[term.names[0]] = _beta(term)
        else:
            joint.add(term)
    rows, offset = _fluxes(joint, population.band, bands)
    if population.type == "galaxy":
        for name, (mean, sd) in [("ln_re", _SIZE), ("ln_n", _INDEX)][: 1 + (shape == "sersic")]:
            if name not in joint.names:
                joint.append(name, mean, sd)
            rows.append({name: 1.0})
            offset.append(-math.log(pixel_scale) if name == "ln_re" else 0.0)
    turn = np.zeros((len(rows), len(joint.names)))
    for i, row in enumerate(rows):
        for name, value in row.items():
            turn[i, joint.names.index(name)] = value
    means = joint.means @ turn.T + np.array(offset)
    covariances = turn @ joint.covariances @ turn.T
    roots = np.linalg.cholesky(covariances)
    volume = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)
    weights = np.log(joint.weights) - volume - len(rows) / 2 * math.log(2 * math.pi)
    return SourcePrior(
        population.type,
        math.log(population.share),
        torch.as_tensor(weights),
        torch.as_tensor(means),
        torch.as_tensor(np.linalg.inv(roots)),
        shapes["q"],
        shapes["dev"],
        shape,
    )


class _Joint:
    """Mixture of Gaussians of named parameters, built term by term."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.weights = np.ones(1)
        self.means = np.zeros((1, 0))
        self.covariances = np.zeros((1, 0, 0))

    def append(
        self, name: str, mean: float, sd: float, slopes: Mapping[str, float] | None = None
    ) -> None:
        """One more parameter: Gaussian about mean + slopes times others."""
        k, d = self.means.shape
        along = np.zeros(d)
        for on, slope in (slopes or {}).items():
            along[self.names.index(on)] = slope
        covariances = np.zeros((k, d + 1, d + 1))
        covariances[:, :d, :d] = self.covariances
        covariances[:, d, :d] = covariances[:, :d, d] = self.covariances @ along
        covariances[:, d, d] = along @ self.covariances @ along + sd**2
        self.means = np.hstack([self.means, (self.means @ along)[:, None] + mean])
        self.covariances = covariances
        self.names.append(name)

    def add(self, term: Term) -> None:
        """The parameters of a term of a population file."""
        v, name = term.numbers, term.names[0]
        if term.kind == "mixture":
            self._product(term)
        elif term.kind == "normal":
            self.append(name, float(v["mean"]), float(v["sd"]))
        elif term.kind == "log-normal" and name in ("re", "n"):
            self.append(f"ln_{name}", math.log(v["median"]), float(v["sd"]))
        elif term.kind == "uniform":
            self.append(
                name, float(v["low"] + v["high"]) / 2, float(v["high"] - v["low"]) / 12**0.5
            )
        elif term.kind == "on":
            mean = float(v["mean"] - np.sum(v["slope"] * v["at"]))
            slopes = dict(zip(term.on, np.atleast_1d(v["slope"]).tolist(), strict=True))
            self.append(name, mean, float(v["scatter"]), slopes)
        else:
            raise SettingsError(
                f"{name}: {term.kind} cannot be a prior of a catalogue",
                "use normal (of ln_re, ln_n), log-normal, uniform, mixture or on",
            )

    def _product(self, term: Term) -> None:
        v, k, d = term.numbers, len(self.weights), len(self.names)
        count, size = v["means"].shape
        covariances = np.zeros((k * count, d + size, d + size))
        covariances[:, :d, :d] = np.repeat(self.covariances, count, 0)
        covariances[:, d:, d:] = np.tile(v["covariances"], (k, 1, 1))
        self.means = np.hstack([np.repeat(self.means, count, 0), np.tile(v["means"], (k, 1))])
        self.weights = np.outer(self.weights, v["weights"] / v["weights"].sum()).ravel()
        self.covariances = covariances
        self.names += term.names


def _fluxes(
    joint: _Joint, reference: str, bands: Sequence[Band]
) -> tuple[list[dict[str, float]], list[float]]:
    """ln flux of each band as sums of the joint's parameters, and what is added to them."""
    magnitudes = {reference.lower(): {"mag": 1.0}} if "mag" in joint.names else {}
    colours = [name for name in joint.names if "-" in name]
    for _ in colours:
        for name in colours:
            blue, red = name.lower().split("-")
            if red in magnitudes and blue not in magnitudes:
                magnitudes[blue] = magnitudes[red] | {name: 1.0}
            elif blue in magnitudes and red not in magnitudes:
                magnitudes[red] = magnitudes[blue] | {name: -1.0}
    known = [b for b in bands if b.short in magnitudes and math.isfinite(b.zeropoint)]
    first = known[0] if known else None
    rows: list[dict[str, float]] = []
    offset: list[float] = []
    for band in bands:
        zeropoint = band.zeropoint if math.isfinite(band.zeropoint) else 25.0
        if band in known:
            row = magnitudes[band.short]
        elif first is not None or rows:  # a colour that nothing is known of
            near = magnitudes[first.short] if first is not None else rows[0]
            joint.append(f"colour of {band.name}", 0.0, _COLOUR)
            scale = 1.0 if first is not None else -MAGNITUDE
            row = {name: scale * value for name, value in near.items()}
            row |= {f"colour of {band.name}": 1.0}
        else:
            joint.append(f"magnitude in {band.name}", 21.0, 3.0)
            row = {f"magnitude in {band.name}": 1.0}
        rows.append({name: -value / MAGNITUDE for name, value in row.items()})
        offset.append(zeropoint / MAGNITUDE)
    return rows, offset


def _beta(term: Term) -> tuple[float, float]:
    """a and b of a distribution between 0 and 1: its own, or of the same mean and scatter."""
    v = term.numbers
    if term.kind == "beta":
        return float(v["a"]), float(v["b"])
    if term.kind == "uniform":
        mean, variance = float(v["low"] + v["high"]) / 2, float(v["high"] - v["low"]) ** 2 / 12
    elif term.kind == "normal":
        mean, variance = float(v["mean"]), float(v["sd"]) ** 2
    else:
        raise SettingsError(
            f"{term.names[0]}: {term.kind} cannot be a prior of a catalogue",
            "use beta, normal or uniform",
        )
    total = max(mean * (1 - mean) / variance - 1, 0.1)
    return mean * total, (1 - mean) * total
