"""Reading GALFIT and GALFITM input files."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autofit_ml.errors import SettingsError, errors_of_file
from autofit_ml.galfit.constraints import apply_constraints
from autofit_ml.galfit.feedme import Entry, Feedme, parse_feedme
from autofit_ml.galfit.file import GalfitBand, GalfitFile, locate
from autofit_ml.galfit.functions import Function, function_of
from autofit_ml.galfit.shapes import SHAPE_KEYS, read_shape
from autofit_ml.profiles.registry import Profile
from autofit_ml.scenes.free_numbers import band_abscissa
from autofit_ml.scenes.model import SKY, Component, Parameter, Scene, named
from autofit_ml.scenes.naming import base_name, free_name, profile_of
from autofit_ml.scenes.quantities import limits

__all__ = ["read_galfit"]


def read_galfit(path: str | Path, *, exptime: float | None = None) -> GalfitFile:
    """Read a GALFIT (or GALFITM) input file, or a ``galfit.NN`` that a fit has written.

    Parameters
    ----------
    path : str or path
        The images it names need not exist.
    exptime : float, optional
        Exposure time in seconds; by default EXPTIME of the image's header, as GALFIT does, and 1
        where there is no image or no such card (then `GalfitFile.notes` says so).

    Returns
    -------
    GalfitFile
        With the scene, its constraints included.

    Raises
    ------
    SettingsError
        Naming the file, the object and the line: functions that are not known, and features that
        have no counterpart here (bending modes, coordinate rotation, truncation functions).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingsError(f"cannot be read: {error}", "give a GALFIT input file", path) from None
    with errors_of_file(path):
        return _Reader(parse_feedme(text), path, exptime).file()


@dataclass
class _Numbers:
    """One parameter's line: a value in each band, and which of its coefficients are fitted."""

    values: tuple[float, ...]
    free: tuple[bool, ...]

    @property
    def held(self) -> bool:
        return not any(self.free)


class _Reader:
    """One file."""

    def __init__(self, feedme: Feedme, path: Path, exptime: float | None):
        self.feedme, self.path, self.exptime = feedme, path, exptime
        self.notes: list[str] = []
        self.values: dict[str, tuple[float, ...]] = {}
        self.names: list[str] = []
        self.skipped: list[str] = []
        self.functions: dict[str, Function] = {}

    def file(self) -> GalfitFile:
        self.frame = self.controls()
        self.n_bands = len(self.frame.bands)
        sky: dict = {"sky": "fixed"}
        components: list[Component] = []
        for number, entries in enumerate(self.feedme.objects, start=1):
            word = entries["0"].words[0]
            with named(f"object {number} ({word}, line {entries['0'].line})"):
                if word.lower() != SKY:
                    components.append(self.component(entries, function_of(word)))
                    self.names.append(components[-1].name)
                elif SKY in self.names:
                    raise SettingsError("a second sky", "keep one")
                else:
                    sky = self.sky(entries)
                    self.names.append(SKY)
                if "Z" in entries and entries["Z"].words[:1] == ("1",):
                    self.skipped.append(self.names[-1])
        if not components:
            raise SettingsError("there is nothing but sky in it", "add an object")
        scene = self.constrained(Scene(tuple(components), **sky))
        return dataclasses.replace(
            self.frame,
            scene=scene,
            values={k: v for k, v in self.values.items() if k in scene.parameters},
            skipped=tuple(self.skipped),
            notes=tuple(self.notes),
        )

    def controls(self) -> GalfitFile:
        """The control entries; the scene comes later."""
        region = tuple(int(edge) for edge in self.numbers_of("H", 4, ()))
        if region and not (region[0] <= region[1] and region[2] <= region[3]):
            raise SettingsError(f"H) the region {region} is empty", "give xmin xmax ymin ymax")
        box = self.numbers_of("I", 2, (100.0, 100.0))
        scale = self.numbers_of("K", 2, (1.0, 1.0))
        return GalfitFile(
            Scene((Component("point", profile_of("point")),)),
            self.bands(),
            (region[0], region[1], region[2], region[3]) if region else None,
            self.word("B", "imgblock.fits"),
            self.word("G"),
            int(self.numbers_of("E", 1, (1.0,))[0]),
            (int(box[0]), int(box[1])),
            (scale[0], scale[1]),
            self.word("O") or "regular",
            int(self.numbers_of("P", 1, (0.0,))[0]),
            path=self.path,
        )

    def word(self, key: str, default: str = "") -> str:
        """First word of a control entry; "" for none."""
        entry = self.feedme.controls.get(key)
        return _none(entry.words[0] if entry is not None and entry.words else default)

    def numbers_of(self, key: str, count: int, default: tuple[float, ...]) -> tuple[float, ...]:
        entry = self.feedme.controls.get(key)
        if entry is None or not entry.words:
            return default
        if len(entry.words) < count:
            raise SettingsError(
                f"line {entry.line}: {key}) has {len(entry.words)} numbers", f"give {count}"
            )
        return tuple(_number(word, entry) for word in entry.words[:count])

    def bands(self) -> tuple[GalfitBand, ...]:
        labels = _split(self.word("A1"))
        images = _split(self.word("A")) or [""]
        n = max(len(labels), len(images))
        if len(set(labels)) != len(labels):
            raise SettingsError(f"A1) names a band twice: {', '.join(labels)}", "name them apart")
        for key, given in (("A", images), ("A1", labels)):
            if len(given) not in (0, n):
                raise SettingsError(
                    f"{key}) has {len(given)} entries for {n} bands", "give one for each band"
                )
        wavelengths, zeropoints = (
            [_number(word, self.feedme.controls[key]) if word else None for word in words]
            for key, words in ((key, self.per_band(key, n)) for key in ("A2", "J"))
        )
        if "J" not in self.feedme.controls:
            self.notes.append("J) is missing: the zero point is taken as 0")
        sigmas, psfs, masks = (map(_none, self.per_band(key, n)) for key in ("C", "D", "F"))
        bands = []
        without: dict[str, list[str]] = {}
        for i, planes in enumerate(zip(map(_none, images), sigmas, psfs, masks, strict=True)):
            seconds, why = self.exptime, ""
            if seconds is None:
                seconds, why = _exptime(locate(planes[0], self.path))
            if why:
                without.setdefault(why, []).append(planes[0] or "A)")
            known = (zeropoints[i] or 0.0, seconds, labels[i] if labels else "", wavelengths[i])
            bands.append(GalfitBand(*planes, *known))
        self.notes += [
            f"{', '.join(names)}: {why}: EXPTIME is taken as 1" for why, names in without.items()
        ]
        return tuple(bands)

    def per_band(self, key: str, n: int) -> list[str]:
        """A control entry's comma-separated list; a single one serves all bands."""
        entry = self.feedme.controls.get(key)
        given = _split(entry.words[0]) if entry is not None and entry.words else [""]
        given = given * n if len(given) == 1 else given
        if key == "D" and len(given) == n + 1:  # a diffusion kernel, after a comma
            given = given[:n]
        if len(given) != n:
            raise SettingsError(
                f"{key}) has {len(given)} entries for {n} bands", "give one for each band, or one"
            )
        return given

    def component(self, entries: dict[str, Entry], function: Function) -> Component:
        entries = _version_3(entries, function)
        self.refuse(entries, function)
        lines = self.position(entries)
        for line in function.lines:
            if str(line) not in entries:
                raise SettingsError(f"{line}) is missing", "add the line")
            lines[line] = self.numbers(entries[str(line)])
        shapes = {
            key: [self.numbers(entry)] if key == "C0" else self.pair(entry, "amplitude phase")
            for key, entry in entries.items()
            if SHAPE_KEYS.match(key)
        }
        modifiers = ["boxiness" if key == "C0" else key.lower() for key in shapes]
        profile = profile_of(function.profile, modifiers)
        name = free_name(base_name(profile), self.names)
        self.functions[name] = function
        parameters = {}
        for key, values in self.converted(name, function, lines).items():
            free = self.rule(key, function, lines)
            with named(key):
                parameters[key] = self.parameter(f"{name}.{key}", profile, values, free)
        for key, numbers in shapes.items():
            if any(len(set(item.values)) > 1 or sum(item.free) > 1 for item in numbers):
                self.notes.append(f"{name}: {key} is the same in all bands here")
            parameters |= read_shape(key, [(item.values[0], item.held) for item in numbers])
        return Component(name, profile, parameters)

    def refuse(self, entries: dict[str, Entry], function: Function) -> None:
        """Say what is not understood rather than leave it out."""
        for key, entry in entries.items():
            where = f"line {entry.line}: {key})"
            if key[0] in "BRT" and not key.isdigit():
                what = {"B": "bending modes", "R": "coordinate rotation", "T": "truncation"}[key[0]]
                raise SettingsError(
                    f"{where} {what} cannot be fitted here", "remove the line, or the component"
                )
            if not (key.isdigit() or key in ("Z", "P") or SHAPE_KEYS.match(key)):
                raise SettingsError(f"{where} is not understood", "remove the line")
            if SHAPE_KEYS.match(key) and function.profile == "point":
                raise SettingsError(f"{where} a point source has no shape", "remove the line")

    def position(self, entries: dict[str, Entry]) -> dict[int, _Numbers]:
        """Lines 1 and 2: ``1) x y 1 1``, or one line for each (GALFITM)."""
        if "1" not in entries:
            raise SettingsError("1) is missing", "add the position: 1) x y 1 1")
        if "2" in entries:
            return {1: self.numbers(entries["1"]), 2: self.numbers(entries["2"])}
        return dict(enumerate(self.pair(entries["1"], "x y"), start=1))

    def pair(self, entry: Entry, form: str) -> list[_Numbers]:
        """Two values on one line, then their toggles."""
        if len(entry.words) < 4:
            raise SettingsError(
                f"line {entry.line}: {entry.key}) has {len(entry.words)} numbers",
                f"write {entry.key}) {form} 1 1",
            )
        return [self.numbers(entry, 0, 2), self.numbers(entry, 1, 3)]

    def numbers(self, entry: Entry, value: int = 0, toggle: int = 1) -> _Numbers:
        """``values toggles [band|cheb]``, given the places of the two among the words."""
        if len(entry.words) <= toggle:
            raise SettingsError(
                f"line {entry.line}: {entry.key}) has no toggle",
                "add 1 (fitted) or 0 (held) after the value",
            )
        given = [_number(word, entry) for word in _split(entry.words[value])]
        toggles = [int(_number(word, entry)) for word in _split(entry.words[toggle])]
        n = self.n_bands
        if "cheb" in [word.lower() for word in entry.words] and len(given) <= n:
            given = _chebyshev(given, self.frame.bands)
        elif len(given) == 1:
            given = given * n
        if len(given) != n:
            raise SettingsError(
                f"line {entry.line}: {entry.key}) has {len(given)} values for {n} bands",
                "give one for each band, or one",
            )
        if len(toggles) == 1:  # the number of coefficients that are fitted
            toggles = [1] * toggles[0]
        free = tuple(i < len(toggles) and toggles[i] != 0 for i in range(n))
        return _Numbers(tuple(given), free)

    def converted(
        self, name: str, function: Function, lines: dict[int, _Numbers]
    ) -> dict[str, tuple[float, ...]]:
        """Catalogue values in every band."""
        bands = []
        for i in range(self.n_bands):
            raw = {line: numbers.values[i] for line, numbers in lines.items()}
            values = {"x": round(raw[1] - 1.0, 10), "y": round(raw[2] - 1.0, 10)}
            for line in (4, 5):
                if line in function.lines and line not in function.shapes and not raw[line] > 0:
                    raise SettingsError(f"{line}) the radius is {raw[line]:g}", "give it > 0")
            with named(name):
                values |= function.values(raw, self.frame.photometry(i))
            if values.get("q", 0.0) > 1:
                self.notes.append(f"{name}: b/a = {values['q']:g} > 1, the axes were exchanged")
                re_, q, pa = values["re"], values["q"], values["pa"]
                values |= {"re": re_ * q, "q": 1 / q, "pa": pa + 90.0}
            if "pa" in values:
                values["pa"] %= 180.0
            bands.append(values)
        return {key: tuple(values[key] for values in bands) for key in bands[0]}

    def rule(self, key: str, function: Function, lines: dict[int, _Numbers]) -> tuple[bool, ...]:
        """Coefficients of a parameter that are fitted, from its lines."""
        of = [line for line in lines if function.parameter(line) == key]
        if not of:  # decided by several lines: free where one of them is
            of = [line for line in lines if function.parameter(line) == ""]
        if len({lines[line].held for line in of}) > 1:
            self.notes.append(
                f"{function.name}: of lines {of} some are held and some are not; {key} is fitted"
            )
        return tuple(any(lines[line].free[i] for line in of) for i in range(self.n_bands))

    def parameter(
        self, full: str, profile: Profile, values: tuple[float, ...], free: tuple[bool, ...]
    ) -> Parameter:
        """The parameter, the rule over the bands included."""
        key = full.rpartition(".")[2]
        value, held, differ = values[0], not any(free), len(set(values)) > 1
        low, high = limits(profile, key)
        if not low <= value <= high or (value == low == 0.0):
            inside = min(max(value, low if low != 0.0 else 1e-6), high)
            if held:
                raise SettingsError(
                    f"held at {value:g}, but it is fitted between {low:g} and {high:g} only",
                    "hold it inside",
                )
            self.notes.append(f"{full}: the start {value:g} was moved to {inside:g}")
            value = inside
        if differ:
            self.values[full] = values
        if held and differ:
            self.notes.append(f"{full}: held at another value in each band: see `values`")
        if self.n_bands == 1 or held:
            return Parameter(value, fixed=held)
        if key.startswith(SKY):
            if not all(free):
                self.notes.append(f"{full}: fitted in each band here")
            return Parameter(value)
        count = 1 + max(i for i, fitted in enumerate(free) if fitted)
        if sum(free) < count:
            self.notes.append(
                f"{full}: not all coefficients below the highest were fitted; here they are"
            )
        if count == 1 and differ:
            self.notes.append(
                f"{full}: only the offset common to all bands was fitted; here each is free"
            )
            count = self.n_bands
        bands: str | int = {1: "shared", self.n_bands: "free"}.get(count, count - 1)
        default = "free" if key == "flux" else "shared"
        return Parameter(value, bands="" if bands == default else bands)

    def sky(self, entries: dict[str, Entry]) -> dict:
        """Fields of the scene."""
        lines = {
            key: self.numbers(entries[line])
            for line, key in (("1", "sky"), ("2", "sky_dx"), ("3", "sky_dy"))
            if line in entries
        }
        if "sky" not in lines:
            raise SettingsError("1) is missing", "add the sky's level: 1) 0.0 1")
        slopes = [item for key, item in lines.items() if key != "sky"]
        flat = all(item.held and set(item.values) == {0.0} for item in slopes)
        profile = profile_of("flat_sky" if flat else "tilted_sky")
        parameters = {
            key: self.parameter(f"{SKY}.{key}", profile, item.values, item.free)
            for key, item in lines.items()
            if key == "sky" or not flat
        }
        return {"sky": "free" if flat else "tilted", "sky_parameters": parameters}

    def constrained(self, scene: Scene) -> Scene:
        path = self.frame.locate(self.frame.constraints)
        if path is None:
            return scene.check()
        if not path.is_file():
            self.notes.append(f"the constraints file {path} was not found: none are applied")
            return scene.check()
        text = path.read_text(encoding="utf-8", errors="replace")
        photometry = self.frame.photometry()
        with errors_of_file(path):
            scene, notes = apply_constraints(scene, text, self.names, self.functions, photometry)
            self.notes += notes
            return scene.check()


def _version_3(entries: dict[str, Entry], function: Function) -> dict[str, Entry]:
    """Entries as GALFIT 3 numbers them: 8, 9, 10 of version 2 are 9, 10, C0 now."""
    eighth = entries.get("8")
    if eighth is None or 8 in function.lines or not eighth.words:
        return entries
    says_so = re.search(r"axis ratio|b/a", eighth.comment, re.IGNORECASE) is not None
    if not says_so and _number(_split(eighth.words[0])[0], eighth) == 0.0:
        return entries
    renamed = {"8": "9", "9": "10", "10": "C0"}
    moved = {
        renamed.get(key, key): dataclasses.replace(entry, key=renamed.get(key, key))
        for key, entry in entries.items()
    }
    boxiness = moved.get("C0")
    if boxiness is not None and set(boxiness.words[:2]) <= {"0", "0.0", "0.0000", "0.00"}:
        del moved["C0"]
    return moved


def _chebyshev(coefficients: Sequence[float], bands: Sequence[GalfitBand]) -> list[float]:
    """Values in the bands; the abscissa runs from -1 to 1 over their wavelengths."""
    wavelengths = [band.wavelength for band in bands if band.wavelength is not None]
    x = band_abscissa([band.label for band in bands], wavelengths or None)
    return [float(v) for v in np.polynomial.chebyshev.chebval(x, coefficients)]


def _exptime(path: Path | None) -> tuple[float, str]:
    """(EXPTIME of an image, why it is 1 if it was not found)."""
    if path is None or not path.is_file():
        return 1.0, "not found"
    from astropy.io import fits

    try:
        with fits.open(path) as hdus:
            value = float(next(hdu.header["EXPTIME"] for hdu in hdus if "EXPTIME" in hdu.header))
    except (OSError, ValueError, TypeError, StopIteration):
        value = math.nan
    return (value, "") if 0 < value < math.inf else (1.0, "no EXPTIME in the header")


def _number(word: str, entry: Entry) -> float:
    """A number; GALFIT's logs put held, constrained and doubtful ones in brackets or stars."""
    try:
        value = float(word.strip("*[]{}").replace("d", "e").replace("D", "e"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SettingsError(
            f"line {entry.line}: {entry.key}) {word!r} is not a number", "correct the line"
        )
    return value


def _split(word: str) -> list[str]:
    return [part for part in word.split(",") if part] if word else []


def _none(name: str) -> str:
    return "" if name.lower() == "none" else name
