"""Planes under other software's names are read as what they are; what is not used is named."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty
from fits_builders import galaxy, gaussian

from autofit_ml.images import discover, read_source

SHAPE = (60, 64)
SIGMA = np.where(np.indices(SHAPE)[1] < 40, 1.0, 8.0)
BAD = np.zeros(SHAPE, np.uint8)
BAD[50, 3:6] = 1
PLANES = {
    "sigma": SIGMA,
    "var": SIGMA**2,
    "ivar": SIGMA**-2,
    "wht": SIGMA**-2,
    "mask": BAD,
    "psf": gaussian(),
}


def image():
    return galaxy(SHAPE, noise=0) + np.random.default_rng(3).normal(size=SHAPE) * SIGMA


def write_mef(path, hdus):
    parts = [fits.ImageHDU(np.asarray(data, "f4"), name=name) for name, data in hdus]
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path)


def stamp_of(path):
    (source,) = discover(path)
    return read_source(source).stamp


def check(stamp, role):
    if role == "mask":
        np.testing.assert_array_equal(stamp.mask, BAD.astype(bool))
    else:
        np.testing.assert_allclose(stamp.sigma, SIGMA, rtol=1e-5)
        assert stamp.flags == 0


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("UNCERT", "sigma"), ("NOISE", "sigma"), ("UNC", "sigma"), ("STD", "sigma"),
        ("Stddev", "sigma"), ("STAT", "var"), ("VARIANCE", "var"), ("WT", "wht"),
        ("WEIGHT", "wht"), ("WHT", "wht"), ("INVVAR", "ivar"), ("DQ", "mask"), ("BPM", "mask"),
        ("FLAGS", "mask"), ("QUAL", "mask"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", ["SCI", "DATA"])
def test_extensions(first, name, role, tmp_path):
    hdus = [(first, image()), (name, PLANES[role]), ("PSF", gaussian())]
    if role == "mask":
        hdus.append(("ERR", SIGMA))
    write_mef(tmp_path / "a.fits", hdus)
    check(stamp_of(tmp_path / "a.fits"), role)


@pytest.mark.parametrize(
    ("ending", "role"),
    [
        (".weight", "wht"), ("_weight", "wht"), ("_unc", "sigma"), ("_noise", "sigma"),
        ("_error", "sigma"), ("_std", "sigma"), ("_uncertainty", "sigma"), ("_variance", "var"),
        ("_invvar", "ivar"), ("_bpm", "mask"), ("_flags", "mask"), ("-mask", "mask"),
    ],
)  # fmt: skip
def test_files(ending, role, tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / f"a{ending}.fits", PLANES[role])
    fits.writeto(tmp_path / "psf.fits", gaussian())
    if role == "mask":
        fits.writeto(tmp_path / "a_sigma.fits", SIGMA)
    check(stamp_of(tmp_path), role)
    check(stamp_of(tmp_path / "a.fits"), role)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (StdDevUncertainty, SIGMA),
        (VarianceUncertainty, SIGMA**2),
        (InverseVariance, SIGMA**-2),
    ],
)
def test_ccddata(kind, values, tmp_path):
    """Uncertainty of each kind, mask and PSF, as astropy writes them."""
    data = CCDData(image(), unit="adu", uncertainty=kind(values), mask=BAD > 0, psf=gaussian())
    data.write(tmp_path / "ccd.fits")
    stamp = stamp_of(tmp_path / "ccd.fits")
    np.testing.assert_allclose(stamp.sigma, SIGMA, rtol=1e-6)
    np.testing.assert_array_equal(stamp.mask, BAD > 0)
    assert stamp.psf.data.shape == (21, 21)
    assert not any("not used" in text for text in stamp.messages)


def test_the_first_name_of_the_table_wins(tmp_path):
    hdus = [("SCI", image()), ("UNCERT", 5 * SIGMA), ("ERR", SIGMA), ("PSF", gaussian())]
    write_mef(tmp_path / "a.fits", hdus)
    stamp = stamp_of(tmp_path / "a.fits")
    np.testing.assert_allclose(stamp.sigma, SIGMA)
    assert any("2 UNCERT" in text for text in stamp.messages)


def test_of_two_files_for_a_plane_one_is_named(tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / "a_err.fits", SIGMA)
    fits.writeto(tmp_path / "a_noise.fits", 5 * SIGMA)
    fits.writeto(tmp_path / "psf.fits", gaussian())
    found = discover(tmp_path)
    assert [(p.name, why) for p, why in found.ignored] == [
        ("a_noise.fits", "same plane as a_err.fits")
    ]
    np.testing.assert_allclose(read_source(found[0]).stamp.sigma, SIGMA)


def test_hdus_that_are_not_used_are_named(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("X", "E", array=[1.0])], name="CAT")
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(image(), name="SCI"),
            fits.ImageHDU(SIGMA, name="ERR"),
            fits.ImageHDU(gaussian(), name="PSF"),
            fits.ImageHDU(SIGMA, name="VAR_RNOISE"),
            table,
        ]
    ).writeto(tmp_path / "a.fits")
    messages = stamp_of(tmp_path / "a.fits").messages
    assert messages == ("a.fits: not used: HDU 4 VAR_RNOISE, 5 CAT (no plane by its name)",)


def test_a_plane_that_lost_its_name_is_no_object(tmp_path):
    write_mef(
        tmp_path / "a.fits", [("SCI", image()), ("ERR", SIGMA), ("", SIGMA), ("PSF", gaussian())]
    )
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        first = next(hdu for hdu in hdus if hdu.name == "SCI")
        first.header["PIXSCALE"] = 0.2
        del first.header["EXTNAME"]
    found = discover(tmp_path)
    assert len(found) == 1
    assert "not used: HDU 3" in read_source(found[0]).stamp.messages[0]


def test_objects_of_one_file_name_its_other_hdus_once(tmp_path):
    hdus = [("SCI", image()), ("ERR", SIGMA), ("SCI", image()), ("ERR", SIGMA), ("CTX", SIGMA)]
    write_mef(tmp_path / "a.fits", hdus)
    found = discover(tmp_path)
    assert len(found) == 2
    assert [why for _, why in found.ignored] == [
        "a.fits: not used: HDU 5 CTX (no plane by its name)"
    ]


@pytest.mark.parametrize("word", ["rmsmap", "coverage", "context"])
def test_a_file_of_an_images_name_and_shape_is_no_object(word, tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / f"a_{word}.fits", SIGMA)
    found = discover(tmp_path)
    assert [source.id for source in found] == ["a"]
    assert [p.name for p, _ in found.ignored] == [f"a_{word}.fits"]
    # Named outright it is one.
    assert len(discover([tmp_path / "a.fits", tmp_path / f"a_{word}.fits"])) == 2


@pytest.mark.parametrize("other", ["a_2.fits", "a_r.fits", "a_vis.fits", "a_north.fits", "b.fits"])
def test_other_objects_and_bands_stay(other, tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / other, image()[:50] if "north" in other else image())
    assert len(discover(tmp_path)) == 2


def test_manifests_find_what_a_folder_would(tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / "a_unc.fits", SIGMA)
    fits.writeto(tmp_path / "a_bpm.fits", BAD)
    fits.writeto(tmp_path / "psf.fits", gaussian())
    (tmp_path / "list.csv").write_text("image\na.fits\n")
    stamp = read_source(discover(None, manifest=tmp_path / "list.csv")[0]).stamp
    check(stamp, "sigma")
    check(stamp, "mask")
    assert any("a_unc.fits" in text and "a_bpm.fits" in text for text in stamp.messages)
    assert any("shared" in text for text in stamp.messages)


def test_what_a_row_names_wins(tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / "a_sigma.fits", 7 * SIGMA)
    fits.writeto(tmp_path / "weights.fits", SIGMA**-2)
    fits.writeto(tmp_path / "psf.fits", gaussian())
    (tmp_path / "list.csv").write_text("image,ivar\na.fits,weights.fits\n")
    check(read_source(discover(None, manifest=tmp_path / "list.csv")[0]).stamp, "sigma")


def test_a_psf_in_the_image_wins_over_the_folders(tmp_path):
    write_mef(tmp_path / "a.fits", [("SCI", image()), ("ERR", SIGMA), ("PSF", gaussian((25, 25)))])
    fits.writeto(tmp_path / "psf.fits", gaussian((31, 31)))
    for paths in (tmp_path, tmp_path / "a.fits"):
        assert stamp_of(paths).psf.data.shape == (25, 25)


@pytest.mark.parametrize("key", ["SCI", "sci,1", "1", " SCI "])
def test_an_extension_on_the_command_line(key, tmp_path):
    other = image() + 100
    write_mef(
        tmp_path / "a.fits",
        [("SCI", image()), ("ERR", SIGMA), ("PSF", gaussian()), ("OTHER", other)],
    )
    stamp = stamp_of(f"{tmp_path}/a.fits[{key}]")
    assert np.median(stamp.data) < 50
    check(stamp, "sigma")


def test_extensions_beside_files_and_globs(tmp_path):
    write_mef(tmp_path / "a.fits", [("SCI", image()), ("OTHER", image() + 100)])
    fits.writeto(tmp_path / "b1.fits", image())
    found = discover([f"{tmp_path}/a.fits[OTHER]", f"{tmp_path}/b[12].fits"])
    assert [source.id for source in found] == ["a_OTHER", "b1"]


def test_a_weight_plane_that_holds_the_noise(tmp_path):
    """Told by where the sky scatters: named a weight, but large where the noise is."""
    fits.writeto(tmp_path / "psf.fits", gaussian())
    for name, plane in (("a", SIGMA), ("b", SIGMA**2), ("c", SIGMA**-2)):
        fits.writeto(tmp_path / f"{name}.fits", image())
        fits.writeto(tmp_path / f"{name}_weight.fits", plane)
    stamps = [read_source(source).stamp for source in discover(tmp_path)]
    for stamp in stamps:
        np.testing.assert_allclose(stamp.sigma, SIGMA, rtol=1e-5)
    said = [[text for text in stamp.messages if "taken as" in text] for stamp in stamps]
    assert "1-sigma noise" in said[0][0]
    assert "variance" in said[1][0]
    assert said[2] == []
