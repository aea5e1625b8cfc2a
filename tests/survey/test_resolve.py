"""Duplicates are left out in one way for the whole sky, whatever the tiles."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.errors import SettingsError
from autofit_ml.survey.resolve import DETECTION, KEPT, resolve, tile_objects
from autofit_ml.survey.sky import tiling


def detections(*rows: dict) -> np.ndarray:
    """Detections of images on their own; positions in arcsec around RA 0, Dec 0."""
    out = np.zeros(len(rows), DETECTION)
    for k, row in enumerate(rows):
        given = {"x": 0.0, "y": 0.0, "arcsec": 1.0, "border": 50.0, "image": k, "core": True} | row
        given["ra"], given["dec"] = given.pop("x") / 3600 % 360, given.pop("y") / 3600
        given.setdefault("cell", given["image"])
        for name, value in given.items():
            out[name][k] = value
    return out


def kept(*rows: dict, match: float = 1.0) -> list[int]:
    return np.flatnonzero(resolve(detections(*rows), match)[0] == KEPT).tolist()


def test_the_same_place_in_two_images_is_one_object():
    assert kept({"border": 20}, {"x": 0.6, "border": 30}) == [1]
    assert kept({"border": 20}, {"x": 1.2, "border": 30}) == [0, 1]
    assert kept({}, {"x": 0.6, "image": 0, "number": 1}) == [0, 1]  # one image, deblended


def test_extended_objects_match_within_half_a_radius():
    assert kept({"arcsec": 8}, {"x": 3.5, "arcsec": 8, "border": 60}) == [1]
    assert kept({"arcsec": 8}, {"x": 3.5, "arcsec": 2, "border": 60}) == [0, 1]  # a satellite


def test_the_order_of_detections():
    assert kept({"priority": 1, "border": 5}, {"border": 90}) == [0]
    assert kept({"priority": 1, "cut": True}, {}) == [1]
    assert kept({"image": 0, "core": False}, {"image": 0, "cell": 1, "border": 4}) == [1]
    assert kept({}, {}) == [0]  # the first image


def test_a_piece_at_a_border_is_part_of_what_it_lies_in():
    assert kept({"cut": True, "arcsec": 4}, {"x": 9, "arcsec": 10}) == [1]
    assert kept({"cut": True, "arcsec": 4}, {"x": 11, "arcsec": 10}) == [0, 1]
    assert kept({"arcsec": 4}, {"x": 9, "arcsec": 10}) == [0, 1]


def test_other_bands_are_other_objects():
    assert kept({"band": 0}, {"band": 1}) == [0, 1]


def test_what_is_dropped_drops_nothing():
    """A chain: the middle one goes, and both ends stay."""
    rows = [{"border": 90}, {"x": 0.8, "border": 60}, {"x": 1.6, "border": 30}]
    assert kept(*rows) == [0, 2]
    state, seen = resolve(detections(*rows), 1.0)
    assert seen.tolist() == [2, 3, 2]


@pytest.mark.parametrize("seed", range(4))
def test_tiles_together_are_the_whole(seed):
    """Random detections in crowded random images: each kept one has one tile, in every tiling."""
    rng = np.random.default_rng(seed)
    n = 600
    found = np.zeros(n, DETECTION)
    places = rng.uniform(-150, 150, (n // 3, 2))[rng.integers(0, n // 3, n)]
    places += rng.normal(0, 0.7, (n, 2))
    pole = seed % 2 == 0
    angle = np.degrees(np.arctan2(places[:, 1], places[:, 0])) % 360
    found["ra"] = angle if pole else places[:, 0] / 3600 % 360
    found["dec"] = 90 - np.hypot(*places.T) / 3600 if pole else places[:, 1] / 3600
    found["arcsec"], found["border"] = rng.uniform(0.5, 6, n), rng.uniform(0, 100, n)
    found["cut"], found["core"] = rng.random(n) < 0.1, rng.random(n) < 0.9
    found["image"] = rng.integers(0, 5, n)
    found["cell"], found["number"] = found["image"] * 2 + rng.integers(0, 2, n), np.arange(n)
    whole = np.flatnonzero(resolve(found, 1.0)[0] == KEPT)
    assert 0.3 * n < len(whole) < 0.9 * n
    halo = 120.0
    for text in ("healpix:11", "healpix:12", "grid:0.02"):
        sky = tiling(text)
        tiles = sky.index(found["ra"], found["dec"])
        parts = []
        for tile in np.unique(tiles):
            # What a tile is given: everything within its halo, and whatever else.
            edge = sky.outline(int(tile), 32)
            near = _within(found, edge, halo) | (tiles == tile) | (rng.random(n) < 0.1)
            one = tile_objects(found[near], int(tile), sky, 1.0, halo)
            parts.append(np.flatnonzero(near)[one.kept])
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), whole)


def _within(found, edge, arcsec):
    from autofit_ml.survey.sky import separation, unit_vectors

    places = unit_vectors(found["ra"], found["dec"])[:, None]
    return (separation(places, unit_vectors(*edge)[None]) < arcsec).any(1)


def test_a_chain_longer_than_the_halo_is_an_error():
    rows = [{"x": 0.9 * k, "border": k, "image": k % 7, "number": k} for k in range(400)]
    found = detections(*rows)
    sky = tiling("healpix:14")
    tile = int(sky.index(found["ra"], found["dec"])[0])
    near = found["ra"] * 3600 % 360 < 100
    with pytest.raises(SettingsError, match="larger --halo"):
        tile_objects(found[near], tile, sky, 1.0, 60.0)
