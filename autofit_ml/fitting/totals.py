r"""Size and shape of all components together, whatever the parts: `re_total`, `q_total`.

The light of a scene's target is a sum of ellipses of several sizes, shapes and places. Its size is
that of the ellipse that holds half of it and has the axes of the second moments of the light
inside: one elliptical profile has its own `re` and `q`, and the wings of a steep one, which
dominate moments to infinity, do not matter. With the matrix :math:`M` of the ellipse
(:math:`x^T M^{-1} x = 1`), the light L and the second moments S inside,

.. math:: L(M) = 1/2, \qquad S(M) \propto M .

Both are integrals along the ellipse's edge: where component k is circular, with the polar
coordinates :math:`(\rho, \psi)` about its centre, its light inside is
:math:`\oint F_0(\rho)\, d\psi / 2\pi` (`autofit_ml.profiles.enclosed`), its moments are alike.
Errors follow from the covariance of the parameters by the derivatives of the two equations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.uncertainties import axis_ratio_error
from autofit_ml.profiles import Profile
from autofit_ml.profiles.enclosed import Enclosed, enclosed, has_circular_form
from autofit_ml.scenes.model import Component

__all__ = ["with_totals"]

_NAMES = ("re_total", "re_total_err", "q_total", "q_total_err")

_POINTS = 64
"""Points on the edge of an ellipse."""

_ITERATIONS, _SETTLED = 25, 1e-9
_FLATTEST = 0.999
"""Largest (1 - q) / (1 + q)."""


def with_totals(fits: Sequence[SceneFit]) -> list[SceneFit]:
    """Fits with the size and shape of all components of their targets together.

    Errors follow from the covariance that the fits have. Not a number: no fit, no extended
    component, a component without elliptical isophotes, a point source with half of the light.
    """
    out = list(fits)
    groups: dict[tuple[Component, ...], list[int]] = {}
    for k, fit in enumerate(fits):
        profiles = [component.profile for component in fit.target]
        if any(p.kind != "point" for p in profiles) and all(map(_usable, profiles)):
            groups.setdefault(fit.target, []).append(k)
    for target, members in groups.items():
        some = [fits[k] for k in members]
        of_one = _only if len(target) == 1 else _totals
        images = [of_one(some, image) for image in range(len(some[0].flux_total))]
        for k, numbers in zip(members, np.stack(images, 2).transpose(1, 0, 2), strict=True):
            out[k] = dataclasses.replace(fits[k], **dict(zip(_NAMES, numbers, strict=True)))
    return out


def _only(fits: Sequence[SceneFit], image: int) -> np.ndarray:
    """Totals of fits of one component; see `_totals`."""
    name = fits[0].target[0].name
    re, q = ([fit.place(f"{name}.{of}", image) for fit in fits] for of in ("re", "q"))
    numbers = [
        (fit.values[i], fit.errors[i], fit.values[j], fit.errors[j])
        for fit, i, j in zip(fits, re, q, strict=True)
    ]
    return np.array(numbers).T


def _usable(profile: Profile) -> bool:
    return profile.kind == "point" or has_circular_form(profile)


@dataclass(frozen=True)
class _Part:
    """A component of B objects: catalogue values, (B,) each, and its light within a radius."""

    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    re: torch.Tensor
    q: torch.Tensor
    pa: torch.Tensor
    table: Enclosed | None


def _totals(fits: Sequence[SceneFit], image: int) -> np.ndarray:
    """re, its error, q, its error, (4, B), of fits with the same components, in an image."""
    names = [
        f"{component.name}.{parameter}"
        for component in fits[0].target
        for parameter in component.profile.parameters
    ]
    values, covariance = _parameters(fits, names, image)
    good = np.isfinite(values).all(1) & np.isfinite(covariance).all((1, 2))
    out = np.full((4, len(fits)), np.nan)
    if not good.any():
        return out
    parameters = torch.as_tensor(values[good]).requires_grad_(True)
    parts = _parts(fits[0].target, parameters)
    ellipse = _solve([_detached(part) for part in parts])
    ellipse.requires_grad_(True)
    residual = _residual(ellipse, parts)
    slope = -torch.linalg.solve(_rows(residual, ellipse), _rows(residual, parameters))
    cov = slope @ torch.as_tensor(covariance[good]) @ slope.transpose(1, 2)
    out[:, good] = _axes(ellipse.detach(), cov)
    out[:, good] = np.where((residual.detach().abs() < 1e-6).all(1).numpy(), out[:, good], np.nan)
    return out


def _parameters(
    fits: Sequence[SceneFit], names: Sequence[str], image: int
) -> tuple[np.ndarray, np.ndarray]:
    """Catalogue values (B, P) in an image, and their covariances."""
    values = np.full((len(fits), len(names)), np.nan)
    covariance = np.full((len(fits), len(names), len(names)), np.nan)
    for k, fit in enumerate(fits):
        places = [i for name in names if (i := fit.place(name, image)) is not None]
        if len(places) == len(names):
            values[k], covariance[k] = fit.values[places], fit.cov[np.ix_(places, places)]
    return values, covariance


def _parts(components: Sequence[Component], parameters: torch.Tensor) -> list[_Part]:
    """Components from all their catalogue values in order, (B, P)."""
    out, first = [], 0
    for component in components:
        profile = component.profile
        columns = parameters[:, first : first + len(profile.parameters)]
        first += len(profile.parameters)
        got = dict(zip(profile.parameters, columns.unbind(1), strict=True))
        nothing = torch.zeros_like(columns[:, 0])
        shapes = [got[shape.name] for shape in profile.own_shapes]
        table = None
        if profile.kind != "point":
            table = enclosed(profile, torch.stack(shapes, 1) if shapes else columns[:, :0])
        re, q, pa = (got.get(name, nothing) for name in ("re", "q", "pa"))
        out.append(_Part(got["x"], got["y"], got["flux"], re, q, pa, table))
    return out


def _detached(part: _Part) -> _Part:
    tensors = {name: one.detach() for name, one in vars(part).items() if one is not None}
    return dataclasses.replace(part, **tensors)


def _rows(values: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Derivatives of each column of `values` (B, O) by the own row of `by` (B, D): (B, O, D)."""
    rows = [
        torch.autograd.grad(column.sum(), by, retain_graph=True)[0] for column in values.unbind(1)
    ]
    return torch.stack(rows, 1)


def _outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[:, :, None] * b[:, None]


def _symmetric(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """((a, c), (c, b)), (B, 2, 2)."""
    return torch.stack([a, c, c, b], -1).unflatten(-1, (2, 2))


def _root(ellipse: torch.Tensor) -> torch.Tensor:
    """The root of M, (B, 2, 2), of ln s, e1 and e2: s ((1 + e1, e2), (e2, 1 - e1))."""
    scale, e1, e2 = ellipse.unbind(1)
    return _symmetric(1 + e1, 1 - e1, e2) * scale.exp()[:, None, None]


def _shape(matrix: torch.Tensor) -> torch.Tensor:
    """Shape of symmetric matrices (B, 2, 2): (m11 - m22, 2 m12) / trace."""
    a, b, c = matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1]
    return torch.stack([a - b, 2 * c], 1) / (a + b)[:, None]


def _residual(ellipse: torch.Tensor, parts: Sequence[_Part]) -> torch.Tensor:
    """Residuals of size and shape, (B, 3): light inside less a half, difference of shapes."""
    root = _root(ellipse)
    angle = torch.arange(_POINTS, dtype=root.dtype) * (2 * math.pi / _POINTS)
    circle = torch.stack([angle.cos(), angle.sin()])
    ahead = torch.stack([-angle.sin(), angle.cos()])
    total = sum(part.flux for part in parts)
    x0 = sum(part.flux * part.x for part in parts) / total
    y0 = sum(part.flux * part.y for part in parts) / total
    light, second = torch.zeros_like(parts[0].flux), torch.zeros_like(root)
    for part in parts:
        offset = torch.stack([part.x - x0, part.y - y0], 1)
        share = part.flux / total
        if part.table is None:
            own = torch.linalg.solve(root, offset).square().sum(1) < 1
            inside, moments = own.to(share.dtype), own[:, None, None] * _outer(offset, offset)
        else:
            sin, cos = torch.deg2rad(part.pa).sin(), torch.deg2rad(part.pa).cos()
            squash = part.re * (1 - part.q)  # root = re (q + (1 - q) e e^T), e = (-sin, cos)
            narrow = part.re * part.q
            its = _symmetric(
                narrow + squash * sin.square(), narrow + squash * cos.square(), -squash * sin * cos
            )
            edge = root @ circle - offset[..., None]
            place, speed = torch.linalg.solve(its, edge), torch.linalg.solve(its, root @ ahead)
            square = place.square().sum(1).clamp_min(1e-24)
            turn = (place[:, 0] * speed[:, 1] - place[:, 1] * speed[:, 0]) / square / _POINTS
            f0, f1, f2 = (part.table.moments(square.log() / 2) * turn[:, None]).unbind(1)
            unit = place / square.sqrt()[:, None]
            inside = f0.sum(1)
            first = (its @ (unit * f1[:, None]).sum(2)[..., None])[..., 0]
            spread = its @ (unit * f2[:, None]) @ unit.transpose(1, 2) @ its
            cross = _outer(first, offset)
            moments = spread + cross + cross.transpose(1, 2)
            moments = moments + inside[:, None, None] * _outer(offset, offset)
        light = light + share * inside
        second = second + share[:, None, None] * moments
    return torch.cat([(light - 0.5)[:, None], _shape(second) - _shape(root @ root)], 1)


def _solve(parts: Sequence[_Part]) -> torch.Tensor:
    """ln s, e1, e2 of the ellipse, (B, 3); Newton's method."""
    extended = [part for part in parts if part.table is not None]
    weight = torch.stack([part.flux.abs() for part in extended])
    weight = weight / weight.sum(0)
    size = torch.stack([(part.re * part.q.sqrt()).log() for part in extended])
    ellipse = torch.zeros((len(parts[0].flux), 3), dtype=size.dtype)
    ellipse[:, 0] = (weight * size).sum(0)
    for _ in range(_ITERATIONS):
        with torch.enable_grad():
            ellipse.requires_grad_(True)
            residual = _residual(ellipse, parts)
            jacobian = _rows(residual, ellipse)
        ellipse = ellipse.detach()
        step = torch.linalg.lstsq(jacobian, -residual.detach()[..., None]).solution[..., 0]
        step = step.nan_to_num() / (step.abs() / 0.5).amax(1, keepdim=True).clamp_min(1.0)
        ellipse = ellipse + step
        length = torch.hypot(ellipse[:, 1], ellipse[:, 2])
        ellipse[:, 1:] /= (length / _FLATTEST).clamp_min(1.0)[:, None]
        if bool((step.abs() < _SETTLED).all()):
            break
    return ellipse


def _axes(ellipse: torch.Tensor, cov: torch.Tensor) -> np.ndarray:
    """re, its error, q, its error, (4, B), of ln s, e1, e2 and their covariance."""
    pair = ellipse[:, 1:]
    e = pair.square().sum(1).sqrt()
    re, q = ellipse[:, 0].exp() * (1 + e), (1 - e) / (1 + e)
    slope = torch.cat(
        [torch.ones_like(pair[:, :1]), pair / (e * (1 + e))[:, None].clamp_min(1e-12)], 1
    )
    re_err = re * (slope[:, None] @ cov @ slope[..., None])[:, 0, 0].clamp_min(0).sqrt()
    # ln q = -2 artanh e, as an eta of the fit.
    eta, block = torch.zeros((len(e), 8), dtype=e.dtype), torch.zeros((len(e), 8, 8), dtype=e.dtype)
    eta[:, 5:7] = pair * (2 * torch.atanh(e) / e.clamp_min(1e-12))[:, None]
    block[:, 5:7, 5:7] = cov[:, 1:, 1:] * (2 / (1 - e.square())).square()[:, None, None]
    errors = torch.stack([re_err, axis_ratio_error(eta, block)])
    errors = torch.where(errors > 0, errors, torch.nan)
    return torch.stack([re, errors[0], q, errors[1]]).numpy()
