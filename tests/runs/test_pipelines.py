"""Stages of fits and grids: what is passed on, minima, resuming, wrong files."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import numpy as np
import pytest
from results_checks import catalogue
from scene_inputs import bulge_and_disc, write_scene
from table_checks import assert_same_rows

import autofit_ml as afm
from autofit_ml.errors import SettingsError

QUICK = {"init": "moments", "segmenter": "given", "workers": 0, "save": "none"}

CHAIN = """
stages:
  whole:
    model: sersic
  split:
    model: sersic+exp
    start: {exponential.re: 1.4 * sersic.re, sersic.re: 0.4 * sersic.re}
  last:
    model: sersic+exp
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "images"
    for seed in (1, 2):
        write_scene(folder, f"g{seed}", bulge_and_disc(), seed=seed)
    return folder


@pytest.fixture(scope="module")
def one(images) -> list[Path]:
    return sorted(images.glob("g1*"))


def staged(images, text: str, folder: Path, **options):
    file = folder / "stages.yaml"
    file.write_text(text)
    return afm.fit(images, pipeline=file, **QUICK | options)


def test_a_prior_about_an_earlier_value_is_that_prior(one, tmp_path):
    """The same as a model that says it in numbers."""
    text = """
stages:
  first: {model: sersic}
  second:
    model: sersic
    priors:
      sersic.n: {at: 1.2 * sersic.n, width: 1 %}
      sersic.x: {at: sersic.x + 0.5, width: 0.05}
      sersic.flux: {times: 0.7}
"""
    found = staged(one, text, tmp_path, prior="none")[0]
    plain = afm.fit(one, prior="none", **QUICK)[0]
    assert found["chi2_first"] == pytest.approx(plain["chi2"], rel=1e-9)
    assert found["prior"] == "none+stage"
    n, x, flux = plain["n"], plain["x"].value, plain["flux"]
    (tmp_path / "model.yaml").write_text(
        "components: {sersic: {profile: sersic, "
        f"n: {{log-normal: [{1.2 * n}, 0.01]}}, x: {{normal: [{x + 0.5}, 0.05]}}, "
        f"flux: {{log-normal: [{flux}, {0.7 * plain['flux_err'] / flux}]}}}}}}"
    )
    same = afm.fit(one, model=tmp_path / "model.yaml", prior="none", **QUICK)[0]
    for name in ("x", "y", "flux", "re", "n", "q", "pa"):
        value, wanted, error = (
            float(getattr(row[key], "value", row[key]))
            for row, key in ((found, name), (same, name), (same, f"{name}_err"))
        )
        assert value == pytest.approx(wanted, abs=0.01 * error), name
    assert found["n"] > 1.1 * n  # it does pull


def test_narrow_priors_of_shape_and_held_values(one, tmp_path):
    text = """
stages:
  first: {model: sersic}
  second:
    hold: {sersic.n: 1.5 * sersic.n}
    priors:
      sersic.q: {at: 0.9 * sersic.q, width: 0.0001}
      sersic.re: {at: 2 * sersic.re, width: 0.01 %}
  third:
    from: first
    model: sersic
    priors:
      sersic.pa: {at: sersic.pa + 20, width: 0.001}
"""
    first = afm.fit(one, **QUICK)[0]
    second = staged(one, text.partition("  third")[0], tmp_path)[0]
    assert second["n"] == pytest.approx(1.5 * first["n"], rel=1e-9)
    assert np.isnan(second["n_err"])
    assert second["q"] == pytest.approx(0.9 * first["q"], rel=1e-3)
    circular = second["re"].value * math.sqrt(second["q"])
    wanted = 2 * first["re"].value * math.sqrt(0.9 * first["q"])
    assert circular == pytest.approx(wanted, rel=1e-3)
    third = staged(one, text, tmp_path)[0]
    assert third["pa"].value == pytest.approx((first["pa"].value + 20) % 180, abs=0.02)
    assert third["n_err"] > 0  # what the second stage held is free again


def test_stages_end_where_one_fit_does(images, tmp_path):
    """And count what they cost; the last stage begins at the minimum before it."""
    chain, single = staged(images, CHAIN, tmp_path), afm.fit(images, model="sersic+exp", **QUICK)
    np.testing.assert_allclose(chain["chi2"], single["chi2"], atol=0.05)
    np.testing.assert_allclose(chain["chi2_split"], chain["chi2"], atol=0.05)
    assert (chain["chi2_whole"] > chain["chi2"] + 100).all()
    assert (chain["n_starts"] == 1).all()


def test_killed_and_resumed_without_a_difference(images, tmp_path, forked_runs):
    file = tmp_path / "stages.yaml"
    file.write_text(CHAIN)
    whole = afm.fit(images, pipeline=file, out=tmp_path / "whole", batch_size=1, **QUICK)
    assert len(whole) == 2
    out, log = tmp_path / "out", tmp_path / "log"
    command = ["fit", images, "--pipeline", file, "--batch-size", 1, "--init", "moments",
               "--segmenter", "given", "--workers", 0, "--save", "none", "-o", out]  # fmt: skip
    for events in range(24, 60, 4):  # until a kill comes between the two objects
        assert forked_runs.run(command, log, events, out) == -signal.SIGKILL
        if len(list((out / ".work" / "shards").glob("*.parquet"))) == 1:
            break
    assert forked_runs.run(command, log) == 0, log.read_text()
    assert_same_rows(catalogue(out), catalogue(tmp_path / "whole"))
    file.write_text(CHAIN.replace("0.4", "0.5"))
    assert forked_runs.run(command, log) == 2
    assert "pipeline" in log.read_text()


def test_a_grid_finds_both_minima(tmp_path):
    """At S/N 100 the same light is a bulge of n 0.3 or one of n 2, near the truth (2.5, 0.4)."""
    faint = bulge_and_disc().with_flux(2400.0)
    write_scene(tmp_path / "images", "g", faint, seed=0)
    options = {"model": "sersic+exp"} | QUICK
    once = afm.fit(tmp_path / "images", **options)[0]
    assert once["n"] == pytest.approx(2.0, abs=0.3)
    row = afm.fit(tmp_path / "images", grid="sersic.n=0.5:6:3:log,B/T=0:1:3", **options)[0]
    assert row["grid_chi2"].shape == (9,)
    assert row["minima"] == 2
    assert row["n"] < 0.5
    assert 0.5 < row["second_chi2"] < 4
    assert row["chi2"] + row["second_chi2"] == pytest.approx(once["chi2"], abs=0.05)
    assert row["second_sersic_n"] == pytest.approx(once["n"], rel=0.05)
    assert row["second_fraction"] == pytest.approx(once["fraction"], abs=0.02)


def test_cells_are_fits_inside_their_slices(one, tmp_path):
    row = afm.fit(one, model="sersic", grid="n=1:7:3", **QUICK)[0]
    for k in range(3):
        file = tmp_path / f"{k}.yaml"
        bounds = [1 + 2 * k, 3 + 2 * k]
        file.write_text(f"components: {{sersic: {{profile: sersic, n: {bounds}}}}}")
        cell = afm.fit(one, model=file, **QUICK)[0]
        assert row["grid_chi2"][k] == pytest.approx(cell["chi2"], abs=0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: sersic", "no stages in it"),
        ("stages: {a: {model: sersic, strat: {}}}", "a: 'strat' is not understood"),
        ("stages: {a: {model: sersic, hold: [sersic.n]}}", "a: hold: there is no stage before"),
        ("stages: {a: {model: sersic}, b: {from: c}}", "b: from: there is no stage 'c'"),
        ("stages: {a: {model: sersic}, b: {hold: [sersic.z]}}", "b: hold: there is no 'sersic.z'"),
        ("stages: {a: {model: sersic}, b: {start: {sersic.n: disk.n}}}", "disk"),
        (
            "stages: {a: {model: sersic}, b: {priors: {sersic.x: {width: 3 %}}}}",
            "per cent of a pos",
        ),
        ("stages: {a: {model: sersic}, b: {priors: {sersic.n: {}}}}", "has no width"),
        ("stages: {a: {model: sersic}, b: {priors: {'*.k': {width: 1}}}}", "no free parameter"),
        ("stages: {a: {model: sersic+exp}, b: {hold: [exponential.x]}}", "exponential.x is tied"),
        ("stages: {a: {model: sersik}}", "a: "),
        ("stages: {a: {model: sersic, grid: B/T=0:1:3}}", "share of the first component"),
        ("stages: {a: {model: sersic, grid: n=3:1:3}}", "is no axis"),
    ],
)
def test_wrong_files_say_what_is_wrong(one, text, says, tmp_path):
    with pytest.raises(SettingsError) as caught:
        staged(one, text, tmp_path)
    assert says in str(caught.value)
    assert "stages.yaml" in str(caught.value)


def test_pipelines_and_other_models_exclude_each_other(one, tmp_path):
    with pytest.raises(SettingsError, match="both a pipeline and model"):
        staged(one, CHAIN, tmp_path, model="sersic+exp")
    for grid, says in (("x=1:3:2", "no grid over"), ("exponential.x=1:3:2", "no grid over")):
        with pytest.raises(SettingsError, match=says):
            afm.fit(one, model="sersic+exp", grid=grid, **QUICK)
