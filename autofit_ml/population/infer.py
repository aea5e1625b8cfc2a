"""`fit_population`: hierarchical models over many objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population.catalogue import Catalogue, objects_of, read_tables
from autofit_ml.population.coordinates import PlainCoordinates
from autofit_ml.population.free import with_data_priors
from autofit_ml.population.hyper import HyperVector
from autofit_ml.population.model import Hyperparameter, PopulationModel, read_population_model
from autofit_ml.population.noise import fit_noise
from autofit_ml.population.objects import (
    GaussianObjects,
    Interim,
    SampledObjects,
    gaussian_objects,
    sampled_objects,
)
from autofit_ml.population.posterior import PopulationPosterior
from autofit_ml.population.problem import OUTLIERS
from autofit_ml.population.rounds import PopulationSettings, Work
from autofit_ml.population.selection import Selection
from autofit_ml.scenes import log_normal

__all__ = ["fit_population", "infer", "infer_catalogue"]

_OUTLIER_PRIOR = log_normal(0.001, 2.0)
_MODELLED_FROM = 200


def fit_population(
    mu: np.ndarray | Table | str | Path | Sequence[str | Path] | None = None,
    cov: np.ndarray | None = None,
    *,
    samples: Sequence[np.ndarray] | np.ndarray | None = None,
    interim: Interim | None = None,
    model: str | Path | Mapping[str, Any] | PopulationModel,
    names: Sequence[str] | None = None,
    covariates: Mapping[str, np.ndarray] | None = None,
    selection: Selection | None = None,
    measured: Mapping[str, np.ndarray] | None = None,
    noise: str = "auto",
    outliers: bool = True,
    settings: PopulationSettings | None = None,
) -> PopulationPosterior:
    """Infer how the parameters of a population are distributed.

    Parameters
    ----------
    mu : ndarray, (N, D); or Table, path, or sequence of paths
        Fitted parameters, NaN where one was not measured. Or a catalogue, results folders, tables
        with columns ``<name>`` and ``<name>_err``: rows that are not usable are left out, and
        columns are the covariates and what a selection limits.
    cov : ndarray, (N, D, D) or (N, D)
        Covariances of an array, or errors.
    samples : ndarray, (N, K, D), or sequence of (K_i, D), optional
        Posterior samples of each object in place of `mu` and `cov`.
    interim : "flat", (mean, precision), ndarray or callable
        The prior that these posteriors contain, in the same parameters; is divided out. A Gaussian
        as mean (N, D) and precision (N, D, D); for samples also ln of its density, (N, K), or a
        function of the parameters (..., D).
    model : path, mapping or PopulationModel
        Population file in which numbers may be free (docs/population.md).
    names : sequence of str, optional
        Order of the parameters in the arrays; by default the model's.
    covariates : dict of str to ndarray, (N,), optional
        What the model depends on without having a distribution of it, and groups.
    selection : mapping, Injections or callable, optional
        Why an object is in the sample: limits of measured values ``{"mag": (None, 24)}``;
        injected objects; or a function of true parameters that returns a probability.
    measured : dict of str to ndarray, (N,), optional
        Further positive quantities that limits refer to ("snr"), as functions of the parameters.
    noise : {"auto", "fixed", "model"}
        Whether errors are those at the fit, or follow the true parameters ("auto": from 200
        objects on).
    outliers : bool
        A share of the objects has errors that are five times too small.
    settings : PopulationSettings, optional

    Returns
    -------
    PopulationPosterior

    Raises
    ------
    SettingsError, InputError
        The model, shapes, an interim prior that is not known, covariates that are not finite.
    """
    settings = settings or PopulationSettings()
    if settings.sampler not in ("hmc", "laplace"):
        raise SettingsError(f"sampler is {settings.sampler!r}", "use hmc or laplace")
    known = model if isinstance(model, PopulationModel) else read_population_model(model)
    if isinstance(mu, (str, Path)) or (isinstance(mu, list | tuple) and _all_paths(mu)):
        mu = read_tables([mu] if isinstance(mu, (str, Path)) else mu)
    if isinstance(mu, Table):
        if any(part is not None for part in (cov, samples, names, covariates, measured)):
            raise SettingsError("a table, and arrays beside it", "give all of it as columns")
        if not (interim is None or isinstance(interim, str)):
            raise SettingsError("a prior beside a table", "give 'flat', or arrays and the prior")
        return infer_catalogue(
            objects_of(mu, known, interim), known, selection=selection, noise=noise,
            outliers=outliers, settings=settings,
        )  # fmt: skip
    order = tuple(names or known.names)
    missing = [name for name in known.names if name not in order]
    if missing:
        raise SettingsError(
            f"the model has {', '.join(missing)}, the arrays {', '.join(order)}",
            "give the arrays all parameters of the model, and their names",
        )
    if (samples is None) == (mu is None or cov is None):
        raise SettingsError("neither mu and cov nor samples are given, or both", "give one of them")
    objects: GaussianObjects | SampledObjects
    if samples is not None:
        objects = sampled_objects(order, samples, interim)
    elif mu is not None and cov is not None:
        objects = gaussian_objects(PlainCoordinates(order), np.asarray(mu), cov, interim)
    return infer(
        objects,
        known,
        covariates=covariates or {},
        selection=selection,
        measured=measured or {},
        noise=noise,
        outliers=outliers,
        settings=settings,
    )


def _all_paths(values: Sequence[Any]) -> bool:
    return len(values) > 0 and all(isinstance(value, (str, Path)) for value in values)


def infer_catalogue(
    catalogue: Catalogue,
    model: PopulationModel,
    *,
    selection: Selection | None,
    noise: str,
    outliers: bool,
    settings: PopulationSettings,
) -> PopulationPosterior:
    """`fit_population`, of the rows of tables: covariates and limited quantities are columns."""
    table = catalogue.table
    further = [name for name in model.limits if name not in model.names]
    missing = [name for name in further if name not in table.colnames]
    if missing:
        raise InputError(f"selection: there is no column {', '.join(missing)}", "check its name")
    return infer(
        catalogue.objects,
        model,
        covariates={name: np.asarray(table[name]) for name in (*model.covariates, *model.groups)},
        selection=selection,
        measured={name: np.asarray(table[name], float) for name in further},
        noise=noise,
        outliers=outliers,
        settings=settings,
    )


def infer(
    objects: GaussianObjects | SampledObjects,
    model: PopulationModel,
    *,
    covariates: Mapping[str, np.ndarray],
    selection: Selection | None,
    measured: Mapping[str, np.ndarray],
    noise: str,
    outliers: bool,
    settings: PopulationSettings,
) -> PopulationPosterior:
    """`fit_population`, of objects whose interim prior is divided out."""
    gaussian = objects.gaussian if isinstance(objects, SampledObjects) else objects
    n = len(objects)
    if selection is None and model.calibration:
        raise SettingsError(
            f"the selection of {model.calibration} is for the command", "give selection="
        )
    selection = selection or model.limits or None
    values, codes, groups = _covariates(model, covariates, n)
    if outliers:
        share = Hyperparameter(OUTLIERS, _OUTLIER_PRIOR, log=True)
        model = replace(model, hyper=(*model.hyper, share))
    columns, _ = gaussian.coordinates.parameters(gaussian.posterior_mean)
    data = {name: column.numpy() for name, column in columns.items()}
    model = with_data_priors(model, data | {k: v[:, 0].numpy() for k, v in values.items()})
    if noise not in ("auto", "fixed", "model"):
        raise SettingsError(f"noise is {noise!r}", "use auto, fixed or model")
    modelled = noise == "model" or (noise == "auto" and n >= _MODELLED_FROM)
    if model.exact:
        _refuse_with_exact(model, noise, selection)
        modelled = False
    known_noise = None
    if modelled or isinstance(selection, Mapping):
        known_noise = fit_noise(gaussian.mean, gaussian.likelihood_covariance, measured)
    vector = HyperVector.of(model, groups)
    work = Work(
        objects,
        gaussian,
        model,
        vector,
        values,
        codes,
        known_noise,
        modelled,
        selection,
        outliers,
        settings,
    )
    return work.fit()


def _refuse_with_exact(model: PopulationModel, noise: str, selection: Selection | None) -> None:
    if noise == "model" or selection is not None:
        what = "errors that follow them" if noise == "model" else "a selection"
        raise SettingsError(
            f"{', '.join(model.exact)} without scatter, and {what}", "give a small scatter"
        )


def _covariates(
    model: PopulationModel, given: Mapping[str, np.ndarray], n: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Covariates (n, 1), codes of groups (n,), and the groups' values."""
    values, codes, groups = {}, {}, {}
    for name in (*model.covariates, *model.groups):
        if name not in given:
            raise SettingsError(
                f"the model depends on {name!r}, which is neither a parameter nor a covariate",
                "give it in covariates, or a distribution of it",
            )
        column = np.asarray(given[name])
        if column.shape != (n,):
            raise SettingsError(f"covariate {name} has the shape {column.shape}", f"give ({n},)")
        if name in model.groups:
            groups[name], code = np.unique(column, return_inverse=True)
            codes[name] = torch.as_tensor(code.reshape(-1))
        if name in model.covariates:
            numbers = torch.as_tensor(column.astype(np.float64))
            wrong = int((~torch.isfinite(numbers)).sum())
            if wrong:
                raise SettingsError(
                    f"covariate {name} is not finite for {wrong} of {n} objects",
                    "leave these out, or give it a distribution in the model",
                )
            values[name] = numbers[:, None]
    return values, codes, groups
