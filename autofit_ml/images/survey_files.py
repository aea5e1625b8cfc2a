"""A survey's files by its preset: which belong together, and their noise."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autofit_ml.images.fitsfile import FitsFile
from autofit_ml.images.header import Calibration
from autofit_ml.images.roles import as_id
from autofit_ml.images.sdss import frame_noise
from autofit_ml.images.source import Plane, Source
from autofit_ml.presets import SurveyPreset

__all__ = ["build_noise", "is_survey_plane", "match_files"]


def match_files(preset: SurveyPreset, paths: Sequence[Path]) -> tuple[list[Source], list[Path]]:
    """Recognise a survey's images by name.

    Parameters
    ----------
    preset : SurveyPreset
    paths : sequence of Path

    Returns
    -------
    sources : list of Source
        Images with the planes that lie beside them.
    rest : list of Path
        Files that belong to none of these.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, {})[path.name] = path
    found = [_match(preset, path, folders[path.parent]) for path in paths]
    sources = [source for source in found if source is not None]
    taken = {plane[0] for source in sources for plane in source.planes.values()}
    return sources, [path for path in paths if path not in taken]


def _match(preset: SurveyPreset, path: Path, listing: Mapping[str, Path]) -> Source | None:
    for pattern in preset.files:
        found = re.fullmatch(pattern.image, path.name)
        if found is None:
            continue
        groups = {key: value or "" for key, value in found.groupdict().items()}
        planes: dict[str, Plane] = {"image": (path, pattern.hdus.get("image"))}
        planes |= {role: (path, key) for role, key in pattern.hdus.items()}
        for role, names in pattern.planes.items():
            file = _beside(path.parent, names, groups, listing)
            if file is not None:
                planes[role] = (file, None)
        return Source(as_id(pattern.id.format(**groups)), planes, preset.kind, survey=preset.name)
    return None


def _beside(
    folder: Path, names: Sequence[str], groups: Mapping[str, str], listing: Mapping[str, Path]
) -> Path | None:
    for name in names:
        wanted = name.format(**groups)
        if "*" in wanted:
            regex = re.escape(wanted).replace(r"\*", ".*")
            hits = sorted(path for n, path in listing.items() if re.fullmatch(regex, n))
            hits = hits or sorted(folder.glob(wanted))
            if hits:
                return hits[0]
        elif wanted in listing or (folder / wanted).is_file():
            return folder / wanted
    return None


def is_survey_plane(preset: SurveyPreset, path: Path, role: str | None = None) -> bool:
    """True if a file is called like one of the survey's planes (of a role; None: any)."""
    for pattern in preset.files:
        for plane, names in pattern.planes.items():
            for name in names if role in (None, plane) else ():
                regex = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(name))
                if re.fullmatch(regex.replace(r"\*", ".*"), path.name):
                    return True
    return False


def build_noise(
    preset: SurveyPreset,
    data: np.ndarray,
    mask: np.ndarray,
    file: FitsFile,
    calibration: Calibration,
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Noise map by the survey's own model; None without one or what it needs."""
    if preset.noise.get("model") == "sdss-frame":
        return frame_noise(data, mask, file, calibration, preset.noise)
    return None, ()
