"""Starts from the network: what is refused, what falls back, and what the pipeline makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("galsim")

from weights_bundles import add_initialise_bundle, tiny_initialiser

import autofit_ml
from autofit_ml.catalogue import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.initialisation import initialise, start_from_moments
from autofit_ml.initialisation.cutouts import SCALARS
from autofit_ml.initialisation.network import distance_from
from autofit_ml.initialisation.resnet import start_from_network
from autofit_ml.segmentation import segment
from autofit_ml.simulation import demo_set, simulate_sersic, to_stamps
from autofit_ml.weights import choice, manifest
from training.tasks.initialise.calibration import calibrate, distances, quantile, whitening


@pytest.fixture(scope="module")
def galaxies():
    """Eleven galaxies and their segmentations."""
    stamps = to_stamps(simulate_sersic(11, seed=8, snr=(50.0, 300.0)))
    return stamps, segment(stamps, "sep")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder with weights for both networks and seeing of 2 to 5 pixels."""
    root = tmp_path / "weights"
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(root))
    monkeypatch.setattr(manifest, "installed_folder", lambda: tmp_path / "not installed")
    add_initialise_bundle(
        root, "initialise/test-any@1.0.0", psf_fwhm=(2.0, 5.0), pixel_scale=(0.1, 0.4)
    )
    choice.forget()
    yield root
    choice.forget()


def test_a_start_that_fits_worse_than_usual_is_taken_from_moments(galaxies):
    """An untrained network: its thresholds say that nothing it gives is usual."""
    network = tiny_initialiser(usual_chi2=0.0)
    starts = start_from_network(*galaxies, network)
    moments = start_from_moments(*galaxies)
    fallback = (starts.flags & int(Flag.INIT_FALLBACK)) != 0
    assert fallback.mean() > 0.8
    np.testing.assert_array_equal(starts.values[fallback], moments.values[fallback])
    assert starts.cov is not None
    assert (starts.cov[fallback] == 0).all()
    assert (starts.cov[~fallback].diagonal(axis1=1, axis2=2) > 0).all()
    assert not (starts.flags & int(Flag.OUT_OF_DOMAIN)).any()


def test_far_features_are_out_of_domain(galaxies):
    starts = start_from_network(*galaxies, tiny_initialiser(usual_distance=0.0))
    assert (starts.flags & int(Flag.OUT_OF_DOMAIN)).all()


def test_starts_are_within_limits_whatever_the_network_says(galaxies):
    network = tiny_initialiser()
    with torch.no_grad():
        network.mean.weight.mul_(1000.0)
    starts = start_from_network(*galaxies, network)
    x, y, flux, re, n, q, pa, _ = starts.values.T
    sides = np.array([stamp.shape for stamp in galaxies[0]])
    assert np.isfinite(starts.values).all()
    assert ((x >= 0) & (x <= sides[:, 1] - 1) & (y >= 0) & (y <= sides[:, 0] - 1)).all()
    assert (flux > 0).all()
    assert ((re > 0) & (n >= 0.3) & (n <= 8)).all()
    assert ((q >= 0.0999) & (q <= 1) & (pa >= 0) & (pa < 180)).all()


def drawn_answers(number: int, seed: int):
    """Errors whose scale depends on S/N, predicted size, others' light and a feature."""
    rng = torch.Generator().manual_seed(seed)
    ln_snr = torch.rand(number, generator=rng) * 5 + 1
    ln_sigma = torch.randn(number, 7, generator=rng) - 0.5 * ln_snr[:, None]
    # a triangle with these standard deviations and correlated rows
    lower = torch.randn(number, 7, 7, generator=rng).tril(-1) * 0.3 + torch.eye(7)
    lower = lower * (ln_sigma.exp() / lower.square().sum(2).sqrt())[..., None]
    k = torch.arange(7)
    others = (torch.rand(number, generator=rng) - 0.5).clamp_min(0.0)
    ln_scale = 0.2 - 0.2 * (ln_snr[:, None] - 3) * (k - 3) / 3 + 0.3 * torch.tanh(ln_sigma + 1)
    ln_scale = ln_scale + 0.05 * (ln_snr[:, None] - 3) * torch.tanh(ln_sigma + 2) + others[:, None]
    features = torch.randn(number, 16, generator=rng)
    ln_scale = ln_scale + 0.2 * features[:, 3:4]
    error = torch.randn(number, 7, generator=rng) * (ln_sigma + ln_scale).exp()
    scalars = torch.zeros(number, len(SCALARS))
    scalars[:, SCALARS.index("ln_snr")] = ln_snr
    scalars[:, SCALARS.index("contamination")] = others
    return features, error, lower, scalars


def calibrated(network, number: int, seed: int = 1):
    """The network after it was calibrated on drawn answers."""
    calibrate(network, torch.randn(50, 16), torch.rand(50), *drawn_answers(number, seed))
    return network


def scaled(network, features, lower, scalars):
    """Triangles as `InitialiseNetwork.gaussian` gives them."""
    network.uncalibrated = lambda features: (features, lower)
    try:
        return network.gaussian(features, scalars)[1]
    finally:
        del network.uncalibrated


def test_what_is_usual_is_measured():
    """Distances of the set itself are about 1."""
    network = tiny_initialiser()
    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(16, 16, generator=rng)
    features = torch.randn(4000, 16, generator=rng) @ mixing
    chi2 = torch.rand(4000, generator=rng)
    calibrate(network, features, chi2, *drawn_answers(500, 1))
    distance = network.distance(features)
    assert float(distance.square().mean()) == pytest.approx(1, abs=0.02)
    assert float((distance > network.usual_distance).float().mean()) == pytest.approx(
        0.002, abs=1e-3
    )
    assert float(network.usual_chi2) == pytest.approx(0.98, abs=0.01)


def test_errors_are_calibrated_at_every_size_and_at_every_signal():
    """In bins of S/N, of the predicted error and of others' light, on other objects."""
    network = calibrated(tiny_initialiser(), 20_000)
    features, error, lower, scalars = drawn_answers(60_000, 2)
    after = scaled(network, features, lower, scalars)
    before, sigma = (each.square().sum(2).sqrt() for each in (lower, after))
    was, inside = error.abs() < before, (error.abs() < sigma).float()
    ln_snr, others = (scalars[:, SCALARS.index(name)] for name in ("ln_snr", "contamination"))
    worst = 0.0
    for k in range(7):
        for at in (ln_snr, before[:, k].log(), others, features[:, 3]):
            for some in at.argsort().tensor_split(8):
                # 7500 objects a bin: 0.5 %; the rest is that of curves through parabolas
                assert float(inside[some, k].mean()) == pytest.approx(0.683, abs=0.05)
                worst = max(worst, abs(float(was[some, k].float().mean()) - 0.683))
    assert worst > 0.2
    # rows are scaled: what one parameter says about another stays
    ratio = after / lower
    rows = ratio.diagonal(dim1=1, dim2=2)[..., None].expand_as(ratio)
    known = lower.abs() > 1e-6
    torch.testing.assert_close(ratio[known], rows[known], rtol=1e-4, atol=0)


def test_nothing_is_scaled_before_a_calibration():
    network = tiny_initialiser()
    features, _, lower, scalars = drawn_answers(50, 3)
    assert torch.equal(scaled(network, features, lower, scalars), lower)
    calibrated(network, 99)
    assert torch.equal(scaled(network, features, lower, scalars), lower)


def test_objects_far_from_the_calibration_set_are_scaled_as_its_last():
    """Squares of what is a thousand times larger than ever seen must not become scales."""
    network = calibrated(tiny_initialiser(), 850)
    features, _, lower, scalars = drawn_answers(200, 4)
    usual = scaled(network, features, lower, scalars) / lower
    far = scaled(network, 1e3 * features, lower, 1e3 * scalars) / lower
    for ratio in (usual, far):
        diagonal = ratio.diagonal(dim1=1, dim2=2)
        assert ((diagonal > 0.02) & (diagonal < 50)).all()


def test_smaller_sets_give_a_common_factor():
    """A hundred new galaxies, errors twice as large: the shape of the functions stays."""
    network = calibrated(tiny_initialiser(), 5000)
    features, error, lower, scalars = drawn_answers(300, 5)
    before = scaled(network, features, lower, scalars)
    calibrate(network, torch.randn(50, 16), torch.rand(50), features, 2 * error, lower, scalars)
    factor = scaled(network, features, lower, scalars) / before
    for row in factor.diagonal(dim1=1, dim2=2).unbind(1):
        assert float(row.std()) < 1e-4
        # a 68 % point of 300: 4 %
        assert float(row.mean()) == pytest.approx(2, rel=0.15)


def test_images_unlike_the_training_set_start_from_moments(galaxies, weights):
    stamps, found = galaxies
    unlike = [stamps[0].replace(pixel_scale=3.0), *stamps[1:]]
    starts = initialise(unlike, found, "resnet")
    both = int(Flag.INIT_FALLBACK | Flag.OUT_OF_DOMAIN)
    assert starts.flags[0] & both == both
    assert starts.weights[0] == ""
    assert set(starts.weights[1:]) == {"initialise/test-any@1.0.0"}
    np.testing.assert_array_equal(
        starts.values[0], start_from_moments(stamps[:1], found[:1]).values[0]
    )


def test_no_weights(galaxies, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(tmp_path / "elsewhere"))
    choice.forget()
    with pytest.raises(SettingsError, match="no weights for the task 'initialise'"):
        initialise(*galaxies, "resnet")


def test_a_run_says_what_was_predicted(weights, tmp_path):
    """Columns init, weights and <name>_init; the untrained start is repaired by the fit."""
    demo_set(tmp_path / "images", seed=1)
    options = {"segmenter": "sep", "save": "none", "workers": 0}
    table = autofit_ml.fit(tmp_path / "images", init="resnet", **options)
    plain = autofit_ml.fit(tmp_path / "images", init="moments", **options)
    assert set(table["init"]) <= {"resnet", "moments"}
    assert "resnet" in set(table["init"])
    fallback = (np.asarray(table["flags"]) & int(Flag.INIT_FALLBACK)) != 0
    assert set(table["init"][fallback]) <= {"moments"}
    assert all("initialise/test-any@1.0.0" in text for text in table["weights"])
    assert np.isfinite(np.asarray(table["re_init"], dtype=float)).all()
    assert not np.allclose(table["n_init"], plain["n_init"])
    good = np.asarray(table["use"]) & np.asarray(plain["use"])
    np.testing.assert_allclose(
        np.asarray(table["chi2"])[good], np.asarray(plain["chi2"])[good], atol=1.0
    )


def test_a_prior_needs_the_network():
    with pytest.raises(SettingsError, match="prior"):
        autofit_ml.fit("nowhere", prior="network", init="moments")


@pytest.mark.parametrize("number", [300, 4000])
def test_few_objects_do_not_make_others_like_them_unlike(number):
    """Features of 96 dimensions, correlated, as of a network adapted to a few hundred galaxies."""

    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(96, 96, generator=generator)
    seen = torch.randn(number, 96, generator=generator) @ mixing
    others = torch.randn(2000, 96, generator=generator) @ mixing
    limit = quantile(distances(seen), 0.998)
    unlike = (distance_from(others, *whitening(seen)) > limit).float().mean()
    assert float(unlike) < 0.02
    far = distance_from(others + 4 * others.std(0), *whitening(seen)) > limit
    assert float(far.float().mean()) > 0.9


def test_older_calibrations_are_read_as_they_were():
    """Networks before 1.1.0 scaled by a function of the error and one of the S/N."""
    network, rng = tiny_initialiser(), torch.Generator().manual_seed(3)
    state = network.state_dict()
    for name in [name for name in state if name.startswith("scale")]:
        del state[name]
    for name in ("sigma_knots", "snr_knots"):
        state[name] = torch.randn(6, 7, generator=rng).cumsum(0).sort(0).values
    state["snr_knots"] = state["snr_knots"][:, :1].expand(6, 7).contiguous()
    for name in ("sigma_scale", "snr_scale"):
        state[name] = torch.randn(6, 7, generator=rng)
    network.load_state_dict(state)
    features, _, lower, scalars = drawn_answers(40, 6)
    ln_sigma = lower.square().sum(2).sqrt().log()
    ratio = (scaled(network, features, lower, scalars) / lower).diagonal(dim1=1, dim2=2).log()
    for k in range(7):
        expected = sum(
            np.interp(at, state[f"{name}_knots"][:, k], state[f"{name}_scale"][:, k])
            for name, at in (("sigma", ln_sigma[:, k]), ("snr", scalars[:, 2]))
        )
        np.testing.assert_allclose(ratio[:, k], expected, atol=1e-4)
