r"""Population files: distributions of the parameters of one kind of object.

Each entry under ``parameters`` is one parameter, or several that vary together (``u-g, g-r``), and
one of

- ``normal: [mean, sd]``, ``log-normal: [median, sd in ln]``, ``uniform: [low, high]``,
  ``beta: [a, b]``;
- ``mixture: {weights, means, covariances}``: of Gaussians, for several parameters together;
- ``on: other, at: x0, mean: m, slope: s, scatter: c``: Gaussian of standard deviation c about
  :math:`m + s\,(x - x_0)`, x being another parameter's value; or lists of several others;
- in Python ``density: function, numbers: {...}, truncate: [low, high]``: any distribution
  (docs/population.md).

``ln_re`` stands for the logarithm of ``re``; ``dev`` is the share of de Vaucouleurs light in the
profile ``exp_dev``. ``truncate: [low, high]`` cuts any of them off. In place of ``parameters`` may
stand ``components``, each with a ``weight`` and ``parameters`` of its own.

A file with ``populations:`` lists several of these, each with its ``share`` of all objects.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.errors import SettingsError, errors_of_file
from autofit_ml.scenes.files import ModelLoader
from autofit_ml.user_yaml import parse_user_yaml, read_user_text

__all__ = [
    "CELESTE",
    "NUMBERS",
    "Part",
    "Population",
    "Term",
    "parse_population",
    "read_population",
    "read_populations",
]

CELESTE = Path(__file__).with_name("celeste.yaml")
"""Stars and galaxies of SDSS, as Celeste has them."""

_TYPES = ("galaxy", "star")
_UNITS = {"mag": "mag", "re": "arcsec", "n": "", "q": "", "dev": ""}
"""Of the parameters; colours (``g-r``) are in mag."""

_RANGES = {"re": (0.0, math.inf), "n": (0.0, math.inf), "q": (0.0, 1.0), "dev": (0.0, 1.0)}
NUMBERS = {
    "normal": ("mean", "sd"),
    "log-normal": ("median", "sd"),
    "uniform": ("low", "high"),
    "beta": ("a", "b"),
    "mixture": ("weights", "means", "covariances"),
    "on": ("at", "mean", "slope", "scatter"),
    "density": (),
}
"""Kind of distribution -> its numbers, in order."""

_POSITIVE = ("sd", "median", "a", "b", "scatter")
_SCATTERS = ("sd", "scatter")
_TRIES = 1000
"""Times that what lies outside the limits is drawn again."""


@dataclass(frozen=True)
class Term:
    """Distribution of one parameter, or of several together.

    Attributes
    ----------
    names : tuple of str
        ``ln_re`` for the logarithm of re.
    band : str
        Of a magnitude.
    kind : str
        "normal", "log-normal", "uniform", "beta", "mixture", "on" or "density".
    numbers : dict of str to ndarray
        Of that kind: "mean", "sd" ...
    on : tuple of str
        The parameters on which it depends.
    truncate : (float, float)
    density : callable, optional
        Of (values by name, numbers by name), tensors: ln of the density up to a constant.
    """

    names: tuple[str, ...]
    band: str
    kind: str
    numbers: Mapping[str, np.ndarray]
    on: tuple[str, ...] = ()
    truncate: tuple[float, float] = (-math.inf, math.inf)
    density: Callable[..., Any] | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """Values outside do not occur: `truncate`, and what the parameters themselves allow."""
        low, high = self.truncate
        for name in self.names:
            least, most = _RANGES.get(name, (-math.inf, math.inf))
            low, high = max(low, least), min(high, most)
        return low, high

    @property
    def exact(self) -> bool:
        """True if there is no scatter: all objects share the value."""
        return any(name in self.numbers and self.numbers[name] == 0 for name in _SCATTERS)

    def draw(self, given: Mapping[str, np.ndarray], rng: np.random.Generator, n: int) -> np.ndarray:
        """Values (n, names), inside the limits; `given`: what was drawn before."""
        low, high = self.limits
        out = self._free(given, rng, np.arange(n))
        for _ in range(_TRIES):
            outside = np.flatnonzero(((out < low) | (out > high)).any(1))
            if len(outside) == 0:
                return out
            out[outside] = self._free(given, rng, outside)
        raise SettingsError(
            f"{', '.join(self.names)}: hardly anything lies between {low:g} and {high:g}",
            "widen truncate, or move the distribution",
        )

    def _free(
        self, given: Mapping[str, np.ndarray], rng: np.random.Generator, rows: np.ndarray
    ) -> np.ndarray:
        """Values of some rows, wherever they lie."""
        v, n = self.numbers, len(rows)
        if self.density is not None:
            return self._inverse({name: given[name][rows] for name in self.on}, rng, n)
        if self.kind == "mixture":
            which = rng.choice(len(v["weights"]), n, p=v["weights"] / v["weights"].sum())
            roots = np.linalg.cholesky(v["covariances"])
            noise = rng.standard_normal((n, len(self.names)))
            return v["means"][which] + np.einsum("nij,nj->ni", roots[which], noise)
        if self.kind == "uniform":
            values = rng.uniform(v["low"], v["high"], n)
        elif self.kind == "beta":
            values = rng.beta(v["a"], v["b"], n)
        elif self.kind == "log-normal":
            values = v["median"] * np.exp(v["sd"] * rng.standard_normal(n))
        elif self.kind == "normal":
            values = v["mean"] + v["sd"] * rng.standard_normal(n)
        else:
            middle = v["mean"] + sum(
                slope * (given[name][rows] - at)
                for name, slope, at in zip(self.on, v["slope"], v["at"], strict=True)
            )
            values = middle + v["scatter"] * rng.standard_normal(n)
        return values[:, None]

    def _inverse(
        self, given: Mapping[str, np.ndarray], rng: np.random.Generator, n: int
    ) -> np.ndarray:
        """Values (n, 1) of the density, by the inverse of its integral on a fine grid."""
        import torch

        assert self.density is not None
        points = np.linspace(*self.limits, 1025)
        x = {name: torch.as_tensor(value)[:, None] for name, value in given.items()}
        x[self.names[0]] = torch.as_tensor(points)
        ln = self.density(x, {name: torch.as_tensor(v) for name, v in self.numbers.items()})
        p = np.exp((ln - ln.amax(-1, keepdim=True)).numpy())
        p = np.broadcast_to(p, (n, len(points)) if p.ndim > 1 else p.shape)
        mass = np.cumsum((p[..., 1:] + p[..., :-1]) / 2, -1)
        mass = np.concatenate([np.zeros_like(mass[..., :1]), mass], -1) / mass[..., -1:]
        u = rng.random(n)
        if mass.ndim == 1:
            return np.interp(u, mass, points)[:, None]
        return np.array([np.interp(a, m, points) for a, m in zip(u, mass, strict=True)])[:, None]


@dataclass(frozen=True)
class Part:
    """One of the kinds of objects of which a population is made.

    Attributes
    ----------
    name : str
        "" where there is only one.
    weight : float
        Relative to those of the others.
    terms : tuple of Term
        Each after those on which it depends.
    """

    name: str
    weight: float
    terms: tuple[Term, ...]

    def draw(
        self, n: int, rng: np.random.Generator, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Parameters of n objects, (n,) each, by the names of the terms.

        `given`: other numbers, (n,) each, on which they depend.
        """
        known, out = dict(given or {}), dict[str, np.ndarray]()
        for term in self.terms:
            out |= dict(zip(term.names, term.draw(known | out, rng, n).T, strict=True))
        return out


@dataclass(frozen=True)
class Population:
    """Stars or galaxies whose parameters are distributed alike.

    Attributes
    ----------
    name : str
    type : {"galaxy", "star"}
    parts : tuple of Part
        All of the same parameters.
    share : float
        Of all objects, where a file has several populations.
    """

    name: str
    type: str
    parts: tuple[Part, ...]
    share: float = 1.0

    @property
    def terms(self) -> tuple[Term, ...]:
        """Terms of a population of one part.

        Raises
        ------
        SettingsError
            It has several components.
        """
        if len(self.parts) > 1:
            raise SettingsError(
                f"{self.name or 'the population'} has components", "use one without"
            )
        return self.parts[0].terms

    @property
    def band(self) -> str:
        """Band in which ``mag`` is given; "" where it is not."""
        return next((term.band for part in self.parts for term in part.terms if term.band), "")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters: ``ln_re`` where the file has it."""
        return tuple(name for term in self.parts[0].terms for name in term.names)

    def draw(self, n: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Parameters of n objects, (n,) each, by name; ``re`` where the file has ``ln_re``."""
        rng = np.random.default_rng(seed)
        weights = np.array([part.weight for part in self.parts])
        counts = [n] if len(weights) == 1 else rng.multinomial(n, weights / weights.sum())
        drawn = [part.draw(int(m), rng) for part, m in zip(self.parts, counts, strict=True)]
        order = np.arange(n) if len(weights) == 1 else rng.permutation(n)
        out = {name: np.concatenate([one[name] for one in drawn])[order] for name in self.names}
        return {
            name.removeprefix("ln_"): np.exp(values) if name.startswith("ln_") else values
            for name, values in out.items()
        }


def read_population(path: str | Path) -> Population:
    """Read a population file; of several populations in it the galaxies.

    Raises
    ------
    SettingsError
        Naming the file, the parameter and what is wrong with it.
    """
    found = read_populations(path)
    galaxies = [one for one in found if one.type == "galaxy"]
    if len(found) > 1 and len(galaxies) != 1:
        problem = f"{len(galaxies)} populations of galaxies are in it"
        raise SettingsError(problem, "keep one of them", path)
    return found[0] if len(found) == 1 else galaxies[0]


def read_populations(path: str | Path) -> tuple[Population, ...]:
    """Read every population of a file, with shares that sum to 1.

    Raises
    ------
    SettingsError
        Naming the file, the parameter and what is wrong with it.
    """
    with errors_of_file(path):
        content = parse_user_yaml(read_user_text(path, "population file"), ModelLoader)
        if not isinstance(content, Mapping) or "populations" not in content:
            return (parse_population(content),)
        _only(content, ("name", "populations"), "")
        several = content["populations"]
        if not isinstance(several, Sequence) or isinstance(several, str) or not several:
            raise SettingsError("populations: there are none", "list them, each with its share")
        found = [parse_population(one) for one in several]
        total = sum(one.share for one in found)
        return tuple(dataclasses.replace(one, share=one.share / total) for one in found)


def parse_population(content: Any, *, covariates: bool = False) -> Population:
    """Check the content of a population file.

    Parameters
    ----------
    content : mapping
        What YAML makes of the file.
    covariates : bool
        Parameters may have any name, and depend on what has no distribution.

    Raises
    ------
    SettingsError
    """
    if not isinstance(content, Mapping):
        raise SettingsError("no population in it", "begin with name:, type: and parameters:")
    _only(content, ("name", "type", "share", "parameters", "components"), "")
    share = _numbers("share", content.get("share", 1.0))
    if share.ndim or not share > 0:
        raise SettingsError(f"share is {content.get('share')!r}", "give a positive number")
    kind = content.get("type")
    if kind not in _TYPES:
        raise SettingsError(f"type is {kind!r}", f"use one of: {', '.join(_TYPES)}")
    entries = content.get("components")
    if entries is None:
        entries = {"": {"parameters": content.get("parameters")}}
    elif "parameters" in content or not isinstance(entries, Mapping) or not entries:
        raise SettingsError(
            "components and parameters do not go together",
            "write components: {NAME: {weight: ...}}",
        )
    parts = tuple(_part(str(name), entry, covariates) for name, entry in entries.items())
    population = Population(str(content.get("name") or ""), str(kind), parts, float(share))
    for part in parts[1:]:
        names = {name for term in part.terms for name in term.names}
        if names != set(population.names):
            raise SettingsError(
                f"{part.name} and {parts[0].name} have other parameters", "give all to both"
            )
    return population


def _part(label: str, entry: Any, covariates: bool) -> Part:
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{label}: {entry!r}", "write {weight: 0.3, parameters: {...}}")
    _only(entry, ("weight", "parameters"), f"{label}: ")
    weight = float(_numbers(f"{label}: weight", entry.get("weight", 1.0)))
    if not weight > 0:
        raise SettingsError(f"{label}: weight is {weight:g}", "give a positive number")
    entries = entry.get("parameters")
    if not isinstance(entries, Mapping) or not entries:
        raise SettingsError("parameters: there are none", "write e.g. n: {log-normal: [1.5, 0.6]}")
    terms = [_term(str(key), item, covariates) for key, item in entries.items()]
    names = [name for term in terms for name in term.names]
    plain = [name.removeprefix("ln_") for name in names]
    twice = sorted({name for name in plain if plain.count(name) > 1})
    if twice:
        raise SettingsError(f"{', '.join(twice)}: given twice", "keep one")
    ordered: list[Term] = []
    while terms:
        waiting = {name for term in terms for name in term.names}
        known = {name for term in ordered for name in term.names}
        ready = [
            term
            for term in terms
            if all(name in known or (covariates and name not in waiting) for name in term.on)
        ]
        if not ready:
            term = terms[0]
            raise SettingsError(
                f"{term.names[0]} depends on {', '.join(map(repr, term.on))}, which is not there "
                "or depends on it",
                f"use one of: {', '.join(name for name in names if name != term.names[0])}",
            )
        ordered.append(ready[0])
        terms.remove(ready[0])
    return Part(label, weight, tuple(ordered))


def _term(key: str, entry: Any, any_name: bool) -> Term:
    """One entry under ``parameters``."""
    names = tuple(name.strip() for name in key.split(","))
    for name in names:
        plain = name.removeprefix("ln_")
        if plain not in _UNITS and not (any_name or re.fullmatch(r"\w+-\w+", name)):
            known = ", ".join(_UNITS)
            raise SettingsError(f"{name!r} is no parameter", f"use {known}, or colours like g-r")
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{key}: {entry!r}", "write e.g. {normal: [22, 1.5], unit: mag}")
    kinds = [kind for kind in NUMBERS if kind in entry]
    if len(kinds) != 1:
        raise SettingsError(
            f"{key}: {' and '.join(kinds) or 'no distribution'}",
            f"give one of: {', '.join(NUMBERS)}",
        )
    (kind,), wanted = kinds, NUMBERS[kinds[0]]
    more = wanted if kind == "on" else ("numbers", "given") if kind == "density" else ()
    _only(entry, ("unit", "band", "truncate", kind, *more), f"{key}: ")
    _check_unit(key, names, entry, any_name)
    if kind == "density":
        return _density(key, entry, any_name)
    given: Any = {name: entry.get(name) for name in wanted} if kind == "on" else entry[kind]
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(wanted):
        given = dict(zip(wanted, given, strict=True))
    if not isinstance(given, Mapping) or set(given) != set(wanted):
        raise SettingsError(f"{key}: {kind}: {given!r}", f"give {', '.join(wanted)}")
    if kind != "mixture" and len(names) > 1:
        raise SettingsError(f"{key}: {kind} of several parameters", "use a mixture")
    numbers = {name: _numbers(f"{key}: {kind}: {name}", given[name]) for name in wanted}
    on = entry.get("on", ())
    on = (on,) if isinstance(on, str) else tuple(map(str, on))
    size = len(on) if kind == "on" else len(names)
    _check_numbers(f"{key}: {kind}", kind, numbers, size, exact=any_name)
    return Term(
        names,
        str(entry.get("band") or ""),
        kind,
        numbers,
        on,
        _limits(key, entry.get("truncate")),
    )


def _density(key: str, entry: Mapping[str, Any], in_python: bool) -> Term:
    """An entry with a function."""
    low, high = _limits(key, entry.get("truncate"))
    function, given = entry["density"], entry.get("numbers") or {}
    if not in_python or not callable(function) or not isinstance(given, Mapping):
        raise SettingsError(
            f"{key}: density: {function!r}",
            "give a function, in Python, and numbers: {name: value, free or prior}",
        )
    if "," in key or not math.isfinite(high - low):
        raise SettingsError(
            f"{key}: density between {low:g} and {high:g}",
            "give truncate: [low, high], finite, and one parameter",
        )
    numbers = {str(name): _numbers(f"{key}: {name}", value) for name, value in given.items()}
    on = entry.get("given", ())
    on = (on,) if isinstance(on, str) else tuple(map(str, on))
    band = str(entry.get("band") or "")
    return Term((key,), band, "density", numbers, on, (low, high), function)


def _only(entry: Mapping, known: Sequence[str], where: str) -> None:
    for name in entry:
        if name not in known:
            raise SettingsError(f"{where}{name!r} is not understood", f"use {', '.join(known)}")


def _check_unit(key: str, names: Sequence[str], entry: Mapping, any_name: bool) -> None:
    for name in names:
        plain = name.removeprefix("ln_")
        if any_name and plain not in _UNITS and "-" not in plain:
            continue
        unit = _UNITS.get(plain, "mag")
        if (entry.get("unit") or "") != unit:
            remedy = f"write unit: {unit}" if unit else "leave the unit out: it has none"
            raise SettingsError(f"{key}: the unit is {entry.get('unit')!r}", remedy)
    if bool(entry.get("band")) != (key == "mag"):
        remedy = "write e.g. band: r" if key == "mag" else "leave the band out"
        raise SettingsError(f"{key}: the band is {entry.get('band')!r}", remedy)


def _numbers(where: str, value: Any) -> np.ndarray:
    try:
        out = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        out = np.array(math.nan)
    if isinstance(value, bool) or not np.isfinite(out).all():
        raise SettingsError(f"{where} is {value!r}", "give finite numbers")
    return out


def _check_numbers(where: str, kind: str, v: dict[str, np.ndarray], size: int, exact: bool) -> None:
    """Shapes and signs; in a mixture of one parameter means and variances may be plain lists.

    `size`: of parameters of a mixture, or of those on which one depends. `exact`: scatters may be
    0.
    """
    if kind == "on":
        for name in ("at", "slope"):
            v[name] = np.atleast_1d(v[name])
            if v[name].shape != (size,):
                raise SettingsError(f"{where}: {name} is {v[name].tolist()!r}", f"give {size}")
    if kind != "mixture":
        for name, value in v.items():
            if exact and name in _SCATTERS and value.ndim == 0 and value == 0:
                continue
            if (value.ndim and not (kind == "on" and name in ("at", "slope"))) or (
                name in _POSITIVE and not value > 0
            ):
                rule = "a positive number" if name in _POSITIVE else "one number"
                raise SettingsError(f"{where}: {name} is {value.tolist()!r}", f"give {rule}")
        if kind == "uniform" and not v["low"] < v["high"]:
            raise SettingsError(
                f"{where}: from {v['low']:g} to {v['high']:g}", "give the smaller one first"
            )
        return
    if size == 1 and v["means"].ndim == 1 and v["covariances"].ndim == 1:
        v["means"], v["covariances"] = v["means"][:, None], v["covariances"][:, None, None]
    count = v["weights"].size
    shapes = {"weights": (count,), "means": (count, size), "covariances": (count, size, size)}
    for name, shape in shapes.items():
        if v[name].shape != shape:
            raise SettingsError(f"{where}: {name} has the shape {v[name].shape}", f"give {shape}")
    turned = np.swapaxes(v["covariances"], 1, 2)
    if not (v["weights"] > 0).all() or not np.allclose(v["covariances"], turned):
        raise SettingsError(f"{where}: weights or covariances", "positive, and symmetric")
    if not (np.linalg.eigvalsh(v["covariances"]) > 0).all():
        raise SettingsError(f"{where}: a covariance is not positive definite", "check its numbers")


def _limits(key: str, value: Any) -> tuple[float, float]:
    if value is None:
        return (-math.inf, math.inf)
    limits = _numbers(f"{key}: truncate", value)
    if limits.shape != (2,) or not limits[0] < limits[1]:
        raise SettingsError(f"{key}: truncate: {value!r}", "give the smaller and the larger limit")
    return (float(limits[0]), float(limits[1]))
