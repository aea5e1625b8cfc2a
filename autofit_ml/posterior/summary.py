"""Summaries of the samples of a run: ``posterior.parquet``, a row for each object and parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from autofit_ml.catalogue import (
    POSTERIOR_NAME,
    POSTERIOR_SCHEMA,
    atomic_file,
    file_stem,
    read_draws,
)
from autofit_ml.posterior.diagnostics import diagnose

__all__ = ["summary_rows", "write_summary"]

_QUANTILES = (0.15865, 0.5, 0.84135)
_FEWEST = 10
"""Draws a chain of which `diagnose` can say something."""


def write_summary(folder: Path, ids: Sequence[str]) -> None:
    """Summarise the files in ``posterior/`` of a results folder; nothing where there are none."""
    rows: list[dict[str, Any]] = []
    for name in ids:
        draws = read_draws(folder / "posterior" / f"{file_stem(name)}.nc")
        rows += [] if draws is None else summary_rows(name, draws)
    if rows:
        with atomic_file(folder / POSTERIOR_NAME) as path:
            pq.write_table(pa.Table.from_pylist(rows, schema=POSTERIOR_SCHEMA), path)


def summary_rows(name: str, draws: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows of one object.

    Parameters
    ----------
    name : str
        Its id.
    draws : mapping of str to ndarray, (chains, draws)

    Returns
    -------
    list of dict
        Columns as of `autofit_ml.catalogue.collection.posterior_table`; what cannot be known is
        None (R-hat and effective sizes of what never moves).
    """
    values = np.stack(list(draws.values()), -1)
    told = np.full((3, len(draws)), np.nan)
    if values.shape[1] >= _FEWEST:
        told = torch.stack(diagnose(torch.as_tensor(values)[None]))[:, 0].numpy()
    rows = []
    for k, parameter in enumerate(draws):
        flat = values[..., k].ravel()
        flat = flat[np.isfinite(flat)]
        numbers = [np.nan] * 5
        if len(flat):
            numbers = [flat.mean(), flat.std(), *np.quantile(flat, _QUANTILES)]
        known = [float(one) if np.isfinite(one) else None for one in (*numbers, *told[:, k])]
        rows.append(
            dict(zip(POSTERIOR_SCHEMA.names, [name, parameter, *known, len(flat)], strict=True))
        )
    return rows
