"""Options of populations."""

from __future__ import annotations

from dataclasses import dataclass

from autofit_ml.options import option
from autofit_ml.settings.panels import INPUT, MODEL, SAMPLING
from autofit_ml.settings.running import Seeded


@dataclass(frozen=True, kw_only=True)
class PopulationOptions(Seeded):
    """Settings of a population that is inferred from catalogues."""

    noise: str = option(
        "auto",
        "Errors as they were fitted, or following the true parameters (model); auto: model from "
        "200 objects on.",
        MODEL,
        choices=("auto", "fixed", "model"),
    )
    outliers: bool = option(
        True, "Some errors are five times too small; how many is fitted along.", MODEL
    )
    interim: str | None = option(
        None,
        "The prior in the values of tables that are no catalogues of autofit-ml: flat.",
        INPUT,
        choices=("flat",),
    )
    draws: int = option(250, "Draws of each of four chains.", SAMPLING, least=20)
