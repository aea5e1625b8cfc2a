"""Positions and angles on the sky are ICRS, whatever the WCS."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import FK4, FK5, BarycentricMeanEcliptic, Galactic, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from fits_builders import galaxy, gaussian, wcs_cards

from autofit_ml.images import ReadOptions, cut_like, discover, read_frame, read_source
from autofit_ml.images.header import read_calibration
from autofit_ml.images.sky_coordinates import pixel_positions, sky_angle, sky_positions

PLACE = SkyCoord(150.0, 2.0, unit="deg")
SYSTEMS = {
    "icrs": ({"RADESYS": "ICRS"}, "icrs"),
    "fk5": ({"RADESYS": "FK5", "EQUINOX": 2000.0}, FK5()),
    "fk5 of date": ({"RADESYS": "FK5", "EQUINOX": 2025.5}, FK5(equinox="J2025.5")),
    "fk4": ({"RADESYS": "FK4", "EQUINOX": 1950.0}, FK4(equinox="B1950")),
    "equinox only": ({"EQUINOX": 1950.0}, FK4(equinox="B1950")),
    "galactic": ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, Galactic()),
    "ecliptic": (
        {"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"},
        BarycentricMeanEcliptic(equinox=Time(2000.0, format="jyear")),
    ),
}


def header_in(name: str, swapped: bool = False) -> fits.Header:
    """An image about `PLACE` in one of `SYSTEMS`, 0.2 arcsec pixels, turned by 25 degrees."""
    cards, frame = SYSTEMS[name]
    there = PLACE.transform_to(frame)
    turn = np.deg2rad(25.0)
    scale = 0.2 / 3600
    values = {
        **wcs_cards(0.2, (22.5, 20.5)),
        **cards,
        "CRVAL1": there.spherical.lon.deg,
        "CRVAL2": there.spherical.lat.deg,
        "CD1_1": -scale * np.cos(turn),
        "CD1_2": scale * np.sin(turn),
        "CD2_1": scale * np.sin(turn),
        "CD2_2": scale * np.cos(turn),
    }
    if swapped:
        for kind in ("CTYPE", "CRVAL"):
            values[f"{kind}1"], values[f"{kind}2"] = values[f"{kind}2"], values[f"{kind}1"]
        for j in (1, 2):
            one, other = f"CD1_{j}", f"CD2_{j}"
            values[one], values[other] = values[other], values[one]
    return fits.Header(values)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", SYSTEMS)
def test_positions_against_astropy(name, swapped):
    """To 0.1 milliarcsec, there and back."""
    wcs = read_calibration([header_in(name, swapped)]).wcs
    x, y = np.array([0.0, 30.0, 41.0]), np.array([0.0, 11.0, 39.5])
    ra, dec = sky_positions(wcs, x, y)
    found = SkyCoord(ra, dec, unit="deg")
    axes = wcs.all_pix2world(np.stack([x, y], axis=1), 0)
    frame = SYSTEMS[name][1]
    truth = SkyCoord(axes[:, wcs.wcs.lng], axes[:, wcs.wcs.lat], unit="deg", frame=frame).icrs
    assert found.separation(truth).max() < 1e-4 * units.arcsec
    np.testing.assert_allclose(pixel_positions(wcs, ra, dec), [x, y], atol=1e-5)
    # And the place itself, which no code of ours made.
    middle = SkyCoord(*sky_positions(wcs, np.array([21.5]), np.array([19.5])), unit="deg")
    assert middle[0].separation(PLACE) < 1e-4 * units.arcsec


@pytest.mark.parametrize("name", SYSTEMS)
def test_position_angles(name):
    """East of north in ICRS, against SkyCoord's own position angle."""
    wcs = read_calibration([header_in(name)]).wcs
    for pa in (0.0, 40.0, 130.0):
        turn = np.deg2rad(pa)
        x, y = np.array([20.0, 20.0 - np.sin(turn)]), np.array([18.0, 18.0 + np.cos(turn)])
        one, other = SkyCoord(*sky_positions(wcs, x, y), unit="deg")
        expected = one.position_angle(other).deg % 180
        assert sky_angle(wcs, 20.0, 18.0, pa)[2] == pytest.approx(expected, abs=1e-3)


def test_manifest_positions_are_icrs(writer):
    """ra, dec of a galaxy in an image in galactic coordinates."""
    header = header_in("galactic")
    writer.object(image=galaxy((40, 44)), cards=dict(header))
    ra, dec = sky_positions(read_calibration([header]).wcs, np.array([30.0]), np.array([12.0]))
    table = writer.folder / "list.csv"
    table.write_text(f"id,image,ra,dec\na,g1_image.fits,{ra[0]:.9f},{dec[0]:.9f}\n")
    stamp = read_source(discover(None, manifest=table)[0]).stamp
    assert (stamp.x, stamp.y) == pytest.approx((30.0, 12.0), abs=1e-3)


def distorted(kind: str) -> fits.Header:
    header = fits.Header(wcs_cards(0.2, (350.0, 350.0)))
    if kind == "sip":
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
        header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-4, "B_0_2": 1.5e-4})
    elif kind == "tpv":
        header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
        header.update({"PV1_1": 1.0, "PV1_4": 3.0, "PV2_1": 1.0, "PV2_4": 2.0})
    else:  # SCAMP's, before TPV had its name
        header.update({"PV1_0": 0.0, "PV1_1": 1.0, "PV1_4": 3.0})
        header.update({"PV2_0": 0.0, "PV2_1": 1.0, "PV2_4": 2.0})
    return header


@pytest.mark.parametrize("kind", ["sip", "tpv", "scamp"])
def test_distortions_of_manifests(kind, tmp_path):
    """A star where the full WCS puts it: to 0.05 pixels; the linear part is 3 to 10 off."""
    header = distorted(kind)
    image = np.random.default_rng(0).normal(0, 1, (700, 700))
    wcs = WCS(header)
    rows = ["id,image,ra,dec"]
    for number, (x, y) in enumerate([(100, 600), (350, 350), (600, 120)]):
        image[y - 10 : y + 11, x - 10 : x + 11] += 5000 * gaussian()
        ra, dec = wcs.all_pix2world([[x, y]], 0)[0]
        rows.append(f"s{number},sky.fits,{ra:.9f},{dec:.9f}")
    off = wcs.wcs_world2pix(wcs.all_pix2world([[100, 600]], 0), 0)[0] - (100, 600)
    fits.writeto(tmp_path / "sky.fits", image, header)
    fits.writeto(tmp_path / "psf.fits", gaussian())
    (tmp_path / "list.csv").write_text("\n".join(rows))
    for source in discover(None, manifest=tmp_path / "list.csv"):
        stamp = read_source(source).stamp
        x, y = round(stamp.x), round(stamp.y)
        assert stamp.data[y, x] == stamp.data[y - 3 : y + 4, x - 3 : x + 4].max()
        assert abs(stamp.x - x) + abs(stamp.y - y) < 0.05
    if kind == "sip":
        assert np.hypot(*off) > 3


def test_left_over_sip_is_ignored_and_said():
    plain = fits.Header(wcs_cards(0.2, (350.0, 350.0)))
    header = plain.copy()
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-4, "B_0_2": 1.5e-4, "AP_ORDER": 0})
    result = read_calibration([header])
    assert any("SIP" in text for text in result.messages)
    x = np.array([100.0]), np.array([600.0])
    linear = sky_positions(read_calibration([plain]).wcs, *x)
    np.testing.assert_allclose(sky_positions(result.wcs, *x), linear, atol=1e-12)
    assert "A_ORDER" in header  # the caller's is not changed


def test_bands_in_different_systems(tmp_path):
    """The same place in an equatorial and in a galactic frame."""
    y, x = np.indices((120, 130))
    sky = []
    for name in ("icrs", "galactic"):
        header = header_in(name)
        header["CRPIX1"], header["CRPIX2"] = 65.0, 60.0
        image = np.random.default_rng(1).normal(0, 1, x.shape)
        path = tmp_path / f"{name}.fits"
        fits.writeto(path, image, header)
        source = discover(path)[0]
        sky.append(read_frame(source, ReadOptions(mode="frame", psf="none", sigma=1.0)))
    first, second = sky
    from autofit_ml.images import cut_stamps

    stamp = next(iter(cut_stamps(first, [{"x": 64.0, "y": 59.0}])))
    other = cut_like(second, stamp, first)
    assert (other.x + other.origin[0], other.y + other.origin[1]) == pytest.approx(
        (64.0, 59.0), abs=1e-3
    )


def test_outside_of_the_wcs_is_an_error(writer):
    writer.object(image=galaxy((40, 44)), cards=wcs_cards(0.2))
    table = writer.folder / "list.csv"
    table.write_text("id,image,ra,dec\na,g1_image.fits,330.0,-2.0\n")
    with pytest.raises(ValueError, match="outside"):
        read_source(discover(None, manifest=table)[0])
