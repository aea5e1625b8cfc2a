"""A finished catalogue, back from disk."""

from pathlib import Path

import astropy.units as u
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Column as TableColumn
from astropy.table import QTable

from autofit_ml.catalogue.arrow import numpy_values
from autofit_ml.catalogue.fits_table import table_from_hdu
from autofit_ml.catalogue.writer import ASTROPY_HEADER, ASTROPY_LENGTH, FITS_NAME, PARQUET_NAME
from autofit_ml.errors import InputError

__all__ = ["catalogue_path", "read_catalogue", "read_catalogue_arrow", "table_to_qtable"]

_GIVE = "give a results folder, its catalog.parquet or its catalog.fits"


def catalogue_path(path: str | Path) -> Path:
    """The catalogue file meant by `path` (a results folder or the file itself).

    Raises
    ------
    InputError
        There is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in (PARQUET_NAME, FITS_NAME):
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise InputError(
            f"holds no {PARQUET_NAME} or {FITS_NAME}",
            "the run may not be finished: run the same command again to complete it",
            path,
        )
    raise InputError("no such file or folder", _GIVE, path)


def read_catalogue_arrow(path: str | Path, *, of_fits: bool = True) -> pa.Table:
    """Read a catalogue as an Arrow table; see `read_catalogue`.

    `of_fits`: one of another kind (the sources of frames) is refused.
    """
    file = catalogue_path(path)
    try:
        if file.suffix.lower() == ".parquet":
            with pq.ParquetFile(file) as parquet:
                table = _own_metadata(parquet.read())
        else:
            with fits.open(file) as hdus:
                table = table_from_hdu(hdus["CATALOG"])
    except InputError as error:
        raise InputError(error.problem, error.remedy, file) from error
    except KeyError as error:
        raise InputError("has no table called CATALOG", _GIVE, file) from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as a catalogue: {error}", _GIVE, file) from error
    missing = [name for name in ("id", *("status",) * of_fits) if name not in table.column_names]
    if missing:
        raise InputError(
            f"is not a catalogue of {'fits' if of_fits else 'autofit-ml'}: no column "
            f"{' or '.join(missing)}",
            _GIVE,
            file,
        )
    return table


def _own_metadata(table: pa.Table) -> pa.Table:
    """Without what is there for astropy."""
    kept = {
        key: text
        for key, text in (table.schema.metadata or {}).items()
        if not key.decode().startswith((ASTROPY_HEADER, ASTROPY_LENGTH))
    }
    return table.replace_schema_metadata(kept or None)


def read_catalogue(path: str | Path) -> QTable:
    """Read the catalogue of a run.

    Parameters
    ----------
    path : path
        A results folder (its Parquet file is preferred), a ``catalog.parquet`` or a
        ``catalog.fits``.

    Returns
    -------
    table : astropy.table.QTable
        One row per object; columns with a unit are `Quantity`, descriptions are in
        ``column.info.description``, ``cov`` has shape (n, 36), and ``table.meta`` holds the
        run's metadata. Both file forms give the same table.

    Raises
    ------
    InputError
        Nothing there, or not a catalogue.
    """
    return table_to_qtable(read_catalogue_arrow(path))


def table_to_qtable(table: pa.Table) -> QTable:
    """A catalogue in Arrow as a `QTable` (see `read_catalogue`)."""
    result = QTable()
    for field in table.schema:
        about = field.metadata or {}
        values = table.column(field.name)
        if pa.types.is_string(field.type):
            texts = values.to_pylist()
            width = max((len(text) for text in texts), default=0) or 1
            array = TableColumn(texts, dtype=f"U{width}")
        else:
            array = numpy_values(values).copy()
        unit = about.get(b"unit", b"").decode()
        result[field.name] = u.Quantity(array, u.Unit(unit), copy=False) if unit else array
        result[field.name].info.description = about.get(b"description", b"").decode()
    result.meta.update(
        {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    )
    return result
