"""Catalogue values of a fit: names, numbers, errors and covariances from theta."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.uncertainties import axis_ratio_error, position_angle_error
from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.layout import Layout, Span

__all__ = [
    "CatalogueValues",
    "absent_values",
    "catalogue_errors",
    "catalogue_values",
    "draws_to_values",
    "value_names",
]


@dataclass(frozen=True)
class _Value:
    """A catalogue value: its name, and the image and key it is read from."""

    name: str
    image: int
    key: str
    span: Span
    parameter: str


def _values(layout: Layout) -> list[_Value]:
    """Catalogue values of all components, those that differ from band to band once for each."""
    out = []
    firsts = {layout.bands.index(band): band for band in layout.bands}
    several = len(set(layout.bands)) > 1 or layout.n_images > 1
    for span in layout.spans:
        for parameter in span.component.profile.parameters:
            key = f"{span.component.name}.{parameter}"
            images = layout.images_of(span, parameter)
            for image in images:
                label = layout.labels[image] if len(images) > len(firsts) else layout.bands[image]
                several_here = several and len(images) > 1
                name = f"{key}[{label}]" if several_here else key
                out.append(_Value(name, image, key, span, parameter))
    return out


def value_names(layout: Layout) -> tuple[str, ...]:
    """Names of a `SceneFit`'s values."""
    names = [value.name for value in _values(layout)]
    return (*names, *_sky_names(layout))


def _sky_names(layout: Layout) -> list[str]:
    terms = ("sky", "sky_dx", "sky_dy")[: max(1, layout.sky_terms)]
    several = layout.n_images > 1
    return [
        f"{term}[{layout.labels[i]}]" if several else term
        for i in range(layout.n_images)
        for term in terms
    ]


def absent_values(layout: Layout, image: int) -> np.ndarray:
    """Places of the values that only a certain image has."""
    names = [
        item.image == image and len(layout.images_of(item.span, item.parameter)) > 1
        for item in _values(layout)
    ]
    skies = [f"[{layout.labels[image]}]" in name for name in _sky_names(layout)]
    return np.array([*names, *skies], dtype=bool)


@dataclass(frozen=True)
class CatalogueValues:
    """Values and starts, (B, V), and the values' derivatives by theta, (B, V, D)."""

    values: np.ndarray
    start: np.ndarray
    slope: torch.Tensor


def catalogue_values(
    batch: SceneBatch,
    rows: np.ndarray,
    theta: torch.Tensor,
    base: torch.Tensor,
    started: torch.Tensor,
) -> CatalogueValues:
    """Catalogue values of some rows."""
    layout = batch.layout
    wanted = _values(layout)
    n, images = layout.n_shape, layout.n_images

    def numbers(shape: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        got = [layout.values(shape, start, i) for i in range(images)]
        return torch.stack([got[item.image][item.key] for item in wanted], -1)

    shape = theta[:, :n]
    value = numbers(shape, base)
    begun = numbers(started[:, :n], base)
    b, v = len(theta), len(wanted)
    skies = len(_sky_names(layout))
    slope = theta.new_zeros((b, v + skies, theta.shape[1]))
    slope[:, :v, :n] = row_jacobian(numbers, shape, base)
    sky, sky_start = theta.new_zeros((b, skies)), theta.new_zeros((b, skies))
    per_image = skies // images
    index = torch.as_tensor(rows, device=theta.device)
    for i in range(images):
        scale, pedestal = batch.units(i, index)
        where = layout.sky_slice(i)
        for k in range(per_image):
            column = i * per_image + k
            level = pedestal if k == 0 else torch.zeros_like(pedestal)
            if layout.sky_terms:
                j = where.start + k
                sky[:, column] = level + scale * theta[:, j]
                sky_start[:, column] = level + scale * started[:, j]
                slope[:, v + column, j] = scale
            else:
                sky[:, column] = sky_start[:, column] = level
    values, start = torch.cat([value, sky], 1), torch.cat([begun, sky_start], 1)
    return CatalogueValues(values.cpu().numpy(), start.cpu().numpy(), slope.detach())


def catalogue_errors(
    layout: Layout,
    at: CatalogueValues,
    theta: torch.Tensor,
    base: torch.Tensor,
    covariance: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors (B, V) and covariances (B, V, V) of catalogue values by those of theta (B, D, D)."""
    n, b = layout.n_shape, len(theta)
    cov = at.slope @ covariance @ at.slope.transpose(1, 2)
    variance = cov.diagonal(dim1=1, dim2=2)
    errors = torch.where(variance > 0, variance.clamp_min(0).sqrt(), torch.nan)
    wanted = _values(layout)
    for i in range(layout.n_images):
        full, by_theta = layout.parameters(theta, base, i)
        full_cov = by_theta @ covariance[:, :n, :n] @ by_theta.transpose(1, 2)
        for k, item in enumerate(wanted):
            if item.image != i or item.parameter not in ("q", "pa"):
                continue
            j = item.span.index("q")
            pair = torch.zeros((b, 8), dtype=theta.dtype, device=theta.device)
            block = torch.zeros((b, 8, 8), dtype=theta.dtype, device=theta.device)
            pair[:, 5:7] = full[:, j : j + 2]
            block[:, 5:7, 5:7] = full_cov[:, j : j + 2, j : j + 2]
            found = axis_ratio_error if item.parameter == "q" else position_angle_error
            known = errors[:, k] > 0
            errors[:, k] = torch.where(known, found(pair, block), torch.nan)
    return errors.cpu().numpy(), cov.cpu().numpy()


def draws_to_values(fit: SceneFit, draws: torch.Tensor) -> tuple[tuple[str, ...], np.ndarray]:
    """Catalogue values of draws of theta.

    Parameters
    ----------
    fit : SceneFit
        With its problem.
    draws : Tensor, (N, D)

    Returns
    -------
    names : tuple of str
        Of the fit's values, and "fraction" where the target has several components.
    values : ndarray, (N, V)
        Position angles within 90 degrees of the fit's.
    """
    layout, problem = fit.layout, fit.problem
    if layout is None or problem is None:
        raise ValueError("a fit without its problem")
    draws = draws.to(torch.float64)
    base = problem.base.expand(len(draws), -1, -1)
    got = [layout.values(draws, base, i) for i in range(layout.n_images)]
    columns = []
    for k, item in enumerate(_values(layout)):
        value = got[item.image][item.key]
        if item.parameter == "pa":
            middle = float(fit.values[k])
            value = middle + torch.remainder(value - middle + 90.0, 180.0) - 90.0
        columns.append(value)
    for i, image in enumerate(problem.images):
        where = layout.sky_slice(i)
        for k in range(max(1, layout.sky_terms)):
            level = image.pedestal[0] if k == 0 else 0.0
            slope = draws[:, where.start + k] * image.scale[0] if layout.sky_terms else 0.0
            columns.append(torch.zeros(len(draws), dtype=draws.dtype) + level + slope)
    names = fit.names
    target = layout.scene.components[: len(layout.scene.components) - fit.neighbours]
    if len(target) > 1:
        fluxes = [got[0][f"{component.name}.flux"] for component in target]
        columns.append(fluxes[0] / sum(fluxes))
        names = (*names, "fraction")
    return names, torch.stack([column.cpu() for column in columns], 1).numpy()
