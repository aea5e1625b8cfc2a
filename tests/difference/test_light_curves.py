"""Light curves: forced photometry on differences, and scene photometry."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import QTable
from astropy.time import Time
from epochs_of_sky import FLUXES, SCALES, write_epochs
from sky_pairs import frame, gaussian, pair, stars

import autofit_ml as afm
from autofit_ml import cli
from autofit_ml.difference import fit_scene, light_curve_of, measure_epoch
from autofit_ml.difference.epoch_file import read_epoch, write_epoch
from autofit_ml.difference.epochs import absent_at, observed, places
from autofit_ml.difference.light_curve import _above_baseline
from autofit_ml.difference.photometry import psf_at
from autofit_ml.difference.stars import common_stars, measure_stars, relative_scale
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import discover, read_frame
from autofit_ml.images.psf import gaussian_psf
from autofit_ml.images.psf_error import with_errors
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.measure import flux_limit
from autofit_ml.settings import LightCurveOptions, ReadOptions


def double(array):
    return torch.as_tensor(array, dtype=torch.float64)


def command(*words):
    """Run ``autofit-ml`` in this process: (exit status, stdout, stderr in one line)."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(sys, "argv", ["autofit-ml", *map(str, words)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    return stopped.value.code or 0, out.getvalue(), " ".join(err.getvalue().split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("epochs")
    return out, write_epochs(out)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    images, (ra, dec) = folder
    out = tmp_path_factory.mktemp("curves") / "out"
    words = ["lightcurve", images, "--at", f"{ra},{dec}", "--method", "both", "-o", out, "--json"]
    status, said, err = command(*words)
    assert status == 0, err
    return out, json.loads(said), words


def test_both_methods_find_the_light_curve_on_turned_grids(run):
    out, said, _ = run
    assert said["images"] == 5 and said["light_curves"] == 1
    table = QTable.read(out / "lightcurves.ecsv")
    truth = dict(zip([f"e{k}" for k in range(5)], FLUXES, strict=True))
    for method, count in (("difference", 4), ("scene", 5)):
        rows = table[table["method"] == method]
        assert len(rows) == count and (np.diff(rows["mjd"]) == 3).all()
        pulls = (rows["flux"] - [truth[name] for name in rows["epoch"]]) / rows["flux_err"]
        assert np.abs(pulls).max() < 3.5 and (pulls**2).mean() < 3
        assert (rows["flux_err"] < 400).all() and rows["snr"][count - 3] > 10
        faint = rows["snr"] < 3
        assert np.isnan(rows["mag"][faint]).all() and np.isfinite(rows["mag_limit"]).all()
        bright = rows[count - 3]
        assert abs(bright["mag"] - (27 - 2.5 * np.log10(4000))) < 4 * bright["mag_err"]
    scales = dict(zip(table["epoch"], table["scale"], strict=True))
    assert all(abs(scales[f"e{k}"] / SCALES[k] - 1) < 0.02 for k in range(1, 5))


def test_files_say_covariance_position_and_pictures(run):
    out, *_ = run
    table = QTable.read(out / "lightcurves.ecsv")
    with fits.open(out / "covariance.fits") as hdus:
        for method in ("difference", "scene"):
            matrix = hdus[f"AT_1 {method.upper()}"].data
            errors = table["flux_err"][table["method"] == method]
            assert np.allclose(np.sqrt(np.diag(matrix)), errors)
            assert np.linalg.eigvalsh(matrix).min() > 0
            assert (matrix > 0).all()  # one reference, one host
    where = QTable.read(out / "positions.ecsv")
    off = np.hypot(where["x_scene"] - where["x"], where["y_scene"] - where["y"])
    assert off[0] < 0.3 and abs(where["sersic.x"][0] - 70) < 0.5
    assert (out / "curves" / "at_1.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_run_is_not_done_again_and_other_settings_are_refused(run):
    out, _, words = run
    before = (out / "epochs" / "e1.fits").stat().st_mtime_ns
    status, said, _ = command(*words)
    assert status == 0 and json.loads(said)["light_curves"] == 1
    assert (out / "epochs" / "e1.fits").stat().st_mtime_ns == before
    status, _, err = command(*words, "--host", "none")
    assert status in (1, 2) and "host" in err


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ([], 2, "no position"),
        (["--at", "here"], 2, "no position, nor a file"),
        (["--at", "pixel:5000,20"], 2, "outside the reference"),
        (["--at", "pixel:70,75", "--absent", "yesterday"], 2, "no range of dates"),
        (["--at", "pixel:70,75", "--method", "guess"], 2, "method"),
    ],
)
def test_wrong_calls_are_answered(folder, tmp_path, words, status, why):
    got, _, err = command("lightcurve", folder[0], *words, "-o", tmp_path / "o")
    assert got == status and why in err


def test_an_epoch_of_another_band_fails_alone(folder, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for name in ("e0", "e1", "e2"):
        with fits.open(folder[0] / f"{name}.fits") as hdus:
            hdus[0].header["FILTER"] = "g" if name == "e1" else "r"
            hdus.writeto(images / f"{name}.fits")
    words = ("--at", "pixel:73.4,77.2", "-o", tmp_path / "o")
    status, _, err = command("lightcurve", images, *words)
    assert status == 3 and "filter is g" in err
    assert list(QTable.read(tmp_path / "o" / "lightcurves.ecsv")["epoch"]) == ["e2"]


def test_epochs_come_back_from_their_files(folder, tmp_path):
    options = ReadOptions(mode="frame")
    first, second = (
        read_frame(discover([folder[0] / f"e{k}.fits"]).sources[0], options) for k in (0, 1)
    )
    at = places([[150.0, 2.0]], first)
    one = measure_epoch(second, first, at, LightCurveOptions(method="both"), time=58003.0)
    write_epoch(tmp_path / "one.fits", one)
    back = read_epoch(tmp_path / "one.fits")
    assert (back.id, back.time, back.convolved) == (one.id, one.time, one.convolved)
    mine, theirs = one.spots[0], back.spots[0]
    given = (one.scale.value, one.scale.error, mine.flux, mine.error)
    found = (back.scale.value, back.scale.error, theirs.flux, theirs.error)
    assert np.allclose(given, found, rtol=1e-14)
    assert np.array_equal(mine.noise, theirs.noise)
    assert np.array_equal(mine.stamp.data, theirs.stamp.data)
    assert mine.stamp.position == theirs.stamp.position
    sky = [s.stamp.wcs.pixel_to_world_values(3.0, 5.0) for s in (mine, theirs)]
    assert np.allclose(*sky, atol=1e-9)


# --- errors that hold -------------------------------------------------------------------------


def test_epochs_share_the_noise_of_their_reference():
    """Covariance of the fluxes of two epochs at empty places, as found and as said."""
    size, rng = 130, np.random.default_rng(1)
    spots, bright = rng.uniform(0, size, (25, 2)), 10 ** rng.uniform(3.5, 5, 25)
    clean = [stars(spots, bright, fwhm, (size, size)) for fwhm in (3.0, 3.4)]
    x, y = (v.ravel() for v in np.meshgrid(np.arange(25.0, 110, 17), np.arange(25.0, 110, 17)))
    far = np.hypot(x[:, None] - spots[:, 0], y[:, None] - spots[:, 1]).min(1) > 6
    x, y = x[far] + 0.3, y[far] - 0.2
    where = QTable({"name": np.arange(len(x)).astype(str), "x": x, "y": y})
    settings = LightCurveOptions(scale="kernel", kernel_size=7)
    fluxes, told = [], []
    for _ in range(12):
        reference, *epochs = (
            frame(
                name, light + rng.normal(size=light.shape) * np.sqrt(light + level), light + level,
                psf=PSF(gaussian(fwhm).astype("f4")),
            )
            for name, light, level, fwhm in (
                ("r", clean[0], 300, 3.0), ("a", clean[1], 100, 3.4), ("b", clean[1], 200, 3.4),
            )
        )  # fmt: skip
        got = [measure_epoch(one, reference, where, settings) for one in epochs]
        for k in range(len(x)):
            curve = light_curve_of(got, k, "", settings)
            fluxes.append(np.asarray(curve.table["flux"]))
            told.append(curve.covariance["difference"])
    found, told = np.cov(np.transpose(fluxes)), np.mean(told, 0)
    assert len(fluxes) > 150
    assert np.allclose(found / told, 1, atol=0.35)  # 200 samples: 0.1 each
    assert told[0, 1] > 0.4 * np.sqrt(told[0, 0] * told[1, 1])


def test_a_baseline_takes_the_reference_s_own_light_off():
    flux, cov = np.array([-300.0, -310.0, 200.0]), np.diag([100.0, 100.0, 100.0]) + 50
    above, spread = _above_baseline(flux, cov, np.array([True, True, False]))
    assert np.allclose(above, [5, -5, 505])
    assert np.allclose(spread[2, 2], 150 - 2 * 50 + 100)  # what is common is gone


# --- scene ------------------------------------------------------------------------------------


def scene_stamps(seed, fluxes, *, wrong=0.0, host=25000.0, side=33, sky=100.0):
    """A galaxy of two Gaussians and a source, PSFs of another width each time."""
    rng = np.random.default_rng(seed)
    out, middle = [], side / 2
    for e, flux in enumerate(fluxes):
        fwhm = rng.uniform(3.0, 4.0)
        seen = fwhm * (1 + wrong * rng.normal())
        light = stars([(middle + 3.4, middle - 2.2)], [flux], seen, (side, side))
        for width, share in ((5.0, 0.5), (11.0, 0.5)):
            galaxy = [share * host], np.hypot(seen, width)
            light += stars([(middle, middle)], *galaxy, (side, side))
        variance = sky + light
        data = light + rng.normal(size=light.shape) * np.sqrt(variance)
        psf = PSF(gaussian(fwhm, 12).astype("f4"))
        mask = np.zeros(data.shape, bool)
        planes = data.astype("f4"), np.sqrt(variance).astype("f4"), mask
        out.append(Stamp(f"e{e}", *planes, psf, x=middle + 3.4, y=middle - 2.2))
    return out


@pytest.mark.parametrize("host", ["sersic+pixels", "pixels"])
def test_fluxes_of_scenes_hold_with_psfs_that_are_wrong(host):
    truth = np.array([0, 0, 3000.0, 1500, 600, 200])
    settings, pulls = LightCurveOptions(host=host), []
    for seed in range(3):
        got = fit_scene(scene_stamps(seed, truth, wrong=0.01), truth == 0, settings)
        assert (got.flux[:2] == 0).all() and (got.chi2 < 1.3).all()
        pulls.append((got.flux - truth)[2:] / np.sqrt(np.diag(got.covariance)[2:]))
    pulls = np.array(pulls)
    assert np.abs(pulls).max() < 3.5 and abs(pulls.mean()) < 0.8 and pulls.std() < 1.5


def test_a_flux_may_be_negative_and_nothing_is_there_without_a_host():
    stamps = scene_stamps(4, [-800.0, 0.0, 800.0], host=0.0)
    got = fit_scene(stamps, [False] * 3, LightCurveOptions(host="none"))
    errors = np.sqrt(np.diag(got.covariance))
    assert np.abs((got.flux - [-800, 0, 800]) / errors).max() < 3.5
    assert got.flux[0] < -5 * errors[0] and got.host == {}


def test_errors_of_a_scene_carry_those_of_the_psf():
    stamps = scene_stamps(5, [0.0, 6000.0, 0.0], host=2e5)
    exact, real = (
        fit_scene(stamps, [True, False, True], LightCurveOptions(host="sersic", psf_error=e))
        for e in (0.0, 0.02)
    )
    assert real.covariance[1, 1] > 1.5 * exact.covariance[1, 1]


def test_changes_of_a_psf_are_its_widths_and_places():
    psf = gaussian_psf(3.5, half_size=14)
    modes = with_errors(psf, 0.02, 0.1).modes.astype(float)
    wider = gaussian_psf(3.5 * 1.02, half_size=14).data - psf.data.astype(float)
    assert np.abs(modes[0] - wider).max() < 0.1 * np.abs(wider).max()
    y, x = np.indices(psf.data.shape) - 14.0
    assert abs((modes[3] * x).sum() - 0.1) < 0.005 and abs((modes[4] * y).sum() - 0.1) < 0.005
    assert np.abs(modes.sum((1, 2))).max() < 1e-3


# --- dates, positions, scales -----------------------------------------------------------------


def test_dates_and_ranges(tmp_path):
    for card, value in (("MJD-OBS", 59000.25), ("DATE-OBS", "2020-05-31T06:00:00")):
        header = fits.Header([(card, value)])
        fits.PrimaryHDU(np.ones((40, 40)), header).writeto(tmp_path / "a.fits", overwrite=True)
        assert abs(observed(discover([tmp_path / "a.fits"]).sources[0]) - 59000.25) < 1e-6
    assert Time(59000.25, format="mjd").isot.startswith("2020-05-31T06")
    assert absent_at([1, 5, 9], ":2,8:").tolist() == [True, False, True]
    with pytest.raises(SettingsError, match="no epoch"):
        absent_at([1, 5], "10:20")


def measured(frame, reference, width=0.01):
    """Stars of both images, each by its own PSF."""
    there, here = common_stars(frame, reference)
    return measure_stars(frame, there, width), measure_stars(reference, here, width)


def test_stars_say_how_bright_an_epoch_is():
    one = pair(3, 256, scale=0.8, new=0)
    psfs = [PSF(gaussian(fwhm).astype("f4")) for fwhm in (3.6, 3.0)]
    science, reference = one.science.replace(psf=psfs[0]), one.reference.replace(psf=psfs[1])
    mine, theirs = measured(science, reference)
    got = relative_scale(science, mine, reference, theirs)
    assert got.how == "stars" and got.number >= 10
    assert abs(got.value / 0.8 - 1) < 0.01 and abs(got.value - 0.8) < 4 * got.error
    blank = science.replace(data=np.random.default_rng(1).normal(size=(256, 256)).astype("f4"))
    assert common_stars(blank, blank) is None
    none = measure_stars(blank, None, 0.01)
    assert relative_scale(blank, none, blank, none) is None
    with pytest.raises(InputError, match="fewer than 3 good stars"):
        relative_scale(blank, none, blank, none, "stars")


def test_stars_say_how_wide_a_psf_is():
    """Pulls of the width, and the PSF that comes out, with PSFs that are 2 % too wide or narrow."""
    pulls = []
    for seed in range(6):
        one, wrong = pair(seed, 256, new=0, seeing=(3.6, 3.6)), 0.02 * (-1) ** seed
        frame = one.science.replace(psf=PSF(gaussian(3.6 * (1 + wrong)).astype("f4")))
        found, _ = measured(frame, frame)
        pulls.append((found.change[0] + 100 * wrong) / np.sqrt(found.covariance[0, 0]))
        assert np.sqrt(found.covariance[0, 0]) < 0.4  # of the 1 % that was known
        better, off = found.corrected(frame.psf), np.array([gaussian(3.6)] * 2)
        off[0] -= frame.psf.data
        off[1] -= better.data
        assert np.abs(off[1]).max() < 0.3 * np.abs(off[0]).max()
    assert np.abs(pulls).max() < 3.5 and np.mean(np.square(pulls)) < 3


def test_a_change_of_the_psf_leaves_fluxes_of_stars_as_they_are():
    one = pair(2, 256, new=0)
    frame = one.science.replace(psf=PSF(gaussian(3.6).astype("f4")))
    found, _ = measured(frame, frame, 0.02)
    psf = found.corrected(frame.psf)
    bent = PSF(psf.data + 3 * psf.modes[-1])
    places, _ = common_stars(frame, frame)
    plain, other = (
        measure_stars(frame.replace(psf=p), places, 0.0).flux for p in (PSF(psf.data), bent)
    )
    assert abs(np.median(other / plain) - 1) < 0.2 * abs(bent.data.sum() - 1) > 1e-3


def test_an_undersampled_psf_is_moved_on_its_own_pixels():
    """By parts of a pixel, from oversampled images of either parity."""
    for sides, middle in ((75, 37.0), (74, 36.5)):
        wide = stars([(middle, middle)], [1.0], 1.5 * 3, (sides, sides))
        at = torch.tensor([0.37, 0.0]), torch.tensor([-0.21, 0.0])
        got = psf_at(double(wide), *(a.double() for a in at), oversampling=3)
        half = got.shape[1] // 2
        for image, dx, dy in zip(got, *at, strict=True):
            truth = stars([(half + float(dx), half + float(dy))], [1.0], 1.5, got.shape[1:])
            assert np.abs(image.numpy() - truth).max() < 1e-4 * truth.max()


def test_limits():
    assert abs(flux_limit(0.0, 1.0) - 1.96) < 0.001  # half a Gaussian
    assert abs(flux_limit(100.0, 1.0) - 101.645) < 0.001
    assert 0 < flux_limit(-20.0, 1.0) < 0.2 and np.isnan(flux_limit(1.0, 0.0))


def test_frames_in_memory():
    one = pair(1, 200, new=0)
    at = (90.2, 101.7)
    flare = stars([at], [3000.0], 3.6, (200, 200)).astype("f4")
    frames = [
        one.reference,
        one.science,
        one.science.replace(id="b", data=one.science.data + flare),
    ]
    psfs = [gaussian(fwhm).astype("f4") for fwhm in (3.0, 3.6, 3.6)]
    curve = afm.light_curve(
        [f.data for f in frames], at, sigma=[f.sigma for f in frames], psf=psfs, times=[1, 2, 3],
        scale="kernel", zeropoint=25.0,
    )  # fmt: skip
    rows = curve.rows("difference")
    assert list(rows["mjd"]) == [2, 3] and rows["snr"][1] > 10 > abs(rows["snr"][0])
    gained = (rows["flux"][1] - rows["flux"][0]) * rows["scale"][1]
    assert abs(gained - 3000) < 30  # the same noise in both
    with pytest.raises(SettingsError, match="3 images"):
        afm.light_curve(frames, at, times=[1, 2])
