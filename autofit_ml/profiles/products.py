"""Matrix products whose results do not depend on the rest of the batch, to the bit.

Libraries choose their algorithm by the shape; an object's fit must not depend on its batch.
"""

import math

import torch

__all__ = ["ROWS", "each_product", "row_products"]

ROWS = 16
"""Rows are filled up to a multiple of this."""


def row_products(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """rows (B, k) @ matrix (k, m), with every row's result the same to the bit for any B.

    Matrix products choose their algorithm by the shape; filling B up to a multiple of `ROWS` keeps
    them to one, so that an object's fit does not depend on its batch.
    """
    missing = -len(rows) % ROWS
    if missing:
        rows = torch.cat([rows, rows.new_zeros((missing, rows.shape[1]))])
    return (rows @ matrix)[: len(rows) - missing]


def each_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix products left (..., i, j) @ right (..., j, k), every one computed by itself; leading
    axes broadcast."""
    lead = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    wide = [
        x.expand(*lead, *x.shape[-2:]).reshape(math.prod(lead), *x.shape[-2:])
        for x in (left, right)
    ]
    return torch.bmm(*wide).view(*lead, left.shape[-2], right.shape[-1])
