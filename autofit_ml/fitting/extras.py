r"""Priors and smooth constraints as further residuals of the least-squares problem.

A Gaussian prior of a value v is the residual :math:`(v - \mu)/s` (of ln v for a log-normal one). A
constraint "g > 0" is the residual :math:`\mathrm{softplus}(-g/w)`: nothing where it clearly holds,
growing linearly where it does not, smooth in between.

Uniform and log-uniform priors have no residual: within their support (which is part of the bounds)
the fit finds the maximum of the likelihood. Samplers need the whole density in theta, with the
volume that the change of variables brings: `Extras.measure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.expressions import Expression
from autofit_ml.scenes.layout import Layout
from autofit_ml.scenes.priors import Prior

__all__ = ["WIDTH", "Extras", "make_extras"]

WIDTH = 0.005
"""w of the constraints: half a per cent of a ratio."""


@dataclass(frozen=True)
class Extras:
    """Residuals beyond the pixels.

    Attributes
    ----------
    priors : tuple of (name, Prior, images)
        "component.parameter", and the images in which it applies (the first of each band where
        the parameter is free in each).
    constraints : tuple of (Expression, images)
        Positive where they hold.
    """

    priors: tuple[tuple[str, Prior, tuple[int, ...]], ...] = ()
    constraints: tuple[tuple[Expression, tuple[int, ...]], ...] = ()

    @property
    def images(self) -> tuple[int, ...]:
        """Images whose values are needed."""
        needed = {i for _, _, images in self.priors for i in images}
        return tuple(sorted(needed | {i for _, images in self.constraints for i in images}))

    def evaluate(
        self, layout: Layout, theta: torch.Tensor, base: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Residuals (A, E) and their derivatives by theta (A, E, D)."""
        if not self.images:
            return theta.new_zeros((len(theta), 0)), theta.new_zeros(
                (len(theta), 0, theta.shape[1])
            )

        def residuals(one: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
            return self._residuals(self._values(layout, one, start), one)

        return residuals(theta, base), row_jacobian(residuals, theta, base)

    def measure(
        self, layout: Layout, theta: torch.Tensor, base: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ln of the prior density in theta beyond the residuals (A,), and its gradient (A, D).

        Parameters without a prior are uniform in theta (flat in position and ellipticity, in the
        logarithm of fluxes, sizes and indices); those with one have it in their catalogue value.
        """
        if not self.priors:
            return theta.new_zeros(len(theta)), torch.zeros_like(theta)
        with torch.enable_grad():
            free = theta.detach().requires_grad_(True)
            values = self._values(layout, free, base)
            total = free.new_zeros(len(free))
            for name, prior, images in self.priors:
                for i in images:
                    value = values[i][name]
                    total = total + prior.log_density(value) + _log_volume(layout, name, value)
                    total = total + 0.5 * _residual(prior, value).square()
            (slope,) = torch.autograd.grad(total.sum(), free)
        return total.detach(), slope

    def _values(
        self, layout: Layout, theta: torch.Tensor, base: torch.Tensor
    ) -> dict[int, dict[str, torch.Tensor]]:
        return {i: layout.values(theta, base, i) for i in self.images}

    def _residuals(
        self, values: Mapping[int, Mapping[str, torch.Tensor]], like: torch.Tensor
    ) -> torch.Tensor:
        out = []
        for name, prior, images in self.priors:
            out += [_residual(prior, values[i][name]) for i in images]
        for expression, images in self.constraints:
            for i in images:
                gap = torch.as_tensor(expression(values[i]), dtype=like.dtype)
                out.append(torch.nn.functional.softplus(-gap / WIDTH))
        return torch.stack(out, -1)


def _residual(prior: Prior, value: torch.Tensor) -> torch.Tensor:
    gaussian = prior.gaussian
    if gaussian is None:
        return torch.zeros_like(value)
    mean, sd = gaussian
    if prior.log:
        return (value.log() - mean) / sd
    return (value - mean) / sd


def _log_volume(layout: Layout, name: str, value: torch.Tensor) -> torch.Tensor:
    """ln |d value / d theta| of a parameter that has a prior, up to a constant."""
    component, _, parameter = name.rpartition(".")
    span = next(span for span in layout.spans if span.component.name == component)
    logs = {shape.name for shape in span.component.profile.shapes if shape.log}
    if parameter in ("flux", "re") or parameter in logs:
        return value.log()
    if parameter == "q":
        # Flat in (eta1, eta2) is q^-1 |ln q| dq; in the coordinate ln q it is dq / q.
        if span.shape == "eta":
            return value.log() - (-value.log()).clamp_min(1e-6).log()
        return value.log()
    return torch.zeros_like(value)


def make_extras(layout: Layout) -> Extras:
    """The priors and constraints of a layout's scene."""
    distinct = tuple(dict.fromkeys(layout.bands.index(band) for band in layout.bands))
    priors = []
    for span in layout.spans:
        for name in span.component.profile.parameters:
            parameter = span.component.parameters[name]
            if parameter.prior is None or parameter.fixed or parameter.tie:
                continue
            key = f"{span.component.name}.{name}"
            images = (0,) if layout.scene.bands(key) == "shared" else distinct
            priors.append((key, parameter.prior, images))
    constraints = []
    for expression in layout.scene.conditions:
        varied = any(layout.scene.bands(name) != "shared" for name in expression.names)
        constraints.append((expression, distinct if varied else (0,)))
    return Extras(tuple(priors), tuple(constraints))
