"""`refine`: known answers, statistics, invariance, flags."""

import dataclasses

import numpy as np
import pytest
from galaxies import known_segmentations, truth_of

from autofit_ml.catalogue import Flag, flag_names, usable
from autofit_ml.errors import SettingsError
from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.images import PSF, Stamp
from autofit_ml.initialisation import Starts, initialise
from autofit_ml.scenes import sersic
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import moffat_psf, simulate_sersic, to_stamps


def off(values, truth):
    out = values - truth
    out[:, 6] = (out[:, 6] + 90) % 180 - 90
    return out


def rows(results, index):
    """Fields that must not depend on the batch."""
    names = ("values", "errors", "cov", "chi2", "snr", "bic", "flags", "n_iter", "flux_stamp")
    return {name: getattr(results, name)[index] for name in names}


def test_noise_free_galaxies_are_recovered(clean):
    objects, stamps, segmentations, truth = clean
    results = refine(stamps, segmentations=segmentations)
    difference = np.abs(off(results.values, truth))
    assert usable(results.flags).all(), [flag_names(f) for f in results.flags]
    assert difference[:, :2].max() < 0.01
    # Bars of METHODS.md and the issue: 0.5 % in every parameter, 0.2 degrees where q < 0.9.
    assert (difference[:, 2:6] / truth[:, 2:6]).max() < 0.005
    assert difference[truth[:, 5] < 0.9, 6].max() < 0.2
    assert (difference[:, 7] / truth[:, 7]).max() < 0.005


def test_pulls_are_standard_normal(noisy):
    # 48 galaxies x 8 parameters: the mean square of 384 pulls is 1 +- 0.1 (they are correlated).
    objects, stamps, segmentations, truth = noisy
    results = refine(stamps, segmentations=segmentations)
    use = usable(results.flags)
    assert use.mean() > 0.9
    pulls = off(results.values, truth)[use] / results.errors[use]
    assert 0.6 < np.mean(np.clip(pulls, -5, 5) ** 2) < 1.5
    assert np.median(np.abs(pulls)) == pytest.approx(0.67, abs=0.15)
    assert results.chi2 / results.ndof == pytest.approx(1.0, abs=0.1)


def test_a_galaxy_does_not_depend_on_its_batch(noisy):
    _, stamps, segmentations, _ = noisy
    init = initialise(stamps, segmentations)

    def fit(index):
        return refine(
            [stamps[i] for i in index],
            starts=Starts(init.values[index], None, init.flags[index]),
            segmentations=[segmentations[i] for i in index],
        )

    everything = fit(np.arange(16))
    for index in ([3], [15, 2, 7], [11, 3]):
        some = fit(np.array(index))
        for name, value in rows(some, slice(None)).items():
            assert np.array_equal(value, rows(everything, index)[name], equal_nan=True), name


def test_order_and_batch_size_do_not_matter(noisy):
    _, stamps, segmentations, _ = noisy
    whole = refine(stamps[:12], segmentations=segmentations[:12])
    small = refine(
        stamps[:12][::-1],
        segmentations=segmentations[:12][::-1],
        settings=RefineSettings(batch_size=5),
    )
    for name, value in rows(whole, slice(None)).items():
        assert np.array_equal(value, rows(small, slice(None, None, -1))[name], equal_nan=True), name


@pytest.mark.parametrize("shape", [(41, 57), (33, 32), (90, 64)])
def test_any_stamp_shape(shape):
    objects = simulate_sersic(
        3, seed=8, size=shape, snr=(500.0, 500.0), re=(2.0, 4.0), n=(1.0, 2.0), noise=False
    )
    stamps = to_stamps(objects)
    results = refine(stamps, segmentations=known_segmentations(objects), components=True)
    difference = np.abs(off(results.values, truth_of(objects)))
    assert (difference[:, 3:6] / truth_of(objects)[:, 3:6]).max() < 0.01
    assert all(model.shape == shape for model in results.models)
    residual = stamps[0].data - results.models[0] - results.values[0, 7]
    assert np.abs(residual).max() < 1e-3 * stamps[0].data.max()


def test_units_do_not_matter(noisy):
    # Maggies are 1e-10: scaled images give scaled fluxes and nothing else.
    _, stamps, segmentations, _ = noisy
    tiny = [
        s.replace(data=s.data * np.float32(2.0**-40), sigma=s.sigma * np.float32(2.0**-40))
        for s in stamps[:6]
    ]
    init = initialise(stamps[:6], segmentations[:6])
    scaled = init.values.copy()
    scaled[:, [2, 7]] *= 2.0**-40
    a = refine(stamps[:6], starts=init, segmentations=segmentations[:6])
    found = [dataclasses.replace(s, sky_level=s.sky_level * 2.0**-40) for s in segmentations[:6]]
    b = refine(tiny, starts=dataclasses.replace(init, values=scaled), segmentations=found)
    assert b.values[:, 2] * 2.0**40 == pytest.approx(a.values[:, 2], rel=1e-6)
    assert b.values[:, 3:6] == pytest.approx(a.values[:, 3:6], rel=1e-6)
    assert b.errors[:, 3] == pytest.approx(a.errors[:, 3], rel=1e-5)


def test_a_large_pedestal_does_not_matter(noisy):
    _, stamps, segmentations, _ = noisy
    high = [s.replace(data=s.data + np.float32(4096.0)) for s in stamps[:6]]
    above = [dataclasses.replace(s, sky_level=s.sky_level + 4096.0) for s in segmentations[:6]]
    a = refine(stamps[:6], segmentations=segmentations[:6])
    b = refine(high, segmentations=above)
    assert b.values[:, 7] - 4096.0 == pytest.approx(a.values[:, 7], abs=0.01)
    # float32 pixels near 4096 are rounded to 2.4e-4, a thousandth of their noise.
    assert b.values[:, 3] == pytest.approx(a.values[:, 3], rel=2e-3)


def test_masked_garbage_is_ignored(noisy):
    _, stamps, segmentations, _ = noisy
    stamp = stamps[0]
    mask = stamp.mask.copy()
    mask[10:20, 40:50] = True
    data = stamp.data.copy()
    reference = refine([stamp.replace(mask=mask)], segmentations=segmentations[:1])
    data[10:20, 40:50] = 1e6
    results = refine([stamp.replace(mask=mask, data=data)], segmentations=segmentations[:1])
    init_free = ("values", "errors", "chi2")
    for name in init_free:
        assert getattr(results, name) == pytest.approx(getattr(reference, name), rel=1e-3)
    assert results.n_pix[0] == 64 * 64 - 100


def test_fixed_sky_and_sky_prior(noisy):
    objects, stamps, segmentations, _ = noisy
    i = int(np.argmax([o.snr for o in objects]))
    stamp, level, segmentations = stamps[i], objects[i].sky, segmentations[i : i + 1]
    fixed = refine([stamp], sersic(sky=level), segmentations=segmentations)
    assert fixed.values[0, 7] == pytest.approx(level, abs=1e-9)
    assert np.isnan(fixed.errors[0, 7])
    free = refine([stamp], segmentations=segmentations)
    told = refine([stamp.replace(sky_prior=(level, 1e-4))], segmentations=segmentations)
    assert told.errors[0, 7] < 1.1e-4 < free.errors[0, 7]
    # Leaving the sky out makes errors smaller; a precise prior comes to the same.
    assert fixed.errors[0, 3] < free.errors[0, 3]
    assert told.errors[0, 3] == pytest.approx(fixed.errors[0, 3], rel=0.02)


def test_correlated_noise_is_flagged_and_widens_errors():
    objects = simulate_sersic(6, seed=9, snr=(100.0, 200.0), correlated_noise=0.4)
    white = [o.snr for o in objects]
    assert white
    noise = RefineSettings(model_error=False)
    results = refine(to_stamps(objects), segmentations=known_segmentations(objects), settings=noise)
    assert all(flag & Flag.CORRELATED_NOISE for flag in results.flags)
    assert results.noise_correlation == pytest.approx(0.4, abs=0.1)
    plain = refine(
        to_stamps(objects),
        segmentations=known_segmentations(objects),
        settings=dataclasses.replace(noise, correlated_threshold=2.0),
    )
    assert (results.errors[:, 3] > 1.3 * plain.errors[:, 3]).all()


def test_a_star_is_a_point_source_and_a_galaxy_is_not(noisy):
    psf = moffat_psf(3.0)
    rng = np.random.default_rng(0)
    data = np.zeros((41, 41), np.float32)
    data[8:33, 8:33] = 500 * psf.data
    data += rng.normal(size=data.shape).astype(np.float32)
    ones = np.ones_like(data)
    star = Stamp("star", data, ones, np.zeros(data.shape, bool), psf)
    results = refine([star])
    assert results.flags[0] & Flag.POINT_SOURCE
    assert results.bic_point_source[0] <= results.bic[0]
    # Sky tells nothing of the star: the pixels that count are those of the PSF.
    seen = psf.data.astype(float) ** 2
    n_eff = seen.sum() ** 2 / (seen**2).sum()
    assert results.bic[0] - results.chi2[0] == pytest.approx(8 * np.log(n_eff), abs=0.5)
    _, stamps, segmentations, _ = noisy
    galaxies = refine(stamps[:8], segmentations=segmentations[:8])
    assert not (galaxies.flags & int(Flag.POINT_SOURCE)).any()


def test_geometry_flags(noisy):
    objects, stamps, segmentations, _ = noisy
    i = int(np.argmin([o.target.re for o in objects]))
    stamp, segmentation = stamps[i], segmentations[i]
    x, y = round(objects[i].target.x), round(objects[i].target.y)
    mask = stamp.mask.copy()
    mask[y - 5 : y + 6, x - 6 : x + 2] = True
    saturated = np.zeros_like(mask)
    saturated[y, x] = True
    results = refine(
        [stamp.replace(mask=mask), stamp.replace(saturated=saturated)],
        segmentations=[segmentation, segmentation],
    )
    assert results.flags[0] & Flag.CENTRE_MASKED
    assert not usable(results.flags[0])
    assert results.flags[1] & Flag.SATURATED
    blended = Segmentation(segmentation.labels, 1, segmentation.contaminants, 0.0, 1.0, 0.2)
    assert refine([stamp], segmentations=[blended]).flags[0] & Flag.BLENDED


def test_a_stamp_without_pixels_fails_alone(noisy):
    _, stamps, segmentations, _ = noisy
    dead = stamps[0].replace(mask=np.ones(stamps[0].shape, bool))
    init = initialise(stamps[:3], segmentations[:3])
    results = refine([dead, stamps[1], stamps[2]], starts=init, segmentations=segmentations[:3])
    assert results.flags[0] & Flag.FAILED
    assert np.isnan(results.values[0]).all()
    alone = refine(stamps[1:2], starts=init.some([1]), segmentations=segmentations[1:2])
    assert np.array_equal(alone.values[0], results.values[1])


def test_without_a_psf_the_pixel_remains():
    # psf "none": a delta function, and the pixel is added; truth from a fine grid of the profile.
    from autofit_ml.profiles import sersic_brightness

    fine = (np.arange(41 * 15) + 0.5) / 15 - 0.5
    r = np.hypot(fine[None] - 20.0, fine[:, None] - 20.0) / 6.0
    data = (sersic_brightness(r, 1.0) / 36 * 1e4 / 225).reshape(41, 15, 41, 15).sum((1, 3))
    stamp = Stamp(
        "exp",
        data.astype(np.float32),
        np.full(data.shape, 0.1, np.float32),
        np.zeros(data.shape, bool),
        PSF(np.ones((1, 1), np.float32), has_pixel=False, source="none"),
    )
    values = refine([stamp], sersic(sky="fixed")).values[0]
    assert values[2:5] == pytest.approx([1e4, 6.0, 1.0], rel=2e-3)


def test_an_undersampled_psf_is_folded():
    psf = moffat_psf(1.4, size=61, oversampling=3, has_pixel=False)
    objects = simulate_sersic(
        4, seed=10, psf=psf, snr=(800.0, 800.0), noise=False, re=(3.0, 5.0), n=(1.0, 3.0)
    )
    results = refine(to_stamps(objects), segmentations=known_segmentations(objects))
    difference = np.abs(off(results.values, truth_of(objects)))
    assert (difference[:, 2:6] / truth_of(objects)[:, 2:6]).max() < 0.005


def test_mismatched_inputs_are_refused(noisy):
    _, stamps, segmentations, _ = noisy
    with pytest.raises(SettingsError, match="one of each"):
        refine(
            stamps[:2],
            segmentations=segmentations[:1],
            starts=initialise(stamps[:2], segmentations[:2]),
        )


def test_starts_with_a_covariance_spread_along_the_index(noisy):
    """A well known index needs no further starts; a prior pulls what the data do not decide."""
    _, stamps, segmentations, truth = noisy
    cov = np.tile(np.diag([0.01, 0.01, 0.04, 0.04, 0.09, 0.01, 0.01, 1.0]), (len(truth), 1, 1))
    cov[:, 3, 4] = cov[:, 4, 3] = 0.03
    starts = Starts(truth, cov, np.zeros(len(truth), np.int32), "resnet")
    spread = refine(stamps, starts=starts, segmentations=segmentations)
    assert (spread.n_starts == 3).all()
    alone = refine(
        stamps, starts=starts, segmentations=segmentations, settings=RefineSettings(certain=0.5)
    )
    assert (alone.n_starts == 1).all()
    assert alone.n_iter.mean() < 0.6 * spread.n_iter.mean()
    np.testing.assert_allclose(alone.chi2, spread.chi2, atol=1.0)
    narrow = Starts(truth, cov * 1e-4, starts.flags, "resnet")
    tied = refine(
        stamps, starts=narrow, segmentations=segmentations, settings=RefineSettings(prior="network")
    )
    assert np.abs(np.log(tied.values[:, 4] / truth[:, 4])).max() < 0.02
    assert (tied.errors[:, 4] < alone.errors[:, 4] + 1e-9).all()


def test_starts_do_not_depend_on_what_they_are_fitted_with():
    """A start of a much smaller index is a smaller galaxy; with others it was of another shape."""
    from autofit_ml.fitting.starts import component_starts

    row = np.array([[20.0, 20.0, 100.0, 4.0, 6.0, 0.3, 40.0, 0.0]])
    other = row.copy()
    other[0, 4] = 1.0
    alone = component_starts(sersic(), row, np.zeros(1))
    together = component_starts(sersic(), np.concatenate([row, other]), np.zeros(2))
    for one, both in zip(alone, together, strict=True):
        for name, value in one.items():
            assert value[0] == both[name][0], name
