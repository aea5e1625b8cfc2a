"""Manifest of the bundles of weights."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autofit_ml.errors import IncompatibleWeightsError, UnknownWeightsError, WeightsError, errors_as

__all__ = [
    "MANIFEST_FORMAT",
    "WeightInfo",
    "installed_folder",
    "list_weights",
    "read_manifest",
    "tuples",
    "weight_folders",
    "weight_info",
]

MANIFEST_FORMAT = 1
ENVIRONMENT = "AUTOFIT_ML_WEIGHTS"

_FEW = 8
"""So many names are all listed in a message."""

_NAME = re.compile(
    r"(?P<task>[a-z]+)/(?P<survey>[a-z0-9]+(?:-[a-z0-9]+)*?)(?:-(?P<band>[a-z0-9]+))?"
    r"(?:@(?P<version>\d+\.\d+\.\d+))?"
)


@dataclass(frozen=True)
class WeightInfo:
    """One bundle, as the manifest describes it.

    Attributes
    ----------
    name : str
        ``task/survey-band@version``.
    title : str
        What it is for, in one line.
    survey, band : str
        What it was trained for; ``multi`` and ``any`` where it is no single one.
    pixel_scale : (low, high)
        arcsec per pixel of the training images.
    psf_fwhm : (low, high)
        pixels.
    snr : (low, high)
        Total S/N of the training objects.
    status : str
        ``released``, ``preview`` (usable, does not meet its figures yet) or ``withdrawn``.
    licence : str
    files : dict
        File name -> {"sha256": ..., "bytes": ...}.
    url : str or None
        Where the files can be fetched.
    needs : str
        Lowest version of autofit-ml that can load it.
    """

    name: str
    title: str = ""
    survey: str = "multi"
    band: str = "any"
    pixel_scale: tuple[float, float] = (0.0, float("inf"))
    psf_fwhm: tuple[float, float] = (0.0, float("inf"))
    snr: tuple[float, float] = (0.0, float("inf"))
    status: str = "released"
    licence: str = "BSD-3-Clause"
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    url: str | None = None
    needs: str = "0.1.0"

    @property
    def task(self) -> str:
        """segment, initialise, deconvolve or errors."""
        return self.name.partition("/")[0]

    @property
    def version(self) -> str:
        """Semantic version of the bundle."""
        return self.name.partition("@")[2]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(int(item["bytes"]) for item in self.files.values())


def installed_folder() -> Path:
    """The ``checkpoints`` folder that comes with the package."""
    return Path(__file__).resolve().parents[1] / "checkpoints"


def weight_folders() -> list[Path]:
    """Folders of bundles: those of ``$AUTOFIT_ML_WEIGHTS`` first, then the installed one."""
    given = filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep))
    return [*map(Path, given), installed_folder()]


def read_manifest(folder: str | Path) -> dict[str, WeightInfo]:
    """Name -> bundle of one folder's ``manifest.json``.

    Raises
    ------
    WeightsError
        Not a manifest.
    IncompatibleWeightsError
        Of a newer format.
    """
    path = Path(folder) / "manifest.json"
    with errors_as(
        WeightsError,
        "is no manifest of weights",
        "restore it",
        path,
        of=(OSError, ValueError, KeyError, TypeError),
    ):
        content = json.loads(path.read_text())
        number = int(content["format"])
        entries = content["bundles"]
    if number > MANIFEST_FORMAT:
        raise IncompatibleWeightsError(
            f"has format {number}, this version reads {MANIFEST_FORMAT}",
            "update autofit-ml",
            path,
        )
    known = WeightInfo.__dataclass_fields__
    return {
        entry["name"]: WeightInfo(**tuples({k: v for k, v in entry.items() if k in known}))
        for entry in entries
    }


def _every_bundle() -> dict[str, WeightInfo]:
    """Name -> bundle of all folders with a ``manifest.json``; of the same name, the first."""
    folders = [folder for folder in weight_folders() if (folder / "manifest.json").is_file()]
    found: dict[str, WeightInfo] = {}
    for folder in reversed(folders):
        found |= read_manifest(folder)
    return found


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON or YAML hold them, with tuples for lists."""
    return {
        key: tuple(value) if isinstance(value, list | tuple) else value
        for key, value in values.items()
    }


def list_weights(
    task: str | None = None, survey: str | None = None, band: str | None = None
) -> list[WeightInfo]:
    """Bundles that can be loaded by name.

    Parameters
    ----------
    task : str, optional
        "segment", "initialise", "deconvolve", "errors".
    survey, band : str, optional
        Bundles for exactly these; multi-survey bundles are listed for every survey.

    Returns
    -------
    list of WeightInfo
        Sorted by name, the newest version first; withdrawn ones are left out.
    """
    chosen = [
        info
        for info in _every_bundle().values()
        if info.status != "withdrawn"
        and (task is None or info.task == task)
        and (survey is None or info.survey in (survey, "multi"))
        and (band is None or info.band in (band, "any"))
    ]
    return sorted(chosen, key=_order)


def weight_info(name: str) -> WeightInfo:
    """The manifest's entry of one bundle.

    Parameters
    ----------
    name : str
        ``task/survey-band``, for the newest version, or with ``@version``.

    Raises
    ------
    UnknownWeightsError
        Names the existing ones, of many the nearest.
    """
    every = _every_bundle()
    if name in every:
        return every[name]
    versions = [info for key, info in every.items() if key.partition("@")[0] == name]
    if versions:
        return min(versions, key=_order)
    import difflib

    near = sorted(every)
    if len(near) > _FEW:
        near = difflib.get_close_matches(name, near, n=3, cutoff=0.3) or near[:3]
    form = "" if _NAME.fullmatch(name) else "; names look like task/survey-band@version"
    raise UnknownWeightsError(
        f"no weights named {name!r}{form}",
        f"known: {', '.join(near)}" if near else "no weights are installed",
    )


def _order(info: WeightInfo) -> tuple[str, tuple[int, ...]]:
    return info.name.partition("@")[0], tuple(-int(part) for part in info.version.split("."))
