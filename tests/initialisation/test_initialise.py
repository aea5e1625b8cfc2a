"""Starting values against GalSim truth, and their guarantees on hopeless input."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.initialisation import INITIALISERS, PARAMETERS, initialise, start_from_moments
from autofit_ml.initialisation.gaussians import SERSIC_VARIANCES, psf_gaussians, sersic_gaussians
from autofit_ml.measure import adaptive_moments
from autofit_ml.segmentation import Segmentation, segment_sep

COLUMN = {name: index for index, name in enumerate(PARAMETERS)}


def gaussian_image(shape, x, y, xx, xy, yy):
    dy, dx = np.mgrid[: shape[0], : shape[1]].astype(float)
    dx, dy = dx - x, dy - y
    det = xx * yy - xy * xy
    return np.exp(-0.5 * (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det)


def check_guarantees(starts, stamps):
    values = starts.values
    assert values.shape == (len(stamps), len(PARAMETERS))
    assert np.isfinite(values).all()
    assert (values[:, COLUMN["flux"]] > 0).all()
    assert (values[:, COLUMN["re"]] > 0).all()
    for name, low, high in (("n", 0.2, 8), ("q", 0.1, 1), ("pa", 0, 180)):
        assert (values[:, COLUMN[name]] >= low).all()
        assert (values[:, COLUMN[name]] <= high).all()


def test_adaptive_moments_of_a_gaussian_are_its_own():
    """Exact for a Gaussian; 1e-2 is the iteration's tolerance."""
    image = gaussian_image((61, 55), 26.3, 31.8, 16.0, 4.0, 9.0)
    result = adaptive_moments(image, 27.5, 30.5, 8.0)
    assert result.converged
    assert (result.x, result.y) == pytest.approx((26.3, 31.8), abs=0.02)
    assert (result.xx, result.xy, result.yy) == pytest.approx((16, 4, 9), rel=0.01)
    assert result.amplitude == pytest.approx(2 * np.pi * np.sqrt(16 * 9 - 16), rel=0.01)


def test_adaptive_moments_say_when_they_fail():
    image = np.full((21, 21), -1.0)
    result = adaptive_moments(image, 10, 9, 4.0)
    assert not result.converged
    assert (result.x, result.y, result.xx) == (10, 9, 4.0)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_sersic_gaussians_reproduce_the_profile(n):
    """8 % of the surface brightness where the light is, as the docstring says."""
    from scipy.special import gamma, gammaincinv

    b = gammaincinv(2 * n, 0.5)
    radius = np.geomspace(0.1, 3, 60)
    profile = b ** (2 * n) / (2 * np.pi * n * gamma(2 * n)) * np.exp(-b * radius ** (1 / n))
    weights = sersic_gaussians(n)
    terms = np.exp(-(radius[:, None] ** 2) / (2 * SERSIC_VARIANCES))
    model = (weights * terms / (2 * np.pi * SERSIC_VARIANCES)).sum(axis=1)
    # n = 1 is the hardest of these: 7 % at three half-light radii
    np.testing.assert_allclose(model, profile, rtol=0.08)
    # half of the flux inside the half-light radius
    half = (weights * (1 - np.exp(-1 / (2 * SERSIC_VARIANCES)))).sum()
    assert half == pytest.approx(0.5, abs=0.01)


def test_psf_gaussians():
    image = gaussian_image((25, 25), 12, 12, 2.5, 0, 2.5)
    described = psf_gaussians(PSF((image / image.sum()).astype(np.float32)))
    assert described.weights.sum() == pytest.approx(1)
    assert (described.weights * described.variances).sum() == pytest.approx(2.5, rel=0.03)
    assert described.xx == pytest.approx(2.5, rel=0.01)
    fine = psf_gaussians(
        PSF((image / image.sum()).astype(np.float32), has_pixel=False, oversampling=2)
    )
    assert fine.xx == pytest.approx(2.5 / 4 + 1 / 12, rel=0.01)


@pytest.fixture(scope="module")
def sample():
    pytest.importorskip("galsim")
    from autofit_ml.simulation import simulate_sersic, to_stamps, truth_table

    objects = simulate_sersic(300, seed=21, n=(0.6, 6), re=(2, 10), sky=(0, 5))
    stamps = to_stamps(objects)
    segmentations = [segment_sep(stamp) for stamp in stamps]
    return truth_table(objects), stamps, segmentations, start_from_moments(stamps, segmentations)


def test_starts_are_near_the_truth(sample):
    """n 0.6-6, re 2-10 px, q 0.1-1, S/N 10-1000, free sky, Moffat seeing of 2.5-5 px.

    Measured on 600 objects of another seed, segmented by sep (median, 16-84 %), S/N > 50 and
    n < 4: re 1.02 (0.99-1.06) and flux 1.02 (1.01-1.03) of the truth, n 1.01 (0.94-1.14), q off
    by 0.00 (-0.04 to 0.03); 99.4 % of re within 25 %, 99.1 % of fluxes within 15 %. At S/N 10-20
    about half are that near: re 0.4-1.4, flux 0.6-1.4, n drawn towards 1.5 (n > 4 starts at 0.5
    of the truth).
    """
    truth, stamps, _, starts = sample
    check_guarantees(starts, stamps)
    value = {name: starts.values[:, index] for name, index in COLUMN.items()}
    good = (truth["snr"] > 50) & (truth["n"] < 4)
    ratio = {
        name: value[name] / getattr(truth[name], "value", truth[name])
        for name in ("re", "flux", "n")
    }
    # wanted: 90 %; measured: see above
    assert (abs(ratio["re"] - 1) < 0.25)[good].mean() > 0.95
    assert (abs(ratio["flux"] - 1) < 0.15)[good].mean() > 0.95
    assert abs(np.median(ratio["re"][good]) - 1) < 0.05
    assert abs(np.median(ratio["flux"][good]) - 1) < 0.05
    assert abs(np.median(ratio["n"][good]) - 1) < 0.1
    assert abs(np.median((value["q"] - truth["q"])[good])) < 0.02
    distance = np.hypot(value["x"] - truth["x"].value, value["y"] - truth["y"].value)
    assert np.percentile(distance[good], 95) < 0.3
    assert distance.max() < 4
    elongated = good & (truth["q"] < 0.7)
    turned = (value["pa"] - truth["pa"].value + 90) % 180 - 90
    assert np.percentile(abs(turned[elongated]), 90) < 6
    assert abs(value["sky"] - truth["sky"]).max() < 3


def test_masked_pixels_do_not_bias(sample):
    """A third of the disc masked on one side: the mirror image stands in (5 %)."""
    truth, stamps, segmentations, starts = sample
    chosen = np.flatnonzero((truth["snr"] > 200) & (truth["n"] < 3))[:12]
    masked = []
    for index in chosen:
        stamp = stamps[index]
        x, y = starts.values[index, :2]
        reach = starts.values[index, COLUMN["re"]]
        dy, dx = np.ogrid[: stamp.shape[0], : stamp.shape[1]]
        hole = (dx - x > 0.5 * reach) & (abs(dy - y) < 2 * reach)
        data = np.where(hole, 0, stamp.data).astype(np.float32)
        masked.append(stamp.replace(data=data, mask=stamp.mask | hole))
    again = start_from_moments(masked, [segmentations[index] for index in chosen]).values
    before = starts.values[chosen]
    for name, tolerance in (("re", 0.08), ("flux", 0.05)):
        ratio = again[:, COLUMN[name]] / before[:, COLUMN[name]]
        assert abs(np.median(ratio) - 1) < tolerance
        assert abs(ratio - 1).max() < 0.3
    # half of the light on one side is gone; a start may be half a pixel off
    assert np.hypot(*(again - before)[:, :2].T).max() < 0.7


@pytest.mark.parametrize("method", INITIALISERS)
def test_units_do_not_matter(sample, method):
    """Maggies (1e-10) or electrons: same start, flux and sky scaled (float32 rounding)."""
    _, stamps, segmentations, _ = sample
    index = 3
    stamp = stamps[index]
    factor = np.float32(1e-10)
    small = stamp.replace(data=stamp.data * factor, sigma=stamp.sigma * factor)
    one = initialise([stamp], [segmentations[index]], method).values[0]
    two = initialise([small], [segment_sep(small)], method).values[0]
    for name in ("x", "y", "re", "n", "q", "pa"):
        assert two[COLUMN[name]] == pytest.approx(one[COLUMN[name]], rel=2e-3, abs=2e-3)
    for name in ("flux", "sky"):
        assert two[COLUMN[name]] == pytest.approx(1e-10 * one[COLUMN[name]], rel=5e-3)


@pytest.mark.parametrize("method", INITIALISERS)
@pytest.mark.parametrize("size", [8, 16, 33])
@pytest.mark.parametrize("kind", ["zeros", "noise", "negative", "masked", "point", "full", "spike"])
def test_hopeless_stamps_give_finite_starts(kind, size, method):
    rng = np.random.default_rng(4)
    shape = (size, size + 3)
    psf = gaussian_image((11, 11), 5, 5, 1.5, 0, 1.5)
    data = np.zeros(shape) if kind in ("zeros", "masked") else rng.normal(size=shape)
    mask = np.zeros(shape, dtype=bool)
    if kind == "negative":
        data -= 50 * gaussian_image(shape, size / 2, size / 2, 4, 0, 4)
    elif kind == "masked":
        mask[:] = True
    elif kind == "point":
        data[size // 2, size // 2] += 100
    elif kind == "full":
        data += 1e4
    elif kind == "spike":
        data[0, 0] = 1e30
    stamp = Stamp(
        "s",
        data.astype(np.float32),
        np.ones(shape, np.float32),
        mask,
        PSF((psf / psf.sum()).astype(np.float32)),
    )
    with np.errstate(all="ignore"):
        for segmentation in (
            segment_sep(stamp),
            Segmentation(np.zeros(shape, np.int32), 0, mask, float("nan"), float("nan")),
            Segmentation(np.ones(shape, np.int32), 1, mask, 0.0, 0.0),
        ):
            check_guarantees(initialise([stamp], [segmentation], method), [stamp])


def test_wrong_calls():
    with pytest.raises(SettingsError):
        initialise([], [], method="guess")
    with pytest.raises(SettingsError):
        initialise([None], [])
    assert initialise([], []).values.shape == (0, 8)
