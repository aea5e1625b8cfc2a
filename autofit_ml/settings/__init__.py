"""Every option that a user can choose, declared once, as the settings of each kind of run.

A new option is one more field in one of these modules, and the code that uses it: command line,
Python signatures, validation, docs and the identity that guards a continued run follow
(`autofit_ml.options`). What only the command line has (``--quiet``, ``--json`` ...) is declared in
`autofit_ml.cli.calls`.

Imports nothing of the package but `options`, `errors` and (when a survey is named) `presets`: every
other module may import it.
"""

from __future__ import annotations

from autofit_ml.settings.catalog import CatalogSettings, SourceSettings
from autofit_ml.settings.difference import (
    DiffSettings,
    LightCurveOptions,
    LightCurveSettings,
    SubtractSettings,
    date_ranges,
)
from autofit_ml.settings.fit import SAVED, FitSettings
from autofit_ml.settings.python import (
    CatalogCall,
    FitCall,
    FitOptions,
    InMemory,
    LightCurveCall,
    ReadCall,
    SubtractCall,
)
from autofit_ml.settings.reading import (
    FITTED_PSFS,
    INPUT,
    MODEL,
    OUTPUT,
    PANELS,
    Paths,
    ReadOptions,
)
from autofit_ml.settings.running import INITIALISERS, SEGMENTERS, Resumed, Selected
from autofit_ml.settings.stages import (
    CLASSICAL,
    DeconvolveSettings,
    SamplingSettings,
    SegmentSettings,
)
from autofit_ml.settings.studies import (
    CalibrateSettings,
    PopulationOptions,
    SensitivitySettings,
    SimulateSettings,
)
from autofit_ml.settings.survey import SurveyOptions, SurveySettings

__all__ = [
    "CLASSICAL",
    "FITTED_PSFS",
    "INITIALISERS",
    "INPUT",
    "MODEL",
    "OUTPUT",
    "PANELS",
    "SAVED",
    "SEGMENTERS",
    "CalibrateSettings",
    "CatalogCall",
    "CatalogSettings",
    "DeconvolveSettings",
    "DiffSettings",
    "FitCall",
    "FitOptions",
    "FitSettings",
    "InMemory",
    "LightCurveCall",
    "LightCurveOptions",
    "LightCurveSettings",
    "Paths",
    "PopulationOptions",
    "ReadCall",
    "ReadOptions",
    "Resumed",
    "SamplingSettings",
    "SegmentSettings",
    "Selected",
    "SensitivitySettings",
    "SimulateSettings",
    "SourceSettings",
    "SubtractCall",
    "SubtractSettings",
    "SurveyOptions",
    "SurveySettings",
    "date_ranges",
]
