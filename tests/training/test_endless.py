"""The device-side path: the same light as GalSim's, and the statistics that its settings promise."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import psf as analytic
from autofit_ml.images.stamp import PSF
from autofit_ml.scenes import to_catalogue
from autofit_ml.simulation.objects import SourceLight
from autofit_ml.simulation.sources import Source
from training.endless import (
    EMPTY,
    GALAXY,
    LADDER,
    STAR,
    EndlessSersic,
    EndlessSettings,
    instance_labels,
    moffat_images,
    render_scene,
)

SINGLE = EndlessSettings(shape=(32, 32), re=(1.0, 5.0), psf_size=15)
BLENDS = EndlessSettings(
    shape=(40, 48),
    max_sources=9,
    neighbours=3.0,
    star_probability=0.2,
    star_fraction=0.4,
    re=(1.0, 8.0),
    psf_size=21,
    clustered=0.3,
    clustering_scale=12.0,
    lights=True,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def galsim_light(row, psf: np.ndarray, shape, oversampling=1, has_pixel=True) -> np.ndarray:
    """The GalSim path's image of one row of a catalogue."""
    pytest.importorskip("galsim")
    from autofit_ml.simulation.draw import EXACT, render_source

    x, y, flux, re, n, q, pa = (float(value) for value in row)
    source = Source(x, y, flux, re, n if re else math.nan, q, pa)
    return render_source(source, PSF(psf, has_pixel, oversampling), shape, EXACT)


# --- light: the bar is 1e-4 of the scene's peak, ten times below the noise of a S/N 1000 object ---


def test_random_blends_match_galsim():
    """12 scenes (of 30 drawn) with stars, companions and sources beyond the borders."""
    batch = EndlessSersic(BLENDS, 30, seed=3).batch(0)
    assert (batch["kind"][:12] == STAR).sum() > 10
    assert (batch["kind"][:12] == GALAXY).sum() > 20
    for i in range(12):
        number = int(batch["number"][i])
        psf = batch["psf"][i].numpy()
        rows = batch["catalogue"][i, :number].double()
        theirs = [galsim_light(row, psf, BLENDS.shape) for row in rows]
        peak = sum(theirs).max()
        assert np.abs(batch["light"][i].numpy() - sum(theirs)).max() < 1e-4 * peak
        assert np.abs(batch["target_light"][i].numpy() - theirs[0]).max() < 1e-4 * peak
        for ours, other in zip(batch["lights"][i], theirs, strict=False):
            assert np.abs(ours.numpy() - other).max() < 1e-4 * peak


@pytest.mark.parametrize("fwhm", [1.8, 3.0])
def test_extremes_match_galsim(fwhm):
    """The corners of the range, needles at the centre and at a border, round ones off the centre.

    Without n near 1 at the largest re: there GalSim's own table of the transform errs.
    """
    shape = (48, 48)
    psf = moffat_images(torch.tensor([fwhm]), torch.tensor([3.0]), torch.tensor([[0.03, 0.05]]), 25)
    profiles = ((0.5, 0.7), (0.5, 12.0), (1.0, 0.7), (4.0, 4.0), (6.0, 12.0))
    places = ((0.1, 23.7, 23.2), (1.0, 36.0, 14.2), (0.1, 45.7, 24.0))
    for (n, re), (q, x, y) in itertools.product(profiles, places):
        row = torch.tensor([x, y, 1.0, re, n, q, 20.0], dtype=torch.float64)
        ours = render_scene(row[None, None], psf, shape)[0, 0].numpy()
        theirs = galsim_light(row, psf[0].numpy(), shape)
        assert np.abs(ours - theirs).max() < 1e-4 * theirs.max(), (n, re, q, x)


def test_oversampled_psf_without_the_pixel_matches_galsim():
    """Galaxies through the Fourier path, stars by direct sums with the pixel integrated."""
    psf = moffat_images(
        torch.tensor([1.4]),
        torch.tensor([3.5]),
        torch.tensor([[-0.05, 0.1]]),
        63,
        oversampling=3,
        has_pixel=False,
    )
    rows = torch.tensor(
        [
            [20.2, 19.6, 50.0, 4.0, 1.3, 0.4, 70.0],
            [33.1, 8.4, 20.0, 0.0, 0.0, 1.0, 0.0],
            [-2.3, 30.9, 30.0, 0.0, 0.0, 1.0, 0.0],
            [8.0, 31.5, 10.0, 1.2, 4.0, 0.8, 10.0],
        ],
        dtype=torch.float64,
    )
    ours = render_scene(rows[None], psf, (40, 40), oversampling=3, has_pixel=False)[0]
    for image, row in zip(ours, rows, strict=True):
        theirs = galsim_light(row, psf[0].numpy(), (40, 40), 3, False)
        assert np.abs(image.numpy() - theirs).max() < 1e-4 * theirs.max()


def test_every_layout_is_used_and_agrees():
    """A mild source looks the same through all layouts (2e-5: what a wrap-around leaves)."""
    from training.endless import render as drawing

    psf = moffat_images(torch.tensor([3.0]), torch.tensor([3.0]), torch.zeros(1, 2), 25)
    row = torch.tensor([[[32.0, 31.0, 1.0, 3.0, 1.5, 0.7, 30.0]]], dtype=torch.float64)
    usual = render_scene(row, psf, (64, 64))
    for accuracy in LADDER:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing, "LADDER", (accuracy,) * len(LADDER))
            image = render_scene(row, psf, (64, 64))
        assert (image - usual).abs().max() < 2e-5 * usual.max()
    rows = torch.tensor(  # re, q, x: one for each of the first four layouts
        [[3.0, 0.7, 32.0], [3.0, 0.7, 60.0], [16.0, 0.7, 32.0], [16.0, 0.1, 60.0]]
    ).double()
    flat = torch.zeros((4, 7), dtype=torch.float64)
    flat[:, 0], flat[:, 1], flat[:, 2] = rows[:, 2], 32.0, 1.0
    flat[:, 3], flat[:, 4], flat[:, 5] = rows[:, 0], 2.0, rows[:, 1]
    sharpness = torch.full((4,), 1e-3)
    codes = drawing._layout_codes(flat, (64, 64), sharpness).tolist()
    assert codes == [0, 1, 1, 3]
    sharp = drawing._layout_codes(flat[:1], (64, 64), torch.tensor([0.1]))
    assert sharp.tolist() == [len(LADDER) - 1]


def test_chunks_do_not_matter():
    """Float32 rounding of differently shaped products: 1e-6 of the peak."""
    batch = EndlessSersic(BLENDS, 6, seed=3).batch(0)
    rows = torch.nan_to_num(batch["catalogue"])
    one, many = (
        render_scene(rows, batch["psf"], BLENDS.shape, chunk=chunk).sum(1) for chunk in (3, None)
    )
    assert (one - many).abs().max() < 1e-6 * many.max()


@pytest.mark.parametrize(
    ("column", "value"), [(3, -1.0), (4, 9.0), (5, 0.0), (5, 1.1), (4, math.nan)]
)
def test_sources_out_of_range_are_refused(column, value):
    psf = moffat_images(torch.tensor([3.0]), torch.tensor([3.0]), torch.zeros(1, 2), 9)
    rows = torch.tensor([[[12.0, 12.0, 1.0, 2.0, 1.0, 0.5, 0.0]]])
    with pytest.raises(InputError):
        render_scene(rows[..., :6], psf, (24, 24))
    with pytest.raises(InputError):
        render_scene(rows.repeat(2, 1, 1), psf, (24, 24))
    rows[..., column] = value
    with pytest.raises(InputError):
        render_scene(rows, psf, (24, 24))


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_precision_settings_of_a_training_do_not_leak_in(precision):
    """TF32, bfloat16 and autocast are switched off inside, and are as before afterwards."""
    usual = EndlessSersic(BLENDS, 4, seed=5).batch(0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch = EndlessSersic(BLENDS, 4, seed=5).batch(0)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(batch["image"], usual["image"])


# --- PSFs ---


@pytest.mark.parametrize(("fwhm", "beta"), [(1.0, 2.5), (2.0, 4.5), (3.5, 3.0)])
def test_circular_moffat_against_the_analytic_module(fwhm, beta):
    """5e-5 of the peak: what the number of nodes is chosen for."""
    image = moffat_images(torch.tensor([fwhm]), torch.tensor([beta]), torch.zeros(1, 2), 21)[0]
    reference = analytic.moffat_psf(fwhm, beta=beta, half_size=10).data
    assert np.abs(image.numpy() - reference).max() < 5e-5 * reference.max()
    assert float(image.sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("oversampling", "has_pixel", "tolerance"),
    # GalSim's own drawing of the pixel convolution folds 3e-4 of the peak; sampling is exact.
    [(1, True, 5e-4), (3, True, 5e-4), (3, False, 1e-5)],
)
def test_elliptical_moffat_has_galsims_conventions(oversampling, has_pixel, tolerance):
    pytest.importorskip("galsim")
    from autofit_ml.simulation.psf import moffat_psf

    image = moffat_images(
        torch.tensor([2.5]),
        torch.tensor([3.0]),
        torch.tensor([[0.1, -0.2]]),
        41,
        oversampling=oversampling,
        has_pixel=has_pixel,
    )[0]
    reference = moffat_psf(
        2.5,
        beta=3.0,
        ellipticity=(0.1, -0.2),
        size=41,
        oversampling=oversampling,
        has_pixel=has_pixel,
    ).data
    assert np.abs(image.numpy() - reference).max() < tolerance * reference.max()


def test_given_psfs_are_used():
    pool = moffat_images(
        torch.tensor([2.0, 3.0, 4.0]), torch.tensor([3.0, 3.0, 3.0]), torch.zeros(3, 2), 15
    )
    batch = EndlessSersic(SINGLE, 40, seed=1, psfs=pool).batch(0)
    which = (batch["psf"][:, None] == pool[None]).all(-1).all(-1)
    assert which.sum(1).eq(1).all()
    assert which.any(0).all()
    # From the area above half maximum, a handful of pixels: good to 30 %.
    width = batch["psf_fwhm"] / torch.tensor([2.0, 3.0, 4.0])[which.int().argmax(1)]
    assert width.min() > 0.9 and width.max() < 1.4
    for wrong in (pool[0], 2 * pool, pool * math.nan):
        with pytest.raises(InputError):
            EndlessSersic(SINGLE, 4, psfs=wrong)


# --- what the settings promise ---


@pytest.mark.parametrize("gain", [1e-3, 10.0, 1e6])
def test_target_reaches_its_snr(gain):
    """From light-dominated to sky-dominated noise; 1e-4: float32 sums."""
    settings = dataclasses.replace(
        SINGLE, snr=(50.0, 50.0), gain=(gain, gain), star_probability=0.5
    )
    batch = EndlessSersic(settings, 32, seed=2).batch(0)
    assert batch["snr"][:, 0].numpy() == pytest.approx(50.0, rel=1e-4)


def test_units_do_not_matter():
    """Maggies: the same stamps with everything 1e-11 times as bright."""
    small = dataclasses.replace(SINGLE, sky_rms=(1e-11, 1e-11), gain=(1e12, 1e12))
    one = EndlessSersic(SINGLE, 8, seed=2).batch(0)
    other = EndlessSersic(small, 8, seed=2).batch(0)
    assert torch.allclose(other["image"] * 1e11, one["image"], rtol=1e-4, atol=1e-4)
    assert torch.allclose(other["snr"], one["snr"], rtol=1e-5)


def test_noise_has_the_stated_variance():
    settings = dataclasses.replace(SINGLE, snr=(300.0, 300.0), gain=(0.5, 0.5), sky_rms=(0.1, 5.0))
    batch = EndlessSersic(settings, 200, seed=4).batch(0)
    expected = batch["sky_rms"][:, None, None].square() + batch["light"].clamp_min(0) / 0.5
    assert torch.allclose(batch["sigma"].square(), expected, rtol=1e-5)
    deviates = ((batch["image"] - batch["light"]) / batch["sigma"]).double()
    count = deviates.numel()
    assert abs(deviates.mean()) < 5 / math.sqrt(count)
    assert abs(deviates.var() - 1) < 5 * math.sqrt(2 / count)
    bright = batch["light"] / 0.5 > 4 * batch["sky_rms"][:, None, None].square()
    assert abs(deviates[bright].var() - 1) < 5 * math.sqrt(2 / int(bright.sum()))
    # 5 and 95 % points of the sky's noise: 10 +- 5 sqrt(200 x 0.05 x 0.95) of 200.
    assert 0 <= (batch["sky_rms"] < 0.1).sum() <= 25
    assert 0 <= (batch["sky_rms"] > 5.0).sum() <= 25


@pytest.mark.parametrize("kind", ["rho", "array"])
def test_correlated_noise(kind):
    """rho ** (dx**2 + dy**2), unit variance; 0.01 is five standard errors."""
    rho = 0.4
    lag = np.arange(-3.0, 4.0)
    array = rho ** (lag[:, None] ** 2 + lag[None] ** 2)
    given = rho if kind == "rho" else tuple(map(tuple, array.tolist()))
    settings = dataclasses.replace(SINGLE, snr=(10.0, 10.0), correlation=given)
    batch = EndlessSersic(settings, 400, seed=4).batch(0)
    noise = (batch["image"] - batch["light"]) / batch["sigma"]
    assert abs(noise.var() - 1) < 0.01
    assert abs((noise[:, 1:] * noise[:, :-1]).mean() - rho) < 0.01
    assert abs((noise[..., 1:] * noise[..., :-1]).mean() - rho) < 0.01
    assert abs((noise[:, 1:, 1:] * noise[:, :-1, :-1]).mean() - rho**2) < 0.01
    assert abs((noise[..., -1] * noise[..., 0]).mean()) < 0.05  # not periodic


def test_pedestal_and_gradient():
    """A plane through image - light; errors of its coefficients by least squares, 5 sigma."""
    settings = dataclasses.replace(SINGLE, pedestal=(2.0, 2.0), gradient=(4.0, 4.0))
    batch = EndlessSersic(settings, 50, seed=4).batch(0)
    assert batch["sky"].numpy() == pytest.approx(2.0)
    rest = (batch["image"] - batch["light"]).double() / batch["sky_rms"][:, None, None]
    grid = torch.arange(32) - 15.5
    level = rest.mean((1, 2))
    along_y = (rest * grid[:, None]).sum((1, 2)) / (32 * grid.square().sum())
    along_x = (rest * grid[None, :]).sum((1, 2)) / (32 * grid.square().sum())
    error = 1.5 / math.sqrt(32 * float(grid.square().sum()))  # light adds some noise
    assert abs(level - 2.0).max() < 5 * 1.5 / 32
    assert (torch.hypot(along_y, along_x) * 32 - 4.0).abs().max() < 5 * error * 32
    assert along_x.min() < 0 < along_x.max() and along_y.min() < 0 < along_y.max()


def test_scenes_follow_the_settings():
    """Numbers, kinds, places and ranges of 1000 scenes."""
    settings = dataclasses.replace(BLENDS, max_sources=16, lights=False)
    data = EndlessSersic(settings, 250, seed=9)
    batches = [data.batch(step) for step in range(4)]
    merged = {key: torch.cat([b[key] for b in batches]) for key in ("kind", "number", "catalogue")}
    kind, number, rows = merged["kind"], merged["number"], merged["catalogue"].double()
    full = kind != EMPTY
    # Empty slots come last, and are zero.
    assert torch.equal(full, torch.arange(16) < number[:, None])
    assert (rows[~full] == 0).all()
    # Poisson in the stamp and a margin of 4 pixels; a few find no place.
    mean = 3.0 * (48 / 40) * (56 / 48)
    others = (number - 1).double()
    assert mean - 0.3 < others.mean() < mean + 5 * math.sqrt(mean / 1000)
    star = kind == STAR
    assert abs(star[:, 0].double().mean() - 0.2) < 5 * math.sqrt(0.16 / 1000)
    neighbour_stars = star[:, 1:].sum() / full[:, 1:].sum()
    assert abs(neighbour_stars - 0.4) < 5 * math.sqrt(0.24 / int(full[:, 1:].sum()))
    assert (rows[star][:, 3] == 0).all() and rows[star][:, 4].isnan().all()
    galaxies = rows[kind == GALAXY]
    low, high = galaxies[:, 4:].amin(0), galaxies[:, 4:].amax(0)
    assert 0.5 <= low[0] < 0.51 and 5.9 < high[0] < 6.001
    assert 0.1 <= low[1] < 0.11 and 0.99 < high[1] <= 1.0
    assert 0 <= low[2] < 1 and 179 < high[2] < 180.001
    targets = rows[:, 0][kind[:, 0] == GALAXY]
    assert 1.0 <= targets[:, 3].min() < 1.05 and 7.7 < targets[:, 3].max() <= 8.001
    assert (targets[:, 0] - 23.5).abs().max() <= 0.5 and (targets[:, 1] - 19.5).abs().max() <= 0.5
    ratio = (rows[:, 1:, 2] / rows[:, :1, 2])[full[:, 1:]]
    assert 0.0249 < ratio.min() < 0.03 and 2.2 < ratio.max() < 2.501
    x, y = rows[..., 0][full], rows[..., 1][full]
    assert x.min() >= -4 and x.max() <= 51 and y.min() >= -4 and y.max() <= 43
    # Half of the (log-uniform) fluxes lie below the geometric mean.
    below = (ratio < 0.25).double().mean()
    assert abs(below - 0.5) < 5 * math.sqrt(0.25 / len(ratio))


def test_no_two_sources_are_too_close():
    settings = dataclasses.replace(BLENDS, min_separation=2.0, neighbours=6.0)
    batch = EndlessSersic(settings, 100, seed=1).batch(0)
    place = batch["catalogue"][..., :2].double()
    apart = torch.cdist(place, place) / batch["psf_fwhm"][:, None, None]
    full = batch["kind"] != EMPTY
    pairs = full[:, :, None] & full[:, None, :] & ~torch.eye(9, dtype=torch.bool)
    assert apart[pairs].min() >= 2.0 - 1e-5
    assert apart[pairs].min() < 2.2  # the limit is reached, not overdone


def test_companions_crowd_round_the_target():
    """With surface density ~ r^-0.8 a part (1/2)^1.2 = 0.435 lies inside half the scale."""
    settings = dataclasses.replace(
        BLENDS, clustered=1.0, star_fraction=0.0, min_separation=0.0, shape=(64, 64)
    )
    batch = EndlessSersic(settings, 300, seed=1).batch(0)
    full = (batch["kind"] != EMPTY)[:, 1:]
    offset = batch["catalogue"][:, 1:, :2] - batch["catalogue"][:, :1, :2]
    radius = offset.norm(dim=2)[full].double()
    assert radius.max() <= 12.0 + 1e-4
    share = (radius < 6.0).double().mean()
    assert abs(share - 0.5**1.2) < 5 * math.sqrt(0.25 / len(radius))


# --- tables and labels ---


def test_fit_space_and_catalogue_agree():
    batch = EndlessSersic(BLENDS, 50, seed=3).batch(0)
    galaxy, star = batch["kind"] == GALAXY, batch["kind"] == STAR
    fit = torch.nn.functional.pad(batch["fit"].double(), (0, 1))
    back = to_catalogue(fit)[..., :7]
    # float32 in both tables; angles of nearly round galaxies are the worst.
    assert torch.allclose(
        back[galaxy][:, :6], batch["catalogue"][galaxy][:, :6].double(), rtol=1e-5
    )
    turn = (back[galaxy][:, 6] - batch["catalogue"][galaxy][:, 6] + 90) % 180 - 90
    assert turn[batch["catalogue"][galaxy][:, 5] < 0.95].abs().max() < 1e-2
    assert torch.allclose(back[star][:, :3], batch["catalogue"][star][:, :3].double(), rtol=1e-5)
    assert (batch["fit"][star][:, 3:] == 0).all()
    assert torch.isfinite(batch["fit"]).all()
    assert (batch["fit"][batch["kind"] == EMPTY] == 0).all()


def test_labels_follow_the_rule_of_the_sets_on_disk():
    from autofit_ml.simulation import labels as on_disk

    batch = EndlessSersic(BLENDS, 10, seed=3).batch(0)
    for i in range(10):
        lights = [SourceLight(0, 0, light.numpy()) for light in batch["lights"][i]]
        level = BLENDS.isophote * float(batch["sky_rms"][i])
        expected = on_disk.instance_labels(lights, BLENDS.shape, level)
        assert np.array_equal(batch["labels"][i].numpy(), expected)
        counts = np.bincount(expected.ravel(), minlength=10)[1:]
        assert np.array_equal(batch["n_pixels"][i].numpy(), counts)
    assert (batch["labels"] == 1).flatten(1).any(1).float().mean() > 0.8
    assert not batch["mask"].any()
    ratio = batch["lights"] / batch["sigma"][:, None]
    assert torch.allclose(ratio.square().sum((2, 3)).sqrt(), batch["snr"], rtol=1e-4)
    none = instance_labels(batch["lights"], torch.full((10,), 1e30))
    assert (none == 0).all()


# --- the same for the same seed ---


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(torch.nan_to_num(one[k]), torch.nan_to_num(other[k])) for k in one)


def test_a_step_depends_on_seed_and_step_alone():
    data = EndlessSersic(SINGLE, 5, seed=11)
    first, second = data.batch(0), data.batch(1)
    assert equal(EndlessSersic(SINGLE, 5, seed=11).batch(1), second)
    assert equal(data.batch(0), first)
    for other in (second, EndlessSersic(SINGLE, 5, seed=12).batch(0)):
        noise = [(b["image"] - b["light"]).flatten() for b in (first, other)]
        # Independent: |correlation| under 5 / sqrt(number of pixels).
        assert abs(torch.corrcoef(torch.stack(noise))[0, 1]) < 5 / math.sqrt(len(noise[0]))


def test_no_two_steps_share_a_cpu_seed():
    from training.endless.scenes import generator

    seeds = {generator(3, step, torch.device("cpu")).initial_seed() % 2**32 for step in range(999)}
    assert len(seeds) == 999


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_yield_the_steps_in_order(workers):
    data = EndlessSersic(SINGLE, 2, seed=1, first_step=3, steps=5)
    got = list(DataLoader(data, batch_size=None, num_workers=workers))
    assert len(got) == 5
    assert all(equal(batch, data.batch(3 + j)) for j, batch in enumerate(got))


def test_ranks_share_the_steps():
    parts = [
        list(EndlessSersic(SINGLE, 2, seed=1, steps=2, rank=rank, world_size=3))
        for rank in range(3)
    ]
    single = list(EndlessSersic(SINGLE, 2, seed=1, steps=6))
    assert all(equal(parts[i % 3][i // 3], single[i]) for i in range(6))


# --- wrong settings ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"snr": (0.0, 10.0)},
        {"n": (0.2, 4.0)},
        {"q": (0.5, 1.2)},
        {"re": (3.0, 2.0)},
        {"star_fraction": 1.5},
        {"neighbours": 2.0},
        {"shape": (5, 64)},
        {"correlation": 0.95},
        {"correlation": ((1.0, 0.5), (0.5, 1.0))},
        {"gradient": (0.0, 50.0), "gain": (1.0, 1.0)},
        {"chunk": 0},
        {"psf_beta": (1.0, 2.0)},
        {"sky_rms": (math.nan, 1.0)},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        EndlessSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"seed": -1}, {"rank": 2, "world_size": 2}, {"first_step": -1}]
)
def test_wrong_data_sets_are_refused(wrong):
    with pytest.raises(SettingsError):
        EndlessSersic(SINGLE, **wrong)


BLOCKED = """
import sys


class Blocked:
    names = ("galsim", "hydra", "omegaconf", "pydantic", "astropy", "sep", "photutils", "pyarrow")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(name)


sys.meta_path.insert(0, Blocked())
from training.endless import EndlessSersic, EndlessSettings

settings = EndlessSettings(shape=(24, 24), re=(1, 3), psf_size=9, max_sources=3, neighbours=1)
assert EndlessSersic(settings, 2).batch(0)["image"].isfinite().all()
"""


def test_needs_neither_galsim_nor_hydra_nor_pydantic():
    run = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_tensor_is_made_on_the_device():
    """With "meta" as the default device, a tensor without a device of its own would not mix."""
    settings = dataclasses.replace(BLENDS, gradient=(0.0, 1.0), correlation=0.3)
    optical = dataclasses.replace(settings, psf_has_pixel=False, psf_oversampling=3)
    with torch.device("meta"):
        for each in (settings, optical):
            batch = EndlessSersic(each, 4, device="cpu").batch(0)
            assert all(value.device.type == "cpu" for value in batch.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_draws_the_same_light():
    """The same catalogue on both devices; 1e-5: float32 rounding of another FFT."""
    batch = EndlessSersic(BLENDS, 8, seed=3).batch(0)
    rows, psf = torch.nan_to_num(batch["catalogue"]), batch["psf"]
    ours = render_scene(rows.cuda(), psf.cuda(), BLENDS.shape).cpu()
    theirs = render_scene(rows, psf, BLENDS.shape)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.max()
    there = EndlessSersic(BLENDS, 8, seed=3, device="cuda").batch(0)
    assert all(value.is_cuda for value in there.values())
    assert equal(there, EndlessSersic(BLENDS, 8, seed=3, device="cuda").batch(0))
