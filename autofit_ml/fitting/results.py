"""Results of fits: one `SceneFit` for each object, `Fits` for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from autofit_ml.catalogue.flags import bound_names
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.scenes.layout import Layout
from autofit_ml.scenes.model import Component

__all__ = ["Fits", "SceneFit"]


@dataclass(frozen=True)
class SceneFit:
    """The fit of one object.

    Attributes
    ----------
    names : tuple of str
        "component.parameter" of every catalogue value, ``[band]`` after it where it differs from
        band to band; then the images' skies. Neighbours are components called ``neighbour_1`` ...
    values, errors : ndarray, float64, (V,)
        Catalogue units and conventions; positions in pixels of the first image. NaN: no fit; the
        error of what is fixed or sits on a bound is NaN. Errors are total: of the noise, and of
        the model's shortcomings (`autofit_ml.fitting.model_error`).
    cov : ndarray, float64, (V, V)
        Total, too.
    errors_stat, cov_stat : ndarray, float64, (V,), (V, V)
        Of the noise alone.
    start : ndarray, float64, (V,)
        Of the start that won.
    layout : Layout or None
        None where nothing was fitted.
    theta, theta_cov : ndarray, float64, (D,), (D, D)
        In the refiner's own parameters, ``layout.names``; skies in units of the pixel noise.
    theta_cov_stat : ndarray, float64, (D, D)
        Of the noise alone.
    re_total, re_total_err, q_total, q_total_err : ndarray, float64, (images,)
        Size and shape of all components of the target together; of length 0 until they were asked
        for (`autofit_ml.fitting.with_totals`).
    flux_stamp, flux_stamp_err : ndarray, float64, (components of the target,)
        Light inside the first image.
    chi2, logl, bic : float
    bic_point_source : float
        Of a point source in place of one Sérsic profile; NaN where it was out of the question.
    ndof, n_pix, n_iter, n_starts : int
    n_eff : float
        Pixels that tell of the target: the effective number (Kish 1965, Survey Sampling) of pixels
        that are weighted by the square of their S/N, (sum s^2)^2 / sum s^4.
    snr : float
        Of the target in all images together.
    blended : float
        Neighbours' light over the target's inside its half-light ellipse, from the fit.
    noise_correlation : float
        Of the first image.
    flags : int
    at_bound : tuple of str
    neighbours : int
        Fitted along.
    around : tuple of Neighbour
        Those, as their fits began.
    companions : tuple of Neighbour
        Compact residuals that look like further ones.
    pulls : ndarray, float64, (K, apertures)
        Of the residual inside of apertures on those K numbers of theta that are the target's
        (`autofit_ml.fitting.residual_apertures`).
    prior : str
        Of the target.
    prior_gaussian : (ndarray (D,), ndarray (D, D)) or None
        Mean and precision of theta's Gaussian prior.
    components : list or None
        For each image a dict component -> image, float32, image units, and "sky"; when asked for.
    problem : SceneProblem or None
        Of this object alone, when asked for.
    limits : ndarray, float64, (2, D), or None
        Lower and upper bounds of theta; equal where it was held.
    message : str
    posterior : ScenePosterior or None
        Samples, where they were asked for (`autofit_ml.posterior`).
    """

    names: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    cov: np.ndarray
    errors_stat: np.ndarray
    cov_stat: np.ndarray
    start: np.ndarray
    layout: Layout | None
    theta: np.ndarray
    theta_cov: np.ndarray
    theta_cov_stat: np.ndarray
    chi2: float
    logl: float
    bic: float
    ndof: int
    n_pix: int
    n_eff: float
    n_iter: int
    n_starts: int
    snr: float
    blended: float
    noise_correlation: float
    flags: int
    at_bound: tuple[str, ...]
    neighbours: int
    components: list[dict[str, np.ndarray]] | None = None
    problem: SceneProblem | None = None
    limits: np.ndarray | None = None
    message: str = ""
    flux_stamp: np.ndarray = field(default_factory=lambda: np.zeros(0))
    flux_stamp_err: np.ndarray = field(default_factory=lambda: np.zeros(0))
    bic_point_source: float = math.nan
    posterior: Any = None
    around: tuple[Neighbour, ...] = ()
    companions: tuple[Neighbour, ...] = ()
    prior: str = ""
    prior_gaussian: tuple[np.ndarray, np.ndarray] | None = None
    pulls: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    re_total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    re_total_err: np.ndarray = field(default_factory=lambda: np.zeros(0))
    q_total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    q_total_err: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def target(self) -> tuple[Component, ...]:
        """Components that are no neighbours; none without a fit."""
        if self.layout is None:
            return ()
        every = self.layout.scene.components
        return every[: len(every) - self.neighbours]

    @property
    def flux_total(self) -> np.ndarray:
        """Flux of all components of the target together, (images,)."""
        return self._fluxes[0].sum(1)

    @property
    def flux_total_err(self) -> np.ndarray:
        """1-sigma error of `flux_total`."""
        fluxes, cov = self._fluxes
        return _error(cov, np.ones_like(fluxes))

    @property
    def fractions(self) -> np.ndarray:
        """Share of the first component in `flux_total` (B/T of a bulge and a disc), (images,)."""
        return self._fluxes[0][:, 0] / self.flux_total

    @property
    def fractions_err(self) -> np.ndarray:
        """1-sigma error of `fractions`."""
        fluxes, cov = self._fluxes
        slope = np.repeat(-self.fractions[:, None], fluxes.shape[1], 1)
        slope[:, 0] += 1
        return _error(cov, slope / self.flux_total[:, None])

    @property
    def fraction(self) -> float:
        """`fractions` in the first image."""
        return float(self.fractions[0])

    @property
    def fraction_err(self) -> float:
        """1-sigma error of `fraction`."""
        return float(self.fractions_err[0])

    @property
    def _fluxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Fluxes of the target's components in each image (images, K), and covariances."""
        images = 0 if self.layout is None else self.layout.n_images
        if not images:
            return np.full((1, 1), np.nan), np.full((1, 1, 1), np.nan)
        places = np.array(
            [[self.place(f"{c.name}.flux", i) for c in self.target] for i in range(images)]
        )
        return self.values[places], self.cov[places[:, :, None], places[:, None, :]]

    def __getitem__(self, name: str) -> float:
        """Value of a catalogue parameter, e.g. ``fit["bulge.re"]``."""
        return float(self.values[self.names.index(name)])

    def error(self, name: str) -> float:
        """1-sigma error of a catalogue parameter: of noise and model."""
        return float(self.errors[self.names.index(name)])

    def error_stat(self, name: str) -> float:
        """1-sigma error of a catalogue parameter from the noise alone."""
        return float(self.errors_stat[self.names.index(name)])

    def place(self, name: str, image: int) -> int | None:
        """Place of a parameter among the values of an image; None if the model has no such."""
        layout = self.layout
        labels = () if layout is None else (layout.labels[image], layout.bands[image])
        for key in (name, *(f"{name}[{label}]" for label in labels)):
            if key in self.names:
                return self.names.index(key)
        return None

    def value_in(self, name: str, image: int) -> float:
        """Value of a catalogue parameter in an image; NaN if the model has no such."""
        place = self.place(name, image)
        return math.nan if place is None else float(self.values[place])

    @property
    def n_fitted(self) -> int:
        """Fitted parameters, neighbours and skies included."""
        return self.n_pix - self.ndof


def _error(cov: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Errors of linear functions (I, K) of numbers with covariances (I, K, K)."""
    variance = np.einsum("ij,ijk,ik->i", slope, cov, slope)
    return np.sqrt(np.where(variance > 0, variance, np.nan))


_STACKED = (
    "chi2", "logl", "bic", "bic_point_source", "ndof", "n_pix", "n_iter", "n_starts", "snr",
    "blended", "noise_correlation", "flags",
)  # fmt: skip


@dataclass(frozen=True)
class Fits(Sequence[SceneFit]):
    """Fits of B objects, in order; numbers of all of them as arrays.

    Besides the attributes: every number of `SceneFit` (``chi2``, ``flags``, ``snr`` ...) as an
    array (B,).

    Attributes
    ----------
    rows : tuple of SceneFit
    """

    rows: tuple[SceneFit, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> SceneFit: ...
    @overload
    def __getitem__(self, key: slice) -> Fits: ...
    def __getitem__(self, key: int | slice) -> SceneFit | Fits:
        return Fits(self.rows[key]) if isinstance(key, slice) else self.rows[key]

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in _STACKED:
            raise AttributeError(name)
        return np.array([getattr(row, name) for row in self.rows])

    @property
    def names(self) -> tuple[str, ...]:
        """Values that all fits have: the target's parameters and the skies."""
        common = [name for name in self.rows[0].names if not name.startswith("neighbour_")]
        return tuple(name for name in common if all(name in row.names for row in self.rows))

    @property
    def values(self) -> np.ndarray:
        """Catalogue values of the target, columns `names`, (B, V)."""
        return self._columns("values")

    @property
    def errors(self) -> np.ndarray:
        """1-sigma errors of `values`, noise and model, (B, V)."""
        return self._columns("errors")

    @property
    def errors_stat(self) -> np.ndarray:
        """1-sigma errors of `values` from the noise alone, (B, V)."""
        return self._columns("errors_stat")

    @property
    def start(self) -> np.ndarray:
        """Values at which the fits began, (B, V)."""
        return self._columns("start")

    @property
    def cov(self) -> np.ndarray:
        """Covariances of `values`, (B, V, V)."""
        places = self._places()
        return np.stack(
            [row.cov[np.ix_(at, at)] for row, at in zip(self.rows, places, strict=True)]
        )

    @property
    def at_bound(self) -> list[str]:
        """Comma-separated names of the parameters on their bounds."""
        return [",".join(bound_names(row.at_bound)) for row in self.rows]

    @property
    def models(self) -> list[np.ndarray]:
        """Light of the target in the first image, (ny, nx) each; needs ``components=True``."""
        out = []
        for row in self.rows:
            if row.components is None or row.layout is None:
                raise ValueError("fits without the images of their components: components=True")
            names = [span.component.name for span in row.layout.spans]
            target = names[: len(names) - row.neighbours]
            out.append(np.sum([row.components[0][name] for name in target], axis=0))
        return out

    @property
    def flux_stamp(self) -> np.ndarray:
        """Light of the target inside the stamp, image units, (B,)."""
        return np.array([row.flux_stamp.sum() for row in self.rows])

    def _places(self) -> list[list[int]]:
        names = self.names
        return [[row.names.index(name) for name in names] for row in self.rows]

    def _columns(self, attribute: str) -> np.ndarray:
        places = self._places()
        rows = zip(self.rows, places, strict=True)
        return np.stack([getattr(row, attribute)[at] for row, at in rows])
