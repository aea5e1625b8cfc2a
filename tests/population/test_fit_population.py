"""Populations inferred from many fits: closed forms, known truths, what must not be forgotten."""

import math

import numpy as np
import pytest
import torch

from autofit_ml import fit_population
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population import Injections, PopulationSettings, read_population_model
from autofit_ml.scenes.populations import read_population

QUICK = PopulationSettings(draws=60, warmup=40, selection_points=1 << 13)
LINE = {
    "name": "line",
    "type": "galaxy",
    "parameters": {
        "mag": {"unit": "mag", "band": "r", "normal": ["free", "free"]},
        "ln_re": {
            "unit": "arcsec", "on": "mag", "at": 23, "mean": "free", "slope": "free",
            "scatter": "free",
        },
    },
}  # fmt: skip
TRUTH = {
    "mag.mean": 23.0,
    "mag.sd": 1.0,
    "ln_re.mean": -0.8,
    "ln_re.slope": -0.27,
    "ln_re.scatter": 0.4,
}


def covariances(x):
    """Errors grow by a factor of 2.5 a magnitude; correlated."""
    sigma = np.stack([0.10, 0.17] * 10 ** (0.4 * (x[:, :1] - 23)), 1).reshape(-1, 2)
    return sigma[:, :, None] * sigma[:, None] * np.array([[1, -0.5], [-0.5, 1]])


def galaxies(n, seed, limit=np.inf):
    """Measured parameters and covariances of galaxies that are measured to be brighter."""
    rng = np.random.default_rng(seed)
    mag = 23 + rng.standard_normal(8 * n)
    x = np.stack([mag, -0.8 - 0.27 * (mag - 23) + 0.4 * rng.standard_normal(8 * n)], 1)
    noise = np.linalg.cholesky(covariances(x)) @ rng.standard_normal((8 * n, 2, 1))
    mu = x + noise[..., 0]
    kept = np.flatnonzero(mu[:, 0] < limit)[:n]
    return mu[kept], covariances(mu[kept]), x[kept]


def pulls(fit):
    return {
        row["name"]: (row["median"] - TRUTH[row["name"]]) / row["error"]
        for row in fit.table()
        if row["name"] in TRUTH
    }


def test_the_likelihood_is_the_closed_form_where_everything_is_gaussian():
    """ln p relative to the maximum, within 3 standard deviations of it: to 0.03."""
    mu, cov, _ = galaxies(300, 1)
    fit = fit_population(
        mu, cov, interim="flat", model=LINE, noise="fixed", outliers=False, settings=QUICK
    )
    draws = fit.samples.draws[0].flatten(0, 1)[::12]
    u = torch.cat([fit.best[None], draws])
    ours = fit.problem.log_density(torch.zeros(len(u), dtype=torch.int64), u)[0].numpy()
    closed = []
    for h, prior in zip(fit.vector.flat(u).numpy(), fit.vector.log_prior(u), strict=True):
        m, s, a, b, c = h
        mean = np.array([m, a + b * (m - 23)])
        whole = cov + np.array([[s**2, b * s**2], [b * s**2, c**2 + b**2 * s**2]])
        off = mu - mean
        chi2 = np.einsum("ni,nij,nj->n", off, np.linalg.inv(whole), off)
        closed.append(-0.5 * (chi2 + np.linalg.slogdet(whole)[1]).sum() + float(prior))
    assert np.abs((ours - ours[0]) - (np.array(closed) - closed[0])).max() < 0.03


def test_a_magnitude_limited_population_is_recovered_and_controls_are_not():
    mu, cov, _ = galaxies(700, 2, limit=23.5)
    selection = {"mag": (None, 23.5)}
    right = fit_population(mu, cov, interim="flat", model=LINE, selection=selection, settings=QUICK)
    assert max(map(abs, pulls(right).values())) < 3
    assert right.diagnostics["rhat"] < 1.1
    without = fit_population(mu, cov, interim="flat", model=LINE, settings=QUICK)
    assert pulls(without)["mag.mean"] < -10
    ignored = fit_population(
        mu, np.full_like(mu, 1e-3), interim="flat", model=LINE, selection=selection,
        noise="fixed", outliers=False, settings=QUICK,
    )  # fmt: skip
    assert pulls(ignored)["ln_re.scatter"] > 3


def test_injections_say_what_limits_do_and_too_few_are_refused():
    rng = np.random.default_rng(5)
    x = rng.standard_normal(1200)
    seen = x + 0.3 * rng.standard_normal(1200)
    mu, sigma = seen[seen < 0.5][:400, None], np.full((400, 1), 0.3)

    def fitted(selection):
        return fit_population(
            mu, sigma, interim="flat", noise="fixed", outliers=False, selection=selection,
            model={"type": "galaxy", "parameters": {"ln_n": {"normal": ["free", "free"]}}},
            settings=PopulationSettings(sampler="laplace"),
        )  # fmt: skip

    def injected(j):
        at = rng.uniform(-5, 5, j)
        found = at + 0.3 * rng.standard_normal(j) < 0.5
        return Injections({"ln_n": at}, found, np.full(j, -np.log(10)))

    limited, counted = fitted({"ln_n": (None, 0.5)}), fitted(injected(200_000))
    errors = np.std(limited.draws.reshape(-1, 2), 0)
    off = (counted.vector.flat(counted.best[None]) - limited.vector.flat(limited.best[None]))[0]
    assert (np.abs(off.numpy()) < 0.3 * errors).all()
    for one in (limited, counted):
        assert one.diagnostics["detected"] == pytest.approx(0.68, abs=0.1)
    assert limited.diagnostics["detected"] == pytest.approx(
        counted.diagnostics["detected"], abs=0.02
    )
    assert counted.diagnostics["selection_size"] > 1600
    with pytest.raises(SettingsError, match="400 objects need 1600"):
        fitted(injected(3000))


def test_priors_of_the_fits_are_divided_out():
    """With the prior divided out the answer is that of the likelihoods, to the sampler's noise."""
    mu, cov, _ = galaxies(400, 3)
    middle, precision = np.array([22.0, -1.0]), np.diag([0.0, 1 / 0.3**2])
    own = np.linalg.inv(cov)
    posterior = np.linalg.inv(own + precision)
    pulled = np.einsum("nij,nj->ni", own, mu) + precision @ middle
    given = np.einsum("nij,nj->ni", posterior, pulled)
    settings = {"model": LINE, "noise": "fixed", "outliers": False, "settings": QUICK}
    flat = fit_population(mu, cov, interim="flat", **settings)
    divided = fit_population(given, posterior, interim=(middle, precision), **settings)
    assert torch.allclose(flat.objects.mean, divided.objects.mean, atol=1e-8)
    assert torch.allclose(flat.best, divided.best, atol=0.01)
    left_in = fit_population(given, posterior, interim="flat", **settings)
    assert pulls(left_in)["ln_re.scatter"] < -3
    with pytest.raises(SettingsError, match="the prior that the posteriors contain is None"):
        fit_population(mu, cov, model=LINE)
    with pytest.raises(InputError, match="1 of 400 covariances are none"):
        fit_population(mu, np.where(np.arange(400)[:, None, None] == 7, -cov, cov), interim="flat",
                       model=LINE)  # fmt: skip


def test_a_flat_likelihood_returns_the_prior():
    model = {"type": "galaxy", "parameters": {"x": {"normal": [{"normal": [2, 0.5]},
                                                              {"log-normal": [0.4, 0.3]}]}}}  # fmt: skip
    settings = PopulationSettings(draws=400, warmup=50)
    fit = fit_population(
        np.full((50, 1), np.nan), np.full((50, 1), np.nan), interim="flat", model=model,
        noise="fixed", outliers=False, settings=settings,
    )  # fmt: skip
    assert abs(fit["x.mean"].mean() - 2) < 0.1 and abs(fit["x.mean"].std() / 0.5 - 1) < 0.1
    sd = np.log(fit["x.sd"])
    assert abs(sd.mean() - np.log(0.4)) < 0.06 and abs(sd.std() / 0.3 - 1) < 0.1


def test_samples_tell_what_their_gaussians_tell_and_none_is_dropped():
    """To a quarter of the error; objects with samples of little worth are Gaussians."""
    mu, cov, _ = galaxies(250, 4)
    rng = np.random.default_rng(5)
    noise = np.linalg.cholesky(cov)[:, None] @ rng.standard_normal((250, 300, 2, 1))
    samples = mu[:, None] + noise[..., 0]
    samples = [one if k else one[:6] for k, one in enumerate(samples)]
    settings = {"model": LINE, "noise": "fixed", "outliers": False, "settings": QUICK}
    fit = fit_population(samples=samples, interim="flat", **settings)
    gaussian = fit_population(mu, cov, interim="flat", **settings)
    off = (fit.best - gaussian.best).numpy()
    error = gaussian.samples.draws[0].flatten(0, 1).std(0).numpy()
    assert np.abs(off / error).max() < 0.25
    assert fit.as_gaussian[0] and fit.diagnostics["objects"] == 250
    assert len(fit.shrink().mean) == 250 and np.isfinite(fit.shrink().mean).all()


def test_shrinkage_missing_data_and_outliers():
    """Poor measurements move to the relation; unmeasured sizes follow from the magnitude."""
    mu, cov, x = galaxies(500, 6)
    cov[::2] *= 9.0
    rng = np.random.default_rng(7)
    mu[::2] = x[::2] + (np.linalg.cholesky(cov[::2]) @ rng.standard_normal((250, 2, 1)))[..., 0]
    missing = np.arange(500) % 10 == 1
    mu[missing, 1] = np.nan
    wild = np.arange(500) % 50 == 3
    mu[wild, 1] += 12 * np.sqrt(cov[wild, 1, 1])
    fit = fit_population(mu, cov, interim="flat", model=LINE, noise="fixed", settings=QUICK)
    after = fit.shrink()
    poor = (np.sqrt(cov[:, 1, 1]) > 0.4) & ~missing & ~wild
    before, rms = ((v[poor, 1] - x[poor, 1]).std() for v in (mu, after.mean))
    assert rms < 0.55 * before
    inside = np.abs(after.mean - x)[poor] < after.errors[poor]
    assert 0.6 < inside.mean() < 0.77
    relation = -0.8 - 0.27 * (after.mean[missing, 0] - 23)
    assert np.abs(after.mean[missing, 1] - relation).max() < 0.15
    assert after.errors[missing, 1].min() > 0.35
    far = wild & (12 * np.sqrt(cov[:, 1, 1]) > 2)
    assert after.p_outlier[far].min() > 0.9 and np.median(after.p_outlier) < 0.1


def test_groups_with_numbers_of_their_own_nested_in_a_distribution():
    rng = np.random.default_rng(8)
    field = np.repeat(np.arange(12), 40)
    level = 1.0 + 0.5 * rng.standard_normal(12)
    x = level[field] + 0.3 * rng.standard_normal(480)
    sigma = np.full((480, 1), 0.2)
    model = {
        "type": "galaxy",
        "hyper": {"all": {"normal": [0, 3]}, "between": {"log-normal": [0.3, 1]}},
        "parameters": {"x": {"normal": [{"normal": ["all", "between"], "by": "field"},
                                        {"log-normal": [0.3, 1]}]}},
    }  # fmt: skip
    fit = fit_population(
        x[:, None] + 0.2 * rng.standard_normal((480, 1)), sigma, interim="flat", model=model,
        covariates={"field": field}, noise="fixed", outliers=False, settings=QUICK,
    )  # fmt: skip
    table = {row["name"]: row for row in fit.table()}
    off = [(table[f"x.mean[{k}]"]["median"] - level[k]) / 0.057 for k in range(12)]
    assert np.abs(off).max() < 3.5 and abs(np.std(off) - 1) < 0.5
    assert abs(table["between"]["median"] - level.std(ddof=1)) < 0.2
    assert abs(table["x.sd"]["median"] - 0.3) < 0.05


def test_the_result_is_a_population_file(tmp_path):
    """Evolution with a covariate is averaged over it."""
    rng = np.random.default_rng(9)
    z = rng.uniform(0.5, 1, 300)
    mu = np.stack([22 + rng.standard_normal(300), np.zeros(300)], 1)
    mu[:, 1] = -0.5 - 0.3 * (mu[:, 0] - 22) + 1.0 * (z - 0.75) + 0.2 * rng.standard_normal(300)
    entry = LINE["parameters"]["ln_re"] | {
        "on": ["mag", "z"], "at": [22, 0.75], "slope": ["free", "free"]
    }  # fmt: skip
    model = LINE | {"parameters": LINE["parameters"] | {"ln_re": entry}}
    fit = fit_population(
        mu, np.full_like(mu, 0.05), interim="flat", model=model, covariates={"z": z},
        noise="fixed", outliers=False, settings=QUICK,
    )  # fmt: skip
    slopes = [np.median(fit[f"ln_re.slope.{k}"]) for k in (1, 2)]
    assert slopes == pytest.approx([-0.3, 1.0], abs=0.1)
    population = read_population(fit.write(tmp_path / "found.yaml"))
    drawn = population.draw(20000)
    left = np.log(drawn["re"]) + 0.5 + 0.3 * (drawn["mag"] - 22)
    assert abs(left.mean()) < 0.05 and left.std() == pytest.approx(np.hypot(0.2, 0.144), abs=0.03)
    new = fit.predictive(2000, seed=1)
    assert set(new) == {"mag", "ln_re", "z"} and abs(new["mag"].mean() - 22) < 0.2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"mag": {"unit": "mag", "band": "r", "normal": ["loud", 1]}}, "'loud' is not under hyper"),
        (
            {"mag": {"unit": "mag", "band": "r", "normal": [{"gauss": [0, 1]}, 1]}},
            "neither a number",
        ),
        ({"x": {"normal": [{"normal": ["m", 1], "by": "f"}, 1]}}, "nested numbers"),
        ({"n": {"mixture": {"weights": [1], "means": [1], "covariances": [1]}}}, "is cut off"),
        ({"x": {"normal": [0, {"log-normal": [-1, 1]}]}}, "x.sd: the median"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(changed, says):
    with pytest.raises(SettingsError, match=says):
        read_population_model({"type": "galaxy", "parameters": changed})


def schechter(x, numbers):
    """ln of Schechter's function of magnitudes, whose faint end may depend on z."""
    bright = 0.4 * math.log(10) * (numbers["m_star"] - x["mag"])
    return (numbers["alpha"] + numbers["turn"] * (x["z"] - 1) + 1) * bright - bright.exp()


def test_a_density_in_python(tmp_path):
    """Schechter's function, as it was drawn, to three errors; the file holds its mean and sd."""
    entry = {
        "unit": "mag", "band": "r", "density": schechter, "given": "z", "truncate": [18.0, 24.0],
        "numbers": {"m_star": {"normal": [21, 1]}, "alpha": {"normal": [-1, 0.5]}, "turn": 0.2},
    }  # fmt: skip
    rng = np.random.default_rng(12)
    z = rng.uniform(0.5, 1.5, 600)
    model = read_population_model({"type": "galaxy", "parameters": {"mag": entry}})
    truth = {"mag.m_star": 20.5, "mag.alpha": -0.7}
    true = model.at(truth)[0].parts[0].draw(600, rng, {"z": z})["mag"]
    sigma = np.full((600, 1), 0.2)
    mu = true[:, None] + sigma * rng.standard_normal((600, 1))
    fit = fit_population(
        mu, sigma, interim="flat", model=model, covariates={"z": z}, noise="fixed", outliers=False,
        settings=QUICK,
    )  # fmt: skip
    rows = {row["name"]: row for row in fit.table()}
    for name, value in truth.items():
        assert abs(rows[name]["median"] - value) < 3 * rows[name]["error"] < 0.6
    filed = read_population(fit.write(tmp_path / "found.yaml")).terms[0]
    assert filed.numbers["mean"] == pytest.approx(true.mean(), abs=0.15)
    assert filed.numbers["sd"] == pytest.approx(true.std(), abs=0.15)
    with pytest.raises(SettingsError, match="give truncate"):
        read_population_model({"type": "galaxy", "parameters": {"mag": entry | {"truncate": None}}})


def test_covariates_that_are_not_given_are_named():
    mu, cov, _ = galaxies(20, 1)
    entry = LINE["parameters"]["ln_re"] | {"on": "z", "at": 1}
    model = LINE | {"parameters": LINE["parameters"] | {"ln_re": entry}}
    with pytest.raises(SettingsError, match="depends on 'z'"):
        fit_population(mu, cov, interim="flat", model=model)
    with pytest.raises(SettingsError, match="20 objects are too few"):
        fit_population(mu, cov, interim="flat", model=LINE, noise="model")
