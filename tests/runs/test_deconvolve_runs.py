"""`autofit-ml deconvolve`: from files to sharp images, with an untrained prior."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fits_inputs import galaxy, gaussian, write_object
from scipy import ndimage
from typer.testing import CliRunner
from weights_bundles import add_deconvolve_bundle

from autofit_ml.cli import app
from autofit_ml.deconvolution.operator import LARGEST, grid_side
from autofit_ml.errors import SettingsError
from autofit_ml.images import PSF, Stamp
from autofit_ml.runs import Progress
from autofit_ml.runs import deconvolve as run_module
from autofit_ml.runs.deconvolve import cut_out, deconvolve_run, sky_correlation
from autofit_ml.segmentation import Segmentation
from autofit_ml.settings import DeconvolveSettings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two galaxies, one of them without a PSF; the sky is 5."""
    add_deconvolve_bundle(tmp_path / "weights", "deconvolve/galaxies-any@0.1.0")
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(tmp_path / "weights"))
    path = tmp_path / "images"
    path.mkdir()
    cards = {"BUNIT": "nJy", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 20.0, "CRPIX2": 21.0,
             "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": -5e-5, "CD2_2": 5e-5,
             "CD1_2": 0.0, "CD2_1": 0.0}  # fmt: skip
    write_object(path, "good", image=galaxy(seed=1), cards=cards)
    write_object(path, "bare", image=galaxy(seed=2), psf=False)
    return path


def settings(tmp_path, **changes) -> DeconvolveSettings:
    # The folder, as no manifest is needed for it.
    weights = str(tmp_path / "weights" / "deconvolve" / "galaxies-any@0.1.0")
    given = {"samples": 4, "steps": 6, "prior": False, "weights": weights, "segmenter": "sep"}
    return DeconvolveSettings(**given | changes)


class Told(Progress):
    """Calls a function with (objects that are done, all of them)."""

    def __init__(self, call):
        self.call = call

    def begin(self, n_sources, n_done, ignored):
        self.done, self.total = n_done, n_sources
        self.call(n_done, n_sources)

    def batch(self, n_sources, rows):
        self.done += n_sources
        self.call(self.done, self.total)


@pytest.mark.filterwarnings("ignore::autofit_ml.errors.AutofitWarning")
def test_files_of_a_run(folder, tmp_path):
    out = tmp_path / "sharp"
    steps = []
    summary = deconvolve_run(
        folder, out, settings(tmp_path, fit=True),
        progress=Told(lambda done, total: steps.append((done, total))),
    )  # fmt: skip
    assert summary.n_ok == 1 and summary.exit_status == 3 and steps == [(0, 2), (2, 2)]
    assert "no PSF" in summary.failures["bare"]
    assert {path.name for path in out.iterdir()} == {".work", "good.fits", "good.png", "sharp.ecsv"}
    table = Table.read(out / "sharp.ecsv")
    rows = {row["id"]: row for row in table}
    assert rows["bare"]["status"] == "failed" and np.isnan(rows["bare"]["re"])
    assert rows["good"]["status"] == "ok" and rows["good"]["n_fitted"] >= 0
    with fits.open(out / "good.fits") as hdus:
        assert hdus[0].header["BUNIT"] == "nJy" and len(hdus["SAMPLES"].data) == 4
        assert {"STRUCTURE", "STRUCTSIG", "PRIORFRAC"} <= {hdu.name for hdu in hdus}
        # The cut-out's first pixel is where the table says, also on the sky.
        assert hdus[0].header["CRPIX1"] == pytest.approx(20.0 - rows["good"]["x0"])
        # The sky of 5 is gone.
        assert abs(np.nanmedian(hdus["RESIDUAL"].data)) < 1


class Stops(Progress):
    """Ctrl-C when the first object is done; what `part` was told until then."""

    def __init__(self):
        self.parts, self.done = [], 0

    def part(self, objects):
        self.parts.append(objects)

    def batch(self, n_sources, rows):
        if not self.done:
            signal.raise_signal(signal.SIGTERM)
        self.done += n_sources


@pytest.mark.filterwarnings("ignore::autofit_ml.errors.AutofitWarning")
def test_objects_are_saved_one_by_one_and_resumed_to_the_bit(folder, tmp_path, monkeypatch):
    """Each counts as done when it took long; a share of it is told before."""
    for path in folder.glob("bare*"):
        path.unlink()
    for seed in (3, 4):
        write_object(folder, f"later{seed}", image=galaxy(seed=seed))
    given = settings(tmp_path, pictures=False)
    deconvolve_run(folder, tmp_path / "whole", given)
    monkeypatch.setattr(run_module, "_SECONDS_A_PART", -1.0)
    stops = Stops()
    stopped = deconvolve_run(folder, tmp_path / "out", given, progress=stops)
    assert stopped.interrupted and stopped.n_new == stops.done == 1
    assert len(Table.read(tmp_path / "out" / "sharp.ecsv")) == 1
    assert len(stops.parts) > 4 and 0 < stops.parts[0] < stops.parts[1] < stops.parts[-1] <= 1
    assert deconvolve_run(folder, tmp_path / "out", given).n_new == 2
    for path in (tmp_path / "whole").glob("*.fits"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    whole, resumed = (Table.read(tmp_path / name / "sharp.ecsv") for name in ("whole", "out"))
    assert whole.pformat() == resumed.pformat()


@pytest.mark.filterwarnings("ignore::autofit_ml.errors.AutofitWarning")
def test_the_command(folder, tmp_path):
    weights = settings(tmp_path).weights
    words = ["deconvolve", str(folder / "good_image.fits"), "--out", str(tmp_path / "out")]
    words += ["--samples", "2", "--segmenter", "sep", "--weights", weights, "--json"]
    words += ["--psf", str(folder / "good_psf.fits")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["objects"] == 1
    assert (tmp_path / "out" / "good.fits").exists()


def test_wrong_calls(folder, tmp_path):
    for words, text in (
        (["deconvolve"], "nothing to deconvolve"),
        (["deconvolve", str(folder), "--sampler", "dps"], "sampler is 'dps'"),
        (["deconvolve", str(folder), "--oversampling", "3"], "oversampling is 3"),
        (["deconvolve", str(folder), "--target-fwhm", "1"], "target_fwhm is 1.0"),
    ):
        with pytest.raises(SettingsError, match=text):
            CliRunner().invoke(app, words, catch_exceptions=False)
    with pytest.raises(SettingsError, match="a size of 8"):
        deconvolve_run(folder, tmp_path / "out", settings(tmp_path, size=8))


def test_the_target_alone():
    data = galaxy((100, 120), sky=7.0)
    labels = np.zeros(data.shape, np.int32)
    labels[35:65, 50:70] = 1
    contaminants = np.zeros(data.shape, bool)
    contaminants[40:45, 72:80] = True
    found = Segmentation(labels, 1, contaminants, 7.0, 1.0)
    stamp = Stamp(
        "g", data, np.ones_like(data), np.zeros(data.shape, bool),
        PSF(gaussian().astype(np.float32)), 60.0, 50.0, origin=(10, 20),
    )  # fmt: skip
    cut = cut_out(stamp, found, 0, 1)
    assert cut.shape == (96, 96)  # three times 30 pixels, a multiple of 8
    assert cut.origin == (10 + 12, 20 + 2) and cut.position == (47.5, 47.5)
    np.testing.assert_allclose(cut.data, data[2:98, 12:108] - 7)
    assert cut.mask.sum() == contaminants.sum()
    assert cut_out(stamp, found, 40, 1).shape == (40, 40)
    # No larger than what can be deconvolved, no larger than the stamp.
    assert cut_out(stamp, found, 0, 2).shape == (96, 96)
    tiny = cut_out(stamp.replace(data=data[:30, :30], sigma=data[:30, :30], mask=labels[:30, :30] > 0),
                   Segmentation(labels[:30, :30], 0, labels[:30, :30] > 9, 7.0, 1.0), 0, 1)  # fmt: skip
    assert tiny.shape == (30, 30)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_a_large_galaxy_is_cut_to_what_a_grid_holds(oversampling):
    """Three times its extent, padding included, would be more."""
    data = galaxy((300, 300))
    labels = np.zeros(data.shape, np.int32)
    labels[105:195, 105:195] = 1
    stamp = Stamp(
        "g", data, np.ones_like(data), np.zeros(data.shape, bool),
        PSF(gaussian().astype(np.float32)), 149.5, 149.5,
    )  # fmt: skip
    found = Segmentation(labels, 1, labels > 1, 0.0, 1.0)
    cut = cut_out(stamp, found, 0, oversampling)
    assert LARGEST - 16 * oversampling <= grid_side([cut], oversampling) <= LARGEST
    assert cut.position == pytest.approx(((cut.shape[1] - 1) / 2,) * 2, abs=1)


@pytest.mark.parametrize("correlated", [False, True])
def test_correlation_of_the_sky(correlated):
    """What a kernel did to white noise; nothing where there is nothing."""
    rng = np.random.default_rng(4)
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]) if correlated else np.ones((1, 1))
    noise = ndimage.convolve(rng.normal(size=(96, 96)), kernel, mode="wrap")
    data = (noise / noise.std() + 5).astype(np.float32)
    data[40:56, 40:56] += 50
    labels = np.zeros(data.shape, np.int32)
    labels[28:68, 28:68] = 1
    stamp = Stamp(
        "g", data, np.ones_like(data), np.zeros(data.shape, bool), PSF(gaussian().astype("f4"))
    )
    found = sky_correlation(stamp, Segmentation(labels, 1, labels > 1, 5.0, 1.0))
    if not correlated:
        assert found is None
        return
    assert found.shape == (7, 7) and found[3, 3] == pytest.approx(1)
    # Autocorrelation of (1, 2, 1): 1, 2/3, 1/6.
    np.testing.assert_allclose(found[3, 4:], [2 / 3, 1 / 6, 0], atol=0.07)
    np.testing.assert_allclose(found[4, 4], 4 / 9, atol=0.07)
    small = Segmentation(np.ones_like(labels), 1, labels > 1, 5.0, 1.0)
    assert sky_correlation(stamp, small) is None
