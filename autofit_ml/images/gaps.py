"""Borders and gaps that are filled with one value: no data, though the pixels are finite.

A region is told by what chance does not make. If a share p of all other pixels has exactly its
value, a solid square of k x k pixels, or a straight run of n, comes about by chance in an image of
N pixels about :math:`N p^{k^2}` (:math:`N p^n`) times; both sides are chosen so that this is below
1e-6. In continuous data p is 0 and squares of 3 x 3 and runs of 9 are enough; in counts of few
photons, and in images clipped at a value, p is so large that only wide regions are told, or none.
"""

import math

import numpy as np
from scipy import ndimage

__all__ = ["constant_regions"]

_SIDE, _RUN = 3, 9
"""Smallest square and straight run, pixels."""

_COMMON = 0.3
"""A value of more than this share of the pixels beside its regions belongs to the data."""

_BOX = 15
"""Pixels a side of the boxes in which a value's local share is looked for."""

_VALUES = 100
"""With more values than this the image was enlarged by repeating pixels."""


def constant_regions(
    data: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Connected pixels of exactly one value.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Finite where not masked.
    mask : ndarray of bool, shape (ny, nx)
        True = bad already.

    Returns
    -------
    region, full : ndarray of bool, shape (ny, nx)
        Borders and gaps; pixels at the image's largest value (saturated stars). Neither where they
        would leave less than 5 % of the pixels.
    messages : tuple of str
        How many pixels of which value; which value is too common to tell.
    """
    region, full = np.zeros((2, *data.shape), bool)
    values = _candidates(data, mask)
    if values.size == 0:
        return region, full, ()
    if values.size > _VALUES:
        return region, full, ("groups of pixels are equal: an image enlarged by repeating pixels",)
    good = data[~mask]
    largest, total, counts = good.max(), good.size, np.array_equal(good, np.rint(good))
    messages = []
    for value in values + 0.0:  # no "-0"
        found, share = _told((data == value) & ~mask, total, counts)
        number = int(found.sum())
        if number and value == largest:
            full |= found
            messages.append(f"{number} pixels at the largest value {value:g} masked")
        elif number:
            region |= found
            messages.append(f"{number} pixels in a border or gap of exactly {value:g} masked")
        elif share > _COMMON:
            messages.append(
                f"{100 * share:.0f} % of the pixels are exactly {value:g}: counts of few photons, "
                "or clipped data; not masked"
            )
    if (region | full | mask).mean() > 0.95:
        return np.zeros(data.shape, bool), np.zeros(data.shape, bool), ()
    return region, full, tuple(messages)


def _candidates(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values that fill a smallest square or run somewhere."""
    along = (data[:, 1:] == data[:, :-1]) & ~mask[:, 1:] & ~mask[:, :-1]
    across = (data[1:] == data[:-1]) & ~mask[1:] & ~mask[:-1]
    least = _SIDE * (_SIDE - 1)
    if along.sum() < least and across.sum() < least:  # continuous data without a gap
        return np.array([])
    square = along[:-1] & along[1:] & across[:, :-1] & across[:, 1:]  # 2 x 2
    square = square[:-1, :-1] & square[:-1, 1:] & square[1:, :-1] & square[1:, 1:]
    found = [data[:-2, :-2][square]]
    for equal, values in ((along, data), (across.T, data.T)):
        places = max(equal.shape[1] - _RUN + 2, 0)
        run = equal[:, :places].copy()
        for k in range(1, _RUN - 1):
            run &= equal[:, k : k + places]
        found.append(values[:, :places][run])
    return np.unique(np.concatenate(found))


def _told(same: np.ndarray, total: int, counts: bool) -> tuple[np.ndarray, float]:
    """Regions of one value that chance does not make, and its share of the other pixels."""
    found = np.zeros_like(same)
    share, sizes = 0.0, (0, 0)
    for _ in range(5):  # the share is that of the pixels beside the regions
        share = float((same & ~found).sum()) / max(total - int(found.sum()), 1)
        if counts and found.any():  # where it is largest: photons gather where objects are
            share = max(share, _largest_share(same, found))
        least = (math.log(total) - math.log(1e-6)) / -math.log(min(max(share, 1e-3), 0.999))
        side, run = max(_SIDE, math.ceil(math.sqrt(least))), max(_RUN, math.ceil(least))
        if side > _SIDE and not counts:  # pixels of resampled images are not independent
            side, run = 2 * side + 1, 3 * run
        if (side, run) == sizes:
            break
        sizes = side, run
        seeds = _opened(same, side, side) | _opened(same, 1, run) | _opened(same, run, 1)
        if not seeds.any():
            return np.zeros_like(same), share
        if share < 1e-3:  # whatever hangs on it; else that is mostly chance
            labels, _ = ndimage.label(same)
            hit = np.unique(labels[seeds])
            seeds = np.isin(labels, hit)
        found = seeds
    return found, share


def _largest_share(same: np.ndarray, left_out: np.ndarray) -> float:
    """Largest share of `same` in a box of the image, over what is not left out of it."""
    whole = ndimage.uniform_filter((~left_out).astype(np.float32), _BOX)
    part = ndimage.uniform_filter((same & ~left_out).astype(np.float32), _BOX)
    return float(np.max(part / whole.clip(0.5), where=whole >= 0.5, initial=0.0))


def _opened(same: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels that lie in a solid rectangle of at least this size (made odd)."""
    if height > same.shape[0] or width > same.shape[1]:
        return np.zeros_like(same)
    out = same.astype(np.uint8)
    for step in (ndimage.minimum_filter1d, ndimage.maximum_filter1d):
        for axis, length in ((0, height | 1), (1, width | 1)):
            if length > 1:
                out = step(out, length, axis=axis, mode="constant", cval=0)
    return out.astype(bool)
