"""Map of a survey: its tiles on the sky, by density and state, as SVG with a note for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from autofit_ml.report.drawing import colour_table
from autofit_ml.survey.sky import HEALPix, Tiling, unit_vectors

__all__ = ["TileState", "legend", "sky_map"]

_MOST = 3000
"""Outlines that are drawn; of more tiles those in a coarser HEALPix pixel are drawn as one."""

_WIDTH = 900
_WHOLE = 80.0
"""Degrees from its middle up to which a survey is drawn as seen from there."""

Projection = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_FAILED, _PENDING = "var(--fatal)", "var(--pending)"


@dataclass(frozen=True)
class TileState:
    """A tile for the map.

    Attributes
    ----------
    tile : int
    objects : int
    done, failed : bool
    link : str
        Where a click leads.
    """

    tile: int
    objects: int = 0
    done: bool = False
    failed: bool = False
    link: str = ""


def sky_map(tiles: Sequence[TileState], sky: Tiling) -> tuple[str, tuple[float, float]]:
    """Draw tiles, north up and east to the left.

    Parameters
    ----------
    tiles : sequence of TileState
    sky : Tiling

    Returns
    -------
    svg : str
        An ``<svg>`` element.
    densities : tuple of float
        Least and most objects per square arcmin: the ends of the colours; NaN where there are none.
    """
    merged, drawn_in = _merged(tiles, sky)
    outlines = [drawn_in.outline(one, 4) for one in merged]
    centres = np.array([drawn_in.centre(one) for one in merged]).reshape(-1, 2)
    project = _projection(centres)
    shapes = [np.stack(project(ra, dec), axis=1) for ra, dec in outlines]
    every = np.concatenate(shapes)
    low, high = np.nanmin(every, axis=0), np.nanmax(every, axis=0)
    scale = _WIDTH / max(float((high - low).max()), 1e-12)
    density = {
        one: sum(part.objects for part in parts) / (drawn_in.area(one) * 3600.0)
        for one, parts in merged.items()
    }
    known = [value for value in density.values() if value > 0] or [math.nan]
    ends = min(known), max(known)
    colour = _colours(*ends)
    lines = []
    for (one, parts), shape in zip(merged.items(), shapes, strict=True):
        points = (shape - low) * scale
        points[:, 1] = (high[1] - low[1]) * scale - points[:, 1]
        if len(merged) > 12 and np.ptp(points[:, 0]) > 0.6 * _WIDTH:
            continue  # an outline that goes round the back of the whole sky
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        note, fill = _said(one, parts, density[one], drawn_in), _fill(parts, density[one], colour)
        shown = f'<polygon points="{text}" fill="{fill}"><title>{escape(note)}</title></polygon>'
        link = next((part.link for part in parts if part.link), "")
        lines.append(f'<a href="{escape(link)}">{shown}</a>' if link else shown)
    width, height = (high - low) * scale
    box = f"-4 -4 {width + 8:.0f} {height + 8:.0f}"
    drawn = "".join(lines)
    return f'<svg viewBox="{box}" role="img" aria-label="Map of the tiles">{drawn}</svg>', ends


def _merged(tiles: Sequence[TileState], sky: Tiling) -> tuple[dict[int, list[TileState]], Tiling]:
    """Tiles by what is drawn: themselves, or coarser pixels where they are many."""
    if len(tiles) <= _MOST:
        return {one.tile: [one] for one in tiles}, sky
    order = sky.order if isinstance(sky, HEALPix) else 18
    while not isinstance(sky, HEALPix) and HEALPix(order).width < sky.width:
        order -= 1
    places = np.array([sky.centre(one.tile) for one in tiles])
    while True:
        pixels = HEALPix(order).index(places[:, 0], places[:, 1])
        if len(np.unique(pixels)) <= _MOST or order == 0:
            break
        order -= 1
    merged: dict[int, list[TileState]] = {}
    for pixel, one in zip(pixels, tiles, strict=True):
        merged.setdefault(int(pixel), []).append(one)
    return merged, HEALPix(order)


def _projection(centres: np.ndarray) -> Projection:
    """A function from positions to the plane: equal areas about the middle, or Hammer's."""
    vectors = unit_vectors(centres[:, 0], centres[:, 1])
    middle = vectors.sum(0)
    length = float(np.linalg.norm(middle))
    z = middle / length if length > 1e-9 else np.array([1.0, 0.0, 0.0])
    spread = math.degrees(float(np.arccos(np.clip((vectors @ z).min(initial=1.0), -1, 1))))
    north = np.array([0.0, 0.0, 1.0]) if abs(z[2]) < 0.9999 else np.array([-1.0, 0.0, 0.0])
    east = np.cross(north, z)
    east /= np.linalg.norm(east)
    up = np.cross(z, east)

    def about_the_middle(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = unit_vectors(ra, dec)
        stretch = np.sqrt(2 / np.maximum(1 + v @ z, 1e-9))
        return -stretch * (v @ east), stretch * (v @ up)

    def hammer(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = np.radians((np.asarray(ra) - 180.0 + 540.0) % 360.0 - 180.0)
        d = np.radians(dec)
        under = np.sqrt(1 + np.cos(d) * np.cos(turn / 2))
        return -2 * np.cos(d) * np.sin(turn / 2) / under, np.sin(d) / under

    return about_the_middle if spread < _WHOLE else hammer


def _colours(low: float, high: float) -> Callable[[float], str]:
    """A function from a density to a colour."""
    table = colour_table("viridis")

    def colour(value: float) -> str:
        if value <= 0:
            return "var(--empty)"
        place = 0.5 if high <= low else math.log(value / low) / math.log(high / low)
        red, green, blue = table[int(20 + 230 * min(max(place, 0.0), 1.0))]
        return f"#{red:02x}{green:02x}{blue:02x}"

    return colour


def _fill(parts: Sequence[TileState], density: float, colour: Callable[[float], str]) -> str:
    if any(part.failed for part in parts):
        return _FAILED
    if not any(part.done for part in parts):
        return _PENDING
    return colour(density)


def _said(one: int, parts: Sequence[TileState], density: float, sky: Tiling) -> str:
    done = sum(part.done for part in parts)
    failed = sum(part.failed for part in parts)
    state = "failed" if failed else "done" if done == len(parts) else "to do"
    if len(parts) > 1:
        state = f"{done} of {len(parts)} tiles done" + (f", {failed} failed" if failed else "")
    objects = sum(part.objects for part in parts)
    return f"{sky.name(one)}: {state}, {objects} objects, {density:.1f} per square arcmin"


def legend(tiles: Sequence[TileState]) -> Mapping[str, int]:
    """Numbers of tiles by state."""
    failed = sum(one.failed for one in tiles)
    done = sum(one.done for one in tiles)
    return {"done": done, "failed": failed, "to do": len(tiles) - done - failed}
