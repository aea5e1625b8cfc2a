"""One detection for each object, where images or cells of one image overlap.

Detections have an order: those in their cell's core before those in its margin, complete isophotes
before those that an image's border cuts off, images of higher priority first, then those farther
from their image's border, then by the image's id and the number. In that order a detection is kept
unless one that is kept already is the same object. So there is one answer for the whole survey, and
it does not depend on tiles.

A tile knows the detections around its core only. What it cannot decide, because a detection out of
its sight may matter, is said to be open; an object of its own that is open is an error, never a
guess. Chains would have to be as long as the halo for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from autofit_ml.errors import SettingsError
from autofit_ml.survey.sky import Tiling, separation, unit_vectors

__all__ = ["DETECTION", "Resolved", "resolve", "tile_objects"]

MOST = 30.0
"""Arcsec: detections farther apart are two objects, however large."""

KEPT, DROPPED, OPEN = 0, 1, 2

DETECTION = np.dtype(
    [
        *((name, "f8") for name in ("ra", "dec", "arcsec", "border", "priority")),
        *((name, "?") for name in ("cut", "core")),
        *((name, "i8") for name in ("cell", "image", "band", "number")),
    ]
)
"""A detection as `resolve` takes it; cell, image and band are numbers in an order of names."""


@dataclass(frozen=True)
class Resolved:
    """Detections of a tile.

    Attributes
    ----------
    owned : ndarray of bool, shape (n,)
        The tile's own, kept or not.
    kept : ndarray of bool, shape (n,)
        Those of them that are objects.
    seen : ndarray of int, shape (n,)
        Images in which the object was detected.
    """

    owned: np.ndarray
    kept: np.ndarray
    seen: np.ndarray


def resolve(
    found: np.ndarray, match: float, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decide which detections are kept.

    Parameters
    ----------
    found : structured array, shape (n,)
        Of `DETECTION`.
    match : float
        Detections nearer than this, or than half of the smaller isophote's radius, are the same
        object, arcsec; one that is cut off by a border is the same as what its place lies in.
    known : ndarray of bool, shape (n,), optional
        Whether every detection within `MOST` is given too.

    Returns
    -------
    state : ndarray of int, shape (n,)
        KEPT, DROPPED, or OPEN: it depends on detections that are not given.
    seen : ndarray of int, shape (n,)
        Images with the same object.
    """
    n = len(found)
    state, seen = np.full(n, OPEN), np.ones(n, dtype=np.int64)
    if n == 0:
        return state, seen
    known = np.ones(n, dtype=bool) if known is None else known
    pairs = _same(found, match)
    order = np.lexsort(
        (
            found["number"],
            found["cell"],
            found["image"],
            -found["border"],
            -found["priority"],
            found["cut"],
            ~found["core"],
        )
    )
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    partners: dict[int, list[int]] = {}
    for i, j in pairs:
        partners.setdefault(int(i), []).append(int(j))
        partners.setdefault(int(j), []).append(int(i))
    for i in map(int, order):
        others = partners.get(i, [])
        better = [state[j] for j in others if rank[j] < rank[i]]
        if KEPT in better:
            state[i] = DROPPED
        elif known[i] and OPEN not in better:
            state[i] = KEPT
        images = {int(found["image"][j]) for j in others} | {int(found["image"][i])}
        seen[i] = len(images)
    return state, seen


def _same(found: np.ndarray, match: float) -> np.ndarray:
    """Pairs that are the same object, shape (m, 2)."""
    vectors = unit_vectors(found["ra"], found["dec"])
    limit = 2 * np.sin(np.radians(MOST / 3600.0) / 2)
    pairs = cKDTree(vectors).query_pairs(limit, output_type="ndarray")
    if len(pairs) == 0:
        return pairs
    one, two = found[pairs[:, 0]], found[pairs[:, 1]]
    apart = separation(vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    reach = np.maximum(match, 0.5 * np.minimum(one["arcsec"], two["arcsec"]))
    cut_off = np.where(one["cut"], two["arcsec"], 0.0)
    cut_off = np.maximum(cut_off, np.where(two["cut"], one["arcsec"], 0.0))
    reach = np.where(one["image"] != two["image"], np.maximum(reach, cut_off), reach)
    same = (one["cell"] != two["cell"]) & (one["band"] == two["band"])
    return pairs[same & (apart < np.minimum(reach, MOST))]


def tile_objects(found: np.ndarray, tile: int, sky: Tiling, match: float, halo: float) -> Resolved:
    """Resolve what lies in and around a tile.

    Parameters
    ----------
    found : structured array, shape (n,)
        Of `DETECTION`: every detection within the halo of the tile, and any others.
    tile : int
    sky : Tiling
    match : float
        See `resolve`.
    halo : float
        Arcsec.

    Raises
    ------
    SettingsError
        The halo is too small to decide.
    """
    owned = sky.index(found["ra"], found["dec"]) == tile
    vectors = unit_vectors(found["ra"], found["dec"])
    step = max(16, int(np.ceil(sky.width * 3600.0 / (halo / 8))))
    edge = unit_vectors(*sky.outline(tile, min(step, 512)))
    near = np.full(len(found), np.inf)
    if len(found):
        chord, _ = cKDTree(edge).query(vectors)
        near = np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))) * 3600.0
    known = owned | (near + MOST < halo)
    state, seen = resolve(found, match, known)
    if (state[owned] == OPEN).any():
        raise SettingsError(
            f"{int((state[owned] == OPEN).sum())} detections of the tile {sky.name(tile)} overlap "
            f"in a chain that reaches over its halo of {halo:g} arcsec",
            "use a larger --halo in another --out",
        )
    return Resolved(owned, owned & (state == KEPT), seen)
