r"""GALFIT's functions: the numbers in a file against our parameters.

In: the numbers of one object's lines, and `Photometry`. Out: catalogue values (flux, re, shapes,
q, pa), and back. Definitions: Peng et al. 2010, AJ 139, 2097, section 5 (and Peng et al. 2002, AJ
124, 266). Where GALFIT gives a surface brightness (mag/arcsec^2) instead of a total magnitude, the
flux follows from the profile's own brightness, integrated numerically.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.live import half_light, sample_light
from autofit_ml.profiles.registry import Profile, get_profile
from autofit_ml.profiles.tables import half_light_radius, live_table, profile_radii

__all__ = ["FUNCTIONS", "Function", "Photometry", "function_of"]

Lines = dict[int, float]
Values = dict[str, float]


@dataclass(frozen=True)
class Photometry:
    """What turns counts into magnitudes.

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
    shapes : mapping of int to str
        Shape parameters that are the same number in both, by line.
    radius : str
        What line 4 is, as `Profile.radii` calls it; "" for the half-light radius itself.
    surface : callable (shapes) -> float, optional
        Line 3 is the surface brightness at this radius (in the profile's natural unit of length);
        without it, line 3 is the total magnitude.
    labels : mapping of int to str
        Comments for lines 3 to 8.
    read, write : callable, optional
        Sizes where they are not just line 4: (lines) -> values with re and shapes; and back.
    """

    name: str
    profile: str
    shapes: Mapping[int, str] = field(default_factory=dict)
    radius: str = ""
    surface: Callable[[Values], float] | None = None
    labels: Mapping[int, str] = field(default_factory=dict)
    read: Callable[[Lines], Values] | None = None
    write: Callable[[Values], Lines] | None = None
    own_lines: tuple[int, ...] = ()

    @property
    def lines(self) -> tuple[int, ...]:
        """Lines between the position and the axis ratio that it uses."""
        if self.profile == "point":
            return (3,)
        return tuple(sorted({3, 4, *self.shapes, *self.own_lines}))

    @property
    def has_axis_ratio(self) -> bool:
        """Whether line 9 is used."""
        return self.profile not in ("point", "edge_on_disc")

    def parameter(self, line: int) -> str:
        """The parameter of ours that a line decides; "" if it is more than one."""
        common = {1: "x", 2: "y", 3: "flux", 9: "q", 10: "pa"}
        if line in common:
            return common[line]
        if self.read is not None and line not in self.shapes:
            return ""
        return self.shapes.get(line, "re" if line == 4 else "")

    def values(self, lines: Lines, photometry: Photometry) -> Values:
        """Catalogue values from lines 3 to 10."""
        if self.profile == "point":
            return {"flux": photometry.flux(lines[3])}
        profile = get_profile(self.profile)
        values: Values = {name: lines[line] for line, name in self.shapes.items()}
        if self.has_axis_ratio:
            values["q"] = lines[9]
        values["pa"] = lines[10]
        if self.read is not None:
            values.update(self.read(lines))
        else:
            values["re"] = lines[4] * self.size_factor(values)
        flux = photometry.flux(lines[3])
        if self.surface is not None:
            flux *= photometry.pixel_area / _surface_per_flux(self, profile, values)
        values["flux"] = flux
        return values

    def numbers(self, values: Values, photometry: Photometry) -> Lines:
        """Lines 3 to 10 from catalogue values."""
        if self.profile == "point":
            return {3: photometry.magnitude(values["flux"])}
        profile = get_profile(self.profile)
        lines: Lines = {line: values[name] for line, name in self.shapes.items()}
        if self.write is not None:
            lines.update(self.write(values))
        else:
            lines[4] = values["re"] / self.size_factor(values)
        flux = values["flux"]
        if self.surface is not None:
            flux *= _surface_per_flux(self, profile, values) / photometry.pixel_area
        lines[3] = photometry.magnitude(flux)
        if self.has_axis_ratio:
            lines[9] = values["q"]
        lines[10] = values["pa"]
        return lines

    def size_factor(self, values: Values) -> float:
        """re over line 4; of the start's shapes where it depends on them."""
        if not self.radius:
            return 1.0
        profile = get_profile(self.profile)
        shapes = [values.get(shape.name, shape.default) for shape in profile.shapes]
        return 1.0 / float(profile_radii(profile, shapes)[self.radius])

    @property
    def size_depends_on_shape(self) -> bool:
        """Whether `size_factor` is another for other shapes."""
        return bool(self.radius and get_profile(self.profile).shapes) or self.read is not None


def _surface_per_flux(function: Function, profile: Profile, values: Values) -> float:
    """Brightness per pixel of unit flux, where line 3 is given."""
    assert function.surface is not None
    if profile.name == "edge_on_disc":
        return function.surface(values)
    shapes = [float(values[shape.name]) for shape in profile.shapes]
    live = live_table(profile)
    fit = [math.log(s) if log else s for s, log in zip(shapes, live.log, strict=True)]
    table = torch.tensor([fit], dtype=torch.float64)
    total = (
        2 * math.pi * float(half_light(live.grid, *sample_light(*live_args(live, table))).integral)
    )
    radius = torch.tensor([function.surface(values)], dtype=torch.float64)
    assert profile.light is not None
    light = profile.light(radius, *(torch.tensor([s], dtype=torch.float64) for s in shapes))
    natural = float(half_light_radius(profile, shapes))
    return float(light) / total * natural**2 / (values["re"] ** 2 * values["q"])


def live_args(live, table: torch.Tensor) -> tuple:
    """Arguments of `sample_light`."""
    return (live.light, live.log, table, live.grid)


def _king_values(lines: Lines) -> Values:
    core, edge, alpha = lines[4], lines[5], lines[6]
    if not 0 < core < edge:
        raise SettingsError(
            f"a King profile with core {core:g} and edge {edge:g}", "give 4) Rc < 5) Rt"
        )
    profile = get_profile("king")
    values = {"alpha": alpha, "concentration": edge / core}
    values["re"] = edge / _radius(profile, values, "truncation")
    return values


def _king_lines(values: Values) -> Lines:
    edge = values["re"] * _radius(get_profile("king"), values, "truncation")
    return {4: edge / values["concentration"], 5: edge, 6: values["alpha"]}


def _core_values(lines: Lines) -> Values:
    values = {"n": lines[8], "rb": lines[4] / lines[7], "gamma": lines[6], "alpha": lines[5]}
    values["re"] = lines[7] / _radius(get_profile("core_sersic"), values, "outer_half_light")
    return values


def _core_lines(values: Values) -> Lines:
    outer = values["re"] * _radius(get_profile("core_sersic"), values, "outer_half_light")
    return {
        4: values["rb"] * outer,
        5: values["alpha"],
        6: values["gamma"],
        7: outer,
        8: values["n"],
    }


_THICKNESS = math.pi / 6
"""Axis ratio of an edge-on disc over scale height / scale length."""


def _edge_values(lines: Lines) -> Values:
    height, length = lines[4], lines[5]
    if not 0 < _THICKNESS * height <= length:
        raise SettingsError(
            f"an edge-on disc of scale height {height:g} and scale length {length:g}",
            "give 4) h_s and 5) R_s > 0.52 h_s",
        )
    return {
        "re": length / _radius(get_profile("edge_on_disc"), {}, "scale_length"),
        "q": _THICKNESS * height / length,
    }


def _edge_lines(values: Values) -> Lines:
    length = values["re"] * _radius(get_profile("edge_on_disc"), {}, "scale_length")
    return {4: values["q"] * length / _THICKNESS, 5: length}


def _edge_surface(values: Values) -> float:
    """Central brightness of unit flux: the integral is 2 pi R_s h_s."""
    lines = _edge_lines(values)
    return 1 / (2 * math.pi * lines[4] * lines[5])


def _radius(profile: Profile, values: Mapping[str, float], name: str) -> float:
    shapes = [np.float64(values[shape.name]) for shape in profile.shapes]
    return float(profile_radii(profile, shapes)[name])


_MAGNITUDE, _CENTRE = "integrated magnitude", "central surface brightness [mag/arcsec^2]"

FUNCTIONS: tuple[Function, ...] = (
    Function("sersic", "sersic", {5: "n"}, labels={3: _MAGNITUDE, 4: "R_e [pix]", 5: "n"}),
    Function("devauc", "devaucouleurs", labels={3: _MAGNITUDE, 4: "R_e [pix]"}),
    Function(
        "expdisk",
        "exponential",
        radius="scale_length",
        labels={3: _MAGNITUDE, 4: "R_s (scale length) [pix]"},
    ),
    Function("gaussian", "gaussian", radius="fwhm", labels={3: _MAGNITUDE, 4: "FWHM [pix]"}),
    Function(
        "moffat",
        "moffat",
        {5: "beta"},
        radius="fwhm",
        labels={3: _MAGNITUDE, 4: "FWHM [pix]", 5: "power law"},
    ),
    Function("psf", "point", labels={3: _MAGNITUDE}),
    Function(
        "nuker",
        "nuker",
        {5: "alpha", 6: "beta", 7: "gamma"},
        radius="break",
        surface=lambda values: 1.0,
        labels={3: "mu(R_b) [mag/arcsec^2]", 4: "R_b [pix]", 5: "alpha", 6: "beta", 7: "gamma"},
    ),
    Function(
        "ferrer",
        "ferrer",
        {5: "alpha", 6: "beta"},
        radius="truncation",
        surface=lambda values: 0.0,
        labels={3: _CENTRE, 4: "outer truncation radius [pix]", 5: "alpha", 6: "beta"},
    ),
    Function(
        "king",
        "king",
        {6: "alpha"},
        surface=lambda values: 0.0,
        labels={3: _CENTRE, 4: "R_c [pix]", 5: "R_t [pix]", 6: "alpha"},
        read=_king_values,
        write=_king_lines,
        own_lines=(5,),
    ),
    Function(
        "edgedisk",
        "edge_on_disc",
        surface=_edge_surface,
        labels={3: _CENTRE, 4: "h_s (scale height) [pix]", 5: "R_s (scale length) [pix]"},
        read=_edge_values,
        write=_edge_lines,
        own_lines=(5,),
    ),
    Function(
        "corser",
        "core_sersic",
        {5: "alpha", 6: "gamma", 8: "n"},
        surface=lambda values: values["rb"],
        labels={
            3: "mu(R_b) [mag/arcsec^2]",
            4: "R_b [pix]",
            5: "alpha",
            6: "gamma",
            7: "R_e [pix]",
            8: "n",
        },
        read=_core_values,
        write=_core_lines,
        own_lines=(7,),
    ),
)
"""All that is known; the sky is read apart."""


def function_of(name: str) -> Function:
    """GALFIT's function of a name.

    Raises
    ------
    SettingsError
    """
    for function in FUNCTIONS:
        if function.name == name.lower():
            return function
    known = ", ".join(function.name for function in FUNCTIONS)
    raise SettingsError(
        f"the GALFIT function {name!r} is not understood", f"use one of {known}, sky"
    )
