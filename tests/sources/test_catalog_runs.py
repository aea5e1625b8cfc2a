"""`autofit-ml catalog`: sources with the right names, fluxes and shapes; runs that go on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from skies import SOURCES, Known, drawn, pixels

import autofit_ml as afm
from autofit_ml import cli
from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.stamp import Frame
from autofit_ml.runs.catalog import catalog_run
from autofit_ml.settings import CatalogSettings
from autofit_ml.sources import catalogue_frames
from autofit_ml.sources.forced import forced_frames, read_forced

SETTINGS = CatalogSettings(bands="r,g", mask_ignore_bits=40)


def write(frame: Frame, path: Path, bits: np.ndarray | None = None) -> None:
    header = frame.wcs.to_header()
    header["FILTER"], header["ZP"], header["GAIN"] = frame.filter, 22.5, 1000.0
    hdus = [
        fits.PrimaryHDU(frame.data, header),
        fits.ImageHDU(frame.sigma, name="ERR"),
        fits.ImageHDU(frame.psf.data, name="PSF"),
    ]
    if bits is not None:
        hdus.append(fits.ImageHDU(bits, name="DQ"))
    fits.HDUList(hdus).writeto(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two bands; one pixel of the disc has bits 3 and 5 of a mask of which no bit is fatal."""
    out = tmp_path_factory.mktemp("sky")
    for k, band in enumerate("gr"):
        # Seeds 0 and 1 happen to widen both stars: see `test_stars_are_told_from_galaxies`.
        frame = drawn(SOURCES, band, noise=1.0, seed=10 + k)
        x, y = (round(v) for v in pixels(SOURCES[2], frame))
        bits = np.zeros(frame.data.shape, np.int16)
        bits[y, x + 1] = 2**3 + 2**5
        write(frame, out / f"sky_{band}.fits", bits)
    return out


@pytest.fixture(scope="module")
def run(folder) -> Path:
    out = folder.parent / "out"
    summary = catalog_run(folder, out, SETTINGS)
    assert summary.exit_status == 0 and summary.n_instances == len(SOURCES)
    return out


def rows_by_source(table: Table, frame: Frame) -> list[int]:
    """The row of each known source."""
    at = np.stack([np.asarray(table["x"]), np.asarray(table["y"])], 1)
    out = []
    for one in SOURCES:
        apart = np.linalg.norm(at - pixels(one, frame), axis=1)
        assert apart.min() < 0.5
        out.append(int(apart.argmin()))
    return out


def test_sources_are_what_they_are(run):
    table = Table.read(run / "catalog.parquet")
    assert len(table) == len(SOURCES)
    rows = rows_by_source(table, drawn(SOURCES, "r"))
    for one, row in zip(SOURCES, (table[k] for k in rows), strict=True):
        assert row["type"] == ("galaxy" if one.re else "star")
        assert (row["p_star"] > 0.5) == (not one.re)
        for band in "gr":
            flux, error = row[f"flux_{band}"], row[f"flux_{band}_err"]
            assert flux == pytest.approx(one.flux[band], abs=4 * error)
            assert 0 < error < 0.1 * one.flux[band]
        colour = 2.5 * np.log10(one.flux["r"] / one.flux["g"])
        assert row["colour_g_r"] == pytest.approx(colour, abs=4 * row["colour_g_r_err"])
        if one.re:
            assert row["re_arcsec"] == pytest.approx(one.re, abs=4 * row["re_arcsec_err"])
            assert row["q"] == pytest.approx(one.q, abs=4 * row["q_err"])
            assert abs((row["pa_sky"] - one.pa + 90) % 180 - 90) < 4 * row["pa_err"]
            assert row["dev"] == pytest.approx(one.dev, abs=0.3)
    assert (table["flags"] & int(Flag.AT_BOUND) == 0).all()


def test_stars_are_told_from_galaxies():
    """Stars of S/N 20 to 100 in six draws of the noise, of which one widens both by chance."""
    told: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(0, 12, 2):
        frames = [drawn(SOURCES, band, noise=1.0, seed=seed + k) for k, band in enumerate("gr")]
        table = catalogue_frames(frames[::-1], ["r", "g"]).table
        for one, row in zip(SOURCES, rows_by_source(table, frames[1]), strict=True):
            told[one.re > 0].append(float(table["p_star"][row]))
    assert np.mean(told[False]) > 0.8 and np.sum(np.array(told[False]) > 0.5) >= 10
    assert max(told[True]) < 0.01


def test_bits_of_the_mask_that_lie_under_a_source_are_in_its_row(run):
    table = Table.read(run / "catalog.parquet")
    rows = rows_by_source(table, drawn(SOURCES, "r"))
    assert [int(table["mask_bits_r"][k]) for k in rows] == [0, 0, 40, 0]


def test_model_and_residual_add_up_to_the_image(run, folder):
    data = fits.getdata(folder / "sky_g.fits")
    model = fits.getdata(run / "sky_model.fits", "G")
    residual = fits.getdata(run / "sky_residual.fits", "G")
    sky = data - model - residual
    assert abs(sky).max() < 0.02
    assert residual.std() == pytest.approx(0.03, rel=0.03)


def test_a_query_takes_the_catalogue_and_readers_of_fits_do_not(run):
    table = QTable.read(run / "catalog.parquet")
    found = afm.query(run, "SELECT id, flag_names(flags) AS raised FROM catalog WHERE p_star > 0.5")
    assert found["id"].to_pylist() == list(table["id"][table["p_star"] > 0.5]) != []
    with pytest.raises(InputError, match="not a catalogue of fits: no column status"):
        afm.open_results(run)


def test_regions_name_stars_and_galaxies(run):
    text = (run / "sky.reg").read_text()
    assert text.count("point(") == 2 and text.count("ellipse(") == 2


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(run, folder):
    before = (run / "catalog.fits").stat().st_mtime_ns
    summary = catalog_run(folder, run, SETTINGS)
    assert summary.n_new == 0 and summary.n_instances == 4 and summary.exit_status == 0
    assert (run / "catalog.fits").stat().st_mtime_ns >= before
    with pytest.raises(Exception, match="galaxy"):
        catalog_run(folder, run, SETTINGS.replace(galaxy="sersic"))


def test_a_frame_that_cannot_be_read_fails_alone(folder, tmp_path, capsys, monkeypatch):
    for path in folder.glob("*.fits"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for band in "gr":
        (tmp_path / f"broken_{band}.fits").write_bytes(b"SIMPLE  =                    T")
    words = ["catalog", str(tmp_path), "--bands", "r,g", "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", ["autofit-ml", *words, "--save", "none"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 3
    told = json.loads(capsys.readouterr().out)
    assert [*told["failures"]] == ["broken"] and told["sources"] == 4


def test_epochs_of_a_band_share_its_flux(run, folder, tmp_path):
    """The second one is turned, and has larger pixels and another seeing."""
    for band, name in (("r", "r1"), ("g", "g")):
        (tmp_path / f"sky_{name}.fits").write_bytes((folder / f"sky_{band}.fits").read_bytes())
    second = drawn(SOURCES, "r", side=90, scale=0.55, turn=25.0, fwhm=1.1, noise=1.0, seed=6)
    write(second, tmp_path / "sky_r2.fits")
    summary = catalog_run(tmp_path, tmp_path / "out", SETTINGS)
    assert summary.exit_status == 0
    table = Table.read(tmp_path / "out" / "catalog.parquet")
    rows = rows_by_source(table, drawn(SOURCES, "r"))
    alone = Table.read(run / "catalog.parquet")
    before = alone[rows_by_source(alone, drawn(SOURCES, "r"))]
    for one, row, single in zip(SOURCES, table[rows], before, strict=True):
        assert row["flux_r"] == pytest.approx(one.flux["r"], abs=4 * row["flux_r_err"])
        assert row["flux_r_err"] < 0.85 * single["flux_r_err"]
        assert row["flux_g_err"] < 1.1 * single["flux_g_err"]
    with fits.open(tmp_path / "out" / "sky_model.fits") as file:
        assert [(h.name, h.ver) for h in file[1:]] == [("R", 1), ("G", 1), ("R", 2)]


def test_forced_photometry_in_a_band_on_other_pixels(run):
    """Turned by 25 degrees, with pixels of 0.55 arcsec and another seeing."""
    frame = drawn(
        SOURCES, "i", side=90, scale=0.55, turn=25.0, mirrored=True, fwhm=1.5, noise=1.0, seed=5
    )
    sources = read_forced(run / "catalog.parquet")
    found = forced_frames([frame], ["i"], sources)
    table = found.table
    known = Table.read(run / "catalog.parquet")
    assert list(table["id"]) == list(known["id"])
    rows = rows_by_source(table, frame)
    for one, row, before in zip(SOURCES, table[rows], known[rows], strict=True):
        flux, error = row["flux_i"], row["flux_i_err"]
        # Errors of a held shape change the fluxes of all bands alike.
        colour = flux / before["flux_r"]
        error = colour * np.hypot(error / flux, before["flux_r_err"] / before["flux_r"])
        assert colour == pytest.approx(one.flux["i"] / one.flux["r"], abs=4 * error)
        error = row["flux_i_err"]
        assert row["flux_i_limit"] == pytest.approx(flux + 1.645 * error)
    residual = found.residual(0)
    assert residual.std() == pytest.approx(0.03, rel=0.08)


def test_forced_fluxes_of_nothing_are_zero_within_their_errors(tmp_path):
    frame = drawn(SOURCES, "r", noise=1.0)
    random = np.random.default_rng(4)
    places = random.uniform(10, 90, (300, 2))
    near = [np.linalg.norm(places - pixels(one, frame), axis=1) < 14 for one in SOURCES]
    places = places[~np.any(near, 0)]
    at = np.vstack([places, [pixels(one, frame) for one in SOURCES]])
    catalogue = tmp_path / "places.ecsv"
    Table({"x": at[:, 0], "y": at[:, 1]}).write(catalogue)
    table = forced_frames([frame], ["r"], read_forced(catalogue)).table
    empty = table[: len(places)]
    pull = np.asarray(empty["flux_r"] / empty["flux_r_err"])
    assert pull.mean() == pytest.approx(0.0, abs=0.3)
    assert pull.std() == pytest.approx(1.0, abs=0.15)
    assert len(empty) > 100


def test_a_catalogue_without_positions_is_refused(tmp_path):
    path = tmp_path / "none.ecsv"
    Table({"id": ["a"], "flux": [1.0]}).write(path)
    with pytest.raises(SettingsError, match="no position"):
        read_forced(path)


def test_from_python_with_images_in_memory(folder):
    images = {}
    for band in "rg":
        with fits.open(folder / f"sky_{band}.fits", memmap=False) as file:
            images[band] = fits.HDUList([hdu.copy() for hdu in file])
    table = afm.catalog(images, zeropoint=22.5)
    assert isinstance(table, QTable)
    assert len(table) == 4 and {"flux_r", "flux_g", "p_star"} <= set(table.colnames)


def test_a_companion_that_was_not_separated_is_found_in_what_is_left():
    """Two stars 0.9 of the seeing apart: one detection, whose galaxy does not fit."""
    pair = [Known(5.0, 5.0, {"g": 10.0, "r": 15.0}), Known(5.0, 6.1, {"g": 5.0, "r": 6.0})]
    sources = [*pair, SOURCES[0]]
    frames = [drawn(sources, band, noise=1.0, seed=k) for k, band in enumerate("rg")]
    table = catalogue_frames(frames, ["r", "g"]).table
    assert len(table) == 3
    table = table[table["y"] > 50 * u.pix]
    at = np.stack([table["x"].value, table["y"].value], 1)
    for one in pair:
        assert np.linalg.norm(at - pixels(one, frames[0]), axis=1).min() < 0.6
    assert table["flux_r"].sum() == pytest.approx(21.0, rel=0.03)
    assert (table["flags"] & int(Flag.BLENDED) > 0).all()


def test_a_masked_star_has_the_flux_that_its_colours_allow():
    """Masked in r: the other bands and the population tell, and the errors say so."""
    frames = {band: drawn(SOURCES, band, noise=1.0) for band in "gri"}
    x, y = pixels(SOURCES[1], frames["r"])
    mask = np.hypot(*np.ogrid[-y : 100 - y, -x : 100 - x]) < 8
    frames["r"] = replace(frames["r"], mask=mask)
    table = catalogue_frames([frames[b] for b in "gri"], list("gri")).table
    row = table[rows_by_source(table, frames["r"])[1]]
    assert 0.03 < row["mag_r_err"].value < 0.5
    assert row["mag_g_err"].value < 0.1
    assert abs(row["mag_r"].value - (22.5 - 2.5 * np.log10(5.0))) < 3 * row["mag_r_err"].value
