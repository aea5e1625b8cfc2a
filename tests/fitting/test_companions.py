"""Sources that the segmentation missed: found in the residual, fitted along, or left alone."""

import numpy as np
import pytest
import torch
from scene_samples import stamp_of, starts_of

from autofit_ml.catalogue.flags import Flag, flag_names
from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.fitting.companions import compact_residuals
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import Source

SHAPE = (80, 80)
GALAXY = Source(39.6, 40.3, 30000.0, 9.0, 2.0, 0.8, 30.0)


def star(x, y, flux):
    return Source(x, y, flux, 0.0, np.nan, 1.0, 0.0)


def fit(*others, seed=3, **settings):
    """The galaxy's fit; the segmentation knows nothing of the others."""
    stamp, found = stamp_of(GALAXY, others, seed=seed, shape=SHAPE)
    own = (np.asarray(found.labels) > 0).astype(np.int32)
    missed = Segmentation(own, 1, np.zeros(SHAPE, bool), found.sky_level, found.sky_rms)
    return refine([stamp], None, starts_of(GALAXY), [missed], RefineSettings(**settings))[0]


def off(result, name, truth):
    """In units of the noise's error: the model's part knows that something is wrong."""
    place = result.names.index(f"sersic.{name}")
    return (result.values[place] - truth) / result.errors_stat[place]


def test_a_star_on_the_galaxy_is_fitted_along():
    """1.5 % of the light, 12 pixels from the centre."""
    others = star(49.0, 33.0, 450.0)
    without, result = fit(others, companions=0), fit(others)
    assert abs(off(without, "re", 9.0)) > 3
    assert result.neighbours == 1
    assert result["neighbour_1.x"] == pytest.approx(49.0, abs=0.15)
    assert result["neighbour_1.flux"] == pytest.approx(
        450, abs=4 * result.error("neighbour_1.flux")
    )
    for name, truth in (("re", 9.0), ("flux", 3e4), ("n", 2.0), ("q", 0.8)):
        assert abs(off(result, name, truth)) < 3, name
    assert result.chi2 / result.ndof == pytest.approx(1, abs=0.06)
    assert not result.flags & (Flag.POOR_FIT | Flag.BLENDED), flag_names(result.flags)


def test_a_satellite_gets_a_profile_and_a_star_does_not():
    result = fit(Source(54.0, 47.0, 1500.0, 2.5, 1.0, 0.9, 0.0), star(30.0, 28.0, 800.0))
    kinds = {item.profile: k for k, item in enumerate(result.around, start=1)}
    assert sorted(kinds) == ["point", "sersic"]
    assert result[f"neighbour_{kinds['sersic']}.x"] == pytest.approx(54.0, abs=0.3)
    assert result[f"neighbour_{kinds['point']}.x"] == pytest.approx(30.0, abs=0.2)
    assert abs(off(result, "re", 9.0)) < 3


def test_a_galaxy_alone_has_no_companion():
    for seed in range(4):
        one, other = fit(seed=seed), fit(seed=seed, companions=0)
        assert one.neighbours == 0
        assert np.array_equal(one.values, other.values)


def test_what_there_is_no_room_for_raises_blended():
    others = [star(49.0, 33.0, 900.0), star(27.0, 37.0, 1800.0)]
    result = fit(*others, companions=1)
    assert result.neighbours == 1
    assert result["neighbour_1.x"] == pytest.approx(27.0, abs=0.5)
    assert result.flags & Flag.BLENDED


def test_masked_neighbours_are_not_searched_for():
    assert fit(star(49.0, 33.0, 900.0), neighbours="mask").neighbours == 0


# --- what is a companion, and what is the galaxy's own

V, H = np.mgrid[: SHAPE[0], : SHAPE[1]]
ELLIPSE = np.array([[40.0, 40.0, 9.0, 0.8, 30.0]])


def blob(x, y, height, width=1.0):
    """As wide as the PSF of FWHM 3, times a factor."""
    sigma = 3 / 2.3548 * width
    return height * np.exp(-((H - x) ** 2 + (V - y) ** 2) / (2 * sigma**2))


def peaks(residual, seed=5):
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    image = torch.as_tensor(residual + noise, dtype=torch.float32)[None]
    light = torch.as_tensor(blob(40, 40, 30, 5), dtype=torch.float32)[None]
    ones = torch.ones_like(light)
    return compact_residuals(image, ones, light, 0 * light, ELLIPSE, [3.0]).get(0, ())


def test_a_peak_has_its_place_and_flux():
    (found,) = peaks(blob(52, 33, 8))
    assert found.profile == "point"
    assert found.start[:2] == pytest.approx([52, 33], abs=1)
    assert found.start[2] == pytest.approx(blob(52, 33, 8).sum(), rel=0.15)


def test_a_wide_peak_is_a_galaxy():
    (found,) = peaks(blob(52, 33, 8, 2.2))
    assert found.profile == "sersic"


@pytest.mark.parametrize(
    "residual",
    [
        np.zeros(SHAPE),
        blob(52, 33, 8) + blob(28, 47, 8),  # a bar, a ring: as much at the other side
        blob(52, 33, 8) - blob(46, 50, 8),  # an arm: dips as deep
        blob(52, 33, 24) - blob(46, 50, 8),  # a knot of an arm: a third as deep
        blob(41, 40, 8),  # a nucleus
        blob(40, 40, 5, 6),  # a wrong profile
        blob(76, 76, 8),  # far from the target
        blob(52, 33, 1.5),  # noise
    ],
)
def test_the_galaxys_own_structure_is_no_companion(residual):
    assert peaks(residual) == ()
