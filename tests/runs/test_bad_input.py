"""One run over every kind of bad object: each has its row, and the good ones are untouched."""

from __future__ import annotations

import io
import random
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fits_inputs import (
    BAD_KINDS,
    FLAWED_KINDS,
    SHAPE,
    galaxy,
    gaussian,
    write_object,
    write_plane,
)
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples
from table_checks import assert_failed_row, assert_same_rows, row_of, rows_of

from autofit_ml.catalogue import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.runs import FitSettings, fit_run

GOOD = ("good-a", "good-b", "good-c", "good-d")
QUIET = FitSettings(workers=0, save=())


def write_good(folder) -> None:
    for seed, name in enumerate(GOOD):
        shape = SHAPE if seed < 3 else (51, 37)
        write_object(folder, name, image=galaxy(shape, seed=seed + 1))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The good objects alone."""
    folder = tmp_path_factory.mktemp("alone") / "images"
    folder.mkdir()
    write_good(folder)
    return fit_run(folder, None, QUIET).table


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """All kinds of objects in one run."""
    folder = tmp_path_factory.mktemp("mixed") / "images"
    folder.mkdir()
    write_good(folder)
    named = [folder]
    for kinds in (BAD_KINDS, FLAWED_KINDS):
        for name, kind in kinds.items():
            path = kind.make(folder, name)
            if path is not None:
                named.append(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing leaks, whatever is in the files
        return fit_run(named, None, QUIET)


def test_at_least_forty_kinds():
    assert len(BAD_KINDS) >= 40


def test_every_object_has_one_row(mixed):
    ids = mixed.table.column("id").to_pylist()
    assert sorted(ids) == sorted([*GOOD, *BAD_KINDS, *FLAWED_KINDS])
    assert mixed.n_failed == len(BAD_KINDS)
    assert mixed.exit_status == 3


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_bad_object(mixed, kind):
    row = row_of(mixed.table, kind)
    assert_failed_row(row)
    message = row["message"]
    assert f"{kind}{BAD_KINDS[kind].file}" in message
    assert re.search(BAD_KINDS[kind].says, message)
    assert re.search(r"\(.*\w{3}.*\)", message), "no remedy"
    assert "this is a bug" not in message
    assert row["file"]


@pytest.mark.parametrize("kind", FLAWED_KINDS)
def test_flawed_object_is_fitted(mixed, kind):
    row = row_of(mixed.table, kind)
    assert row["status"] == "ok", row["message"]
    assert re.search(FLAWED_KINDS[kind].says, row["message"])
    for name in ("x", "y", "flux", "re", "n", "q", "re_err", "n_err"):
        assert np.isfinite(row[name]), name
    assert row["use"]
    if kind == "no-sigma":
        assert row["flags"] & Flag.SIGMA_ESTIMATED


def test_good_objects_are_untouched(mixed, alone):
    assert_same_rows(rows_of(mixed.table, GOOD), rows_of(alone, GOOD), but=("time_ms", "file"))


def test_flawed_objects_are_independent_of_the_batch(mixed, tmp_path):
    for name, kind in FLAWED_KINDS.items():
        kind.make(tmp_path, name)
    table = fit_run(tmp_path, None, FitSettings(workers=0, save=(), batch_size=5)).table
    assert_same_rows(
        rows_of(mixed.table, FLAWED_KINDS), rows_of(table, FLAWED_KINDS), but=("time_ms", "file")
    )


def test_only_bad_objects(tmp_path):
    for kind in ("all-nan", "psf-flat"):
        BAD_KINDS[kind].make(tmp_path, kind)
    summary = fit_run(tmp_path, tmp_path / "out", QUIET)
    assert summary.exit_status == 1
    assert summary.n_failed == 2
    assert (tmp_path / "out" / "catalog.fits").exists()


MANIFEST_ROWS = {
    "missing-file": ("nothing.fits,,,,,", "no such file"),
    "no-image": (",,,,,", "no image"),
    "x-is-text": ("good-a_image.fits,two,3,,,", "x is"),
    "x-infinite": ("good-a_image.fits,inf,3,,,", "x is"),
    "outside": ("good-a_image.fits,400,3,,,", "outside"),
    "no-wcs": ("good-a_image.fits,,,150.0,2.0,", "no WCS"),
    "gain-negative": ("good-a_image.fits,,,,,-4", "gain is"),
}


def test_bad_manifest_rows(tmp_path, alone):
    write_good(tmp_path)
    lines = ["id,image,x,y,ra,dec,gain,sigma,psf"]
    lines += [
        f"{name},{cells},good-a_sigma.fits,good-a_psf.fits"
        for name, (cells, _) in MANIFEST_ROWS.items()
    ]
    lines += [f"{name},{name}_image.fits,,,,,,{name}_sigma.fits,{name}_psf.fits" for name in GOOD]
    manifest = tmp_path / "list.csv"
    manifest.write_text("\n".join(lines) + "\n")
    table = fit_run(None, None, QUIET, manifest=manifest).table
    assert table.column("id").to_pylist() == [*MANIFEST_ROWS, *GOOD]
    for name, (_, says) in MANIFEST_ROWS.items():
        row = row_of(table, name)
        assert_failed_row(row)
        assert says in row["message"]
        assert ".fits" in row["message"] or "list.csv" in row["message"]
        assert "(" in row["message"]
    assert_same_rows(rows_of(table, GOOD), rows_of(alone, GOOD), but=("time_ms", "file"))


OPTION_KINDS = {
    "FWHM without a pixel scale": ({"psf_fwhm": 0.8}, "--pixel-scale"),
    "FWHM of a thousand pixels": ({"psf_fwhm": 500.0, "pixel_scale": 0.2}, "--psf-fwhm"),
    "labels wanted and not given": ({"segmenter": "given"}, "_seg|label"),
}


@pytest.mark.parametrize("kind", OPTION_KINDS)
def test_option_that_no_object_can_follow(kind, tmp_path):
    options, says = OPTION_KINDS[kind]
    write_object(tmp_path, "a", psf=False if "psf_fwhm" in options else gaussian())
    chosen = FitSettings(**options, workers=0, save=())
    row = row_of(fit_run(tmp_path, None, chosen).table, "a")
    assert_failed_row(row)
    assert re.search(says, row["message"])
    assert "a_image.fits" in row["message"]


def test_one_broken_object_in_the_refiner(tmp_path, monkeypatch, alone):
    """The refiner raises for one object of a batch: it fails alone."""
    from autofit_ml.runs import scenes

    refine = scenes.refine

    def breaks(objects, *args, **kwargs):
        if any(one.reference.id == "good-b" for one in objects):
            raise RuntimeError("singular")
        return refine(objects, *args, **kwargs)

    monkeypatch.setattr(scenes, "refine", breaks)
    write_good(tmp_path)
    summary = fit_run(tmp_path, tmp_path / "out", FitSettings(workers=0))
    row = row_of(summary.table, "good-b")
    assert_failed_row(row)
    assert "good-b_image.fits" in row["message"]
    assert "singular" in row["message"]
    others = [name for name in GOOD if name != "good-b"]
    assert_same_rows(
        rows_of(summary.table, others), rows_of(alone, others), but=("time_ms", "file")
    )
    assert sorted(p.stem for p in (tmp_path / "out" / "objects").iterdir()) == others


def test_no_object_at_all_survives_the_refiner(tmp_path, monkeypatch):
    from autofit_ml.runs import scenes

    def breaks(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(scenes, "refine", breaks)
    write_good(tmp_path)
    summary = fit_run(tmp_path, tmp_path / "out", FitSettings(workers=0))
    assert summary.n_failed == len(GOOD)
    assert summary.exit_status == 1


CARD_NAMES = st.sampled_from(
    ["ZP", "MAGZERO", "GAIN", "RDNOISE", "EXPTIME", "PIXSCALE", "FILTER", "SKYLEVEL", "SKYSUB",
     "SATURATE", "TARGET", "CTYPE1", "CTYPE2", "CRVAL1", "CRPIX1", "CD1_1", "CD2_2", "CDELT1",
     "BUNIT", "OBJECT", "EQUINOX", "RADESYS", "A_ORDER", "PSFPIX"]
)  # fmt: skip
CARD_VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    st.sampled_from(["RA---TAN", "DEC--TAN", "GLON-CAR", "NaN", "1e400", "nanomaggy", ""]),
)


@examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(CARD_NAMES, CARD_VALUES, max_size=8))
def test_any_header(tmp_path, cards):
    """Whatever the cards say, there is one row; a failure is one that we foresaw."""
    write_object(tmp_path, "a", cards=cards)
    row = row_of(fit_run(tmp_path, None, QUIET).table, "a")
    assert row["status"] in ("ok", "failed")
    if row["status"] == "failed":
        assert_failed_row(row)
        assert "a bug" not in row["message"]
        assert "a_image.fits" in row["message"]
    else:
        assert np.isfinite(row["re"])


@examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["f4", "f8", "i2", "i4", "u1"]),
)
def test_any_shape(tmp_path, shape, psf_shape, dtype):
    image = np.clip(galaxy(shape, flux=2e4), 0, 255).astype(dtype)
    write_object(tmp_path, "a", image=image, sigma=np.ones(shape), psf=gaussian(psf_shape))
    row = row_of(fit_run(tmp_path, None, QUIET).table, "a")
    if row["status"] == "failed":
        assert_failed_row(row)
        assert "a bug" not in row["message"]
        assert "a_" in row["message"]
    else:
        assert row["n_pix"] <= shape[0] * shape[1]


CARD_TEXTS = ["NaN", "'text'", "-1", "0", "1E400", "T", "99999999999", "'", "(1,2)", "", "\0"]


def test_damaged_headers_of_several_planes(tmp_path):
    """Cards blanked, overwritten, exchanged, in any header of a file: one row for each file."""
    rng = random.Random(1)
    science = fits.ImageHDU(galaxy(), fits.Header({"ZP": 25.0, "GAIN": 2.0, "EXPTIME": 9.0}), "SCI")
    planes = [
        fits.ImageHDU(np.ones(SHAPE, "f4"), name="ERR"),
        fits.ImageHDU(gaussian(), name="PSF"),
    ]
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), science, *planes]).writeto(stream)
    good = stream.getvalue()
    cards = [
        place
        for place in range(0, len(good), 80)
        if re.match(rb"[A-Z0-9-]+ *= |END {77}", good[place : place + 80])
    ]
    names = [f"d{k:02d}.fits" for k in range(60)]
    for name in names:
        raw = bytearray(good)
        for place in rng.sample(cards, rng.randint(1, 4)):
            other = rng.choice(cards)
            text = rng.choice(CARD_TEXTS).encode().rjust(20)
            raw[place : place + 80] = rng.choice(
                [
                    b" " * 80,
                    raw[place : place + 10] + text + raw[place + 30 : place + 80],
                    rng.randbytes(80),
                    raw[other : other + 80],
                ]
            )
        (tmp_path / name).write_bytes(raw)
    rows = fit_run(tmp_path, None, QUIET).table.to_pylist()
    assert sorted(Path(row["file"]).name for row in rows) == names
    for row in rows:
        assert row["status"] in ("ok", "failed")
        assert "a bug" not in row["message"]


WRONG_CALLS = {
    "empty folder": lambda f: fit_run(f),
    "missing path": lambda f: fit_run(f / "nothing.fits"),
    "nothing": lambda f: fit_run(None),
    "pattern without hits": lambda f: fit_run(f / "*.fits"),
    "missing manifest": lambda f: fit_run(None, manifest=f / "list.csv"),
    "model": lambda f: fit_run(
        write_object(f, "a").parent, None, FitSettings(model="sersic+dragon")
    ),
    "segmenter": lambda f: FitSettings(segmenter="guess"),
    "init": lambda f: FitSettings(init="guess"),
    "device": lambda f: FitSettings(device="tpu"),
    "sky text": lambda f: FitSettings(sky="dark"),
    "sky NaN": lambda f: FitSettings(sky="nan"),
    "sky truth": lambda f: FitSettings(sky=True),  # type: ignore[arg-type]
    "save": lambda f: FitSettings(save=("everything",)),
    "batch size 0": lambda f: FitSettings(batch_size=0),
    "batch size text": lambda f: FitSettings(batch_size="many"),  # type: ignore[arg-type]
    "workers": lambda f: FitSettings(workers=-2),
    "workers 1.5": lambda f: FitSettings(workers=1.5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", WRONG_CALLS)
def test_wrong_call(kind, tmp_path):
    with pytest.raises(SettingsError) as caught:
        WRONG_CALLS[kind](tmp_path)
    assert caught.value.remedy


def test_settings_are_normalised():
    assert FitSettings(sky=0).sky == FitSettings(sky="-0.0").sky == "0.0"  # type: ignore[arg-type]
    assert FitSettings(save="report, objects").save == ("objects", "report")  # type: ignore[arg-type]
    assert FitSettings(save="none").save == ()  # type: ignore[arg-type]


def test_identity_tells_psfs_apart():
    from autofit_ml.images import PSF
    from autofit_ml.runs.identity import identity_of

    data = gaussian().astype(np.float32)
    kinds = [
        PSF(data), PSF(data, has_pixel=False), PSF(data, oversampling=3), data, data.astype(float)
    ]  # fmt: skip
    seen = {identity_of(FitSettings(psf=psf))["psf"] for psf in kinds}
    assert len(seen) == len(kinds)


def test_identity_follows_the_psf_file(tmp_path):
    from autofit_ml.runs.identity import identity_of

    path = write_plane(tmp_path, "psf.fits", gaussian())
    before = identity_of(FitSettings(psf=path))
    write_plane(tmp_path, "psf.fits", gaussian(fwhm=4.0))
    assert identity_of(FitSettings(psf=path)) != before
