"""State of a survey: what its files say is done, how fast it goes, what failed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue.atomic import atomic_file
from autofit_ml.errors import InputError, OutputError
from autofit_ml.runs.kinds import SURVEYED
from autofit_ml.survey.plan import IMAGES, TILES, read_table
from autofit_ml.survey.sky import Tiling, tiling
from autofit_ml.survey.tiles import failures, tile_record

__all__ = ["SURVEY_FILE", "SurveyStatus", "finished_tiles", "read_survey", "survey_status"]

SURVEY_FILE = "survey.json"

_NUMBERS = ("detected", "objects", "usable", "flagged", "failed", "seconds", "processor", "memory")
_RECENT = 50
"""Tiles over which the rate is taken."""

_WORTH_KEEPING = 1000
"""So many new records are kept, and need not be read from their tiles again."""


@dataclass(frozen=True)
class SurveyStatus:
    """State of a survey.

    Attributes
    ----------
    out : Path
    run, tiling : str
    images, tiles : int
        Planned.
    done : int
        Finished tiles.
    detected, objects, usable, flagged, failed : int
        Detections in them; objects after duplicates are left out; their rows.
    tile_failures, image_failures : dict
        Name -> why.
    processor_hours : float
    memory : float
        The most that a process has held, MB.
    per_hour : float
        Tiles per hour, of late; NaN before the second.
    """

    out: Path
    run: str
    tiling: str
    images: int
    tiles: int
    done: int
    detected: int = 0
    objects: int = 0
    usable: int = 0
    flagged: int = 0
    failed: int = 0
    tile_failures: Mapping[str, str] = field(default_factory=dict)
    image_failures: Mapping[str, str] = field(default_factory=dict)
    processor_hours: float = 0.0
    memory: float = 0.0
    per_hour: float = float("nan")

    @property
    def left(self) -> int:
        """Tiles that are neither done nor failed."""
        return self.tiles - self.done - len(self.tile_failures)

    @property
    def hours_left(self) -> float:
        """Hours for what is left, at the rate of late."""
        return self.left / self.per_hour if self.per_hour else float("nan")


def read_survey(out: str | Path) -> dict[str, Any]:
    """Read the record of a survey: ``survey.json``.

    Raises
    ------
    InputError
        There is none.
    """
    path = Path(out) / SURVEY_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        tiling(record["tiling"])
        return record
    except FileNotFoundError:
        raise InputError(
            "is no survey", "give the folder of autofit-ml survey ... --out", out
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot be read: {error}",
            "run the same survey command again: it is written anew",
            path,
        ) from error


def survey_status(out: str | Path) -> SurveyStatus:
    """Say how far a survey is.

    Raises
    ------
    InputError
        There is none.
    """
    out = Path(out)
    record = read_survey(out)
    tiles = read_table(out, TILES)
    images = read_table(out, IMAGES)
    done = finished_tiles(out, tiling(record["tiling"]))
    total = {name: float(np.sum(done[name])) for name in _NUMBERS}
    return SurveyStatus(
        out,
        str(record["settings"]["run"]),
        str(record["tiling"]),
        len(set(images["id"])),
        len(tiles),
        int(np.isin(done["name"], np.asarray(tiles["tile"], dtype=object)).sum()),
        **{name: int(total[name]) for name in _NUMBERS[:5]},
        tile_failures=failures(out, "tiles"),
        image_failures=failures(out, "images"),
        processor_hours=total["processor"] / 3600.0,
        memory=float(np.max(done["memory"], initial=0.0)),
        per_hour=_rate(done["finished"]),
    )


def _rate(finished: np.ndarray) -> float:
    """Tiles per hour among the last ones."""
    last = np.sort(finished)[-_RECENT:]
    if len(last) < 2 or last[-1] <= last[0]:
        return float("nan")
    return float((len(last) - 1) / (last[-1] - last[0]) * 3600.0)


def finished_tiles(out: Path, sky: Tiling) -> dict[str, np.ndarray]:
    """Records of the finished tiles, as columns sorted by tile.

    Returns
    -------
    dict of ndarray
        ``name``, ``tile``, ``finished`` (time, s), ``file``, and the numbers of `TileOutcome`.
    """
    kept = _kept_records(out)
    rows: list[dict[str, Any]] = []
    fresh = 0
    for path, changed in _tile_files(out):
        name = path.stem
        old = kept.get(name)
        if old is None or old["finished"] != changed:
            try:
                about = tile_record(path)
            except OutputError:
                if not path.exists():  # retried at this moment
                    continue
                raise
            old = {key: about[key] for key in ("name", "tile", *_NUMBERS)} | {"finished": changed}
            fresh += 1
        rows.append(old)
    rows.sort(key=lambda row: int(row["tile"]))
    if fresh >= _WORTH_KEEPING:
        with contextlib.suppress(OutputError), atomic_file(_records(out), fsync=False) as file:
            pq.write_table(pa.Table.from_pylist(rows), file)
    names = ("tile", "finished", *_NUMBERS)
    columns = {name: np.array([row[name] for row in rows], dtype=float) for name in names}
    columns["tile"] = np.array([row["tile"] for row in rows], dtype=np.int64)
    columns["name"] = np.array([row["name"] for row in rows], dtype=object)
    return columns


def _tile_files(out: Path) -> list[tuple[Path, float]]:
    """Files of finished tiles, and when they were finished."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for folder in os.scandir(out / "tiles"):
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder.path):
                if entry.name.endswith(".parquet"):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((Path(entry.path), entry.stat().st_mtime))
    return found


def _records(out: Path) -> Path:
    return out / SURVEYED.work / "finished.parquet"


def _kept_records(out: Path) -> dict[str, dict[str, Any]]:
    """Records that an earlier look has kept."""
    try:
        table = pq.read_table(_records(out))
    except (OSError, pa.ArrowException):
        return {}
    return {row["name"]: row for row in table.to_pylist()}
