"""Instances that touch: which are objects of their own, and which are parts of a larger one.

A network may take a nucleus, the ends of a bar or an arm for objects. What it proposes is believed
only where the light agrees: a smaller instance that touches a larger one stays if enough of its
light is in excess of the larger one's symmetric light, and if it does not sit at its centre.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autofit_ml.segmentation.shapes import Ellipse, ellipse_of_footprint, expected_light

__all__ = ["EXCESS", "EXCESS_SNR", "Host", "host_of", "is_fragment", "join_fragments", "stands_out"]

EXCESS, EXCESS_SNR = 0.25, 7.0
"""A part stays an object of its own if this share of its light, with this significance, is in
excess of the larger one's ring median and mirror image."""

_CONCENTRIC = (1.5, 0.1)
"""Centres nearer than this many pixels, or this share of the larger one's semi-major axis, are one
centre."""

_MARGIN = 12
"""Pixels around touching instances that show what is sky."""

_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Host:
    """A larger instance, of which smaller ones may be parts.

    Attributes
    ----------
    outline : Ellipse
        Of its footprint without holes.
    x, y : float
        Its brightest part, pixels.
    """

    outline: Ellipse
    x: float
    y: float

    def shares_centre(self, rows: np.ndarray, columns: np.ndarray) -> bool:
        """True if pixels lie around the host's centre."""
        apart = np.hypot(columns.mean() - self.outline.x, rows.mean() - self.outline.y)
        return bool(apart < max(_CONCENTRIC[0], _CONCENTRIC[1] * self.outline.semi_major))

    def light(self, image: np.ndarray, free: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The host's symmetric light at the pixels `at`, told from those that are `free`."""
        outline = self.outline
        ellipse = Ellipse(self.x, self.y, outline.semi_major, max(outline.q, 0.3), outline.theta)
        return expected_light(image, free, at, ellipse)


def host_of(image: np.ndarray, footprint: np.ndarray) -> Host:
    """The `Host` of a footprint (bool, at least one pixel) in a sky-subtracted image."""
    # Many times as fast as `ndimage.binary_fill_holes`.
    parts, _ = ndimage.label(np.pad(~footprint, 1, constant_values=True))
    whole = (parts != parts[0, 0])[1:-1, 1:-1]
    return Host(ellipse_of_footprint(whole), *_peak(image, footprint))


def is_fragment(
    image: np.ndarray, noise: np.ndarray, host: Host, small: np.ndarray, free: np.ndarray
) -> bool:
    """True if an instance is part of a larger one.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    host : Host
        The larger one.
    small : ndarray, bool, shape (ny, nx)
        Footprint of the smaller one.
    free : ndarray, bool, shape (ny, nx)
        Pixels that are the large one's or nobody's.
    """
    if not small.any():
        return False
    if host.shares_centre(*np.nonzero(small)):
        return True
    return not stands_out(image[small], host.light(image, free, small), noise[small])


def stands_out(light: np.ndarray, expected: np.ndarray, noise: np.ndarray) -> bool:
    """True if pixels are brighter than a larger instance's symmetric light (each shape (n,))."""
    excess = float(np.sum(light - expected))
    error = float(np.sqrt(np.sum(noise.astype(float) ** 2)))
    return excess >= EXCESS * float(light.sum()) and excess >= EXCESS_SNR * error


def _peak(image: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """(x, y) of the brightest part."""
    smooth = np.where(own, ndimage.uniform_filter(np.where(own, image, 0.0), 3), -np.inf)
    top = float(np.max(smooth))
    y, x = np.nonzero(smooth >= top - 0.1 * abs(top))
    return float(x.mean()), float(y.mean())


def _opposite(labels: np.ndarray, host: Host, large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """The instance at the other side of the larger one's centre: the other end of a bar, say.

    Two instances that are each other's mirror image are the larger one's own symmetry.
    """
    rows, columns = np.nonzero(small)
    v, h = np.rint(2 * host.y - rows).astype(int), np.rint(2 * host.x - columns).astype(int)
    there = (v >= 0) & (v < labels.shape[0]) & (h >= 0) & (h < labels.shape[1])
    met = labels[v[there], h[there]]
    met = met[(met > 0) & ~large[v[there], h[there]] & ~small[v[there], h[there]]]
    if met.size:
        number = np.bincount(met)
        other = labels == number.argmax()
        if int(np.max(number)) >= 0.5 * max(rows.size, int(np.count_nonzero(other))):
            return other
    return np.zeros(labels.shape, dtype=bool)


def join_fragments(
    labels: np.ndarray, image: np.ndarray, noise: np.ndarray, bad: np.ndarray
) -> np.ndarray:
    """Labels in which the parts of larger instances have these instances' labels.

    Parameters
    ----------
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    bad : ndarray, bool, shape (ny, nx)
        True = do not use.
    """
    islands, _ = ndimage.label(labels > 0, structure=_EIGHT)
    out = labels.copy()
    for number, window in enumerate(ndimage.find_objects(islands), start=1):
        inside = islands[window] == number
        if len(np.unique(labels[window][inside])) < 2:
            continue
        wide = tuple(slice(max(part.start - _MARGIN, 0), part.stop + _MARGIN) for part in window)
        _join_island(out[wide], islands[wide] == number, image[wide], noise[wide], bad[wide])
    return out


def _join_island(
    labels: np.ndarray, island: np.ndarray, image: np.ndarray, noise: np.ndarray, bad: np.ndarray
) -> None:
    """Join the parts of one island, in place, until nothing changes."""
    while True:
        present, counts = np.unique(labels[island], return_counts=True)
        order = present[np.argsort(-counts, kind="stable")]
        touching = _touching(labels)
        joined = False
        for k, large in enumerate(order[:-1]):
            others = [small for small in order[k + 1 :] if (large, small) in touching]
            if not others:
                continue
            own = labels == large
            host = host_of(image, own)
            for small in others:
                part = labels == small
                free = own | (labels == 0) | _opposite(labels, host, own, part)
                if is_fragment(image, noise, host, part & ~bad, free & ~bad):
                    labels[part] = large
                    joined = True
                    break
            if joined:
                break
        if not joined:
            return


def _touching(labels: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of different labels with pixels beside each other, diagonally too; both ways round."""
    pairs: set[tuple[int, int]] = set()
    for one, other in (
        (labels[:-1], labels[1:]),
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    ):
        met = (one != other) & (one > 0) & (other > 0)
        pairs.update(zip(one[met].tolist(), other[met].tolist(), strict=True))
    return pairs | {(b, a) for a, b in pairs}
