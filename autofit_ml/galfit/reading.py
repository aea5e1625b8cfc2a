"""Reading GALFIT and GALFITM input files."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.galfit.constraints import apply_constraints
from autofit_ml.galfit.feedme import Entry, Feedme, parse_feedme
from autofit_ml.galfit.file import GalfitBand, GalfitFile
from autofit_ml.galfit.functions import Function, function_of
from autofit_ml.galfit.shapes import SHAPE_KEYS, read_shape
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
    try:
        return _Reader(parse_feedme(text), path, exptime).file()
    except SettingsError as error:
        raise SettingsError(error.problem, error.remedy, error.file or path) from None


@dataclass
class _Numbers:
    """One parameter's line: a value in each band, and which of its coefficients are fitted."""

    values: tuple[float, ...]
    free: tuple[bool, ...]

    @property
    def held(self) -> bool:
        return not any(self.free)

    @property
    def constant(self) -> bool:
        return len(set(self.values)) == 1


@dataclass
class _Object:
    """One component under construction."""

    name: str
    function: Function
    component: Component
    lines: dict[int, _Numbers] = field(default_factory=dict)


class _Reader:
    """One file."""

    def __init__(self, feedme: Feedme, path: Path, exptime: float | None):
        self.feedme, self.path, self.given_exptime = feedme, path, exptime
        self.notes: list[str] = []
        self.values: dict[str, tuple[float, ...]] = {}
        self.skipped: list[str] = []
        self.wavelengths: list[float] = []
        self.n_bands = 1

    def file(self) -> GalfitFile:
        self.base = self.frame()
        sky, objects = self.components()
        made = [item for item in objects if item is not None]
        scene = Scene(tuple(item.component for item in made), **sky)
        scene = self.constrained(scene, objects)
        return dataclasses.replace(
            self.base,
            scene=scene,
            values={k: v for k, v in self.values.items() if k in scene.parameters},
            skipped=tuple(self.skipped),
            notes=tuple(self.notes),
        )

    def frame(self) -> GalfitFile:
        """The control entries; the scene comes later."""
        bands = self.bands()
        self.n_bands = len(bands)
        region = tuple(int(edge) for edge in self.numbers_of("H", 4, ()))
        if region and not (region[0] <= region[1] and region[2] <= region[3]):
            raise SettingsError(f"H) the region {region} is empty", "give xmin xmax ymin ymax")
        box = self.numbers_of("I", 2, (100.0, 100.0))
        scale = self.numbers_of("K", 2, (1.0, 1.0))
        frame = GalfitFile(
            Scene((Component("point", profile_of("point")),)),
            bands,
            (region[0], region[1], region[2], region[3]) if region else None,
            self.word("B", "imgblock.fits"),
            self.word("G"),
            self.whole("E", 1),
            (int(box[0]), int(box[1])),
            (scale[0], scale[1]),
            self.word("O") or "regular",
            self.whole("P", 0),
            path=self.path,
        )
        return dataclasses.replace(frame, bands=self.with_exptime(frame))

    # --- Control entries -----------------------------------------------------------------

    def word(self, key: str, default: str = "") -> str:
        """First word of a control entry; "" for none."""
        entry = self.feedme.controls.get(key)
        word = entry.words[0] if entry is not None and entry.words else default
        return "" if word.lower() == "none" else word

    def whole(self, key: str, default: int) -> int:
        """A control entry's number."""
        return int(self.numbers_of(key, 1, (float(default),))[0])

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
            if len(given) not in (0, n) and not (key == "A1" and n == 1):
                raise SettingsError(
                    f"{key}) has {len(given)} entries for {n} bands", "give one for each band"
                )
        columns = {key: self.per_band(key, n) for key in ("A2", "C", "D", "F", "J")}
        zero = self.feedme.controls.get("J")
        bands = []
        for i in range(n):
            wavelength, zeropoint = columns["A2"][i], columns["J"][i]
            bands.append(
                GalfitBand(
                    _none(images[i]),
                    _none(columns["C"][i]),
                    _none(columns["D"][i]),
                    _none(columns["F"][i]),
                    _number(zeropoint, zero) if zeropoint and zero else 0.0,
                    1.0,
                    labels[i] if labels else "",
                    _number(wavelength, self.feedme.controls["A2"]) if wavelength else None,
                )
            )
        if zero is None:
            self.notes.append("J) is missing: the zero point is taken as 0")
        self.wavelengths = [
            float(i) if band.wavelength is None else band.wavelength for i, band in enumerate(bands)
        ]
        return tuple(bands)

    def per_band(self, key: str, n: int) -> list[str]:
        """A control entry's comma-separated list; a single one serves all bands."""
        entry = self.feedme.controls.get(key)
        given = _split(entry.words[0]) if entry is not None and entry.words else [""]
        if len(given) == 1:
            given = given * n
        if key == "D" and len(given) == n + 1:  # a diffusion kernel, after a comma
            given = given[:n]
        if len(given) != n:
            raise SettingsError(
                f"{key}) has {len(given)} entries for {n} bands", "give one for each band, or one"
            )
        return given

    def with_exptime(self, file: GalfitFile) -> tuple[GalfitBand, ...]:
        bands = []
        without: dict[str, list[str]] = {}
        for band in file.bands:
            seconds, why = self.given_exptime, ""
            if seconds is None:
                seconds, why = _exptime(file.locate(band.image))
            if why:
                without.setdefault(why, []).append(band.image or "A)")
            bands.append(dataclasses.replace(band, exptime=seconds))
        for why, images in without.items():
            self.notes.append(f"{', '.join(images)}: {why}: EXPTIME is taken as 1")
        return tuple(bands)

    # --- Objects -------------------------------------------------------------------------

    def components(self) -> tuple[dict, list[_Object | None]]:
        """Fields of the scene's sky; the objects in order, None where the sky is."""
        sky: dict | None = None
        objects: list[_Object | None] = []
        taken: list[str] = []
        for number, entries in enumerate(self.feedme.objects, start=1):
            name = entries["0"].words[0]
            with named(f"object {number} ({name}, line {entries['0'].line})"):
                if name.lower() == SKY:
                    if sky is not None:
                        raise SettingsError("a second sky", "keep one")
                    sky = self.sky(entries)
                    objects.append(None)
                else:
                    made = self.object(entries, function_of(name), taken)
                    objects.append(made)
                    taken.append(made.name)
        if not taken:
            raise SettingsError("there is nothing but sky in it", "add an object")
        return {"sky": "fixed"} if sky is None else sky, objects

    def object(
        self, entries: dict[str, Entry], function: Function, taken: Sequence[str]
    ) -> _Object:
        entries = _version_3(entries, function)
        self.refuse(entries, function)
        lines = self.position(entries)
        wanted = [*function.lines]
        if function.profile != "point":
            wanted += [9] * function.has_axis_ratio + [10]
        for line in wanted:
            if str(line) not in entries:
                raise SettingsError(f"{line}) is missing", "add the line")
            lines[line] = self.numbers(entries[str(line)])
        extra = {key: self.numbers_list(entries[key]) for key in entries if SHAPE_KEYS.match(key)}
        modifiers = ["boxiness"] * ("C0" in extra)
        modifiers += [key.lower() for key in extra if key.startswith("F")]
        profile = profile_of(function.profile, modifiers)
        name = free_name(base_name(profile), taken)
        converted = self.convert(name, function, lines)
        parameters = {}
        for key, values in converted.items():
            held, rule = self.rule(key, function, lines)
            with named(key):
                parameters[key] = self.parameter(f"{name}.{key}", profile, key, values, held, rule)
        for key, numbers in extra.items():
            if any(not item.constant or sum(item.free) > 1 for item in numbers):
                self.notes.append(f"{name}: {key} is the same in all bands here")
            parameters.update(read_shape(key, [(n.values[0], n.held) for n in numbers]))
        if entries.get("Z") is not None and entries["Z"].words[:1] == ("1",):
            self.skipped.append(name)
        return _Object(name, function, Component(name, profile, parameters), lines)

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
        words = entries["1"].words
        if "2" in entries:
            return {1: self.numbers(entries["1"]), 2: self.numbers(entries["2"])}
        if len(words) < 4:
            raise SettingsError(
                f"line {entries['1'].line}: 1) has {len(words)} numbers", "write 1) x y 1 1"
            )
        kind = words[4:5]
        x = dataclasses.replace(entries["1"], words=(words[0], words[2], *kind))
        y = dataclasses.replace(entries["1"], words=(words[1], words[3], *kind))
        return {1: self.numbers(x), 2: self.numbers(y)}

    def numbers(self, entry: Entry) -> _Numbers:
        """``values toggles [band|cheb]``."""
        if len(entry.words) < 2:
            raise SettingsError(
                f"line {entry.line}: {entry.key}) has no toggle",
                "add 1 (fitted) or 0 (held) after the value",
            )
        given = [_number(word, entry) for word in _split(entry.words[0])]
        toggles = [int(_number(word, entry)) for word in _split(entry.words[1])]
        n, chebyshev = self.n_bands, "cheb" in [word.lower() for word in entry.words[2:3]]
        if chebyshev and len(given) <= n:
            given = _chebyshev(given, self.wavelengths)
        elif len(given) == 1:
            given = given * n
        if len(given) != n:
            raise SettingsError(
                f"line {entry.line}: {entry.key}) has {len(given)} values for {n} bands",
                "give one for each band, or one",
            )
        if len(toggles) == 1:
            free = tuple(i < toggles[0] for i in range(n))
        else:
            free = tuple(i < len(toggles) and toggles[i] != 0 for i in range(n))
        return _Numbers(tuple(given), free)

    def numbers_list(self, entry: Entry) -> list[_Numbers]:
        """C0: one number; F: amplitude and phase."""
        if entry.key == "C0":
            return [self.numbers(entry)]
        if len(entry.words) < 4:
            raise SettingsError(
                f"line {entry.line}: {entry.key}) has {len(entry.words)} numbers",
                f"write {entry.key}) amplitude phase 1 1",
            )
        return [
            self.numbers(dataclasses.replace(entry, words=(entry.words[i], entry.words[i + 2])))
            for i in (0, 1)
        ]

    def convert(
        self, name: str, function: Function, lines: dict[int, _Numbers]
    ) -> dict[str, tuple[float, ...]]:
        """Catalogue values in every band."""
        bands = []
        for i in range(self.n_bands):
            raw = {line: numbers.values[i] for line, numbers in lines.items()}
            values = {"x": round(raw[1] - 1.0, 10), "y": round(raw[2] - 1.0, 10)}
            for line in function.lines:
                if line in (4, 5) and line not in function.shapes and not raw[line] > 0:
                    raise SettingsError(f"{line}) the radius is {raw[line]:g}", "give it > 0")
            with named(name):
                values.update(function.values(raw, self.base.photometry(i)))
            if "q" in values and values["q"] > 1:
                self.notes.append(f"{name}: b/a = {values['q']:g} > 1, the axes were exchanged")
                values.update(
                    re=values["re"] * values["q"], q=1 / values["q"], pa=values["pa"] + 90.0
                )
            if "pa" in values:
                values["pa"] %= 180.0
            bands.append(values)
        return {key: tuple(values[key] for values in bands) for key in bands[0]}

    def rule(
        self, key: str, function: Function, lines: dict[int, _Numbers]
    ) -> tuple[bool, tuple[bool, ...]]:
        """(Held, coefficients that are fitted) of a parameter, from its lines."""
        of = [line for line in lines if function.parameter(line) == key]
        if not of:  # decided by several lines: free where one of them is
            of = [line for line in function.lines if function.parameter(line) == ""]
        if len({lines[line].held for line in of}) > 1:
            self.notes.append(
                f"{function.name}: of lines {of} some are held and some are not; {key} is fitted"
            )
        free = tuple(any(lines[line].free[i] for line in of) for i in range(self.n_bands))
        return not any(free), free

    def parameter(
        self,
        full: str,
        profile,
        key: str,
        values: tuple[float, ...],
        held: bool,
        free: tuple[bool, ...],
    ) -> Parameter:
        """The parameter, the rule over the bands included."""
        value = values[0]
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
        if len(set(values)) > 1:
            self.values[full] = values
        if self.n_bands == 1 or held:
            if held and len(set(values)) > 1:
                self.notes.append(f"{full}: held at another value in each band: see `values`")
            return Parameter(value, fixed=held)
        if key.startswith(SKY):
            if sum(free) < self.n_bands:
                self.notes.append(f"{full}: fitted in each band here")
            return Parameter(value)
        count = sum(free)
        if any(free[i] and not free[i - 1] for i in range(1, self.n_bands)):
            self.notes.append(
                f"{full}: not all coefficients below the highest were fitted; here they are"
            )
            count = max(i for i in range(self.n_bands) if free[i]) + 1
        bands: str | int = "free" if count == self.n_bands else count - 1
        if count == 1:
            bands = "shared"
            if len(set(values)) > 1:
                bands = "free"
                self.notes.append(
                    f"{full}: only the offset common to all bands was fitted; here each is free"
                )
        default = "free" if key == "flux" else "shared"
        return Parameter(value, bands="" if bands == default else bands)

    def sky(self, entries: dict[str, Entry]) -> dict:
        """Fields of the scene."""
        lines = {
            key: self.numbers(entries[str(line)])
            for line, key in ((1, "sky"), (2, "sky_dx"), (3, "sky_dy"))
            if str(line) in entries
        }
        if "sky" not in lines:
            raise SettingsError("1) is missing", "add the sky's level: 1) 0.0 1")
        if entries.get("Z") is not None and entries["Z"].words[:1] == ("1",):
            self.skipped.append(SKY)
        flat = all(
            lines[key].held and set(lines[key].values) == {0.0}
            for key in ("sky_dx", "sky_dy")
            if key in lines
        )
        profile = profile_of("flat_sky" if flat else "tilted_sky")
        parameters = {
            key: self.parameter(
                f"{SKY}.{key}", profile, key, lines[key].values, lines[key].held, lines[key].free
            )
            for key in (("sky",) if flat else tuple(lines))
        }
        return {"sky": "free" if flat else "tilted", "sky_parameters": parameters}

    # --- Constraints ---------------------------------------------------------------------

    def constrained(self, scene: Scene, objects: list[_Object | None]) -> Scene:
        if not self.base.constraints:
            return scene.check()
        path = self.base.locate(self.base.constraints)
        assert path is not None
        if not path.is_file():
            self.notes.append(f"the constraints file {path} was not found: none are applied")
            return scene.check()
        names = [SKY if item is None else item.name for item in objects]
        functions = {item.name: item.function for item in objects if item is not None}
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            scene, notes = apply_constraints(scene, text, names, functions, self.base.photometry())
            self.notes += notes
            return scene.check()
        except SettingsError as error:
            raise SettingsError(error.problem, error.remedy, path) from None


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


def _chebyshev(coefficients: Sequence[float], wavelengths: Sequence[float]) -> list[float]:
    """Values in the bands; the abscissa runs from -1 to 1 over their wavelengths."""
    low, high = min(wavelengths), max(wavelengths)
    if high == low:
        return [coefficients[0]] * len(wavelengths)
    x = 2 * (np.asarray(wavelengths) - low) / (high - low) - 1
    return [float(v) for v in np.polynomial.chebyshev.chebval(x, coefficients)]


def _exptime(path: Path | None) -> tuple[float, str]:
    """(EXPTIME of an image, why it is 1 if it was not found)."""
    if path is None or not path.is_file():
        return 1.0, "not found"
    from astropy.io import fits

    try:
        with fits.open(path) as hdus:
            seconds = [hdu.header["EXPTIME"] for hdu in hdus if "EXPTIME" in hdu.header]
        value = float(seconds[0]) if seconds else math.nan
    except (OSError, ValueError, TypeError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        return 1.0, "no EXPTIME in the header"
    return value, ""


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
