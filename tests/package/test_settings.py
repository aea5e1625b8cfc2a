"""Each option is declared once: identity, signatures, command line and docs follow from it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from typer.main import get_command

import autofit_ml as afm
from autofit_ml.cli import app
from autofit_ml.errors import SettingsError
from autofit_ml.images import Discovery
from autofit_ml.options import declared, options_table
from autofit_ml.runs import Progress
from autofit_ml.runs.fit import fit_identity
from autofit_ml.runs.identity import identity_of
from autofit_ml.settings import (
    CalibrateSettings,
    DeconvolveSettings,
    FitSettings,
    InMemory,
    ReadOptions,
    SamplingSettings,
    SegmentSettings,
    SensitivitySettings,
    SimulateSettings,
)

KINDS = (
    FitSettings,
    SegmentSettings,
    DeconvolveSettings,
    CalibrateSettings,
    SensitivitySettings,
    SimulateSettings,
    SamplingSettings,
    ReadOptions,
)

LIGHT = {"segmenter": "sep", "init": "moments"}
"""Nothing that loads a network."""

FEEDME = """
 0) sersic
 1) 9 9 1 1
 3) 20 1
 4) 3 1
 5) 2 1
 9) 0.8 1
10) 30 1
"""

OTHER: dict[str, tuple[dict[str, Any], Any]] = {
    "model": ({}, "exp"),
    "bands": ({}, ("g", "r")),
    "wavelengths": ({"bands": ("g", "r")}, {"g": 477.0, "r": 623.0}),
    "sky": ({}, "fixed"),
    "likelihood": ({}, "huber:2"),
    "prior": ({"init": "resnet"}, "network"),
    "weights": ({}, "other"),
    "survey": ({}, "sdss"),
    "grid": ({"model": "sersic+exp"}, ("B/T=0:1:2",)),
    "save": ({}, ("report",)),
    "measure": ({}, ("morphology",)),
    "error_floor": ({}, 0.1),
    "init": ({}, "resnet"),
    "segmenter": ({}, "given"),
}
"""Option -> (options it needs, another value), where `another` does not know one."""


def another(kind: type, name: str, folder: Path) -> tuple[dict[str, Any], Any]:
    """Options that are needed, and a value that is not the default."""
    item, about = declared(kind)[name]
    if name == "psf":
        fits.writeto(folder / "psf.fits", np.ones((5, 5)))
        return {}, folder / "psf.fits"
    if name == "pipeline":
        (folder / "stages.yaml").write_text("stages: {one: {model: exp}}")
        return {}, folder / "stages.yaml"
    if name == "galfit":
        (folder / "g.feedme").write_text(FEEDME)
        return {}, folder / "g.feedme"
    if kind is SensitivitySettings and name == "grid":
        return {}, ("B/T=0.1", "snr=50")
    if kind is SensitivitySettings and name in ("simpler", "richer", "likelihood"):
        return {}, f"{item.default}, other"
    if (kind is FitSettings and name in OTHER) or name in ("weights", "survey"):
        return OTHER[name]
    if about.choices:
        return {}, next(choice for choice in about.choices if choice != item.default)
    if isinstance(item.default, bool) or str(item.type).startswith("bool"):
        return {}, not item.default
    if about.below is not None:
        return {}, 0.4 * about.below
    return {}, (item.default or 0) + 3 if "int" in str(item.type) else (item.default or 2.0) + 1.5


def identity(kind: type, **options: Any) -> dict[str, Any]:
    """What guards a run that is continued."""
    if kind is not FitSettings:
        return identity_of(kind(**options))
    settings = FitSettings(**LIGHT | options)
    if options.get("init") == "resnet":  # the weights that it loads are another test's
        return identity_of(settings)
    return fit_identity(settings, Discovery((), bands=tuple(settings.bands)), Progress())[0]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in declared(kind)]
)
def test_every_option_that_changes_results_changes_the_identity(kind, name, tmp_path):
    """...and no other does: they are declared not to."""
    needed, value = another(kind, name, tmp_path)
    before = identity(kind, **needed)
    after = identity(kind, **needed | {name: value})
    assert (after != before) is declared(kind)[name][1].changes_results


def test_what_is_declared_not_to_change_results():
    """Where and how fast, never what."""
    found = {
        name
        for kind in KINDS
        for name, (_, about) in declared(kind).items()
        if not about.changes_results
    }
    assert found == {"apply", "batch", "batch_size", "device", "watch", "workers"}


def test_bands_as_text_are_bands():
    text = FitSettings(bands="g:477,r:623", save="report, objects", sky=3)
    assert (text.bands, text.save, text.sky) == (("g", "r"), ("objects", "report"), "3.0")
    assert text.wavelengths == {"g": 477.0, "r": 623.0}
    assert text == text.replace()


# --- Python -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "kind", "more"),
    [
        (afm.fit, FitSettings, {"data", "out", "manifest", "restart", *declared(InMemory)}),
        (afm.read, ReadOptions, {"data", "manifest", "errors", *declared(InMemory)}),
        (afm.deconvolve, SamplingSettings, {"stamps"}),
    ],
)
def test_signatures_are_the_declarations(function, kind, more):
    parameters = inspect.signature(function).parameters
    options = declared(kind)
    assert set(parameters) == set(options) | more
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())
    for name, (item, _) in options.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        wider = name in declared(InMemory)  # arrays too
        if not wider and (function, name) != (afm.deconvolve, "weights"):  # a network too
            assert str(parameters[name].annotation) == str(item.type)
            assert parameters[name].default == item.default or name == "wavelengths"


def test_docstrings_have_every_option():
    for kind in KINDS:
        for name, (_, about) in declared(kind).items():
            assert f"\n{name} : " in kind.__doc__
            assert about.help in kind.__doc__


@pytest.mark.parametrize("function", [afm.fit, afm.read])
def test_unknown_keywords_are_told(function, tmp_path):
    with pytest.raises(SettingsError, match="no option seeing") as caught:
        function(tmp_path, seeing=1)
    assert "psf_fwhm" in caught.value.remedy
    with pytest.raises(TypeError, match="several values for data"):
        function(tmp_path, data=tmp_path)
    with pytest.warns(DeprecationWarning, match="data= now"), pytest.raises(SettingsError):
        function(paths=tmp_path / "nothing")


def test_positions_that_are_given_up_warn():
    with pytest.warns(DeprecationWarning, match="samples=...") as caught:
        assert afm.deconvolve([], 8) == []
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="out=..."), pytest.raises(SettingsError):
        afm.fit("nothing.fits", "results")
    with pytest.warns(DeprecationWarning, match="by keyword"):  # noqa: SIM117
        with pytest.raises(SettingsError, match="samples is 1"):
            afm.deconvolve([], 1)


# --- command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("fit", FitSettings),
        ("segment", SegmentSettings),
        ("deconvolve", DeconvolveSettings),
        ("doctor", ReadOptions),
        ("calibrate", CalibrateSettings),
        ("sensitivity", SensitivitySettings),
        ("simulate", SimulateSettings),
    ],
)
def test_commands_have_every_option(command, kind):
    parameters = {p.name: p for p in get_command(app).commands[command].params}
    for name, (item, about) in declared(kind).items():
        assert (name in parameters) is not about.python_only
        if about.python_only:
            continue
        shown = parameters[name]
        assert about.help in shown.help
        assert shown.rich_help_panel == about.panel
        if item.default is not None and not isinstance(item.default, tuple):
            assert shown.default == item.default


def test_every_command_that_reads_images_takes_the_reading_options():
    reading = set(declared(ReadOptions))
    for command in ("fit", "segment", "deconvolve", "doctor"):
        assert reading <= {p.name for p in get_command(app).commands[command].params}, command


# --- docs -------------------------------------------------------------------------------------


def test_pages_of_the_reference_follow(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    import tables

    page = tables.options_page()
    for kind in tables.OPTIONS.values():
        assert options_table(kind) in page
    assert "| `psf_fwhm` |  | arcsec |" in page
    from autofit_ml.catalogue import columns_for

    columns = tables.columns_page()
    for column in columns_for():
        assert f"| `{column.name}` |" in columns
    sys.modules.pop("tables")
