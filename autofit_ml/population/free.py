"""Priors of numbers that are ``free``: as wide as the data allow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.population.model import Hyperparameter, Place, PopulationModel
from autofit_ml.scenes import Prior, log_normal, normal
from autofit_ml.scenes.populations import Term

__all__ = ["with_data_priors"]

_WIDE = 10.0


def with_data_priors(model: PopulationModel, data: Mapping[str, np.ndarray]) -> PopulationModel:
    """Give each ``free`` number a prior.

    Means and medians are Gaussian about those of the data with ten times their spread, scatters
    log-normal about half of it with 1.5 in ln, slopes Gaussian about 0 with five times the ratio of
    the spreads; a and b of a beta distribution are log-normal about 2, weights about 1.

    Parameters
    ----------
    model : PopulationModel
    data : dict of str to ndarray, (N,)
        Measured parameters and covariates.
    """
    found = {}
    for item in model.hyper:
        if item.prior is None and item.nested is None:
            place, role = _role(model, item)
            found[item.name] = _prior(model, place, role, item, data)
    return model.with_priors(found)


def _role(model: PopulationModel, item: Hyperparameter) -> tuple[Place, str]:
    """A place that the number determines, itself or as "mean" or "sd" of nested ones."""
    for place, name in model.places.items():
        if name == item.name:
            return place, place.number
    for child in model.hyper:
        for role, nested in zip(("mean", "sd"), child.nested or (), strict=False):
            if nested == item.name:
                place, _ = _role(model, child)
                return place, f"nested {role}"
    raise SettingsError(f"hyper: {item.name}: not used", "leave it out")


def _prior(
    model: PopulationModel,
    place: Place,
    role: str,
    item: Hyperparameter,
    data: Mapping[str, np.ndarray],
) -> Prior:
    if role == "weight":
        return log_normal(1.0, 1.0)
    term = next(term for term in model.base.parts[place.part].terms if term.names == place.names)
    if role in ("a", "b"):
        return log_normal(2.0, 1.5)
    if role == "at":
        raise SettingsError(f"{item.name} is free", "give the pivot, and free the mean")
    middle, spread = _moments(term, data[term.names[0]])
    if role in ("sd", "scatter"):
        return log_normal(0.5 * spread, 1.5)
    if role == "nested sd":
        return log_normal(0.3 * (spread if place.number != "slope" else 1.0), 1.5)
    if place.number == "slope":
        return normal(0.0, 5 * spread / _moments(None, data[term.on[place.index]])[1])
    if place.number == "median":
        return log_normal(math.exp(middle), _WIDE * spread)
    if place.number in ("mean", "nested mean"):
        return normal(middle, _WIDE * spread)
    raise SettingsError(f"{item.name} is free", "give it a prior")


def _moments(term: Term | None, values: np.ndarray) -> tuple[float, float]:
    """Median and spread of what is Gaussian."""
    values = values[np.isfinite(values)]
    if term is not None and term.kind == "log-normal":
        values = np.log(values[values > 0])
    if len(values) < 2:
        raise SettingsError("no values from which a prior could follow", "give priors")
    low, middle, high = np.quantile(values, [0.1587, 0.5, 0.8413])
    return float(middle), max(float(high - low) / 2, 1e-6 * (1 + abs(float(middle))))
