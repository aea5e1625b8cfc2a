"""Claims on the folder of a run: locks, state, journals; whose files lie there, and clearing it."""

import contextlib
import errno
import json
import os
import platform
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from autofit_ml.catalogue import (
    atomic_write_json,
    file_stem,
    read_catalogue_arrow,
    remove_temporaries,
)
from autofit_ml.errors import AutofitError, BusyError, OutputError, ResumeError, SettingsError
from autofit_ml.runs.identity import ANEW, refuse_other_settings, some
from autofit_ml.runs.kinds import FITTED, Kind

try:
    import fcntl
except ImportError:  # Windows: two runs at once in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "UNDER_WAY",
    "as_our_errors",
    "claimed",
    "forget_work",
    "locked",
    "read_journal",
    "recorded",
    "refuse_foreign",
    "refuse_own",
    "write_state",
]

UNDER_WAY = "under_way.json"

_PAUSE = 0.1
"""Seconds between two attempts."""


@contextlib.contextmanager
def claimed(
    folder: Path,
    kind: Kind,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    restart: bool = False,
    patience: float = 0.0,
    workers: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Keep others out of a folder, and make sure that what it holds is (a part of) this run.

    Parameters
    ----------
    folder : path
        Made if absent.
    kind : Kind
    settings : dict
        What decides the results.
    inputs : dict, optional
        Id -> what tells whether an input has changed.
    restart : bool
        Delete what an earlier run left there (only files that autofit-ml writes).
    patience : float
        Seconds to wait until another process has left it.
    workers : path, optional
        Lock that several processes share that work there: nothing is deleted while one does.

    Yields
    ------
    dict
        The ``settings`` and ``inputs`` that the folder was begun with; empty: this run begins.

    Raises
    ------
    ResumeError
        The folder holds a run with other settings (the message lists the differences), or files of
        others; its state is damaged; another run is writing there.
    SettingsError
        The folder cannot be made or written.
    OutputError
        The disk is full.
    """
    with as_our_errors(folder):
        _refuse_links(folder, kind)
        refuse_foreign(folder, kind, inputs or {})
    with contextlib.ExitStack() as held:
        with as_our_errors(folder):
            (folder / kind.work).mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / kind.work / "lock", folder, patience=patience))
            (folder / kind.parts).mkdir(parents=True, exist_ok=True)
        state = recorded(folder, kind, tolerant=restart)
        cleared = restart or bool(state.get("clearing"))
        if cleared:
            with contextlib.nullcontext() if workers is None else locked(workers, folder):
                _clear(folder, kind, state)
            state = {}
        elif not state:
            refuse_own(folder, kind)
        if state:
            refuse_other_settings(folder, state["settings"], settings)
        with as_our_errors(folder):
            for part in ("", kind.work, kind.parts, f"{kind.work}/thumbs", *kind.folders):
                remove_temporaries(folder / part)
        if not state or not kind.state(folder).exists():
            with as_our_errors(folder):
                _forget_parts(folder, kind, state)
            write_state(folder, kind, settings, inputs or {})
        try:
            yield state
        finally:
            with contextlib.suppress(OSError):  # what workers left that were ended
                remove_temporaries(folder / kind.parts)


def write_state(
    folder: Path, kind: Kind, settings: Mapping[str, Any], inputs: Mapping[str, Any]
) -> None:
    """Record what a run depends on."""
    atomic_write_json(kind.state(folder), {"settings": settings, "inputs": inputs})


def _forget_parts(folder: Path, kind: Kind, state: Mapping[str, Any]) -> None:
    """Parts without a state belong to no run; those of a complete set do."""
    if not state and kind.parts_at_work:
        shutil.rmtree(folder / kind.parts)
        (folder / kind.parts).mkdir()


def recorded(folder: Path, kind: Kind, *, tolerant: bool = False) -> dict[str, Any]:
    """Settings and inputs of the run in a folder; empty where there is none.

    Raises
    ------
    ResumeError
        The record is damaged (unless `tolerant`).
    """
    path = kind.state(folder)
    try:
        state = json.loads(path.read_text("utf-8"))
        _expect(isinstance(state["settings"], dict) and isinstance(state["inputs"], dict))
        for planes in state["inputs"].values():
            _expect(planes is None or (isinstance(planes, dict) and planes))
            _expect(all(isinstance(p, list) and len(p) in (2, 4) for p in (planes or {}).values()))
        return state
    except FileNotFoundError:
        finished = kind.finished(folder, tolerant)
        return {"settings": finished, "inputs": {}} if finished else {}
    except _DAMAGED as error:
        if tolerant:
            return {}
        raise ResumeError("the state of the earlier run cannot be read", ANEW, path) from error


_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _expect(true: object) -> None:
    if not true:
        raise TypeError("not the expected content")


def _expect_texts(value: Any) -> None:
    _expect(isinstance(value, list) and all(isinstance(text, str) for text in value))


def _refuse_links(folder: Path, kind: Kind) -> None:
    """Refuse links where folders of ours are: files elsewhere would be replaced and deleted."""
    work = Path(kind.work)
    for part in (*kind.folders, *map(str, (*work.parents, work)), kind.parts):
        path = folder / part
        if path != folder and path.is_symlink():
            raise SettingsError(
                "is a link to another folder", "remove it, or give another --out", path
            )


def refuse_foreign(folder: Path, kind: Kind, names: Collection[str]) -> None:
    """Refuse names of ours that this program did not write there."""
    found = kind.leftovers(folder, names)
    if found and not kind.is_ours(folder):
        shown = some(found)
        raise ResumeError(
            f"it holds {shown} that no run of this program left there",
            "move them away, or give another --out",
            folder,
        )


def refuse_own(folder: Path, kind: Kind) -> None:
    """Refuse results whose state is gone: nobody knows what they depend on."""
    found = kind.leftovers(folder)
    if found:
        raise ResumeError(
            f"it holds {', '.join(found)} of another run",
            "use --restart to replace them, or another --out",
            folder,
        )


def _clear(folder: Path, kind: Kind, state: Mapping[str, Any]) -> None:
    """Delete the files of an earlier run, and nothing else that lies in the folder.

    A kill in the midst of it leaves a state that says so; the next run goes on clearing.
    """
    if not kind.is_ours(folder):
        return
    names, stems = _known_names(folder, kind, state)
    with as_our_errors(folder):
        marked = {
            "settings": {},
            "inputs": dict.fromkeys(sorted(map(str, names))),
            "clearing": True,
        }
        atomic_write_json(kind.state(folder), marked)
        mine = (folder / name for name in kind.files)
        for path in (*kind.objects_files(folder, stems), *mine, *kind.also_mine(folder)):
            path.unlink(missing_ok=True)
        for part in filter(None, kind.folders):
            remove_temporaries(folder / part)
            with contextlib.suppress(OSError):  # something of the user's is in it
                (folder / part).rmdir()
        forget_work(folder, kind)
        for place in (folder, folder / kind.work):
            remove_temporaries(place)


def forget_work(folder: Path, kind: Kind) -> None:
    """Remove state, journals and thumbnails: what they are of is complete, or gone."""
    with as_our_errors(folder):
        work = folder / kind.work
        shutil.rmtree(work / "thumbs", ignore_errors=True)
        if kind.parts_at_work:
            shutil.rmtree(folder / kind.parts)
            (folder / kind.parts).mkdir()
        for path in work.glob("shard-*.json"):
            path.unlink()
        (work / UNDER_WAY).unlink(missing_ok=True)
        kind.state(folder).unlink(missing_ok=True)


def _known_names(folder: Path, kind: Kind, state: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Ids of all objects that the earlier run may have written files for; stems of these files."""
    names = set(state.get("inputs", ()))
    for journal in (folder / kind.parts).glob("*.json"):
        with contextlib.suppress(AutofitError, KeyError):
            names.update(name for ids in read_journal(journal)["objects"].values() for name in ids)
    if kind is FITTED:
        with contextlib.suppress(AutofitError):
            names.update(read_catalogue_arrow(folder).column("id").to_pylist())
    thumbs = {thumb.stem for thumb in (folder / kind.work / "thumbs").glob("*.jpg")}
    return names, thumbs | {file_stem(str(name)) for name in names}


def read_journal(path: Path) -> dict[str, Any]:
    """The journal of a batch: ``objects`` (source id -> object ids), ``hashes`` (file -> sha256),
    ``unfinished`` (sources of which more objects follow).

    Raises
    ------
    ResumeError
        It is missing or damaged.
    """
    try:
        journal = json.loads(path.read_text("utf-8"))
        for name in ("objects", "hashes"):
            _expect(isinstance(journal[name], dict))
        for ids in (*journal["objects"].values(), journal["unfinished"]):
            _expect_texts(ids)
        _expect_texts([*journal["hashes"].values(), *journal.get("failures", {}).values()])
        for texts in journal.get("warnings", {}).values():
            _expect_texts(texts)
        int(path.stem)
    except _DAMAGED as error:
        raise ResumeError(
            "the journal of a finished part cannot be read",
            f"delete the files {path.stem}.* there, and run the same command again: their objects "
            "are done anew",
            path,
        ) from error
    return journal


@contextlib.contextmanager
def locked(
    lock: Path, folder: Path, *, shared: bool = False, patience: float = 0.0
) -> Iterator[None]:
    """Keep a second run out of a folder. The system drops the lock of a process that dies.

    Parameters
    ----------
    lock : path
        The lock file, made if absent; it stays, and names the process that had it last.
    folder : path
        What is locked, for the message.
    shared : bool
        Others may share the lock, and nobody may have it alone meanwhile.
    patience : float
        Seconds to wait for it.

    Raises
    ------
    BusyError
        Another process has the lock.
    OSError
        The lock file cannot be opened.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                _take_lock(descriptor, folder, shared)
                break
            except BusyError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_PAUSE)
        with contextlib.suppress(OSError):  # a full disk: only the name of the holder is lost
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path, shared: bool) -> None:
    if fcntl is None:
        return
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        raise BusyError(
            f"another run is writing there (process {holder})",
            "wait until it ends, or give another --out",
            folder,
        ) from error


@contextlib.contextmanager
def as_our_errors(path: Path) -> Iterator[None]:
    """`OutputError` for a full disk, `SettingsError` for any other `OSError`."""
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
