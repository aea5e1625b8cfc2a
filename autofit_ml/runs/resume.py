"""What a results folder already holds, and whether it belongs to this run.

``<out>/.work/`` holds ``state.json`` (settings and inputs), ``shards/`` (rows of finished batches,
each with a journal of its objects and the hashes of its files), ``thumbs/`` and ``lock``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autofit_ml.catalogue import (
    atomic_write_json,
    read_catalogue_arrow,
    remove_temporaries,
    shard_ids,
)
from autofit_ml.errors import AutofitError, OutputError, ResumeError, SettingsError
from autofit_ml.images import Source
from autofit_ml.locking import locked

__all__ = [
    "RUN_FILE",
    "ResultsFolder",
    "is_result",
    "open_results",
    "read_journal",
    "saved_state",
    "source_fingerprints",
]

RUN_FILE = "run.json"
_FILES = ("catalog.parquet", "catalog.fits", RUN_FILE, "report.html")
_FOLDERS = {"objects": (".fits",), "previews": (".png",), "posterior": (".nc", ".png")}

_ANEW = "use --restart to begin anew, or another --out"


@dataclass
class ResultsFolder:
    """A results folder in use by one run.

    Attributes
    ----------
    path : Path
    done : dict
        Source id -> ids of its objects, for sources that need no more work.
    shards : list of Path
        Finished shards, in order of their number.
    partial : dict
        Source id -> ids of those of its objects that need no more work, for frames that an
        interruption left unfinished.
    """

    path: Path
    done: dict[str, list[str]] = field(default_factory=dict)
    shards: list[Path] = field(default_factory=list)
    partial: dict[str, list[str]] = field(default_factory=dict)

    def add(self, objects: Mapping[str, list[str]], unfinished: Iterable[str] = ()) -> None:
        """Count a shard's objects as done."""
        for name, ids in objects.items():
            every = [*self.partial.pop(name, []), *ids]
            if name in unfinished:
                self.partial[name] = every
            else:
                self.done[name] = every

    @property
    def work(self) -> Path:
        """Folder of shards and state."""
        return self.path / ".work"

    def next_shard(self) -> Path:
        """Path of a new shard."""
        last = int(self.shards[-1].stem) if self.shards else -1
        return self.work / "shards" / f"{last + 1:06d}.parquet"


def source_fingerprints(sources: Sequence[Source]) -> dict[str, dict[str, list]]:
    """What tells whether an input has changed.

    Returns
    -------
    dict
        Source id -> plane (``r:image`` of a further band) -> [file, HDU, size in bytes, time of
        change]; under "values" the columns of a manifest.
    """
    out: dict[str, dict[str, list]] = {}
    for source in sources:
        planes: dict[str, list] = {}
        for plane, (path, hdu) in sorted(source.every_plane.items()):
            size = changed = -1
            with contextlib.suppress(OSError):
                stat = Path(path).stat()
                size, changed = stat.st_size, stat.st_mtime_ns
            planes[plane] = [str(path), hdu, size, changed]
        values = [repr(sorted(one.overrides.items())) for one in (source, *source.others) if one]
        planes["values"] = [" ".join(values), source.file]
        out[source.id] = planes
    return out


def is_result(path: str | Path) -> bool:
    """Whether a file was written by a run: such a file is never an input.

    That is the catalogue, or a file in ``objects/``, ``previews/`` or ``posterior/``, of a folder
    with the state of a run.
    """
    path = Path(path)
    if path.name in _FILES and (path.parent / ".work" / "state.json").is_file():
        return True
    return path.parent.name in _FOLDERS and (path.parents[1] / ".work" / "state.json").is_file()


@contextlib.contextmanager
def open_results(
    path: str | Path,
    identity: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
    *,
    restart: bool = False,
) -> Iterator[ResultsFolder]:
    """Claim a results folder while the context lasts: make it, or take up the run that it holds.

    Parameters
    ----------
    path : path
    identity : dict
        `FitSettings.identity` plus versions that matter.
    fingerprints : dict
        From `source_fingerprints`.
    restart : bool
        Delete what an earlier run left there (only files that autofit-ml writes).

    Yields
    ------
    ResultsFolder

    Raises
    ------
    ResumeError
        The folder holds a run with other settings, or with inputs that have changed since (the
        message lists the differences); its state is damaged; another run is writing there.
    SettingsError
        The folder cannot be made or written.
    OutputError
        The disk is full.
    """
    path = Path(path)
    with contextlib.ExitStack() as held:
        with _as_our_errors(path):
            (path / ".work" / "shards").mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path / ".work" / "lock", path))
        yield _opened(path, dict(identity), fingerprints, restart)


def _opened(
    path: Path,
    identity: dict[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
    restart: bool,
) -> ResultsFolder:
    state_file = path / ".work" / "state.json"
    state = _state(state_file, tolerant=restart)
    cleared = False
    if restart or state.get("clearing"):
        cleared = _clear(path, state)
        state = {}
    if not state:
        if not cleared:
            _refuse_leftovers(path)
        with _as_our_errors(path):  # parts without a state belong to no run
            shutil.rmtree(path / ".work" / "shards")
            (path / ".work" / "shards").mkdir()
        atomic_write_json(state_file, {"settings": identity, "inputs": fingerprints})
        return ResultsFolder(path)

    folder, fresh = _taken_up(path, state, identity, fingerprints)
    with _as_our_errors(path):
        for part in (path, *(path / name for name in _FOLDERS), *_work_folders(path)):
            remove_temporaries(part)
    if fresh != state["inputs"]:
        atomic_write_json(state_file, {"settings": identity, "inputs": fresh})
    return folder


def saved_state(
    path: str | Path,
    identity: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
) -> set[str] | None:
    """Ids of the sources that the run in a folder has finished, without touching the folder.

    None where there is no run.

    Raises
    ------
    ResumeError
        As `open_results`, but for a run that goes on at this moment.
    """
    path = Path(path)
    state = _state(path / ".work" / "state.json", tolerant=False)
    if state.get("clearing"):
        return None
    if not state:
        _refuse_leftovers(path)
        return None
    return set(_taken_up(path, state, identity, fingerprints)[0].done)


def _taken_up(
    path: Path,
    state: Mapping[str, Any],
    identity: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
) -> tuple[ResultsFolder, dict[str, Any]]:
    """What a run has finished, if its settings and inputs are still these; the fingerprints."""
    _refuse_other_settings(path, state["settings"], identity)
    folder = ResultsFolder(path)
    hashes: dict[str, str] = {}
    for shard in sorted((path / ".work" / "shards").glob("*.parquet")):
        journal = read_journal(shard.with_suffix(".json"))
        _check_shard(shard, journal)
        folder.shards.append(shard)
        folder.add(journal["objects"], journal.get("unfinished", ()))
        hashes.update(journal["hashes"])
    fresh = json.loads(json.dumps(fingerprints))
    _refuse_other_inputs(path, state["inputs"], fresh, {**folder.done, **folder.partial}, hashes)
    return folder, fresh


def read_journal(path: Path) -> dict[str, Any]:
    """The journal of a shard: ``objects`` (source id -> object ids), ``hashes`` (file -> sha256),
    ``unfinished`` (sources of which more objects follow).

    Raises
    ------
    ResumeError
        It is missing or damaged.
    """
    try:
        journal = json.loads(path.read_text("utf-8"))
        objects, hashes = journal["objects"], journal["hashes"]
        if not (isinstance(objects, dict) and isinstance(hashes, dict)):
            raise TypeError("not the expected content")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(
            "the journal of a finished part cannot be read",
            f"delete the file and its {path.stem}.parquet, and run the same command again: their "
            "objects are fitted anew",
            path,
        ) from error
    return journal


def _state(path: Path, *, tolerant: bool) -> dict[str, Any]:
    """state.json; empty where there is none (or, if `tolerant`, where it is damaged)."""
    try:
        state = json.loads(path.read_text("utf-8"))
        if not (isinstance(state["settings"], dict) and isinstance(state["inputs"], dict)):
            raise TypeError("not the expected content")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if tolerant:
            return {}
        raise ResumeError("the state of the earlier run cannot be read", _ANEW, path) from error
    return state


def _work_folders(path: Path) -> tuple[Path, Path, Path]:
    return path / ".work", path / ".work" / "shards", path / ".work" / "thumbs"


def _check_shard(shard: Path, journal: Mapping[str, Any]) -> None:
    """The shard can be read and holds the objects of its journal."""
    listed = [name for names in journal["objects"].values() for name in names]
    try:
        ids = shard_ids(shard)
    except OutputError as error:
        raise ResumeError(error.problem, error.remedy, shard) from error
    if ids != listed:
        raise ResumeError(
            "a part of the catalogue does not hold the objects that its journal lists",
            "delete this file and run the same command again: its objects are fitted anew",
            shard,
        )


# --- is it the same run? ----------------------------------------------------------------------


def _refuse_leftovers(path: Path) -> None:
    leftovers = [name for name in _FILES if (path / name).exists()]
    leftovers += [
        f"{name}/" for name in _FOLDERS if (path / name).is_dir() and any((path / name).iterdir())
    ]
    if leftovers:
        known = _is_ours(path)
        raise ResumeError(
            f"it holds {', '.join(leftovers)} "
            + ("of another run" if known else "that this program did not write there"),
            "use --restart to replace them, or another --out"
            if known
            else "move them away, or give another --out",
            path,
        )


def _is_ours(path: Path) -> bool:
    """Whether a run wrote the catalogue files in a folder."""
    if (path / ".work" / "state.json").exists():
        return True
    try:
        return "autofit-ml" in json.loads((path / RUN_FILE).read_text("utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _refuse_other_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{name}: {before.get(name, '(not set)')!r} -> {now.get(name, '(not set)')!r}"
        for name in sorted(set(before) | set(now))
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ResumeError(
            "the settings have changed since this folder was begun: " + "; ".join(changed),
            "use --restart to begin anew, another --out, or the old settings",
            path,
        )


def _refuse_other_inputs(
    path: Path,
    before: Mapping[str, Mapping[str, list]],
    now: Mapping[str, Mapping[str, list]],
    done: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> None:
    """Inputs that are fitted already must still be there, and be the same.

    A file whose time differs but whose content does not (a copy, a fresh download) is the same.
    """
    gone = sorted(name for name in done if name not in now)
    altered = []
    for name in sorted(done):
        if name in now and before.get(name) != now[name]:
            reasons = _differences(before.get(name, {}), now[name], hashes)
            if reasons:
                altered.append(f"{name} ({', '.join(reasons)})")
    if gone or altered:
        parts = []
        if altered:
            parts.append(f"{len(altered)} changed: {_some(altered)}")
        if gone:
            parts.append(f"{len(gone)} removed: {_some(gone)}")
        raise ResumeError(
            "the input images are not those this folder was begun with; " + "; ".join(parts),
            _ANEW,
            path,
        )


def _differences(
    before: Mapping[str, list], now: Mapping[str, list], hashes: Mapping[str, str]
) -> list[str]:
    reasons = []
    for plane in sorted(set(before) | set(now)):
        old, new = before.get(plane), now.get(plane)
        if old == new:
            continue
        if old is None or new is None:
            reasons.append(f"{plane} {'added' if old is None else 'removed'}")
        elif plane == "values":
            reasons.append("manifest columns" if old[1:] == new[1:] else "path")
        elif old[:2] != new[:2]:
            reasons.append(f"{plane}: another file or HDU")
        elif old[2] != new[2] or hashes.get(new[0]) != _sha256(new[0]):
            reasons.append(f"{plane}: content")
    return reasons


def _sha256(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


# --- beginning anew ---------------------------------------------------------------------------


def _clear(path: Path, state: Mapping[str, Any]) -> bool:
    """Delete the files of an earlier run, and nothing else that lies in the folder.

    False where no run is known: whatever is called like our files is not ours to delete.
    A kill in the midst of it leaves a state that says so; the next run goes on clearing.
    """
    if not _is_ours(path):
        return False
    with _as_our_errors(path):
        names = sorted(_known_names(path, state))
        marked = {"settings": {}, "inputs": dict.fromkeys(names), "clearing": True}
        atomic_write_json(path / ".work" / "state.json", marked)
        for folder, endings in _FOLDERS.items():
            for name in (f"{name}{ending}" for name in names for ending in endings):
                (path / folder / name).unlink(missing_ok=True)
            remove_temporaries(path / folder)
            with contextlib.suppress(OSError):  # something of the user's is in it
                (path / folder).rmdir()
        for name in _FILES:
            (path / name).unlink(missing_ok=True)
        work, shards, thumbs = _work_folders(path)
        shutil.rmtree(thumbs, ignore_errors=True)
        shutil.rmtree(shards)
        for part in (path, work):
            remove_temporaries(part)
        shards.mkdir()
        (work / "state.json").unlink(missing_ok=True)
    return True


def _known_names(path: Path, state: Mapping[str, Any]) -> set[str]:
    """Ids of all objects that the earlier run may have written files for."""
    names = set(state.get("inputs", ()))
    for journal in (path / ".work" / "shards").glob("*.json"):
        with contextlib.suppress(AutofitError):
            names.update(_flat(read_journal(journal)["objects"].values()))
    for thumb in (path / ".work" / "thumbs").glob("*.jpg"):
        names.add(thumb.stem)
    with contextlib.suppress(AutofitError):
        names.update(read_catalogue_arrow(path).column("id").to_pylist())
    return names


def _flat(lists: Iterable[Iterable[str]]) -> Iterator[str]:
    return (name for names in lists for name in names)


# --- the folder itself ------------------------------------------------------------------------


@contextlib.contextmanager
def _as_our_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except AutofitError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"cannot be used for results: {reason}",
                "free some space and run the same command again, or choose another --out",
                path,
            ) from error
        raise SettingsError(
            f"cannot be used for results: {reason}",
            "choose another --out, or check what lies in the way and the permissions",
            path,
        ) from error


def _some(names: Sequence[str], limit: int = 5) -> str:
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text}, ..."
