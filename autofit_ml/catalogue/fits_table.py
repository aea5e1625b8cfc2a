"""The catalogue as a FITS binary table, and back."""

import json
import re
from collections.abc import Iterable

import astropy.units as u
import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.table import Column as TableColumn
from astropy.table import Table
from astropy.table.meta import get_yaml_from_table

from autofit_ml.catalogue.arrow import arrow_array, numpy_values
from autofit_ml.catalogue.schema import columns_for
from autofit_ml.errors import InputError

__all__ = ["catalogue_hdus", "escape_text", "table_from_hdu", "unescape_text"]

_METADATA_KEYWORD = "AFMETA"
_EXTNAME = "CATALOG"
_FORMS = {pa.bool_(): "L", pa.int32(): "J", pa.int64(): "K", pa.float64(): "D"}
_ARROW_TYPES = {"A": pa.string(), **{form: dtype for dtype, form in _FORMS.items()}}


_COMMENT_WIDTH = 70


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
    fits_columns = []
    for field in table.schema:
        values = table.column(field.name)
        known = _described(field, "unit")
        unit = u.Unit(known).to_string("fits") if known else None
        if pa.types.is_string(field.type):
            form, array = _string_column(values.to_pylist())
        elif pa.types.is_fixed_size_list(field.type):
            form = f"{field.type.list_size}{_FORMS[field.type.value_type]}"
            array = numpy_values(values)
        else:
            form, array = _FORMS[field.type], numpy_values(values)
        fits_columns.append(fits.Column(field.name, form, unit=unit, array=array))
    hdu = fits.BinTableHDU.from_columns(fits_columns, name=_EXTNAME)
    header = hdu.header
    for i, field in enumerate(table.schema, start=1):
        text = _described(field, "description")
        # What fits beside the name in one 80-character card.
        header.comments[f"TTYPE{i}"] = text[: min(40, 65 - max(8, len(field.name)))]
        header[f"TCOMM{i}"] = text
    for line in _astropy_lines(table.schema):
        header["COMMENT"] = line
    metadata = {
        key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
    }
    header[_METADATA_KEYWORD] = json.dumps(metadata, ensure_ascii=True, sort_keys=True)
    primary = fits.PrimaryHDU()
    for part in (primary, hdu):
        # A fixed text where astropy would put the time: equal catalogues are equal files.
        part.add_checksum(when="data unit")
    return fits.HDUList([primary, hdu])


def _astropy_lines(schema: pa.Schema) -> list[str]:
    """Comments in which `astropy.table.QTable.read` finds the descriptions of columns."""
    empty = Table()
    for field in schema:
        text = escape_text(_described(field, "description")).decode()
        empty[field.name] = TableColumn(np.zeros(0), description=text or None)
    empty.meta["__serialized_columns__"] = {}
    lines = ["--BEGIN-ASTROPY-SERIALIZED-COLUMNS--"]
    for line in get_yaml_from_table(empty):
        starts = range(0, max(1, len(line)), _COMMENT_WIDTH)
        lines += [
            line[k : k + _COMMENT_WIDTH] + "\\" * (k + _COMMENT_WIDTH < len(line)) for k in starts
        ]
    return [*lines, "--END-ASTROPY-SERIALIZED-COLUMNS--"]


def table_from_hdu(hdu: fits.BinTableHDU) -> pa.Table:
    """The catalogue in a binary table written by `catalogue_hdus`.

    Raises
    ------
    InputError
        Columns of the catalogue are missing.
    """
    names = hdu.columns.names
    missing = [column.name for column in columns_for() if column.name not in names]
    if missing:
        raise InputError(
            f"not a catalogue of autofit-ml: columns missing: {', '.join(missing[:8])}",
            "give the catalog.fits that a run wrote",
        )
    metadata = json.loads(hdu.header.get(_METADATA_KEYWORD, "{}"))
    # The record array's own bytes: astropy would decode strings as ASCII and strip them.
    records = hdu.data.view(np.ndarray) if len(hdu.data) else None
    fields, arrays = [], []
    for number, name in enumerate(names, start=1):
        field = _field(hdu, number)
        fields.append(field)
        values: list[str] | np.ndarray
        if records is None:
            values = []
        elif pa.types.is_string(field.type):
            values = [unescape_text(bytes(text)) for text in records[name]]
        else:
            values = np.asarray(hdu.data[name])
        arrays.append(arrow_array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata or None))


def _field(hdu: fits.BinTableHDU, number: int) -> pa.Field:
    """Name, type, unit and description of a column, from the table's header."""
    header = hdu.header
    form = re.fullmatch(r"(\d*)([A-Z])", header[f"TFORM{number}"].strip())
    if form is None or form[2] not in _ARROW_TYPES:
        raise InputError(
            f"not a catalogue of autofit-ml: column {header[f'TTYPE{number}']!r} has the format "
            f"{header[f'TFORM{number}']!r}",
            "give the catalog.fits that a run wrote",
        )
    dtype, size = _ARROW_TYPES[form[2]], int(form[1] or 1)
    if form[2] != "A" and size > 1:
        dtype = pa.list_(dtype, size)
    unit = header.get(f"TUNIT{number}", "")
    about = {
        "unit": u.Unit(unit, format="fits").to_string() if unit else "",
        "description": header.get(f"TCOMM{number}", ""),
    }
    return pa.field(header[f"TTYPE{number}"], dtype, metadata=about)


def _described(field: pa.Field, what: str) -> str:
    return (field.metadata or {}).get(what.encode(), b"").decode()
