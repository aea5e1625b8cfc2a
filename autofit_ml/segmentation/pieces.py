"""Objects as masks in boxes: from several images of the same sky to one label image.

The network sees tiles of a frame, and images binned 2 x 2 and 4 x 4 in which large galaxies are
small. Each gives pieces; here they become one object each, whatever image they come from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autofit_ml.measure import block_sums
from autofit_ml.segmentation.fragments import host_of, is_fragment

__all__ = ["Piece", "bin_image", "draw", "enlarge", "pieces_of", "with_large"]

SAME = 0.3
"""Masks from different images that overlap by more (intersection over union) are one object."""

LARGE = 20.0
"""Equivalent diameter, pixels of a binned image, from which an object is taken from there."""


@dataclass(frozen=True)
class Piece:
    """One object's mask in a box of the image.

    Attributes
    ----------
    y0, x0 : int
        Of the box's first pixel.
    mask : ndarray, bool
    score : float
    star : bool
    source : int
        Which tile it comes from; negative: a binned image.
    truncated : bool
        The mask ends where its tile does.
    """

    y0: int
    x0: int
    mask: np.ndarray
    score: float
    star: bool
    source: int = 0
    truncated: bool = False

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def kind(self) -> str:
        """Galaxy or star."""
        return "star" if self.star else "galaxy"

    @property
    def window(self) -> tuple[slice, slice]:
        """The box."""
        ny, nx = self.mask.shape
        return slice(self.y0, self.y0 + ny), slice(self.x0, self.x0 + nx)

    def shared(self, other: "Piece") -> int:
        """Pixels that both have."""
        top, left = max(self.y0, other.y0), max(self.x0, other.x0)
        bottom = min(self.y0 + self.mask.shape[0], other.y0 + other.mask.shape[0])
        right = min(self.x0 + self.mask.shape[1], other.x0 + other.mask.shape[1])
        if bottom <= top or right <= left:
            return 0
        mine = self.mask[top - self.y0 : bottom - self.y0, left - self.x0 : right - self.x0]
        theirs = other.mask[top - other.y0 : bottom - other.y0, left - other.x0 : right - other.x0]
        return int(np.count_nonzero(mine & theirs))

    def overlap(self, other: "Piece") -> float:
        """Intersection over union."""
        both = self.shared(other)
        return both / max(self.area + other.area - both, 1)


def pieces_of(
    labels: np.ndarray, scores: Sequence[float] | np.ndarray, stars: Sequence[bool] | np.ndarray
) -> Iterator[Piece]:
    """The objects of a label image: label i + 1 has `scores[i]` and `stars[i]`."""
    for k, window in enumerate(ndimage.find_objects(labels)):
        if window is not None:
            mask = labels[window] == k + 1
            corner = window[0].start, window[1].start
            yield Piece(*corner, mask, float(scores[k]), bool(stars[k]))


def bin_image(
    image: np.ndarray, rms: np.ndarray, bad: np.ndarray, b: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over b x b pixels, their noise, and blocks of which over half is masked.

    The noise is that of white noise, widened to the scatter of the binned image where that is
    larger (correlated noise).
    """
    number = block_sums(~bad, b)
    total = block_sums(np.where(bad, 0, image), b)
    mean = (total / np.maximum(number, 1)).astype(np.float32)
    noise = block_sums(rms, b) / b**3
    masked = number < b * b / 2
    faint = (mean < 0) & ~masked
    if np.count_nonzero(faint) > 50:  # the sky's own side: nothing of the objects
        scatter = np.median(-mean[faint] / noise[faint]) / 0.6745
        noise = noise * max(1.0, float(scatter))
    return mean, noise.astype(np.float32), masked


def enlarge(piece: Piece, b: int, shape: tuple[int, ...]) -> Piece:
    """A piece of an image binned b x b in the image's own pixels, cut at its border (`shape`)."""
    y0, x0 = piece.y0 * b, piece.x0 * b
    mask = np.kron(piece.mask, np.ones((b, b), dtype=bool))[: shape[0] - y0, : shape[1] - x0]
    return Piece(y0, x0, mask, piece.score, piece.star, -b)


def with_large(
    pieces: Sequence[Piece],
    coarse: Sequence[Piece],
    b: int,
    image: np.ndarray,
    noise: np.ndarray,
) -> list[Piece]:
    """Large galaxies of a binned image in place of what finer images made of them.

    Parameters
    ----------
    pieces : sequence of Piece
        Of finer images.
    coarse : sequence of Piece
        Of the image binned b x b, in its pixels.
    b : int
    image, noise : ndarray, shape (ny, nx)
        Sky-subtracted image and its noise, not binned.

    Returns
    -------
    list of Piece
        In the image's own pixels.
    """
    kept = list(pieces)
    for piece in sorted(coarse, key=lambda item: -item.area):
        if piece.star or piece.truncated or 2 * np.sqrt(piece.area / np.pi) < LARGE:
            continue
        galaxy = enlarge(piece, b, image.shape)
        within = [item for item in kept if item.shared(galaxy) > 0.5 * item.area]
        same = [item for item in kept if item.overlap(galaxy) > SAME]
        if any(item.source < 0 and not item.star for item in same):
            continue  # a binned image nearer to its size has it already
        gone = {id(item) for item in same}
        gone |= {id(item) for item in within if item.truncated}
        rest = [item for item in within if id(item) not in gone]
        gone |= {id(item) for item in _fragments(rest, galaxy, image, noise)}
        kept = [galaxy, *(item for item in kept if id(item) not in gone)]
    return kept


def _fragments(
    pieces: Sequence[Piece], galaxy: Piece, image: np.ndarray, noise: np.ndarray
) -> list[Piece]:
    """Those of `pieces` that are no more than the galaxy's own light."""
    if not pieces:
        return []
    rows, columns = galaxy.window
    data, sigma = image[rows, columns], noise[rows, columns]
    ny, nx = data.shape
    footprints = np.zeros((len(pieces), ny, nx), bool)
    for piece, own in zip(pieces, footprints, strict=True):
        y, x = np.nonzero(piece.mask)
        y, x = y + piece.y0 - galaxy.y0, x + piece.x0 - galaxy.x0
        there = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
        own[y[there], x[there]] = True
    elsewhere = footprints[~footprints[:, ny // 2, nx // 2]]
    free = galaxy.mask & ~elsewhere.any(0)
    host = host_of(data, galaxy.mask)
    return [
        piece
        for piece, own in zip(pieces, footprints, strict=True)
        if is_fragment(data, sigma, host, own, free)
    ]


def draw(pieces: Sequence[Piece], shape: tuple[int, ...]) -> np.ndarray:
    """All objects as labels (int32): label i + 1 belongs to item i.

    Large ones are drawn first, and of the others the surer keeps a shared pixel.
    """

    def order(numbered: tuple[int, Piece]) -> tuple[float, ...]:
        _, piece = numbered
        if piece.source < 0:
            return (0, -piece.area)
        return (1, piece.score, piece.y0, piece.x0)

    labels = np.zeros(shape, dtype=np.int32)
    for number, piece in sorted(enumerate(pieces, start=1), key=order):
        labels[piece.window][piece.mask] = number
    return labels
