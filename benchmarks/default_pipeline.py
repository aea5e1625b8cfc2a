"""Simulated objects through the default pipeline, from FITS files to the catalogue."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

import autofit_ml
from autofit_ml.simulation import export_fits

__all__ = ["column", "columns", "fit_as_files"]


def fit_as_files(objects: Sequence[Any], **options: Any) -> QTable:
    """A row for each object, in order.

    Parameters
    ----------
    objects : sequence of SimulatedObject
    **options
        Of `autofit_ml.fit`; none: its defaults.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = export_fits(objects, Path(folder) / "images")
        table = autofit_ml.fit(images, out=Path(folder) / "results", save="none", **options)
    place = {str(one): k for k, one in enumerate(table["id"])}
    return table[[place[item.id] for item in objects]]


def column(table: QTable, name: str) -> np.ndarray:
    """A column without its unit."""
    values = table[name]
    return np.asarray(getattr(values, "value", values), dtype=float)


def columns(table: QTable, names: Sequence[str], ending: str = "") -> np.ndarray:
    """Several columns, (N, number)."""
    return np.stack([column(table, f"{name}{ending}") for name in names], axis=1)
