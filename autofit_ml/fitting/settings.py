"""Settings of the refiner."""

from __future__ import annotations

from dataclasses import dataclass, field

from autofit_ml.fitting.levenberg_marquardt import LMSettings
from autofit_ml.rendering import Accuracy

__all__ = ["RefineSettings"]


@dataclass(frozen=True)
class RefineSettings:
    """How the refiner works; the defaults are what the documentation's figures were measured with.

    Attributes
    ----------
    start_n : tuple of float
        Sérsic indices of the extra starts (the initialiser's own start comes first).
    spread, certain : float
        Where the start has a covariance, the extra starts lie `spread` standard deviations of ln n
        to both sides, unless ln n is known better than `certain`.
    prior : {"none", "network"}
        "network": the start and its covariance are a Gaussian prior (of everything but the sky).
        chi2 then includes the prior's term.
    search, final : LMSettings
        Of the coarse search over the starts and of the fit itself.
    coarse, compact, wide : Accuracy
        Of the renderer: `coarse` in the search; `wide` serves objects that are large for their
        stamp.
    compact_re : float
        Largest re, in units of the stamp's shorter side, that `compact` serves.
    correlated_lag : int
        Noise correlation is measured up to this lag, pixels.
    correlated_threshold : float
        Mean correlation of adjacent pixels above which errors are widened and flagged.
    batch_size : int
        Objects fitted together.
    device : str
    """

    start_n: tuple[float, ...] = (1.0, 4.0)
    spread: float = 1.5
    certain: float = 0.3
    prior: str = "none"
    search: LMSettings = field(default_factory=lambda: LMSettings(0.3, 12))
    final: LMSettings = field(default_factory=lambda: LMSettings(3e-3))
    coarse: Accuracy = field(default_factory=lambda: Accuracy(1.2, 8.0, refinements=()))
    compact: Accuracy = field(
        default_factory=lambda: Accuracy(1.5, refinements=(2.0, 3.0), split=2.0, cutoff=1e-3)
    )
    wide: Accuracy = field(default_factory=Accuracy)
    point_source: Accuracy = field(default_factory=lambda: Accuracy(1.0, 8.0, refinements=()))
    compact_re: float = 0.16
    correlated_lag: int = 3
    correlated_threshold: float = 0.05
    batch_size: int = 512
    device: str = "cpu"
