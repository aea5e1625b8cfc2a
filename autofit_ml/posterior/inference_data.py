"""Posteriors as ArviZ data: one netCDF file per object.

Groups ``posterior`` (one variable per parameter, dimensions chain and draw) and ``sample_stats``
(``lp``).
ArviZ before 1.0 keeps them in an ``InferenceData``, later ones in xarray's ``DataTree``; the file
is the same, and either reads it (``arviz.from_netcdf``).
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue.atomic import atomic_write_bytes
from autofit_ml.errors import SettingsError
from autofit_ml.extras import needs
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = ["to_inference_data", "write_inference_data"]


def to_inference_data(
    samples: PosteriorSamples,
    object_index: int,
    names: Sequence[str],
    attrs: Mapping[str, str | float | int] | None = None,
    *,
    values: np.ndarray | None = None,
) -> Any:
    """ArviZ data of one object.

    Parameters
    ----------
    samples : PosteriorSamples
    object_index : int
        Which of its objects.
    names : sequence of str
        Of the parameters, in order.
    attrs : mapping, optional
        Added to the attributes of the posterior (id, model, versions ...).
    values : ndarray, (chains, draws, V), optional
        Put these in place of the draws (catalogue values made of them, say); `names` are theirs.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        Whichever the installed ArviZ works with.

    Raises
    ------
    SettingsError
        ArviZ is not installed; the names do not fit the draws.
    """
    if values is None:
        values = samples.draws[object_index].detach().cpu().numpy()
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[2] != len(names) or len(set(names)) != len(names):
        raise SettingsError(
            f"draws of shape {values.shape} with names {', '.join(names)}",
            "give (chains, draws, V) and V different names",
        )
    arviz, xarray = _import("arviz"), _import("xarray")
    dims = ("chain", "draw")
    coords = {name: np.arange(n) for name, n in zip(dims, values.shape, strict=False)}

    described: dict[str, str | float | int] = {
        "inference_library": "autofit_ml",
        "sampling_method": samples.method,
        **_numbers(samples, object_index),
        **(attrs or {}),
    }
    lp = samples.log_density[object_index].detach().cpu().numpy()
    groups = {
        "posterior": xarray.Dataset(
            {name: (dims, values[:, :, i]) for i, name in enumerate(names)},
            coords,
            described,
        ),
    }
    if np.isfinite(lp).any():
        groups["sample_stats"] = xarray.Dataset({"lp": (dims, lp)}, coords)
    if int(arviz.__version__.split(".")[0]) >= 1:
        return xarray.DataTree.from_dict(groups)
    return arviz.InferenceData(**groups)


def write_inference_data(data: Any, folder: str | Path, object_id: str) -> Path:
    """Write ``<object_id>.nc``; complete or not at all.

    Parameters
    ----------
    data : arviz.InferenceData or xarray.DataTree
    folder : path
        Made if missing; ``results/posterior`` in a run.
    object_id : str

    Returns
    -------
    Path
    """
    _import("h5netcdf")
    path = Path(folder) / f"{object_id}.nc"
    with tempfile.TemporaryDirectory() as scratch:
        # Both libraries want a name to write to, and neither writes at once.
        made = Path(scratch) / "posterior.nc"
        data.to_netcdf(str(made), engine="h5netcdf")
        atomic_write_bytes(path, made.read_bytes())
    return path


def _numbers(samples: PosteriorSamples, index: int) -> dict[str, float | int]:
    """Diagnostics of the sampling, without those that do not apply."""
    numbers = {
        "acceptance_rate": float(samples.accept[index]),
        "step_size": float(samples.step_size[index]),
        "divergences": int(samples.divergences[index]),
        "n_gradients": int(samples.n_gradients[index]),
        "rhat_max": _extreme(samples.rhat[index], max),
        "ess_min": min(
            _extreme(samples.ess_bulk[index], min), _extreme(samples.ess_tail[index], min)
        ),
    }
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def _extreme(values: Any, choose: Any) -> float:
    finite = [float(value) for value in values if np.isfinite(float(value))]
    return choose(finite) if finite else float("nan")


def _import(name: str) -> Any:
    with needs("posterior", "a file of samples for ArviZ"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 announces 1.0 once a day
        return importlib.import_module(name)
