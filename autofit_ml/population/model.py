"""Models of populations: population files in which numbers are free.

In place of a number may stand

- ``free``: unknown; its prior is as wide as the data allow;
- a prior, as in scenes: ``{normal: [0, 1]}``, ``{log-normal: [0.3, 1]}``, ...;
- the name of an entry under ``hyper:``, for a number that several places share.

``selection:`` says why an object is in the sample: limits of measured values, ``{mag: [null, 24],
snr: [5, null]}``, or ``{calibration: FOLDER}``, galaxies that `autofit-ml calibrate` injected.

``by: column`` beside a prior gives every value of a covariate (a field, a redshift bin) a number of
its own; if the prior's own numbers are names, they are fitted too, and the levels are nested.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from autofit_ml.errors import SettingsError
from autofit_ml.scenes import Prior
from autofit_ml.scenes.files import ModelLoader
from autofit_ml.scenes.populations import NUMBERS, Population, Term, parse_population
from autofit_ml.scenes.priors import PRIORS
from autofit_ml.user_yaml import parse_user_yaml, read_user_text

__all__ = ["Hyperparameter", "Place", "PopulationModel", "read_population_model"]

FREE = "free"
_FIXED_KINDS = ("uniform", "mixture")
_POSITIVE = ("sd", "median", "a", "b", "scatter", "weight")

Path_ = tuple[Any, ...]


@dataclass(frozen=True)
class Hyperparameter:
    """A free number of a population, or one for each value of a covariate.

    Attributes
    ----------
    name : str
    prior : Prior or None
        None: as wide as the data allow.
    by : str
        Covariate whose values have each their own; "": one number for all.
    nested : (str or float, str or float), optional
        Mean and standard deviation (of ln, with `log`) among these numbers, by name or value.
    log : bool
        It is varied as a logarithm.
    """

    name: str
    prior: Prior | None
    by: str = ""
    nested: tuple[str | float, str | float] | None = None
    log: bool = False


@dataclass(frozen=True)
class Place:
    """Place of a number: its part, parameters, own name and index."""

    part: int
    names: tuple[str, ...]
    number: str
    index: int = 0


@dataclass(frozen=True)
class PopulationModel:
    """A population in which some numbers are free.

    Attributes
    ----------
    content : mapping
        The file with numbers in all places.
    base : Population
        Made of `content`.
    places : dict of Place to str
        Names of the hyperparameters, where they stand.
    hyper : tuple of Hyperparameter
        Those of which others depend come first.
    limits : dict of str to (float or None, float or None)
        Of measured values.
    calibration : str
        Folder of injected galaxies; "": none.
    """

    content: Mapping[str, Any]
    base: Population
    places: Mapping[Place, str]
    hyper: tuple[Hyperparameter, ...]
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    calibration: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that have a distribution."""
        return self.base.names

    @property
    def exact(self) -> tuple[str, ...]:
        """Names of the parameters without scatter, which objects share exactly."""
        return tuple(term.names[0] for term in self.base.parts[0].terms if term.exact)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of numbers that parameters depend on without having a distribution."""
        known = set(self.names)
        on = (name for part in self.base.parts for term in part.terms for name in term.on)
        return tuple(dict.fromkeys(name for name in on if name not in known))

    @property
    def groups(self) -> tuple[str, ...]:
        """Covariates whose values have numbers of their own."""
        return tuple(dict.fromkeys(item.by for item in self.hyper if item.by))

    def at(
        self, values: Mapping[str, float], least: float = 0.0
    ) -> tuple[Population, dict[str, Any]]:
        """The population at some values of the hyperparameters, and its file's content.

        `least`: scatter in place of 0.
        """
        content: Any = copy.deepcopy(self.content)
        for path, place in _numbers_of(content):
            if place in self.places:
                _put(content, path, float(values[self.places[place]]))
            elif place.number in ("sd", "scatter") and _get(content, path) == 0:
                _put(content, path, least)
        return parse_population(content, covariates=True), content

    def with_priors(self, priors: Mapping[str, Prior]) -> PopulationModel:
        """The model with priors for free numbers that had none."""
        hyper = tuple(
            replace(item, prior=priors[item.name], log=item.log or priors[item.name].log)
            if item.name in priors
            else item
            for item in self.hyper
        )
        return replace(self, hyper=hyper)


def read_population_model(source: str | Path | Mapping[str, Any]) -> PopulationModel:
    """Read a population file in which numbers may be free.

    Parameters
    ----------
    source : path or mapping
        A YAML file, or its content.

    Raises
    ------
    SettingsError
        Naming the file, the number and what is wrong with it.
    """
    if isinstance(source, Mapping):
        return _model(source)
    try:
        return _model(parse_user_yaml(read_user_text(source, "population model"), ModelLoader))
    except SettingsError as error:
        if error.file is not None:
            raise
        raise SettingsError(error.problem, error.remedy, source) from None


def _model(given: Any) -> PopulationModel:
    if not isinstance(given, Mapping):
        raise SettingsError("no population in it", "begin with name:, type: and parameters:")
    content: Any = copy.deepcopy(dict(given))
    limits, calibration = _selection(content.pop("selection", None))
    named = content.pop("hyper", None) or {}
    if not isinstance(named, Mapping):
        raise SettingsError(f"hyper: {named!r}", "write hyper: {tau: {log-normal: [0.1, 1]}}")
    hyper = {str(name): _free_number(str(name), entry, named) for name, entry in named.items()}
    places: dict[Place, str] = {}
    for path, place in _numbers_of(content):
        entry = _get(content, path)
        if isinstance(entry, (int, float)) and not isinstance(entry, bool):
            continue
        if isinstance(entry, str) and entry != FREE:
            if entry not in named:
                raise SettingsError(
                    f"{_said(path)}: {entry!r} is not under hyper",
                    f"add it there, or write a number, {FREE}, or a prior",
                )
            name = entry
        else:
            name = _said(path)
            hyper[name] = _free_number(name, entry, named)
        if place.number in _POSITIVE and hyper[name].prior is None:
            hyper[name] = replace(hyper[name], log=True)
        places[place] = name
        _put(content, path, _start(hyper[name], place.number))
    base = parse_population(content, covariates=True)
    unused = (
        set(named)
        - set(places.values())
        - {name for item in hyper.values() for name in item.nested or () if isinstance(name, str)}
    )
    if unused:
        raise SettingsError(f"hyper: {', '.join(sorted(unused))}: not used", "leave it out")
    for part in base.parts:
        for term in part.terms:
            _check_term(term)
    if len({frozenset(t.names for t in part.terms if t.exact) for part in base.parts}) > 1:
        raise SettingsError("a scatter is 0 in one component only", "make it 0 in all, or in none")
    return PopulationModel(content, base, places, _ordered(hyper), limits, calibration)


def _selection(given: Any) -> tuple[dict[str, tuple[float | None, float | None]], str]:
    """Limits by name, and a calibration's folder."""
    if given is None:
        return {}, ""
    if not isinstance(given, Mapping) or not given:
        raise SettingsError(f"selection: {given!r}", "write e.g. {mag: [null, 24]}")
    if "calibration" in given:
        if len(given) > 1 or not isinstance(given["calibration"], str):
            raise SettingsError(f"selection: {dict(given)!r}", "a calibration stands alone")
        return {}, given["calibration"]
    limits = {}
    for name, pair in given.items():
        good = isinstance(pair, list) and len(pair) == 2
        good = good and all(
            v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in pair
        )
        if not good or pair == [None, None]:
            raise SettingsError(f"selection: {name}: {pair!r}", "give [low, high]; null: none")
        limits[str(name)] = (pair[0], pair[1])
    return limits, ""


def _check_term(term: Term) -> None:
    low, high = term.limits
    if term.kind == "mixture" and (low > -float("inf") or high < float("inf")):
        raise SettingsError(
            f"{', '.join(term.names)}: a mixture that is cut off",
            "leave truncate out, or use ln_n, ln_re in place of n, re",
        )


def _free_number(name: str, entry: Any, named: Mapping[str, Any]) -> Hyperparameter:
    if entry == FREE:
        return Hyperparameter(name, None)
    rest = dict(entry) if isinstance(entry, Mapping) else {}
    by = rest.pop("by", "")
    kinds = [kind for kind in rest if kind in PRIORS]
    if len(rest) != 1 or len(kinds) != 1:
        raise SettingsError(
            f"{name}: {entry!r} is neither a number nor a prior",
            f"write a number, {FREE}, or one of {', '.join(PRIORS)}: {{normal: [0, 1]}}",
        )
    (kind,), numbers = kinds, rest[kinds[0]]
    numbers = list(numbers.values() if isinstance(numbers, Mapping) else numbers)
    if any(isinstance(number, str) for number in numbers):
        unknown = [n for n in numbers if isinstance(n, str) and n not in named]
        if kind not in ("normal", "log-normal") or len(numbers) != 2 or not by or unknown:
            raise SettingsError(
                f"{name}: {entry!r}",
                "nested numbers are {normal: [mean, sd], by: column}, both under hyper",
            )
        return Hyperparameter(name, None, str(by), (numbers[0], numbers[1]), kind == "log-normal")
    try:
        prior = PRIORS[kind](*numbers)
    except TypeError:
        raise SettingsError(f"{name}: {kind}: {numbers!r}", "see docs/models.md") from None
    except SettingsError as error:
        raise SettingsError(f"{name}: {error.problem}", error.remedy) from None
    return Hyperparameter(name, prior, str(by), None, prior.log)


def _start(item: Hyperparameter, number: str) -> float:
    """A value with which the file can be read."""
    if item.prior is None:
        return 1.0 if number in _POSITIVE else 0.0
    return central(item.prior)


def central(prior: Prior) -> float:
    """A value in the middle of a prior."""
    if prior.gaussian is not None:
        value = math.exp(prior.gaussian[0]) if prior.log else prior.gaussian[0]
        low, high = prior.support
        return min(max(value, low), high)
    low, high = prior.support
    return (low * high) ** 0.5 if prior.log else (low + high) / 2


def _ordered(hyper: Mapping[str, Hyperparameter]) -> tuple[Hyperparameter, ...]:
    """Numbers of which others depend come first."""
    rest, out = list(hyper.values()), list[Hyperparameter]()
    while rest:
        done = {item.name for item in out}
        ready = [
            item for item in rest if all(n in done for n in item.nested or () if isinstance(n, str))
        ]
        if not ready:
            raise SettingsError(f"hyper: {rest[0].name} depends on itself", "break the circle")
        if any(
            item.by and item.name in (n for k in rest for n in k.nested or ()) for item in ready
        ):
            raise SettingsError(
                "hyper: a number of a group cannot have groups below it", "use one level of by"
            )
        out += ready
        rest = [item for item in rest if item not in ready]
    return tuple(out)


# --- walking through a file --------------------------------------------------------------------


def _numbers_of(content: Any) -> Iterator[tuple[Path_, Place]]:
    """Paths of all single numbers, and what they are; of what is no population nothing."""
    components = content.get("components")
    parts = components if isinstance(components, Mapping) else {None: content}
    for k, (label, part) in enumerate(parts.items()):
        above: Path_ = () if label is None else ("components", label)
        if isinstance(part, Mapping) and "weight" in part:
            yield (*above, "weight"), Place(k, (), "weight")
        entries = part.get("parameters") if isinstance(part, Mapping) else None
        for key, entry in entries.items() if isinstance(entries, Mapping) else ():
            names = tuple(name.strip() for name in str(key).split(","))
            if isinstance(entry, Mapping):
                for path, number, index in _numbers_of_term(entry):
                    yield (*above, "parameters", key, *path), Place(k, names, number, index)


def _numbers_of_term(entry: Mapping) -> Iterator[tuple[Path_, str, int]]:
    for kind, wanted in NUMBERS.items():
        if kind not in entry or kind in _FIXED_KINDS:
            continue
        key = {"on": None, "density": "numbers"}.get(kind, kind)
        given: Any = entry if key is None else entry.get(key)
        above: Path_ = () if key is None else (key,)
        wanted = tuple(given) if kind == "density" and isinstance(given, Mapping) else wanted
        if isinstance(given, Mapping):
            for number in wanted:
                several = kind == "on" and isinstance(given.get(number), list)
                if several:
                    yield from (((*above, number, j), number, j) for j in range(len(given[number])))
                elif number in given:
                    yield (*above, number), number, 0
        elif isinstance(given, list) and len(given) == len(wanted):
            yield from (((*above, j), number, 0) for j, number in enumerate(wanted))


def _get(content: Any, path: Path_) -> Any:
    for key in path:
        content = content[key]
    return content


def _put(content: Any, path: Path_, value: float) -> None:
    _get(content, path[:-1])[path[-1]] = value


def _said(path: Path_) -> str:
    """Name of the number at a path: late.ln_re.slope, n.sd."""
    words = [key for key in path if key not in ("components", "parameters", "numbers", *NUMBERS)]
    kind = next((key for key in path if key in NUMBERS), None)
    if kind is not None and isinstance(words[-1], int):
        words[-1] = NUMBERS[kind][words[-1]]
    return ".".join(str(word + 1 if isinstance(word, int) else word) for word in words)


def to_yaml(content: Mapping[str, Any]) -> str:
    """Text of a population file."""
    return yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=100)
