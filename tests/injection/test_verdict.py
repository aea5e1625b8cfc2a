"""Verdicts on errors: right, too small, too large, biased, too few to tell."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.injection.recovery import measure
from autofit_ml.injection.verdict import judge, verdict


def recovery(number, *, scatter=1.0, bias=0.0, seed=1):
    """Galaxies whose errors of re are 1 / `scatter` of what they should be; others are right."""
    rng = np.random.default_rng(seed)
    truth, rows = [], {}
    for k in range(number):
        one = {"x": 30.0, "y": 30.0, "flux": 1e4, "re": 5.0, "n": 2.0, "q": 0.6, "zeropoint": 25.0}
        truth.append(one)
        row = {"x": 30.0, "y": 30.0, "use": 1.0, "snr": 50.0}
        for name in ("flux", "re", "n", "q"):
            off = 0.05 * rng.normal() * (scatter if name == "re" else 1)
            off += bias * (name == "re")
            value = one[name] + off if name == "q" else one[name] * np.exp(off)
            row |= {name: value, f"{name}_err": 0.05 * (1 if name == "q" else value)}
        rows[f"g{k}"] = row
    return measure(truth, rows, [f"g{k}" for k in range(number)])


def test_right_errors_are_called_right():
    (line,) = verdict(recovery(300), "autofit-ml calibrate results --apply")
    assert line.startswith("Errors of flux, re, n and q are right")


@pytest.mark.parametrize(("scatter", "wrong"), [(2.0, "too small"), (0.5, "too large")])
def test_wrong_errors_have_their_factor_and_the_command(scatter, wrong):
    found = recovery(300, scatter=scatter)
    one = judge(found, "re")
    assert abs(one.factor - scatter) < 3 * one.factor_err < 0.3 * scatter
    lines = verdict(found, "autofit-ml calibrate results --apply")
    assert lines[0].startswith("Errors of flux, n and q are right")
    assert f"Errors of re are {wrong}" in lines[1] and f"by {one.factor:.2f}" in lines[1]
    assert lines[-1].endswith("autofit-ml calibrate results --apply")
    assert "are in the catalogue" in verdict(found, "", applied=True)[-1]


def test_the_factors_error_is_its_scatter():
    """Over 200 samples of 100 galaxies: the quoted error within a fifth (its own is 5 %)."""
    many = [judge(recovery(100, seed=seed), "re") for seed in range(200)]
    factors = np.array([one.factor for one in many])
    assert np.std(factors) == pytest.approx(np.median([one.factor_err for one in many]), rel=0.2)
    # 2.5 sigma: 99 of 100.
    assert np.mean([one.right for one in many]) > 0.96


def test_bias_and_few_galaxies_are_said():
    lines = verdict(recovery(300, bias=0.05), "x")
    assert any("re comes out wrong by +5" in line for line in lines)
    (line,) = verdict(recovery(12), "x")
    assert "12 galaxies were recovered: too few" in line
