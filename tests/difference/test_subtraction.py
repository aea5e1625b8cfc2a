"""Kernels and differences with known answers."""

import re
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from PIL import Image
from sky_pairs import frame, gaussian, pair, stars

import autofit_ml as afm
from autofit_ml.difference import (
    detect_changes,
    fluxes,
    subtract_frames,
    subtract_images,
    whitened,
)
from autofit_ml.difference.kernel import Design
from autofit_ml.difference.solution import solve
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.runs.diff import diff_run
from autofit_ml.settings import DiffSettings, SubtractSettings


def double(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float64)


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(1)
    places, flux = rng.uniform(0, 192, (60, 2)), 10 ** rng.uniform(3, 5, 60)
    return rng, places, flux


def exact(science, reference, size, **more):
    """A solution for images without noise."""
    ones, use = torch.ones(reference.shape, dtype=torch.float64), torch.ones(reference.shape) > 0
    design = Design(size, smoothness=0, floor=0, solver="dense", **more)
    return solve(double(science), double(reference), ones, 0 * ones, use, design)


def test_a_shift_is_found_to_the_rounding(field):
    rng, places, flux = field
    reference = stars(places, flux, 3.0, (192, 192)) + rng.normal(size=(192, 192))
    wide = np.pad(reference, 2)
    science = 0.7 * wide[0:192, 3:195]  # two pixels up, one to the left
    found = exact(science[8:-8, 8:-8], reference[8:-8, 8:-8], 9)
    truth = np.zeros((9, 9))
    truth[4 + 2, 4 - 1] = 0.7
    assert np.abs(found.planes[0].numpy() - truth).max() < 1e-10


def test_a_gaussian_kernel_has_its_width_and_scale(field):
    _, places, flux = field
    variance = 2.29933
    wide = np.sqrt(9 + variance * 2.3548**2)
    science = 0.8 * stars(places, flux, wide, (192, 192)) + 5.0
    found = exact(science, stars(places, flux, 3.0, (192, 192)), 17, robust="none")
    kernel, at = found.planes[0].numpy(), np.arange(17) - 8
    assert abs(found.scale[0] - 0.8) < 1e-6
    assert abs((kernel.sum(0) * at**2).sum() / kernel.sum() / variance - 1) < 1e-3
    assert abs(float(found.background[0]) - 5.0) < 1e-6


def test_a_kernel_that_varies(field):
    rng, places, flux = field
    reference = stars(places, flux, 3.0, (192, 192)) + rng.normal(size=(192, 192))
    x = np.linspace(-1, 1, 192)[None, :]
    science = (0.8 + 0.1 * x) * reference
    found = exact(science, reference, 5, variation=1)
    centre = found.planes[:, 2, 2].numpy()
    assert np.abs(np.sort(centre) - [0.0, 0.1, 0.8]).max() < 1e-9


@pytest.fixture(scope="module")
def pairs():
    return [pair(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def results(pairs):
    return [subtract_images(one.science, one.reference) for one in pairs]


def test_noise_of_the_reference_does_not_shrink_the_kernel(results):
    scale, error = np.array([result.scale for result in results]).T
    assert abs(scale.mean() / 0.8 - 1) < 0.003
    assert ((scale - 0.8) / error).std() < 2.5 and (error < 0.002).all()


def test_the_wider_image_is_not_convolved(pairs):
    assert subtract_images(pairs[0].science, pairs[0].reference).convolved == "reference"
    turned = subtract_images(pairs[0].reference, pairs[0].science)
    assert turned.convolved == "science" and abs(turned.scale[0] * 0.8 - 1) < 0.01


def quiet(pair_, result):
    """Pixels far from every source."""
    y, x = np.mgrid[: result.good.shape[0], : result.good.shape[1]]
    near = np.zeros(x.shape, bool)
    for px, py in np.concatenate([pair_.stars, pair_.new[:, :2]]):
        near |= np.hypot(x - px, y - py) < 12
    edge = np.minimum(np.minimum(x, y), np.minimum(x[:, ::-1], y[::-1])) < 30
    return ~near & ~edge & result.good.numpy()


def test_sky_is_noise_and_white_once_whitened(pairs, results):
    chi2, before, after = [], [], []
    for one, result in zip(pairs, results, strict=True):
        sky = quiet(one, result)
        left, variance = result.difference.numpy(), result.variance.numpy()
        chi2.append((left[sky] ** 2 / variance[sky]).mean())
        white = whitened(result, double(gaussian(3.6))).difference.numpy()
        both = sky[:, 1:] & sky[:, :-1]
        for plane, into in ((left, before), (white, after)):
            into.append((plane[:, 1:] * plane[:, :-1])[both].mean() / (plane**2)[sky].mean())
    assert 0.98 < np.mean(chi2) < 1.02
    assert np.mean(before) > 0.03 and abs(np.mean(after)) < 0.01


@pytest.mark.parametrize("what", ["injected", "empty", "stars", "turned"])
def test_pulls_of_fluxes(pairs, results, what):
    pulls = []
    rng = np.random.default_rng(3)
    for one, result in zip(pairs, results, strict=True):
        truth = 0.0
        if what == "empty":
            places = rng.uniform(30, 354, (80, 2))
        elif what == "stars":
            places = one.stars[((one.stars > 30) & (one.stars < 354)).all(1)]
        else:
            places, truth = one.new[:, :2], one.new[:, 2]
        if what in ("empty", "stars"):
            gaps = np.linalg.norm(places[:, None] - one.new[None, :, :2], axis=2).min(1)
            places = places[gaps > 15]
        psf = gaussian(3.6)
        if what == "turned":  # the new sources vanish, in units of the wider image
            result = subtract_images(one.reference, one.science)
            truth, psf = -truth, gaussian(3.0)
            # A source of the wider image has its PSF; the convolved one is as wide.
            seen = gaussian(3.6) if result.convolved == "science" else psf
            flux, error = fluxes_of_seen(result, places, seen)
        else:
            flux, error = fluxes(result, double(places[:, 0]), double(places[:, 1]), double(psf))
        pulls.append(((flux - double(truth)) / error).numpy())
    pulls = np.concatenate(pulls)
    assert len(pulls) >= 90 and np.isfinite(pulls).all()
    assert abs(pulls.mean()) < 0.15 + 2 / np.sqrt(len(pulls))
    assert 0.85 < pulls.std() < 1.15


def fluxes_of_seen(result, places, seen):
    """Fluxes with the PSF of the image that is not convolved, given as it is seen there."""
    kernel = result.kernel.planes[0]
    size = 2 * 32 + 1
    wide = torch.zeros((size, size), dtype=torch.float64)
    half = seen.shape[0] // 2
    wide[32 - half : 33 + half, 32 - half : 33 + half] = double(seen)
    grid = torch.zeros_like(wide)
    k = kernel.shape[0] // 2
    grid[32 - k : 33 + k, 32 - k : 33 + k] = kernel
    spectrum = torch.fft.fft2(torch.fft.ifftshift(wide)) / torch.fft.fft2(torch.fft.ifftshift(grid))
    sharp = torch.fft.fftshift(torch.fft.ifft2(spectrum).real)
    return fluxes(result, double(places[:, 0]), double(places[:, 1]), sharp)


def test_what_is_new_is_found_and_little_else(pairs, results):
    found = false = 0
    for one, result in zip(pairs, results, strict=True):
        psf = gaussian(3.6)
        changes = detect_changes(result, whitened(result, double(psf)), psf, 5.0)
        x, y = np.asarray(changes["x"]), np.asarray(changes["y"])
        gaps = np.hypot(x[:, None] - one.new[:, 0], y[:, None] - one.new[:, 1])
        bright = one.new[:, 2] > 700
        found += (gaps[:, bright].min(0) < 1.0).sum() / bright.sum()
        false += ((gaps.min(1) > 2) & changes["real"]).sum()
    assert found / len(pairs) > 0.95 and false <= 2


def test_bad_pixels_are_left_out_with_all_that_they_reach(pairs):
    one = pairs[0]
    mask = np.zeros(one.reference.data.shape, bool)
    mask[100:104, 100:200] = True
    spoilt = one.reference.replace(data=np.where(mask, 6e4, one.reference.data), mask=mask)
    result = subtract_images(one.science, spoilt)
    good = result.good.numpy()
    assert not good[94:110, 94:206].any() and good[93, 150] and good[110, 150]
    assert abs(result.scale[0] / 0.8 - 1) < 0.006


@pytest.fixture(scope="module")
def alert():
    """A small image with two stars, one of which has become brighter by 1260."""
    rng, at = np.random.default_rng(5), [(31.2, 30.7), (48.4, 43.1)]
    images = []
    for name, fluxes_, fwhm, level in (("s", (9260, 24e3), 3.0, 36), ("r", (8000, 24e3), 2.4, 4)):
        light = stars(at, fluxes_, fwhm, (63, 63))
        variance = level + light / 6
        noise = rng.normal(size=light.shape) * np.sqrt(variance)
        images.append(frame(name, light + noise, variance))
    return images, at[0]


def test_a_variable_star_of_a_small_image_says_nothing_of_the_scale(alert):
    """Half of the light that a kernel is fitted to has changed."""
    (science, reference), (x, y) = alert
    rows, columns = np.indices((63, 63))
    near, found = np.hypot(columns - x, rows - y) < 9, {}
    for how, known, leave_out in (
        ("free", None, None), ("left out", None, near), ("known", 1.0, None),
    ):  # fmt: skip
        settings = SubtractSettings(kernel_size=7, known_scale=known)
        result = subtract_images(science, reference, settings, leave_out=leave_out)
        flux, error = fluxes(result, double([x]), double([y]), double(gaussian(3.0)))
        found[how] = float(flux), float(error), *result.scale
    assert found["free"][2] > 1.015 and abs(found["left out"][2] - 1) < 0.01
    assert found["known"][2:] == (pytest.approx(1, abs=1e-9), pytest.approx(0, abs=1e-6))
    for how in ("left out", "known"):
        flux, error, *_ = found[how]
        assert abs(flux - 1260) < 3 * error and flux > found["free"][0] + 150
    with pytest.raises(InputError, match="leave_out has the shape"):
        subtract_images(science, reference, leave_out=near[:3])


def test_the_scale_that_is_known_is_that_of_the_science_image(alert):
    (science, reference), _ = alert
    turned = subtract_images(reference, science, SubtractSettings(kernel_size=7, known_scale=0.9))
    assert turned.convolved == "science" and abs(turned.scale[0] - 0.9) < 1e-9


NOISE = np.ones((64, 64))


@pytest.mark.parametrize(
    ("science", "reference", "settings", "why"),
    [
        (NOISE[:50], NOISE, {}, "pixels"),
        (0 * NOISE, 0 * NOISE, {}, "one value everywhere"),
        (NOISE[:20, :20], NOISE[:20, :20], {}, "too small for a kernel"),
        ("noise", "noise", {}, "good pixels have light"),
    ],
)
def test_what_cannot_be_subtracted_is_said(science, reference, settings, why):
    rng = np.random.default_rng(1)
    made = [
        frame(
            name,
            rng.normal(size=(64, 64)) if isinstance(one, str) else one,
            np.ones((64, 64) if isinstance(one, str) else one.shape),
        )
        for name, one in (("a", science), ("b", reference))
    ]
    with pytest.raises(InputError, match=why):
        subtract_images(*made, SubtractSettings(**settings))


def test_an_even_kernel_is_refused():
    with pytest.raises(SettingsError, match="odd"):
        SubtractSettings(kernel_size=12)


def test_arrays_are_subtracted_as_frames_are(pairs, results):
    one = pairs[0]
    (sx, rx), psf = (one.science, one.reference), gaussian(3.6)
    found = afm.subtract(
        sx.data, rx.data, sigma=sx.sigma, reference_sigma=rx.sigma, psf=psf, mask=sx.mask
    )
    assert np.array_equal(found.difference, results[0].difference.numpy())
    assert abs(found.scale - 0.8) < 5 * found.scale_err and found.convolved == "reference"
    x, y, truth = one.new.T
    table = found.photometry(x, y)
    assert abs(((table["flux"] - truth) / table["flux_err"]).mean()) < 1
    changes = found.changes(6.0)
    assert len(changes) > 15 and "ra" not in changes.colnames
    with pytest.raises(SettingsError, match="missing"):
        afm.subtract(sx.data)
    with pytest.raises(InputError, match="odd sides"):
        found.photometry(x, y, psf=psf[:-1])


def test_a_turned_and_shifted_reference_is_brought_onto_the_pixels():
    """Fluxes are right although interpolation correlates the noise."""
    places, flux = np.random.default_rng(2).uniform(0, 300, (90, 2)), 10 ** np.linspace(3, 5, 90)
    to, turned = wcs_of(0.0, 150.0, 150.0), wcs_of(1.5, 154.3, 147.2)
    ra, dec = to.pixel_to_world_values(*places.T)
    there = np.array(turned.world_to_pixel_values(ra, dec)).T
    new = np.array([[80.0, 90.0, 1500.0], [200.3, 210.7, 2500.0], [230.0, 70.0, -1500.0]])
    light = [
        0.8 * stars(places, flux, 3.6, (300, 300)) + stars(new[:, :2], new[:, 2], 3.6, (300, 300)),
        stars(there, flux, 3.0, (300, 300)),
    ]
    rng = np.random.default_rng(3)
    frames = []
    for name, image, wcs in zip(("s", "r"), light, (to, turned), strict=True):
        variance = 150 + np.clip(image, 0, None)
        noise = rng.normal(size=image.shape) * np.sqrt(variance)
        frames.append(frame(name, image + noise, variance, wcs=wcs))
    science = frames[0].replace(psf=PSF(gaussian(3.6).astype(np.float32)))
    found = subtract_frames(science, frames[1])
    assert found.messages == ("resampled to the pixels of s",)
    assert abs(found.scale / 0.8 - 1) < 0.01
    table = found.photometry(*new[:, :2].T)
    assert (np.abs((table["flux"] - new[:, 2]) / table["flux_err"]) < 3.5).all()
    changes = found.changes(7.0)
    ra, dec = to.pixel_to_world_values(*new[:, :2].T)
    gaps = np.hypot(
        (changes["ra"][:, None] - ra) * np.cos(np.deg2rad(2)), changes["dec"][:, None] - dec
    )
    assert (gaps.min(0) * 3600 < 0.1).all()
    far = frames[1].replace(wcs=wcs_of(0.0, 9000.0, 150.0))
    with pytest.raises(InputError, match="overlap"):
        subtract_frames(science, far)


def wcs_of(angle, x, y):
    """0.2 arcsec a pixel, turned by degrees, ra 150 and dec 2 at a pixel."""
    out, turn = WCS(naxis=2), np.deg2rad(angle)
    out.wcs.ctype, out.wcs.crval, out.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150, 2], [x + 1, y + 1]
    out.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    out.wcs.pc = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    return out


def test_why_an_image_is_convolved_is_said(pairs, results):
    one = subtract_frames(
        pairs[0].science.replace(psf=PSF(gaussian(3.6).astype(np.float32))), pairs[0].reference
    )
    assert results[0].amplified["reference"] < 1 < results[0].amplified["science"]
    assert one.choice.startswith(
        "reference is convolved; noise amplified by a kernel: reference 0."
    )


@pytest.mark.parametrize("solver", ["dense", "conjugate"])
def test_a_kernel_that_varies_leaves_less_of_stars(solver):
    """Seeing that grows over the image, with one kernel and with one that varies."""
    rng = np.random.default_rng(8)
    places, flux = rng.uniform(0, 256, (90, 2)), 10 ** rng.uniform(4, 5, 90)
    science = np.zeros((256, 256))
    for place, one in zip(places, flux, strict=True):
        science += stars([place], [one], 3.3 + 0.7 * place[0] / 256, (256, 256))
    frames = [
        frame(name, light + 10 * rng.normal(size=light.shape), 100 + 0 * light)
        for name, light in (("s", science), ("r", stars(places, flux, 3.0, (256, 256))))
    ]
    left = []
    for variation in (0, 1):
        found = subtract_images(
            *frames, SubtractSettings(variation=variation, kernel_size=9, solver=solver)
        )
        bright = found.good & (found.light > 300)
        left.append(float((found.difference[bright] ** 2).mean()))
    assert left[1] < 0.02 * left[0] and left[1] < 250  # noise: 100 and what the reference adds


def test_conjugate_gradients_find_what_the_normal_equations_do(pairs, results):
    found = subtract_images(
        pairs[0].science, pairs[0].reference, SubtractSettings(solver="conjugate")
    )
    kernel, other = found.kernel, results[0].kernel
    off = (found.difference - results[0].difference) / results[0].variance.sqrt()
    assert float(off[found.good].square().mean().sqrt()) < 0.05
    assert abs(found.scale[0] / results[0].scale[0] - 1) < 5e-4
    assert abs(found.scale[1] / results[0].scale[1] - 1) < 0.1
    spread = [k.covariance.diagonal()[:169].sqrt().median() for k in (kernel, other)]
    assert abs(float(spread[0] / spread[1]) - 1) < 0.15


# --- files ------------------------------------------------------------------------------------


def written(path, data, wcs=None, **planes):
    hdus = [fits.PrimaryHDU(data.astype("f4"), None if wcs is None else wcs.to_header())]
    hdus += [fits.ImageHDU(plane, name=name) for name, plane in planes.items()]
    fits.HDUList(hdus).writeto(path)
    return path


def test_bits_of_masks_are_kept_in_files(tmp_path):
    one = pair(2, 160, new=0)
    bits = np.zeros((160, 160), np.int32)
    bits[60:63, 40:90] = 6
    mine, theirs = bits, np.roll(bits, 40, 0) * 2
    psf = gaussian(3.6).astype("f4")
    planes = {"ERR": one.science.sigma, "PSF": psf}
    full = one.science.data.copy()
    full[120:126, 100:106] = 9e4  # a star without its top
    science = written(tmp_path / "s.fits", full, MASK=mine, **planes)
    reference = written(
        tmp_path / "r.fits", one.reference.data, ERR=one.reference.sigma, MASK=theirs
    )
    summary = diff_run(reference, [science], tmp_path / "out", DiffSettings(workers=0))
    assert summary.exit_status == 0
    with fits.open(tmp_path / "out" / "s_diff.fits") as hdus:
        assert np.array_equal(hdus["MASK_SCIENCE"].data, mine)
        assert np.array_equal(hdus["MASK_REFERENCE"].data, theirs)
        why, head = hdus["MASK"].data, hdus[0].header
        assert why[61, 60] & 1 and why[101, 60] & 2 and not why[61, 60] & 2
        assert why[95, 60] & 4 and not why[95, 60] & 3  # under the kernel
        assert why[123, 103] & 8 and why[123, 103] & 1
        assert not why[30, 60] & 15 and hdus["MASK"].header["BIT_2"] == "REFERENCE"
        assert head["AMPREF"] < 1 < head["AMPSCI"] and head["CONVOLVD"] == "reference"


def test_a_page_shows_what_has_changed_and_what_failed(tmp_path):
    one, psf = pair(2, 160, new=3), gaussian(3.6).astype("f4")
    written(tmp_path / "s & 1.fits", one.science.data, ERR=one.science.sigma, PSF=psf)
    written(tmp_path / "flat.fits", np.full((160, 160), 3.0))
    reference = written(tmp_path / "r.fits", one.reference.data, ERR=one.reference.sigma)
    images = [tmp_path / "s & 1.fits", tmp_path / "flat.fits"]
    summary = diff_run(reference, images, tmp_path / "out", DiffSettings(workers=0))
    page, table = summary.report.read_text(), Table.read(tmp_path / "out" / "changes.ecsv")
    assert summary.exit_status == 3 and "flat was not subtracted" in page
    assert f"{len(table)} changes in 1 images, of which {sum(table['real'])} look real" in page
    assert page.count('class="card"') == len(table) >= 3
    addresses = {unquote(word) for word in re.findall(r"(?:src=\"|url\(')([^\"']+)", page)}
    assert len(addresses) == 2
    for name in addresses:
        assert (tmp_path / "out" / name).is_file()
    # One row of cut-outs for each change, the brightest real one first, in the middle of each.
    with Image.open(tmp_path / "out" / next(n for n in addresses if "changes" in n)) as picture:
        assert picture.size == (3 * 123 + 12, 123 * len(table))
        red, _, blue = np.asarray(picture)[61, -62].astype(int)
    best = table[table["real"]][np.argmax(np.abs(table["score"][table["real"]]))]
    assert (red - blue) * best["score"] > 0


def sky_of_stars(size, scale=1.0, seed=4):
    rng = np.random.default_rng(seed)
    places, flux = rng.uniform(20, 140, (25, 2)), 10 ** rng.uniform(3.5, 5, 25)
    light = stars(places * scale, flux, 3.0 * scale, (size, size))
    return light + 5 * rng.normal(size=light.shape)


def spoilt_pair(what, folder):
    """Files of a science image and a reference that cannot be subtracted, and why."""
    sky, sigma = sky_of_stars(160), np.full((160, 160), 5.0, "f4")
    planes = {"ERR": sigma, "PSF": gaussian(3.0).astype("f4")}
    wcs, other = wcs_of(0, 80, 80), dict(planes)
    second, second_wcs = sky, wcs
    if what == "no overlap":
        second_wcs = wcs_of(0, 5000, 80)
    elif what == "little overlap":
        second_wcs = wcs_of(0, 80 - 135, 80)
    elif what == "other pixels, no wcs":
        wcs = second_wcs = None
        second, other["ERR"] = sky_of_stars(224, 1.4), np.full((224, 224), 5.0, "f4")
    elif what == "nothing in common, no wcs":
        wcs = second_wcs = None
        second = np.random.default_rng(3).normal(size=(200, 200)) * 5
        other["ERR"] = np.full((200, 200), 5.0, "f4")
    elif what == "all masked":
        other["MASK"] = np.ones((160, 160), np.uint8)
    elif what == "masks leave nothing":
        left = np.zeros((160, 160), np.uint8)
        left[:, :81] = 1
        planes["MASK"], other["MASK"] = left, left[:, ::-1].copy()
    elif what == "constant":
        second = np.full((160, 160), 3.0)
    written(folder / "s.fits", sky, wcs, **planes)
    written(folder / "r.fits", second, second_wcs, **other)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("no overlap", "do not overlap on the sky"),
        ("little overlap", "in common, too few for a kernel of 13"),
        ("other pixels, no wcs", "pixels of other sizes"),
        ("nothing in common, no wcs", "stars of the images do not match"),
        ("all masked", "every pixel is masked"),
        ("masks leave nothing", "no pixel is good in both images"),
        ("constant", "the image is constant (3 everywhere)"),
    ],
)
def test_images_that_cannot_be_subtracted_say_why(tmp_path, what, why):
    spoilt_pair(what, tmp_path)
    summary = diff_run(
        tmp_path / "r.fits", [tmp_path / "s.fits"], tmp_path / "out", DiffSettings(workers=0)
    )
    assert summary.exit_status == 1 and why in summary.failures["s"], summary.failures
