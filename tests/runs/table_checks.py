"""Comparison of catalogues, bit for bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHANGES_FROM_RUN_TO_RUN = ("time_ms",)


def rows_of(table: pa.Table, ids) -> pa.Table:
    """The rows with these ids, in that order."""
    where = {name: i for i, name in enumerate(table.column("id").to_pylist())}
    return table.take([where[name] for name in ids])


def row_of(table: pa.Table, name: str) -> dict:
    """One row; there must be exactly one."""
    rows = table.filter(pc.equal(table.column("id"), name)).to_pylist()
    assert len(rows) == 1
    return rows[0]


def assert_same_rows(first: pa.Table, second: pa.Table, but=CHANGES_FROM_RUN_TO_RUN) -> None:
    """Same columns with the same units and descriptions, same rows to the last bit."""
    assert first.schema.equals(second.schema, check_metadata=False)
    for one, other in zip(first.schema, second.schema, strict=True):
        assert one.metadata == other.metadata
    assert len(first) == len(second)
    for name in first.column_names:
        if name in but:
            continue
        a, b = (_bits(t.column(name).combine_chunks()) for t in (first, second))
        different = [i for i in range(len(first)) if a[i] != b[i]]
        assert not different, f"{name} differs in {[first['id'][i].as_py() for i in different]}"


def _bits(column) -> list:
    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy(zero_copy_only=False)
        return [row.tobytes() for row in values.reshape(len(column), -1)]
    if pa.types.is_floating(column.type):
        return [value.tobytes() for value in column.to_numpy(zero_copy_only=False)]
    return column.to_pylist()


def assert_failed_row(row: dict) -> None:
    """Status, flag and NaN of a failed object; nothing stale."""
    assert row["status"] == "failed"
    assert row["flags"] & 1
    assert not row["use"]
    inputs = ("zeropoint", "pixel_scale", "psf_fwhm", "noise_correlation", "time_ms")
    for name, value in row.items():
        if isinstance(value, float) and name not in inputs:
            assert np.isnan(value), name
        if name == "cov":
            assert np.isnan(value).all()
    for name in ("ndof", "n_pix", "n_starts", "n_iter"):
        assert row[name] == 0, name
