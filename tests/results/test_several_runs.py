"""Finished runs taken together: queries, filters, identifiers, posterior summaries."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fits_inputs import galaxy, write_object

import autofit_ml as afm
from autofit_ml.errors import InputError, SettingsError

QUICK = {"segmenter": "sep", "init": "moments", "workers": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two galaxies, fitted in three ways; the images of the last are copies."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "images").mkdir()
    for number in range(2):
        image = galaxy(seed=number, flux=4000 * (number + 1))
        write_object(folder / "images", f"g{number}", image=image)
    shutil.copytree(folder / "images", folder / "copies")
    for name, options in {
        "plain": {},
        "two": {"model": "sersic+exp", "save": "none"},
        "drawn": {"posterior": "bootstrap"},
        "again": {},
    }.items():
        images = folder / ("copies" if name == "again" else "images")
        afm.fit(images, out=folder / "runs" / name, **QUICK | options)
    (folder / "runs" / "notes").mkdir()
    return folder / "runs"


def test_views_over_all_runs(runs):
    table = afm.query(
        runs / "*", "SELECT run, count(*) AS k FROM catalog GROUP BY run ORDER BY run"
    )
    names = ["again", "drawn", "plain", "two"]
    assert table.to_pydict() == {"run": [str(runs / name) for name in names], "k": [2] * 4}
    found = afm.query(runs / "*", "SELECT run FROM catalog WHERE fraction > -1 AND id = 'g0'")
    assert found["run"].to_pylist() == [str(runs / "two")]  # NaN and absent columns are unknown
    sql = (
        "SELECT count(*) AS k FROM catalog JOIN runs USING (run) WHERE settings['model'] = 'sersic'"
    )
    assert afm.query(runs / "*", sql)["k"].to_pylist() == [6]
    with pytest.raises(InputError, match="matches no results"):
        afm.query(runs / "none*", "SELECT 1")
    with pytest.raises(InputError, match=r"holds no catalog\.parquet"):
        afm.query([runs / "plain", runs / "notes"], "SELECT 1")


def test_summaries_are_those_of_the_draws(runs):
    sql = "SELECT * FROM posterior WHERE parameter = 'sersic.re' ORDER BY id"
    rows = afm.query(runs / "*", sql).to_pylist()
    assert [(row["run"], row["id"]) for row in rows] == [
        (str(runs / "drawn"), f"g{k}") for k in (0, 1)
    ]
    run = afm.open_results(runs / "drawn")
    for row in rows:
        draws = run[row["id"]].images.draws["sersic.re"]
        assert row["median"] == pytest.approx(np.median(draws))
        assert row["draws"] == draws.size
        assert (row["high"] - row["low"]) / 2 == pytest.approx(run[row["id"]].re_err, rel=1e-6)


def test_identifiers_hash_data_and_settings(runs, tmp_path):
    about = {
        name: json.loads((runs / name / "run.json").read_text())["identifiers"]
        for name in ("plain", "again", "two")
    }
    assert about["plain"] == about["again"]  # elsewhere, the same
    assert about["plain"]["data"] == about["two"]["data"]
    assert about["plain"]["settings"] != about["two"]["settings"]
    assert about["plain"]["run"] != about["two"]["run"]
    first, second = afm.open_results(runs / "plain").table()["data_id"]
    assert first != second
    write_object(tmp_path, "g0", image=galaxy(seed=7))
    table = afm.fit(tmp_path, **QUICK)
    assert table["data_id"][0] not in (first, second)


def test_results_of_several_runs(runs):
    every = afm.open_results(runs / "*")
    assert len(every) == 8
    with pytest.raises(KeyError, match="several runs"):
        _ = every["g0"]
    two = every[str(runs / "two"), "g0"]
    assert two.model_name == "sersic+exp"
    assert len(two.covariance_names) == 15
    chosen = every.where("fraction > -1 OR (run LIKE '%drawn' AND id = 'g1')")
    assert [fit.model_name for fit in chosen] == ["sersic", "sersic+exp", "sersic+exp"]
    draws = next(iter(chosen.samples(50)))
    assert len(draws) == 50
    assert chosen[0].data.shape == chosen[0].model().shape
    assert chosen.where("use AND NOT has_fatal_flag(flags)").ids == [
        fit["id"] for fit in chosen if fit.use
    ]
    for bad in ("radius > 3", "true; SELECT 1", ""):
        with pytest.raises(SettingsError, match="condition"):
            every.where(bad)
