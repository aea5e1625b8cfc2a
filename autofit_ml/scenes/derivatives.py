"""Jacobians of small functions of many objects at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["row_jacobian"]


def row_jacobian(
    function: Callable[..., torch.Tensor], theta: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:
    """Derivatives of a function that treats each object by itself.

    One backward pass through as many copies of the objects as there are outputs: for functions that
    cost nothing. (Forward mode would do it without copies, but its levels are global: it cannot be
    used from several threads.)

    Parameters
    ----------
    function : callable (theta (..., D), *others (..., ...)) -> Tensor (..., O)
    theta : Tensor, (A, D)
    *others : Tensor, (A, ...)
        What the function needs besides; not differentiated.

    Returns
    -------
    Tensor, (A, O, D)
    """
    with torch.enable_grad():
        with torch.no_grad():
            outputs = function(theta[:1], *(other[:1] for other in others)).shape[-1]
        if outputs == 0:
            return theta.new_zeros((len(theta), 0, theta.shape[1]))
        copies = theta.detach()[:, None].repeat(1, outputs, 1).requires_grad_(True)
        beside = [other[:, None].expand(len(theta), outputs, *other.shape[1:]) for other in others]
        values = function(copies, *beside)
        (slope,) = torch.autograd.grad(values.diagonal(dim1=-2, dim2=-1).sum(), copies)
    return slope
