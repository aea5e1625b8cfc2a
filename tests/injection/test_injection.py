"""Empty sky, galaxies put into it, and what is made of what is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("galsim", reason="GalSim draws the galaxies")

from autofit_ml.images.psf import gaussian_psf
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.injection import measure
from autofit_ml.injection.recovery import error_factor
from autofit_ml.injection.stamps import Population, emptied, empty_regions, inject, light_of
from autofit_ml.segmentation import Segmentation


def noise(shape, seed, correlated=False):
    field = np.random.default_rng(seed).normal(0, 1, shape)
    if correlated:
        field = ndimage.gaussian_filter(field, 0.8)
        field /= field.std()
    return field.astype(np.float32)


def stamp_of(data, **changes) -> Stamp:
    ones = np.ones(data.shape, np.float32)
    return Stamp(
        "s", data, ones, np.zeros(data.shape, bool), gaussian_psf(3.0),
        zeropoint=25.0, **changes,
    )  # fmt: skip


def labelled(shape, radius=14):
    y, x = np.indices(shape)
    return (np.hypot(x - shape[1] / 2, y - shape[0] / 2) < radius).astype(np.int32)


@pytest.mark.parametrize("correlated", [False, True])
def test_objects_become_sky_with_its_level_noise_and_correlation(correlated):
    shape = (96, 96)
    sky = 20 + noise(shape, 1, correlated)
    labels = labelled(shape)
    galaxy = np.where(labels > 0, 500, 0).astype(np.float32)
    found = Segmentation(labels, 1, np.zeros(shape, bool), 20.0, 1.0)
    empty = emptied(stamp_of(sky + galaxy), found, np.random.default_rng(2))
    middle = empty.data[36:60, 36:60]
    assert abs(middle.mean() - 20) < 0.25 and 0.85 < middle.std() < 1.15
    outside = labels == 0
    far = ndimage.distance_transform_edt(outside) > 4
    np.testing.assert_array_equal(empty.data[far], sky[far])
    adjacent = np.corrcoef(middle[:, 1:].ravel(), middle[:, :-1].ravel())[0, 1]
    true = np.corrcoef(sky[:20, 1:].ravel(), sky[:20, :-1].ravel())[0, 1]
    assert abs(adjacent - true) < 0.15  # seams between tiles cost an eighth
    assert not empty.mask.any()


def test_a_stamp_full_of_galaxy_has_no_sky():
    shape = (48, 48)
    found = Segmentation(labelled(shape, 30), 1, np.zeros(shape, bool), 0.0, 1.0)
    assert emptied(stamp_of(noise(shape, 1)), found, np.random.default_rng(0)) is None


def test_empty_regions_of_a_frame():
    shape = (300, 300)
    labels = np.zeros(shape, np.int32)
    labels[100:140, 100:140] = 1
    frame = Frame(
        "f", noise(shape, 3), np.ones(shape, np.float32), np.zeros(shape, bool),
        gaussian_psf(3.0),
    )  # fmt: skip
    stamps = empty_regions(frame, labels, 12, 15.0, np.random.default_rng(1))
    assert len(stamps) == 12
    for stamp in stamps:
        ny, nx = stamp.shape
        x, y = stamp.origin[0] + nx // 2, stamp.origin[1] + ny // 2
        assert not labels[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12].any()
    full = np.ones(shape, np.int32)
    assert empty_regions(frame, full, 5, 15.0, np.random.default_rng(1)) == []


def test_galaxies_are_like_the_catalogues():
    like = Population(
        np.array([20.0, 21.0]), np.array([100.0, 40.0]), np.array([4.0, 2.0]),
        np.array([1.0, 4.0]), np.array([0.5, 0.9]),
    )  # fmt: skip
    rng = np.random.default_rng(4)
    stamp = stamp_of(noise((64, 64), 5), gain=2.0)
    drawn = [like.draw(rng, stamp) for _ in range(200)]
    fluxes = np.array([one["flux"] for one in drawn])
    # Magnitude 20 and 21 at a zero point of 25: 100 and 40 image units.
    assert 0.8 < np.median(fluxes[fluxes > 63]) / 100 < 1.2
    assert all(abs(one["x"] - 31.5) <= 0.5 and 0.1 <= one["q"] <= 1 for one in drawn)
    one = dict(drawn[0], flux=4000.0)
    with_galaxy = inject(stamp, light_of(one, stamp), rng)
    light = (with_galaxy.data - stamp.data).sum()
    assert light == pytest.approx(4000, rel=0.1)
    assert with_galaxy.sigma.max() > 1.5  # its photons


def _truth(k):
    rng = np.random.default_rng(k)
    flux = float(10 ** rng.uniform(1, 3))
    return {"x": 30.0, "y": 30.0, "flux": flux, "re": 4.0 + k % 5, "n": 1.5, "q": 0.6, "pa": 10.0,
            "zeropoint": 25.0}  # fmt: skip


def test_figures_of_a_known_scatter():
    """Errors that are half of what they should be, a bias of 5 % in re, a tenth not found."""
    rng = np.random.default_rng(8)
    truth, rows, names = [], {}, []
    for k in range(2400):
        one, name = _truth(k), f"i{k}"
        truth.append(one)
        names.append(name)
        if k % 10 == 0:
            rows[name] = {"use": False}
            continue
        row = {"use": True, "x": 30.3, "y": 29.8, "snr": 50.0}
        for key, scatter, bias in (("flux", 0.1, 0), ("re", 0.1, 0.05), ("n", 0.2, 0)):
            row[key] = one[key] * float(np.exp(rng.normal(bias, scatter)))
            row[f"{key}_err"] = 0.5 * scatter * row[key]
        row["q"], row["q_err"] = one["q"] + float(rng.normal(0, 0.05)), 0.05
        rows[name] = row
    found = measure(truth, rows, names)
    assert found.brightness == "mag" and found.complete == pytest.approx(0.9)
    table = found.by_magnitude
    assert len(table) == 6 and table["objects"].sum() == 2400
    assert np.allclose(table["bias_re"], 0.05, atol=0.03)
    assert np.allclose(table["scatter_flux"], 0.1, atol=0.03)
    assert np.allclose(table["factor_flux"], 2.0, atol=0.45)
    assert np.allclose(table["factor_q"], 1.0, atol=0.25)
    assert np.all(np.abs(table["coverage_flux"] - 0.383) < 0.13)
    assert found.by_size["low"][0] == pytest.approx(4.0)
    factor = error_factor(found, "flux", np.array([10.0, np.nan, 40.0]))
    assert factor[0] == pytest.approx(table["factor_flux"][0])
    assert np.isnan(factor[1]) and factor[2] == pytest.approx(table["factor_flux"][-1])


def test_galaxies_found_elsewhere_are_not_recovered():
    row = {"use": True, "x": 50.0, "y": 30.0, "snr": 9.0}
    for key in ("flux", "re", "n", "q"):
        row[key] = row[f"{key}_err"] = 1.0
    found = measure([_truth(1)] * 2, {"a": row}, ["a", "b"])
    assert found.complete == 0
    assert len(found.by_magnitude) == 1 and np.isnan(found.by_magnitude["bias_re"][0])


def test_without_zero_point_brightness_is_flux():
    found = measure([{**_truth(k), "zeropoint": float("nan")} for k in range(20)], {},
                    [str(k) for k in range(20)])  # fmt: skip
    assert found.brightness == "-2.5 log10 flux" and found.complete == 0
