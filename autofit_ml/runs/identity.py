"""Identity of a run: what decides its results, and whether two runs are the same.

The settings that count are those declared so in `autofit_ml.settings`; files count by their
content. Inputs are told by file, size and time, and by content where the time has changed.
"""

import contextlib
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.errors import ResumeError
from autofit_ml.images import PSF, Source, VaryingPSF
from autofit_ml.options import Settings, declared
from autofit_ml.settings import FITTED_PSFS

__all__ = [
    "ANEW",
    "data_identifier",
    "differences",
    "identifier",
    "identity_of",
    "refuse_other_inputs",
    "refuse_other_settings",
    "some",
    "source_fingerprints",
    "source_hashes",
    "weights_text",
]

ANEW = "use --restart to begin anew, or another --out"


def identity_of(settings: Settings) -> dict[str, Any]:
    """The options that decide the results, and the version of the program, as JSON holds them.

    Device, workers and batch size are declared not to: a run may be resumed on another machine.
    """
    from autofit_ml import __version__

    out = {
        name: _plain(name, getattr(settings, name))
        for name, (_, about) in declared(settings).items()
        if about.changes_results
    }
    return out | {"autofit_ml": __version__}


def weights_text(used: Mapping[str, str], given: str) -> str:
    """The weights that a run may use, by content; what was given where it uses none."""
    return ", ".join(f"{name} sha256:{used[name][:16]}" for name in sorted(used)) or given


def _plain(name: str, value: Any) -> Any:
    """A value as JSON holds it; PSFs and files by their content."""
    if isinstance(value, PSF):
        kind = f"has_pixel={value.has_pixel} oversampling={value.oversampling}"
        return f"{_plain(name, value.data)} {kind}"
    if isinstance(value, VaryingPSF) or hasattr(value, "grid_xypos"):
        return f"varying PSF sha256:{hashlib.sha256(pickle.dumps(value)).hexdigest()[:16]}"
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.shape} {value.dtype} sha256:{digest[:16]}"
    words = ("none", *FITTED_PSFS)
    if name == "psf" and isinstance(value, (str, Path)) and str(value) not in words:
        return f"{value} sha256:{file_sha256(value)[:16]}"
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{number:g}" for key, number in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


# --- settings ---------------------------------------------------------------------------------


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``name: old -> new`` of each setting that was another `before`; nested names are dotted."""
    old, new = dict(_flat(before)), dict(_flat(json.loads(json.dumps(now))))
    return [
        f"{name}: {_shown(old, name)} -> {_shown(new, name)}"
        for name in sorted(set(old) | set(new))
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


_ABSENT = object()


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "(not set)"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.")
        else:
            yield path.removeprefix("recipe."), value


def refuse_other_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of other settings.

    Raises
    ------
    ResumeError
        Lists what has changed.
    """
    changed = differences(before, now)
    if changed:
        raise ResumeError(
            "the settings have changed since this folder was begun: " + "; ".join(changed),
            "use --restart to begin anew, another --out, or the old settings",
            path,
        )


# --- inputs -----------------------------------------------------------------------------------


def source_fingerprints(
    sources: Sequence[Source], leave_out: Sequence[str] = ()
) -> dict[str, dict[str, list]]:
    """Fingerprints that tell whether an input has changed.

    Parameters
    ----------
    sources : sequence of Source
    leave_out : sequence of str
        Planes that do not matter.

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
            if plane in leave_out:
                continue
            size = changed = -1
            content = source.content_of(path)
            if content is not None:
                digest = hashlib.sha256(content).hexdigest()
                planes[plane] = [str(path), hdu, len(content), digest]
                continue
            with contextlib.suppress(OSError):
                stat = Path(path).stat()
                size, changed = stat.st_size, stat.st_mtime_ns
            planes[plane] = [str(path), hdu, size, changed]
        values = [repr(sorted(one.overrides.items())) for one in (source, *source.others) if one]
        planes["values"] = [" ".join(values), source.file]
        out[source.id] = planes
    return out


def source_hashes(source: Source) -> dict[str, str]:
    """sha256 of every file of a source that can be opened, for the record of the run."""
    files = {Path(path) for path, _ in source.every_plane.values()}
    if source.problem is not None and source.problem.file is not None:
        files.add(source.problem.file)
    out = {}
    for path in files:
        if source.content_of(path) is not None:
            continue
        with contextlib.suppress(OSError):
            out[str(path)] = file_sha256(path)
    return out


def data_identifier(source: Source, hashes: Mapping[str, str]) -> str:
    """Hash of what decides an object besides the settings: its files' content, a manifest's words.

    Parameters
    ----------
    source : Source
    hashes : mapping
        File -> sha256; a file that could not be read counts by its name.
    """
    said = []
    for plane, (path, hdu) in sorted(source.every_plane.items()):
        content = source.content_of(path)
        digest = hashlib.sha256(content).hexdigest() if content is not None else ""
        said.append([plane, hdu, digest or hashes.get(str(path), str(path))])
    values = [sorted(one.overrides.items()) for one in (source, *source.others) if one]
    return identifier([said, repr(values)])


def identifier(content: Any) -> str:
    """Short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def refuse_other_inputs(
    path: Path,
    before: Mapping[str, Mapping[str, list]],
    now: Mapping[str, Mapping[str, list]],
    done: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> None:
    """Refuse to go on when inputs that are finished are not there any more, or not the same.

    A file whose time differs but whose content does not (a copy, a fresh download) is the same.

    Raises
    ------
    ResumeError
        Lists them.
    """
    gone = sorted(name for name in done if name not in now)
    altered = []
    for name in sorted(done):
        if name in now and before.get(name) != now[name]:
            reasons = _changes(before.get(name, {}), now[name], hashes)
            if reasons:
                altered.append(f"{name} ({', '.join(reasons)})")
    if gone or altered:
        parts = [f"{len(altered)} changed: {some(altered)}"] if altered else []
        parts += [f"{len(gone)} removed: {some(gone)}"] if gone else []
        raise ResumeError(
            "the input images are not those this folder was begun with; " + "; ".join(parts),
            f"{ANEW}, or --retry failed if only files of failed objects were replaced",
            path,
        )


def _changes(
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
        elif old[2] != new[2] or not _has_sha256(new[0], hashes.get(new[0])):
            reasons.append(f"{plane}: content")
    return reasons


def _has_sha256(path: str, expected: str | None) -> bool:
    try:
        return file_sha256(path) == expected
    except OSError:
        return False


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names of many, for a message."""
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text}, ..."
