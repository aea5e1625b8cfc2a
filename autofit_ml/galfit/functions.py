r"""GALFIT's functions: the numbers in a file against our parameters.

In: the numbers of one object's lines, and `Photometry`. Out: catalogue values (flux, re, shapes,
q, pa), and back. Definitions: Peng et al. 2010, AJ 139, 2097, section 5 (and Peng et al. 2002, AJ
124, 266). Where GALFIT gives a surface brightness (mag/arcsec^2) instead of a total magnitude, the
flux follows from the profile's own brightness, integrated numerically.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.live import half_light, sample_light
from autofit_ml.profiles.registry import get_profile
from autofit_ml.profiles.tables import half_light_radius, live_table, profile_radii

__all__ = ["FUNCTIONS", "Function", "Photometry", "function_of"]

Lines = dict[int, float]
Values = dict[str, float]


@dataclass(frozen=True)
class Photometry:
    """Zero point and exposure that turn counts into magnitudes.

    Attributes
    ----------
    zeropoint : float
        mag = zeropoint - 2.5 log10(counts / exptime).
    exptime : float
        Seconds; GALFIT takes it from the image's header, 1 where there is none.
    pixel_area : float
        arcsec^2, for surface brightnesses.
    """

    zeropoint: float
    exptime: float = 1.0
    pixel_area: float = 1.0

    def flux(self, magnitude: float) -> float:
        """Counts of a magnitude."""
        return self.exptime * 10 ** (-0.4 * (magnitude - self.zeropoint))

    def magnitude(self, flux: float) -> float:
        """Magnitude of (positive) counts."""
        return self.zeropoint - 2.5 * math.log10(flux / self.exptime)


@dataclass(frozen=True)
class Function:
    """One of GALFIT's functions.

    Attributes
    ----------
    name : str
        In GALFIT files.
    profile : str
        Ours.
    labels : mapping of int to str
        Lines 3 to 8 that it uses, and comments for them.
    shapes : mapping of int to str
        Shape parameters that are the same number in both, by line.
    radius : str
        What line 4 is, as `Profile.radii` calls it; "" for the half-light radius itself.
    surface : callable (values) -> float, optional
        Line 3 is the surface brightness at this radius (in the profile's natural unit of length);
        without it, line 3 is the total magnitude.
    read, write : callable, optional
        Sizes where they are not just line 4: (lines) -> re and further values; and back.
    """

    name: str
    profile: str
    labels: Mapping[int, str]
    shapes: Mapping[int, str] = field(default_factory=dict)
    radius: str = ""
    surface: Callable[[Values], float] | None = None
    read: Callable[[Lines], Values] | None = None
    write: Callable[[Values], Lines] | None = None

    @property
    def lines(self) -> tuple[int, ...]:
        """Lines after the position that it uses."""
        if self.profile == "point":
            return tuple(self.labels)
        return (*self.labels, *((10,) if self.profile == "edge_on_disc" else (9, 10)))

    def parameter(self, line: int) -> str:
        """The parameter of ours that a line decides; "" if it is more than one."""
        if line == 4 and self.read is None:
            return "re"
        return {1: "x", 2: "y", 3: "flux", 9: "q", 10: "pa", **self.shapes}.get(line, "")

    def values(self, lines: Lines, photometry: Photometry) -> Values:
        """Catalogue values from lines 3 to 10."""
        values = {self.parameter(line): lines[line] for line in self.lines}
        if self.read is not None:
            values |= self.read(lines)
        elif "re" in values:
            values["re"] *= self.size_factor(values)
        values.pop("", None)
        values["flux"] = photometry.flux(lines[3])
        if self.surface is not None:
            values["flux"] *= photometry.pixel_area / _surface_per_flux(self, values)
        return values

    def numbers(self, values: Values, photometry: Photometry) -> Lines:
        """Lines 3 to 10 from catalogue values."""
        lines = {line: values[name] for line in self.lines if (name := self.parameter(line))}
        if self.write is not None:
            lines |= self.write(values)
        elif 4 in lines:
            lines[4] /= self.size_factor(values)
        flux = values["flux"]
        if self.surface is not None:
            flux *= _surface_per_flux(self, values) / photometry.pixel_area
        return {**lines, 3: photometry.magnitude(flux)}

    def size_factor(self, values: Values) -> float:
        """re over line 4; of the start's shapes where it depends on them."""
        return 1.0 / _radius(self.profile, values, self.radius) if self.radius else 1.0

    @property
    def size_depends_on_shape(self) -> bool:
        """True if `size_factor` is another for other shapes."""
        return bool(self.radius and get_profile(self.profile).shapes) or self.read is not None


def _radius(profile: str, values: Mapping[str, float], name: str) -> float:
    """A radius of a profile in half-light radii."""
    shapes = get_profile(profile).shapes
    given = [np.float64(values.get(shape.name, shape.default)) for shape in shapes]
    return float(profile_radii(get_profile(profile), given)[name])


def _surface_per_flux(function: Function, values: Values) -> float:
    """Brightness per pixel of unit flux, where line 3 is given."""
    assert function.surface is not None
    if function.profile == "edge_on_disc":
        return function.surface(values)
    profile = get_profile(function.profile)
    shapes = [float(values[shape.name]) for shape in profile.shapes]
    live = live_table(profile)
    fit = [math.log(s) if log else s for s, log in zip(shapes, live.log, strict=True)]
    table = torch.tensor([fit], dtype=torch.float64)
    samples = sample_light(live.light, live.log, table, live.grid)
    total = 2 * math.pi * float(half_light(live.grid, *samples).integral)
    assert profile.light is not None
    at = torch.tensor([function.surface(values), *shapes], dtype=torch.float64)[:, None]
    light = float(profile.light(*at))
    natural = float(half_light_radius(profile, shapes))
    return light / total * natural**2 / (values["re"] ** 2 * values["q"])


def _king_values(lines: Lines) -> Values:
    core, edge = lines[4], lines[5]
    if not 0 < core < edge:
        raise SettingsError(
            f"a King profile with core {core:g} and edge {edge:g}", "give 4) Rc < 5) Rt"
        )
    values = {"alpha": lines[6], "concentration": edge / core}
    return {**values, "re": edge / _radius("king", values, "truncation")}


def _king_lines(values: Values) -> Lines:
    edge = values["re"] * _radius("king", values, "truncation")
    return {4: edge / values["concentration"], 5: edge}


def _core_values(lines: Lines) -> Values:
    values = {"n": lines[8], "rb": lines[4] / lines[7], "gamma": lines[6], "alpha": lines[5]}
    return {**values, "re": lines[7] / _radius("core_sersic", values, "outer_half_light")}


def _core_lines(values: Values) -> Lines:
    outer = values["re"] * _radius("core_sersic", values, "outer_half_light")
    return {4: values["rb"] * outer, 7: outer}


_THICKNESS = math.pi / 6
"""Axis ratio of an edge-on disc over scale height / scale length."""


def _edge_values(lines: Lines) -> Values:
    height, length = lines[4], lines[5]
    if not 0 < _THICKNESS * height <= length:
        raise SettingsError(
            f"an edge-on disc of scale height {height:g} and scale length {length:g}",
            "give 4) h_s and 5) R_s > 0.52 h_s",
        )
    re = length / _radius("edge_on_disc", {}, "scale_length")
    return {"re": re, "q": _THICKNESS * height / length}


def _edge_lines(values: Values) -> Lines:
    length = values["re"] * _radius("edge_on_disc", {}, "scale_length")
    return {4: values["q"] * length / _THICKNESS, 5: length}


def _edge_surface(values: Values) -> float:
    """Central brightness of unit flux: the integral is 2 pi R_s h_s."""
    lines = _edge_lines(values)
    return 1 / (2 * math.pi * lines[4] * lines[5])


_MAGNITUDE, _CENTRE = "integrated magnitude", "central surface brightness [mag/arcsec^2]"
_BREAK = "mu(R_b) [mag/arcsec^2]"

FUNCTIONS: tuple[Function, ...] = (
    Function("sersic", "sersic", {3: _MAGNITUDE, 4: "R_e [pix]", 5: "n"}, {5: "n"}),
    Function("devauc", "devaucouleurs", {3: _MAGNITUDE, 4: "R_e [pix]"}),
    Function(
        "expdisk",
        "exponential",
        {3: _MAGNITUDE, 4: "R_s (scale length) [pix]"},
        radius="scale_length",
    ),
    Function("gaussian", "gaussian", {3: _MAGNITUDE, 4: "FWHM [pix]"}, radius="fwhm"),
    Function(
        "moffat",
        "moffat",
        {3: _MAGNITUDE, 4: "FWHM [pix]", 5: "power law"},
        {5: "beta"},
        radius="fwhm",
    ),
    Function("psf", "point", {3: _MAGNITUDE}),
    Function(
        "nuker",
        "nuker",
        {3: _BREAK, 4: "R_b [pix]", 5: "alpha", 6: "beta", 7: "gamma"},
        {5: "alpha", 6: "beta", 7: "gamma"},
        radius="break",
        surface=lambda values: 1.0,
    ),
    Function(
        "ferrer",
        "ferrer",
        {3: _CENTRE, 4: "outer truncation radius [pix]", 5: "alpha", 6: "beta"},
        {5: "alpha", 6: "beta"},
        radius="truncation",
        surface=lambda values: 0.0,
    ),
    Function(
        "king",
        "king",
        {3: _CENTRE, 4: "R_c [pix]", 5: "R_t [pix]", 6: "alpha"},
        {6: "alpha"},
        surface=lambda values: 0.0,
        read=_king_values,
        write=_king_lines,
    ),
    Function(
        "edgedisk",
        "edge_on_disc",
        {3: _CENTRE, 4: "h_s (scale height) [pix]", 5: "R_s (scale length) [pix]"},
        surface=_edge_surface,
        read=_edge_values,
        write=_edge_lines,
    ),
    Function(
        "corser",
        "core_sersic",
        {3: _BREAK, 4: "R_b [pix]", 5: "alpha", 6: "gamma", 7: "R_e [pix]", 8: "n"},
        {5: "alpha", 6: "gamma", 8: "n"},
        surface=lambda values: values["rb"],
        read=_core_values,
        write=_core_lines,
    ),
)
"""All that is known; the sky is read apart."""


def function_of(name: str) -> Function:
    """GALFIT's function of a name.

    Raises
    ------
    SettingsError
    """
    by_name = {function.name: function for function in FUNCTIONS}
    if name.lower() not in by_name:
        raise SettingsError(
            f"the GALFIT function {name!r} is not understood",
            f"use one of {', '.join(by_name)}, sky",
        )
    return by_name[name.lower()]
