"""Correlation of the noise of endless stamps."""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.fft import next_fast_len

from autofit_ml.errors import SettingsError

__all__ = ["noise_autocorrelation", "noise_filter"]


@functools.lru_cache(maxsize=8)
def noise_autocorrelation(setting: float | tuple[tuple[float, ...], ...]) -> np.ndarray | None:
    """Autocorrelation of the noise, odd sides and centre 1; None: white."""
    if isinstance(setting, float | int):
        if not 0 <= setting <= 0.9:
            raise SettingsError(f"correlation = {setting}", "must lie between 0 and 0.9")
        if setting <= 1e-4:
            return None
        radius = math.floor(math.sqrt(math.log(1e-4) / math.log(setting)))
        lag = np.arange(-radius, radius + 1.0)
        return setting ** (lag[:, None] ** 2 + lag[None, :] ** 2)
    widths = {len(row) for row in setting}
    if len(setting) % 2 == 0 or len(widths) != 1 or widths.pop() % 2 == 0:
        raise SettingsError("correlation: not a rectangle with odd sides", "correct it")
    array = np.array(setting, dtype=float)
    if array[array.shape[0] // 2, array.shape[1] // 2] != 1 or np.abs(array).max() > 1:
        raise SettingsError("correlation: the centre is not 1", "divide by the central value")
    return array


def noise_filter(
    correlation: np.ndarray, shape: tuple[int, int]
) -> tuple[tuple[int, int], np.ndarray]:
    """Shape of the white field, and the filter on its half plane of frequencies.

    The field is filtered as if it were periodic; it is larger than the stamp by the reach of the
    correlation, so that no two pixels of the stamp are correlated round the edge.
    """
    reach = [side // 2 for side in correlation.shape]
    ny, nx = (next_fast_len(n + r, real=True) for n, r in zip(shape, reach, strict=True))
    grid = np.zeros((ny, nx))
    grid[: correlation.shape[0], : correlation.shape[1]] = correlation
    power = np.maximum(np.fft.fft2(np.roll(grid, (-reach[0], -reach[1]), axis=(0, 1))).real, 0)
    # Unit variance also where negative power was cut off.
    return (ny, nx), np.sqrt(power / power.mean())[:, : nx // 2 + 1]
