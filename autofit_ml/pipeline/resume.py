"""What a results folder already holds, and whether it belongs to this run."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit_ml.catalogue import atomic_write_json, remove_temporaries
from autofit_ml.errors import OutputError, ResumeError
from autofit_ml.images import Source

__all__ = ["ResultsFolder", "open_results", "source_fingerprints"]

RUN_FILE = "run.json"
_OURS = ("catalog.parquet", "catalog.fits", RUN_FILE, "report.html", "objects", "previews", ".work")


@dataclass
class ResultsFolder:
    """A results folder in use by one run.

    Attributes
    ----------
    path : Path
    done : dict
        Source id -> number of the shard that holds it, for sources that need no work.
    shards : list of Path
        Finished shards, in order of their number.
    """

    path: Path
    done: dict[str, int]
    shards: list[Path]

    @property
    def work(self) -> Path:
        """Folder of shards and state."""
        return self.path / ".work"

    def next_shard(self) -> Path:
        """Path of a new shard."""
        last = int(self.shards[-1].stem) if self.shards else -1
        return self.work / "shards" / f"{last + 1:06d}.parquet"


def source_fingerprints(sources: Sequence[Source]) -> dict[str, list]:
    """Source id -> [[plane, path, HDU, size, modification time] ...]: has an input changed?"""
    out: dict[str, list] = {}
    for source in sources:
        planes = []
        for plane, (path, hdu) in sorted(source.planes.items()):
            try:
                stat = Path(path).stat()
                planes.append([plane, str(path), hdu, stat.st_size, stat.st_mtime_ns])
            except OSError:
                planes.append([plane, str(path), hdu, -1, -1])
        planes.append(["settings", repr(sorted(source.overrides.items())), None, 0, 0])
        out[source.id] = planes
    return out


def open_results(
    path: str | Path,
    identity: dict[str, Any],
    fingerprints: dict[str, list],
    *,
    restart: bool = False,
) -> ResultsFolder:
    """Claim a results folder: make it, or take up the run that it holds.

    Parameters
    ----------
    path : path
    identity : dict
        `FitSettings.identity` plus versions that matter.
    fingerprints : dict
        From `source_fingerprints`.
    restart : bool
        Delete what an earlier run left there (only files that autofit-ml writes).

    Raises
    ------
    ResumeError
        The folder holds a run with other settings or with inputs that have changed since; the
        message lists the differences.
    OutputError
        The folder cannot be made, or holds other files but no run.
    """
    path = Path(path)
    with _as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)
        if restart:
            _clear(path)
        (path / ".work" / "shards").mkdir(parents=True, exist_ok=True)
    state_file = path / ".work" / "state.json"
    if not state_file.exists():
        leftovers = [name for name in _OURS if name != ".work" and (path / name).exists()]
        if leftovers:
            raise ResumeError(
                f"it holds {', '.join(leftovers)} of another run",
                "use --restart to replace them, or another --out",
                path,
            )
        atomic_write_json(state_file, {"settings": identity, "inputs": fingerprints})
        return ResultsFolder(path, {}, [])

    try:
        state = json.loads(state_file.read_text())
        before, inputs = state["settings"], state["inputs"]
    except (OSError, ValueError, KeyError) as error:
        raise ResumeError(
            "the state of the earlier run cannot be read",
            "use --restart, or another --out",
            state_file,
        ) from error
    changed = [
        f"{name}: {before.get(name, '(not set)')!r} -> {identity.get(name, '(not set)')!r}"
        for name in sorted(set(before) | set(identity))
        if before.get(name) != identity.get(name)
    ]
    if changed:
        raise ResumeError(
            "the settings have changed since this folder was begun: " + "; ".join(changed),
            "use --restart to begin anew, another --out, or the old settings",
            path,
        )
    fresh = json.loads(json.dumps(fingerprints))
    gone = sorted(set(inputs) - set(fresh))
    altered = sorted(name for name in set(inputs) & set(fresh) if inputs[name] != fresh[name])
    if gone or altered:
        parts = []
        if altered:
            parts.append(f"{len(altered)} changed ({_some(altered)})")
        if gone:
            parts.append(f"{len(gone)} removed ({_some(gone)})")
        raise ResumeError(
            "the input images are not those this folder was begun with: " + ", ".join(parts),
            "use --restart to begin anew, or another --out",
            path,
        )
    for folder in (path, path / ".work", path / ".work" / "shards"):
        remove_temporaries(folder)
    if set(fresh) != set(inputs):
        atomic_write_json(state_file, {"settings": identity, "inputs": fingerprints})
    shards = sorted((path / ".work" / "shards").glob("*.parquet"))
    done: dict[str, int] = {}
    for shard in shards:
        journal = shard.with_suffix(".json")
        try:
            members = list(json.loads(journal.read_text())["objects"])
        except (OSError, ValueError, KeyError) as error:
            raise ResumeError(
                "the journal of a finished part cannot be read",
                "use --restart, or another --out",
                journal,
            ) from error
        done.update(dict.fromkeys(members, int(shard.stem)))
    return ResultsFolder(path, done, shards)


def _clear(path: Path) -> None:
    for name in _OURS:
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be used for results: {error.strerror or error}",
            "choose another --out, or free space and check the permissions",
            path,
        ) from error


def _some(names: list[str], limit: int = 5) -> str:
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text}, ..."
