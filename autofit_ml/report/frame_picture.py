"""A frame as pictures: data, model and residual in colour, as tiles at several sizes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.visualization import make_lupton_rgb
from PIL import Image

from autofit_ml.report.drawing import (
    UNUSED,
    Stretch,
    colour_table,
    in_sigma,
    residual_indices,
    tint,
)

__all__ = ["TILE", "FramePlanes", "frame_layers", "jpeg_tiles"]

TILE = 512
"""Side of a tile, pixels."""

_ROWS = 512
"""That are coloured at a time: memory."""

_QUALITY = 86
_NOISE = 1.6
"""Standard deviations of the sky noise that a tenth of the linear part of the stretch is."""

_BEND = 8.0
"""Q of Lupton et al. (2004, PASP 116, 133): how fast the stretch becomes logarithmic."""


@dataclass(frozen=True)
class FramePlanes:
    """Images of a frame in one band, float32, (ny, nx), the sky subtracted.

    Attributes
    ----------
    data, model, sigma : ndarray
    mask : ndarray of bool, optional
        True = not used.
    """

    data: np.ndarray
    model: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray | None = None


def frame_layers(
    bands: Mapping[str, FramePlanes], whites: Mapping[str, float] | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Pictures of a frame, its first row at the bottom.

    Three bands or more make a colour composite of the middle three, red the last of them, with one
    asinh stretch for data and model; fewer are grey. The residual is in units of its noise, all
    bands together.

    Parameters
    ----------
    bands : mapping of str to FramePlanes
        From blue to red.
    whites : mapping of str to float, optional
        Flux of a source in each band that is to look white; by default noise is grey.

    Returns
    -------
    layers : dict
        "data", "model", "residual" -> uint8 (ny, nx, 3).
    colours : tuple of str
        The bands shown as red, green and blue; one name if there is no colour.
    """
    names = list(bands)
    first = (len(names) - 3) // 2
    shown = names[first : first + 3][::-1] if len(names) >= 3 else names[-1:]
    planes = [bands[name] for name in shown]
    if len(planes) == 3:
        data, model = _composites(planes, [(whites or {}).get(name, np.nan) for name in shown])
    else:
        one = planes[0]
        stretch = Stretch(one.data, one.model, one.sigma, one.mask, 0.0)
        data, model = (
            colour_table("gray")[stretch.indices(plane)] for plane in (one.data, one.model)
        )
    total = np.zeros(planes[0].data.shape, np.float32)
    number = np.zeros(total.shape, np.float32)
    for one in bands.values():
        good = np.ones(total.shape, bool) if one.mask is None else ~one.mask
        total += np.where(good, in_sigma(one.data - one.model, one.sigma), 0)
        number += good
    residual = colour_table("RdBu_r")[residual_indices(total / np.sqrt(np.maximum(number, 1)))]
    unused = number == 0
    tint(data, unused, UNUSED, 0.35)
    tint(residual, unused, UNUSED, 1.0)
    layers = {"data": data, "model": model, "residual": residual}
    return {name: np.ascontiguousarray(image[::-1]) for name, image in layers.items()}, tuple(shown)


def _composites(
    planes: Sequence[FramePlanes], whites: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Data and model in three bands, red first, by the same stretch."""
    noises = [float(np.median(one.sigma[~_unused(one)])) for one in planes]
    scales = np.array(whites if np.isfinite(whites).all() and min(whites) > 0 else noises)
    scales /= scales.mean()
    # of the mean of the three, by which the stretch goes
    noise = float(np.sqrt(np.mean((noises / scales) ** 2) / 3))
    pictures = []
    for kind in ("data", "model"):
        picture = np.empty((*planes[0].data.shape, 3), np.uint8)
        for top in range(0, len(picture), _ROWS):
            rows = slice(top, top + _ROWS)
            images = [
                np.where(_unused(one, rows), 0, getattr(one, kind)[rows] / float(scale))
                for one, scale in zip(planes, scales, strict=True)
            ]
            picture[rows] = make_lupton_rgb(
                *images, minimum=-2 * noise, stretch=10 * _NOISE * noise, Q=_BEND
            )
        pictures.append(picture)
    return pictures[0], pictures[1]


def _unused(one: FramePlanes, rows: slice = slice(None)) -> np.ndarray:
    """Masked or not finite; nothing is masked where everything is."""
    bad = ~np.isfinite(one.data[rows]) | ~(one.sigma[rows] > 0)
    return bad if one.mask is None or one.mask.all() else bad | one.mask[rows]


def jpeg_tiles(image: np.ndarray) -> list[list[list[bytes]]]:
    """JPEG files of an RGB image by level, row and column: whole size first, then halves."""
    picture = Image.fromarray(image)
    levels = []
    while True:
        width, height = picture.size
        rows = []
        for top in range(0, height, TILE):
            row = []
            for left in range(0, width, TILE):
                box = (left, top, min(left + TILE, width), min(top + TILE, height))
                file = io.BytesIO()
                picture.crop(box).save(file, "JPEG", quality=_QUALITY, subsampling=0)
                row.append(file.getvalue())
            rows.append(row)
        levels.append(rows)
        if max(picture.size) <= TILE:
            return levels
        picture = picture.reduce(2)
