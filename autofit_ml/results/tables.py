"""Tables that print well: as many digits as the errors allow."""

import math

import numpy as np
from astropy.table import QTable

__all__ = ["parameters_of", "plain", "suffixes", "with_formats"]

_FORMATS = {
    "ra": ".6f", "dec": ".6f", "zeropoint": ".4g", "pixel_scale": ".4g", "psf_fwhm": ".2f",
    "chi2": ".1f", "chi2_red": ".3f", "snr": ".1f", "bic": ".1f", "logl": ".1f", "time_ms": ".0f",
}  # fmt: skip
_MOST = 6


def with_formats(table: QTable) -> QTable:
    """Set the printing format of every column of numbers, in place, and return the table.

    A value with an error gets the decimals of two digits of the smallest usual error; errors get
    two significant digits; everything else four.
    """
    for name in table.colnames:
        values = plain(table[name])
        if values.dtype.kind != "f" or values.ndim > 1:
            continue
        table[name].info.format = _FORMATS.get(name) or _format(table, name)
    return table


def _format(table: QTable, name: str) -> str:
    if name.endswith("_err"):
        return ".2g"
    base = name.removesuffix("_init")
    if f"{base}_err" not in table.colnames:
        return ".4g"
    errors = plain(table[f"{base}_err"])
    errors = errors[np.isfinite(errors) & (errors > 0)]
    values = plain(table[name])
    largest = np.nanmax(np.abs(values), initial=0.0, where=np.isfinite(values))
    if not len(errors) or not 1e-3 <= largest < 1e7:
        return ".4g"
    decimals = 1 - math.floor(math.log10(np.quantile(errors, 0.1)))
    return f".{min(max(decimals, 0), _MOST)}f"


def plain(column: object) -> np.ndarray:
    """Numbers of a column without their unit."""
    return np.asarray(getattr(column, "value", column))


def suffixes(names: list[str]) -> list[str]:
    """Endings of the components of a catalogue: "", "_2", "_3" ..."""
    return ["", *(f"_{k}" for k in range(2, 99) if f"flux_{k}" in names and f"x_{k}" in names)]


def parameters_of(names: list[str]) -> list[str]:
    """Columns that are measured: those that have an error."""
    return [name for name in names if f"{name}_err" in names]
