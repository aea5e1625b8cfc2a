"""Acceptance of a richer model: intervals, surface, limits, counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population.sensitivity import (
    LogisticSelection,
    binomial_interval,
    fit_selection,
    least_fraction,
    read_selection,
    sensitivity_of,
)

TRUE = np.array([-10.0, 2.0, 0.5, 2.5, 0.0, 0.0])
"""Of 1, ln f, ln(1 - f), and these times ln snr."""


def surface() -> LogisticSelection:
    ranges = {"B/T": (0.02, 0.5), "snr": (50.0, 400.0)}
    return LogisticSelection(("B/T", "snr"), TRUE, np.zeros((6, 6)), ranges)


def test_intervals_are_clopper_and_pearsons():
    """Published values of 0 and 25 of 50."""
    assert binomial_interval(0, 50) == pytest.approx((0.0, 0.0711), abs=1e-4)
    assert binomial_interval(25, 50) == pytest.approx((0.3553, 0.6447), abs=1e-4)
    low, high = binomial_interval(50, 50)
    assert (low, high) == pytest.approx((1 - 0.0711, 1.0), abs=1e-4)


def test_the_surface_is_recovered_with_its_errors():
    """Pulls of the coefficients over 40 simulated maps: mean 0, scatter 1."""
    rng, pulls = np.random.default_rng(3), []
    f, snr = (a.ravel() for a in np.meshgrid(np.geomspace(0.02, 0.5, 6), [50, 100, 200, 400]))
    f, snr = np.repeat(f, 50), np.repeat(snr, 50).astype(float)
    p = surface()({"B/T": f, "snr": snr})
    for _ in range(40):
        made = fit_selection(["B/T", "snr"], np.column_stack([f, snr]), rng.random(len(f)) < p)
        pulls.append((made.coefficients - TRUE) / np.sqrt(np.diag(made.covariance)))
    mean, sd = np.mean(pulls, 0), np.std(pulls, 0)
    assert np.all(np.abs(mean) < 0.6) and np.all((sd > 0.7) & (sd < 1.35))
    assert made.ranges["snr"] == (50.0, 400.0)


def test_what_decides_all_has_finite_coefficients():
    f = np.repeat(np.geomspace(0.02, 0.5, 10), 20)
    made = fit_selection(["B/T"], f[:, None], f > 0.1)
    assert np.isfinite(made.coefficients).all() and np.isfinite(made.covariance).all()
    p = made({"B/T": f})
    assert p[f > 0.12].min() > 0.8 and p[f < 0.09].max() < 0.2


def test_least_fraction_inverts_the_surface():
    for share in (0.5, 0.9):
        value, low, high = least_fraction(surface(), {"snr": 400.0}, share)
        assert low == high == pytest.approx(value)
        assert surface()({"B/T": value, "snr": 400.0}) == pytest.approx(share, abs=0.02)
    assert np.isnan(least_fraction(surface(), {"snr": 5.0}, 0.9)).all()


def test_values_by_their_names_and_logarithms(tmp_path):
    one = surface()
    x = {"B/T": np.array([0.0, 0.1, 0.3]), "snr": 100.0}
    expected = special.expit(TRUE[:4] @ [1, math.log(0.3), math.log(0.7), math.log(100)])
    p = one(x)
    assert p[0] == 0 and p[2] == pytest.approx(expected)
    np.testing.assert_allclose(p, one({"fraction": x["B/T"], "ln_snr": math.log(100.0)}))
    with pytest.raises(SettingsError, match="needs snr"):
        one({"B/T": 0.1})
    one.save(tmp_path / "selection.json")
    again = read_selection(tmp_path)
    np.testing.assert_array_equal(again(x), p)
    assert again.ranges == one.ranges
    (tmp_path / "selection.json").write_text('{"kind": "other"}')
    with pytest.raises(InputError, match="as a selection"):
        read_selection(tmp_path)


def test_counts_bias_and_failures():
    axes = {"B/T": [0.2], "snr": [100.0]}
    truth = [{"id": f"g{k}", "cell": k // 4, "B/T": 0.2 * (k // 4), "snr": 100.0} for k in range(8)]
    rows = [{"bic_simpler": 10.0, "bic_richer": 10.0 + d, "fraction": 0.25, "fraction_err": 0.1}
            for d in (3.0, 5.0, -1.0, 2.0, -8.0, -9.0, 1.0)]  # fmt: skip
    found = sensitivity_of(axes, truth, [*rows, {}], margin=2.0)
    assert found.false_positives == (0, 4)
    assert sensitivity_of(axes, truth, [*rows, {}]).false_positives == (1, 4)
    cell = found.cells[1]
    assert (cell["accepted"], cell["failed"], cell["galaxies"]) == (2, 1, 4)
    assert cell["p"] == 0.5 and cell["bias"] == pytest.approx(0.05)
    assert found.selection is not None and len(found.limits) == 1
