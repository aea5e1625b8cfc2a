"""Sums over blocks of pixels."""

from __future__ import annotations

from typing import Any

__all__ = ["bin_images", "block_sums"]


def block_sums(values: Any, b: int) -> Any:
    """Sums over b x b pixels of the last two axes; what is left at the far borders is cut off.

    Parameters
    ----------
    values : ndarray or Tensor, shape (..., ny, nx)
    b : int
        Side of a block, pixels.

    Returns
    -------
    ndarray or Tensor, shape (..., ny // b, nx // b)
        As `values`; integers for booleans.
    """
    ny, nx = (side // b for side in values.shape[-2:])
    rows = values[..., : ny * b, : nx * b].reshape(*values.shape[:-2], ny, b, nx * b).sum(-2)
    out = rows[..., ::b]
    for k in range(1, b):  # five times as fast as a sum over an axis of b
        out = out + rows[..., k::b]
    return out


def bin_images(data: Any, root_weight: Any, b: int) -> tuple[Any, Any]:
    """Images of b x b times larger pixels, and their noise.

    Parameters
    ----------
    data, root_weight : ndarray or Tensor, shape (..., ny, nx)
        Image, and 1/sigma of its pixels (0 where masked); white noise.
    b : int

    Returns
    -------
    data, root_weight : shape (..., ny // b, nx // b)
        b * b times the mean of a block's good pixels, and 1/sigma of it; 0 where half of the block
        or more is masked.
    """
    good = root_weight > 0
    number = block_sums(good, b)
    variance = block_sums(good / (root_weight**2 + ~good), b)
    share = b * b / (number + (number == 0))
    root = (2 * number > b * b) / (share * (variance + (number == 0)) ** 0.5)
    return block_sums(data * good, b) * share, root
