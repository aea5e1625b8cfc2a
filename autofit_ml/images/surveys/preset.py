"""Load and interpret the survey presets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits

from autofit_ml.errors import SettingsError
from autofit_ml.images.fitsfile import FitsFile
from autofit_ml.images.header import Calibration
from autofit_ml.images.roles import safe_id
from autofit_ml.images.source import Plane, Source
from autofit_ml.images.surveys.sdss import frame_noise, psfield_psf

__all__ = ["SurveyPreset", "list_surveys", "survey_preset"]

_NOISE_MODELS: Mapping[str, Callable[..., Any]] = {"sdss-frame": frame_noise}
_PSF_READERS: Mapping[str, Callable[..., Any]] = {"sdss-psfield": psfield_psf}


@dataclass(frozen=True)
class FilePattern:
    """One kind of file of a survey.

    Attributes
    ----------
    image : str
        Regular expression of the whole file name; its named groups identify the object.
    id : str
        Format string of the object's id, from the groups.
    planes : dict
        plane -> list of format strings (file names beside the image, from the groups; ``*``
        allowed), tried in order.
    hdus : dict
        plane -> HDU index or EXTNAME in the image's own file.
    """

    image: str
    id: str
    planes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hdus: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class SurveyPreset:
    """What is known of a survey's images.

    Attributes
    ----------
    name, title : str
    references : tuple of str
        Public documentation the values come from.
    kind : {"stamp", "frame"} or None
    files : tuple of FilePattern
    defaults : dict
        "zeropoint", "pixel_scale", "gain", ... -> number, or {filter: number}; used where the
        header is silent.
    seeing_fwhm : dict
        filter -> typical FWHM, arcsec.
    mask : dict
        ``use_bits`` or ``ignore_bits`` (lists of bit numbers), or ``use_names`` with
        ``card_prefix`` (bit numbers in header cards, e.g. MP_SAT).
    noise_model, psf_reader : str or None
        Names of the formats that need code.
    """

    name: str
    title: str
    references: tuple[str, ...]
    kind: str | None = None
    files: tuple[FilePattern, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    seeing_fwhm: Mapping[str, float] = field(default_factory=dict)
    mask: Mapping[str, Any] = field(default_factory=dict)
    noise_model: str | None = None
    psf_reader: str | None = None

    def match_files(self, paths: Sequence[Path]) -> tuple[list[Source], list[Path]]:
        """(sources recognised by file name, files left over)."""
        taken: set[Path] = set()
        sources = []
        by_folder: dict[Path, dict[str, Path]] = {}
        for path in paths:
            by_folder.setdefault(path.parent, {})[path.name] = path
        for path in paths:
            if path in taken:
                continue
            source = self._match(path, by_folder[path.parent])
            if source is None:
                continue
            sources.append(source)
            taken.update(plane[0] for plane in source.planes.values())
        rest = [path for path in paths if path not in taken]
        return sources, [path for path in rest if not self._is_plane(path)]

    def _match(self, path: Path, listing: Mapping[str, Path]) -> Source | None:
        for pattern in self.files:
            found = re.fullmatch(pattern.image, path.name)
            if found is None:
                continue
            groups = {key: value or "" for key, value in found.groupdict().items()}
            planes: dict[str, Plane] = {"image": (path, pattern.hdus.get("image"))}
            for role, key in pattern.hdus.items():
                planes[role] = (path, key)
            for role, names in pattern.planes.items():
                file = _beside(path.parent, names, groups, listing)
                if file is not None:
                    planes[role] = (file, None)
            return Source(safe_id(pattern.id.format(**groups)), planes, self.kind, survey=self.name)
        return None

    def _is_plane(self, path: Path) -> bool:
        """True for the survey's PSF, weight and mask files, whose image was not given."""
        for pattern in self.files:
            for names in pattern.planes.values():
                for name in names:
                    regex = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(name))
                    if re.fullmatch(regex.replace(r"\*", ".*"), path.name):
                        return True
        return False

    def default(self, name: str, band: str) -> Any:
        """Default of a quantity in a filter; None where the survey has none."""
        value = self.defaults.get(name)
        if isinstance(value, Mapping):
            return _by_band(value, band)
        return value

    def seeing(self, band: str) -> float | None:
        """Typical FWHM in arcsec; None if not known for the filter."""
        return _by_band(self.seeing_fwhm, band)

    def ignored_bits(self, header: fits.Header) -> int:
        """Bits of the survey's mask that leave a pixel usable (0: every bit is bad)."""
        everything = (1 << 62) - 1
        if "ignore_bits" in self.mask:
            return sum(1 << int(bit) for bit in self.mask["ignore_bits"])
        if "use_bits" in self.mask:
            return everything & ~sum(1 << int(bit) for bit in self.mask["use_bits"])
        if "use_names" in self.mask:
            prefix = str(self.mask.get("card_prefix", ""))
            bits = 0
            fallback = self.mask.get("bit_of", {})
            for name in self.mask["use_names"]:
                value = header.get(prefix + name, fallback.get(name))
                if isinstance(value, (int, np.integer)) and 0 <= int(value) < 62:
                    bits |= 1 << int(value)
            return everything & ~bits if bits else 0
        return 0

    def build_noise(
        self, data: np.ndarray, mask: np.ndarray, file: FitsFile, calibration: Calibration
    ) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Noise map by the survey's own model; None where the file lacks what it needs."""
        if self.noise_model is None:
            return None, ()
        return _NOISE_MODELS[self.noise_model](data, mask, file, calibration, self.defaults)

    def read_psf(
        self,
        file: FitsFile,
        calibration: Calibration,
        header: fits.Header,
        row: float,
        column: float,
    ) -> np.ndarray:
        """PSF image by the survey's own format, at a 0-based position of the image."""
        return _PSF_READERS[str(self.psf_reader)](file, calibration, header, row, column)


def _by_band(values: Mapping[str, Any], band: str) -> Any:
    """Entry of a filter: exact, then the filter's last letter ("SDSS r", "HSC-R" -> "r")."""
    if band in values:
        return values[band]
    last = re.split(r"[^A-Za-z0-9]+", band)[-1] if band else ""
    for key in (last, last.lower(), last.upper()):
        if key in values:
            return values[key]
    return values.get("any")


def _beside(
    folder: Path, names: Sequence[str], groups: Mapping[str, str], listing: Mapping[str, Path]
) -> Path | None:
    for name in names:
        wanted = name.format(**groups)
        if "*" in wanted:
            regex = re.escape(wanted).replace(r"\*", ".*")
            hits = sorted(n for n in listing if re.fullmatch(regex, n))
            if hits:
                return listing[hits[0]]
            hits = sorted(p.name for p in folder.glob(wanted))
            if hits:
                return folder / hits[0]
        elif wanted in listing:
            return listing[wanted]
        elif (folder / wanted).is_file():
            return folder / wanted
    return None


def list_surveys() -> list[str]:
    """Names of the presets, sorted."""
    folder = resources.files("autofit_ml.images.surveys")
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def survey_preset(name: str) -> SurveyPreset:
    """The preset called `name`.

    Raises
    ------
    SettingsError
        Unknown name, or a broken preset file.
    """
    known = list_surveys()
    if name not in known:
        raise SettingsError(f"unknown survey {name!r}", "use one of " + ", ".join(known))
    text = resources.files("autofit_ml.images.surveys").joinpath(f"{name}.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    for key, table in (("noise_model", _NOISE_MODELS), ("psf_reader", _PSF_READERS)):
        if content.get(key) is not None and content[key] not in table:
            raise SettingsError(f"preset {name}: unknown {key} {content[key]!r}", "correct it")
    files = tuple(FilePattern(**pattern) for pattern in content.pop("files", ()))
    content["references"] = tuple(content.get("references", ()))
    seeing = {key: float(value) for key, value in content.pop("seeing_fwhm", {}).items()}
    if any(not math.isfinite(value) or value <= 0 for value in seeing.values()):
        raise SettingsError(f"preset {name}: impossible seeing", "correct it")
    return SurveyPreset(name=name, files=files, seeing_fwhm=seeing, **content)
