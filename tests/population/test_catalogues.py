"""Populations of catalogues: coordinates of the fit, priors with every row, the command."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from astropy.table import Table

from autofit_ml.catalogue import pack_covariance
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population import PopulationSettings, fit_population, read_population_model
from autofit_ml.population.catalogue import objects_of
from autofit_ml.population.coordinates import SersicCoordinates
from autofit_ml.runs.population import population_run
from autofit_ml.scenes.populations import read_population
from autofit_ml.settings import PopulationOptions

SIZES = {
    "type": "galaxy",
    "parameters": {
        "mag": {"unit": "mag", "band": "r", "normal": ["free", "free"]},
        "ln_re": {"unit": "arcsec", "normal": ["free", "free"]},
        "n": {"log-normal": ["free", "free"]},
        "q": {"beta": [3, 2]},
    },
}


def test_a_populations_density_in_the_fits_coordinates_integrates_to_one():
    """The mean of p(theta) over its Gaussian, from 200 000 draws of this: to 2 %."""
    coordinates = SersicCoordinates(("ln_re", "n", "q"))
    assert coordinates.names == ("ln_rc", "ln_n", "eta1", "eta2")
    sd = torch.tensor([0.7, 0.7, 0.8, 0.8], dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    z = torch.randn((200_000, 4), generator=rng, dtype=torch.float64)
    theta = z * sd
    x, factor = coordinates.parameters(theta)
    log_q = -0.5 * z.square().sum(1) - sd.log().sum() - 2 * math.log(2 * math.pi)
    size = torch.distributions.Normal(0.0, 0.4).log_prob(x["ln_re"])
    index = torch.distributions.LogNormal(0.0, 0.4).log_prob(x["n"])
    ratio = torch.distributions.Beta(3.0, 2.0).log_prob(x["q"].clamp(1e-9, 1 - 1e-9))
    assert float((size + index + ratio + factor - log_q).exp().mean()) == pytest.approx(1, abs=0.02)
    turn = torch.atan2(theta[:, 3], theta[:, 2]) / (2 * math.pi)
    assert torch.allclose(coordinates.theta(x, turn), theta, atol=1e-6)


def rows(n, prior_sd=0.5):
    """A catalogue whose fits had a prior of ln n, and its fits without it: mean and error of ln n."""
    rng = np.random.default_rng(2)
    flux, re, index = 100 * np.exp(rng.normal(0, 1, n)), 4 * np.exp(rng.normal(0, 0.3, n)), 0.3
    ln_n, sigma = rng.normal(0.5, 0.3, n), np.full(n, index)
    seen = ln_n + sigma * rng.standard_normal(n)
    variance = 1 / (1 / sigma**2 + 1 / prior_sd**2)
    value = np.exp(variance * (seen / sigma**2 + 0.2 / prior_sd**2))
    q, pa = rng.uniform(0.3, 0.95, n), rng.uniform(0, 180, n)
    cov = np.zeros((n, 8, 8))
    errors = [0.1 + 0 * q, 0.1 + 0 * q, 0.05 * flux, 0.1 * re, value * np.sqrt(variance), 0.05 + 0 * q,
              5.0 + 0 * q, 0.1 + 0 * q]  # fmt: skip
    for k, error in enumerate(errors):
        cov[:, k, k] = error**2
    precision = np.zeros((n, 7, 7))
    precision[:, 4, 4] = 1 / prior_sd**2
    mean = np.zeros((n, 7))
    mean[:, 4] = 0.2
    table = Table(
        {
            "id": [f"g{k}" for k in range(n)], "use": np.ones(n, bool), "x": np.zeros(n),
            "y": np.zeros(n), "flux": flux, "re": re, "n": value, "q": q, "pa": pa,
            "zeropoint": np.full(n, 25.0), "pixel_scale": np.full(n, 0.2),
            "cov": pack_covariance(cov), "cov_stat": pack_covariance(cov),
            "prior_mean": mean, "prior_precision": pack_covariance(precision),
        }
    )  # fmt: skip
    return table, seen, sigma


def test_the_prior_of_each_row_is_divided_out_and_the_rest_integrated():
    table, seen, sigma = rows(30)
    table["use"][3] = False
    found = objects_of(table, read_population_model(SIZES), None)
    assert found.left_out == {"not usable (see flags)": 1} and len(found.objects) == 29
    names = found.objects.coordinates.names
    assert names == ("mag", "ln_rc", "ln_n", "eta1", "eta2")
    keep = np.arange(30) != 3
    assert np.allclose(found.objects.mean[:, 2], seen[keep], atol=1e-6)
    assert np.allclose(found.objects.precision[:, 2, 2], 1 / sigma[keep] ** 2, rtol=1e-6)
    mag = 25 - 2.5 * np.log10(table["flux"][keep])
    size = np.log(0.2 * table["re"][keep] * np.sqrt(table["q"][keep]))
    assert np.allclose(found.objects.mean[:, 0], mag) and np.allclose(
        found.objects.mean[:, 1], size
    )
    x, _ = found.objects.coordinates.parameters(found.objects.mean)
    assert np.allclose(x["q"], table["q"][keep])
    assert np.allclose(found.objects.precision[:, 0, 0] ** -0.5, 0.05 * 2.5 / np.log(10))


def test_priors_that_are_not_known_are_refused():
    table, _, _ = rows(10)
    table["prior_precision"][4] = np.nan
    with pytest.raises(InputError, match="the prior of 1 fits is not known"):
        objects_of(table, read_population_model(SIZES), None)
    del table["prior_precision"]
    with pytest.raises(SettingsError, match="does not say which prior"):
        objects_of(table, read_population_model(SIZES), None)


def test_a_run_writes_a_population_and_its_objects(tmp_path):
    rng = np.random.default_rng(4)
    x = 1 + 0.5 * rng.standard_normal(60)
    table = Table({"id": [f"a{k}" for k in range(60)], "x": x + 0.1 * rng.standard_normal(60)})
    table["x_err"] = 0.1
    table["x"][5] = np.nan
    table.write(tmp_path / "table.ecsv")
    (tmp_path / "model.yaml").write_text("type: galaxy\nparameters: {x: {normal: [free, free]}}\n")
    where = (tmp_path / "table.ecsv", tmp_path / "model.yaml", tmp_path / "out")
    settings = PopulationOptions(interim="flat", draws=40, outliers=False)
    summary = population_run(*where, settings)
    assert summary["objects"] == 59
    assert summary["notes"][0] == "1 rows left out: none of the parameters is known"
    assert summary["numbers"]["x.sd"]["median"] == pytest.approx(0.5, abs=0.15)
    shrunk = pq.read_table(where[2] / "objects.parquet").to_pydict()
    assert shrunk["id"][:2] == ["a0", "a1"] and max(shrunk["x_err"]) < 0.1
    assert json.loads((where[2] / "population.json").read_text()) == summary
    assert population_run(*where, settings) == summary  # finished: read back
    assert (where[2] / "corner.png").exists() and (where[2] / "numbers.nc").exists()
    text = (where[2] / "population.yaml").read_text().replace("x:", "n:")
    (tmp_path / "again.yaml").write_text(text)
    assert read_population(tmp_path / "again.yaml").parts[0].terms[0].kind == "normal"
    with pytest.raises(SettingsError, match="does not say which prior"):
        population_run(where[0], where[1], tmp_path / "other", PopulationOptions())


def test_what_calibrate_recovers_is_the_selection(tmp_path):
    """Half of the galaxies of mag 23.4 are lost: the population is that of the sky again."""
    rng = np.random.default_rng(6)

    def seen(mag):
        return rng.random(len(mag)) < 1 / (1 + np.exp(4 * (mag - 23.4)))

    mag = rng.normal(23, 0.8, 500)
    mag = mag[seen(mag)]
    table = Table({"mag": mag + 0.05 * rng.standard_normal(len(mag))})
    table["mag_err"] = 0.05
    table.write(tmp_path / "table.ecsv")
    put = rng.uniform(20, 26, 3000)
    (tmp_path / "calibration").mkdir()
    injected = Table({"brightness_true": put, "recovered": seen(put), "n_true": 1.0 + 0 * put})
    injected.write(tmp_path / "calibration" / "injections.ecsv")
    (tmp_path / "sky.yaml").write_text(
        "type: galaxy\nparameters: {mag: {unit: mag, band: r, normal: [free, free]}}\n"
        f"selection: {{calibration: {tmp_path / 'calibration'}}}\n"
    )
    settings = PopulationOptions(interim="flat", draws=40, outliers=False)
    where = (tmp_path / "table.ecsv", tmp_path / "sky.yaml", tmp_path / "sky")
    mean = population_run(*where, settings)["numbers"]["mag.mean"]
    assert abs(mean["median"] - 23) < 2.5 * mean["error"] < 0.25
    assert mag.mean() < 23 - 2.5 * mean["error"]


def test_colours_of_a_mixture_beside_sizes_from_our_own_rows():
    """Two kinds of galaxies by colour; red ones are smaller, and half as many."""
    n, rng = 600, np.random.default_rng(11)
    table, _, _ = rows(n)
    red = np.arange(n) % 3 == 0
    size = np.where(red, 0.4, 0.9) + 0.2 * rng.standard_normal(n)
    table["re"] = np.exp(size) / 0.2 + 0.1 * np.asarray(table["re"]) * rng.standard_normal(n)
    colour = np.where(red, 0.9, 0.45) + np.where(red, 0.08, 0.12) * rng.standard_normal(n)
    for band, blue in (("g", 1.0), ("r", 0.0)):
        table[f"mag_{band}"] = 20 + blue * colour + 0.07 * rng.standard_normal(n)
        table[f"mag_{band}_err"] = np.full(n, 0.07)

    def kind(weight, at):
        own = {"g-r": {"unit": "mag", "normal": [{"normal": [at, 0.2]}, "free"]},
               "ln_re": {"unit": "arcsec", "normal": ["free", "free"]}}  # fmt: skip
        return {"weight": weight, "parameters": own}

    model = {"type": "galaxy",
             "components": {"blue": kind(1, 0.4), "red": kind({"log-normal": [0.7, 1]}, 1.0)}}  # fmt: skip
    found = fit_population(
        table, model=model, outliers=False, settings=PopulationSettings(sampler="laplace")
    )
    with pytest.raises(SettingsError, match="a table, and arrays beside it"):
        fit_population(table, model=model, names=["g-r", "ln_re"])
    true = {"blue.g-r.mean": 0.45, "red.g-r.mean": 0.9, "blue.g-r.sd": 0.12, "red.g-r.sd": 0.08,
            "blue.ln_re.mean": 0.9, "red.ln_re.mean": 0.4, "red.weight": 0.5}  # fmt: skip
    off = {r["name"]: (r["median"] - true[r["name"]]) / r["error"]
           for r in found.table() if r["name"] in true}  # fmt: skip
    assert len(off) == len(true) and max(map(abs, off.values())) < 3, off
    error = {r["name"]: r["error"] for r in found.table()}["red.g-r.mean"]
    assert 0.008 < error < 0.02  # (0.08^2 + 0.1^2)^0.5 / 200^0.5, and what is of neither kind
    known = read_population_model(model)
    first = objects_of(table, known, None).objects
    table["colour_g_r"], table["colour_g_r_err"] = table["mag_g"] - table["mag_r"], 0.07 * 2**0.5
    table.remove_columns(["mag_g", "mag_g_err"])
    again = objects_of(table, known, None).objects
    assert torch.equal(first.mean, again.mean) and torch.allclose(first.precision, again.precision)
