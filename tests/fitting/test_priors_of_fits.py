"""Priors of fits: they matter where the pixels do not decide, and nowhere else."""

import dataclasses
import math

import numpy as np
import pytest
from galaxies import known_segmentations, truth_of

from autofit_ml.catalogue import PRIOR_COORDINATES, ModelColumns, covariance_matrix
from autofit_ml.catalogue.flags import FATAL
from autofit_ml.fitting import RefineSettings, object_of, refine
from autofit_ml.images.stamp import PSF
from autofit_ml.initialisation import Starts
from autofit_ml.runs.object_fit import fit_of_scene
from autofit_ml.scenes import sersic
from autofit_ml.scenes.populations import read_population
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import simulate_sersic, to_stamps

ALIKE = {"psf_fwhm": (3.0, 3.5), "n": (0.6, 5.0), "re": (2.5, 7.0), "sky": 10.0}


def fitted(objects, prior, **options):
    """Fits from near the truth."""
    truth = truth_of(objects)
    truth[:, [2, 3, 4]] *= 1.1
    starts = options.pop("starts", None) or Starts(truth, None, np.zeros(len(truth), np.int32))
    return refine(
        to_stamps(objects), None, starts, known_segmentations(objects), RefineSettings(prior=prior),
        **options,
    )  # fmt: skip


def usable(fits):
    return (fits.flags & int(FATAL)) == 0


def test_faint_galaxies_become_usable_and_their_errors_stay_right():
    """Of 120 galaxies; the share within one error is 68 % +- 3 sqrt(0.22 / 110)."""
    objects = simulate_sersic(120, seed=31, snr=(10.0, 20.0), **ALIKE)
    free, broad = fitted(objects, "none"), fitted(objects, "broad")
    assert usable(free).mean() < 0.7 < 0.95 < usable(broad).mean()
    good = usable(broad)
    off = np.log(broad.values[:, 3] / truth_of(objects)[:, 3])[good]
    error = (broad.errors / broad.values)[good, 3]
    assert abs(np.median(off)) < 0.08
    assert abs(np.mean(np.abs(off) < error) - 0.68) < 0.14


def test_bright_galaxies_do_not_move():
    objects = simulate_sersic(60, seed=32, snr=(50.0, 300.0), **ALIKE)
    free, broad = fitted(objects, "none"), fitted(objects, "broad")
    shift = np.abs(broad.values - free.values)[:, :6] / free.errors[:, :6]
    assert shift[usable(free)].max() < 0.1
    assert [fit.prior for fit in (free[0], broad[0])] == ["none", "broad"]


def test_bright_galaxies_do_not_move_for_what_is_said_of_faint_neighbours():
    """Every second source has a tenth of the target's light or less."""
    objects = simulate_sersic(24, seed=37, snr=(50.0, 90.0), neighbours=6.0, **ALIKE)
    truth, found = truth_of(objects), known_segmentations(objects)
    starts = Starts(truth, None, np.zeros(len(truth), np.int32))
    found = [dataclasses.replace(a, labels=b.labels) for a, b in zip(found, objects, strict=True)]
    free, broad = (
        refine(to_stamps(objects), None, starts, found, RefineSettings(prior=prior))
        for prior in ("none", "broad")
    )
    assert sum(fit.neighbours > 0 for fit in free) > 6
    shift = np.abs(broad.values - free.values)[:, :6] / free.errors[:, :6]
    assert shift[usable(free)].max() < 0.1


def test_fits_with_a_prior_are_the_same_in_any_batch():
    objects = simulate_sersic(12, seed=33, snr=(10.0, 60.0), **ALIKE)
    together = fitted(objects, "broad")
    for k in (0, 7):
        alone = fitted(objects[k : k + 1], "broad")
        np.testing.assert_array_equal(alone.values[0], together.values[k])
        np.testing.assert_array_equal(alone.errors[0], together.errors[k])


def test_chi2_is_that_of_the_data(tmp_path):
    """A prior far from the truth moves the fit; chi2 says how badly it then fits, no more."""
    objects = simulate_sersic(3, seed=34, snr=(40.0, 50.0), **(ALIKE | {"n": (2.0, 2.0)}))
    path = tmp_path / "discs.yaml"
    path.write_text("type: galaxy\nparameters: {n: {log-normal: [0.6, 0.02]}}")
    pulled = fitted(objects, read_population(path), components=True)
    free = fitted(objects, "none")
    stamps = to_stamps(objects)
    for fit, best, stamp in zip(pulled, free, stamps, strict=True):
        model = sum(np.asarray(image, dtype=float) for image in fit.components[0].values())
        misfit = (((stamp.data - model) / stamp.sigma)[~stamp.mask] ** 2).sum()
        assert fit.chi2 == pytest.approx(misfit, abs=0.1)
        assert fit.chi2 > best.chi2 + 1 and fit["sersic.n"] < 0.8
        assert fit.bic - fit.chi2 == pytest.approx(fit.n_fitted * np.log(fit.n_eff))


def test_a_populations_sizes_depend_on_magnitudes(tmp_path):
    """With sizes that follow from magnitudes exactly, the fit's do too."""
    objects = simulate_sersic(4, seed=35, snr=(12.0, 15.0), **ALIKE)
    stamps = to_stamps(objects)
    path = tmp_path / "sizes.yaml"
    path.write_text(
        "name: line\ntype: galaxy\nparameters:\n"
        "  mag: {unit: mag, band: r, normal: [20, 3]}\n"
        "  q: {uniform: [0.98, 1]}\n"
        "  ln_re: {unit: arcsec, on: mag, at: 20, mean: 0.1, slope: -0.2, scatter: 0.003}\n"
    )
    fits = fitted(objects, read_population(path))
    for fit, stamp in zip(fits, stamps, strict=True):
        mag = stamp.zeropoint - 2.5 * np.log10(fit["sersic.flux"])
        size = np.log(fit["sersic.re"] * np.sqrt(fit["sersic.q"]) * stamp.pixel_scale)
        assert size == pytest.approx(0.1 - 0.2 * (mag - 20), abs=0.02)
        assert fit["sersic.q"] > 0.9 and fit.prior == "population:line"


def test_the_networks_prior_is_the_targets_whatever_is_fitted_along():
    objects = simulate_sersic(12, seed=36, size=96, snr=(20.0, 40.0), neighbours=12.0, **ALIKE)
    truth = truth_of(objects)
    cov = np.tile(np.diag([1e-4] * 7 + [0.0]), (len(truth), 1, 1))
    cov[0] = 0.0  # the network had nothing to say of this one
    starts = Starts(truth, cov, np.zeros(len(truth), np.int32), "resnet")
    segmentations = [
        dataclasses.replace(found, labels=one.labels)
        for found, one in zip(known_segmentations(objects), objects, strict=True)
    ]
    fits = refine(to_stamps(objects), None, starts, segmentations, RefineSettings(prior="network"))
    assert max(fit.neighbours for fit in fits) > 0
    assert [fit.prior for fit in fits] == ["broad", *["network"] * 11]
    found = np.array([[fit[f"sersic.{name}"] for name in ("re", "n")] for fit in fits])
    assert np.abs(np.log(found / truth[:, 3:5]))[1:].max() < 0.03


def test_a_fits_prior_is_in_its_row():
    """Broad at S/N 12, in the fit's coordinates; none is flat."""
    objects = simulate_sersic(2, seed=3, snr=(12.0, 14.0), psf_fwhm=(3.0, 3.2), sky=10.0)
    stamps, found = to_stamps(objects), known_segmentations(objects)
    starts = Starts(truth_of(objects), None, np.zeros(2, np.int32))

    def prior(kind):
        fits = refine(stamps, None, starts, found, RefineSettings(prior=kind), components=True)
        one = fit_of_scene(fits[0], object_of(stamps[0], found[0]), sersic(), ModelColumns())
        return one.numbers["prior_mean"], covariance_matrix(one.numbers["prior_precision"])

    mean, precision = prior("broad")
    k = PRIOR_COORDINATES.index("ln_n")
    assert mean[k] == pytest.approx(math.log(1.8)) and precision[k, k] == pytest.approx(
        0.75**-2, rel=0.01
    )
    assert precision[0, 0] == 0
    assert (prior("none")[1] == 0).all()


def test_without_a_psf_and_a_label_the_prior_is_as_wide_as_a_pixel():
    """A faint galaxy that nobody labelled, in an image that has no PSF."""
    (item,) = simulate_sersic(1, seed=33, snr=(12.0, 15.0), **ALIKE)
    (stamp,) = to_stamps([item])
    stamp = stamp.replace(psf=PSF(np.ones((1, 1), np.float32)))
    nothing = Segmentation(
        np.zeros(stamp.shape, np.int32), 0, np.zeros(stamp.shape, bool), 10.0, 1.0
    )
    starts = Starts(truth_of([item]), None, np.zeros(1, np.int32))
    (fit,) = refine([stamp], None, starts, [nothing], RefineSettings(prior="broad"))
    assert np.isfinite(fit.values).all() and np.isfinite(fit.chi2)
