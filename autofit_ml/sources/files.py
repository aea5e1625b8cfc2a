"""Files of a catalogue of sources: the table, model and residual images, regions."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.table import QTable

from autofit_ml.catalogue.arrow import arrow_array
from autofit_ml.sources.infer import SourceCatalogue

__all__ = ["arrow_table", "image_files", "regions_text"]

_TYPES = {"b": pa.bool_(), "i": pa.int64(), "u": pa.int64(), "f": pa.float64()}


def arrow_table(table: QTable) -> pa.Table:
    """The catalogue as `autofit_ml.catalogue.write_catalogue_files` takes it."""
    arrays, fields = [], []
    for name in table.colnames:
        column = table[name]
        values = np.ma.MaskedArray(getattr(column, "value", column)).filled(_missing(column))
        about = {"description": str(column.info.description or "")}
        if column.info.unit is not None:
            about["unit"] = column.info.unit.to_string()
        if values.dtype.kind in "OUS":
            kind: pa.DataType = pa.string()
            array = arrow_array([str(text) for text in values], kind)
        else:
            kind = pa.int32() if values.dtype == np.int32 else _TYPES[values.dtype.kind]
            if values.ndim == 2:
                kind = pa.list_(kind, values.shape[1])
            array = arrow_array(values, kind)
        arrays.append(array)
        fields.append(pa.field(name, kind, metadata=about))
    return pa.table(arrays, schema=pa.schema(fields))


def _missing(column: Any) -> Any:
    """Value that stands where a frame lacks a band."""
    kind = getattr(column, "dtype", np.dtype(float)).kind
    return {"f": np.nan, "b": False, "i": 0, "u": 0}.get(kind, "")


def image_files(found: SourceCatalogue) -> Iterable[tuple[str, bytes]]:
    """Name's ending and content of model and residual images: extensions of bands, epochs."""
    for ending, image in (("model", found.model), ("residual", found.residual)):
        hdus: list[fits.PrimaryHDU | fits.ImageHDU] = [fits.PrimaryHDU()]
        for b, band in enumerate(found.field.bands):
            epoch = sum(band.flux == earlier.flux for earlier in found.field.bands[: b + 1])
            hdu = fits.ImageHDU(np.asarray(image(b), np.float32), name=band.band.name, ver=epoch)
            if band.frame.wcs is not None:
                hdu.header.extend(band.frame.wcs.to_header(relax=True).cards, update=True)
            hdus.append(hdu)
        content = io.BytesIO()
        fits.HDUList(hdus).writeto(content)
        yield f"_{ending}.fits", content.getvalue()


def regions_text(table: QTable) -> str:
    """The sources as regions that DS9 and Aladin read: stars crosses, galaxies ellipses."""
    sky = "ra" in table.colnames and "pa_sky" in table.colnames
    lines = ["# Region file format: DS9 version 4.1", "fk5" if sky else "image"]
    for row in table:
        name = row["id"]
        if sky:
            at = f"{row['ra'].value:.7f},{row['dec'].value:.7f}"
            size, turn, unit = row["re_arcsec"].value, row["pa_sky"].value, '"'
        elif "re" not in table.colnames:
            at, size = f"{row['x'].value + 1:.3f},{row['y'].value + 1:.3f}", np.nan
        else:
            at = f"{row['x'].value + 1:.3f},{row['y'].value + 1:.3f}"
            size, turn, unit = row["re"].value, row["pa"].value, ""
        if row["type"] == "star" or not np.isfinite(size):
            lines.append(f"point({at}) # point=x color=cyan text={{{name}}}")
        else:
            axes = f"{size * row['q']:.3f}{unit},{size:.3f}{unit}"
            lines.append(f"ellipse({at},{axes},{turn:.1f}) # color=green text={{{name}}}")
    return "\n".join(lines) + "\n"
