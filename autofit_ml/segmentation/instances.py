"""A label image as a table of its instances."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.table import QTable
from scipy import ndimage

__all__ = ["instance_table"]


def instance_table(
    data: np.ndarray,
    sigma: np.ndarray,
    labels: np.ndarray,
    classes: Mapping[int, str] | None = None,
    target: int | None = None,
) -> QTable:
    """Measure every instance on its own pixels.

    Parameters
    ----------
    data, sigma : ndarray, shape (ny, nx)
        Sky-subtracted image and its noise, image units.
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    classes : mapping, optional
        label -> "galaxy" or "star".
    target : int, optional
        Label of the target.

    Returns
    -------
    astropy.table.QTable
        ``label``; ``object_class`` (empty if unknown); ``target``; ``x, y`` light-weighted
        centroid, 0-based pixels; ``n_pixels``; ``flux`` inside the instance, image units; ``snr``
        of that flux.
    """
    present = np.unique(labels[labels > 0])
    weight = np.maximum(data, 0) + np.float32(1e-30)
    centres = np.array(ndimage.center_of_mass(weight, labels, present)).reshape(-1, 2)
    flux = np.asarray(ndimage.sum_labels(data, labels, present), dtype=float)
    noise = np.sqrt(np.asarray(ndimage.sum_labels(sigma.astype(float) ** 2, labels, present)))
    table = QTable()
    table["label"] = present.astype(np.int32)
    table["object_class"] = np.array([(classes or {}).get(int(k), "") for k in present], dtype=str)
    table["target"] = present == (target or -1)
    table["x"], table["y"] = centres[:, 1] * u.pix, centres[:, 0] * u.pix
    table["n_pixels"] = np.bincount(labels.ravel())[present].astype(np.int32)
    table["flux"] = flux
    table["snr"] = flux / np.maximum(noise, np.finfo(float).tiny)
    return table
