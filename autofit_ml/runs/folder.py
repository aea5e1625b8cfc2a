"""The folder of a run: one run at a time, whose files these are, what is finished already.

Every kind of run that writes has such a folder (`Kind` says which files it writes there), and
keeps below ``.work`` what makes it resumable:

- ``lock``: held while a run is writing;
- ``state.json``: the settings and inputs that the folder was begun with (`autofit_ml.runs.identity`
  tells whether they are still the same);
- a journal (JSON) for each finished part of the work: the part counts when its journal and its
  rows are there;
- ``under_way.json``: the sources that are being done, which stays there if the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from autofit_ml.catalogue import (
    atomic_write_json,
    atomic_write_text,
    copy_shard,
    file_stem,
    read_catalogue_arrow,
    remove_temporaries,
    shard_ids,
)
from autofit_ml.errors import AutofitError, OutputError, ResumeError, SettingsError
from autofit_ml.runs.identity import ANEW, refuse_other_inputs, refuse_other_settings, some
from autofit_ml.runs.kinds import FITTED, Kind
from autofit_ml.runs.locking import locked

__all__ = [
    "RunFolder",
    "as_our_errors",
    "claimed",
    "forget_work",
    "open_folder",
    "read_journal",
    "saved_state",
]


UNDER_WAY = "under_way.json"


@dataclass
class RunFolder:
    """A folder in use by one run over sources.

    Attributes
    ----------
    path : Path
    kind : Kind
    done : dict
        Source id -> ids of its objects, for sources that need no more work.
    shards : list of Path
        Rows of finished batches, in order of their number.
    partial : dict
        Source id -> ids of those of its objects that need no more work, for frames that an
        interruption left unfinished.
    deaths : dict
        Sources that were under way when the process died -> how often each was so alone.
    """

    path: Path
    kind: Kind = FITTED
    done: dict[str, list[str]] = field(default_factory=dict)
    shards: list[Path] = field(default_factory=list)
    partial: dict[str, list[str]] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)

    def under_way(self, sources: Iterable[str]) -> None:
        """Record what is being done: a process that is killed leaves it behind."""
        content = {"sources": list(sources), "deaths": self.deaths}
        atomic_write_json(self.path / self.kind.work / UNDER_WAY, content, fsync=False)

    def take_up_deaths(self) -> None:
        """Read what an earlier process left under way."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            left = json.loads((self.path / self.kind.work / UNDER_WAY).read_text("utf-8"))
            self.deaths = {str(name): int(n) for name, n in left["deaths"].items()}
            for name in map(str, left["sources"]):
                alone = len(left["sources"]) == 1
                self.deaths[name] = self.deaths.get(name, 0) + alone
        for name in self.done:
            self.deaths.pop(name, None)

    def add(self, objects: Mapping[str, list[str]], unfinished: Iterable[str] = ()) -> None:
        """Count a batch's objects as done."""
        for name, ids in objects.items():
            every = [*self.partial.pop(name, []), *ids]
            if name in unfinished:
                self.partial[name] = every
            else:
                self.done[name] = every

    def save(
        self, write: Callable[[Path], object], objects: Mapping[str, list[str]], **more: Any
    ) -> None:
        """Write a batch's journal, then its rows. The rows alone make the batch count as done.

        Parameters
        ----------
        write : callable
            Writes the rows to the path that it is given.
        objects : dict
            Source id -> ids of its objects.
        **more
            Further entries of the journal: ``hashes`` (file -> sha256), ``unfinished``.
        """
        last = int(self.shards[-1].stem) if self.shards else -1
        shard = self.path / self.kind.parts / f"{last + 1:06d}{self.kind.ending}"
        content = {"objects": objects, "hashes": {}, "unfinished": []} | more
        atomic_write_json(shard.with_suffix(".json"), content)
        write(shard)
        self.shards.append(shard)
        self.add(objects, content["unfinished"])

    def forget_failures(self, names: Collection[str]) -> None:
        """Count sources that failed as not done, and drop their rows.

        A part that has lost rows is written anew before the old one goes: what was cut short there
        is noticed by the next run, which finds the same sources in two parts.
        """
        for shard in list(self.shards):
            journal = read_journal(shard.with_suffix(".json"))
            failed = set(journal.get("failures", ())) & set(names)
            if not failed:
                continue
            gone = {one for name in failed for one in journal["objects"].get(name, ())}
            rest = {name: ids for name, ids in journal["objects"].items() if name not in failed}
            for name in failed:
                self.done.pop(name, None)
            if rest:
                more = {key: journal[key] for key in ("hashes", "unfinished")}
                for key in ("failures", "warnings"):
                    told = journal.get(key, {})
                    more[key] = {name: text for name, text in told.items() if name not in failed}
                self.save(partial(_copied, self.kind, shard, gone), rest, **more)
            self.shards.remove(shard)
            for path in (shard, shard.with_suffix(".json")):
                path.unlink()

    @property
    def journals(self) -> Iterator[dict[str, Any]]:
        """Journals of the finished batches."""
        return (read_journal(shard.with_suffix(".json")) for shard in self.shards)


def _copied(kind: Kind, old: Path, without: Collection[str], path: Path) -> None:
    """Write the rows of a part without those of some objects."""
    if kind is FITTED:
        copy_shard(old, path, without)
    else:  # failures have no rows there
        atomic_write_text(path, old.read_text("utf-8"))


# --- claiming a folder ------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(
    folder: Path,
    kind: Kind,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    restart: bool = False,
    patience: float = 0.0,
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
        _refuse_foreign(folder, kind, inputs or {})
    with contextlib.ExitStack() as held:
        with as_our_errors(folder):
            (folder / kind.work).mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / kind.work / "lock", folder, patience=patience))
            (folder / kind.parts).mkdir(parents=True, exist_ok=True)
        state = recorded(folder, kind, tolerant=restart)
        cleared = restart or bool(state.get("clearing"))
        if cleared:
            _clear(folder, kind, state)
            state = {}
        elif not state:
            _refuse_own(folder, kind)
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


def _refuse_foreign(folder: Path, kind: Kind, names: Collection[str]) -> None:
    """Refuse names of ours that this program did not write there."""
    found = kind.leftovers(folder, names)
    if found and not kind.is_ours(folder):
        shown = some(found)
        raise ResumeError(
            f"it holds {shown} that no run of this program left there",
            "move them away, or give another --out",
            folder,
        )


def _refuse_own(folder: Path, kind: Kind) -> None:
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


# --- runs over sources ------------------------------------------------------------------------


@contextlib.contextmanager
def open_folder(
    path: str | Path,
    kind: Kind,
    settings: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
    again: Collection[str] = (),
    *,
    restart: bool = False,
) -> Iterator[RunFolder]:
    """Claim a folder while the context lasts: make it, or take up the run that it holds.

    Parameters
    ----------
    path, kind, settings, restart
        See `claimed`.
    fingerprints : dict
        From `autofit_ml.runs.identity.source_fingerprints`.
    again : collection of str
        Sources that are done once more if they failed.

    Raises
    ------
    ResumeError, SettingsError, OutputError
        As of `claimed`; also for inputs that have changed since.
    """
    path = Path(path)
    with claimed(path, kind, dict(settings), fingerprints, restart=restart) as state:
        folder = RunFolder(path, kind)
        if state:
            folder, fresh = _taken_up(path, kind, state, fingerprints, again)
            folder.take_up_deaths()
            folder.under_way(())  # each death counts once
            if fresh != state["inputs"]:
                write_state(path, kind, settings, fresh)
        try:
            yield folder
        finally:  # of a process that lives
            with contextlib.suppress(OutputError):
                folder.under_way(())


def saved_state(
    path: str | Path,
    kind: Kind,
    settings: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
) -> set[str] | None:
    """Ids of the sources that the run in a folder has finished, without touching the folder.

    None where there is no run.

    Raises
    ------
    ResumeError
        As `open_folder`, but for a run that goes on at this moment.
    """
    path = Path(path)
    state = recorded(path, kind)
    if state.get("clearing"):
        return None
    if not state:
        _refuse_foreign(path, kind, fingerprints)
        _refuse_own(path, kind)
        return None
    refuse_other_settings(path, state["settings"], settings)
    return set(_taken_up(path, kind, state, fingerprints)[0].done)


def _taken_up(
    path: Path,
    kind: Kind,
    state: Mapping[str, Any],
    fingerprints: Mapping[str, Mapping[str, list]],
    again: Collection[str] = (),
) -> tuple[RunFolder, dict[str, Any]]:
    """Take up what a run has finished, if its inputs are these; return their fingerprints too."""
    folder = RunFolder(path, kind)
    hashes: dict[str, str] = {}
    finished: dict[str, Path] = {}
    for shard in sorted((path / kind.parts).glob(f"*{kind.ending}")):
        journal = read_journal(shard.with_suffix(".json"))
        if kind is FITTED:
            _check_shard(shard, journal)
        written_anew = {finished[name] for name in journal["objects"] if name in finished}
        for old in written_anew:  # by `RunFolder.forget_failures`
            folder.shards.remove(old)
            for name in [name for name, place in finished.items() if place == old]:
                del finished[name], folder.done[name]
        folder.shards.append(shard)
        folder.add(journal["objects"], journal["unfinished"])
        ended = journal["objects"].keys() - set(journal["unfinished"])
        finished.update(dict.fromkeys(ended, shard))
        hashes.update(journal["hashes"])
    folder.forget_failures(again)
    fresh = json.loads(json.dumps(fingerprints))
    refuse_other_inputs(path, state["inputs"], fresh, {**folder.done, **folder.partial}, hashes)
    return folder, fresh


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
