"""The catalogue as a FITS binary table, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable

import astropy.units as u
import numpy as np
import pyarrow as pa
from astropy.io import fits

from autofit_ml.catalogue.rows import arrow_schema
from autofit_ml.catalogue.schema import columns_for, components_of
from autofit_ml.errors import InputError

__all__ = ["catalogue_hdus", "escape_text", "table_from_hdu", "unescape_text"]

_METADATA_KEYWORD = "AFMETA"
_EXTNAME = "CATALOG"
_TFORMS = {"bool": "L", "int32": "J", "float64": "D"}


def escape_text(text: str) -> bytes:
    r"""Printable ASCII for FITS, which allows nothing else in strings.

    Other characters and the backslash become Python escapes (``\xe9``, ``\u03c7``, ``\n``,
    ``\\``); a blank at the end, which FITS would drop, becomes ``\x20``.
    """
    # A lone surrogate (an undecodable byte of a file name) is escaped like any other character.
    escaped = text.encode("unicode_escape")
    if escaped.endswith(b" "):
        escaped = escaped[:-1] + b"\\x20"
    return escaped


def unescape_text(escaped: bytes) -> str:
    """The text that `escape_text` was given."""
    return escaped.decode("unicode_escape")


def _string_column(texts: Iterable[str]) -> tuple[str, np.ndarray]:
    """Format and array of a string column as wide as its longest entry."""
    escaped = [escape_text(text) for text in texts]
    width = max((len(text) for text in escaped), default=0) or 1
    return f"{width}A", np.array(escaped, dtype=f"S{width}")


def catalogue_hdus(table: pa.Table) -> fits.HDUList:
    """The FITS form of a catalogue.

    Parameters
    ----------
    table : pyarrow.Table
        As `rows_to_table` makes it.

    Returns
    -------
    hdus : astropy.io.fits.HDUList
        An empty primary HDU and the binary table CATALOG: TUNITn for units, TCOMMn for
        descriptions (their beginning also as comment of TTYPEn), AFMETA for the table's metadata
        as JSON, CHECKSUM and DATASUM. The same table gives the same bytes at any time.
    """
    schema = columns_for(components_of(table.column_names))
    fits_columns = []
    for column in schema:
        values = table.column(column.name).combine_chunks()
        unit = u.Unit(column.unit).to_string("fits") if column.unit else None
        if column.dtype == "str":
            form, array = _string_column(values.to_pylist())
        elif column.size > 1:
            form = f"{column.size}{_TFORMS[column.dtype]}"
            array = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.size)
        else:
            form = _TFORMS[column.dtype]
            array = values.to_numpy(zero_copy_only=False)
        fits_columns.append(fits.Column(column.name, form, unit=unit, array=array))
    hdu = fits.BinTableHDU.from_columns(fits_columns, name=_EXTNAME)
    header = hdu.header
    for i, column in enumerate(schema, start=1):
        # What fits beside the longest value in one 80-character card.
        header.comments[f"TTYPE{i}"] = column.description[:40]
        header[f"TCOMM{i}"] = column.description
    metadata = {
        key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
    }
    header[_METADATA_KEYWORD] = json.dumps(metadata, ensure_ascii=True, sort_keys=True)
    primary = fits.PrimaryHDU()
    for part in (primary, hdu):
        # A fixed text where astropy would put the time: equal catalogues are equal files.
        part.add_checksum(when="data unit")
    return fits.HDUList([primary, hdu])


def table_from_hdu(hdu: fits.BinTableHDU) -> pa.Table:
    """The catalogue in a binary table written by `catalogue_hdus`.

    Raises
    ------
    InputError
        Columns of the catalogue are missing.
    """
    schema = columns_for(components_of(hdu.columns.names))
    missing = [column.name for column in schema if column.name not in hdu.columns.names]
    if missing:
        raise InputError(
            f"not a catalogue of autofit-ml: columns missing: {', '.join(missing[:8])}",
            "give the catalog.fits that a run wrote",
        )
    metadata = json.loads(hdu.header.get(_METADATA_KEYWORD, "{}"))
    arrow = arrow_schema(schema, metadata)
    # The record array's own bytes: astropy would decode strings as ASCII and strip them.
    records = hdu.data.view(np.ndarray) if len(hdu.data) else None
    arrays = []
    for column, field in zip(schema, arrow, strict=True):
        if records is None:
            arrays.append(pa.array([], type=field.type))
        elif column.dtype == "str":
            texts = [unescape_text(bytes(text)) for text in records[column.name]]
            arrays.append(pa.array(texts, type=field.type))
        else:
            values = np.asarray(hdu.data[column.name])
            values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
            if column.size > 1:
                flat = pa.array(values.reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
            else:
                arrays.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(arrays, schema=arrow)
