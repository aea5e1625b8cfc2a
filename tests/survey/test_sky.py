"""Every position of the sky has one tile, at RA 0 and at the poles too."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.errors import SettingsError
from autofit_ml.survey.sky import offset_positions, separation, tiling, unit_vectors

TILINGS = ("healpix:3", "healpix:8", "grid:7.3", "grid:0.5")


def positions(number=20_000, seed=0):
    """Positions over the sky, the poles and the edges of RA and Dec among them."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, number), np.degrees(np.arcsin(rng.uniform(-1, 1, number)))
    edges = [(0, 0), (360, 0), (-1e-13, 0), (180, 0), (0, 90), (77, 90), (0, -90), (300, -90)]
    return np.append(ra, [a for a, _ in edges]), np.append(dec, [d for _, d in edges])


@pytest.mark.parametrize("text", TILINGS)
def test_right_ascension_wraps(text):
    sky = tiling(text)
    ra, dec = positions()
    np.testing.assert_array_equal(sky.index(ra, dec), sky.index(np.mod(ra, 360) + 360, dec))


@pytest.mark.parametrize("text", TILINGS)
def test_the_middle_of_a_tile_is_its_own(text):
    sky = tiling(text)
    tiles = np.unique(sky.index(*positions(3000)))[:400]
    centres = np.array([sky.centre(int(one)) for one in tiles])
    np.testing.assert_array_equal(sky.index(*centres.T), tiles)


@pytest.mark.parametrize(("text", "number"), [("healpix:3", 768), ("grid:7.3", None)])
def test_tiles_cover_the_sky_once(text, number):
    sky = tiling(text)
    tiles = np.unique(sky.index(*positions(200_000)))
    assert number is None or len(tiles) == number
    assert tiles[-1] == len(tiles) - 1
    assert sum(sky.area(int(one)) for one in tiles) == pytest.approx(41252.96, rel=1e-5)


def test_bands_are_half_open():
    sky = tiling("grid:1")
    dec = np.array([9.0, np.nextafter(10.0, 0), 10.0, np.nextafter(11.0, 0), 11.0])
    band = sky.index(np.full(5, 1e-9), dec)
    assert band[0] == band[1] < band[2] == band[3] < band[4]


@pytest.mark.parametrize("text", TILINGS)
@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.3), (123.4, -56.7), (10.0, 89.99), (200.0, -90.0)])
def test_outlines_go_round_their_tile(text, ra, dec):
    """Half-way between middle and outline is inside; a little beyond the outline is outside."""
    sky = tiling(text)
    tile = int(sky.index(np.array([ra]), np.array([dec]))[0])
    middle = unit_vectors(*map(np.atleast_1d, sky.centre(tile)))
    edge = unit_vectors(*sky.outline(tile, 8))
    for share, inside in ((0.5, True), (1.15, False)):
        v = (1 - share) * middle + share * edge
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        places = np.degrees(np.arctan2(v[:, 1], v[:, 0])), np.degrees(np.arcsin(v[:, 2]))
        mine = sky.index(*places) == tile
        assert mine.all() if inside else not mine[1:].all()


def test_circles_have_their_radius():
    ra, dec = positions(200)
    around = unit_vectors(*offset_positions(ra, dec, 0.01, 8)).reshape(9, len(ra), 3)
    np.testing.assert_allclose(separation(around[1:], around[0]), 36.0, rtol=1e-6)


@pytest.mark.parametrize("text", ["healpix:19", "healpix:x", "grid:0", "grid:100", "brick:1", ""])
def test_other_tilings_are_refused(text):
    with pytest.raises(SettingsError, match="no tiling"):
        tiling(text)
