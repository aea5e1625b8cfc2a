"""A set as a folder of FITS files that ``autofit-ml fit`` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue.atomic import atomic_write_ecsv, atomic_write_json, remove_file
from autofit_ml.errors import SettingsError
from autofit_ml.simulation.files import export_fits
from autofit_ml.simulation.objects import SimulatedObject, source_table, truth_table
from autofit_ml.simulation.shards.columns import decode
from autofit_ml.simulation.shards.manifest import Progress
from autofit_ml.simulation.shards.reader import ShardReader, read_columns

__all__ = ["export_set"]

_MARK = ".simulated.json"
"""File that tells an export from any other folder: which files of it are ours."""

_CHUNK = 64
"""Objects in memory at a time."""


def export_set(
    folder: str | Path,
    out: str | Path,
    *,
    labels: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write all objects of a set as FITS files that ``autofit-ml fit`` reads; see `export_fits`.

    Files of an earlier export of another set in `out` are removed; the tables are written last.

    Parameters
    ----------
    folder : path
        A complete set.
    out : path
        Made if absent; must be empty or hold an export.
    labels : bool, keyword-only
        Write the true labels too.
    progress : callable, keyword-only, optional
        Called with (objects written, all).

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        The set is incomplete or damaged.
    SettingsError
        `out` holds other files.
    OutputError
        It cannot be written.
    """
    reader, out = ShardReader(folder), Path(out)
    manifest, total = reader.manifest, len(reader)
    ids = [
        name
        for entry in manifest.shards
        for batch in read_columns(manifest.folder / entry.file, manifest.schema, ["id"])
        for name in batch.column("id").to_pylist()
    ]
    _claim(out, {"recipe_sha256": manifest.recipe_sha256, "ids": ids})
    known: list[SimulatedObject] = []
    if progress is not None:
        progress(0, total)
    for start in range(0, total, _CHUNK):
        chunk = [reader.read(i, decode) for i in range(start, min(start + _CHUNK, total))]
        export_fits(chunk, out, labels=labels, tables=False)
        known += [_without_pixels(item) for item in chunk]
        if progress is not None:
            progress(len(known), total)
    atomic_write_ecsv(out / "sources.ecsv", source_table(known))
    if manifest.kind == "stamp":
        atomic_write_ecsv(out / "truth.ecsv", truth_table(known))
    return out


def _without_pixels(item: SimulatedObject) -> SimulatedObject:
    """Rows of a set as the tables need them, without pixels."""
    nothing = np.zeros((0, 0), np.float32)
    planes = dict.fromkeys(("data", "sigma", "mask", "labels", "model", "neighbour_light"), nothing)
    return item.replace(**planes, artefacts=None, sky_map=None, light=None, psf_grid=None)


def _claim(out: Path, record: Mapping[str, Any]) -> None:
    """Remove the files of an earlier export, and refuse any other folder that is not empty."""
    mark = out / _MARK
    if mark.exists():
        try:
            earlier = json.loads(mark.read_text("utf-8"))
            names = [str(name) for name in earlier["ids"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                "the record of an earlier export cannot be read", "remove that folder", mark
            ) from error
        for name in names:
            for plane in ("image", "sigma", "psf", "mask", "seg"):
                remove_file(out / f"{name}_{plane}.fits")
        for table in ("truth.ecsv", "sources.ecsv"):
            remove_file(out / table)
    elif out.is_dir() and any(out.iterdir()):
        raise SettingsError(
            "it holds files that are no export of a set", "move them away, or choose another", out
        )
    atomic_write_json(mark, record)
