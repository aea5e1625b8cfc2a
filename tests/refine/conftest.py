"""Simulated stamps for the tests of the refiner."""

import numpy as np
import pytest

pytest.importorskip("galsim")

from autofit_ml.segment import Segmentation  # noqa: E402
from autofit_ml.simulate import simulate_sersic, to_stamps  # noqa: E402


def truth_of(objects):
    """True parameters, (N, 8)."""
    return np.array(
        [
            [o.target.x, o.target.y, o.target.flux, o.target.re]
            + [o.target.n, o.target.q, o.target.pa, o.sky]
            for o in objects
        ]
    )


def known_segmentations(objects):
    """Segmentations from the truth: target 1, neighbours as contaminants."""
    return [
        Segmentation(o.labels * (o.labels == 1), 1, o.labels > 1, o.sky, 1.0) for o in objects
    ]


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
