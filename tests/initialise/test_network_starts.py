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
from autofit_ml.initialise import initialise, start_from_moments
from autofit_ml.initialise.resnet import start_from_network
from autofit_ml.segment import segment
from autofit_ml.simulate import demo_set, simulate_sersic, to_stamps
from autofit_ml.weights import choice, manifest


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


def test_calibration_measures_what_is_usual(galaxies):
    """Distances of the set itself are about 1; errors twice as large double sigma."""
    network = tiny_initialiser()
    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(16, 16, generator=rng)
    features = torch.randn(4000, 16, generator=rng) @ mixing
    lower = torch.eye(7).expand(2000, 7, 7)
    error = 2 * torch.randn(2000, 7, generator=rng)
    chi2 = torch.rand(4000, generator=rng)
    network.calibrate(features, chi2, error, lower)
    distance = network.distance(features)
    assert float(distance.square().mean()) == pytest.approx(1, abs=0.02)
    assert float((distance > network.usual_distance).float().mean()) == pytest.approx(
        0.002, abs=1e-3
    )
    assert float(network.usual_chi2) == pytest.approx(0.98, abs=0.01)
    torch.testing.assert_close(network.sigma_scale, torch.full((7,), 2.0), atol=0.15, rtol=0)


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
