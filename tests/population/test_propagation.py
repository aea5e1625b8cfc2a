"""Expectation propagation: closed forms, parameters shared exactly, images asked again."""

import numpy as np
import pytest
import torch
from galaxies import known_segmentations, truth_of

from autofit_ml import fit_population, refit_population
from autofit_ml.errors import SettingsError
from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.initialisation import Starts
from autofit_ml.population import PopulationSettings, read_population_model
from autofit_ml.population.coordinates import PlainCoordinates
from autofit_ml.population.propagation import propagate
from autofit_ml.simulation import simulate_sersic, to_stamps

QUICK = PopulationSettings(sampler="laplace", draws=1000)
SHARED = {
    "type": "galaxy",
    "parameters": {
        "s": {"normal": [{"normal": [0, 3], "by": "field"}, 0]},
        "y": {"on": "s", "at": 0, "mean": 0.5, "slope": 0.3, "scatter": 1.0},
    },
}


def correlated(n, seed):
    """Measurements (n, 2) of a number that fields of six share and one of each object's own."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, 2, 2)) * 0.4 + np.eye(2)
    cov = root @ root.transpose(0, 2, 1)
    s = np.array([1.0, -2.0])[np.arange(n) // 6]
    x = np.stack([s, 0.5 + 0.3 * s + rng.standard_normal(n)], 1)
    return x + (np.linalg.cholesky(cov) @ rng.standard_normal((n, 2, 1)))[..., 0], cov


def closed(mu, cov):
    """Mean and error of the number that objects (n, 2) share."""
    precision = np.linalg.inv(cov + np.diag([0.0, 1.0]))
    slope = np.array([1.0, 0.3])
    whole = np.einsum("i,nij,j->", slope, precision, slope) + 1 / 9
    return np.einsum("i,nij,nj->", slope, precision, mu - [0, 0.5]) / whole, whole**-0.5


def test_what_is_shared_exactly_is_the_closed_form():
    """Numbers and objects, of a catalogue and of images whose likelihoods are Gaussian."""
    mu, cov = correlated(12, 3)
    field = np.arange(12) // 6
    truth = [closed(mu[field == k], cov[field == k]) for k in (0, 1)]
    settings = {"outliers": False, "noise": "fixed", "settings": QUICK}
    found = fit_population(
        mu, cov, interim="flat", model=SHARED, covariates={"field": field}, **settings
    )
    images = torch.linalg.inv(torch.as_tensor(cov)), torch.as_tensor(mu)

    def tilted(mean, precision):
        whole = torch.linalg.inv(images[0] + precision)
        pull = images[0] @ images[1][..., None] + precision @ mean[..., None]
        return (whole @ pull)[..., 0], whole, images[0], (images[0] @ images[1][..., None])[..., 0]

    refitted = propagate(
        tilted, PlainCoordinates(("s", "y")), images[1], read_population_model(SHARED),
        covariates={"field": field}, settings=QUICK,
    )  # fmt: skip
    assert refitted.rounds <= 3
    for fit in (found, refitted.population):
        after = fit.shrink()
        for k, (mean, error) in enumerate(truth):
            assert abs(float(fit.best[k]) - mean) < 1e-3 * error
            assert fit[f"s.mean[{k}]"].std() == pytest.approx(error, rel=0.06)
            assert after.mean[field == k, 0] == pytest.approx(mean, abs=0.3 * error)
            assert np.ptp(after.mean[field == k, 0]) < 1e-9
    other = mu[0, 1] - cov[0, 1, 0] / cov[0, 0, 0] * (mu[0, 0] - truth[0][0])
    spread = cov[0, 1, 1] - cov[0, 1, 0] ** 2 / cov[0, 0, 0]
    own = (other / spread + 0.5 + 0.3 * truth[0][0]) / (1 / spread + 1)
    assert refitted.population.shrink().mean[0, 1] == pytest.approx(own, abs=0.1)


def test_images_share_an_index_and_a_scatter():
    """Ten faint images: truth within three errors, and more said than by any alone."""
    objects = simulate_sersic(
        10, seed=61, size=48, snr=(15.0, 40.0), psf_fwhm=(2.5, 3.0), n=(1.5, 1.5), re=(2.5, 4.0),
        sky=10.0,
    )  # fmt: skip
    truth = truth_of(objects)
    starts = Starts(truth, None, np.zeros(10, np.int32))
    fits = refine(to_stamps(objects), None, starts, known_segmentations(objects),
                  RefineSettings(keep=True, model_error=False))  # fmt: skip
    model = {
        "type": "galaxy",
        "parameters": {
            "ln_n": {"normal": [{"normal": [0.5, 1]}, 0]},
            "ln_rc": {"normal": [{"normal": [1, 1]}, {"log-normal": [0.2, 0.5]}]},
        },
    }
    found = refit_population(list(fits), model=model, settings=QUICK)
    assert found.moved < 0.05
    rows = {row["name"]: row for row in found.population.table()}
    shared = rows["ln_n.mean"]
    assert abs(shared["median"] - np.log(1.5)) < 3 * shared["error"]
    single = (fits.errors / fits.values)[:, 4]
    assert shared["error"] == pytest.approx((single**-2).sum() ** -0.5, rel=0.4)
    ln_rc = np.log(truth[:, 3] * np.sqrt(truth[:, 5]))
    after = found.population.shrink()
    pull = (after.mean[:, 1] - ln_rc) / after.errors[:, 1]
    assert np.sqrt(np.mean(pull**2)) < 1.5 and np.abs(pull).max() < 3.5
    with pytest.raises(SettingsError, match="disc.ln_n: not among"):
        refit_population(list(fits), model={"type": "galaxy", "parameters": {
            "disc.ln_n": {"normal": ["free", 0]}}})  # fmt: skip
