"""Runs as functions for Python and notebooks: `fit`, `simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from astropy.table import QTable

from autofit_ml.catalogue import table_to_qtable
from autofit_ml.options import called_with
from autofit_ml.settings import FitCall, FitSettings

if TYPE_CHECKING:
    from autofit_ml.runs.simulate import SetSummary
    from autofit_ml.simulation.objects import SimulatedObject
    from autofit_ml.simulation.recipe import Recipe

__all__ = ["fit", "simulate"]


@called_with(FitCall)
def fit(call: FitCall) -> QTable:
    """Fit every galaxy in files, folders, globs or a manifest.

    ``fit(paths, out, *, manifest, restart, ...)``; every further keyword is an option of
    `autofit_ml.settings.FitSettings` (``model="sersic+exp"``, ``bands=("g", "r")``,
    ``sky="fixed"``, ``psf_fwhm=0.8``, ``survey="kids"``, ``device="cuda"`` ...).

    Parameters
    ----------
    paths : path or iterable of paths, optional
        FITS files, folders or globs. None: those of a manifest or a GALFIT file.
    out : path, optional
        Results folder (catalogue, pictures, report); a stopped run there is continued. None:
        nothing is written.
    manifest : path, optional
        Table of objects instead of `paths`.

    Returns
    -------
    astropy.table.QTable
        One row per object, failed ones included; columns with units and descriptions.

    Raises
    ------
    SettingsError
        Nothing to fit, an unknown option, or a folder that belongs to another run.
    KeyboardInterrupt
        Interrupted; with `out`, what is finished is kept.
    """
    from autofit_ml.runs import fit_run

    summary = fit_run(
        call.paths,
        call.out,
        call.part(FitSettings),
        manifest=call.manifest,
        restart=call.restart,
    )
    if summary.interrupted or summary.table is None:
        raise KeyboardInterrupt
    return table_to_qtable(summary.table)


def simulate(
    recipe: Recipe | Sequence[str],
    *,
    count: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    config_dir: str | Path | None = None,
) -> list[SimulatedObject] | SetSummary:
    """Simulated objects of a recipe, in memory or on disk.

    Parameters
    ----------
    recipe : Recipe or sequence of str
        Or Hydra overrides: ``["data=blends", "survey=hsc-i", "data.target.snr=[20,200]"]``.
    count, seed : int, optional
        The recipe's when not given. Object i depends on the recipe, the seed and i alone.
    out : path, optional
        Write a set of shards there instead of returning the objects.
    workers : int
        Processes (with `out`).
    config_dir : path, optional
        Folder of your own configs.

    Returns
    -------
    list of SimulatedObject, or SetSummary with `out`

    Raises
    ------
    SettingsError
        The recipe is wrong; nothing has been done.
    """
    from autofit_ml import simulation

    if out is None:
        return simulation.simulate(recipe, count=count, seed=seed, config_dir=config_dir)
    from autofit_ml.runs.simulate import write_set
    from autofit_ml.simulation.generate import check_recipe

    if not isinstance(recipe, simulation.Recipe):
        recipe = simulation.compose_recipe(recipe, config_dir=config_dir)
    check_recipe(recipe)
    return write_set(recipe, out, count=count, seed=seed, workers=workers)
