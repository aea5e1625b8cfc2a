"""From stamps to results, with an exact prior or an untrained network in the learned one's place."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image
from priors import gaussian_prior, observed, stamp_of
from weights_bundles import add_deconvolve_bundle, tiny_prior

import autofit_ml
from autofit_ml.deconvolution import (
    SamplingSettings,
    deconvolve_each,
    sharp_fits_bytes,
    sharp_preview_png,
)
from autofit_ml.deconvolution.diffusion import Draws
from autofit_ml.deconvolution.eps import denoised
from autofit_ml.deconvolution.network import InBfloat16
from autofit_ml.deconvolution.operator import observe
from autofit_ml.deconvolution.prior import sample_prior
from autofit_ml.deconvolution.spectra import BINS, coloured, fft2, grid_of, ifft2
from autofit_ml.deconvolution.summary import (
    detail_share,
    half_light_radius,
    output_wcs,
    prior_fraction,
)
from autofit_ml.errors import AutofitError, AutofitWarning, InputError, SettingsError
from autofit_ml.images.psf import gaussian_psf
from autofit_ml.images.psf_error import drawn_psfs, with_errors
from autofit_ml.weights import choice
from benchmarks.analytic_priors import GaussianPrior
from training.tasks.deconvolve.classes import fit_classes

QUICK = {"samples": 4, "steps": 6, "padding": 0, "prior": False}


def stamps(number: int = 3, side: int = 32):
    """Noisy blobs in a band-limited PSF."""
    prior = gaussian_prior()
    out = []
    for k in range(number):
        truth = prior.draw(1, torch.Generator().manual_seed(k))[0]
        out.append(observed(truth, k)[1].replace(id=f"g{k}"))
    return out


def run(given, denoiser, **settings):
    """Results with their warnings kept, not given: of a Gaussian field all detail is the prior's."""
    one = not isinstance(given, list)
    pairs = deconvolve_each(
        [given] if one else given, SamplingSettings(**settings), denoiser=denoiser
    )
    found = [result for _, result in pairs]
    return found[0] if one else found


def wcs() -> WCS:
    """0.2 arcsec pixels, turned by 30 degrees."""
    out = WCS(naxis=2)
    out.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    out.wcs.crval, out.wcs.crpix = [150.0, 2.0], [10.0, 20.0]
    turn = np.deg2rad(30)
    out.wcs.cd = (
        np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 0.2 / 3600
    )
    return out


def test_results_have_the_inputs_units_and_shape():
    prior = gaussian_prior()
    truth = prior.draw(1, torch.Generator().manual_seed(1))[0]
    _, stamp = observed(truth, 2)
    small = stamp.replace(data=stamp.data * 1e-9, sigma=stamp.sigma * 1e-9, id="small")
    one, other = run([stamp, small], prior, **{**QUICK, "samples": 64, "steps": 30})
    assert one.samples.shape == (64, 32, 32)
    assert one.mean.dtype == np.float32
    # The total is known to the noise of 1 024 pixels, 32.
    assert abs(one.mean.sum() - float(truth.sum())) < 150
    np.testing.assert_allclose(1e9 * other.mean, one.mean, atol=3 * one.std.max())
    assert one.chi2 == pytest.approx(1, abs=0.25)
    assert (one.q16 <= one.median).all() and (one.median <= one.q84).all()


def test_an_object_does_not_depend_on_the_others():
    """To the last bit, of whatever shape and with whatever masks and noise they are."""
    given, prior = stamps(), gaussian_prior()
    masked = given[0].mask.copy()
    masked[10:14, 10:14] = True
    others = [
        given[0].replace(mask=masked, sigma=given[0].sigma * (1 + masked)),
        given[2].replace(data=given[2].data[:-1], sigma=given[2].sigma[:-1], mask=masked[:-1]),
    ]
    alone = run(given[1], prior, **QUICK)
    together = run([others[0], given[1], others[1]], prior, **QUICK)
    np.testing.assert_array_equal(alone.samples, together[1].samples)
    np.testing.assert_array_equal(
        alone.samples, run([given[1], *others], prior, **QUICK)[0].samples
    )
    again = run(given[1], prior, seed=5, **QUICK)
    assert np.abs(again.samples - alone.samples).max() > 0.1


@pytest.mark.parametrize("measured", [False, True])
def test_samples_know_what_is_not_known_of_the_psf(measured):
    """Each has a PSF of its own: variances are those of a mixture over PSFs, of each mode."""
    prior, error = gaussian_prior(), 0.1
    truth = prior.draw(1, torch.Generator().manual_seed(1))[0]
    _, stamp = observed(truth, 2, fwhm=4.0)
    uncertain = with_errors(stamp.psf, error, 0.0)
    if measured:  # as of stars: it brings its errors
        stamp, error = stamp.replace(psf=uncertain), 0.0
    sharp = run(stamp, prior, samples=400, steps=64, padding=0, prior=False, psf_error=error)
    means, variances = [], []
    for psf in drawn_psfs(uncertain, 300, 1):
        observation = observe([stamp.replace(psf=psf)], padding=0)
        mean, variance = prior.posterior(observation)
        means.append(fft2(mean[0]))
        variances.append(variance[0])
    within, among = torch.stack(variances).mean(0), torch.stack(means).var(0)
    found = fft2(torch.from_numpy(sharp.samples).double()).var(0)
    ratio = (found / (within + among)).flatten()
    order = (among / within).flatten().argsort()
    groups = [float(part.mean()) for part in ratio[order].chunk(4)]
    # Groups of 136 modes: those that the PSF's errors decide have few independent numbers in them.
    np.testing.assert_allclose(groups, 1.0, atol=0.12)
    assert float((among / within).flatten()[order].chunk(4)[3].mean()) > 0.4


def test_bad_objects_do_not_stop_the_others():
    good = stamps(2)
    bad = good[0].replace(id="bad", sigma=0 * good[0].sigma)
    results = [
        result
        for _, result in deconvolve_each(
            [good[0], bad, good[1]], SamplingSettings(**QUICK), denoiser=gaussian_prior()
        )
    ]
    assert isinstance(results[1], InputError)
    assert [r.id for r in results if not isinstance(r, AutofitError)] == ["g0", "g1"]
    with pytest.raises(InputError, match="bad: the noise is zero"):
        autofit_ml.deconvolve(bad, weights=gaussian_prior(), **QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "dps"}, "sampler is 'dps'"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"oversampling": 4}, "oversampling is 4"),
        ({"target_fwhm": 1.0}, "target_fwhm is 1.0"),
        ({"samples": 1}, "samples is 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(SettingsError, match=message):
        SamplingSettings(**changes)


def test_wider_targets_are_the_samples_convolved():
    given = stamps(1)[0]
    prior = gaussian_prior()
    sharp = run(given, prior, **QUICK)
    wide = run(given, prior, target_fwhm=5.0, **QUICK)
    assert wide.target_fwhm == 5.0
    assert wide.mean.sum() == pytest.approx(sharp.mean.sum(), rel=1e-3)
    assert wide.mean.max() < sharp.mean.max()
    np.testing.assert_allclose(wide.residual, sharp.residual, atol=1e-3)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_file(oversampling):
    given = stamps(1)[0].replace(wcs=wcs())
    prior = gaussian_prior(32 * oversampling)
    sharp = run(given, prior, oversampling=oversampling, **QUICK)
    with fits.open(io.BytesIO(sharp_fits_bytes(sharp)), checksum=True) as hdus:
        names = [hdu.name for hdu in hdus]
        header = hdus[0].header
        assert names == [
            "PRIMARY", "STD", "SAMPLES", "Q16", "Q50", "Q84", "RESIDUAL", "PRIORFRAC",
        ]  # fmt: skip
        assert header["TARGFWHM"] == 2.0
        assert header["OVERSAMP"] == oversampling
        assert (header["SAMPLER"], header["NCALLS"], header["SEED"]) == ("eps", 7, 0)
        assert len(header["PSFHASH"]) == 40
        assert hdus["SAMPLES"].data.shape == (4, 32 * oversampling, 32 * oversampling)
        assert hdus["RESIDUAL"].data.shape == (32, 32)
        found = WCS(header)
    # The same place on the sky: the middle of stamp pixel (5, 7).
    place = [oversampling * v + 0.5 * (oversampling - 1) for v in (5, 7)]
    sky = given.wcs.pixel_to_world(5, 7)
    assert found.pixel_to_world(*place).separation(sky).arcsec < 1e-6


def test_sampling_of_the_wcs_with_cdelt():
    plain = WCS(naxis=2)
    plain.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plain.wcs.crval, plain.wcs.crpix, plain.wcs.cdelt = [10, 0], [5, 5], [-1e-4, 1e-4]
    fine = output_wcs(plain, 2)
    assert fine is not None
    assert (
        fine.pixel_to_world(2 * 8 + 0.5, 2 * 3 + 0.5).separation(plain.pixel_to_world(8, 3)).arcsec
        < 1e-6
    )


def test_preview():
    sharp = run(stamps(1)[0], gaussian_prior(), **QUICK)
    picture = Image.open(io.BytesIO(sharp_preview_png(sharp)))
    assert picture.width > 7 * 192


def test_prior_fraction_is_one_without_data():
    """Samples of the same distribution: the ratio of variances scatters about 1."""
    prior = gaussian_prior()
    first, second = (prior.draw(200, torch.Generator().manual_seed(k)) for k in (1, 2))
    ratio = prior_fraction(first, second, 1e-3)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.1)
    assert float(prior_fraction(0.1 * first, second, 1e-3).mean()) == pytest.approx(0.01, rel=0.15)


def test_detail_share_and_its_warning():
    prior = gaussian_prior()
    draws = prior.draw(50, torch.Generator().manual_seed(1))
    assert detail_share(draws, 4.0) > 0.9
    assert detail_share(draws[:1].repeat(50, 1, 1) + 1e-3 * draws, 4.0) < 0.01
    blurred = stamp_of(stamps(1)[0].data, psf=gaussian_psf(8.0))
    assert any("the prior's" in text for text in run(blurred, prior, **QUICK).warnings)
    sharper = stamps(1)[0]
    with pytest.warns(UserWarning, match="g0: .*the prior's"):  # as the function gives it
        autofit_ml.deconvolve(sharper, weights=prior, **QUICK)


def blob(size: float, q: float = 1.0, x: float = 0.0, side: int = 96) -> torch.Tensor:
    """Gaussian of this standard deviation along its axis, unit flux."""
    along = torch.arange(side).double() - (side - 1) / 2
    image = torch.exp(-0.5 * ((along[None, :] - x) ** 2 + (along[:, None] / q) ** 2) / size**2)
    return image / image.sum()


def test_half_light_radius():
    half = np.sqrt(2 * np.log(2))  # of a Gaussian, sigma
    assert half_light_radius(blob(8.0)) == pytest.approx(8 * half, rel=0.01)
    assert half_light_radius(blob(8.0, q=0.5)) == pytest.approx(8 * half * 0.5**0.5, rel=0.02)
    # Not the distance of a neighbour, and not the noise below zero.
    pair = blob(4.0, x=-24.0) + blob(4.0, x=24.0)
    assert half_light_radius(pair) == pytest.approx(4 * half * 2**0.5, rel=0.02)
    assert half_light_radius(blob(8.0) - 1e-7) == pytest.approx(8 * half, rel=0.01)
    assert np.isnan(half_light_radius(torch.zeros(8, 8)))


def test_objects_larger_than_those_of_the_training_get_a_warning():
    for size, warned in ((12.0, False), (18.0, True)):
        prior = GaussianPrior(3e4 * blob(size).float(), torch.full((96, 49), 0.01))
        stamp = stamp_of(np.asarray(3e4 * blob(float(np.hypot(size, 1.5)))))
        texts = run(stamp, prior, **QUICK).warnings
        assert any("half-light radius" in text for text in texts) == warned, texts


# ------------------------------------------------------------------ the network


def test_network_is_equivariant_and_independent_of_the_batch():
    """D(c u; c^2 q) = c D(u; q), for an untrained network with random last weights."""
    network = tiny_prior()
    grid = grid_of(32)
    generator = torch.Generator().manual_seed(0)
    spectrum = (torch.rand(4, *grid.shape, generator=generator) + 0.5) * 4
    u = 20 * gaussian_prior().mean + coloured(spectrum, 32, generator)
    with torch.no_grad():
        found = network.denoise(u, spectrum)
        scaled = network.denoise(1e-6 * u, 1e-12 * spectrum)
        alone = network.denoise(u[2:3], spectrum[2:3])
    assert float((1e6 * scaled - found).abs().max() / found.abs().max()) < 1e-4
    torch.testing.assert_close(alone, found[2:3], atol=1e-3, rtol=1e-4)


def test_network_takes_any_grid():
    network = tiny_prior()
    for side in (32, 40, 64):
        x = torch.zeros(1, side, side)
        x[0, side // 2, side // 2] = 1000.0
        with torch.no_grad():
            assert network.denoise(x, torch.ones(1, side, side // 2 + 1)).shape == x.shape


def test_bfloat16_differs_by_less_than_it_rounds():
    """The U-Net's part to a percent, the rest exactly; priors of one's own have no U-Net."""
    network = tiny_prior()
    grid = grid_of(32)
    spectrum = torch.full((3, *grid.shape), 4.0)
    noise = coloured(spectrum, 32, torch.Generator().manual_seed(0))
    u = 20 * gaussian_prior().mean + noise
    with torch.no_grad():
        exact, skip = network.estimate(u, spectrum)
        rounded = InBfloat16(network).denoise(u, spectrum)
    off = fft2(rounded - exact).flatten(1).abs() / skip.scale
    change = (fft2(exact).flatten(1) - 2 * skip.estimate).abs() / skip.scale  # of the U-Net
    assert 0 < float(off.square().mean() / change.square().mean()) < 0.02**2
    assert InBfloat16(network).get_buffer("usual_misfit") is network.usual_misfit
    with pytest.raises(SettingsError, match="bfloat16"):
        run(stamps(1), gaussian_prior(), precision="bfloat16")


def test_more_or_less_power_than_expected_is_told_to_the_network():
    """The conditioning vector's last part is ln of observed over expected power, by wavelength."""
    network = tiny_prior()
    grid = grid_of(32)
    spectrum = torch.full((2, *grid.shape), 1.0)
    noise = coloured(spectrum, 32, torch.Generator().manual_seed(0))
    seen = []
    network.embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    u = 1e-3 * gaussian_prior().mean + noise * torch.tensor([1.0, 3.0])[:, None, None]
    with torch.no_grad():
        network.denoise(u, spectrum)
    excess = 2 * seen[0][:, -BINS:]
    middle = slice(BINS // 4, 3 * BINS // 4)
    torch.testing.assert_close(
        (excess[1] - excess[0])[middle].mean(), torch.tensor(math.log(9.0)), atol=0.4, rtol=0
    )


def test_network_in_azulas_samplers():
    """The denoiser is azula's: its own samplers run on it."""
    from azula.sample import DDIMSampler

    network = tiny_prior()
    sampler = DDIMSampler(network, start=0.8, stop=0.1, steps=3, silent=True)
    found = sampler(1e3 * torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, 32, 32)
    assert torch.isfinite(found).all()


def test_classes_describe_what_they_were_fitted_to():
    """Of a Gaussian around two means, two classes find means and powers."""
    network = tiny_prior(classes=2)
    grid = grid_of(32)
    generator = torch.Generator().manual_seed(0)
    along = torch.arange(32) - 15.5
    r2 = along[:, None] ** 2 + along[None, :] ** 2
    means = torch.stack(
        [torch.exp(-r2 / (2 * size**2)) / (2 * np.pi * size**2) for size in (2.0, 5.0)]
    )
    power = torch.full((400, *grid.shape), 1e-7)
    images = means[torch.arange(400) % 2] + coloured(power, 32, generator)
    fit_classes(network, images)
    order = network.class_mean.amax((1, 2)).argsort(descending=True)
    torch.testing.assert_close(network.class_mean[order], means, atol=3e-4, rtol=0)
    # Without norm the power is 1024 times that of the orthonormal transform; a share of the whole
    # set's scatter is mixed in.
    usual = network.class_power[:, BINS // 2]
    torch.testing.assert_close(usual, torch.full((2,), 1024e-7), rtol=0.1, atol=0)
    torch.testing.assert_close(network.class_share, torch.full((2,), 0.5))


def test_skip_is_the_wiener_estimate_about_the_mean():
    """With one class it is Gaussian: known mean, power and flux give the analytic denoiser."""
    network = tiny_prior(classes=1, random=False)
    generator = torch.Generator().manual_seed(0)
    side, grid = 32, grid_of(32)
    mean = gaussian_prior().mean / gaussian_prior().mean.sum()
    bins = torch.linspace(np.log(3e-3), np.log(1e-4), BINS).exp()
    network.class_mean[0] = mean
    network.class_power[0] = bins
    network.class_power[0, 0] = 0
    network._kept.clear()
    power = (bins.log() @ grid.spread).exp().reshape(grid.shape) / side**2
    flux, q = 5000.0, 4.0
    x = flux * (mean + coloured(power.expand(40, -1, -1), side, generator))
    u = x + 2 * torch.randn(x.shape, generator=generator)
    spectrum = torch.full((40, *grid.shape), q)
    with torch.no_grad():
        found = network.denoise(u, spectrum)
    exact = GaussianPrior(flux * mean, flux**2 * power).denoise(u, spectrum)
    ratio = (found - x).square().mean() / (exact - x).square().mean()
    assert 0.95 < float(ratio) < 1.1  # the flux is not known to it


def test_prior_samples_have_the_flux_asked_for():
    """An exact prior with the flux told: fluxes scatter as little as the error allows."""
    power = torch.full((32, 17), 1e-6)
    prior = GaussianPrior(gaussian_prior().mean / gaussian_prior().mean.sum() * 0.9, power)
    samples = sample_prior(prior, 100, 32, Draws(0, torch.zeros(1, dtype=torch.long)))
    flux = samples.sum((1, 2))
    # The prior's flux is 0.9 +- 0.032, the measured one 1 +- 0.003.
    assert abs(float(flux.mean()) - 1) < 0.004
    assert float(flux.std()) < 0.005


def test_denoiser_in_batches():
    prior = gaussian_prior()
    u = prior.draw(6, torch.Generator().manual_seed(0)).reshape(2, 3, 32, 32)
    q = torch.ones(2, 1, 32, 17)
    whole, parts = denoised(prior, u, q, 64), denoised(prior, u, q, 2)
    torch.testing.assert_close(whole, parts)
    assert ifft2(fft2(u), 32).shape == u.shape


def test_weights_by_name(tmp_path, monkeypatch):
    """A bundle is found, loaded and named in the result."""
    info = add_deconvolve_bundle(tmp_path, "deconvolve/test-any@1.0.0")
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(tmp_path))
    choice.forget()
    try:
        with pytest.warns(AutofitWarning, match="g0"):  # an untrained prior knows nothing
            sharp = autofit_ml.deconvolve(
                stamps(1)[0], weights="deconvolve/test-any", **{**QUICK, "prior": True}
            )
        assert sharp.weights == info.name
        assert len(sharp.weights_sha256) == 64
        assert np.isfinite(sharp.prior_fraction).all()
    finally:
        choice.forget()
