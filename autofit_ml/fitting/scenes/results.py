"""What the fit of a scene hands on, object by object."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autofit_ml.fitting.scenes.problem import SceneProblem
from autofit_ml.scenes.layout import Layout

__all__ = ["SceneFit", "SceneSettings"]

from autofit_ml.fitting.scenes.likelihoods import Likelihood
from autofit_ml.fitting.settings import RefineSettings


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are fitted.

    Attributes
    ----------
    refine : RefineSettings
        Accuracy, steps, correlated noise, device.
    likelihood : Likelihood
    error_floor : float
        Error of the model in units of the model itself, added to sigma in quadrature: keeps the
        bright core of an object that no model fits from deciding everything. 0: none.
    neighbours : {"fit", "mask"}
        Contaminants that overlap with the target are fitted with it, or masked like the others.
    max_neighbours : int
        At most so many are fitted.
    keep : bool
        Keep each object's problem, for samplers.
    """

    refine: RefineSettings = field(default_factory=RefineSettings)
    likelihood: Likelihood = field(default_factory=Likelihood)
    error_floor: float = 0.0
    neighbours: str = "fit"
    max_neighbours: int = 6
    keep: bool = False


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
        error of what is fixed or sits on a bound is NaN.
    cov : ndarray, float64, (V, V)
    start : ndarray, float64, (V,)
        Of the start that won.
    layout : Layout or None
        None where nothing was fitted.
    theta, theta_cov : ndarray, float64, (D,), (D, D)
        In the refiner's own parameters, ``layout.names``; skies in units of the pixel noise.
    flux_total, flux_total_err : ndarray, float64, (images,)
        All components of the target together.
    fraction, fraction_err : float
        Share of the first component in the first image (B/T for a bulge and a disc).
    flux_stamp, flux_stamp_err : ndarray, float64, (components of the target,)
        Light inside the first image.
    chi2, logl, bic : float
    ndof, n_pix, n_iter, n_starts : int
    snr : float
        Of the target in all images together.
    blended : float
        Neighbours' light over the target's inside its half-light ellipse, from the fit.
    noise_correlation : float
        Of the first image.
    flags : int
    at_bound : tuple of str
    neighbours : int
    components : list or None
        For each image a dict component -> image, float32, image units, and "sky"; when asked for.
    problem : SceneProblem or None
        Of this object alone, when asked for.
    limits : ndarray, float64, (2, D), or None
        Lower and upper bounds of theta; equal where it was held.
    message : str
    """

    names: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    cov: np.ndarray
    start: np.ndarray
    layout: Layout | None
    theta: np.ndarray
    theta_cov: np.ndarray
    flux_total: np.ndarray
    flux_total_err: np.ndarray
    fraction: float
    fraction_err: float
    chi2: float
    logl: float
    bic: float
    ndof: int
    n_pix: int
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

    def __getitem__(self, name: str) -> float:
        """Value of a catalogue parameter, e.g. ``fit["bulge.re"]``."""
        return float(self.values[self.names.index(name)])

    def error(self, name: str) -> float:
        """1-sigma error of a catalogue parameter."""
        return float(self.errors[self.names.index(name)])

    @property
    def n_fitted(self) -> int:
        """Fitted parameters, neighbours and skies included."""
        return self.n_pix - self.ndof
