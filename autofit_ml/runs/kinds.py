"""Kinds of run: the files each writes into its folder, and whether a file is a result."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit_ml.catalogue.filenames import file_stem

__all__ = [
    "CATALOGUED",
    "DECONVOLVED",
    "DIFFERENCED",
    "FITTED",
    "LIGHT_CURVES",
    "POPULATED",
    "RUN_FILE",
    "SEGMENTED",
    "SURVEYED",
    "Kind",
    "is_result",
]

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Kind:
    """Files and folders that a kind of run writes.

    Attributes
    ----------
    files : tuple of str
        Of the whole run.
    folders : dict
        Folder -> endings of the files that each object has there; "": the run's folder itself.
    work : str
        Folder of the run's state.
    ending : str
        Of the rows of a finished part.
    parts : str
        Folder of these rows.
    began : callable
        Whether a folder without a state was written by such a run.
    finished : callable
        The settings that a complete run has recorded elsewhere than in its state.
    also_mine : callable
        Further files that a run of this kind has written in a folder.
    """

    files: tuple[str, ...]
    folders: Mapping[str, tuple[str, ...]]
    work: str = ".work"
    ending: str = ".parquet"
    parts: str = ".work/shards"
    began: Callable[[Path], bool] = lambda folder: False
    finished: Callable[[Path, bool], dict[str, Any]] = lambda folder, tolerant: {}
    also_mine: Callable[[Path], Iterable[Path]] = lambda folder: ()

    def state(self, folder: Path) -> Path:
        """File of the state."""
        return folder / self.work / "state.json"

    @property
    def parts_at_work(self) -> bool:
        """True if the rows of finished parts are no results, but lie below `work`."""
        return self.parts.startswith(self.work)

    def is_ours(self, folder: Path) -> bool:
        """True if such a run has begun, or ended, in a folder."""
        return self.state(folder).exists() or self.began(folder)

    def leftovers(self, folder: Path, names: Collection[str] = ()) -> list[str]:
        """Names of ours that are taken in a folder."""
        found = [name for name in self.files if (folder / name).exists()]
        for part, endings in self.folders.items():
            if part:
                here = folder / part
                found += [f"{part}/"] if here.is_dir() and any(here.iterdir()) else []
            else:
                stems = map(file_stem, names)
                every = (f"{stem}{ending}" for stem in stems for ending in endings)
                found += [name for name in every if (folder / name).exists()]
        return found

    def objects_files(self, folder: Path, stems: Iterable[str]) -> Iterator[Path]:
        """Every file that a run may have written for objects with these `file_stem`."""
        for stem in stems:
            for part, endings in self.folders.items():
                yield from (folder / part / f"{stem}{ending}" for ending in endings)


def _wrote_catalogue(folder: Path) -> bool:
    try:
        return "autofit-ml" in json.loads((folder / RUN_FILE).read_text("utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


FITTED = Kind(
    (
        *("catalog.parquet", "catalog.fits", "catalog.vot", "posterior.parquet"),
        *(RUN_FILE, "report.html"),
    ),
    {
        "objects": (".fits",),
        "previews": (".png",),
        "posterior": (".nc", ".png"),
        "progress": (".jpg", ".json"),
        "report_rows": (".js",),
    },
    began=_wrote_catalogue,
)
SEGMENTED = Kind(
    ("instances.ecsv",),
    {"": ("_seg.fits", "_seg.png")},
    ".work/segment",
    ".ecsv",
    ".work/segment/shards",
)
DECONVOLVED = Kind(
    ("sharp.ecsv",),
    {"": (".fits", ".png")},
    ".work/deconvolve",
    ".ecsv",
    ".work/deconvolve/shards",
)
POPULATED = Kind(
    ("population.json", "population.yaml", "numbers.ecsv", "numbers.nc", "objects.parquet",
     "corner.png", "predictive.png"),
    {},
    ".work/population",
)  # fmt: skip
DIFFERENCED = Kind(
    ("changes.ecsv", "report.html"),
    {"": ("_diff.fits", "_diff.png", "_changes.png")},
    ".work/diff",
    ".ecsv",
    ".work/diff/shards",
)
CATALOGUED = Kind(
    ("catalog.parquet", "catalog.fits", "report.html"),
    {"": ("_model.fits", "_residual.fits", "_covariance.ecsv", ".reg", ".html")},
    ".work/catalog",
    ".ecsv",
    ".work/catalog/shards",
)
LIGHT_CURVES = Kind(
    ("lightcurves.ecsv", "covariance.fits", "positions.ecsv"),
    {"epochs": (".fits",), "curves": (".png",)},
    ".work/lightcurve",
    ".ecsv",
    ".work/lightcurve/shards",
)


def _of_survey(folder: Path) -> Iterator[Path]:
    """Files of a survey: those of its cells and tiles, whatever their names."""
    for part in ("cells", "tiles", "failed", "pictures", "pages"):
        yield from (path for path in (folder / part).rglob("*") if path.is_file())


SURVEYED = Kind(
    (
        "survey.json",
        "images.ecsv",
        "images.parquet",
        "tiles.ecsv",
        "tiles.parquet",
        "index.html",
        "catalog.duckdb",
        "coverage.fits",
    ),
    {"cells": (), "tiles": (), "failed": (), "pictures": (), "pages": ()},
    ".work/survey",
    parts=".work/survey/parts",
    also_mine=_of_survey,
)


def is_result(path: str | Path) -> bool:
    """True if a file was written by a fit: such a file is never an input.

    That is the catalogue, or a file in ``objects/``, ``previews/`` or ``posterior/``, of a folder
    with the state of a run.
    """
    path = Path(path)
    if path.name in FITTED.files and FITTED.state(path.parent).is_file():
        return True
    return path.parent.name in FITTED.folders and FITTED.state(path.parents[1]).is_file()
