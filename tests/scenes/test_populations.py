"""Population files: what is drawn is what they say, and what is wrong is said."""

import numpy as np
import pytest

from autofit_ml.errors import SettingsError
from autofit_ml.scenes.populations import read_population

GALAXIES = """
name: field
type: galaxy
parameters:
  ln_re: {unit: arcsec, on: mag, at: 23, mean: -0.8, slope: -0.3, scatter: 0.4}
  mag: {unit: mag, band: r, uniform: [20, 24]}
  n: {log-normal: [1.5, 0.5], truncate: [0.5, 6]}
  q: {beta: [4, 2]}
  g-r, r-i:
    unit: mag
    mixture:
      weights: [3, 1]
      means: [[0.5, 0.2], [1.2, 0.5]]
      covariances: [[[0.04, 0.01], [0.01, 0.02]], [[0.02, 0], [0, 0.02]]]
"""


def read(tmp_path, text):
    path = tmp_path / "population.yaml"
    path.write_text(text)
    return read_population(path)


def test_draws_have_the_distributions_of_the_file(tmp_path):
    """Means and scatters to five standard errors of 20 000 draws."""
    population = read(tmp_path, GALAXIES)
    assert (population.name, population.type, population.band) == ("field", "galaxy", "r")
    drawn = population.draw(20000, seed=3)
    assert set(drawn) == {"mag", "re", "n", "q", "g-r", "r-i"}
    close = 5 / np.sqrt(20000)
    assert abs(drawn["mag"].mean() - 22) < close * 4 / np.sqrt(12)
    assert drawn["mag"].min() >= 20 and drawn["mag"].max() <= 24
    left = np.log(drawn["re"]) + 0.8 + 0.3 * (drawn["mag"] - 23)
    assert abs(left.mean()) < close * 0.4 and abs(left.std() / 0.4 - 1) < close
    assert abs(np.corrcoef(left, drawn["mag"])[0, 1]) < close
    assert abs(np.log(np.median(drawn["n"]) / 1.5)) < 1.5 * close * 0.5
    assert drawn["n"].min() >= 0.5 and drawn["n"].max() <= 6
    assert abs(drawn["q"].mean() - 4 / 6) < close * 0.18
    blue = drawn["g-r"] < 0.9
    assert abs(blue.mean() - 0.75) < 0.03
    assert abs(np.cov(drawn["g-r"][blue], drawn["r-i"][blue])[0, 1] - 0.01) < 0.002


def test_the_same_seed_draws_the_same(tmp_path):
    population = read(tmp_path, GALAXIES)
    first, again = population.draw(50, seed=1), population.draw(50, seed=1)
    assert all((first[name] == again[name]).all() for name in first)
    assert (population.draw(50, seed=2)["n"] != first["n"]).all()


@pytest.mark.parametrize(
    ("changed", "to", "says"),
    [
        ("type: galaxy", "type: planet", "type is 'planet'"),
        ("q: {beta: [4, 2]}", "q: {beta: [4, -2]}", "q: beta: b is -2.0"),
        ("q: {beta: [4, 2]}", "q: {beta: 4}", "q: beta: 4"),
        ("q: {beta: [4, 2]}", "q: {beta: [4, 2], normal: [1, 1]}", "normal and beta"),
        ("q: {beta: [4, 2]}", "size: {beta: [4, 2]}", "'size' is no parameter"),
        ("q: {beta: [4, 2]}", "q: {beta: [4, 2], unit: mag}", "the unit is 'mag'"),
        ("q: {beta: [4, 2]}", "q: {beta: [4, 2], sharp: 1}", "'sharp' is not understood"),
        ("q: {beta: [4, 2]}", "n, q: {normal: [1, 1]}", "several parameters"),
        ("band: r, ", "", "mag: the band is None"),
        ("unit: arcsec", "unit: pix", "the unit is 'pix'"),
        ("on: mag", "on: ln_re", "ln_re depends on 'ln_re'"),
        ("uniform: [20, 24]", "uniform: [24, 20]", "from 24 to 20"),
        ("uniform: [20, 24]", "uniform: [bright, 20]", "mag: uniform: low is 'bright'"),
        ("truncate: [0.5, 6]", "truncate: [6]", "truncate: [6]"),
        ("[0.02, 0], [0, 0.02]", "[0.02, 1], [1, 0.02]", "not positive definite"),
        ("weights: [3, 1]", "weights: [3, 1, 2]", "means has the shape (2, 2)"),
        ("parameters:", "parameters: 3\nrest:", "'rest' is not understood"),
        ("n: {log", "ln_n: {normal: [0, 1]}\n  n: {log", "n: given twice"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, changed, to, says):
    assert changed in GALAXIES
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, GALAXIES.replace(changed, to))
    assert says in str(caught.value) and caught.value.remedy
    assert caught.value.file == tmp_path / "population.yaml"


def test_limits_that_nothing_meets_are_refused_when_drawing(tmp_path):
    text = (
        "type: star\nparameters: {mag: {unit: mag, band: r, normal: [20, 0.1], truncate: [25, 26]}}"
    )
    with pytest.raises(SettingsError, match="hardly anything lies between 25 and 26"):
        read(tmp_path, text).draw(5)
