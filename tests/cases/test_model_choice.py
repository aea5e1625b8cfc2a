"""Which model an object gets where none of those that are tried is right."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import fitted, galaxy, header, noisy, psf_image, write

from autofit_ml.catalogue import Flag

SHAPE = (141, 141)


@pytest.mark.parametrize("flux", [1e6, 4e6])
def test_a_better_model_wins_though_its_residuals_are_structured(tmp_path, flux):
    # A disc of n 0.39, for which there is no exponential, around a bulge of another position angle.
    at = {"shape": SHAPE, "x": 70.3, "y": 69.6}
    light = galaxy(**at, flux=0.41 * flux, re=16.0, n=0.39, q=0.73, pa=75)
    light = light + galaxy(**at, flux=0.59 * flux, re=5.0, n=3.7, q=0.67, pa=29)
    sigma = np.sqrt(1 + light / 10)
    write(tmp_path / "in" / "psf.fits", psf_image(61))
    write(tmp_path / "in" / "two_image.fits", noisy(light, 0, sigma), header(SHAPE))
    write(tmp_path / "in" / "two_sigma.fits", sigma)
    row = fitted(tmp_path / "in", model="auto")["two"]
    assert row["model"] == "sersic+exp"
    assert row["use"] and row["flags"] & Flag.POOR_FIT
    assert abs(row["flux_total"] / flux - 1) < 0.03
