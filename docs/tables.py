"""Pages that follow from declarations: options and columns of the catalogue."""

from __future__ import annotations

from pathlib import Path

from autofit_ml.catalogue.schema import columns_table
from autofit_ml.options import options_table
from autofit_ml.settings import (
    CalibrateSettings,
    DeconvolveSettings,
    FitSettings,
    InMemory,
    PopulationOptions,
    SegmentSettings,
    SensitivitySettings,
    SimulateSettings,
)

PAGES = Path(__file__).parent / "reference"

OPTIONS = {
    "fit": FitSettings,
    "images in memory": InMemory,
    "segment": SegmentSettings,
    "deconvolve": DeconvolveSettings,
    "calibrate": CalibrateSettings,
    "sensitivity": SensitivitySettings,
    "population": PopulationOptions,
    "simulate": SimulateSettings,
}


def options_page() -> str:
    """The options of every kind of run."""
    text = """# Options

Keywords from Python; on the command line `--psf-fwhm` for `psf_fwhm`. A run that is continued must
have the same value of each option that changes results.
"""
    for name, kind in OPTIONS.items():
        text += f"\n## {name}\n\n{options_table(kind)}"
    return text


def columns_page() -> str:
    """The columns that every catalogue has."""
    text = """# Columns of the catalogue

Columns of one Sérsic profile in one band. Component k > 1 adds `<name>_k`, a band
`<name>_<band>`; the files themselves carry units and descriptions.

"""
    return text + columns_table()


if __name__ == "__main__":
    (PAGES / "options.md").write_text(options_page(), "utf-8")
    (PAGES / "columns.md").write_text(columns_page(), "utf-8")
