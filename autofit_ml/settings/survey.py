"""Options of surveys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit_ml.errors import SettingsError
from autofit_ml.options import Settings, declared, option
from autofit_ml.settings.catalog import CatalogSettings, SourceSettings
from autofit_ml.settings.difference import DiffSettings, SubtractSettings, threshold_option
from autofit_ml.settings.fit import FitSettings
from autofit_ml.settings.reading import INPUT, MODEL, WORK


def _share(value: Any) -> str | None:
    """A share of a whole: ``I/N``, I from 1 to N."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value).strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise SettingsError(f"{value!r} is no share of the tiles", "write for example 3/100")
    return f"{int(found[1])}/{int(found[2])}"


@dataclass(frozen=True, kw_only=True)
class SurveySettings(Settings):
    """Settings of a survey, beside those of what is done with each object."""

    run: str = option(
        "fit",
        "Measurement: fit (every object, as autofit-ml fit), catalog (stars and galaxies with "
        "colours, as autofit-ml catalog), diff (sources that changed since --reference) or detect "
        "(positions and sizes only).",
        MODEL,
        choices=("fit", "catalog", "diff", "detect"),
    )
    reference: str | Path | None = option(
        None,
        "For --run diff: image that is subtracted, or a folder of images, which are selected by "
        "their WCS.",
        INPUT,
        shell=Path,
        changes_results=False,
    )
    tiling: str | None = option(
        None,
        "Tiling of the sky: healpix:ORDER or grid:DEGREES (default: that of the plan, else "
        "healpix:8, with tiles of 14 arcmin).",
        INPUT,
    )
    cell: int | None = option(
        None,
        "Approximate side of the cells into which images are divided for detection (default: as "
        "in the plan, else 4096).",
        INPUT,
        unit="pixels",
        least=64,
    )
    halo: float | None = option(
        None,
        "Distance around a tile within which duplicates are searched for (default: as in the "
        "plan, else 120).",
        INPUT,
        unit="arcsec",
        least=60,
        most=3600,
    )
    match: float = option(
        1.0,
        "Largest distance between detections of the same object in overlapping images.",
        INPUT,
        unit="arcsec",
        above=0,
        most=30,
    )
    scheduler: str = option(
        "local",
        "Scheduler: local (processes on this machine), slurm, none (this process alone), or the "
        "address of a dask scheduler.",
        WORK,
        changes_results=False,
    )
    share: str | None = option(
        None,
        "Part of the tiles to process, for job arrays: 3/100 is the third of 100 parts.",
        WORK,
        normalise=_share,
        changes_results=False,
    )

    def check(self) -> None:
        """The tiling can be read."""
        super().check()
        if self.tiling is None:
            return
        kind, _, number = self.tiling.partition(":")
        if kind not in ("healpix", "grid") or not number:
            raise SettingsError(f"tiling is {self.tiling!r}", "give healpix:ORDER or grid:DEGREES")


@dataclass(frozen=True, kw_only=True)
class SurveyOptions(SurveySettings, FitSettings, SourceSettings, SubtractSettings):
    """Settings of a survey, and of everything that it can run."""

    threshold: float = threshold_option()
    populations: str | Path = option(
        "celeste",
        "For --run catalog: population file of stars and galaxies, or celeste (SDSS sources).",
        MODEL,
        shell=str,
    )

    @property
    def measuring(self) -> FitSettings | CatalogSettings | DiffSettings:
        """Settings of what is run."""
        if self.run == "catalog":
            return self.part(CatalogSettings, prior=self.populations, save=())
        return self.part(DiffSettings) if self.run == "diff" else self.part(FitSettings)

    def check(self) -> None:
        """Refuse options of what is not run, which would do nothing."""
        super().check()
        kinds = {"fit": FitSettings, "catalog": CatalogSettings, "diff": DiffSettings}
        names = {name: set(declared(kind)) for name, kind in kinds.items()}
        names["catalog"] -= {"prior", "save"}
        names["catalog"].add("populations")
        names["diff"].add("reference")
        names["detect"] = names["fit"]
        others = set().union(*names.values()) - names[self.run]
        wrong = [
            name
            for name, (item, about) in declared(self).items()
            if name in others and not about.python_only and getattr(self, name) != item.default
        ]
        if wrong:
            raise SettingsError(
                f"{', '.join(wrong)}: nothing to do with --run {self.run}", "leave it out"
            )
        if (self.run == "diff") > (self.reference is not None):
            raise SettingsError("a survey of changes without a reference", "give --reference")
