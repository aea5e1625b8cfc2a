"""The scores of benchmarks/catalog.py, on tables whose answers are known."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from catalog_scores import (
    ROWS,
    celeste_errors,
    classification,
    coverage,
    detection,
    match,
    means,
    reliability,
)


def table(rows, **columns):
    """Five sources: two stars, three galaxies; fluxes in which every colour is known."""
    out = {
        "x": [10.0, 30.0, 50.0, 70.0, 90.0],
        "y": [10.0, 10.0, 10.0, 10.0, 10.0],
        "re": [np.nan, np.nan, 2.0, 3.0, 25.0],
        "q": [np.nan, np.nan, 0.5, 0.8, 0.5],
        "pa": [np.nan, np.nan, 175.0, 20.0, 20.0],
        "dev": [np.nan, np.nan, 0.02, 0.99, 0.0],
    }
    out |= {f"flux_{band}": [10.0**k] * 5 for k, band in enumerate("ugriz")}
    out |= columns
    return {name: np.array(values, float)[rows] for name, values in out.items()}


@pytest.fixture
def truth():
    return table(slice(None), is_star=[1, 1, 0, 0, 0])


def test_each_row_of_the_published_table(truth):
    found = table(
        [1, 0, 3, 2, 4],  # in another order
        p_star=[0.9, 0.2, 0.6, 0.1, 0.0],
        x=[10.3, 30.0, 50.0, 70.0, 90.0],
        y=[10.4, 10.0, 10.0, 10.0, 10.0],
        re=[np.nan, 1.0, 2.5, 3.0, 99.0],
        q=[np.nan, 0.3, 0.4, 0.8, 0.1],
        pa=[np.nan, 10.0, 5.0, 80.0, 90.0],
        dev=[np.nan, 0.5, 0.12, 0.99, 1.0],
        flux_r=[100.0, 100.0, 100.0, 100 * 10**0.4, 1.0],
    )
    found_means = means(celeste_errors(truth, found))
    assert list(found_means) == list(ROWS)
    value = {name: (entry[0], entry[2]) for name, entry in found_means.items()}
    # the fifth is larger than 20 pixels and counts nowhere
    assert value["missed stars"] == (0.5, 2)
    assert value["missed galaxies"] == (0.5, 2)
    assert value["position (pixels)"] == (pytest.approx(0.5 / 4), 4)
    assert value["r (mag)"] == (pytest.approx(1 / 4), 4)
    assert value["g-r"] == (pytest.approx(1 / 4), 4)
    assert value["u-g"] == (pytest.approx(0), 4)
    assert value["profile"] == (pytest.approx(0.05), 2)
    assert value["axis ratio"] == (pytest.approx(0.05), 2)
    assert value["scale (pixels)"] == (pytest.approx(0.25), 2)
    # only where q <= 0.6: from 175 to 5 degrees it is 10
    assert value["angle (degrees)"] == (pytest.approx(10), 1)


def test_shapes_count_for_pure_profiles_alone(truth):
    mixed = truth | {"dev": np.array([np.nan, np.nan, 0.3, 0.9, 0.0])}
    found = table(slice(None), p_star=[1, 1, 0, 0, 0])
    entries = means(celeste_errors(mixed, found))
    assert entries["profile"][2] == entries["scale (pixels)"][2] == 0
    assert entries["r (mag)"][2] == 4


def test_matches_are_mutual_and_within_a_pixel(truth):
    found = table([0, 0, 2], x=[10.9, 0, 51.1, 0, 0])
    found["x"][1] = 10.2
    rows, theirs = match(truth, found)
    assert rows.tolist() == [0]
    assert theirs.tolist() == [1]


def test_completeness_and_purity(truth):
    found = table([0, 1, 2], flux_r=[100.0, 100.0, 100.0, 1, 1])
    found["x"][2] = 60.0  # nothing is there
    (line,) = detection(truth, found, (17, 18))
    assert line["n"] == 5
    assert line["completeness"] == pytest.approx(2 / 5)
    assert line["purity"] == pytest.approx(2 / 3)
    assert line["f1"] == pytest.approx(0.5)


def test_types_by_magnitude(truth):
    found = table(slice(None), p_star=[0.9, 0.4, 0.1, 0.2, 0.7])
    (line,) = classification(truth, found, (17, 18))
    assert (line["stars"], line["n_stars"]) == (0.5, 2)
    assert (line["galaxies"], line["n_galaxies"]) == (pytest.approx(2 / 3), 3)


def test_honest_probabilities_and_errors_score_as_such():
    rng = np.random.default_rng(0)
    told = rng.beta(0.5, 0.5, 20_000)
    star = (rng.uniform(size=told.size) < told).astype(float)
    lines, gap, brier = reliability(told, star)
    assert all(abs(v["share"] - v["p"]) < 4 * v["error"] for v in lines)
    assert gap < 0.01
    assert brier == pytest.approx(np.mean(told * (1 - told)), rel=0.05)
    # a catalogue that says 90 % where 60 % are stars
    _, wrong, _ = reliability(np.full(1000, 0.9), np.arange(1000) % 10 < 6)
    assert wrong == pytest.approx(0.3)
    off = rng.standard_normal(20_000)
    share, spread, n = coverage(off, np.ones_like(off))
    assert share == pytest.approx(0.683, abs=0.01)
    assert (spread, n) == (pytest.approx(0.0033, abs=2e-4), 20_000)
