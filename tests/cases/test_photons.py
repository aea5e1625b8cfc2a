"""Images of counted photons, down to 0.02 a pixel of sky: unbiased without further ado."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import fitted, galaxy, header, psf_image, write

from autofit_ml.catalogue import Flag
from autofit_ml.measure import clipped_sky, model_sigma

SHAPE = (81, 81)
GALAXY = {"x": 40.0, "y": 40.0, "flux": 2000.0, "re": 7.0, "n": 1.0, "q": 0.7, "pa": 20.0}


@pytest.mark.parametrize("sky", [0.02, 0.3, 1.0, 5.0])
def test_poisson_images_are_unbiased(tmp_path, sky):
    rng = np.random.default_rng(1)
    expected = np.clip(galaxy(SHAPE, **GALAXY) + sky, 0, None)
    write(tmp_path / "psf.fits", psf_image())
    cards = {"GAIN": 1.0, "RDNOISE": 0.0} | ({"SKYLEVEL": sky} if sky < 0.1 else {})
    for k in range(16):
        counts = rng.poisson(expected).astype(np.float32)
        write(tmp_path / f"r{k:02d}_image.fits", counts, header(SHAPE, **cards))
    rows = fitted(tmp_path).values()
    assert all(row["use"] for row in rows)
    # The mean of 16 pulls is known to 0.25.
    for name in ("flux", "re", "n", "q"):
        pulls = [(row[name] - GALAXY[name]) / row[f"{name}_err"] for row in rows]
        assert abs(np.mean(pulls)) < 0.5, (name, np.mean(pulls))
    assert not any(row["flags"] & (Flag.BAD_SIGMA | Flag.POOR_FIT) for row in rows)
    # Pearson's chi2 of 0.02 photons a pixel has a standard deviation of 0.09.
    room = 0.4 if sky < 0.1 else 0.15
    assert all(row["chi2_red"] == pytest.approx(1.0, abs=room) for row in rows)


def test_noise_from_the_level_that_the_header_knows():
    rng = np.random.default_rng(2)
    counts = rng.poisson(0.02, SHAPE).astype(float)
    sigma, background, _ = model_sigma(counts, np.zeros(SHAPE, bool), gain=1.0, sky_level=0.02)
    assert background == pytest.approx(np.full(SHAPE, 0.02**0.5))
    assert (sigma >= background).all()


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 1.0, 3.0, 10.0])
def test_level_and_scatter_of_counts(rate):
    counts = np.random.default_rng(3).poisson(rate, 40_000).astype(float)
    counts[::500] += 50 + 20 * rate  # sources
    level, scatter = clipped_sky(counts)
    assert level == pytest.approx(rate, rel=0.06)
    assert scatter == pytest.approx(rate**0.5, rel=0.06)
