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

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from autofit_ml.catalogue import atomic_write_json, atomic_write_text, copy_shard, shard_ids
from autofit_ml.errors import OutputError, ResumeError
from autofit_ml.runs.claim import (
    UNDER_WAY,
    claimed,
    read_journal,
    recorded,
    refuse_foreign,
    refuse_own,
    write_state,
)
from autofit_ml.runs.identity import refuse_other_inputs, refuse_other_settings
from autofit_ml.runs.kinds import FITTED, Kind

__all__ = ["RunFolder", "open_folder", "saved_state"]


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
        refuse_foreign(path, kind, fingerprints)
        refuse_own(path, kind)
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
