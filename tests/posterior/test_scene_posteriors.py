"""Posteriors of fitted scenes: the four methods on images of known truth."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("galsim")

from scene_samples import bulge_and_disc, scene_object, single, starts_of

from autofit_ml.catalogue import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.fitting.choice import choose_models
from autofit_ml.posterior import BootstrapSettings, HMCSettings, LaplaceSettings, NestedSettings
from autofit_ml.posterior.choice import choose_by_evidence
from autofit_ml.posterior.scenes import nested_box, sample_fits, with_posterior
from autofit_ml.scenes import fixed, parse_model, sersic

HMC = HMCSettings(draws=250, warmup=150, rounds=1)


def fits_of(model, sources, **options):
    """Fits with their problems."""
    objects = [
        scene_object(source, seed=k, **options) for k, source in enumerate(sources, start=200)
    ]
    return refine(
        objects, parse_model(model), starts_of(*sources), settings=RefineSettings(keep=True)
    )


@pytest.fixture(scope="module")
def bright():
    """Two galaxies at S/N of a few hundred: Gaussian-like posteriors."""
    return fits_of("sersic", [single(flux=12000.0), single(flux=9000.0, n=1.0, q=0.8)],
                   shape=(40, 40))  # fmt: skip


@pytest.fixture(scope="module")
def hmc(bright):
    return sample_fits(bright, "hmc", HMC)


def test_hmc_agrees_with_laplace_where_the_posterior_is_gaussian(bright, hmc):
    """Means within a quarter of a sigma, widths within 15 % (1000 draws: 2 % and 3 %)."""
    for fit, posterior in zip(bright, hmc, strict=True):
        assert posterior.names == fit.names
        flat = posterior.draws.reshape(-1, len(posterior.names))
        free = np.array([not name.endswith((".q", ".pa")) for name in fit.names])
        pull = (flat.mean(0) - fit.values) / fit.errors
        assert np.abs(pull[free]).max() < 0.25
        ratio = flat.std(0) / fit.errors
        assert np.all((ratio > 0.85) & (ratio < 1.15)), dict(zip(fit.names, ratio, strict=True))
        assert float(posterior.samples.rhat.nan_to_num(1).max()) < 1.05


def test_laplace_draws_are_the_fits_gaussian(bright):
    posteriors = sample_fits(bright, "laplace", LaplaceSettings(draws=4000))
    for fit, posterior in zip(bright, posteriors, strict=True):
        flat = posterior.draws.reshape(-1, len(posterior.names))
        np.testing.assert_allclose(flat.std(0), fit.errors, rtol=0.1)


@pytest.mark.parametrize("scheme", ["wild", "parametric"])
def test_bootstrap_agrees_with_laplace_for_gaussian_noise(bright, scheme):
    settings = BootstrapSettings(replicates=60, scheme=scheme)
    (posterior,) = sample_fits(bright[:1], "bootstrap", settings)
    flat = posterior.draws.reshape(-1, len(posterior.names))
    ratio = flat.std(0) / bright[0].errors
    # 60 replicates: 9 %; signs of the few pixels of the core: more.
    assert np.all((ratio > 0.55) & (ratio < 1.6)), ratio


def test_errors_from_the_posterior(bright, hmc):
    one = with_posterior(bright[0], hmc[0])
    np.testing.assert_allclose(one.values, bright[0].values)
    np.testing.assert_allclose(one.errors, bright[0].errors, rtol=0.25)
    middle, low, high = hmc[0].interval("sersic.re")
    assert low < middle < high
    assert (high - low) / 2 == pytest.approx(one.error("sersic.re"), rel=0.02)


@pytest.mark.parametrize(
    ("laplace", "sampled", "flags", "wanted"),
    [
        (0.1, 0.8, 0, Flag.UNDETERMINED),
        (0.8, 0.1, Flag.UNDETERMINED, 0),
        (0.8, 0.9, Flag.UNDETERMINED, Flag.UNDETERMINED),
        (0.1, 0.2, Flag.UNDETERMINED | Flag.EXTRAPOLATED, Flag.UNDETERMINED | Flag.EXTRAPOLATED),
    ],
)
def test_what_the_data_do_not_say_is_told_by_the_posterior(bright, laplace, sampled, flags, wanted):
    """Sizes known to `laplace` and to `sampled` of themselves."""
    fit = bright[0]
    re = fit.names.index("sersic.re")
    errors = np.where(np.arange(len(fit.names)) == re, laplace * fit.values, fit.errors)
    fit = dataclasses.replace(fit, errors=errors, flags=int(flags))
    width = np.where(np.arange(len(fit.names)) == re, sampled * fit.values, 1e-3)
    draws = fit.values + width * np.random.default_rng(1).normal(size=(1, 2000, len(fit.names)))
    (hmc,) = sample_fits([bright[0]], "laplace")
    assert with_posterior(fit, dataclasses.replace(hmc, draws=draws)).flags == int(wanted)


def test_an_object_has_the_same_draws_in_any_batch(bright, hmc):
    (alone,) = sample_fits(bright[:1], "hmc", HMC)
    np.testing.assert_allclose(alone.draws[:, 0], hmc[0].draws[:, 0], rtol=2e-3)


def test_two_components_have_a_share():
    (fit,) = fits_of("sersic+exp", [bulge_and_disc(0.5, flux=60000.0)])
    (posterior,) = sample_fits([fit], "hmc", HMC)
    assert posterior.names[-1] == "fraction"
    middle, low, high = posterior.interval("fraction", 0.997)
    assert low < 0.5 < high
    assert 0 < middle < 1


def test_nested_and_hmc_agree_at_low_signal_to_noise():
    """n and the sky trade with each other: a curved posterior (position and shape held)."""
    pytest.importorskip("nautilus")
    source = single(flux=500.0, re=3.0, n=1.5)
    held = {name: fixed(getattr(source, name)) for name in ("x", "y", "q", "pa")}
    (fit,) = refine(
        [scene_object(source, seed=200, shape=(28, 28), sky=0.0)],
        sersic(**held),
        starts_of(source, sky=0.0),
        settings=RefineSettings(keep=True),
    )
    (nested,) = sample_fits(
        [fit], "nested", NestedSettings(live=150, effective=500, draws=2000, batch=256)
    )
    (hmc,) = sample_fits([fit], "hmc", HMCSettings(draws=400, warmup=150, rounds=1))
    assert nested.log_evidence_err < 0.5
    low, high = nested_box(fit)
    assert np.isfinite(nested.log_evidence)
    assert np.all(low <= high)
    for name in ("sersic.n", "sersic.re", "sersic.flux", "sky"):
        a, b = nested.interval(name), hmc.interval(name)
        width = (a[2] - a[1]) / 2
        # A few hundred effective draws of each: medians to 7 % of a sigma, widths to 5 %.
        assert abs(a[0] - b[0]) < 0.3 * width, (name, a, b)
        assert (b[2] - b[1]) / 2 == pytest.approx(width, rel=0.2)


def test_wrong_use(bright):
    with pytest.raises(SettingsError, match="use one of"):
        sample_fits(bright, "mcmc")
    with pytest.raises(SettingsError, match="give HMCSettings"):
        sample_fits(bright, "hmc", LaplaceSettings())
    bare = refine([scene_object(single())], parse_model("sersic"), starts_of(single()))
    with pytest.raises(SettingsError, match="keep=True"):
        sample_fits(bare, "hmc")


def test_evidence_decides_between_close_models():
    """A faint galaxy: an index, free or held, makes little difference."""
    source = single(flux=900.0, re=3.0, n=1.0, x=10.7, y=11.1)
    objects = [scene_object(source, seed=310, shape=(22, 22))]
    choices = choose_models(objects, starts_of(source), settings=RefineSettings(keep=True))
    settings = NestedSettings(live=80, effective=100, draws=100, discard_exploration=False)
    close = abs(choices[0].bic["exponential"] - choices[0].bic["sersic"]) + 0.1
    ((decided, posterior),) = choose_by_evidence(choices, settings, close)
    assert {"exponential", "sersic"} <= set(decided.log_evidence) <= set(decided.bic)
    assert decided.model == max(decided.log_evidence, key=decided.log_evidence.get)
    assert decided.fit is choices[0].fits[decided.model]
    assert posterior.names[: len(decided.fit.names)] == decided.fit.names
    assert decided.tried.count("(ln Z ") == len(decided.log_evidence)
    # What the free index costs: its share of the prior's range, not hundreds.
    gain = decided.log_evidence["sersic"] - decided.log_evidence["exponential"]
    assert -6 < gain < 3
