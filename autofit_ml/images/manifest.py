"""Read a manifest: one row per object, with its files and what is known of it."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from autofit_ml.errors import InputError, SettingsError, errors_as, errors_of_file
from autofit_ml.images.bands import group_bands
from autofit_ml.images.roles import as_id, fits_stem, split_role
from autofit_ml.images.siblings import planes_beside, split_hdu
from autofit_ml.images.source import Discovery, Plane, Source
from autofit_ml.presets import SurveyPreset, survey_preset

__all__ = ["MANIFEST_COLUMNS", "read_manifest"]

_PLANES = ("image", "sigma", "var", "ivar", "wht", "psf", "mask", "seg")
_NUMBERS = (
    "x", "y", "ra", "dec", "radius", "zeropoint", "pixel_scale", "gain", "rdnoise", "exptime",
    "sky_level", "sky_subtracted", "saturate", "psf_fwhm", "psf_oversampling", "target",
)  # fmt: skip
_POSITIVE = ("radius", "pixel_scale", "gain", "exptime", "psf_fwhm", "psf_oversampling")
_ALIASES = {
    "err": "sigma",
    "rms": "sigma",
    "invvar": "ivar",
    "dq": "mask",
    "segm": "seg",
    "zp": "zeropoint",
    "pixscale": "pixel_scale",
    "file": "image",
}

_TRUTH = dict.fromkeys(("t", "true", "1", "yes"), True) | dict.fromkeys(
    ("f", "false", "0", "no"), False
)

MANIFEST_COLUMNS = ("id", "band", *_PLANES, *_NUMBERS, "filter", "psf_has_pixel")
"""Columns that are understood; only ``image`` must be there."""

_FORMATS = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".parquet": "parquet"}


def _table(path: Path) -> Table:
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise SettingsError(
            f"unknown manifest format {suffix!r}", "use .csv, .ecsv or .parquet", path
        )
    if not path.is_file():
        raise SettingsError("the manifest does not exist", "check the path", path)
    with errors_as(SettingsError, "the manifest cannot be read", "check it opens as a table", path):
        if suffix == ".parquet":
            import pyarrow.parquet

            arrow = pyarrow.parquet.read_table(path)
            return Table({name: arrow[name].to_pylist() for name in arrow.column_names})
        if suffix == ".csv":
            return Table.read(path, format="ascii.csv", converters={"id": str, "ID": str})
        return Table.read(path, format=_FORMATS[suffix])


def _is_missing(value: Any) -> bool:
    if value is None or np.ma.is_masked(value):
        return True
    if isinstance(value, (float, np.floating)):
        return math.isnan(float(value))
    return isinstance(value, (str, np.str_)) and value.strip().lower() in ("", "none", "nan", "--")


def _plane(text: str, folder: Path) -> Plane:
    """A file, with its HDU if that is named, relative to `folder`."""
    file, key = split_hdu(text)
    path = Path(file)
    return (path if path.is_absolute() else folder / path), key


def read_manifest(
    path: str | Path,
    *,
    survey: str | None = None,
    bands: Sequence[str] = (),
    epochs: bool = False,
) -> Discovery:
    """Sources listed in a table.

    Parameters
    ----------
    path : path
        ``.csv``, ``.ecsv`` or ``.parquet`` with the columns of `MANIFEST_COLUMNS`; only ``image``
        must be there. File names are relative to the table's folder and may end in ``[HDU]``
        (index or EXTNAME). Planes that a row does not name are looked for beside its image, as in a
        folder. x and y are 0-based pixels of the file; ra and dec ICRS degrees.
    survey : str, optional
        Preset of all rows.
    bands : sequence of str
        Bands that are wanted, the reference first. None, and rows of one id in several bands: all
        of the column ``band``, in the order of their first rows.
    epochs : bool
        Rows of the same id and band are epochs.

    Returns
    -------
    Discovery
        In the table's order. Columns that are not understood are listed in ``ignored``. A row
        with a bad value or a missing file gives a source with ``problem`` set.

    Raises
    ------
    SettingsError
        No such file, unreadable, no ``image`` column, no rows, an id twice (in the same band);
        a band that no row has.
    """
    path = Path(path)
    table = _table(path)
    columns: dict[str, str] = {}
    ignored: list[tuple[Path, str]] = []
    for column in table.colnames:
        name = column.strip().lower()
        name = _ALIASES.get(name, name)
        if name not in MANIFEST_COLUMNS:
            ignored.append((path, f"column {column!r} is not used"))
        elif name in columns:
            raise SettingsError(
                f"columns {columns[name]!r} and {column!r} mean the same", "keep one", path
            )
        else:
            columns[name] = column
    if "image" not in columns:
        raise SettingsError(
            "the manifest has no column 'image'",
            "add it; columns understood: " + ", ".join(MANIFEST_COLUMNS),
            path,
        )
    if len(table) == 0:
        raise SettingsError("the manifest has no rows", "list at least one image", path)
    preset = survey_preset(survey) if survey is not None else None
    sources: list[Source] = []
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(table, start=1):
        values = {
            name: row[column] for name, column in columns.items() if not _is_missing(row[column])
        }
        source = _source(values, number, path, preset)
        if (source.id, source.band) in seen and not (epochs and source.band):
            if "id" in values:
                raise SettingsError(
                    f"rows {seen[source.id, source.band]} and {number} have the same id "
                    f"{source.id!r}" + (f" and band {source.band!r}" if source.band else ""),
                    "make the ids unique, or fill in the column 'band' for images of one object",
                    path,
                )
            source = dataclasses.replace(source, id=f"{source.id}_{number}")
        seen[source.id, source.band] = number
        sources.append(source)
    several = len({source.id for source in sources}) < len(sources)
    if not (bands or several):
        return Discovery(tuple(sources), tuple(ignored))
    wanted = bands or tuple(dict.fromkeys(source.band for source in sources if source.band))
    with errors_of_file(path):
        joined = group_bands(
            sources, wanted, {Path(source.file) for source in sources}, epochs=epochs
        )
    return Discovery(tuple(joined.sources), (*ignored, *joined.ignored), joined.bands)


def _source(values: dict[str, Any], number: int, path: Path, preset: SurveyPreset | None) -> Source:
    folder = path.parent
    planes = {role: _plane(str(values[role]), folder) for role in _PLANES if role in values}
    problem = None
    if "image" in planes:
        image, key = planes["image"]
        base = split_role(image)[0] or fits_stem(image)
        name = str(values.get("id", base if key is None else f"{base}_{key}"))
    else:
        name = str(values.get("id", f"row{number}"))
        problem = InputError(f"row {number} names no image", "fill in the column 'image'", path)
    overrides: dict[str, Any] = {}
    for column in _NUMBERS:
        if column not in values:
            continue
        try:
            value = float(values[column])
        except (TypeError, ValueError):
            value = math.nan
        whole = column in ("target", "psf_oversampling")
        if (
            not math.isfinite(value)
            or (column in _POSITIVE and value <= 0)
            or (column == "rdnoise" and value < 0)
            or (whole and value != int(value))
        ):
            problem = problem or InputError(
                f"row {number}: {column} is {values[column]!r}", "correct or empty the cell", path
            )
        else:
            overrides[column] = int(value) if whole else value
    band = str(values["band"]).strip() if "band" in values else ""
    if "filter" in values or band:
        overrides["filter"] = str(values.get("filter", band))
    if "psf_has_pixel" in values:
        flag = str(values["psf_has_pixel"]).strip().lower()
        if flag in _TRUTH:
            overrides["psf_has_pixel"] = _TRUTH[flag]
        else:
            problem = problem or InputError(
                f"row {number}: psf_has_pixel is {flag!r}", "write true or false", path
            )
    for file, _ in planes.values():
        if problem is None and not file.exists():
            problem = InputError("no such file", f"correct row {number} of {path.name}", file)
    messages: tuple[str, ...] = ()
    shared = False
    if problem is None:
        beside, messages, shared = planes_beside(planes["image"][0], preset, planes)
        planes = beside | planes
    name = as_id(name)
    survey = None if preset is None else preset.name
    return Source(name, planes, None, overrides, problem, survey, messages, band, psf_shared=shared)
