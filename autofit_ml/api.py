"""Runs and results as functions for Python and notebooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    assert_type,
    cast,
    overload,
)

from astropy.table import QTable

from autofit_ml.catalogue import table_to_qtable
from autofit_ml.errors import AutofitError, InputError, SettingsError
from autofit_ml.images import Discovery
from autofit_ml.images.memory import (
    Image,
    images_in_memory,
    is_list,
    is_paths,
    plane_changes,
    refuse_planes,
)
from autofit_ml.options import called_with
from autofit_ml.results import Fit, Results, open_results, results_in_memory, with_formats
from autofit_ml.settings import (
    CatalogCall,
    CatalogSettings,
    FitCall,
    FitOptions,
    FitSettings,
)

if TYPE_CHECKING:
    import numpy as np

    from autofit_ml.runs.simulate import SetSummary
    from autofit_ml.simulation import Recipe, SimulatedObject

__all__ = ["catalog", "fit", "simulate"]

P = ParamSpec("P")
S = TypeVar("S", FitSettings, CatalogSettings)
Paths: TypeAlias = "str | Path | Sequence[str] | Sequence[Path] | None"


class _FitFunction(Protocol[P]):
    """`fit`, for type checkers: what is given decides what comes back."""

    @overload
    def __call__(self, data: Paths = None, *args: P.args, **kwargs: P.kwargs) -> QTable: ...
    @overload
    def __call__(
        self, data: list[Any] | tuple[Any, ...], *args: P.args, **kwargs: P.kwargs
    ) -> Results: ...
    @overload
    def __call__(self, data: Image, *args: P.args, **kwargs: P.kwargs) -> Fit: ...


def _fitting(
    options: Callable[P, FitOptions],
) -> Callable[[Callable[[FitCall], Any]], _FitFunction[P]]:
    """`called_with`, with a type for each kind of data."""
    return cast(Any, called_with(FitCall, positional=("out",)))


@_fitting(FitOptions)
def fit(call: FitCall) -> Fit | Results | QTable:
    """Fit images in memory, or every galaxy in files, folders, globs or a manifest.

    Parameters
    ----------
    data : image, list of images, or paths, optional
        In memory: a two-dimensional array, `~astropy.nddata.NDData`, `~astropy.nddata.CCDData`,
        `~astropy.nddata.Cutout2D`, an HDUList, a mapping of these by band, or a list. Noise, mask,
        PSF, WCS and header that come with an image are used; keywords win over them. A list may
        hold frames (images with many galaxies).
        On disk: FITS files, folders or globs. None: those of a manifest or a GALFIT file.

    Returns
    -------
    Fit
        Of one image.
    Results
        Of a list of images: a sequence of `Fit`. An image that cannot be fitted has a fit whose
        ``ok`` is False and whose ``message`` says why.
    astropy.table.QTable
        Of files: one row per object, failed ones included; `open_results` gives their images.

    Raises
    ------
    InputError
        A single image that cannot be read or fitted.
    SettingsError
        Nothing to fit, an unknown option, or a folder that belongs to another run.
    KeyboardInterrupt
        Interrupted; with `out`, what is finished is kept.
    """
    from autofit_ml.runs.fit import fit_inputs, fit_sources

    found, settings = _found(
        call, FitSettings, lambda chosen: fit_inputs(call.data, call.manifest, chosen)
    )
    of_files = is_paths(call.data)
    try:
        summary = fit_sources(found, call.out, settings, restart=call.restart, keep=not of_files)
    except AutofitError as error:
        raise type(error)(error.problem, _python_words(error.remedy), error.file) from None
    if summary.interrupted or summary.table is None:
        raise KeyboardInterrupt
    table = table_to_qtable(summary.table)
    if of_files:
        return with_formats(table)
    results = results_in_memory(table, summary.images)
    if call.out is not None:
        results = open_results(call.out)
    return results if is_list(call.data) else _only(results)


def _found(
    call: FitCall | CatalogCall, kind: type[S], of_paths: Callable[[S], Discovery]
) -> tuple[Discovery, S]:
    """Images that a call names, in files or in memory, and the settings of its run.

    Raises
    ------
    SettingsError
        Planes in memory for images in files, or images and a manifest.
    """
    if is_paths(call.data):
        refuse_planes(call)
        settings = call.part(kind)
        return of_paths(settings), settings
    if call.manifest is not None:
        raise SettingsError("both images and a manifest are given", "give one of them")
    return images_in_memory(call.data, call), call.part(kind, **plane_changes(call))


def _only(results: Results) -> Fit:
    """The fit of a single image.

    Raises
    ------
    InputError
        There is none, or there are many: it is a frame.
    """
    if len(results) > 1:
        raise InputError(
            f"the image is a frame with {len(results)} objects",
            "put it into a list, fit([image], ...), for all of them; give x and y for one; or "
            "mode='stamp' if it shows one galaxy",
        )
    found = results[0]
    if not found.ok:
        raise InputError(_python_words(found["message"]))
    return found


def _python_words(text: str) -> str:
    """Options of the command line as keywords: ``--psf-fwhm ARCSEC`` -> ``psf_fwhm=ARCSEC``."""

    def keyword(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return f"{name}={found[2]}" if found[2] else name

    return re.sub(r"--([a-z][a-z-]*)(?: ([A-Z][A-Z.]*)\b)?", keyword, text)


@called_with(CatalogCall, positional=("out",))
def catalog(call: CatalogCall) -> QTable:
    """Catalogue of the stars and galaxies of frames, with fluxes and colours in all bands.

    Parameters
    ----------
    data : image, list of images, or paths, optional
        As `fit` takes them; a mapping holds a frame's images by band, the reference first. On disk:
        FITS files, folders or globs, grouped by ``bands``. None: those of a manifest.

    Returns
    -------
    astropy.table.QTable
        One row per source; the columns are those of docs/catalog.md.

    Raises
    ------
    InputError
        No frame can be catalogued.
    SettingsError
        Nothing to do, an unknown option, or a folder that belongs to another run.
    KeyboardInterrupt
        Interrupted; with `out`, what is finished is kept.
    """
    from autofit_ml.runs.catalog import catalog_sources
    from autofit_ml.runs.sources import inputs_of

    found, settings = _found(
        call,
        CatalogSettings,
        lambda chosen: inputs_of(
            call.data,
            call.manifest,
            survey=chosen.survey,
            mode="frame",
            bands=tuple(chosen.bands),
            epochs=chosen.forced is None,
        ),
    )
    summary, table = catalog_sources(found, call.out, settings, restart=call.restart)
    if summary.interrupted:
        raise KeyboardInterrupt
    if table is None:
        raise InputError(_python_words(next(iter(summary.failures.values()), "no sources")))
    return table


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


if TYPE_CHECKING:  # what a type checker must tell a user, checked with the package

    def _types(image: np.ndarray) -> None:
        assert_type(fit(image, sigma=0.3, psf=image, model="sersic+exp"), Fit)
        assert_type(fit("images/", out=Path("results")), QTable)
        fit(image, sigmma=3)  # type: ignore[call-overload]
        fit(image, sky=[3])  # type: ignore[call-overload]
