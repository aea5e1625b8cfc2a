"""What is read without astropy is what astropy reads: pixels, headers, WCS."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from autofit_ml.images import fitsfile
from autofit_ml.images.header import read_calibration
from autofit_ml.images.sky_coordinates import is_undistorted, packed_wcs, unpacked_wcs

PIXELS = np.arange(42).reshape(6, 7)
HDUS = {
    **{kind: [fits.PrimaryHDU(PIXELS.astype(kind))] for kind in ("u1", "i2", "i4", "i8")},
    "f4": [fits.PrimaryHDU(PIXELS.astype("f4") / 3)],
    "f8": [fits.PrimaryHDU(PIXELS / 3)],
    "vector": [fits.PrimaryHDU(PIXELS[0])],
    "cube": [fits.PrimaryHDU(PIXELS.reshape(1, 6, 7).astype("f4"))],
    "extensions": [
        fits.PrimaryHDU(),
        fits.ImageHDU(PIXELS.astype("f4"), name="sci", ver=2),
        fits.ImageHDU(PIXELS.astype("i2"), name="MASK"),
    ],
}


@pytest.fixture(autouse=True)
def nothing_kept():
    fitsfile._kept.__dict__.clear()


def described(path):
    """All that is known of a file, with the pixels of its images."""
    file = fitsfile.open_fits(path)
    planes = [i for i in file.infos if i.kind == "image"]
    pixels = [fitsfile.image_array(file, info, "image") for info in planes]
    headers = [dict(hdu.header) for hdu in file.hdus]
    for header in headers:  # astropy says what follows
        header.pop("EXTEND", None)
    return (file.sha256, file.infos, file.messages, file.unread, headers), pixels


@pytest.mark.parametrize("name", HDUS)
def test_plain_images_are_those_of_astropy(name, tmp_path, monkeypatch):
    path = tmp_path / "a.fits"
    fits.HDUList(HDUS[name]).writeto(path)
    assert fitsfile._plain_images(path.read_bytes())
    about, pixels = described(path)
    fitsfile._kept.__dict__.clear()
    monkeypatch.setattr(fitsfile, "_plain_images", lambda content: [])
    known, expected = described(path)
    assert about == known
    assert len(pixels) == len(expected)
    for (data, said), (other, told) in zip(pixels, expected, strict=True):
        assert data.dtype == other.dtype and said == told
        np.testing.assert_array_equal(data, other)


def changed(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"NAXIS1  =                    7", b"NAXIS1  =                 7777"),
        (b"NAXIS1  =                    7", b"NAXIS1  =                  7.0"),
        (b"NAXIS1  =                    7", b"NAXIS1  =                   -7"),
        (b"BITPIX  =                  -32", b"BITPIX  =                  -33"),
        (b"SIMPLE  =                    T", b"SIMPLE  =                    F"),
        (b"SOME    =", b"BSCALE  ="),
        (b"SOME    =", b"BLANK   ="),
        (b"SOME    =", b"S\xf6ME    ="),
    ],
)
def test_everything_else_is_left_to_astropy(old, new, tmp_path):
    path = tmp_path / "a.fits"
    fits.writeto(path, PIXELS.astype("f4"), fits.Header({"SOME": 3}))
    assert fitsfile._plain_images(path.read_bytes())
    changed(path, old, new)
    assert not fitsfile._plain_images(path.read_bytes())


def test_a_damaged_or_cut_file_is_left_to_astropy(tmp_path):
    path = tmp_path / "a.fits"
    fits.writeto(path, np.zeros((50, 50), "f4"))
    content = path.read_bytes()
    assert not fitsfile._plain_images(content[: 2880 + 9000])
    assert not fitsfile._plain_images(content + b"XTENSION= 'BINTABLE'")
    assert fitsfile._plain_images(content[: 2880 + 10_000])  # only the padding is missing
    assert fitsfile._plain_images(content + bytes(2880))


def header_of(projection, system, matrix, rng):
    cards = {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}", "RADESYS": system}
    cards |= {f"CRVAL{i}": value for i, value in enumerate(rng.uniform([0, -80], [360, 80]), 1)}
    cards |= {f"CRPIX{i}": value for i, value in enumerate(rng.normal(60, 100, 2), 1)}
    for i in (1, 2):
        cards[f"CDELT{i}"] = 1.0 if matrix == "CD" else 1.1e-4 * (-1) ** i
        for j in (1, 2):
            step = rng.normal(0, 1e-4) if matrix == "CD" else rng.normal(0, 0.1) + (i == j)
            cards[f"{matrix}{i}_{j}"] = step
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": 99, "NAXIS2": 88})
    header.update({"EQUINOX": 1975.0} if system == "FK5" else {})
    header.update(cards)
    header["DATE-OBS"] = "2001-02-03T04:05:06"
    header["COMMENT"] = "as it comes"
    return header


@pytest.mark.parametrize("projection", ["TAN", "SIN", "ZEA", "STG"])
@pytest.mark.parametrize("system", ["ICRS", "FK5"])
@pytest.mark.parametrize("matrix", ["CD", "PC"])
def test_wcs_is_that_of_astropy_and_stays_the_same_between_processes(projection, system, matrix):
    rng = np.random.default_rng(len(projection + system))
    header = header_of(projection, system, matrix, rng)
    text = header.tostring(endcard=False, padding=False)
    assert is_undistorted(text)
    mine, theirs = read_calibration([header], text).wcs, WCS(header, naxis=2, fix=False)
    places = rng.uniform(-100, 200, (50, 2))
    window = (slice(3, 60), slice(11, 80))
    sent = unpacked_wcs(pickle.loads(pickle.dumps(packed_wcs(mine[window]))))
    for one, other in ((mine, theirs), (sent, theirs[window])):
        assert one.wcs.compare(other.wcs) and one.pixel_shape == other.pixel_shape
        np.testing.assert_array_equal(one.all_pix2world(places, 0), other.all_pix2world(places, 0))
        assert one.to_header(relax=True) == other.to_header(relax=True)


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "A_2_0": 1e-5},
        {"PV1_1": 1.01, "PV2_1": 1.02},
        {"CPDIS1": "LOOKUP"},
    ],
)
def test_distortions_are_left_to_astropy(cards):
    header = header_of("TAN", "ICRS", "CD", np.random.default_rng(3))
    header.update(cards)
    assert not is_undistorted(header.tostring(endcard=False, padding=False))


def test_a_distorted_wcs_is_sent_whole():
    header = header_of("TAN", "ICRS", "CD", np.random.default_rng(3))
    header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"})
    header.update({"A_ORDER": 2, "A_2_0": 1e-4, "B_ORDER": 2, "B_1_1": -1e-4})
    wcs = WCS(header, fix=False)
    sent = unpacked_wcs(pickle.loads(pickle.dumps(packed_wcs(wcs))))
    places = np.array([[3.0, 70.0], [50.0, 20.0]])
    np.testing.assert_allclose(
        sent.all_pix2world(places, 0), wcs.all_pix2world(places, 0), rtol=0, atol=1e-9
    )
