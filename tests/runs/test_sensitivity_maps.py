"""`autofit-ml sensitivity`: from images to the map and its selection function."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

pytest.importorskip("galsim", reason="GalSim draws the galaxies")

import autofit_ml as afm
from autofit_ml.cli import app
from autofit_ml.errors import ResumeError, SettingsError
from autofit_ml.images.psf import gaussian_psf
from autofit_ml.images.stamp import Stamp
from autofit_ml.injection.pairs import draw_pair, light_of_pair, recipe_of, scaled_to_snr
from autofit_ml.runs import Progress
from autofit_ml.runs.sensitivity import axes_of_map, cells_of, sensitivity_run
from autofit_ml.scenes import parse_model
from autofit_ml.settings import SensitivitySettings
from autofit_ml.simulation import export_fits, simulate_sersic

QUICK = {"workers": 0, "segmenter": "sep", "init": "moments"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map") / "images"
    objects = simulate_sersic(3, seed=9, snr=(60.0, 150.0), size=64, re=(4.0, 5.5))
    export_fits(objects, folder, tables=False)
    with fits.open(next(folder.glob("*0_image.fits"))) as hdus:
        mask = np.zeros(hdus[0].data.shape, np.uint8)
    mask[:6, :6] = 1
    fits.writeto(next(folder.glob("*0_image.fits")).with_name("sim00000_mask.fits"), mask)
    return folder


@pytest.fixture(scope="module")
def found(images):
    """Twelve galaxies: none, a faint and a bright second component."""
    words = ["sensitivity", images, "-o", images.parent / "map", "-n", "6", "--grid",
             "B/T=0.35,snr=25:500:2:log,re_ratio=0.3", "--segmenter", "sep", "--init", "moments",
             "--workers", 0, "--json"]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return images.parent / "map", json.loads(result.stdout.strip().splitlines()[-1])


def test_what_is_bright_is_seen_and_what_is_not_there_is_not(found):
    folder, told = found
    assert told["galaxies"] == 24 and told["places"] == 3 and told["failed"] == 0
    assert told["false_positives"] <= 1 and told["without_a_second_component"] == 12
    cells = Table.read(folder / "cells.ecsv")
    bright = cells[(cells["B/T"] > 0) & (cells["snr"] > 100)][0]
    assert bright["accepted"] == 6 and abs(bright["bias"]) < 0.1
    assert cells[(cells["B/T"] > 0) & (cells["snr"] < 100)][0]["accepted"] <= 1
    page = (folder / "sensitivity.html").read_text()
    assert "sersic+exp" in page and "data:image/png" in page and "http" not in page


def test_the_selection_is_usable(found):
    selection = afm.read_selection(found[0])
    p = selection({"B/T": 0.35, "snr": np.array([25.0, 500.0]), "re_ratio": 0.3})
    assert p[0] < 0.4 and p[1] > 0.8


def test_galaxies_have_the_signal_that_the_cell_says(found):
    folder, _ = found
    rows = afm.query(
        folder / "fits", "SELECT id, snr, bic_simpler, bic_richer FROM catalog WHERE snr > 100"
    )
    assert np.median(rows["snr"].to_pylist()) == pytest.approx(500, rel=0.06)
    masks = sorted((folder / "injected").glob("*_mask.fits"))
    assert len(masks) == 8  # of every third galaxy: the image's own


def test_a_second_call_does_nothing_and_another_map_is_refused(images, found):
    class Count(Progress):
        done = 0

        def batch(self, n_sources, rows):
            Count.done += n_sources

    settings = SensitivitySettings(number=6, grid="B/T=0.35,snr=25:500:2:log,re_ratio=0.3", **QUICK)
    before = (found[0] / "cells.ecsv").read_bytes()
    sensitivity_run(images, found[0], settings, progress=Count())
    assert Count.done == 0 and (found[0] / "cells.ecsv").read_bytes() == before
    with pytest.raises(ResumeError, match="margin"):
        sensitivity_run(images, found[0], settings.replace(margin=2.0))


def test_cells_without_a_first_component_are_not_repeated():
    settings = SensitivitySettings(grid="snr=50:200:2,B/T=0.1:0.3:3,re_ratio=0.2:0.4:2")
    axes = axes_of_map(settings)
    assert list(axes) == ["B/T", "snr", "re_ratio"]
    cells = cells_of(axes)
    assert len(cells) == 2 + 12
    assert [cell["B/T"] for cell in cells[:2]] == [0.0, 0.0]


def test_light_of_a_pair():
    """Shares, sizes and total S/N are what they should be."""
    stamp = Stamp("s", np.zeros((81, 81), np.float32), np.full((81, 81), 2.0, np.float32),
                  np.zeros((81, 81), bool), gaussian_psf(2.5), gain=4.0)  # fmt: skip
    recipe = recipe_of(parse_model("sersic"), parse_model("psf+sersic"))
    like = {"x": 40.0, "y": 40.0, "re": 5.0, "n": 1.0, "q": 0.6, "pa": 20.0}
    rng = np.random.default_rng(1)
    point = draw_pair(recipe, {"B/T": 0.3, "snr": 80.0}, like, rng)
    whole = light_of_pair(point, stamp)
    rest = light_of_pair(point | {"share_1": 0.0}, stamp)
    assert (whole - rest).sum() == pytest.approx(0.3, abs=1e-3)
    second = np.sum((whole - rest) * np.hypot(*(np.indices(stamp.shape) - 40)) ** 2) / 0.3
    pixel = 1 / 6
    assert second == pytest.approx(2 * (2.5 / 2.3548) ** 2 + pixel, rel=0.02)  # the PSF alone
    light = scaled_to_snr(whole, stamp, 80.0)
    noise = np.sqrt(4.0 + light / 4.0)
    assert np.sqrt(np.sum((light / noise) ** 2)) == pytest.approx(80.0, rel=1e-4)
    single = draw_pair(recipe, {"B/T": 0.0, "snr": 80.0}, like, rng)
    assert single["n_2"] == 1.0 and single["share_1"] == 0.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"richer": "sersic"}, "has 1 components"),
        ({"simpler": "sersic+exp"}, "has 2 components"),
        ({"richer": "sersic+nuker"}, "nuker cannot be injected"),
    ],
)
def test_models_that_cannot_be_injected(images, tmp_path, options, says):
    with pytest.raises(SettingsError, match=says):
        sensitivity_run(images, tmp_path / "out", SensitivitySettings(**options, **QUICK))


@pytest.mark.parametrize("grid", ["snr=3:5:2", "B/T=0:0.5:3", "B/T=0.1,B/T=0.2", "C=1", "B/T=1.5"])
def test_wrong_grids(grid):
    with pytest.raises(SettingsError, match="grid"):
        SensitivitySettings(grid=grid)
