"""A galaxy in memory, and its fit."""

from __future__ import annotations

import numpy as np
import pytest
from galaxy_in_memory import QUICK, TRUTH, Galaxy, gaussian

import autofit_ml as afm


@pytest.fixture(scope="session")
def galaxy() -> Galaxy:
    random = np.random.default_rng(5)
    psf = gaussian(25, 1.5)
    sigma = np.full((81, 91), 0.3) + 0.001 * np.arange(91)
    data = afm.model_image(TRUTH, sigma.shape, psf=psf) + 0.2 + random.normal(0, sigma)
    mask = np.zeros(sigma.shape, bool)
    mask[5:9, 60:70] = True
    data[mask] = 50.0
    return Galaxy(data, sigma, psf, mask)


@pytest.fixture(scope="session")
def fit(galaxy) -> afm.Fit:
    return afm.fit(galaxy.data, **galaxy.planes, zeropoint=25.0, pixel_scale=0.2, **QUICK)
