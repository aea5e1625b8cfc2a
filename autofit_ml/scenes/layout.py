r"""From a scene to the vector that is fitted, and back.

A scene has components with catalogue parameters that are free, fixed or tied; several images
(bands, epochs) may share some of them. The refiner wants one vector :math:`\theta` of free numbers
per object. `Layout` is the map between them:

.. math:: \theta \;\to\; \text{coordinates of each component in each image}\;\to\;
          \text{fit parameters that the renderer takes.}

The coordinates are the renderer's own (x, y, ln flux, ln rc, shapes, eta1, eta2) wherever a
component's size and shape are plainly free; then everything is linear in theta. Where re, q or pa
are fixed, tied or bounded one by one the coordinates of that component are ln re and (ln q, pa)
instead, and derivatives come from automatic differentiation of this small map.

A polynomial in wavelength is a Chebyshev series in the coordinate (GALFITM's way: Häussler et al.
2013, MNRAS 430, 330), its abscissa running from -1 to 1 over the bands' wavelengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.profiles import Profile
from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.model import Component, Parameter, Scene

__all__ = ["Layout", "Span", "band_abscissa", "make_layout"]

_LN_FLUX = (math.log(1e-3), math.log(1e12))
"""Range of the logarithm of a flux over the noise of a pixel."""

_MAX_STEP = {"x": 2.0, "y": 2.0, "flux": 1.5, "re": 1.0, "q": 0.7, "pa": 0.7}
"""Largest change of a coordinate in one step; shapes that are fitted as logarithms: 0.7."""

_TINY = 1e-24


@dataclass(frozen=True)
class Span:
    """Where a component's parameters lie in the vector of an image.

    Attributes
    ----------
    component : Component
    first : int
        Index of its first parameter among the fit parameters of all components.
    size, shape : str
        Coordinates: "ln_rc" or "ln_re"; "eta" or "polar" (ln q and pa in radians).
    """

    component: Component
    first: int
    size: str
    shape: str

    @property
    def slice(self) -> slice:
        """Of its parameters."""
        return slice(self.first, self.first + len(self.component.profile.parameters))

    def index(self, parameter: str) -> int:
        """Place of a catalogue parameter."""
        return self.first + self.component.profile.parameters.index(parameter)


@dataclass(frozen=True)
class _Free:
    """One number of theta: which coordinate it belongs to, and its limits."""

    name: str
    coordinate: int
    image: int | None  # of a coordinate that is free in each band: the first image of it
    order: int  # of a polynomial; 0 otherwise
    lower: float
    upper: float
    step: float


@dataclass(frozen=True)
class Layout:
    """How theta makes the parameters of all images.

    Attributes
    ----------
    scene : Scene
        Neighbours included.
    bands : tuple of str
        Band of each image.
    spans : tuple of Span
    free : tuple
        What each number of theta is; the images' skies and the PSF's parameters follow.
    sky : "free", "tilted" or float
        Of every image.
    n_psf : tuple of int
        Parameters of each image's PSF that are fitted along.
    """

    scene: Scene
    bands: tuple[str, ...]
    spans: tuple[Span, ...]
    free: tuple[_Free, ...]
    matrices: torch.Tensor  # (images, F, D0)
    constant: torch.Tensor  # (F,) bool: coordinates that keep their starting value
    sky: str | float = "free"
    n_psf: tuple[int, ...] = ()

    @property
    def n_images(self) -> int:
        """Images of one object."""
        return len(self.bands)

    @property
    def n_full(self) -> int:
        """Fit parameters of all components in one image."""
        return self.matrices.shape[1]

    @property
    def n_shape(self) -> int:
        """Numbers of theta that belong to components."""
        return len(self.free)

    @property
    def sky_terms(self) -> int:
        """Background terms of one image that are fitted: 0, 1 or 3."""
        return {"free": 1, "tilted": 3}.get(str(self.sky), 0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each number of theta."""
        names = [item.name for item in self.free]
        terms = ("sky", "sky_dx", "sky_dy")[: self.sky_terms]
        for i in range(self.n_images):
            names += [_named(term, self._label(i), self.n_images > 1) for term in terms]
        for i, count in enumerate(self.n_psf):
            names += [
                _named(f"psf_{k + 1}", self._label(i), self.n_images > 1) for k in range(count)
            ]
        return tuple(names)

    @property
    def size(self) -> int:
        """Length of theta."""
        return len(self.names)

    def sky_slice(self, image: int) -> slice:
        """Where the background of an image is in theta."""
        first = self.n_shape + image * self.sky_terms
        return slice(first, first + self.sky_terms)

    def psf_slice(self, image: int) -> slice:
        """Where the PSF's parameters of an image are in theta."""
        first = self.n_shape + self.n_images * self.sky_terms + sum(self.n_psf[:image])
        return slice(first, first + (self.n_psf[image] if self.n_psf else 0))

    def only_in(self, image: int) -> list[int]:
        """Numbers of theta that matter in one image alone."""
        out = []
        for j in range(self.n_shape):
            touched = self.matrices[:, :, j].abs().sum(1) > 0
            if bool(touched[image]) and int(touched.sum()) == 1:
                out.append(j)
        own = (self.sky_slice(image), self.psf_slice(image))
        return out + [j for part in own for j in range(part.start, part.stop)]

    def images_of(self, span: Span, parameter: str) -> tuple[int, ...]:
        """Images in which a parameter may have a value of its own, the first of each."""
        index = span.index(parameter)
        rows = self.matrices[:, index]
        if bool((rows == rows[0]).all()) and self._tied_to_shared(span, parameter):
            return (0,)
        out: list[int] = []
        for i in range(self.n_images):
            same = [
                k
                for k in out
                if bool((rows[k] == rows[i]).all()) and self.bands[k] == self.bands[i]
            ]
            if not same:
                out.append(i)
        return tuple(out)

    def _tied_to_shared(self, span: Span, parameter: str) -> bool:
        """Whether a tie (if there is one) holds no value that differs from image to image."""
        text = f"{span.component.name}.{parameter}"
        for other, name, expression in self._expressions:
            if f"{other.component.name}.{name}" != text:
                continue
            for source in expression.names:
                component, _, of = source.rpartition(".")
                theirs = next(s for s in self.spans if s.component.name == component)
                if len(self.images_of(theirs, of)) > 1:
                    return False
        return True

    def own_fluxes(self, image: int) -> list[tuple[int, int]]:
        """(span, number of theta) of fluxes that are free and first measured in an image."""
        out = []
        for k, span in enumerate(self.spans):
            index = span.index("flux")
            columns = [j for j, item in enumerate(self.free) if item.coordinate == index]
            mine = [
                j for j in columns if self.free[j].order == 0 and (self.free[j].image or 0) == image
            ]
            if len(mine) == 1:
                out.append((k, mine[0]))
        return out

    @cached_property
    def profiles(self) -> tuple[tuple[Profile, tuple[int, ...]], ...]:
        """Each profile, and the components (places in `spans`) that have it."""
        found: dict[Profile, list[int]] = {}
        for k, span in enumerate(self.spans):
            found.setdefault(span.component.profile, []).append(k)
        return tuple((profile, tuple(members)) for profile, members in found.items())

    def _label(self, image: int) -> str:
        same = [i for i, band in enumerate(self.bands) if band == self.bands[image]]
        band = self.bands[image]
        return band if len(same) == 1 else f"{band}{same.index(image) + 1}"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A name for each image: its band, numbered where several have the same."""
        return tuple(self._label(i) for i in range(self.n_images))

    @cached_property
    def linear(self) -> bool:
        """Whether the fit parameters are linear in theta."""
        plain = all(s.size == "ln_rc" and s.shape == "eta" for s in self.spans if _extended(s))
        return plain and not self._expressions

    @cached_property
    def _expressions(self) -> tuple:
        """Ties that are more than a link: (span, parameter, expression)."""
        spans = {span.component.name: span for span in self.spans}
        out = []
        for target, expression in self.scene.ties:
            name, _, parameter = target.rpartition(".")
            if _link(spans, name, parameter) is None:
                out.append((spans[name], parameter, expression))
        return tuple(out)

    # -------------------------------------------------------------- theta -> parameters

    def parameters(
        self, theta: torch.Tensor, base: torch.Tensor, image: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit parameters of an image and their derivatives.

        Parameters
        ----------
        theta : Tensor, float64, (A, D)
        base : Tensor, float64, (A, images, F)
            Starting coordinates (`start`); what is not free keeps them.
        image : int

        Returns
        -------
        full : Tensor, float64, (A, F)
        jacobian : Tensor, float64, (A, F, D0) or (1, F, D0)
            By the numbers of theta that belong to components.
        """
        matrix = self.matrices[image].to(theta.device)
        shape = theta[:, : self.n_shape]
        fixed = base[:, image] * self.constant.to(theta)
        if self.linear:
            return fixed + _mapped(shape, matrix), matrix[None]
        function = _Forward(self, matrix)
        full = function(shape, fixed)
        return full, row_jacobian(function, shape, fixed)

    def catalogue(self, coordinates: torch.Tensor) -> dict[str, torch.Tensor]:
        """Catalogue values "component.parameter" -> (...,) from coordinates (..., F)."""
        out: dict[str, torch.Tensor] = {}
        for span in self.spans:
            out.update(_catalogue_of(span, coordinates))
        return out

    def coordinates(self, theta: torch.Tensor, base: torch.Tensor, image: int) -> torch.Tensor:
        """Coordinates of an image, ties resolved, (..., F)."""
        matrix = self.matrices[image].to(theta.device)
        fixed = base[..., image, :] * self.constant.to(theta)
        return _Forward(self, matrix).coordinates(theta[..., : self.n_shape], fixed)

    def values(
        self, theta: torch.Tensor, base: torch.Tensor, image: int
    ) -> dict[str, torch.Tensor]:
        """Catalogue values in an image (positions in the frame of the first)."""
        return self.catalogue(self.coordinates(theta, base, image))

    # -------------------------------------------------------------- starts and limits

    def start(
        self, values: Sequence[Mapping[str, np.ndarray]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Starting theta (of the components) and coordinates.

        Parameters
        ----------
        values : sequence, one for each image
            "component.parameter" -> (B,) catalogue values.

        Returns
        -------
        theta : Tensor, float64, (B, n_shape)
        base : Tensor, float64, (B, images, F)
        """
        base = torch.stack([self._encode(item) for item in values], dim=1)
        columns = []
        for item in self.free:
            if item.order:
                columns.append(torch.zeros_like(base[:, 0, 0]))
            elif item.image is None:
                columns.append(base[:, 0, item.coordinate])
            else:
                columns.append(base[:, item.image, item.coordinate])
        theta = torch.stack(columns, 1) if columns else base.new_zeros((len(base), 0))
        return theta, base

    def _encode(self, values: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Coordinates from catalogue values, (B, F)."""
        columns: list[torch.Tensor] = []
        for span in self.spans:
            profile = span.component.profile
            got = {
                name: torch.as_tensor(
                    np.asarray(values[f"{span.component.name}.{name}"], dtype=np.float64)
                )
                for name in profile.parameters
            }
            logs = {shape.name for shape in profile.shapes if shape.log}
            ln_q = got["q"].clamp(1e-3, 1.0).log() if "q" in got else None
            for name in profile.parameters:
                value = got[name]
                if name == "flux" or name in logs:
                    columns.append(value.log())
                elif name == "re" and ln_q is not None:
                    columns.append(value.log() + (ln_q / 2 if span.size == "ln_rc" else 0.0))
                elif name in ("q", "pa") and ln_q is not None:
                    angle = torch.deg2rad(got["pa"])
                    if span.shape == "polar":
                        columns.append(ln_q if name == "q" else angle)
                    else:
                        twice = 2 * angle + math.pi
                        columns.append(-ln_q * (twice.cos() if name == "q" else twice.sin()))
                else:
                    columns.append(value)
        return torch.stack(columns, 1)

    def limits(self, shapes: np.ndarray, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds of theta (components only), (B, n_shape) each.

        Parameters
        ----------
        shapes : ndarray, (B, 2)
            ny, nx of the first image.
        scale : Tensor, float64, (B,)
            Typical noise of a pixel, image units.
        """
        b = len(shapes)
        lower = torch.tensor([item.lower for item in self.free], dtype=torch.float64)
        upper = torch.tensor([item.upper for item in self.free], dtype=torch.float64)
        lower, upper = lower.expand(b, -1).clone(), upper.expand(b, -1).clone()
        size = torch.as_tensor(np.asarray(shapes), dtype=torch.float64)
        bounds = self.scene.bounds
        for j, item in enumerate(self.free):
            if item.order:
                continue
            name = item.name.rpartition(".")[2].partition("[")[0]
            if name in ("x", "y"):
                lower[:, j] = lower[:, j].clamp_min(-0.5)
                upper[:, j] = torch.minimum(upper[:, j], size[:, 1 if name == "x" else 0] - 0.5)
            elif name == "ln_flux":
                lower[:, j] = torch.maximum(lower[:, j], _LN_FLUX[0] + scale.log())
                upper[:, j] = torch.minimum(upper[:, j], _LN_FLUX[1] + scale.log())
            elif name in ("ln_rc", "ln_re"):
                largest = (bounds.re_max_stamps * size.amax(1)).log()
                upper[:, j] = torch.minimum(upper[:, j], largest)
        return lower, upper

    @property
    def max_step(self) -> torch.Tensor:
        """Largest change of each number of theta in one step, (D,)."""
        steps = [item.step for item in self.free]
        return torch.tensor(steps + [math.inf] * (self.size - len(steps)), dtype=torch.float64)


class _Forward:
    """theta -> fit parameters of one image, for one object or a batch of them."""

    def __init__(self, layout: Layout, matrix: torch.Tensor) -> None:
        self.layout, self.matrix = layout, matrix

    def coordinates(self, shape: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Coordinates (..., F), ties resolved."""
        out = fixed + _mapped(shape, self.matrix)
        if not self.layout._expressions:
            return out
        columns = list(out.unbind(-1))
        for span, parameter, expression in self.layout._expressions:
            values: dict[str, torch.Tensor] = {}
            stacked = torch.stack(columns, -1)
            for other in self.layout.spans:
                if any(name.startswith(other.component.name + ".") for name in expression.names):
                    values.update(_catalogue_of(other, stacked))
            value = torch.as_tensor(expression(values), dtype=out.dtype)
            value = value.expand(out.shape[:-1])
            columns[span.index(parameter)] = _to_coordinate(span, parameter, value)
        return torch.stack(columns, -1)

    def __call__(self, shape: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        columns = list(self.coordinates(shape, fixed).unbind(-1))
        for span in self.layout.spans:
            if not _extended(span):
                continue
            i, j, k = (span.index(name) for name in ("re", "q", "pa"))
            if span.shape == "polar":
                ln_q, twice = columns[j], 2 * columns[k] + math.pi
                if span.size == "ln_re":
                    columns[i] = columns[i] + ln_q / 2
                columns[j], columns[k] = -ln_q * twice.cos(), -ln_q * twice.sin()
            elif span.size == "ln_re":
                columns[i] = columns[i] - _length(columns[j], columns[k]) / 2
        return torch.stack(columns, -1)


def _mapped(shape: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """matrix (F, D) times each row of shape (..., D).

    Row by row: a matrix product's last digits would depend on how many objects share it.
    """
    return (shape[..., None, :] * matrix).sum(-1)


def _length(eta1: torch.Tensor, eta2: torch.Tensor) -> torch.Tensor:
    return (eta1.square() + eta2.square() + _TINY).sqrt()


def _extended(span: Span) -> bool:
    return "q" in span.component.profile.parameters


def _catalogue_of(span: Span, coordinates: torch.Tensor) -> dict[str, torch.Tensor]:
    """Catalogue values of one component."""
    profile, name = span.component.profile, span.component.name
    logs = {shape.name for shape in profile.shapes if shape.log}
    out = {}
    at = {p: coordinates[..., span.index(p)] for p in profile.parameters}
    if _extended(span):
        if span.shape == "polar":
            ln_q, angle = at["q"], at["pa"]
        else:
            ln_q = -_length(at["q"], at["pa"])
            angle = torch.atan2(at["pa"], at["q"]) / 2 - math.pi / 2
        out[f"{name}.q"] = ln_q.exp()
        out[f"{name}.pa"] = torch.rad2deg(angle) % 180.0
        out[f"{name}.re"] = (at["re"] - (ln_q / 2 if span.size == "ln_rc" else 0.0)).exp()
    for parameter in profile.parameters:
        key = f"{name}.{parameter}"
        if key not in out:
            value = at[parameter]
            out[key] = value.exp() if parameter == "flux" or parameter in logs else value
    return {f"{name}.{parameter}": out[f"{name}.{parameter}"] for parameter in profile.parameters}


def _to_coordinate(span: Span, parameter: str, value: torch.Tensor) -> torch.Tensor:
    """A catalogue value as the coordinate of a tied parameter."""
    logs = {shape.name for shape in span.component.profile.shapes if shape.log}
    if parameter in ("flux", "re", "q") or parameter in logs:
        return value.clamp_min(1e-30).log()
    return torch.deg2rad(value) if parameter == "pa" else value


# ------------------------------------------------------------------------ making one


def make_layout(
    scene: Scene,
    bands: Sequence[str] = ("",),
    wavelengths: Sequence[float] | None = None,
    n_psf: Sequence[int] = (),
) -> Layout:
    """Lay out the free numbers of a scene over some images.

    Parameters
    ----------
    scene : Scene
    bands : sequence of str
        Band of each image; images of the same band share all that is shared within a band.
    wavelengths : sequence of float, optional
        Of each image, for polynomials; any unit.
    n_psf : sequence of int
        Parameters of each image's PSF that are fitted.

    Raises
    ------
    SettingsError
        A polynomial of higher degree than there are bands, or without wavelengths.
    """
    spans: list[Span] = []
    first = 0
    for component in scene.components:
        size, shape = _systems(component)
        spans.append(Span(component, first, size, shape))
        first += len(component.profile.parameters)
    by_name = {span.component.name: span for span in spans}
    abscissa = band_abscissa(bands, wavelengths)
    free: list[_Free] = []
    rows: dict[int, list[tuple[int, list[float]]]] = {}
    links: dict[int, int] = {}
    constant = torch.zeros(first, dtype=torch.bool)
    for span in spans:
        for name in span.component.profile.parameters:
            index, parameter = span.index(name), span.component.parameters[name]
            if parameter.fixed or (name == "pa" and _held_round(span.component)):
                constant[index] = True
            elif parameter.tie:
                source = _link(by_name, span.component.name, name)
                if source is not None:
                    links[index] = source
            else:
                _add_free(free, rows, span, name, scene, bands, abscissa)
    matrices = torch.zeros((len(bands), first, len(free)), dtype=torch.float64)
    for index, entries in rows.items():
        for column, weights in entries:
            matrices[:, index, column] = torch.tensor(weights, dtype=torch.float64)
    for index, source in _resolved(links).items():
        matrices[:, index] = matrices[:, source]
    sky: str | float = scene.sky
    if sky == "fixed":
        sky = 0.0
    return Layout(
        scene, tuple(bands), tuple(spans), tuple(free), matrices, constant, sky, tuple(n_psf)
    )


def _systems(component: Component) -> tuple[str, str]:
    """Coordinates of size and shape that suit what is asked of them."""
    p = component.parameters
    if "q" not in p:
        return "ln_rc", "eta"
    together = _plain(p["q"]) and _plain(p["pa"]) and p["q"].bands == p["pa"].bands
    both_fixed = p["q"].fixed and p["pa"].fixed
    if not together and not both_fixed:
        return "ln_re", "polar"
    plain_size = _plain(p["re"]) or (both_fixed and p["re"].fixed)
    return ("ln_rc" if plain_size else "ln_re"), "eta"


def _held_round(component: Component) -> bool:
    """Whether q is held at 1, where no direction means anything."""
    q = component.parameters["q"]
    return q.fixed and q.value is not None and q.value > 0.9995


def _plain(parameter: Parameter) -> bool:
    """Free, within the usual bounds."""
    limited = parameter.prior is not None and parameter.prior.gaussian is None
    free = not parameter.fixed and not parameter.tie
    return free and parameter.bounds == (None, None) and not limited


def _link(spans: Mapping[str, Span], name: str, parameter: str) -> int | None:
    """Coordinate that a tied one simply copies; None where the tie is more than that."""
    text = spans[name].component.parameters[parameter].tie.strip()
    source, dot, other = text.rpartition(".")
    if not dot or other != parameter or source not in spans:
        return None
    mine, theirs = spans[name], spans[source]
    if parameter not in theirs.component.profile.parameters:
        return None
    if parameter in ("q", "pa") and mine.shape != theirs.shape:
        return None
    if parameter == "re" and mine.size != theirs.size:
        return None
    of_source = theirs.component.parameters[parameter]
    if of_source.fixed or (of_source.tie and _link(spans, source, parameter) is None):
        return None
    return theirs.index(parameter)


def _resolved(links: Mapping[int, int]) -> dict[int, int]:
    """Links of links followed to their ends, sources first."""
    out = {}
    for index, source in links.items():
        while source in links:
            source = links[source]
        out[index] = source
    return out


def band_abscissa(bands: Sequence[str], wavelengths: Sequence[float] | None) -> np.ndarray:
    """Wavelengths from -1 to 1; band numbers where none are given."""
    if wavelengths is None:
        distinct = list(dict.fromkeys(bands))
        values = np.array([distinct.index(band) for band in bands], dtype=np.float64)
    else:
        values = np.asarray(wavelengths, dtype=np.float64)
    low, high = values.min(), values.max()
    return np.zeros_like(values) if high == low else 2 * (values - low) / (high - low) - 1


def _add_free(
    free: list[_Free],
    rows: dict[int, list[tuple[int, list[float]]]],
    span: Span,
    name: str,
    scene: Scene,
    bands: Sequence[str],
    abscissa: np.ndarray,
) -> None:
    """The numbers of theta of one free parameter."""
    index = span.index(name)
    rule = scene.bands(f"{span.component.name}.{name}")
    coordinate = _coordinate_name(span, name)
    lower, upper, step = _range(scene, span, name)
    label = f"{span.component.name}.{coordinate}"
    several = len(bands) > 1

    def add(name: str, weights: list[float], image: int | None, order: int = 0) -> None:
        low, high = (lower, upper) if order == 0 else (-math.inf, math.inf)
        rows.setdefault(index, []).append((len(free), weights))
        free.append(_Free(name, index, image, order, low, high, step))

    distinct = list(dict.fromkeys(bands))
    if not several or rule == "shared":
        add(label, [1.0] * len(bands), None)
    elif rule == "free":
        for band in distinct:
            add(f"{label}[{band}]", [float(b == band) for b in bands], list(bands).index(band))
    elif rule == "epochs":
        for i in range(len(bands)):
            add(f"{label}[{i + 1}]", [float(k == i) for k in range(len(bands))], i)
    else:
        degree = int(rule)
        if degree >= len(distinct):
            raise SettingsError(
                f"{span.component.name}.{name}: a polynomial of degree {degree} over "
                f"{len(distinct)} bands",
                "use a lower degree, or bands: free",
            )
        for k in range(degree + 1):
            series = np.polynomial.chebyshev.chebval(abscissa, [0.0] * k + [1.0])
            add(f"{label}[{k}]", [float(v) for v in series], None, k)


def _coordinate_name(span: Span, name: str) -> str:
    """Name of the coordinate of a catalogue parameter."""
    if name == "re":
        return span.size
    if name in ("q", "pa"):
        if span.shape == "polar":
            return {"q": "ln_q", "pa": "pa"}[name]
        return {"q": "eta1", "pa": "eta2"}[name]
    logs = {shape.name for shape in span.component.profile.shapes if shape.log}
    return f"ln_{name}" if name == "flux" or name in logs else name


def _range(scene: Scene, span: Span, name: str) -> tuple[float, float, float]:
    """Lower and upper bound of a coordinate and its largest step."""
    low, high = scene.range(f"{span.component.name}.{name}")
    step, bounds = _MAX_STEP.get(name, 0.7), scene.bounds
    shapes = {shape.name: shape for shape in span.component.profile.shapes}
    if name in shapes:
        if shapes[name].log:
            return math.log(max(low, 1e-30)), math.log(high), step
        wide = 0.2 * (high - low)
        return low, high, max(step, wide) if math.isfinite(wide) else step
    if name in ("x", "y"):
        return low, high, step
    if name == "flux":
        return (math.log(low) if low > 0 else -math.inf), math.log(high), step
    if name == "re":
        return math.log(max(low, bounds.re_min)), math.log(high), step
    if span.shape == "polar":
        if name == "q":
            return math.log(max(low, bounds.q_min)), math.log(min(high, 1.0)), step
        if span.component.parameters["pa"].bounds == (None, None):
            return -math.inf, math.inf, step
        return math.radians(low), math.radians(high), step
    eta = -math.log(bounds.q_min)
    return -eta, eta, step


def _named(term: str, label: str, several: bool) -> str:
    return f"{term}[{label}]" if several else term
