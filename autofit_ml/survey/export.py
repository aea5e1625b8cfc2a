"""The whole catalogue of a survey: as a view for SQL, as one file, as a HATS catalogue."""

from __future__ import annotations

import csv
import io
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue.atomic import atomic_file, atomic_write_text
from autofit_ml.errors import OutputError, errors_as
from autofit_ml.survey.sky import HEALPix, offset_positions, tiling
from autofit_ml.survey.status import finished_tiles, read_survey
from autofit_ml.survey.tiles import SPATIAL, tile_path

__all__ = ["MERGED", "VIEW", "export_hats", "export_parquet", "write_view"]

MERGED, VIEW = "catalog.parquet", "catalog.duckdb"
_INDEX = f"_healpix_{SPATIAL}"
_MOST_ROWS = 1_000_000
_FINEST = 12
"""Order up to which pixels of a HATS catalogue are divided."""

_GROUP = 10_000
"""HATS: pixels in a folder."""


def tile_files(out: str | Path) -> list[Path]:
    """Files of the finished tiles, in the order of the sky.

    Raises
    ------
    InputError
        There is no survey.
    OutputError
        No tile is finished.
    """
    out = Path(out)
    sky = tiling(read_survey(out)["tiling"])
    found = [tile_path(out, sky, int(one)) for one in finished_tiles(out, sky)["tile"]]
    if not found:
        raise OutputError("no tile is finished", "run the survey first", out)
    return found


def write_view(out: str | Path) -> Path:
    """Write a DuckDB file whose view ``catalog`` is every row of the survey, now and later.

    Returns
    -------
    Path
        ``catalog.duckdb`` in the survey's folder.
    """
    import duckdb

    out = Path(out).resolve()
    path = out / VIEW
    pattern = str(out / "tiles" / "*" / "*.parquet").replace("'", "''")
    with tempfile.TemporaryDirectory(dir=out / ".work") as place:
        fresh = Path(place) / VIEW
        with (
            errors_as(
                OutputError, "cannot be written", "free some space", path, of=(duckdb.Error,)
            ),
            duckdb.connect(str(fresh)) as connection,
        ):
            connection.execute(f"CREATE VIEW catalog AS SELECT * FROM read_parquet('{pattern}')")
        fresh.replace(path)
    return path


def export_parquet(out: str | Path, path: str | Path | None = None) -> tuple[Path, int]:
    """Write all rows into one Parquet file, a row group for each tile; its path and rows.

    Memory is that of the largest tile. In the survey's folder the file is called
    ``catalog.parquet``, and `query`, `show` and `report` take the folder for that of a run.

    Raises
    ------
    OutputError
        Tiles of different kinds, or no tile; the file cannot be written.
    """
    out = Path(out)
    path = out / MERGED if path is None else Path(path)
    rows = 0
    with atomic_file(path) as file:
        writer: pq.ParquetWriter | None = None
        try:
            for one in tile_files(out):
                table = pq.read_table(one).replace_schema_metadata(None)
                if writer is None:
                    writer = pq.ParquetWriter(file, table.schema, compression="zstd")
                if table.schema != writer.schema:
                    raise OutputError("has other columns than the first tile", "delete it", one)
                if table.num_rows:
                    writer.write_table(table)
                rows += table.num_rows
        finally:
            if writer is not None:
                writer.close()
    return path, rows


# --- HATS -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """A pixel of a HATS catalogue.

    Attributes
    ----------
    order, pixel : int
    """

    order: int
    pixel: int

    @property
    def path(self) -> Path:
        """Place of its file."""
        folder = self.pixel // _GROUP * _GROUP
        return Path(
            "dataset", f"Norder={self.order}", f"Dir={folder}", f"Npix={self.pixel}.parquet"
        )

    @property
    def span(self) -> tuple[int, int]:
        """First index of order 29 in it, and of the next."""
        shift = 2 * (SPATIAL - self.order)
        return self.pixel << shift, (self.pixel + 1) << shift


def export_hats(
    out: str | Path,
    folder: str | Path,
    *,
    margin: float = 10.0,
    most_rows: int = _MOST_ROWS,
    name: str = "",
) -> tuple[int, int]:
    """Write a HATS catalogue, which LSDB opens, with a margin for crossmatches.

    Parameters
    ----------
    out : path
        Of the survey.
    folder : path
        For ``<name>/`` and ``<name>_margin/``; must not hold them.
    margin : float
        Arcsec: the margin of a pixel has the rows so near to it, and perhaps a few more.
    most_rows : int
        Pixels of more rows are divided, down to order 12.
    name : str
        Of the catalogue; empty: the survey's folder.

    Returns
    -------
    rows, partitions : int

    Raises
    ------
    OutputError
        It is there already, or cannot be written.
    """
    out, folder = Path(out), Path(folder)
    name = name or out.resolve().name
    place, beside = folder / name, folder / f"{name}_margin"
    for one in (place, beside):
        if one.exists():
            raise OutputError("is there already", "remove it, or give another folder", one)
    files = tile_files(out)
    reach = _Reach(files, margin)
    parts = reach.partitions(most_rows)
    rows = 0
    order = max((part.order for part in parts), default=0)
    for part in parts:
        table, around = reach.rows(part)
        rows += table.num_rows
        _write_part(place / part.path, table)
        _write_part(beside / part.path, around)
    about = {
        "dataproduct_type": "object",
        "hats_nrows": rows,
        "hats_col_ra": "ra_detected",
        "hats_col_dec": "dec_detected",
        "hats_max_rows": most_rows,
    }
    _write_catalogue(place, name, parts, about, order)
    about["dataproduct_type"] = "margin"
    about["hats_nrows"] = sum(pq.read_metadata(beside / part.path).num_rows for part in parts)
    about |= {"hats_primary_table_url": name, "hats_margin_threshold": f"{margin:g}"}
    _write_catalogue(beside, f"{name}_margin", parts, about, order)
    return rows, len(parts)


class _Reach:
    """Tiles that have rows in, and near, a pixel."""

    def __init__(self, files: list[Path], margin: float) -> None:
        self.files, self.margin = files, margin
        sky = HEALPix(_FINEST)
        inside: list[np.ndarray] = []
        near: list[np.ndarray] = []
        for path in files:
            table = pq.read_table(path, columns=["ra_detected", "dec_detected", _INDEX])
            index = np.asarray(table.column(_INDEX)).astype(np.int64)
            inside.append(index >> (2 * (SPATIAL - _FINEST)))
            ra, dec = (np.asarray(table.column(one)) for one in ("ra_detected", "dec_detected"))
            near.append(np.unique(sky.index(*offset_positions(ra, dec, 1.1 * margin / 3600.0))))
        self.pixels = np.concatenate(inside) if inside else np.zeros(0, np.int64)
        self.near = near

    def partitions(self, most: int) -> list[Partition]:
        """Pixels with rows, as large as they may be."""
        todo, found = [Partition(0, pixel) for pixel in range(12)], []
        pixels = np.sort(self.pixels)
        while todo:
            part = todo.pop()
            shift = 2 * (_FINEST - part.order)
            span = part.pixel << shift, (part.pixel + 1) << shift
            a, b = np.searchsorted(pixels, span)
            if b == a:
                continue
            if b - a <= most or part.order == _FINEST:
                found.append(part)
            else:
                todo += [Partition(part.order + 1, 4 * part.pixel + k) for k in range(4)]
        return sorted(found, key=lambda part: part.span)

    def rows(self, part: Partition) -> tuple[pa.Table, pa.Table]:
        """Rows of a pixel, and of its margin, sorted by place."""
        shift = 2 * (_FINEST - part.order)
        low, high = part.pixel << shift, (part.pixel + 1) << shift
        inside, around = [], []
        sky = HEALPix(part.order)
        schema = pq.read_schema(self.files[0]).remove_metadata()
        for path, near in zip(self.files, self.near, strict=True):
            a, b = np.searchsorted(near, [low, high])
            if a == b:
                continue
            table = pq.read_table(path).replace_schema_metadata(None)
            index = np.asarray(table.column(_INDEX)).astype(np.int64)
            mine = (index >= part.span[0]) & (index < part.span[1])
            ra, dec = (np.asarray(table.column(one)) for one in ("ra_detected", "dec_detected"))
            turned = offset_positions(ra, dec, 1.1 * self.margin / 3600.0)
            touched = (sky.index(*turned) == part.pixel).reshape(-1, len(ra)).any(0)
            inside.append(table.filter(pa.array(mine)))
            around.append(table.filter(pa.array(touched & ~mine)))
        return tuple(
            pa.concat_tables([schema.empty_table(), *some]).sort_by(_INDEX)
            for some in (inside, around)
        )


def _write_part(path: Path, table: pa.Table) -> None:
    with atomic_file(path, fsync=False) as file:
        pq.write_table(table, file, compression="zstd")


def _write_catalogue(
    place: Path, name: str, parts: Sequence[Partition], about: dict[str, Any], order: int
) -> None:
    """The files that make folders of Parquet files a catalogue."""
    from autofit_ml import __version__

    metadata = list(_metadata(place, parts))
    if metadata:
        schema = pq.read_schema(place / parts[0].path)
        for file, collected in (("_common_metadata", None), ("_metadata", metadata)):
            buffer = io.BytesIO()
            pq.write_metadata(schema, buffer, metadata_collector=collected)
            with atomic_file(place / "dataset" / file) as stream:
                stream.write(buffer.getvalue())
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["Norder", "Npix"])
    table.writerows([part.order, part.pixel] for part in parts)
    atomic_write_text(place / "partition_info.csv", text.getvalue())
    size = sum((place / part.path).stat().st_size for part in parts)
    fraction = sum(1 / (12 * 4**part.order) for part in parts)
    lines = {
        "obs_collection": name,
        **about,
        "hats_col_healpix": _INDEX,
        "hats_col_healpix_order": SPATIAL,
        "hats_npix_suffix": ".parquet",
        "hats_order": order,
        "moc_sky_fraction": f"{fraction:.6g}",
        "hats_builder": f"autofit-ml {__version__}",
        "hats_creation_date": time.strftime("%Y-%m-%dT%H:%MUTC", time.gmtime()),
        "hats_estsize": math.ceil(size / 1024),
        "hats_release_date": "2025-08-22",
        "hats_version": "v1.0",
    }
    written = "#HATS catalog\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
    for file in ("hats.properties", "properties"):
        atomic_write_text(place / file, written)


def _metadata(place: Path, parts: Sequence[Partition]) -> Iterator[Any]:
    for part in parts:
        one = pq.read_metadata(place / part.path)
        one.set_file_path(str(part.path.relative_to("dataset")))
        yield one
