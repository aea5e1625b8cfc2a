"""Options of each command: the settings of its run, inputs, output and messages."""

from __future__ import annotations  # declarations are read as text

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit_ml.errors import SettingsError
from autofit_ml.options import Settings, any_of, option
from autofit_ml.settings import (
    INPUT,
    MODEL,
    OUTPUT,
    CalibrateSettings,
    CatalogSettings,
    DeconvolveSettings,
    DiffSettings,
    FitSettings,
    LightCurveSettings,
    Paths,
    PopulationOptions,
    ReadOptions,
    Resumed,
    SegmentSettings,
    Selected,
    SensitivitySettings,
    SimulateSettings,
    SurveyOptions,
)

__all__ = [
    "CalibrateCommand",
    "CatalogCommand",
    "DeconvolveCommand",
    "DiffCommand",
    "DoctorCommand",
    "FitCommand",
    "Inputs",
    "LightcurveCommand",
    "PopulationCommand",
    "SegmentCommand",
    "SensitivityCommand",
    "SimulateCommand",
    "SurveyCommand",
    "SurveyPlanCommand",
    "Told",
]


def _out(default: str | None, help: str) -> Any:
    chosen = None if default is None else Path(default)
    return option(chosen, help, OUTPUT, shell=Path, words=("--out", "-o"), changes_results=False)


def _paths(help: str) -> Any:
    return option(None, help, words=("PATH",), argument=True, changes_results=False)


@dataclass(frozen=True, kw_only=True)
class Inputs(Settings):
    """Options that name the images."""

    paths: Paths = _paths("FITS files, folders or globs.")
    manifest: str | Path | None = option(
        None,
        "Table of objects and their files (csv, ecsv, parquet).",
        INPUT,
        shell=Path,
        changes_results=False,
    )

    def some_paths(self, what: str) -> Any:
        """The paths, None for those of a manifest.

        Raises
        ------
        SettingsError
            Neither is given.
        """
        paths = self.paths or None
        if paths is None and self.manifest is None:
            raise SettingsError(f"nothing to {what}", "give files or folders, or --manifest TABLE")
        return paths


@dataclass(frozen=True, kw_only=True)
class Told(Settings):
    """Options that decide what a command prints."""

    quiet: bool = option(
        False, "Print nothing but errors.", OUTPUT, words=("--quiet", "-q"), changes_results=False
    )
    as_json: bool = option(
        False,
        "Print a summary as JSON on standard output.",
        OUTPUT,
        words=("--json",),
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class FitCommand(FitSettings, Selected, Resumed, Told, Inputs):
    """Options of ``autofit-ml fit``."""

    out: Path = _out("results", "Results folder.")
    dry_run: bool = option(
        False,
        "Only report what would be read and fitted, and the expected time.",
        OUTPUT,
        changes_results=False,
    )
    verbose: bool = option(
        False,
        "List every flagged or failed object.",
        OUTPUT,
        words=("--verbose", "-v"),
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class SegmentCommand(SegmentSettings, Selected, Resumed, Told, Inputs):
    """Options of ``autofit-ml segment``."""

    out: Path = _out(
        "segmented", "Folder for the labels; `fit` reads them if they lie beside the images."
    )


@dataclass(frozen=True, kw_only=True)
class DiffCommand(DiffSettings, Selected, Resumed, Told, Inputs):
    """Options of ``autofit-ml diff``."""

    reference: Path = option(
        Path(), "Reference image, which is subtracted.", argument=True, changes_results=False
    )
    paths: Paths = _paths("Science images: files, folders or globs.")
    out: Path = _out("diff", "Folder for the differences.")


@dataclass(frozen=True, kw_only=True)
class CatalogCommand(CatalogSettings, Selected, Resumed, Told, Inputs):
    """Options of ``autofit-ml catalog``."""

    paths: Paths = _paths("Frames: FITS files, folders or globs.")
    out: Path = _out("catalog", "Folder for the catalogue.")


@dataclass(frozen=True, kw_only=True)
class LightcurveCommand(LightCurveSettings, Selected, Resumed, Told, Inputs):
    """Options of ``autofit-ml lightcurve``."""

    paths: Paths = _paths("Images of all epochs: files, folders or globs.")
    at: str | None = option(
        None,
        "Positions to measure: RA,DEC in degrees, pixel:X,Y in the reference, or a table with the "
        "columns ra and dec, or x and y, and optionally name.",
        INPUT,
        changes_results=False,
    )
    reference: Path | None = option(
        None,
        "Reference image without the source; default: the first of the images.",
        INPUT,
        changes_results=False,
    )
    out: Path = _out("lightcurve", "Folder for the light curves.")


@dataclass(frozen=True, kw_only=True)
class DeconvolveCommand(DeconvolveSettings, Selected, Resumed, Told, Inputs):
    """Options of ``autofit-ml deconvolve``."""

    out: Path = _out("sharp", "Folder for the deconvolved images.")


@dataclass(frozen=True, kw_only=True)
class CalibrateCommand(CalibrateSettings, Resumed, Told, Inputs):
    """Options of ``autofit-ml calibrate``."""

    results: Path = option(
        Path(), "Results folder of a finished run.", argument=True, changes_results=False
    )
    paths: Paths = _paths("Images of the run, if they have been moved since.")
    out: Path | None = _out(None, "Output folder (default: calibration/ in the results folder).")


@dataclass(frozen=True, kw_only=True)
class SensitivityCommand(SensitivitySettings, Resumed, Told, Inputs):
    """Options of ``autofit-ml sensitivity``."""

    out: Path = _out("sensitivity", "Folder of the map.")


@dataclass(frozen=True, kw_only=True)
class PopulationCommand(PopulationOptions, Resumed, Told):
    """Options of ``autofit-ml population``."""

    paths: Paths = _paths("Results folders, catalogues, or other tables.")
    model: Path | None = option(
        None, "Population file, in which numbers may be free.", MODEL, shell=Path
    )
    out: Path = _out("population", "Folder for the results.")


@dataclass(frozen=True, kw_only=True)
class DoctorCommand(ReadOptions, Inputs):
    """Options of ``autofit-ml doctor``."""

    paths: Paths = _paths("Files or folders to examine.")
    as_json: bool = option(
        False, "Print as JSON.", OUTPUT, words=("--json",), changes_results=False
    )


@dataclass(frozen=True, kw_only=True)
class SimulateCommand(SimulateSettings, Resumed, Told):
    """Options of ``autofit-ml simulate``."""

    overrides: Sequence[str] | None = option(
        None,
        "data=RECIPE, survey=SURVEY, or any value: data.target.snr=[20,200].",
        words=("[OVERRIDES]...",),
        argument=True,
        shell=list[str],
        changes_results=False,
    )
    out: Path | None = _out(None, "Folder of the set.")
    config_dir: Path | None = option(
        None, "Folder of your own recipes.", INPUT, changes_results=False
    )
    fits: bool = option(
        False,
        "Write FITS files for `autofit-ml fit` to OUT/fits too.",
        OUTPUT,
        changes_results=False,
    )
    list_them: bool = option(
        False, "List recipes and surveys.", OUTPUT, words=("--list",), changes_results=False
    )
    dry_run: bool = option(
        False, "Print the resolved recipe and stop.", OUTPUT, changes_results=False
    )


def _tiles() -> Any:
    return option(
        None,
        "Table whose column 'tile' names the tiles to be done.",
        INPUT,
        shell=Path,
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class SurveyPlanCommand(SurveyOptions, Told):
    """Options of ``autofit-ml survey plan``."""

    paths: Paths = option(
        None,
        "Images, folders of images, globs, or one table of images (csv, ecsv, parquet).",
        words=("PATH",),
        argument=True,
        changes_results=False,
    )
    tiles: str | Path | None = _tiles()
    out: Path = _out("plan", "Folder for images.ecsv and tiles.ecsv.")
    try_it: bool = option(
        True,
        "Detect and fit objects in a part of one image, to estimate the time.",
        OUTPUT,
        words=("--try/--no-try",),
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class SurveyCommand(SurveyOptions, Resumed, Told):
    """Options of ``autofit-ml survey``."""

    paths: Paths = option(
        None,
        "Folder written by survey plan, images, folders of images, or one table of images.",
        words=("PLAN",),
        argument=True,
        changes_results=False,
    )
    tiles: str | Path | None = _tiles()
    out: Path = _out(
        "survey", "Folder of the survey; several commands may work in it at the same time."
    )
    save: str | Sequence[str] = option(
        (),
        "Files to write for each object, in pictures/: any of objects,previews.",
        OUTPUT,
        normalise=any_of(("objects", "previews")),
    )
    limit: int | None = option(
        None,
        "Process at most this many of the remaining tiles.",
        INPUT,
        least=1,
        changes_results=False,
    )
    dry_run: bool = option(
        False,
        "Only report the number of tiles and objects and the expected time.",
        OUTPUT,
        changes_results=False,
    )
