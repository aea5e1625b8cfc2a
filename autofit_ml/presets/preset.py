"""Load the presets and answer what they say."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from autofit_ml.errors import SettingsError

__all__ = ["FilePattern", "SurveyPreset", "list_surveys", "simulated_surveys", "survey_preset"]

NOISE_MODELS = ("sdss-frame",)
PSF_READERS = ("sdss-psfield",)
"""Formats that need code, in `autofit_ml.images.sdss`."""

EVERY_BIT = (1 << 62) - 1


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
    example : dict
        plane -> a file name of the survey, for tests and documentation.
    """

    image: str
    id: str
    planes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hdus: Mapping[str, int | str] = field(default_factory=dict)
    example: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SurveyPreset:
    """Facts about a survey's images.

    Attributes
    ----------
    name, title : str
    references : tuple of str
        Public documentation that the values come from.
    pixel_scale, zeropoint : number, dict or None
        arcsec per pixel and AB magnitude of one image unit, or {filter: number}; used where the
        header is silent.
    seeing : dict
        filter -> typical FWHM, arcsec.
    kind : {"stamp", "frame"} or None
    files : tuple of FilePattern
    mask : dict
        ``use_bits`` or ``ignore_bits`` (lists of bit numbers), or ``use_names`` with
        ``card_prefix`` (bit numbers in header cards, e.g. MP_SAT) and ``bit_of`` for those absent.
    noise : dict
        ``model``, one of `NOISE_MODELS`, and its tables; empty: the common rules.
    psf_reader : str or None
        One of `PSF_READERS`, for files of that format.
    simulation : dict
        Name (``hsc-i``) -> how a band is observed, for `autofit_ml.simulation.survey.Survey`.
    """

    name: str
    title: str
    references: tuple[str, ...]
    pixel_scale: float | Mapping[str, float] | None = None
    zeropoint: float | Mapping[str, float] | None = None
    seeing: Mapping[str, float] = field(default_factory=dict)
    kind: str | None = None
    files: tuple[FilePattern, ...] = ()
    mask: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)
    psf_reader: str | None = None
    simulation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def default(self, name: str, band: str) -> float | None:
        """Pixel scale or zero point in a filter; None where the survey has none."""
        value = {"pixel_scale": self.pixel_scale, "zeropoint": self.zeropoint}.get(name)
        return _by_band(value, band) if isinstance(value, Mapping) else value

    def typical_seeing(self, band: str) -> float | None:
        """Typical FWHM in arcsec; None if not known for the filter."""
        return _by_band(self.seeing, band)

    def ignored_bits(self, header: Mapping[str, Any]) -> int:
        """Bits of the survey's mask that leave a pixel usable (0: every bit is bad)."""
        if "ignore_bits" in self.mask:
            return sum(1 << int(bit) for bit in self.mask["ignore_bits"])
        used = [int(bit) for bit in self.mask.get("use_bits", ())]
        for name in self.mask.get("use_names", ()):
            value = header.get(
                f"{self.mask.get('card_prefix', '')}{name}", self.mask.get("bit_of", {}).get(name)
            )
            if isinstance(value, int) and 0 <= value < 62:
                used.append(value)
        return EVERY_BIT & ~sum(1 << bit for bit in set(used)) if used else 0


def _by_band(values: Mapping[str, float], band: str) -> float | None:
    """Entry of a filter: exact, then the filter's last word ("SDSS r", "HSC-R" -> "r")."""
    last = re.split(r"[^A-Za-z0-9]+", band)[-1] if band else ""
    for key in (band, last, last.lower(), last.upper()):
        if key in values:
            return values[key]
    return None


def list_surveys() -> list[str]:
    """Names of the presets, sorted."""
    files = (entry.name for entry in resources.files("autofit_ml.presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


@functools.cache
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
    text = resources.files("autofit_ml.presets").joinpath(f"{name}.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    try:
        reading = content.pop("reading", {})
        files = tuple(FilePattern(**pattern) for pattern in reading.pop("files", ()))
        simulation = content.pop("simulation", {})
        references = tuple(content.pop("references", ()))
        preset = SurveyPreset(name, references=references, files=files, **content, **reading)
    except TypeError as error:
        raise SettingsError(f"preset {name}: {error}", "correct it") from error
    _check(preset)
    common = simulation.pop("common", {})
    bands = {key: _simulated(key, preset, common, own) for key, own in simulation.items()}
    return dataclasses.replace(preset, simulation=bands)


def _check(preset: SurveyPreset) -> None:
    model = preset.noise.get("model")
    wrong = [
        f"unknown {what} {value!r}"
        for what, value, known in (
            ("noise model", model, NOISE_MODELS),
            ("psf_reader", preset.psf_reader, PSF_READERS),
            ("kind", preset.kind, ("stamp", "frame")),
        )
        if value is not None and value not in known
    ]
    wrong += [
        f"impossible seeing {value!r}"
        for value in preset.seeing.values()
        if not (math.isfinite(value) and value > 0)
    ]
    if wrong:
        raise SettingsError(f"preset {preset.name}: {'; '.join(wrong)}", "correct it")


def _simulated(
    name: str, preset: SurveyPreset, common: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """One band: its own values over those common to all bands over the survey's."""
    merged = _merged(common, own)
    shared = {
        key: value
        for key in ("pixel_scale", "zeropoint")
        if (value := preset.default(key, str(merged.get("band", "")))) is not None
    }
    return {"name": name, "references": list(preset.references), **shared, **merged}


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(common)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def simulated_surveys() -> dict[str, Mapping[str, Any]]:
    """Bands of all surveys that can be simulated: name -> mapping of a recipe's ``survey``."""
    bands: dict[str, Mapping[str, Any]] = {}
    for name in list_surveys():
        bands |= survey_preset(name).simulation
    return dict(sorted(bands.items()))
