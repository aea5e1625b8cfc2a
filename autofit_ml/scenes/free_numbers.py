"""Meaning of the numbers of theta: the coordinates of free parameters, in each band or for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.scenes.coordinates import Span
from autofit_ml.scenes.model import Scene

__all__ = ["FreeNumber", "band_abscissa", "free_numbers"]


@dataclass(frozen=True)
class FreeNumber:
    """One number of theta: the coordinate it belongs to, its weight in each image, its limits."""

    name: str
    parameter: str
    coordinate: int
    weights: tuple[float, ...]
    image: int | None  # of a coordinate that is free in each band: the first image of it
    order: int  # of a polynomial; 0 otherwise
    lower: float
    upper: float
    step: float


def band_abscissa(bands: Sequence[str], wavelengths: Sequence[float] | None) -> np.ndarray:
    """Wavelengths from -1 to 1; band numbers where none are given."""
    if wavelengths is None:
        distinct = list(dict.fromkeys(bands))
        values = np.array([distinct.index(band) for band in bands], dtype=np.float64)
    else:
        values = np.asarray(wavelengths, dtype=np.float64)
    low, high = values.min(), values.max()
    return np.zeros_like(values) if high == low else 2 * (values - low) / (high - low) - 1


def free_numbers(
    scene: Scene, span: Span, name: str, bands: tuple[str, ...], abscissa: np.ndarray
) -> list[FreeNumber]:
    """The numbers of theta of one free parameter."""
    rule = scene.bands(span.full(name))
    label = f"{span.component.name}.{span.coordinate_name(name)}"
    distinct = list(dict.fromkeys(bands))
    parts: list[tuple[str, Sequence[float], int | None, int]]  # name, weights, image, order
    if len(bands) == 1 or rule == "shared":
        parts = [(label, [1.0] * len(bands), None, 0)]
    elif rule == "free":
        parts = [
            (f"{label}[{band}]", [float(b == band) for b in bands], bands.index(band), 0)
            for band in distinct
        ]
    elif rule == "epochs":
        parts = [
            (f"{label}[{i + 1}]", list(np.eye(len(bands))[i]), i, 0) for i in range(len(bands))
        ]
    elif int(rule) < len(distinct):
        series = np.polynomial.chebyshev.chebvander(abscissa, int(rule))
        parts = [(f"{label}[{k}]", list(column), None, k) for k, column in enumerate(series.T)]
    else:
        raise SettingsError(
            f"{span.full(name)}: a polynomial of degree {rule} over {len(distinct)} bands",
            "use a lower degree, or bands: free",
        )
    lower, upper, step = span.limits(scene, name)
    return [
        FreeNumber(
            title,
            name,
            span.index(name),
            tuple(weights),
            image,
            order,
            -math.inf if order else lower,
            math.inf if order else upper,
            step,
        )
        for title, weights, image, order in parts
    ]
