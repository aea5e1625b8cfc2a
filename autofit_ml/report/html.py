"""``report.html``: the whole catalogue in one file that needs nothing else to be looked at."""

import base64
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autofit_ml.catalogue import (
    atomic_write_text,
    file_stem,
    read_catalogue_arrow,
    run_warnings,
)
from autofit_ml.catalogue.collection import run_record
from autofit_ml.errors import InputError
from autofit_ml.report.payload import (
    columns_payload,
    compact,
    flags_payload,
    rendered,
    script_json,
)

__all__ = [
    "CALIBRATION_FOLDER",
    "REPORT_NAME",
    "ROWS_FOLDER",
    "SELF_CONTAINED",
    "THUMBNAIL_FOLDER",
    "VERDICT_NAME",
    "thumbnail_bytes",
    "write_report",
]

SELF_CONTAINED = 5000
"""Rows up to which the report holds every column and thumbnail (about 6 kB a row). A report of
more holds what is filtered, sorted and plotted by; thumbnails are shown from `THUMBNAIL_FOLDER`,
and the other columns from `ROWS_FOLDER` when an object is opened."""

ROWS_FOLDER = "report_rows"
"""Where, below the results folder, a large report has the columns that it does not hold."""

_PART = 1000
"""Rows in each file there."""

_HELD = frozenset(
    [
        *("id", "status", "use", "flags", "message", "at_bound", "ra", "dec", "mag", "flux", "re"),
        *("re_arcsec", "n", "q", "pa", "snr", "chi2_red"),
        *("mag_total", "flux_total", "re_total", "q_total", "fraction"),
    ]
)
"""Columns that every report holds, with their errors."""

REPORT_NAME = "report.html"

THUMBNAIL_FOLDER = Path(".work", "thumbs")
"""Where, below the results folder, the pipeline leaves ``<id>.jpg`` (see `thumbnail`)."""

CALIBRATION_FOLDER, VERDICT_NAME = "calibration", "verdict.json"
"""Where, below the results folder, ``calibrate`` leaves its verdict: a list of sentences."""

_LONG_SECTION = 24
"""A section of run.json with more entries than this is only counted."""


def thumbnail_bytes(results_dir: str | Path, name: str) -> bytes | None:
    """The thumbnail that the pipeline left for an object.

    Parameters
    ----------
    results_dir : path
    name : str
        The object's id (`autofit_ml.catalogue.file_stem` makes the file's name of it).

    Returns
    -------
    jpeg : bytes or None
        None when there is none.
    """
    try:
        return (Path(results_dir) / THUMBNAIL_FOLDER / f"{file_stem(name)}.jpg").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"the thumbnail of {name} cannot be read: {error.strerror}",
            "make the results folder readable",
            results_dir,
        ) from error


def _names_in(folder: Path) -> set[str]:
    """Names of the files in `folder`; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _present(folder: Path, stems: Sequence[str], ending: str) -> str:
    """A digit for each object: 1 where the folder has its file, else 0."""
    names = _names_in(folder)
    return "".join("01"[f"{stem}.{ending}" in names] for stem in stems)


def _write_parts(columns: Sequence[Mapping[str, Any]], rows: int, folder: Path) -> None:
    """Write columns as scripts of `_PART` rows each, which a page opened as a file can load."""
    folder.mkdir(exist_ok=True)
    for k in range(-(-rows // _PART)):
        here = slice(k * _PART, (k + 1) * _PART)
        part = {column["name"]: column["values"][here] for column in columns}
        text = json.dumps(part, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
        atomic_write_text(folder / f"{k}.js", f"autofitRows({k},{text});\n")


def _run_sections(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """run.json as titled lists of name and value, loose values first."""
    loose: list[tuple[str, str]] = []
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    for name, value in run.items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            if len(value) > _LONG_SECTION:
                loose.append((title, f"{len(value)} entries, see run.json"))
            elif value:
                sections.append((title, [(str(k), _plain(v)) for k, v in value.items()]))
        elif isinstance(value, list) and len(value) > _LONG_SECTION:
            loose.append((title, f"{len(value)} entries, see run.json"))
        else:
            loose.append((title, _plain(value)))
    return ([("run", loose)] if loose else []) + sections


def _plain(value: Any) -> str:
    if isinstance(value, str):
        # Twelve digits of a hash tell it from others; the whole is in run.json.
        return f"{value[:12]}…" if re.fullmatch(r"[0-9a-f]{32,}", value) else value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def _calibration_verdict(results: Path) -> list[str]:
    """Verdict of ``autofit-ml calibrate`` on this run's errors; empty if it was not run."""
    try:
        told = json.loads((results / CALIBRATION_FOLDER / VERDICT_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [str(line) for line in told] if isinstance(told, list) else []


def write_report(
    results_dir: str | Path,
    *,
    title: str | None = None,
    self_contained: int = SELF_CONTAINED,
) -> Path:
    """Write ``report.html`` for a finished run.

    Reads the catalogue, ``run.json`` (if present) and the thumbnails
    ``.work/thumbs/<id>.jpg`` (those present), and links ``previews/<id>.png``,
    ``objects/<id>.fits`` and ``posterior/<id>.png`` where they exist. Up to `SELF_CONTAINED` rows
    the file holds everything else itself; beyond, it loads the rest from beside it.

    Parameters
    ----------
    results_dir : path
    title : str, keyword-only, optional
        Shown at the top; default: the folder's name.
    self_contained : int, keyword-only
        Rows up to which everything is put into the file.

    Returns
    -------
    path : Path
        ``results_dir/report.html``, written atomically.

    Raises
    ------
    InputError
        There is no catalogue, or ``run.json`` is damaged.
    OutputError
        The report cannot be written.
    """
    results = Path(results_dir)
    table = read_catalogue_arrow(results)
    run = run_record(results)
    ids: list[str] = table.column("id").to_pylist()

    thumbnails = _names_in(results / THUMBNAIL_FOLDER)
    embedded: list[str | None] = []
    whole = len(ids) <= self_contained
    stems = [file_stem(name) for name in ids]
    for name, stem in zip(ids, stems, strict=True) if whole else ():
        jpeg = thumbnail_bytes(results, name) if f"{stem}.jpg" in thumbnails else None
        embedded.append(None if jpeg is None else base64.b64encode(jpeg).decode("ascii"))
    columns = columns_payload(table)
    if not whole:
        aside = [one for one in columns if one["name"].removesuffix("_err") not in _HELD]
        _write_parts(aside, len(ids), results / ROWS_FOLDER)
        for column in aside:
            del column["values"]
    elif (results / ROWS_FOLDER).is_dir():
        shutil.rmtree(results / ROWS_FOLDER)

    payload = {
        "rows": len(ids),
        "columns": [
            one | compact(one.pop("values")) if "values" in one else one for one in columns
        ],
        "part": 0 if whole else _PART,
        "thumbnails": "" if whole else _present(results / THUMBNAIL_FOLDER, stems, "jpg"),
        "flags": flags_payload(),
        "stems": {k: stems[k] for k, name in enumerate(ids) if stems[k] != name},
        "previews": _present(results / "previews", stems, "png"),
        "objects": _present(results / "objects", stems, "fits"),
        "posteriors": _present(results / "posterior", stems, "png"),
    }

    page = rendered(
        "report.html.jinja",
        ("report.css",),
        ("common.js", "report.js"),
        title=title or results.resolve().name or "results",
        warnings=run_warnings(table),
        verdict=_calibration_verdict(results),
        calibration=f"{CALIBRATION_FOLDER}/calibration.html",
        sections=_run_sections(run),
        catalogue=script_json(payload),
        thumbnails=script_json(embedded),
    )
    path = results / REPORT_NAME
    atomic_write_text(path, page)
    return path
