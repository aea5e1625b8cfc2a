"""A label image as a table of its instances."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.table import QTable

from autofit_ml.segmentation.shapes import moments_of_labels

__all__ = ["detection_table", "instance_table", "measured_instances"]

_NUMBERS = ("x", "y", "a", "b", "theta", "flux", "radius", "snr")


def measured_instances(image: np.ndarray, noise: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Measure every instance on its own pixels.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    labels : ndarray of int, shape (ny, nx)
        0 = sky.

    Returns
    -------
    structured array
        As `Detections.sources`, by label; positions are light-weighted centroids.
    """
    inside = labels > 0
    label = labels[inside]
    present, area, x, y, major2, minor2, theta = moments_of_labels(labels, image)
    flux = np.bincount(label, image[inside])[present]
    scatter = np.sqrt(np.bincount(label, np.square(noise[inside], dtype=float))[present])
    table = np.zeros(
        len(present), dtype=[("label", np.int32), *((name, float) for name in _NUMBERS)]
    )
    table["label"] = present
    table["x"], table["y"], table["theta"] = x, y, theta
    table["a"], table["b"] = np.sqrt(major2), np.sqrt(np.maximum(minor2, 1 / 12))
    table["flux"], table["radius"] = flux, np.sqrt(area / np.pi)
    table["snr"] = np.divide(flux, scatter, out=np.zeros(len(flux)), where=scatter > 0)
    return table


def detection_table(
    flat: np.ndarray, noise: np.ndarray, labels: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure labelled objects, and number them by position.

    Parameters
    ----------
    flat, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise; in units of `unit`.
    labels : ndarray, int32, shape (ny, nx)
    unit : float
        Image units.

    Returns
    -------
    sources : structured array
        As in `Detections`; positions are light-weighted centroids.
    labels : ndarray, int32, shape (ny, nx)
        Numbered 1, 2, ... by the rows and columns of the centroids.
    given : ndarray of int
        The given label of each.
    """
    table = measured_instances(flat, noise, labels)
    table = table[np.lexsort((table["x"], np.rint(table["y"])))]
    given = table["label"].copy()
    table["label"] = np.arange(1, len(table) + 1)
    table["flux"] *= unit
    mapping = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int32)
    mapping[given] = table["label"]
    return table, mapping[labels], given


def instance_table(
    data: np.ndarray,
    sigma: np.ndarray,
    labels: np.ndarray,
    classes: Mapping[int, str] | None = None,
    target: int | None = None,
) -> QTable:
    """Instances of a stamp as a table with units.

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
    found, classes = measured_instances(data, sigma, labels), classes or {}
    table = QTable({"label": found["label"]})
    table["object_class"] = np.array([classes.get(int(k), "") for k in found["label"]], dtype=str)
    table["target"] = found["label"] == (target or -1)
    table["x"], table["y"] = found["x"] * u.pix, found["y"] * u.pix
    table["n_pixels"] = np.bincount(labels.ravel())[found["label"]].astype(np.int32)
    table["flux"], table["snr"] = found["flux"], found["snr"]
    return table
