"""Noise planes that are not the noise, and those that are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import NOISE, SHAPE, fitted, galaxy, header, noisy, psf_image, write

from autofit_ml.catalogue import Flag
from autofit_ml.fitting import Likelihood, RefineSettings, refine
from autofit_ml.fitting.sky_noise import sky_scatter
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import simulate_sersic, to_stamps

PLANES = {
    "right": (NOISE, ""),
    "x2": (2 * NOISE, "a factor"),
    "x5": (5 * NOISE, "a factor"),
    "x01": (0.1 * NOISE, "a factor"),
    "variance": (NOISE**2, "holds the variance"),
    "weight": (NOISE**-2, "the inverse variance"),
    "rate": (NOISE, "other units"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sigmas")
    write(folder / "psf.fits", psf_image())
    for seed, (name, (sigma, _)) in enumerate(PLANES.items()):
        unit = 1000.0 if name == "rate" else 1.0
        image = noisy(galaxy(), seed) / unit
        write(folder / f"{name}_image.fits", image, header(SHAPE, ZP=25 - 2.5 * np.log10(unit)))
        write(folder / f"{name}_sigma.fits", np.full(SHAPE, sigma))
    return fitted(folder)


@pytest.mark.parametrize("name", [name for name in PLANES if name != "right"])
def test_wrong_noise_planes_are_named(rows, name):
    row = rows[name]
    assert row["flags"] & Flag.BAD_SIGMA
    assert row["flags"] & Flag.POOR_FIT  # chi2 is not what the sky makes of it
    assert PLANES[name][1] in row["message"]
    # The message says how far off the plane is.
    ratio = float(row["message"].split("scatter by ")[1].split()[0])
    true = NOISE / (1000 if name == "rate" else 1)
    assert ratio == pytest.approx(true / PLANES[name][0], rel=0.06)


def test_right_noise_plane(rows):
    assert not rows["right"]["flags"] & (Flag.BAD_SIGMA | Flag.POOR_FIT)
    assert "scatter" not in rows["right"]["message"]


def known(objects):
    return [Segmentation(o.labels * (o.labels == 1), 1, o.labels > 1, o.sky, 1.0) for o in objects]


@pytest.mark.parametrize("text", ["gaussian", "poisson", "huber", "student-t", "cauchy"])
def test_right_fits_are_not_poor_with_any_likelihood(text):
    objects = simulate_sersic(40, seed=8, size=64, snr=(50.0, 300.0), sky=20.0, gain=5.0)
    stamps = [stamp.replace(gain=5.0) for stamp in to_stamps(objects)]
    fits = refine(
        stamps, segmentations=known(objects), settings=RefineSettings(likelihood=Likelihood(text))
    )
    assert (fits.flags & int(Flag.POOR_FIT) != 0).sum() <= 1  # 5 sigma: none is expected
    assert not (fits.flags & int(Flag.BAD_SIGMA)).any()


def test_wrong_models_are_poor_with_any_likelihood():
    # Two galaxies of which one is not in the model: chi2 says so, whatever it is made of.
    image = galaxy() + galaxy(x=62.0, y=60.0, re=3.0, n=0.7)
    one = simulate_sersic(1, seed=1, size=101)
    stamp = to_stamps(one)[0].replace(
        data=noisy(image, 1).astype(np.float32), sigma=np.full(SHAPE, NOISE, np.float32),
        mask=np.zeros(SHAPE, bool), gain=1.0, labels=None, x=50.3, y=49.6,
    )  # fmt: skip
    whole = Segmentation((image > NOISE).astype(np.int32), 1, np.zeros(SHAPE, bool), 0.0, NOISE)
    for text in ("gaussian", "huber", "student-t", "cauchy", "poisson"):
        settings = RefineSettings(likelihood=Likelihood(text), companions=0)
        row = refine([stamp], segmentations=[whole], settings=settings)[0]
        assert row.flags & Flag.POOR_FIT, text


def test_scatter_of_counts_and_of_few_pixels():
    import torch

    rng = np.random.default_rng(3)
    for rate in (0.02, 0.3, 1.0, 5.0, 40.0):
        counts = torch.as_tensor(rng.poisson(rate, (8, 90, 90)).astype(np.float32))
        pulls = (counts - rate) / rate**0.5
        got = sky_scatter(pulls, counts, torch.ones_like(counts, dtype=torch.bool))
        # Medians of counts move in steps: a tenth where the noise is six of them.
        assert torch.nanmean(got) == pytest.approx(1.0, abs=0.05 if rate < 40 else 0.1)
        assert torch.isfinite(got).all()
    few = torch.zeros((2, 90, 90), dtype=torch.bool)
    few[0, :22, :22], few[1, :23, :23] = True, True  # 484 and 529 pixels
    noise = torch.as_tensor(rng.normal(0, 1, (2, 90, 90)))
    got = sky_scatter(noise, noise, few)
    assert not torch.isfinite(got[0]) and 0.8 < got[1] < 1.25
    # A tenth of the pixels under sources that nobody knows of: still the noise.
    noise[:, ::10] += 8.0
    got = sky_scatter(noise, noise, torch.ones_like(few))
    assert (got - 1).abs().max() < 0.2
