"""The folder of a set while it is being made: one run at a time, and never another's files."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autofit_ml.catalogue.atomic import atomic_write_json, remove_temporaries
from autofit_ml.errors import AutofitError, InputError, OutputError, ResumeError
from autofit_ml.locking import locked
from autofit_ml.simulation.shards.identity import differences
from autofit_ml.simulation.shards.manifest import (
    MANIFEST,
    SHARDS,
    SOURCES,
    STATE,
    WORK,
    ShardEntry,
    problem_of,
    read_manifest,
    shard_file,
)

__all__ = ["claimed", "finished_shards", "forget_work", "write_journal", "writing"]

_SHARD_NAME = re.compile(r"shard-\d{5,}\.arrow")


@contextlib.contextmanager
def claimed(folder: Path, identity: Mapping[str, Any], restart: bool) -> Iterator[None]:
    """Keep others out of a folder, and make sure that what it holds is (a part of) this set.

    Parameters
    ----------
    folder : path
        Made if absent.
    identity : dict
        From `identity_of`.
    restart : bool
        Delete the set that is there, whatever it is.

    Raises
    ------
    ResumeError
        It holds another set, or files of others; or another run is writing there.
    OutputError
        It cannot be made or written.
    """
    _refuse_foreign(folder)
    with contextlib.ExitStack() as held:
        with writing(folder):
            (folder / WORK).mkdir(parents=True, exist_ok=True)
            (folder / SHARDS).mkdir(exist_ok=True)
            held.enter_context(locked(folder / WORK / "lock", folder))
        before = _recorded(folder, tolerant=restart)
        if restart or before.get("clearing"):
            _clear(folder)
            before = {}
        if before:
            _refuse_other_set(folder, before, identity)
        with writing(folder):
            for part in (folder, folder / WORK, folder / SHARDS):
                remove_temporaries(part)
        if not before or not (folder / STATE).exists():
            atomic_write_json(folder / STATE, identity)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what workers left that were ended
                remove_temporaries(folder / SHARDS)


def _refuse_foreign(folder: Path) -> None:
    """Names of ours that this program did not write there."""
    if (folder / STATE).exists() or (folder / WORK / "lock").exists():
        return
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        if isinstance(content, dict) and {"format", "generator"} <= set(content):
            return
    found = [name for name in (MANIFEST, SOURCES) if (folder / name).exists()]
    if (folder / SHARDS).is_dir() and any((folder / SHARDS).iterdir()):
        found.append(f"{SHARDS}/")
    if found:
        raise ResumeError(
            f"it holds {', '.join(found)} that no run of this program left there",
            "move them away, or give another --out",
            folder,
        )


def _recorded(folder: Path, *, tolerant: bool) -> dict[str, Any]:
    """What the set in a folder depends on (see `identity_of`); empty where there is none."""
    for path in (folder / STATE, folder / MANIFEST):
        try:
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise TypeError("not the expected content")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            if tolerant:
                continue
            raise ResumeError(
                "the record of the earlier run cannot be read",
                "use --restart to begin anew, or another --out",
                path,
            ) from error
        return content
    return {}


def _refuse_other_set(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = differences(before, now)
    if changed:
        raise ResumeError(
            "this folder holds another set; " + "; ".join(changed),
            "use --restart to begin anew, another --out, or the old settings",
            folder,
        )


def _clear(folder: Path) -> None:
    """Delete a set, and nothing else. A kill in the midst of it is continued by the next run."""
    atomic_write_json(folder / STATE, {"clearing": True})
    with writing(folder):
        for name in (MANIFEST, SOURCES):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / SHARDS).iterdir():
            if _SHARD_NAME.fullmatch(path.name):
                path.unlink()
    forget_work(folder)


def forget_work(folder: Path) -> None:
    """Remove state and journals: the set is complete, or gone."""
    with writing(folder):
        for path in (folder / WORK).glob("shard-*.json"):
            path.unlink()
        (folder / STATE).unlink(missing_ok=True)


def write_journal(folder: Path, number: int, entry: ShardEntry) -> None:
    """Record that a shard is complete."""
    atomic_write_json(_journal(folder, number), asdict(entry))


def finished_shards(folder: Path, expected: Sequence[tuple[int, int]]) -> dict[int, ShardEntry]:
    """Shards that are there and whole, and need not be made.

    Parameters
    ----------
    folder : path
    expected : sequence of (int, int)
        For each shard of the set the number of its first object, and how many it holds.

    Returns
    -------
    dict
        Number of the shard -> its entry in a journal or in the manifest.
    """
    listed: dict[str, ShardEntry] = {}
    with contextlib.suppress(InputError):
        listed = {entry.file: entry for entry in read_manifest(folder).shards}
    entries = {}
    for number, (first, rows) in enumerate(expected):
        file = shard_file(number)
        entry = _read_journal(_journal(folder, number)) or listed.get(file)
        if entry is None or (entry.file, entry.first, entry.rows) != (file, first, rows):
            continue
        if not problem_of(folder, entry):
            entries[number] = entry
    return entries


def _journal(folder: Path, number: int) -> Path:
    return folder / WORK / f"shard-{number:05d}.json"


def _read_journal(path: Path) -> ShardEntry | None:
    """None where there is none, or it is damaged: the shard is then made anew."""
    try:
        return ShardEntry(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """`OutputError` for any `OSError` while something is written in a folder."""
    try:
        yield
    except AutofitError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            "free some space, allow writing there, or give another --out; what was finished is "
            "kept: the same command continues",
            folder,
        ) from error
