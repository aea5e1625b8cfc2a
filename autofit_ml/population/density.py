r"""Densities of populations, differentiable in their numbers, and the Gaussians nearest to them.

Arrays have the shapes (A, n, K): A vectors of the free numbers, n objects, K points of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.population.model import Place, PopulationModel
from autofit_ml.scenes.populations import Term

__all__ = [
    "Numbers",
    "exact_values",
    "gaussian_of",
    "is_linear",
    "linear_density",
    "log_density",
    "log_weights",
]

_HALF_LN_2PI = 0.5 * math.log(2 * math.pi)
_LEAST = 1e-300
_GRID = 128
_OUTSIDE = -1e5
"""ln of the density of what does not occur; infinities have no gradient."""


@dataclass(frozen=True)
class Numbers:
    """Numbers of a model at A vectors, for some objects.

    Attributes
    ----------
    model : PopulationModel
    values : dict of str to Tensor
        (A,), or (A, G) by group.
    codes : dict of str to Tensor, int64, (n,)
        Group of each object, by covariate.
    """

    model: PopulationModel
    values: Mapping[str, torch.Tensor]
    codes: Mapping[str, torch.Tensor]

    def of(self, part: int, term: Term, number: str, index: int = 0) -> torch.Tensor | float:
        """One number, (A, 1, 1) or (A, n, 1); a float where it is not free."""
        name = self.model.places.get(Place(part, term.names, number, index))
        if name is None:
            return float(term.numbers[number].reshape(-1)[index])
        value = self.values[name]
        if value.ndim == 1:
            return value[:, None, None]
        by = next(item.by for item in self.model.hyper if item.name == name)
        return value[:, self.codes[by], None]


def log_weights(model: PopulationModel, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """ln of the shares of a population's parts, (A, parts) or (1, parts)."""
    columns = []
    for k, part in enumerate(model.base.parts):
        name = model.places.get(Place(k, (), "weight"))
        columns.append(
            torch.tensor([part.weight], dtype=torch.float64) if name is None else values[name]
        )
    weights = torch.stack(torch.broadcast_tensors(*columns), 1)
    return weights.log() - weights.sum(1, keepdim=True).log()


def log_density(numbers: Numbers, part: int, x: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """ln of the density of one part.

    Parameters
    ----------
    numbers : Numbers
    part : int
    x : dict of str to Tensor
        Parameters (n, K), covariates (n, 1).

    Returns
    -------
    Tensor, (A, n, K)
        -1e5 outside the limits. Parameters without scatter have no density.
    """
    total = torch.zeros((1, 1, 1), dtype=torch.float64)
    for term in numbers.model.base.parts[part].terms:
        if not term.exact:
            total = total + _term_density(numbers, part, term, x)
    return total


def exact_values(
    numbers: Numbers, part: int, x: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Values of the parameters without scatter, given the others and covariates."""
    found: dict[str, torch.Tensor] = {}
    for term in numbers.model.base.parts[part].terms:
        if term.exact:
            found[term.names[0]] = _middle(numbers, part, term, {**x, **found})
    return found


def _middle(numbers: Numbers, part: int, term: Term, x: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean of a Gaussian term, or median of a log-normal one."""
    name = "median" if term.kind == "log-normal" else "mean"
    value = _tensor(numbers.of(part, term, name), x[term.names[0]])
    for j, other in enumerate(term.on):
        slope, at = (numbers.of(part, term, k, j) for k in ("slope", "at"))
        value = value + slope * (x[other] - at)
    return value


def is_linear(model: PopulationModel, part: int) -> bool:
    """True if a part is one Gaussian with a linear mean: it needs no loop over terms."""
    grouped = {item.name for item in model.hyper if item.by}
    return all(
        term.kind in ("normal", "on") and term.limits == (-math.inf, math.inf) and not term.exact
        for term in model.base.parts[part].terms
    ) and not any(name in grouped for place, name in model.places.items() if place.part == part)


def linear_density(
    numbers: Numbers, part: int, x: torch.Tensor, covariates: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """`log_density` of a part that `is_linear`; x (D, n, K) in the order of the model's names.

    Standardised residuals of all terms at all vectors are one matrix product.
    """
    names = numbers.model.names
    a = max((len(value) for value in numbers.values.values()), default=1)
    rows, starts, logs = [], [], torch.zeros(a, dtype=torch.float64)
    zero = torch.zeros(a, dtype=torch.float64)
    for term in numbers.model.base.parts[part].terms:

        def number(name: str, index: int = 0, term: Term = term) -> torch.Tensor:
            value = numbers.of(part, term, name, index)
            return value[:, 0, 0] if isinstance(value, torch.Tensor) else zero + value

        sd = number("scatter" if term.kind == "on" else "sd")
        row = [zero] * len(names)
        row[names.index(term.names[0])] = 1 / sd
        start = (-number("mean") / sd)[:, None]
        for j, name in enumerate(term.on):
            slope = number("slope", j) / sd
            start = start + (slope * number("at", j))[:, None]
            if name in names:
                row[names.index(name)] = row[names.index(name)] - slope
            else:
                start = start - slope[:, None] * covariates[name][:, 0]
        rows.append(torch.stack(row, 1))
        starts.append(start)
        logs = logs - sd.log() - _HALF_LN_2PI
    matrix = torch.stack(rows, 1)  # (A, terms, D)
    d, n, k = x.shape
    residual = (matrix.view(-1, d) @ x.reshape(d, -1)).view(a, -1, n, k)
    start = torch.stack(torch.broadcast_tensors(*starts), 1)[..., None]  # (A, terms, 1 or n, 1)
    return logs[:, None, None] - 0.5 * (residual + start).square().sum(1)


def _term_density(
    numbers: Numbers, part: int, term: Term, x: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    def number(name: str, index: int = 0) -> torch.Tensor | float:
        return numbers.of(part, term, name, index)

    value = x[term.names[0]]
    low, high = term.limits
    inside = (value >= low) & (value <= high)
    if term.kind == "mixture":
        return _mixture_density(term, torch.stack([x[name] for name in term.names], -1))[None]
    if term.density is not None:
        v = {name: _tensor(number(name), value) for name in term.numbers}
        others = {name: x[name] for name in term.on}
        _, mass = _on_grid(term, others, v)
        at = others | {term.names[0]: value.clamp(low, high)}
        return torch.where(inside, term.density(at, v) - mass.logsumexp(-1), _OUTSIDE)
    if term.kind == "uniform":
        least, most = float(term.numbers["low"]), float(term.numbers["high"])
        inside &= (value >= least) & (value <= most)
        width = min(most, high) - max(least, low)
        return torch.where(inside, -math.log(width), _OUTSIDE)[None]
    if term.kind == "beta":
        a, b = _tensor(number("a"), value), _tensor(number("b"), value)
        norm = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        safe = value.clamp(1e-12, 1 - 1e-12)
        density = norm + (a - 1) * safe.log() + (b - 1) * torch.log1p(-safe)
        inside = inside & (value > 0) & (value < 1)
        return torch.where(inside, density, _OUTSIDE)
    jacobian: torch.Tensor | float = 0.0
    if term.kind == "log-normal":
        value = value.clamp_min(_LEAST).log()
        jacobian = -value
        mean = _middle(numbers, part, term, x).log()
        low, high = math.log(low) if low > 0 else -math.inf, math.log(high) if high > 0 else low
    else:
        mean = _middle(numbers, part, term, x)
    sd = _tensor(number("scatter" if term.kind == "on" else "sd"), value)
    z = (value - mean) / sd
    density = -0.5 * z.square() - sd.log() - _HALF_LN_2PI + jacobian
    if low > -math.inf or high < math.inf:
        mass = torch.special.ndtr((high - mean) / sd) - torch.special.ndtr((low - mean) / sd)
        density = density - mass.clamp_min(_LEAST).log()
        density = torch.where(inside, density, _OUTSIDE)
    return density


def _on_grid(
    term: Term, x: Mapping[str, torch.Tensor], numbers: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (G,) of Gauss and Legendre, and ln of a density's mass there, (..., G)."""
    assert term.density is not None
    low, high = term.limits
    points, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(_GRID))
    points = (low + high) / 2 + (high - low) / 2 * points
    at = {name: value[..., None] for name, value in x.items()} | {term.names[0]: points}
    ln = term.density(at, {name: value[..., None] for name, value in numbers.items()})
    return points, ln + (weights * (high - low) / 2).log()


def _tensor(number: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    return number if isinstance(number, torch.Tensor) else like.new_full((1, 1, 1), number)


def _mixture_density(term: Term, x: torch.Tensor) -> torch.Tensor:
    """Density of a mixture of Gaussians with given numbers, (n, K)."""
    v = {name: torch.as_tensor(value) for name, value in term.numbers.items()}
    roots = torch.linalg.cholesky(v["covariances"])
    parts = []
    for weight, mean, root in zip(v["weights"], v["means"], roots, strict=True):
        z = torch.linalg.solve_triangular(root, (x - mean).reshape(-1, len(mean)).T, upper=False)
        ln_root = root.diagonal().log().sum() + len(mean) * _HALF_LN_2PI
        parts.append((weight / v["weights"].sum()).log() - 0.5 * z.square().sum(0) - ln_root)
    return torch.logsumexp(torch.stack(parts), 0).view(x.shape[:-1])


def gaussian_of(
    numbers: Numbers, part: int, covariates: Mapping[str, torch.Tensor], n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian with the mean and covariance of a part, at one vector of numbers.

    What cuts distributions off is left out: it is for proposals only.

    Parameters
    ----------
    numbers : Numbers
        Of A = 1.
    part : int
    covariates : dict of str to Tensor, (n, 1)
    n : int
        Objects.

    Returns
    -------
    mean : Tensor, (n, D)
    covariance : Tensor, (n, D, D)
    """
    names: list[str] = []
    means = torch.zeros((n, 0), dtype=torch.float64)
    cov = torch.zeros((n, 0, 0), dtype=torch.float64)
    for term in numbers.model.base.parts[part].terms:

        def number(name: str, index: int = 0, term: Term = term) -> torch.Tensor:
            value = numbers.of(part, term, name, index)
            if isinstance(value, torch.Tensor):
                return value.detach()[0, :, 0].expand(n)
            return torch.full((n,), value, dtype=torch.float64)

        if term.kind == "mixture":
            middle, spread = _mixture_moments(term)
            means, cov = _joined(means, cov, middle.expand(n, -1), spread.expand(n, -1, -1), None)
        else:
            middle, variance = _moments(
                term, number, {**covariates, **dict(zip(names, means.T, strict=True))}
            )
            slopes = torch.zeros((n, len(names)), dtype=torch.float64)
            for j, name in enumerate(term.on if term.density is None else ()):
                slope = number("slope", j)
                known = names.index(name) if name in names else None
                at = covariates[name][:, 0] if known is None else means[:, known]
                middle = middle + slope * (at - number("at", j))
                if known is not None:
                    slopes[:, known] += slope
            means, cov = _joined(means, cov, middle[:, None], variance[:, None, None], slopes)
        names += term.names
    order = [names.index(name) for name in numbers.model.names]
    return means[:, order], cov[:, order][:, :, order]


def _joined(
    means: torch.Tensor,
    cov: torch.Tensor,
    middle: torch.Tensor,
    spread: torch.Tensor,
    slopes: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments with one term more, whose slopes on those before are given."""
    n, d = means.shape
    k = middle.shape[1]
    out = torch.zeros((n, d + k, d + k), dtype=torch.float64)
    out[:, :d, :d] = cov
    out[:, d:, d:] = spread
    if slopes is not None and d:
        cross = torch.einsum("nij,nj->ni", cov, slopes)
        out[:, :d, d], out[:, d, :d] = cross, cross
        out[:, d, d] += torch.einsum("ni,ni->n", cross, slopes)
    return torch.cat([means, middle], 1), out


def _mixture_moments(term: Term) -> tuple[torch.Tensor, torch.Tensor]:
    v = {name: torch.as_tensor(value) for name, value in term.numbers.items()}
    share = v["weights"] / v["weights"].sum()
    mean = share @ v["means"]
    off = v["means"] - mean
    return mean, torch.einsum("m,mij->ij", share, v["covariances"] + off[:, :, None] * off[:, None])


def _moments(
    term: Term, number: Callable[..., torch.Tensor], x: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of a term with one parameter, (n,) each; of "on" at the pivot."""
    if term.density is not None:
        others = {name: x[name].reshape(-1) for name in term.on}
        points, mass = _on_grid(term, others, {name: number(name) for name in term.numbers})
        share = torch.softmax(mass, -1)
        mean = share @ points
        return mean, (share * (points - mean[..., None]).square()).sum(-1)
    if term.kind == "normal":
        return number("mean"), number("sd").square()
    if term.kind == "on":
        return number("mean"), number("scatter").square()
    if term.kind == "uniform":
        low, high = number("low"), number("high")
        return (low + high) / 2, (high - low).square() / 12
    if term.kind == "beta":
        a, b = number("a"), number("b")
        return a / (a + b), a * b / ((a + b).square() * (a + b + 1))
    mean = number("median") * (number("sd").square() / 2).exp()
    return mean, mean.square() * torch.expm1(number("sd").square().clamp(max=4))
