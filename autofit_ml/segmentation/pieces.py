"""Objects as masks in boxes: from several images of the same sky to one label image.

The network sees tiles of a frame, and images binned 2 x 2, 4 x 4 ... in which large galaxies are
small; sep the frame and these. Each gives pieces; here they become one object each, whatever image
they come from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autofit_ml.measure import block_sums
from autofit_ml.segmentation.fragments import host_of, stands_out

__all__ = [
    "BINNINGS",
    "NARROWEST",
    "Piece",
    "at_all_scales",
    "bin_image",
    "draw",
    "enlarge",
    "pieces_of",
    "with_large",
]

BINNINGS = (2, 4, 8, 16)
"""Of the images in which large galaxies are small."""

NARROWEST = 1.5
"""Seeing, pixels, that a binned image is taken to have at least: it is not resampled."""

SAME = 0.3
"""Masks from different images that overlap by more (intersection over union) are one object."""

_CORE = 0.1
"""Share of a large galaxy's area from which an object in its middle is the galaxy, to a brighter
isophote, and not its nucleus."""

_REACH = 1.5
"""Semi-major axes of a large galaxy's isophote within which its own light and the noise on it are
taken for objects."""

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

    def pixels(
        self, corner: tuple[int, int], shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the mask in a part of the image that begins at `corner` (y, x)."""
        y, x = np.nonzero(self.mask)
        y, x = y + self.y0 - corner[0], x + self.x0 - corner[1]
        there = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        return y[there], x[there]

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


def at_all_scales(
    find: Callable[[np.ndarray, np.ndarray, np.ndarray, float], Sequence[Piece]],
    image: np.ndarray,
    noise: np.ndarray,
    bad: np.ndarray,
    fwhm: float,
    binnings: Sequence[int] = BINNINGS,
) -> list[Piece]:
    """Objects of a frame, the large ones from binned images.

    Parameters
    ----------
    find : callable
        ``find(image, noise, bad, fwhm)``: the objects of one image.
    image, noise : ndarray, float32, shape (ny, nx)
        Sky subtracted, and its noise.
    bad : ndarray, bool, shape (ny, nx)
    fwhm : float
        Of the seeing, pixels.
    binnings : sequence of int
        A binned image has at least 32 pixels a side.
    """
    pieces = list(find(image, noise, bad, fwhm))
    for b in binnings:
        if min(image.shape) >= 32 * b:
            coarse = find(*bin_image(image, noise, bad, b), max(fwhm / b, NARROWEST))
            pieces = with_large(pieces, coarse, b, image, noise)
    return pieces


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
        if any(
            item.overlap(galaxy) > SAME or _is_core(item, galaxy, image)
            for item in kept
            if item.source < 0 and not item.star
        ):
            continue  # a binned image nearer to its size has it already
        gone = {id(item) for item in same}
        gone |= {id(item) for item in within if item.truncated}
        rest = [item for item in kept if id(item) not in gone]
        gone |= {id(item) for item in _fragments(rest, galaxy, image, noise)}
        kept = [galaxy, *(item for item in kept if id(item) not in gone)]
    return kept


def _is_core(small: Piece, large: Piece, image: np.ndarray) -> bool:
    """True if one holds the brightest pixel of the other, and over a tenth of its area."""
    if small.area < _CORE * large.area or not small.shared(large):
        return False
    y, x = np.unravel_index(
        np.argmax(np.where(large.mask, image[large.window], -np.inf)), large.mask.shape
    )
    y, x = y + large.y0 - small.y0, x + large.x0 - small.x0
    ny, nx = small.mask.shape
    return bool(0 <= y < ny and 0 <= x < nx and small.mask[y, x])


def _fragments(
    pieces: Sequence[Piece], galaxy: Piece, image: np.ndarray, noise: np.ndarray
) -> list[Piece]:
    """Select `pieces` that are no more than the galaxy's own light, or noise on its outskirts."""
    window = tuple(
        slice(max(part.start - side // 2, 0), part.stop + side // 2)
        for part, side in zip(galaxy.window, galaxy.mask.shape, strict=True)
    )
    data, sigma = image[window], noise[window]
    corner = window[0].start, window[1].start
    own = np.zeros(data.shape, bool)
    own[galaxy.pixels(corner, data.shape)] = True
    host = host_of(data, own)
    middle = tuple(
        (part.start + part.stop) // 2 - start
        for part, start in zip(galaxy.window, corner, strict=True)
    )
    taken = np.zeros(data.shape, bool)
    near: list[tuple[Piece, tuple[np.ndarray, np.ndarray]]] = []
    for piece in pieces:
        y, x = piece.pixels(corner, data.shape)
        if not y.size:
            continue
        if not np.any((y == middle[0]) & (x == middle[1])):
            taken[y, x] = True
        if piece.area < galaxy.area and host.outline.distance(x.mean(), y.mean()) < _REACH:
            near.append((piece, (y, x)))
    at = np.zeros(data.shape, bool)
    for _, pixels in near:
        at[pixels] = True
    expected = np.zeros(data.shape, data.dtype)
    expected[at] = host.light(data, ~taken, at)
    return [
        piece
        for piece, pixels in near
        if host.shares_centre(*pixels)
        or not stands_out(data[pixels], expected[pixels], sigma[pixels])
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
