"""The catalogue as a VOTable with UCDs: for TOPCAT, Aladin and other tools of the observatory."""

import io
import re

import pyarrow as pa
from astropy.io.votable import writeto
from astropy.io.votable.tree import VOTableFile

__all__ = ["VOTABLE_NAME", "ucd_of", "votable_bytes"]

VOTABLE_NAME = "catalog.vot"

_UCDS = {
    "id": "meta.id;meta.main",
    "file": "meta.ref",
    "message": "meta.note",
    "status": "meta.code.status",
    "flags": "meta.code.qual",
    "use": "meta.code.qual",
    "x": "pos.cartesian.x;instr.det",
    "y": "pos.cartesian.y;instr.det",
    "ra": "pos.eq.ra;meta.main",
    "dec": "pos.eq.dec;meta.main",
    "flux": "phot.flux",
    "mag": "phot.mag",
    "re": "phys.angSize.smajAxis",
    "re_arcsec": "phys.angSize.smajAxis",
    "re_circ": "phys.angSize",
    "q": "phys.angSize;arith.ratio",
    "pa": "pos.posAng;instr.det",
    "pa_sky": "pos.posAng",
    "n": "stat.param;src.morph.param",
    "sky": "instr.skyLevel",
    "snr": "stat.snr",
    "chi2": "stat.fit.chi2",
    "chi2_red": "stat.fit.chi2;arith.ratio",
    "ndof": "stat.fit.dof",
    "logl": "stat.likelihood",
    "filter": "meta.id;instr.filter",
    "zeropoint": "phot.mag;arith.zp",
    "pixel_scale": "instr.scale",
    "psf_fwhm": "instr.obsty.seeing",
}
"""UCD1+ (IVOA) of columns; errors, components and bands are derived from these."""


def ucd_of(name: str) -> str:
    """Unified content descriptor of a column; empty where there is none.

    Parameters
    ----------
    name : str
        ``re``, ``re_err``, ``mag_total``, ``re_2``, ``mag_r_err``, ...

    Examples
    --------
    >>> ucd_of("mag_2_err")
    'stat.error;phot.mag'
    """
    plain = re.sub(r"_err(_stat)?$", "", name)
    base = plain if plain in _UCDS else plain.split("_")[0]
    if plain.endswith("_init") or base not in _UCDS:
        return ""
    ucd = _UCDS[base] if plain == base else _UCDS[base].replace(";meta.main", "")
    return f"stat.error;{ucd.replace(';meta.main', '')}" if plain != name else ucd


def votable_bytes(table: pa.Table) -> bytes:
    """A catalogue, or the answer to a query, as a VOTable.

    Parameters
    ----------
    table : pyarrow.Table
        Columns with ``unit`` and ``description`` in their metadata keep them.

    Returns
    -------
    bytes
    """
    from autofit_ml.catalogue.files import table_to_qtable

    kept = table.select(
        [
            name
            for name in table.column_names
            if not pa.types.is_nested(table.schema.field(name).type)
        ]
    )
    result = VOTableFile.from_table(table_to_qtable(kept))
    for field in result.get_first_table().fields:
        field.ucd = ucd_of(field.name) or None
    buffer = io.BytesIO()
    writeto(result, buffer, tabledata_format="binary2")
    return buffer.getvalue()
