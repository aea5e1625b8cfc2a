"""Reference, science and difference of one image side by side."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from PIL import Image, ImageDraw

from autofit_ml.report.drawing import (
    Stretch,
    colour_table,
    hatching,
    in_sigma,
    residual_indices,
    tint,
    to_screen,
)

__all__ = ["SHOWN", "brightest", "cutouts_png", "triplet_png"]

SHOWN = 200
"""Changes of an image that have cut-outs, at most: those of the largest score."""

_REACH, _ENLARGED = 20, 3
"""Half side of a cut-out in pixels, and screen pixels for each."""

_GAP = 6
_SIDE = 400
"""Screen pixels of a panel, at least; at most about twice as many."""

_REAL, _ARTEFACT = (60, 220, 120), (240, 120, 60)


def triplet_png(
    reference: Any,
    science: Any,
    difference: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
    changes: Table,
) -> bytes:
    """Draw reference, science and difference over its noise, with what was detected.

    Parameters
    ----------
    reference, science : Frame, or anything with ``data``, ``sigma`` and ``mask``
        On the same pixels; each with its own stretch.
    difference, sigma : ndarray, shape (ny, nx)
    mask : ndarray, shape (ny, nx)
        Pixels without a difference (hatched).
    changes : Table
        Columns ``x``, ``y`` and ``real``: circles, green where real.

    Returns
    -------
    bytes
        PNG; the first row is at the bottom.
    """
    longest = max(difference.shape)
    scale = (max(1, _SIDE // longest), math.ceil(longest / (2 * _SIDE)))
    panels = _panels(reference, science, difference, sigma, mask, scale)
    height = panels[0].shape[0]
    canvas = Image.fromarray(_side_by_side(panels))
    draw, size = ImageDraw.Draw(canvas), panels[0].shape[1] / difference.shape[1]
    radius = max(8.0, 6 * size)
    for x, y, real in zip(changes["x"], changes["y"], changes["real"], strict=True):
        row = height - (float(y) + 0.5) * size
        for k in range(3):
            column = k * (panels[0].shape[1] + _GAP) + (float(x) + 0.5) * size
            box = (column - radius, row - radius, column + radius, row + radius)
            draw.ellipse(box, outline=_REAL if real else _ARTEFACT, width=2)
    return _png(canvas)


def brightest(changes: Table) -> np.ndarray:
    """Rows of the changes that have cut-outs, those that look real first, by falling score."""
    order = np.argsort(-np.abs(np.asarray(changes["score"], float)), kind="stable")[:SHOWN]
    return order[np.argsort(~np.asarray(changes["real"], bool)[order], kind="stable")]


def cutouts_png(
    reference: Any,
    science: Any,
    difference: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
    changes: Table,
) -> bytes:
    """Draw reference, science and difference about the `brightest` changes, one below another.

    Parameters are those of `triplet_png`; the columns ``score`` and ``real`` say which and in what
    order. Pixels beyond the image are dark.
    """
    panels = _panels(reference, science, difference, sigma, mask, (1, 1))
    wide = [np.pad(one[::-1], [(_REACH, _REACH)] * 2 + [(0, 0)]) for one in panels]
    rows = []
    for k in brightest(changes):
        x, y = (round(float(changes[name][k])) for name in ("x", "y"))
        cuts = [one[y : y + 2 * _REACH + 1, x : x + 2 * _REACH + 1][::-1] for one in wide]
        rows.append(_side_by_side([one.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1) for one in cuts]))
    return _png(Image.fromarray(np.concatenate(rows)))


def _panels(
    reference: Any, science: Any, difference: np.ndarray, sigma: np.ndarray, mask: np.ndarray,
    scale: tuple[int, int],
) -> list[np.ndarray]:  # fmt: skip
    """The three images in colour at screen size, the first row at the bottom."""
    panels = []
    for frame in (reference, science):
        level = Stretch(frame.data, None, frame.sigma, frame.mask, np.nan)
        panels.append(colour_table("gray")[level.indices(to_screen(frame.data, *scale))])
    residual = to_screen(np.where(mask, 0, in_sigma(difference, sigma)).astype(np.float32), *scale)
    panels.append(colour_table("RdBu_r")[residual_indices(residual)])
    unused = hatching(to_screen(mask, *scale))
    for panel in panels:
        tint(panel, unused, (128, 128, 128), 0.6)
    return panels


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((panels[0].shape[0], _GAP, 3), 24, dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
