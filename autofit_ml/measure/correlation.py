"""Autocorrelation of the noise of images."""

from __future__ import annotations

import torch

__all__ = ["adjacent_correlation", "measure_correlation"]


def adjacent_correlation(
    residual: torch.Tensor, good: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean correlation of adjacent pixels and its error for white noise, (B,) each.

    As in `measure_correlation`, at a fraction of its cost.
    """
    _, adjacent, error = measure_correlation(residual, good, 1, corners=False)
    return adjacent, error


def measure_correlation(
    residual: torch.Tensor, good: torch.Tensor, lag: int, corners: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Autocorrelation of the noise.

    Parameters
    ----------
    residual : Tensor, (B, ny, nx)
        (data - model) / sigma.
    good : Tensor, bool, (B, ny, nx)
        Pixels to measure it on (sky, unmasked).
    lag : int
        Largest lag.
    corners : bool
        False: along the axes only.

    Returns
    -------
    correlation : Tensor, (B, 2 lag + 1, 2 lag + 1)
        1 at zero lag.
    adjacent : Tensor, (B,)
        Mean of the correlations at lags (0, 1) and (1, 0); NaN with fewer than 50 pairs.
    error : Tensor, (B,)
        Its standard error for white noise.
    """
    weight = good.to(residual.dtype)
    count = weight.sum(2).sum(1).clamp_min(1)
    mean = (residual * weight).sum(2).sum(1) / count
    # Outliers (undetected sources) would dominate the products: clip at 4 robust sigma.
    centred = (residual - mean[:, None, None]) * weight
    spread = (centred.square().sum(2).sum(1) / count).sqrt().clamp_min(1e-12)
    limit = (4 * spread)[:, None, None]
    centred = torch.minimum(torch.maximum(centred, -limit), limit)
    ny, nx = residual.shape[1:]
    size = 2 * lag + 1
    out = torch.zeros((len(residual), size, size), dtype=residual.dtype, device=residual.device)
    pairs_adjacent = torch.zeros_like(count)
    for dy in range(0, lag + 1):
        for dx in range(-lag, lag + 1):
            if (dy == 0 and dx < 0) or (dy and dx and not corners):
                continue
            a = (slice(None), slice(0, ny - dy), slice(max(0, -dx), nx - max(0, dx)))
            b = (slice(None), slice(dy, ny), slice(max(0, dx), nx - max(0, -dx)))
            pairs = (weight[a] * weight[b]).sum(2).sum(1)
            value = (centred[a] * centred[b]).sum(2).sum(1) / pairs.clamp_min(1)
            out[:, lag + dy, lag + dx] = value
            out[:, lag - dy, lag - dx] = value
            if (dy, dx) in ((0, 1), (1, 0)):
                pairs_adjacent += pairs
    out = out / out[:, lag, lag].clamp_min(1e-12)[:, None, None]
    adjacent = (out[:, lag, lag + 1] + out[:, lag + 1, lag]) / 2
    adjacent = torch.where(pairs_adjacent >= 100, adjacent, torch.full_like(adjacent, torch.nan))
    return out, adjacent, pairs_adjacent.clamp_min(1).rsqrt()
