"""Objects of catalogues and other tables.

A catalogue of this package says with every row which prior its fit had, in the fit's coordinates;
it is divided out there, exactly. What the prior does not speak of (colours, columns of one's own)
is a Gaussian beside it, without correlation. Of other tables the columns ``<name>`` and
``<name>_err`` are Gaussians, and whether a prior is in them must be said.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table, vstack

from autofit_ml.catalogue import (
    COVARIANCE_PARAMETERS,
    PRIOR_COORDINATES,
    covariance_matrix,
    read_catalogue,
)
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population.coordinates import PlainCoordinates, SersicCoordinates
from autofit_ml.population.model import PopulationModel
from autofit_ml.population.objects import GaussianObjects, gaussian_objects

__all__ = ["Catalogue", "is_ours", "objects_of", "population_map", "read_tables"]

_MAG = 2.5 / math.log(10)
_SERSIC = ("mag", "re", "ln_re", "n", "ln_n", "q")
_ROUND = 1e-3
"""Below this |ln q| a direction is not defined."""


@dataclass(frozen=True)
class Catalogue:
    """Objects of tables.

    Attributes
    ----------
    table : Table
        Rows that are used, of all tables.
    objects : GaussianObjects
    left_out : dict of str to int
        Why rows are not used, and how many.
    """

    table: Table
    objects: GaussianObjects
    left_out: dict[str, int]


def read_tables(paths: Sequence[str | Path]) -> Table:
    """Read results folders, catalogues, or other tables; rows of all, columns that all have.

    Raises
    ------
    InputError
    """
    tables = []
    for path in map(Path, paths):
        if path.is_dir() or path.name.startswith("catalog."):
            tables.append(Table(read_catalogue(path)))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lengths of strings in other people's parquet
                tables.append(Table.read(path))
        except Exception as error:  # astropy raises many kinds
            raise InputError(
                f"cannot be read as a table: {error}",
                "give results folders, or tables (parquet, ecsv, csv, fits)",
                path,
            ) from error
    for table in tables:
        table.meta.clear()
    whole = vstack(tables, join_type="inner", metadata_conflicts="silent")
    for name in whole.colnames:
        if hasattr(whole[name], "filled") and whole[name].dtype.kind == "f":
            whole[name] = whole[name].filled(np.nan)
    return whole


def is_ours(table: Table) -> bool:
    """True if it is a catalogue of this package, with the priors of its fits."""
    return {"prior_mean", "prior_precision", "cov", "use"} <= set(table.colnames)


def objects_of(table: Table, model: PopulationModel, interim: str | None) -> Catalogue:
    """Objects of a table.

    Parameters
    ----------
    table : Table
    model : PopulationModel
        Its parameters and covariates are columns; sizes in arcsec.
    interim : "flat" or None
        The prior in the values of tables that do not say it.

    Raises
    ------
    InputError, SettingsError
        Columns that are missing, priors that are not known, no rows.
    """
    ours = is_ours(table)
    left: dict[str, int] = {}
    keep = np.ones(len(table), bool)

    def leave(why: str, rows: np.ndarray) -> None:
        nonlocal keep
        if (rows & keep).any():
            left[why] = int((rows & keep).sum())
        keep &= ~rows

    if "use" in table.colnames:
        leave("not usable (see flags)", ~np.asarray(table["use"], bool))
    for name in (*model.covariates, *model.groups):
        if name not in table.colnames:
            raise InputError(
                f"the model depends on {name!r}, which is no column", "add it to the table"
            )
        if np.asarray(table[name]).dtype.kind == "f":
            leave(f"{name} is not known", ~np.isfinite(np.asarray(table[name], float)))
    if ours and any(name in _SERSIC for name in model.names):
        objects, good, unknown = _of_fits(table, model)
        leave("without finite values", ~good)
        if (unknown & keep).any():
            raise InputError(
                f"the prior of {int((unknown & keep).sum())} fits is not known (a prior on a "
                "single parameter, a constraint, or a catalogue of an older version)",
                "fit them again with --prior none or broad",
            )
        objects = objects.select(torch.as_tensor(np.flatnonzero(keep)))
    else:
        if interim is None:
            raise SettingsError(
                "the table does not say which prior is in its values",
                "say interim flat if they are maximum likelihood or flat posteriors",
            )
        values = np.stack([_column(table, name) for name in model.names], 1)
        errors = np.stack([_column(table, f"{name}_err") for name in model.names], 1)
        leave("none of the parameters is known", ~np.isfinite(values + errors).any(1))
        objects = gaussian_objects(
            PlainCoordinates(model.names), values[keep], errors[keep], interim
        )
    if not keep.any():
        said = "; ".join(f"{count} {why}" for why, count in left.items())
        raise InputError(f"no row can be used: {said}", "check the table and the model")
    return Catalogue(table[keep], objects, left)


def _column(table: Table, name: str) -> np.ndarray:
    """Values of a column; colours, "g-r", may be ``colour_g_r`` or two magnitudes."""
    blue, dash, red = name.removesuffix("_err").partition("-")
    if name not in table.colnames and dash:
        end = "_err" if name.endswith("_err") else ""
        if f"colour_{blue}_{red}" in table.colnames:
            name = f"colour_{blue}_{red}{end}"
        elif {f"mag_{blue}", f"mag_{red}"} <= set(table.colnames):
            both = [_column(table, f"mag_{band}{end}") for band in (blue, red)]
            return np.hypot(*both) if end else both[0] - both[1]
    if name not in table.colnames:
        raise InputError(f"there is no column {name}", f"columns: {', '.join(table.colnames)}")
    column = table[name]
    return np.asarray(getattr(column, "value", column), float)


def _of_fits(
    table: Table, model: PopulationModel
) -> tuple[GaussianObjects, np.ndarray, np.ndarray]:
    """All rows as objects, which of them have finite values, and whose prior is not known."""
    value = {name: _column(table, name) for name in ("x", "y", "flux", "re", "n", "q", "pa")}
    scale, zeropoint = _column(table, "pixel_scale"), _column(table, "zeropoint")
    for name, needs in (("mag", zeropoint), ("re", scale)):
        if {name, f"ln_{name}"} & set(model.names) and not np.isfinite(needs).any():
            what = "zero point" if name == "mag" else "pixel scale"
            raise InputError(f"the model has {name}, and no row a {what}", f"fit with the {what}")
    ln_q = np.log(np.clip(value["q"], 1e-6, 1.0))
    angle = 2 * np.deg2rad(value["pa"]) + np.pi
    n, d = len(table), len(PRIOR_COORDINATES)
    slope = np.zeros((n, d, d))
    slope[:, 0, 0] = slope[:, 1, 1] = 1.0
    for k, name in ((2, "flux"), (3, "re"), (4, "n")):
        slope[:, k, k] = 1 / value[name]
    slope[:, 3, 5] = 0.5 / value["q"]
    slope[:, 5, 5], slope[:, 6, 5] = -np.cos(angle) / value["q"], -np.sin(angle) / value["q"]
    slope[:, 5, 6] = 2 * np.deg2rad(1.0) * ln_q * np.sin(angle)
    slope[:, 6, 6] = -2 * np.deg2rad(1.0) * ln_q * np.cos(angle)
    places = [COVARIANCE_PARAMETERS.index(name) for name in value]
    total, noise = (
        slope @ covariance_matrix(_column(table, name))[:, places][:, :, places] @ slope.mT
        for name in ("cov", "cov_stat")
    )
    for matrix in (total, noise):
        around = np.abs(ln_q) < _ROUND
        spread = matrix[around, 5, 5] + matrix[around, 6, 6]
        matrix[around, 5:, :] = 0.0
        matrix[around, :, 5:] = 0.0
        matrix[around, 5, 5] = matrix[around, 6, 6] = spread
    with np.errstate(invalid="ignore", divide="ignore"):
        at = np.stack(
            [
                value["x"], value["y"], np.log(value["flux"]), np.log(value["re"]) + ln_q / 2,
                np.log(value["n"]), -ln_q * np.cos(angle), -ln_q * np.sin(angle),
            ], 1,
        )  # fmt: skip
    at[np.einsum("nii->ni", noise) <= 0] = np.nan  # not fitted
    mean = _column(table, "prior_mean")
    precision = covariance_matrix(_column(table, "prior_precision"))
    unknown = ~(np.isfinite(precision).all((1, 2)) & np.isfinite(mean).all(1))
    mean, precision = (np.where(unknown.reshape(-1, *[1] * (a.ndim - 1)), 0, a)
                       for a in (mean, precision))  # fmt: skip
    beside = [name for name in model.names if name not in (*_SERSIC, *PRIOR_COORDINATES)]
    at = np.column_stack([at, *(_column(table, name) for name in beside)])
    mean = np.pad(mean, ((0, 0), (0, len(beside))))
    wide = ((0, 0), (0, len(beside)), (0, len(beside)))
    noise, extra, precision = (np.pad(a, wide) for a in (noise, total - noise, precision))
    for k, name in enumerate(beside, d):
        noise[:, k, k] = _column(table, f"{name}_err") ** 2
    names = (*PRIOR_COORDINATES, *beside)
    whole = gaussian_objects(PlainCoordinates(names), at, noise, (mean, precision), extra=extra)
    coordinates, turn, shift, places = population_map(
        names, whole.mean, model.names, scale, zeropoint
    )
    objects = whole.projected(coordinates, turn, shift, places)
    return objects, np.isfinite(objects.posterior_mean.numpy()).any(1), unknown


def population_map(
    names: Sequence[str],
    theta: torch.Tensor,
    wanted: tuple[str, ...],
    scale: np.ndarray,
    zeropoint: np.ndarray,
) -> tuple[SersicCoordinates, torch.Tensor, torch.Tensor, list[int]]:
    """The way from coordinates of fits to those of a population, turn theta + shift at places.

    Parameters
    ----------
    names : sequence of str, D
        Of the fits' coordinates: ln_flux, ln_rc, ...
    theta : Tensor, (N, D)
        The fits; sizes without q are along their directions.
    wanted : tuple of str
        Parameters of the population.
    scale, zeropoint : ndarray, (N,)

    Raises
    ------
    SettingsError
        A parameter that the fits do not have.
    """
    coordinates, names = SersicCoordinates(wanted), list(names)
    made = {"mag": "ln_flux", "ln_re": "ln_rc"}
    sources = [made.get(name, name) for name in coordinates.names]
    needed = [*sources, *(("eta1", "eta2") if "ln_re" in coordinates.names else ())]
    wrong = [name for name in needed if name not in names]
    if wrong:
        raise SettingsError(
            f"{', '.join(wrong)}: not among what a population of these fits can have",
            f"use mag, ln_re (or re), ln_n (or n), q, or one of {', '.join(names)}",
        )
    n, d = theta.shape
    turn = torch.eye(d, dtype=torch.float64).expand(n, d, d).clone()
    shift = torch.zeros((n, d), dtype=torch.float64)
    if "mag" in coordinates.names:
        flux = names.index("ln_flux")
        turn[:, flux, flux], shift[:, flux] = -_MAG, torch.as_tensor(zeropoint)
    if {"ln_re", "ln_rc"} & set(coordinates.names):
        shift[:, names.index("ln_rc")] = torch.as_tensor(np.log(scale))
    if "ln_re" in coordinates.names:  # ln re = ln rc + |eta| / 2, along the fitted direction
        pair = [names.index("eta1"), names.index("eta2")]
        eta = theta[:, pair]
        along = eta / (2 * eta.norm(dim=1, keepdim=True).clamp_min(1e-9))
        turn[:, names.index("ln_rc"), pair] = along
    return coordinates, turn, shift, [names.index(name) for name in sources]
