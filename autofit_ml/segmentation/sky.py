"""Robust level and scatter of the sky in small images, most of which may be galaxy."""

from __future__ import annotations

import numpy as np

__all__ = ["measure_sky", "mode_of_sky"]

_MAD_TO_SIGMA = 1.4826


def mode_of_sky(values: np.ndarray, noise: float) -> tuple[float, float]:
    """Level and scatter of the sky among pixels that include objects.

    The level starts where the values are densest (the shortest interval that holds 30 % of them)
    and is then the median within 2.5 `noise` of itself. The scatter comes from the values below
    the level, which objects do not widen.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Pixel values, any units; at most 40 000 of them are used.
    noise : float
        Expected 1-sigma noise, same units, > 0.

    Returns
    -------
    level, scatter : float
        `scatter` is `noise` when it cannot be measured.
    """
    if values.size > 40_000:
        values = values[:: values.size // 20_000]
    ordered = np.sort(values)
    if ordered.size < 8:
        return (float(ordered[0]) if ordered.size else 0.0), noise
    width = max(int(0.3 * ordered.size), 4)
    start = int(np.argmin(ordered[width:] - ordered[:-width]))
    level = float(ordered[start + width // 2])
    for _ in range(4):
        low, high = np.searchsorted(ordered, (level - 2.5 * noise, level + 2.5 * noise))
        if high - low < 4:
            break
        level = float(ordered[(low + high) // 2])
    below = level - ordered[: np.searchsorted(ordered, level)]
    if below.size < 8:
        return level, noise
    scatter = _MAD_TO_SIGMA * float(np.median(below))
    return level, (scatter if scatter > 0 else noise)


def measure_sky(values: np.ndarray) -> tuple[float, float]:
    """Level and scatter of pixels outside all objects: clipped at 3 sigma, three times.

    Parameters
    ----------
    values : ndarray, shape (n,), n >= 1

    Returns
    -------
    level, scatter : float
        Image units; the scatter is corrected for the clipping (1.5 %).
    """
    if values.size > 40_000:
        values = values[:: values.size // 20_000]
    ordered = np.sort(values)
    level = float(ordered[ordered.size // 2])
    low, high = ordered[[int(0.159 * ordered.size), int(0.841 * (ordered.size - 1))]]
    scatter = 0.5 * float(high - low)
    for _ in range(3):
        start, stop = np.searchsorted(ordered, (level - 3 * scatter, level + 3 * scatter))
        kept = ordered[start:stop]
        if kept.size < 2 or scatter == 0:
            break
        level, scatter = float(kept.mean()), 1.015 * float(kept.std())
    return level, scatter
