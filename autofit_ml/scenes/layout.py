r"""Layout: from a scene to the vector that is fitted, and back.

A scene has components with catalogue parameters that are free, fixed or tied; several images
(bands, epochs) may share some of them. The refiner wants one vector :math:`\theta` of free numbers
per object. `Layout` is the map between them:

.. math:: \theta \;\to\; \text{coordinates of each component in each image}\;\to\;
          \text{fit parameters that the renderer takes.}

Where the coordinates (`autofit_ml.scenes.coordinates`) are the renderer's own parameters
everything is linear in theta; elsewhere derivatives come from automatic differentiation of this
small map.

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

from autofit_ml.profiles import Profile
from autofit_ml.scenes.coordinates import Span, spans_of
from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.expressions import Expression
from autofit_ml.scenes.free_numbers import FreeNumber, band_abscissa, free_numbers
from autofit_ml.scenes.model import Component, Scene

__all__ = ["Layout", "Span", "make_layout"]

_LN_FLUX = (math.log(1e-3), math.log(1e12))
"""Range of the logarithm of a flux over the noise of a pixel."""


@dataclass(frozen=True)
class Layout:
    """Map from theta to the parameters of all images.

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
    free: tuple[FreeNumber, ...]
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
    def labels(self) -> tuple[str, ...]:
        """A name for each image: its band, numbered where several have the same."""
        counts = [self.bands[: i + 1].count(band) for i, band in enumerate(self.bands)]
        several = [self.bands.count(band) > 1 for band in self.bands]
        return tuple(
            f"{band}{count}" if same else band
            for band, count, same in zip(self.bands, counts, several, strict=True)
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each number of theta."""
        skies = ("sky", "sky_dx", "sky_dy")[: self.sky_terms]
        own = [(term, label) for label in self.labels for term in skies]
        for label, count in zip(self.labels, self.n_psf, strict=False):
            own += [(f"psf_{k + 1}", label) for k in range(count)]
        several = self.n_images > 1
        names = [f"{term}[{label}]" if several else term for term, label in own]
        return (*(item.name for item in self.free), *names)

    @property
    def size(self) -> int:
        """Length of theta."""
        return len(self.names)

    def sky_slice(self, image: int) -> slice:
        """Slice of theta that holds the background of an image."""
        first = self.n_shape + image * self.sky_terms
        return slice(first, first + self.sky_terms)

    def psf_slice(self, image: int) -> slice:
        """Slice of theta that holds the PSF's parameters of an image."""
        first = self.n_shape + self.n_images * self.sky_terms + sum(self.n_psf[:image])
        return slice(first, first + (self.n_psf[image] if self.n_psf else 0))

    def only_in(self, image: int) -> list[int]:
        """Numbers of theta that matter in one image alone."""
        touched = self.matrices.abs().sum(1) > 0
        alone = touched[image] & (touched.sum(0) == 1)
        own = (self.sky_slice(image), self.psf_slice(image))
        return alone.nonzero().flatten().tolist() + [
            j for part in own for j in range(part.start, part.stop)
        ]

    def images_of(self, span: Span, parameter: str) -> tuple[int, ...]:
        """Images in which a parameter may have a value of its own, the first of each."""
        rows = self.matrices[:, span.index(parameter)]
        if bool((rows == rows[0]).all()) and self._tied_to_shared(span, parameter):
            return (0,)
        out: list[int] = []
        for i, (band, row) in enumerate(zip(self.bands, rows, strict=True)):
            if not any(self.bands[k] == band and bool((rows[k] == row).all()) for k in out):
                out.append(i)
        return tuple(out)

    def _tied_to_shared(self, span: Span, parameter: str) -> bool:
        """True if a tie (if there is one) holds no value that differs from image to image."""
        spans = {span.component.name: span for span in self.spans}
        sources = [
            source.rpartition(".")
            for other, name, expression in self._expressions
            if (other, name) == (span, parameter)
            for source in expression.names
        ]
        return all(len(self.images_of(spans[name], of)) == 1 for name, _, of in sources)

    def own_fluxes(self, image: int) -> list[tuple[int, int]]:
        """(span, number of theta) of fluxes that are free and first measured in an image."""
        out = []
        for k, span in enumerate(self.spans):
            mine = [
                j
                for j, item in enumerate(self.free)
                if item.coordinate == span.index("flux")
                and item.order == 0
                and (item.image or 0) == image
            ]
            if len(mine) == 1:
                out.append((k, mine[0]))
        return out

    @cached_property
    def alike(self) -> bool:
        """True if there are several images of one component, and they differ in flux and sky."""
        if self.n_images == 1 or len(self.spans) != 1 or self.n_psf or not self.linear:
            return False
        flux = self.spans[0].index("flux")
        free = [item for item in self.free if item.coordinate != flux]
        shared = all(item.image is None and not item.order for item in free)
        return shared and all(self.own_fluxes(i) for i in range(self.n_images))

    @cached_property
    def profiles(self) -> tuple[tuple[Profile, tuple[int, ...]], ...]:
        """Each profile, and the components (places in `spans`) that have it."""
        found: dict[Profile, list[int]] = {}
        for k, span in enumerate(self.spans):
            found.setdefault(span.component.profile, []).append(k)
        return tuple((profile, tuple(members)) for profile, members in found.items())

    @cached_property
    def linear(self) -> bool:
        """True if the fit parameters are linear in theta."""
        plain = all(s.size == "ln_rc" and s.shape == "eta" for s in self.spans if s.extended)
        return plain and not self._expressions

    @cached_property
    def _expressions(self) -> tuple[tuple[Span, str, Expression], ...]:
        """Ties that are more than a link."""
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
        shape, fixed = theta[:, : self.n_shape], base[:, image] * self.constant.to(theta)
        if self.linear:
            matrix = self.matrices[image].to(theta.device)
            return fixed + _mapped(shape, matrix), matrix[None]

        def function(shape: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
            columns = list(self._coordinates(shape, fixed, image).unbind(-1))
            for span in self.spans:
                span.to_fit_parameters(columns)
            return torch.stack(columns, -1)

        return function(shape, fixed), row_jacobian(function, shape, fixed)

    def values(
        self, theta: torch.Tensor, base: torch.Tensor, image: int
    ) -> dict[str, torch.Tensor]:
        """Catalogue values "component.parameter" -> (...,) in an image.

        Positions are in the frame of the first.
        """
        fixed = base[..., image, :] * self.constant.to(theta)
        coordinates = self._coordinates(theta[..., : self.n_shape], fixed, image)
        out: dict[str, torch.Tensor] = {}
        for span in self.spans:
            out |= span.catalogue(coordinates)
        return out

    def _coordinates(self, shape: torch.Tensor, fixed: torch.Tensor, image: int) -> torch.Tensor:
        """Coordinates (..., F), ties resolved."""
        out = fixed + _mapped(shape, self.matrices[image].to(shape.device))
        if not self._expressions:
            return out
        columns = list(out.unbind(-1))
        for span, parameter, expression in self._expressions:
            values: dict[str, torch.Tensor] = {}
            sources = {name.rpartition(".")[0] for name in expression.names}
            for other in self.spans:
                if other.component.name in sources:
                    values |= other.catalogue(torch.stack(columns, -1))
            value = torch.as_tensor(expression(values), dtype=out.dtype).expand(out.shape[:-1])
            columns[span.index(parameter)] = span.coordinate(parameter, value)
        return torch.stack(columns, -1)

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
        base = torch.stack(
            [
                torch.stack([c for span in self.spans for c in span.coordinates(item)], 1)
                for item in values
            ],
            dim=1,
        )
        theta = base.new_zeros((len(base), self.n_shape))
        for j, item in enumerate(self.free):
            if item.order == 0:
                theta[:, j] = base[:, item.image or 0, item.coordinate]
        return theta, base

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
        for j, item in enumerate(self.free):
            if item.order:
                continue
            if item.parameter in ("x", "y"):
                side = size[:, 1 if item.parameter == "x" else 0]
                lower[:, j] = lower[:, j].clamp_min(-0.5)
                upper[:, j] = torch.minimum(upper[:, j], side - 0.5)
            elif item.parameter == "flux":
                lower[:, j] = torch.maximum(lower[:, j], _LN_FLUX[0] + scale.log())
                upper[:, j] = torch.minimum(upper[:, j], _LN_FLUX[1] + scale.log())
            elif item.parameter == "re":
                largest = (self.scene.bounds.re_max_stamps * size.amax(1)).log()
                upper[:, j] = torch.minimum(upper[:, j], largest)
        return lower, upper

    @property
    def max_step(self) -> torch.Tensor:
        """Largest change of each number of theta in one step, (D,)."""
        steps = [item.step for item in self.free]
        return torch.tensor(steps + [math.inf] * (self.size - len(steps)), dtype=torch.float64)


def _mapped(shape: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """matrix (F, D) times each row of shape (..., D).

    Row by row: a matrix product's last digits would depend on how many objects share it.
    """
    return (shape[..., None, :] * matrix).sum(-1)


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
    spans = spans_of(scene)
    by_name = {span.component.name: span for span in spans}
    abscissa = band_abscissa(bands, wavelengths)
    free: list[FreeNumber] = []
    links: dict[int, int] = {}
    n_full = sum(len(span.parameters) for span in spans)
    constant = torch.zeros(n_full, dtype=torch.bool)
    for span in spans:
        for name, parameter in span.component.parameters.items():
            if parameter.fixed or (name == "pa" and _held_round(span.component)):
                constant[span.index(name)] = True
            elif parameter.free:
                free += free_numbers(scene, span, name, tuple(bands), abscissa)
            elif (source := _link(by_name, span.component.name, name)) is not None:
                links[span.index(name)] = source
    matrices = torch.zeros((len(bands), n_full, len(free)), dtype=torch.float64)
    for j, item in enumerate(free):
        matrices[:, item.coordinate, j] = torch.tensor(item.weights, dtype=torch.float64)
    for index, source in links.items():
        while source in links:
            source = links[source]
        matrices[:, index] = matrices[:, source]
    sky = 0.0 if scene.sky == "fixed" else scene.sky
    return Layout(scene, tuple(bands), spans, tuple(free), matrices, constant, sky, tuple(n_psf))


def _held_round(component: Component) -> bool:
    """True if q is held at 1, where no direction means anything."""
    q = component.parameters["q"]
    return q.fixed and q.value is not None and q.value > 0.9995


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
