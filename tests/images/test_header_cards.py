"""Zero points, gains, scales and WCS; broken cards are ignored with a message."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.io import fits
from fits_builders import wcs_cards
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from autofit_ml.images import ReadOptions, discover, read_source
from autofit_ml.images.header import read_calibration, unit_zeropoint


def calibration(**cards):
    return read_calibration([fits.Header(cards)])


@pytest.mark.parametrize(
    ("cards", "zeropoint"),
    [
        ({"ZP": 25.3}, 25.3),
        ({"MAGZERO": 25.3}, 25.3),
        ({"PHOTZP": 25.3}, 25.3),
        ({"MAGZPT": 25.3}, 25.3),
        ({"ZEROPNT": 25.3}, 25.3),
        ({"ZP": 0}, 0.0),
        ({"ZP": "26.1"}, 26.1),
        ({"BUNIT": "maggy"}, 0.0),
        ({"BUNIT": "nanomaggy"}, 22.5),
        ({"BUNIT": "nmgy"}, 22.5),
        ({"BUNIT": "nJy"}, 31.4),
        ({"BUNIT": "uJy"}, 23.9),
        ({"BUNIT": "Jy"}, 8.9),
        ({"FLUXMAG0": 63095734448.0194}, 27.0),
        # ACS/WFC F814W, 2004: published AB zero point 25.937 + 0.02 (STScI calculator, 25.959).
        ({"BUNIT": "ELECTRONS/S", "PHOTFLAM": 7.0723600e-20, "PHOTPLAM": 8045.0}, 25.94),
        (
            {"BUNIT": "ELECTRONS", "EXPTIME": 1000.0, "PHOTFLAM": 7.07236e-20, "PHOTPLAM": 8045.0},
            33.44,
        ),
        # JWST NIRCam short wave, 0.031 arcsec pixels: 28.09 (STScI documentation).
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 2.29e-14}, 28.0),
        ({"BUNIT": "DN/s", "PHOTMJSR": 0.5, "PIXAR_SR": 2.29e-14}, 28.75),
        ({"BUNIT": "MJy/sr", "PIXSCALE": 0.0312}, 28.0),
    ],
)
def test_zeropoints(cards, zeropoint):
    assert calibration(**cards).zeropoint == pytest.approx(zeropoint, abs=0.02)


def test_units():
    assert unit_zeropoint("MJy") == pytest.approx(-6.1, abs=1e-3)
    assert unit_zeropoint("mJy") == pytest.approx(16.4, abs=1e-3)
    assert math.isnan(unit_zeropoint("counts"))
    assert math.isnan(unit_zeropoint(""))


def test_card_and_unit_disagree():
    result = calibration(ZP=25.0, BUNIT="nanomaggy")
    assert result.zeropoint == 25.0
    assert any("BUNIT" in m for m in result.messages)


@pytest.mark.parametrize(
    ("cards", "gain"),
    [
        ({"GAIN": 4.5}, 4.5),
        ({"EGAIN": 4.5}, 4.5),
        ({"BUNIT": "electron", "GAIN": 2.0}, 1.0),
        ({"BUNIT": "ELECTRONS/S", "EXPTIME": 500.0, "CCDGAIN": 2.0}, 500.0),
        ({"GAINA": 4.0, "GAINB": 4.4}, 4.2),
        ({"BUNIT": "adu", "GAIN": 1.7}, 1.7),
        # Rates: the card is that of a count, unless the time is in it already.
        ({"BUNIT": "adu/s", "GAIN": 1.7, "EXPTIME": 300.0}, 510.0),
        ({"BUNIT": "DN/s", "GAIN": 400.0, "EXPTIME": 300.0}, 400.0),
        ({"BUNIT": "DN/s", "GAIN": 247.88}, 247.88),
        # Averages of several exposures, as GALFIT takes them.
        ({"BUNIT": "adu", "GAIN": 2.0, "NCOMBINE": 5}, 10.0),
        ({"BUNIT": "count/s", "GAIN": 2.0, "EXPTIME": 100.0, "NCOMBINE": 4}, 800.0),
        ({"BUNIT": "electron", "GAIN": 2.0, "NCOMBINE": 5}, 1.0),
        ({"GAIN": 2.0, "NCOMBINE": 0}, 2.0),
    ],
)
def test_gains(cards, gain):
    assert calibration(**cards).gain == pytest.approx(gain)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"BUNIT": "adu/s", "GAIN": 1.7, "EXPTIME": 300.0}, "1.7 x EXPTIME 300 = 510 electrons"),
        ({"GAIN": 2.0, "NCOMBINE": 5}, "2 x NCOMBINE 5 (taken as an average) = 10 electrons"),
        ({"BUNIT": "electron", "GAIN": 2.0}, "GAIN=2 not used: BUNIT='electron'"),
        ({"BUNIT": "DN/s", "GAIN": 400.0, "EXPTIME": 300.0}, "electrons per image unit, although"),
        ({"BUNIT": "electron/s"}, "without EXPTIME: the gain is unknown"),
    ],
)
def test_what_is_made_of_units_is_said(cards, words):
    assert any(words in text for text in calibration(**cards).messages)


def test_plain_units_are_not_talked_about():
    for cards in ({"GAIN": 2.0}, {"BUNIT": "electron", "GAIN": 1.0}, {"BUNIT": "adu"}):
        assert calibration(**cards).messages == ()


def test_read_noise_of_an_average():
    """sqrt(5) reads of 3 electrons, in the electrons of all five exposures."""
    assert calibration(GAIN=2.0, NCOMBINE=5, RDNOISE=3.0).rdnoise == pytest.approx(3 * 5**0.5)


@pytest.mark.parametrize(
    ("card", "value", "attribute"),
    [
        ("GAIN", "high", "gain"),
        ("GAIN", "nan", "gain"),
        ("GAIN", -2.0, "gain"),
        ("GAIN", 0, "gain"),
        ("GAIN", True, "gain"),
        ("ZP", "unknown", "zeropoint"),
        ("ZP", 1e6, "zeropoint"),
        ("ZP", False, "zeropoint"),
        ("PIXSCALE", 0, "pixel_scale"),
        ("PIXSCALE", -0.2, "pixel_scale"),
        ("PIXSCALE", "0.2 arcsec", "pixel_scale"),
        ("RDNOISE", -5.0, "rdnoise"),
        ("RDNOISE", "n/a", "rdnoise"),
        ("EXPTIME", 0.0, "exptime"),
        ("SATURATE", -1, "saturate"),
        ("SKYSUB", "subtracted", "sky_subtracted"),
        ("SKYLEVEL", "inf", "sky_level"),
    ],
)
def test_impossible_cards_are_ignored_with_a_message(card, value, attribute):
    result = calibration(**{card: value})
    assert math.isnan(getattr(result, attribute))
    assert any(card in m and "ignored" in m for m in result.messages)


def test_undefined_and_missing_cards_say_nothing():
    header = fits.Header()
    header["GAIN"] = None
    header["FILTER"] = None
    result = read_calibration([header])
    assert math.isnan(result.gain)
    assert result.filter == ""
    assert result.messages == ()


def test_primary_header_is_searched_second():
    own, primary = fits.Header({"GAIN": 2.0}), fits.Header({"GAIN": 9.0, "FILTER": "F814W"})
    result = read_calibration([own, primary])
    assert result.gain == 2.0
    assert result.filter == "F814W"


def test_clear_filter_wheel():
    assert calibration(FILTER1="CLEAR1L", FILTER2="F814W").filter == "F814W"


class TestWcs:
    def test_scale_and_orientation(self):
        result = calibration(**wcs_cards(0.25))
        assert result.pixel_scale == pytest.approx(0.25, rel=1e-6)
        assert result.wcs.wcs_pix2world([[9.0, 11.0]], 0)[0] == pytest.approx([150.0, 2.0])

    def test_wins_over_pixscale(self):
        result = calibration(**wcs_cards(0.25), PIXSCALE=0.4)
        assert result.pixel_scale == pytest.approx(0.25, rel=1e-6)
        assert any("PIXSCALE" in m for m in result.messages)
        assert calibration(**wcs_cards(0.25), PIXSCALE=0.2505).messages == ()

    def test_cdelt(self):
        cards = {k: v for k, v in wcs_cards(0.3).items() if not k.startswith("CD")}
        cards |= {"CDELT1": -0.3 / 3600, "CDELT2": 0.3 / 3600, "CROTA2": 30.0}
        assert calibration(**cards).pixel_scale == pytest.approx(0.3, rel=1e-6)

    def test_sip_without_the_suffix(self):
        cards = wcs_cards(0.2) | {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_0_2": 1e-6}
        result = calibration(**cards)
        assert result.wcs is not None
        assert result.pixel_scale == pytest.approx(0.2, rel=1e-3)

    @pytest.mark.parametrize(
        "change",
        [
            {"CD1_1": 0.0, "CD2_2": 0.0},
            {"CTYPE1": "RA---XYZ"},
            {"CTYPE1": "DEC--TAN"},
            {"CRVAL1": "here"},
            {"CD1_1": 1e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 1e-5},
            {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        ],
    )
    def test_broken_is_ignored_with_a_message(self, change):
        result = calibration(**(wcs_cards(0.2) | change), PIXSCALE=0.33)
        assert result.wcs is None
        assert result.pixel_scale == 0.33
        assert any("WCS" in m for m in result.messages)

    def test_non_standard_dates_and_units_are_repaired(self):
        cards = wcs_cards(0.2) | {"CUNIT1": "degree", "CUNIT2": "degree", "DATE-OBS": "31/12/99"}
        assert calibration(**cards).pixel_scale == pytest.approx(0.2, rel=1e-6)


CARDS = [
    "ZP", "GAIN", "RDNOISE", "PIXSCALE", "EXPTIME", "SKYLEVEL", "SKYSUB", "SATURATE", "BUNIT",
    "FILTER", "TARGET", "PSFPIX", "CTYPE1", "CTYPE2", "CRVAL1", "CD1_1", "CD2_2", "CRPIX1",
    "PHOTFLAM", "PHOTPLAM", "PIXAR_SR", "PHOTMJSR", "A_ORDER", "RADESYS", "EQUINOX", "CUNIT1",
]  # fmt: skip
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    st.sampled_from(["nan", "inf", "-1", "RA---TAN", "DEC--TAN", "deg", "", "MJy/sr", "T"]),
    st.none(),
)


@examples(150)
@given(cards=st.dictionaries(st.sampled_from(CARDS), VALUES, max_size=12), base=st.booleans())
def test_any_cards(cards, base):
    """Whatever a header says, every value is usable or absent."""
    header = fits.Header(wcs_cards() if base else {})
    for key, value in cards.items():
        header[key] = value
    result = read_calibration([header])
    for name in ("pixel_scale", "gain", "exptime", "saturate"):
        value = getattr(result, name)
        assert math.isnan(value) or (math.isfinite(value) and value > 0)
    assert math.isnan(result.rdnoise) or result.rdnoise >= 0
    assert math.isnan(result.zeropoint) or abs(result.zeropoint) < 300
    assert result.target is None or isinstance(result.target, int)
    if result.wcs is not None:
        assert np.all(np.isfinite(result.wcs.wcs_pix2world([[1.0, 1.0]], 0)))


@examples(30)
@given(value=st.one_of(st.text(max_size=30).map(lambda t: t.encode("utf-8", "replace")),
                       st.binary(max_size=60)))  # fmt: skip
def test_unparsable_cards(value, tmp_path_factory):
    """Raw bytes in the place of a card's value: the image is still read."""
    folder = tmp_path_factory.mktemp("cards")
    path = folder / "a.fits"
    rng = np.random.default_rng(1)
    fits.writeto(path, rng.normal(size=(12, 12)), fits.Header({"GAIN": 3.0}))
    content = bytearray(path.read_bytes())
    start = content.index(b"GAIN    =") + 10
    content[start : start + 70] = bytes(value[:70]).replace(b"\n", b" ").ljust(70)
    path.write_bytes(bytes(content))
    stamp = read_source(discover(path)[0], ReadOptions(psf="none")).stamp
    assert stamp.shape == (12, 12)
    assert math.isnan(stamp.gain) or stamp.gain > 0
