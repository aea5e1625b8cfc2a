"""Simulated stamps for the tests of the refiner."""

import pytest

pytest.importorskip("galsim")

from galaxies import known_segmentations, truth_of

from autofit_ml.simulation import simulate_sersic, to_stamps


@pytest.fixture(scope="session")
def noisy():
    """48 noisy galaxies: objects, stamps, segmentations, truth."""
    objects = simulate_sersic(48, seed=5, snr=(30.0, 500.0), sky=(0.0, 20.0))
    return objects, to_stamps(objects), known_segmentations(objects), truth_of(objects)


@pytest.fixture(scope="session")
def clean():
    """24 noise-free galaxies at S/N 1000."""
    objects = simulate_sersic(24, seed=6, snr=(1000.0, 1000.0), noise=False, sky=(5.0, 50.0))
    return objects, to_stamps(objects), known_segmentations(objects), truth_of(objects)
