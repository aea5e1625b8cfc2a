"""What a survey runs beside fits: catalogues of stars and galaxies, changes between epochs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from astropy.io import fits
from overlapping_frames import SEEING, draw, galaxies, tangent_plane
from scipy.spatial import cKDTree

from autofit_ml.errors import SettingsError
from autofit_ml.segmentation import Detections
from autofit_ml.settings import CatalogSettings, DiffSettings, SurveyOptions, SurveySettings
from autofit_ml.sources import infer
from autofit_ml.survey.run import survey_run
from autofit_ml.survey.sky import unit_vectors

pytest.importorskip("reproject")

SIDE = 160
NEW = np.array([[-20.0, -10.0], [0.5, 12.0], [18.0, -3.0], [3.0, -20.0]])
"""Arcsec east and north of the middle: sources that only later images have."""

FLUX = 300.0
"""Theirs: S/N of about 40."""


def rows(out: Path) -> pa.Table:
    return pyarrow.dataset.dataset(sorted(out.glob("tiles/*/*.parquet"))).to_table().sort_by("id")


def write(
    path: Path, east: float, turn: float, sky: np.ndarray, seed: int, blur: float = 0.0, **cards
) -> None:
    """A frame whose middle lies so many arcsec to the east of the area's; with a gain, its noise is
    that of photons, too; `blur` (sigma, pixels) widens the PSF."""
    wcs = tangent_plane(east / 3600, 0.0, (SIDE, SIDE), turn)
    sky = np.c_[sky[:, :3], np.hypot(sky[:, 3], blur)]
    image = draw(wcs, (SIDE, SIDE), sky, 0.0, seed)
    sigma = np.sqrt(1.0 + image / cards.get("GAIN", np.inf)).astype(np.float32)
    image += np.random.default_rng(seed).normal(0.0, sigma).astype(np.float32)
    header = wcs.to_header()
    header.update({"FILTER": "r", "ZP": 25.0} | cards)
    path.parent.mkdir(exist_ok=True)
    fits.writeto(path, image, header)
    fits.writeto(path.with_name(path.name.replace("image", "sigma")), sigma)
    v, h = np.mgrid[-12:13, -12:13]
    psf = np.exp(-0.5 * (h**2 + v**2) / ((SEEING / 2.3548) ** 2 + blur**2))
    fits.writeto(path.parent / "psf.fits", psf.astype(np.float32), overwrite=True)


def apart(found: pa.Table, sky: np.ndarray) -> np.ndarray:
    """Arcsec from each row to the nearest of some places."""
    names = ("ra_detected", "dec_detected")
    places = unit_vectors(*(np.asarray(found.column(name)) for name in names))
    return np.degrees(cKDTree(unit_vectors(*sky[:, :2].T)).query(places)[0]) * 3600


@pytest.fixture(scope="module")
def epochs(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """Two references side by side; two later images over both of them, with new stars."""
    folder = tmp_path_factory.mktemp("epochs")
    sky = galaxies(0.0, 0.0, 45.0, 60, seed=1)
    sky[:, 2:] = np.minimum(sky[:, 2:3], 1500.0) * [1, 0]
    new = np.c_[(NEW[:, 0] / 3600) % 360, NEW[:, 1] / 3600, np.full(len(NEW), FLUX), [0.0] * 4]
    for k, east in enumerate((-18.0, 18.0)):
        write(folder / f"references/t{k}_image.fits", east, 0.0, sky, 10 + k)
    for k in range(2):
        later = np.vstack([sky, new])
        write(folder / f"science/s{k}_image.fits", 2.0 * k, 5.0 * k, later, k, MJD=60000.0 + k)
    return folder, new


def test_changes_once_in_each_epoch(epochs, tmp_path):
    folder, new = epochs
    tables = []
    for text in ("healpix:12", "grid:0.01"):
        out = tmp_path / text.partition(":")[0]
        options = SurveySettings(run="diff", tiling=text, reference=folder / "references", halo=60)
        settings = DiffSettings(kernel_size=9, workers=0)
        summary = survey_run(folder / "science", out, settings, options)
        assert (summary.exit_status, summary.concerns) == (0, [])
        tables.append(rows(out))
    found, other = (one.drop_columns("tile").to_pandas() for one in tables)
    pd.testing.assert_frame_equal(found, other, check_exact=True)
    found = tables[0]
    near = apart(found, new) < 0.5
    assert near.sum() == 2 * len(NEW)
    assert np.asarray(found.column("use").to_pylist())[~near].sum() <= 1
    seen = found.filter(pa.array(near))
    assert sorted(seen.column("mjd").to_pylist()) == [60000.0] * 4 + [60001.0] * 4
    assert set(seen.column("reference").to_pylist()) == {"t0", "t1"}
    pull = (np.asarray(seen.column("flux")) - FLUX) / np.asarray(seen.column("flux_err"))
    assert np.abs(pull).max() < 5
    assert sum(seen.column("use").to_pylist()) >= 2 * len(NEW) - 1


def test_what_is_left_of_bright_stars_is_no_change(tmp_path):
    """Stars of an S/N of 2 000, in worse seeing than the reference's; new ones nearby are found."""
    sky = galaxies(0.0, 0.0, 45.0, 60, seed=1)
    sky[:, 2:] = np.minimum(sky[:, 2:3], 1500.0) * [1, 0]
    east, north = np.array([[-18.0, 14.0], [-9.0, -16.0], [9.0, 9.0], [16.0, -19.0]]).T / 3600
    bright = np.c_[east % 360, north, np.full(4, 1e6), np.zeros(4)]
    right, up = np.array([[6.0, 0.0], [-4.0, 4.0], [1.0, -7.0], [-5.0, 1.0]]).T / 3600
    new = np.c_[(east + right) % 360, north + up, np.full(4, FLUX), np.zeros(4)]
    known = np.vstack([sky, bright])
    write(tmp_path / "references/t_image.fits", 0.0, 0.0, known, 10, GAIN=5.0)
    write(tmp_path / "science/s_image.fits", 1.0, 5.0, np.vstack([known, new]), 0, 0.8, GAIN=5.0)
    options = SurveySettings(run="diff", tiling="healpix:11", reference=tmp_path / "references")
    survey_run(tmp_path / "science", tmp_path / "out", DiffSettings(workers=0), options)
    found = rows(tmp_path / "out")
    real = found.filter(found.column("use"))
    assert (apart(found, bright) < 3.0).sum() >= 2  # what the subtraction leaves
    assert apart(real, bright).min() > 3.0
    near = apart(real, new) < 0.5
    assert near.sum() == len(new)
    assert (~near).sum() <= 1


def test_an_image_without_reference(epochs, tmp_path):
    folder, _ = epochs
    options = SurveySettings(run="diff", reference=folder / "references/t1_image.fits")
    write(tmp_path / "far/a_image.fits", 900.0, 0.0, np.zeros((0, 4)), 0)
    with pytest.raises(SettingsError, match="no reference covers it"):
        survey_run(tmp_path / "far", tmp_path / "out", DiffSettings(workers=0), options)


def test_stars_and_galaxies_do_not_depend_on_tiles(tmp_path, monkeypatch):
    """Cells say what found their sources, too (here what calls itself the network)."""
    whole = infer.detect

    def named(*arguments: object) -> tuple[object, Detections]:
        image, found = whole(*arguments)
        return image, replace(found, method="maskrcnn")

    monkeypatch.setattr(infer, "detect", named)
    sky = galaxies(0.0, 0.0, 20.0, 7, seed=5)
    sky[:, 2:] = 3000.0, 0.0
    for k in range(2):
        write(tmp_path / f"images/f{k}_image.fits", 12.0 * k, 0.0, sky, k)
    tables = []
    for text in ("healpix:12", "grid:0.01"):
        out = tmp_path / text.partition(":")[0]
        options = SurveySettings(run="catalog", tiling=text, halo=60)
        summary = survey_run(tmp_path / "images", out, CatalogSettings(workers=0), options)
        assert (summary.exit_status, summary.concerns) == (0, [])
        tables.append(rows(out))
        for path in out.glob("cells/*/*.npz"):
            with np.load(path) as file:
                assert json.loads(file["about"].tobytes())["method"] == "maskrcnn"
                assert "labels" not in file
    found, other = (one.drop_columns("tile").to_pandas() for one in tables)
    pd.testing.assert_frame_equal(found, other, check_exact=True)
    found = tables[0]
    assert len(found) == len(sky)
    assert apart(found, sky).max() < 0.3
    pull = (np.asarray(found.column("flux_r")) - 3000.0) / np.asarray(found.column("flux_r_err"))
    assert np.abs(pull).max() < 5
    assert np.asarray(found.column("p_star")).mean() > 0.9


def test_options_of_what_is_not_run():
    for options in ({"run": "fit", "galaxy": "sersic"}, {"run": "catalog", "model": "sersic+exp"},
                    {"run": "catalog", "prior": "none"}, {"run": "diff"}):  # fmt: skip
        with pytest.raises(SettingsError, match=r"nothing to do with --run|without a reference"):
            SurveyOptions(**options)
    found = SurveyOptions(run="catalog", galaxy="sersic", bands="g,r", segmenter="sep").measuring
    assert (found.galaxy, found.bands, found.prior) == ("sersic", ("g", "r"), "celeste")
