"""Settings of the refiner."""

from __future__ import annotations

from dataclasses import dataclass, field

from autofit_ml.fitting.levenberg_marquardt import LMSettings
from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.rendering import Accuracy
from autofit_ml.scenes.populations import Population

__all__ = ["RefineSettings"]


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the fit; the documentation's figures were measured with the defaults.

    Attributes
    ----------
    likelihood : Likelihood
    error_floor : float
        Error of the model in units of the model itself, added to sigma in quadrature: keeps the
        bright core of an object that no model fits from deciding everything. 0: none.
    neighbours : {"fit", "mask"}
        Contaminants that overlap with the target are fitted with it, or masked like the others.
    max_neighbours : int
        At most so many are fitted.
    companions : int
        Sources that the segmentation missed, found in the residual (`fitting.companions`): at most
        so many are fitted along.
    drop_neighbours : bool
        Fit again without the neighbours that turn out to have no significant light.
    prior : {"broad", "none", "network"} or Population
        What is known of galaxies before the fit (`autofit_ml.fitting.priors`).
    point_source : bool
        Compare single Sérsic profiles with a point source (POINT_SOURCE).
    keep : bool
        Keep each object's problem, for samplers.
    certain : float
        Objects whose start knows ln n better than this need no further starts.
    search, polish, final : LMSettings
        Of the coarse search over the starts, of the fit on binned images (iterations on blocks of
        2 x 2 pixels; on larger ones there are more), of the fit itself.
    coarse, compact, wide : Accuracy
        Of the renderer: `coarse` in the search; `wide` serves objects that are large for their
        stamp.
    compact_re : float
        Largest re, in units of the stamp's shorter side, that `compact` serves.
    correlated_lag : int
        Noise correlation is measured up to this lag, pixels.
    correlated_threshold : float
        Mean correlation of adjacent pixels above which errors are widened and flagged.
    model_error : bool
        Add what the model's shortcomings make of the errors (`autofit_ml.fitting.model_error`).
    weights : str
        Names or folders of weights for it; those of other tasks are passed over. Empty: the
        installed ones.
    batch_size : int
        Objects fitted together.
    device : str
    """

    likelihood: Likelihood = field(default_factory=Likelihood)
    error_floor: float = 0.0
    neighbours: str = "fit"
    max_neighbours: int = 6
    companions: int = 12
    drop_neighbours: bool = True
    prior: str | Population = "broad"
    point_source: bool = True
    keep: bool = False
    certain: float = 0.3
    search: LMSettings = field(default_factory=lambda: LMSettings(0.3, 12))
    polish: LMSettings = field(default_factory=lambda: LMSettings(0.1, 12, relative=1e-7))
    final: LMSettings = field(default_factory=lambda: LMSettings(1e-2, relative=1e-7))
    coarse: Accuracy = field(default_factory=lambda: Accuracy(1.2, 8.0, refinements=()))
    compact: Accuracy = field(
        default_factory=lambda: Accuracy(1.5, refinements=(2.0, 3.0), split=2.0, cutoff=1e-3)
    )
    wide: Accuracy = field(default_factory=Accuracy)
    compact_re: float = 0.16
    correlated_lag: int = 3
    correlated_threshold: float = 0.05
    model_error: bool = True
    weights: str = ""
    batch_size: int = 512
    device: str = "cpu"
