"""Scenes recovered from images of known truth."""

import dataclasses

import numpy as np
import pytest
import torch
from scene_samples import bulge_and_disc, scene_object, single, stamp_of, starts_of, wcs_of

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.fitting import (
    Likelihood,
    RefineSettings,
    join_images,
    object_of,
    refine,
    with_totals,
)
from autofit_ml.fitting.choice import choose_models
from autofit_ml.fitting.neighbours import find_neighbours
from autofit_ml.fitting.objects import affine_between, carried
from autofit_ml.scenes import component, fixed, free, log_normal, parse_model, scene, sersic
from autofit_ml.scenes.model import Parameter
from autofit_ml.simulation.sources import Source

NAMES = ("x", "y", "flux", "re", "n", "q", "pa")


def fit(objects, model, sources, settings=None, **options):
    """Fits with starts near the truth."""
    whole = parse_model(model) if isinstance(model, str) else model
    return refine(
        objects, whole, starts_of(*sources), settings=settings or RefineSettings(), **options
    )


def changed(model, name, **parameters):
    """A scene whose component has other parameters."""
    whole = parse_model(model)
    parts = [
        dataclasses.replace(part, parameters={**part.parameters, **parameters})
        if part.name == name
        else part
        for part in whole.components
    ]
    return dataclasses.replace(whole, components=tuple(parts))


def test_a_single_sersic_equals_the_fast_path():
    """The same minimum and the same errors as `refine`."""
    objects = [scene_object(single(pa=20.0 * k, n=1.0 + k), seed=k) for k in range(3)]
    sources = [single(pa=20.0 * k, n=1.0 + k) for k in range(3)]
    fits = fit(objects, "sersic", sources)
    fast = refine(
        [o.reference for o in objects], None, starts_of(*sources), [o.segmentation for o in objects]
    )
    for k, one in enumerate(fits):
        np.testing.assert_allclose(one.chi2, fast.chi2[k], atol=0.05)
        pull = (one.values - fast.values[k]) / fast.errors[k]
        assert np.abs(pull).max() < 0.05
        np.testing.assert_allclose(one.errors, fast.errors[k], rtol=0.02)
        assert one.flags & int(FATAL) == 0
        assert one.names == (*(f"sersic.{name}" for name in NAMES), "sky")


def test_bulge_and_disc_are_told_apart():
    truths = (0.25, 0.5, 0.75)
    objects = [
        scene_object(bulge_and_disc(s, flux=60000.0), seed=10 + k, shape=(72, 72))
        for k, s in enumerate(truths)
    ]
    fits = fit(objects, "sersic+exp", [bulge_and_disc(s, flux=60000.0) for s in truths])
    for one, share in zip(fits, truths, strict=True):
        assert abs(one.fraction - share) < 4 * one.fraction_err + 1e-3
        assert one.fraction_err < 0.1
        assert one["exponential.re"] == pytest.approx(6.0, rel=0.1)
        assert one["exponential.x"] == one["sersic.x"]
        total = one["sersic.flux"] + one["exponential.flux"]
        assert one.flux_total[0] == pytest.approx(total)
        assert one.flux_total[0] == pytest.approx(60000.0, abs=4 * one.flux_total_err[0])


def test_point_source_in_a_galaxy():
    galaxy, star = single(flux=15000.0, re=5.0, n=1.0), Source(23.7, 24.2, 2500.0, 0.0, np.nan)
    (one,) = fit([scene_object(galaxy, [star], seed=21)], "psf+sersic", [galaxy],
                 RefineSettings(neighbours="mask"))  # fmt: skip
    # (The simulator's labels give the star's pixels to the galaxy: nothing is masked.)
    assert one["point.flux"] == pytest.approx(2500.0, abs=4 * one.error("point.flux"))
    assert one["sersic.re"] == pytest.approx(5.0, abs=4 * one.error("sersic.re"))


def test_neighbours_fitted_simultaneously_leave_no_bias():
    target = single(flux=8000.0)
    neighbour = single(x=30.5, y=27.5, flux=6000.0, re=3.5, n=1.0, q=0.8, pa=100.0)
    objects = [scene_object(target, [neighbour], seed=k) for k in range(6)]
    both = fit(objects, "sersic", [target] * 6)
    masked = fit(objects, "sersic", [target] * 6, RefineSettings(neighbours="mask"))
    pulls = np.array([(one["sersic.flux"] - 8000) / one.error("sersic.flux") for one in both])
    assert np.abs(pulls.mean()) < 3 / np.sqrt(6)
    off = [np.mean([abs(one["sersic.flux"] / 8000 - 1) for one in some]) for some in (both, masked)]
    assert off[0] < 0.5 * off[1]
    assert all(one.flags & int(Flag.BLENDED) for one in both)
    assert all(one.neighbours == 1 for one in both)
    assert both[0]["neighbour_1.flux"] == pytest.approx(6000, rel=0.2)


def test_a_distant_neighbour_stays_masked():
    target, far = single(x=16.0, y=16.0), single(x=52.0, y=52.0, flux=2000.0, re=1.5)
    stamp, found = stamp_of(target, [far], seed=31, shape=(64, 64))
    neighbours, mask = find_neighbours(stamp, found, 6)
    assert neighbours == []
    np.testing.assert_array_equal(mask, found.contaminants)


def test_touching_neighbours_are_found_with_starts():
    target = single(x=24.0, y=24.0, flux=8000.0)
    star = Source(34.0, 24.0, 3000.0, 0.0, np.nan)
    stamp, found = stamp_of(target, [star], seed=32, shape=(48, 48))
    found = dataclasses.replace(found, classes={2: "star"})
    (neighbour,), mask = find_neighbours(stamp, found, 6)
    assert neighbour.profile == "point"
    assert np.hypot(neighbour.start[0] - 34, neighbour.start[1] - 24) < 0.5
    assert not mask.any()
    none, mask = find_neighbours(stamp, found, 0)
    assert none == []
    assert mask.any()


def test_fixed_values_and_priors_are_kept():
    source = single(n=2.5)
    one_object = scene_object(source, seed=41)
    (free,) = fit([one_object], "sersic", [source])
    (held,) = fit([one_object], changed("sersic", "sersic", n=fixed(1.0), q=fixed(0.5)), [source])
    assert held["sersic.n"] == pytest.approx(1.0)
    assert held["sersic.q"] == pytest.approx(0.5)
    assert np.isnan(held.error("sersic.n"))
    assert held.ndof == free.ndof + 2
    assert held.chi2 > free.chi2
    strong = changed("sersic", "sersic", n=Parameter(prior=log_normal(1.0, 0.01)))
    (pulled,) = fit([one_object], strong, [source])
    assert pulled["sersic.n"] == pytest.approx(1.0, abs=0.06)
    assert pulled.errors_stat[pulled.names.index("sersic.n")] < 0.02


def test_bounds_are_flagged():
    bounded = changed("sersic", "sersic", re=Parameter(bounds=(0.5, 3.0)))
    (one,) = fit([scene_object(single(), seed=42)], bounded, [single()])
    assert one["sersic.re"] == pytest.approx(3.0)
    assert one.flags & int(Flag.AT_BOUND)
    assert one.at_bound == ("sersic.ln_re",)


def test_constraints_keep_an_order():
    """A bulge that would be larger than the disc is kept below it."""
    source = bulge_and_disc(0.5, flux=30000.0)
    free = parse_model("sersic+exp")
    kept = dataclasses.replace(free, constraints=("sersic.re > exponential.re",))
    one_object = scene_object(source, seed=43)
    (plain,) = fit([one_object], free, [source])
    (ordered,) = fit([one_object], kept, [source])
    assert plain["sersic.re"] < plain["exponential.re"]
    assert ordered["sersic.re"] > 0.97 * ordered["exponential.re"]


def test_outliers_hurt_a_robust_likelihood_less():
    source = single(flux=8000.0)
    stamp, found = stamp_of(source, seed=44)
    rng = np.random.default_rng(1)
    data = stamp.data.copy()
    data[tuple(rng.integers(15, 34, (2, 12)))] += 200.0
    bad = object_of(stamp.replace(data=data), found)
    off = {}
    for name in ("gaussian", "student-t", "huber", "cauchy"):
        settings = RefineSettings(likelihood=Likelihood.parse(name))
        (one,) = fit([bad], "sersic", [source], settings)
        off[name] = abs(one["sersic.flux"] / 8000 - 1)
        assert np.isfinite(one.error("sersic.flux"))
    assert max(off["student-t"], off["huber"], off["cauchy"]) < 0.3 * off["gaussian"]


def test_robust_errors_are_those_of_the_scatter():
    """The sandwich: for Gaussian noise about as large as the Gaussian errors."""
    source = single(flux=8000.0)
    one_object = scene_object(source, seed=45)
    (gaussian,) = fit([one_object], "sersic", [source])
    for name, most in (("huber", 1.1), ("student-t:4", 1.15), ("cauchy", 1.15)):
        settings = RefineSettings(likelihood=Likelihood.parse(name))
        (robust,) = fit([one_object], "sersic", [source], settings)
        ratio = robust.errors / gaussian.errors
        assert np.all((ratio > 0.9) & (ratio < most)), (name, ratio)


def test_poisson_needs_the_gain_and_agrees_with_gaussian():
    source = single(flux=8000.0)
    stamp, found = stamp_of(source, seed=46)
    settings = RefineSettings(likelihood=Likelihood("poisson"))
    (one,) = fit([object_of(stamp, found)], "sersic", [source], settings)
    (plain,) = fit([object_of(stamp, found)], "sersic", [source])
    assert np.abs((one.values - plain.values) / plain.errors).max() < 0.6
    (failed,) = fit([object_of(stamp.replace(gain=np.nan), found)], "sersic", [source], settings)
    assert failed.flags & int(Flag.FAILED)
    assert "gain" in failed.message


def test_an_error_floor_takes_weight_from_the_core():
    source = bulge_and_disc(0.4, flux=400000.0)
    (plain,) = fit([scene_object(source, seed=47)], "sersic", [source])
    (floor,) = fit([scene_object(source, seed=47)], "sersic", [source],
                   RefineSettings(error_floor=0.05))  # fmt: skip
    assert floor.chi2 < 0.3 * plain.chi2
    assert floor.error("sersic.flux") > plain.error("sersic.flux")


# ------------------------------------------------------------------ several images


def in_two_frames(angle, scale, mirrored):
    """The same galaxy on two grids, each drawn in its own pixels."""
    first_wcs, second_wcs = wcs_of(0.2), wcs_of(scale, angle, mirrored=mirrored)
    source = single(flux=9000.0, q=0.5, pa=25.0)
    first, found = stamp_of(source, seed=51)
    first = first.replace(wcs=first_wcs, pixel_scale=0.2)
    affine = affine_between(first, first.replace(wcs=second_wcs, pixel_scale=scale))
    x, y = affine @ [source.x, source.y, 1.0]
    factor = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    major = affine[:, :2] @ [-np.sin(np.radians(25.0)), np.cos(np.radians(25.0))]
    pa = np.degrees(np.arctan2(-major[0], major[1])) % 180
    there = dataclasses.replace(source, x=x, y=y, re=source.re * factor, pa=pa, flux=14000.0)
    second, _ = stamp_of(there, seed=52)
    second = second.replace(wcs=second_wcs, pixel_scale=scale, filter="r")
    return source, join_images([first, second], found)


@pytest.mark.parametrize(
    ("angle", "scale", "mirrored"), [(0.0, 0.2, False), (40.0, 0.15, False), (110.0, 0.25, True)]
)
def test_joint_fit_over_rotated_images(angle, scale, mirrored):
    source, one_object = in_two_frames(angle, scale, mirrored)
    (one,) = fit([one_object], "sersic", [source], bands=("g", "r"))
    assert one.chi2 / one.ndof == pytest.approx(1.0, abs=0.1)
    for name in NAMES:
        if name == "flux":
            continue
        true = getattr(source, name)
        assert one[f"sersic.{name}"] == pytest.approx(true, abs=4 * one.error(f"sersic.{name}"))
    assert one["sersic.flux[g]"] == pytest.approx(9000, abs=4 * one.error("sersic.flux[g]"))
    assert one["sersic.flux[r]"] == pytest.approx(14000, abs=4 * one.error("sersic.flux[r]"))
    (alone,) = fit([object_of(one_object.reference, one_object.segmentation)], "sersic", [source])
    assert one.error("sersic.re") < 0.85 * alone.error("sersic.re")


def test_a_variable_point_source_on_a_constant_host():
    """Three epochs of one band: the host's flux is shared, the point source's is not."""
    galaxy = single(flux=12000.0, re=5.0, n=1.0)
    bright = (500.0, 3000.0, 1500.0)
    stamps = []
    for k, flux in enumerate(bright):
        stamp, found = stamp_of(galaxy, [Source(24.6, 25.0, flux, 0.0, np.nan)], seed=80 + k)
        labels = (found.labels > 0).astype(np.int32)
        found = dataclasses.replace(found, labels=labels, contaminants=labels > 1)
        stamps.append(stamp)
    model = scene(
        component("sersic", "host", flux=free(bands="shared")),
        component("point", "nova", x=free(24.6), y=free(25.0), flux=free(bands="epochs")),
    )
    (one,) = fit([join_images(stamps, found)], model, [galaxy], bands=("r", "r", "r"))
    assert one["host.flux"] == pytest.approx(12000, abs=4 * one.error("host.flux"))
    for k, flux in enumerate(bright, start=1):
        name = f"nova.flux[r{k}]"
        assert one[name] == pytest.approx(flux, abs=4 * one.error(name))
        assert one.error(name) < 150


def test_the_sky_can_be_bounded_and_have_a_prior():
    source = single(flux=5000.0)
    one_object = scene_object(source, seed=90)
    (free_sky,) = fit([one_object], "sersic", [source])
    bounded = sersic(sky={"sky": {"bounds": [5.4, 8.0]}})
    (held,) = fit([one_object], bounded, [source])
    assert held["sky"] == pytest.approx(5.4, abs=1e-6)
    (pulled,) = fit([one_object], sersic(sky={"sky": {"normal": [5.3, 0.001]}}), [source])
    assert pulled["sky"] == pytest.approx(5.3, abs=0.01)
    assert free_sky["sky"] == pytest.approx(5.0, abs=0.1)


def test_a_missing_band_leaves_the_others():
    source = single(flux=9000.0)
    first, found = stamp_of(source, seed=53)
    second, _ = stamp_of(source, seed=54)
    objects = [join_images([first, second], found), join_images([first, None], found)]
    whole, part = fit(objects, "sersic", [source] * 2, bands=("g", "r"))
    assert np.isfinite(whole.values).all()
    assert part["sersic.re"] == pytest.approx(whole["sersic.re"], rel=0.1)
    assert np.isfinite(part["sersic.flux[g]"])
    assert np.isnan(part["sersic.flux[r]"])
    assert np.isnan(part.error("sersic.flux[r]"))
    assert part.flags & int(FATAL) == 0


def test_bands_are_fitted_alike_whichever_is_brightest():
    objects, sources = [], []
    for seed, fluxes in ((61, (9000.0, 2500.0)), (63, (2500.0, 9000.0))):
        sources.append(single(flux=fluxes[0]))
        first, found = stamp_of(single(flux=fluxes[0]), seed=seed)
        second, _ = stamp_of(single(flux=fluxes[1]), seed=seed + 1)
        objects += [join_images([first, second], found), join_images([second, first], found)]
    starts = [one for one in sources for _ in range(2)]
    fits = fit(objects, "sersic", starts, bands=("g", "r"))
    for straight, crossed in (fits[:2], fits[2:]):
        for name in ("x", "y", "re", "n", "q", "pa"):
            shift = straight[f"sersic.{name}"] - crossed[f"sersic.{name}"]
            assert abs(shift) < 0.1 * straight.error(f"sersic.{name}")  # the fit's tolerance
        assert straight.chi2 == pytest.approx(crossed.chi2, abs=0.05)
    (alone,) = fit(objects[2:3], "sersic", sources[1:], bands=("g", "r"))
    np.testing.assert_array_equal(alone.values, fits[2].values)


def test_wcs_that_differ_by_rounding_are_one_grid():
    first, _ = stamp_of(single(), seed=55)
    for offset, same in ((1e-7, True), (1e-3, False)):
        other = first.replace(wcs=wcs_of(0.2, centre=(23.5 + offset, 23.5)))
        affine = affine_between(first.replace(wcs=wcs_of(0.2)), other)
        assert np.array_equal(affine, np.eye(2, 3)) == same
        assert affine[0, 2] == pytest.approx(offset, abs=2e-7)


def test_images_that_cannot_be_related():
    first, found = stamp_of(single(), seed=55)
    other, _ = stamp_of(single(), seed=56, shape=(40, 40))
    first, other = first.replace(wcs=None), other.replace(wcs=None)
    with pytest.raises(InputError, match="without a WCS"):
        join_images([first, other], found)
    far = wcs_of(0.2)
    far.wcs.crval = [151.0, 2.0]
    with pytest.raises(InputError, match="does not overlap"):
        join_images([first.replace(wcs=wcs_of(0.2)), other.replace(wcs=far)], found)
    with pytest.raises(InputError, match="reference image is missing"):
        join_images([None, first], found)


def test_masks_are_carried_to_other_pixels():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:10, 8:12] = True
    doubled = carried(mask, np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]), (40, 40))
    assert doubled.sum() == 4 * mask.sum()
    np.testing.assert_array_equal(doubled[::2, ::2], mask)


# ------------------------------------------------------------------ bad input


def test_what_cannot_be_fitted_has_a_row_that_says_so():
    stamp, found = stamp_of(single(), seed=61)
    blind = stamp.replace(mask=np.ones(stamp.shape, dtype=bool))
    good, bad = fit([object_of(stamp, found), object_of(blind, found)], "sersic", [single()] * 2)
    assert bad.flags & int(Flag.FAILED)
    assert np.isnan(bad.values).all()
    assert "too few usable pixels" in bad.message
    (alone,) = fit([object_of(stamp, found)], "sersic", [single()])
    np.testing.assert_allclose(good.values, alone.values, rtol=1e-5)


def test_numbers_of_objects_starts_and_bands_must_agree():
    one = scene_object(single())
    with pytest.raises(SettingsError, match="give one start for each object"):
        fit([one, one], "sersic", [single()])
    with pytest.raises(SettingsError, match="one image for each band"):
        fit([one], "sersic", [single()], bands=("g", "r"))
    with pytest.raises(SettingsError, match="use fit or mask"):
        fit([one], "sersic", [single()], RefineSettings(neighbours="ignore"))


@pytest.mark.parametrize("text", ["gauss", "student-t:x", "huber:-1", "cauchy:0", "poisson:2"])
def test_likelihoods_that_make_no_sense(text):
    with pytest.raises(SettingsError):
        Likelihood.parse(text)


# ------------------------------------------------------------------ choice of a model


def test_the_ladder_finds_what_was_drawn():
    star = Source(23.7, 24.2, 4000.0, 0.0, np.nan)
    # At S/N 127 two components lower chi2 by 21: not enough if sky counted as evidence.
    sources = [star, single(flux=9000.0), *(bulge_and_disc(0.5, flux=f) for f in (200000.0, 3e3))]
    objects = [scene_object(source, seed=70 + k) for k, source in enumerate(sources)]
    chosen = choose_models(objects, starts_of(*sources))
    assert [one.model for one in chosen] == ["point", "sersic", "sersic+exp", "sersic+exp"]
    assert set(chosen[1].bic) >= {"point", "sersic", "exponential", "devaucouleurs"}
    assert chosen[0].tried.startswith("point ")


def test_a_wandering_neighbour_does_not_make_the_target_unconverged():
    from autofit_ml.fitting.first_guess import with_neighbours
    from autofit_ml.fitting.levenberg_marquardt import Evaluation, LMResult
    from autofit_ml.fitting.minima import _settled, _that_count
    from autofit_ml.scenes.layout import make_layout

    scene = parse_model("sersic")
    layout = make_layout(with_neighbours(scene, ["sersic"]), ("",))
    d = layout.size
    matrix = torch.eye(d, dtype=torch.float64).expand(3, d, d).clone()
    gradient = torch.zeros((3, d), dtype=torch.float64)
    gradient[0, layout.names.index("neighbour_1.ln_n")] = 0.5  # half a sigma to go
    gradient[1, layout.names.index("sersic.ln_flux")] = 0.5
    gradient[2, layout.names.index("sky")] = 0.05
    theta = torch.zeros((3, d), dtype=torch.float64)
    fit = LMResult.empty(theta, d)
    fit.state = Evaluation(torch.zeros(3, dtype=torch.float64), gradient, matrix, theta)
    lower, upper = torch.full_like(theta, -9), torch.full_like(theta, 9)
    variance = torch.ones_like(theta)
    base = torch.zeros((3, 1, layout.n_full), dtype=torch.float64)
    counts = _that_count(layout, ["sersic"], np.zeros(3, dtype=int), theta, base)
    assert _settled(fit, counts, lower == upper, variance, 0.01).tolist() == [
        True,
        False,
        True,
    ]


def test_a_component_without_light_leaves_the_others_inside_their_bounds():
    """Concentrated galaxies with a point source: its linear flux would take n to 76 and 11."""
    sources = [single(flux=1000.0, re=1.0, n=6.0, q=0.4), single(flux=4000.0, re=1.0, n=6.0, q=0.4)]
    objects = [
        scene_object(s, seed=k, shape=(40, 40)) for k, s in zip((2, 20), sources, strict=True)
    ]
    for fit in with_totals(refine(objects, parse_model("psf+sersic"), starts_of(*sources))):
        assert fit.limits is not None
        assert 0.3 * (1 - 1e-9) <= fit["sersic.n"] <= 8 * (1 + 1e-9)
        assert np.all(fit.theta >= fit.limits[0]) and np.all(fit.theta <= fit.limits[1])
