"""Posterior samples of fitted scenes: from a `SceneFit` with its problem to draws in catalogue values.

In: fits of `autofit_ml.refine.scenes.fit_scenes` made with ``SceneSettings(keep=True)``. Out: a
`ScenePosterior` for each, whose draws have the names, units and conventions of the fit's values.
Objects that share a layout are sampled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.hmc import HMCSettings, sample_hmc
from autofit_ml.posterior.laplace import sample_laplace
from autofit_ml.posterior.samples import PosteriorSamples
from autofit_ml.refine.parallel import object_threads
from autofit_ml.refine.scenes.problem import SceneProblem
from autofit_ml.refine.scenes.results import SceneFit

__all__ = ["METHODS", "ScenePosterior", "sample_scenes"]

METHODS = ("laplace", "bootstrap", "hmc", "nested")


@dataclass(frozen=True)
class ScenePosterior:
    """Draws of one object.

    Attributes
    ----------
    names : tuple of str
        As in `SceneFit.names`, then "fraction" where the target has several components.
    draws : ndarray, float64, (chains, draws, V)
        Catalogue values.
    samples : PosteriorSamples
        Of this object alone, in the refiner's own parameters.
    """

    names: tuple[str, ...]
    draws: np.ndarray
    samples: PosteriorSamples

    def interval(self, name: str, share: float = 0.6827) -> tuple[float, float, float]:
        """Median and the ends of the central interval of a value."""
        values = self.draws[..., self.names.index(name)].ravel()
        low, middle, high = np.quantile(values, [(1 - share) / 2, 0.5, (1 + share) / 2])
        return float(middle), float(low), float(high)
