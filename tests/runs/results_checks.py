"""Comparison of results folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from astropy.io import fits
from table_checks import assert_same_rows

VOLATILE_CARDS = ("TIME_MS", "CHECKSUM", "DATASUM")


def catalogue(out: Path):
    """catalog.parquet as an Arrow table."""
    return pq.read_table(out / "catalog.parquet")


def assert_same_results(first: Path, second: Path) -> None:
    """Two results folders differ in times only, and hold nothing half-written."""
    one, other = catalogue(first), catalogue(second)
    assert_same_rows(one, other)
    assert one.schema.metadata == other.schema.metadata
    _same_fits(first / "catalog.fits", second / "catalog.fits")
    for kind in ("objects", "previews"):
        names = sorted(path.name for path in (first / kind).iterdir())
        assert names == sorted(path.name for path in (second / kind).iterdir())
        for name in names:
            if kind == "previews":
                assert (first / kind / name).read_bytes() == (second / kind / name).read_bytes()
            else:
                _same_fits(first / kind / name, second / kind / name)
    runs = [json.loads((out / "run.json").read_text()) for out in (first, second)]
    for part in ("versions", "settings", "inputs", "counts", "weights"):
        assert runs[0][part] == runs[1][part]
    for out in (first, second):
        assert not [path for path in out.rglob("*") if "tmp" in path.name]
        page = (out / "report.html").read_text()
        assert page.rstrip().endswith("</html>")
        assert all(name in page for name in one.column("id").to_pylist())


def _same_fits(first: Path, second: Path) -> None:
    with fits.open(first) as one, fits.open(second) as other:
        assert [hdu.name for hdu in one] == [hdu.name for hdu in other]
        for a, b in zip(one, other, strict=True):
            assert _cards(a.header) == _cards(b.header)
            if isinstance(a, fits.BinTableHDU):
                for name in a.columns.names:
                    if name.upper() not in VOLATILE_CARDS:
                        assert np.asarray(a.data[name]).tobytes() == (
                            np.asarray(b.data[name]).tobytes()
                        ), name
            elif a.data is not None:
                assert a.data.tobytes() == b.data.tobytes()


def _cards(header: fits.Header) -> list:
    return [
        (card.keyword, str(card.value), card.comment)
        for card in header.cards
        if card.keyword not in VOLATILE_CARDS
    ]
