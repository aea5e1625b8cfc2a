"""Every recipe: what is measured on the pixels is what the labels say."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.catalogue.flags import Flag
from autofit_ml.measure import psf_fwhm
from autofit_ml.simulation import (
    Artefact,
    SimulatedObject,
    compose_recipe,
    list_recipes,
    simulate,
    simulate_one,
)

pytest.importorskip("galsim")
pytest.importorskip("hydra")

STAMPS = ["single", "blends", "crowded", "bulge_disc", "realistic", "envelopes", "rings", "pairs"]
SURVEYS = list_recipes("survey")
WITH_LIGHT = ["data.labels.light=true"]


def objects(*overrides, count=4, seed=3):
    recipe = compose_recipe(list(overrides))
    return recipe, [simulate_one(recipe, index, seed) for index in range(count)]


def boxed(item: SimulatedObject, k: int) -> np.ndarray:
    """Source k's own light on the whole image."""
    image = np.zeros(item.data.shape, dtype=float)
    light = item.light[k]
    height, width = light.data.shape
    image[light.y0 : light.y0 + height, light.x0 : light.x0 + width] = light.data
    return image


@pytest.fixture(scope="module", params=STAMPS)
def scenes(request):
    """Four stamps of each kind, with every source's light."""
    return objects(f"data={request.param}", *WITH_LIGHT)


def test_light_adds_up(scenes):
    """The image's light is the sum of its sources' (single precision)."""
    _, items = scenes
    for item in items:
        total = sum(boxed(item, k) for k in range(len(item.sources)))
        np.testing.assert_allclose(
            item.model + item.neighbour_light, total, atol=1e-5 * total.max(), rtol=1e-5
        )
        np.testing.assert_allclose(item.model, boxed(item, 0), atol=1e-6 * total.max())


def test_masks_are_isophotes(scenes):
    """Label i + 1: own light above the isophote and the brightest; nothing else is labelled."""
    recipe, items = scenes
    for item in items:
        level = recipe.data.labels.isophote * item.sky_rms
        lights = np.stack([boxed(item, k) for k in range(len(item.sources))])
        owner = np.where(lights.max(0) > level, lights.argmax(0) + 1, 0)
        # Float32 against float64 at the isophote itself.
        assert np.mean(owner != item.labels) < 1e-3
        counts = np.bincount(item.labels.ravel(), minlength=len(item.sources) + 1)[1:]
        np.testing.assert_array_equal(counts, item.truth["n_pixels"])


def test_masks_contain_the_light_they_claim(scenes):
    """Inside its own mask no other source gives as much light, at any pixel."""
    _, items = scenes
    for item in items:
        for k in np.flatnonzero(item.truth["n_pixels"]):
            inside = item.labels == k + 1
            own, total = boxed(item, k)[inside], (item.model + item.neighbour_light)[inside]
            assert np.all(own >= total / len(item.sources) - 1e-6 * total.max())


def test_the_lights_of_all_sources_sum_to_the_image(scenes):
    _, items = scenes
    for item in items:
        every = sum(boxed(item, k) for k in range(len(item.sources)))
        light = item.model + item.neighbour_light
        np.testing.assert_allclose(every, light, atol=1e-5 * light.max())


def test_flux_and_centroid_of_the_target(scenes):
    """Flux within the stamp below and near the total; the light's median at the stated place."""
    _, items = scenes
    for item in items:
        target = item.target
        share = item.model.sum(dtype=float) / target.flux
        assert 0.6 < share < 1.001
        rows, columns = item.model.sum(1, dtype=float), item.model.sum(0, dtype=float)
        # Half of the light lies on either side of a symmetric galaxy: within a pixel, or a
        # fraction of re for lopsided ones.
        for profile, place in ((rows, target.y), (columns, target.x)):
            cumulative = np.cumsum(profile)
            median = np.interp(0.5 * cumulative[-1], cumulative, np.arange(len(profile)) + 0.5)
            limit = 0.25 * max(target.re, 4) if target.components else 0.15
            assert abs(median - place) < limit


def test_size_of_the_target():
    """Light within re is half, where the PSF is small against the galaxy: 4 %."""
    for name in ("single", "bulge_disc", "realistic"):
        _, items = objects(
            f"data={name}",
            "data.shape=[256,256]",
            "data.galaxies.re=[18,22]",
            "data.galaxies.n=[0.8,1.5]",
            "data.galaxies.q=[0.4,1.0]",
            "data.galaxies.bulge_disc.bulge_n=[1.5,2.5]",
            "data.neighbours.number=0",
            "data.target.star_probability=0",
            "survey.psf.fwhm=[0.6,0.61]",
            count=3,
        )
        for item in items:
            radius = item.target.elliptical_radius(item.data.shape)
            share = item.model[radius <= item.target.re].sum(dtype=float) / item.target.flux
            assert share == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("survey", SURVEYS)
def test_noise_of_every_survey(survey):
    """Residual / sigma has scatter 1; sky level and noise are the labelled ones."""
    recipe, items = objects(
        "data=single",
        f"survey={survey}",
        "data.shape=[101,101]",
        "survey.artefacts.cosmic_rays=0",
        count=3,
    )
    residuals = []
    for item in items:
        good = ~item.mask & (item.artefacts == 0)
        residual = ((item.data - item.noise_free) / item.sigma)[good]
        residuals.append(residual)
        sky = good & (item.model + item.neighbour_light < 0.05 * item.sky_rms)
        if sky.sum() > 2000:
            # The scatter of a standard deviation from N pixels is 1 / sqrt(2 N), wider by 1.5
            # where neighbours are correlated; four of these.
            scatter = 1.4826 * np.median(np.abs(item.data[sky] - np.median(item.data[sky])))
            gradient = 0.0 if item.sky_map is None else np.std(item.sky_map[sky])
            expected = np.hypot(item.sky_rms, gradient)
            assert scatter == pytest.approx(expected, rel=6 * 1.17 / np.sqrt(2 * sky.sum()) + 0.01)
    everything = np.concatenate(residuals)
    assert np.std(everything) == pytest.approx(1.0, abs=0.025)
    assert np.mean(everything) == pytest.approx(0.0, abs=0.06)
    assert items[0].survey == survey
    assert items[0].pixel_scale == recipe.survey.pixel_scale


@pytest.mark.parametrize("survey", SURVEYS)
def test_flux_and_psf_of_every_survey(survey):
    """A star of known magnitude: its light is the PSF; the zero point gives its flux."""
    recipe, items = objects(
        "data=single",
        f"survey={survey}",
        "data.target.star_probability=1",
        "data.target.snr=null",
        "data.target.magnitude=[20,20.0001]",
        "data.shape=[101,101]",
        count=2,
    )
    for item in items:
        assert item.truth["mag"][0] == pytest.approx(20.0, abs=1e-3)
        assert item.target.flux == pytest.approx(
            10 ** (-0.4 * (20 - recipe.survey.zeropoint)), rel=2e-4
        )
        # Light in the stamp: all of the PSF image, but for its band-limited interpolation.
        assert item.model.sum(dtype=float) == pytest.approx(item.target.flux, rel=5e-3)
        assert item.psf.data.sum() == pytest.approx(1.0, abs=1e-4)
        # The PSF's core is centred; its first moment may lie beside it (coma).
        y, x = np.indices(item.data.shape)
        v, h = np.indices(item.psf.data.shape)
        middle, fine = (item.psf.data.shape[0] - 1) / 2, item.psf.oversampling
        for axis, offset, place in ((x, h, item.target.x), (y, v, item.target.y)):
            centroid = (item.model * axis).sum(dtype=float) / item.model.sum(dtype=float)
            beside = ((item.psf.data * offset).sum(dtype=float) - middle) / fine
            assert centroid - beside == pytest.approx(place, abs=0.06)
        low, high = recipe.survey.psf.fwhm
        if recipe.survey.psf.kind in ("moffat", "kolmogorov"):
            # 5 % to 95 % of a log-normal; the pixel adds a little.
            width = psf_fwhm(item.psf) * item.pixel_scale
            assert 0.7 * low < width < 1.3 * high + 0.5 * item.pixel_scale


@pytest.mark.parametrize("correlation", ["0.35", "[[0.1,0.3,0.1],[0.3,1.0,0.3],[0.1,0.3,0.1]]"])
def test_noise_autocorrelation_is_the_one_asked_for(correlation):
    """On 160 000 pixels: 4 sigma is 0.02."""
    _, (item,) = objects(
        "data=single",
        "data.shape=[400,400]",
        f"survey.noise.correlation={correlation}",
        count=1,
    )
    residual = (item.data - item.noise_free) / item.sigma
    middle = item.correlation.shape[0] // 2
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        product = residual[dy:, dx:] * residual[: 400 - dy, : 400 - dx]
        assert product.mean() == pytest.approx(item.correlation[middle + dy, middle + dx], abs=0.02)
    assert item.flags & Flag.CORRELATED_NOISE


def test_range_of_noise_correlations():
    _, items = objects("data=single", "survey.noise.correlation=[0.2,0.6]", count=8)
    middles = [item.correlation.shape[0] // 2 for item in items]
    lag = [item.correlation[k, k + 1] for item, k in zip(items, middles, strict=True)]
    assert 0.2 <= min(lag) < 0.35 and 0.45 < max(lag) <= 0.6


def test_nuclei_are_part_of_the_light():
    """A point source of the stated share at the centre; the total stays."""
    nuclei = ["data.galaxies.nucleus_probability=1", "data.galaxies.nucleus_fraction=[0.3,0.31]"]
    _, (item,) = objects("data=single", *nuclei, count=1)
    *_, nucleus = item.target.components
    assert (nucleus.kind, item.target.kind) == ("point", "bulge_disc")
    assert 0.3 <= nucleus.flux / item.target.flux <= 0.31
    assert sum(part.flux for part in item.target.components) == pytest.approx(item.target.flux)


def test_companions_on_the_target():
    """Stars too, at sizes of their own."""
    _, items = objects(
        "data=blends",
        "data.neighbours.re=[0.5,1]",
        "data.neighbours.min_separation=0",
        "data.neighbours.clustering={fraction: 1, scale: 2, stars: true}",
        "data.galaxies.morphology={sersic: 1, bulge_disc: 0}",
    )
    others = [(s, item) for item in items for s in item.sources[1:]]
    assert {s.is_star for s, _ in others} == {True, False}
    for source, item in others:
        place = np.hypot(source.x - item.target.x, source.y - item.target.y)
        assert place * item.pixel_scale <= 2
        assert source.is_star or 0.5 <= source.re <= 1


def test_object_depends_on_seed_and_index_alone():
    recipe = compose_recipe(["data=blends"])
    first, again = simulate_one(recipe, 5, 1), simulate_one(recipe, 5, 1)
    simulate_one(recipe, 2, 1)
    np.testing.assert_array_equal(first.data, again.data)
    np.testing.assert_array_equal(first.data, simulate_one(recipe, 5, 1).data)
    assert not np.array_equal(first.data, simulate_one(recipe, 6, 1).data)
    assert not np.array_equal(first.data, simulate_one(recipe, 5, 2).data)


def test_other_noise_shows_the_same_galaxies():
    one, two = (
        simulate_one(
            compose_recipe(
                ["data=blends", "data.target.snr=null", "data.target.magnitude=[18,20]", *more]
            ),
            0,
            1,
        )
        for more in ([], ["survey.noise.correlation=0.3"])
    )
    assert one.sources[0] == two.sources[0]
    assert not np.array_equal(one.data, two.data)


def test_snr_of_the_target_is_in_range():
    """The recipe's S/N counts sky and source noise; neighbours and masks take a little away."""
    _, items = objects("data=single", "data.target.snr=[50,60]", count=6)
    for item in items:
        assert 48 < item.snr < 61
        assert item.snr == pytest.approx(item.truth["snr"][0])


def test_companions_follow_the_clustering_law():
    """All companions within the scale: counts in rings follow r^(1 - slope)."""
    recipe = compose_recipe(
        [
            "data=blends",
            "data.shape=[128,128]",
            "data.neighbours.number=40",
            "data.neighbours.star_fraction=0",
            "data.neighbours.min_separation=0",
            "data.neighbours.clustering={fraction: 1.0, slope: 0.8, scale: 20}",
            "data.galaxies.morphology={sersic: 1, bulge_disc: 0}",
        ]
    )
    distances = []
    for index in range(6):
        item = simulate_one(recipe, index, 4)
        distances += [np.hypot(s.x - item.target.x, s.y - item.target.y) for s in item.sources[1:]]
    scale = 20 / recipe.survey.pixel_scale
    share = (np.array(distances) / scale) ** 1.2  # uniform under the law
    assert len(share) > 150
    # Kolmogorov-Smirnov at 0.1 %.
    steps = np.arange(1, len(share) + 1) / len(share)
    assert abs(np.sort(share) - steps).max() < 1.95 / np.sqrt(len(share))


def test_frame():
    """A small frame with counts, faint sources and a varying PSF."""
    recipe = compose_recipe(
        [
            "data=frame",
            "data.shape=[300,400]",
            "data.neighbours.magnitude=[15,23]",
            "data.labels.light=true",
            "survey.psf.variation=0.3",
        ]
    )
    item = simulate_one(recipe, 0, 7)
    truth = item.truth
    area = 300 * 400 * (recipe.survey.pixel_scale / 60) ** 2
    from autofit_ml.simulation.populations import galaxy_counts, star_counts

    expected = area * float(
        galaxy_counts(23) - galaxy_counts(15) + star_counts(23) - star_counts(15)
    )
    seen = truth["detectable"].sum()
    # Poisson, 4 sigma; sources that reach no pixel are left out.
    assert abs(seen - expected) < 4 * np.sqrt(expected)
    assert not truth["detectable"].all()
    assert set(truth["kind"][truth["detectable"]]) >= {"star", "sersic"}
    assert item.kind == "frame"
    assert np.isnan(item.snr)
    corners = [item.psf_grid.at(x, y) for x, y in ((0, 0), (399, 0), (0, 299), (399, 299))]
    widths = [psf_fwhm(psf) for psf in corners]
    assert np.ptp(widths) > 0.01 * np.mean(widths)
    # A star's light is the local PSF.
    stars = [
        k
        for k, source in enumerate(item.sources)
        if source.is_star and 30 < source.x < 370 and 30 < source.y < 270
    ]
    star = max(stars, key=lambda k: item.sources[k].flux)
    source, light = item.sources[star], item.light[star]
    local = item.psf_grid.at(source.x, source.y)
    assert light.data.max() / source.flux < 1.02 * local.data.max()
    assert light.data.sum(dtype=float) == pytest.approx(source.flux, rel=0.02)


def test_defects_are_marked():
    """Saturated stars with bleeding, columns, hits, regions: each in its bit, masked as stated."""
    recipe = compose_recipe(
        [
            "data=frame",
            "data.shape=[300,400]",
            "data.neighbours.star_density=5",
            "survey.artefacts.saturation=20",
            "survey.artefacts.bleed=true",
            "survey.artefacts.bad_columns=10",
            "survey.artefacts.cosmic_rays=100",
            "survey.artefacts.masked_regions=30",
            "survey.artefacts.ghosts=0.002",
        ]
    )
    item = simulate_one(recipe, 1, 3)
    found = np.bitwise_or.reduce(item.artefacts.ravel())
    for bit in (Artefact.SATURATED, Artefact.BAD_COLUMN, Artefact.COSMIC_RAY, Artefact.MASKED):
        assert found & bit
    must = (item.artefacts & (Artefact.SATURATED | Artefact.BLEED | Artefact.BAD_COLUMN)) > 0
    assert item.mask[must].all()
    assert not item.mask[item.artefacts == 0].any()


def test_simulate_from_python():
    import autofit_ml

    items = autofit_ml.simulate(["data=single", "data.shape=[48,48]"], count=2, seed=9)
    assert [item.data.shape for item in items] == [(48, 48)] * 2
    np.testing.assert_array_equal(
        items[1].data, simulate(["data=single", "data.shape=[48,48]"], count=2, seed=9)[1].data
    )


def test_noise_free_image_is_light_and_sky():
    _, (item,) = objects(
        "data=single", "survey.noise.pedestal=[2,3]", "survey.noise.gradient=[1,1]", count=1
    )
    assert 2 * item.sky_rms <= item.sky <= 3 * item.sky_rms
    assert np.ptp(item.sky_map) == pytest.approx(item.sky_rms, rel=0.45)
    np.testing.assert_allclose(item.noise_free, item.model + item.sky_map, rtol=1e-6)
