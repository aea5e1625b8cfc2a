"""The network over a whole frame: tiles with a halo, one owner for each object.

A frame is cut into cores that cover it once, each with a halo around it. The network sees core and
halo; an object belongs to the tile whose core holds the centroid of its mask. Two tiles may place
the same object on either side of their seam by a pixel, so that a core reaches `seam` pixels into
its neighbours, and what two tiles then both have (intersection over union of the masks) is kept
once, the surer of them. Objects are merged across seams only: a satellite inside a galaxy's mask
stays an object of its own.

Galaxies larger than a tile's halo can hold are found on the frame binned 4 x 4, in the same way.

Objects are numbered by position, so that numbers do not depend on the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import sep

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.stamp import Frame
from autofit_ml.segment.detection import Detections, detection_table
from autofit_ml.segment.maskrcnn import Instances, MaskRCNNSettings, find_instances
from autofit_ml.segment.network import SegmentNetwork

__all__ = ["Tile", "TileSettings", "detect_instances", "tiles_of"]


@dataclass(frozen=True)
class TileSettings:
    """How a frame is cut up.

    Attributes
    ----------
    core : int
        Side of a tile's own part, pixels.
    halo : int
        Pixels around it that the network also sees: at least the radius of the largest objects
        that are not left to the binned pass.
    seam : int
        How far into its neighbours a core takes objects, pixels.
    same : float
        Masks of two tiles that overlap by more (intersection over union) are one object.
    binning : int
        Of the pass for large galaxies; 1: none.
    large : float
        Equivalent diameter, pixels, from which an object is taken from the binned pass.
    network : MaskRCNNSettings
    """

    core: int = 384
    halo: int = 96
    seam: int = 4
    same: float = 0.3
    binning: int = 4
    large: float = 96.0
    network: MaskRCNNSettings = field(default_factory=lambda: MaskRCNNSettings(batch_size=4))

    def __post_init__(self) -> None:
        if self.core < 32 or self.halo < 8 or not 0 <= self.seam < self.halo:
            raise SettingsError(
                f"tiles of {self.core} pixels, halo {self.halo}, seam {self.seam}",
                "need core >= 32, halo >= 8, 0 <= seam < halo",
            )


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile: its core, and with the halo."""

    core: tuple[slice, slice]
    outer: tuple[slice, slice]


@dataclass(frozen=True)
class _Piece:
    """One object's mask in a box of the frame."""

    y0: int
    x0: int
    mask: np.ndarray
    score: float
    star: bool
    tile: int
    truncated: bool = False

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    def shared(self, other: _Piece) -> int:
        """Pixels that both have."""
        top, left = max(self.y0, other.y0), max(self.x0, other.x0)
        bottom = min(self.y0 + self.mask.shape[0], other.y0 + other.mask.shape[0])
        right = min(self.x0 + self.mask.shape[1], other.x0 + other.mask.shape[1])
        if bottom <= top or right <= left:
            return 0
        mine = self.mask[top - self.y0 : bottom - self.y0, left - self.x0 : right - self.x0]
        theirs = other.mask[top - other.y0 : bottom - other.y0, left - other.x0 : right - other.x0]
        return int(np.count_nonzero(mine & theirs))

    def overlap(self, other: _Piece) -> float:
        """Intersection over union."""
        both = self.shared(other)
        return both / max(self.area + other.area - both, 1)


def tiles_of(shape: tuple[int, int], core: int, halo: int) -> Iterator[Tile]:
    """Tiles that cover an image once with their cores, row by row."""
    ny, nx = shape
    for y0 in range(0, ny, core):
        for x0 in range(0, nx, core):
            y1, x1 = min(y0 + core, ny), min(x0 + core, nx)
            yield Tile(
                (slice(y0, y1), slice(x0, x1)),
                (
                    slice(max(y0 - halo, 0), min(y1 + halo, ny)),
                    slice(max(x0 - halo, 0), min(x1 + halo, nx)),
                ),
            )


def detect_instances(
    frame: Frame,
    network: SegmentNetwork,
    *,
    fwhm: float,
    box: int = 64,
    settings: TileSettings | None = None,
) -> Detections:
    """Detect the sources of a frame with the network.

    Parameters
    ----------
    frame : Frame
    network : SegmentNetwork
        From `autofit_ml.load`.
    fwhm : float
        Of the seeing, pixels.
    box : int
        Background mesh, pixels.
    settings : TileSettings, optional

    Returns
    -------
    Detections
        Rows in the order of position (y, then x); ``classes`` says galaxy or star.

    Raises
    ------
    InputError
        Every pixel is masked.

    Notes
    -----
    Memory: the frame's planes, one label image, and a tile's worth of network.
    """
    settings = settings or TileSettings()
    bad = frame.mask | ~np.isfinite(frame.data)
    if bad.all():
        raise InputError("every pixel is masked", "check the mask or DQ plane", frame.file or None)
    unit = float(np.std(frame.data[~bad])) or 1.0
    image = np.where(bad, 0, frame.data / np.float32(unit)).astype(np.float32)
    mesh = max(16, min(box, *image.shape))
    first = sep.Background(image, mask=bad, bw=mesh, bh=mesh)
    flat, rms = image - first.back(), first.rms()
    pieces = _pieces_of(flat, rms, bad, fwhm, network, settings)
    if settings.binning > 1 and min(image.shape) >= 32 * settings.binning:
        pieces = _with_large(pieces, flat, rms, bad, fwhm, network, settings)
    labels, classes = _drawn(pieces, image.shape)
    covered = np.ascontiguousarray(bad | (labels > 0))
    background = first if covered.all() else sep.Background(image, mask=covered, bw=mesh, bh=mesh)
    flat = image - background.back()
    noise = frame.sigma / np.float32(unit)
    table, labels, order = detection_table(flat, noise, labels, unit)
    return Detections(
        sources=table,
        labels=labels,
        background=background.back() * np.float32(unit),
        background_rms=background.rms() * np.float32(unit),
        classes={new: classes[old] for new, old in enumerate(order, start=1)},
        method="maskrcnn",
    )


def _pieces_of(
    flat: np.ndarray,
    rms: np.ndarray,
    bad: np.ndarray,
    fwhm: float,
    network: SegmentNetwork,
    settings: TileSettings,
    scale: int = 1,
) -> list[_Piece]:
    """Objects of all tiles, each once. `scale` > 1: the image is binned, tiles are smaller."""
    core = max(settings.core // scale, 32) if scale > 1 else settings.core
    every = list(tiles_of(flat.shape, core, settings.halo))
    pieces: list[_Piece] = []
    size = settings.network.batch_size
    for start in range(0, len(every), size):
        some = every[start : start + size]
        found = find_instances(
            [flat[tile.outer] for tile in some],
            [(0.0, rms[tile.outer]) for tile in some],
            [bad[tile.outer] for tile in some],
            [fwhm] * len(some),
            network,
            settings.network,
        )
        for number, (tile, instances) in enumerate(zip(some, found, strict=True), start=start):
            pieces += _own(tile, number, instances, settings.seam)
    return _once(pieces, settings.same)


def _own(tile: Tile, number: int, found: Instances, seam: int) -> Iterator[_Piece]:
    """The instances whose centroid lies in a tile's core, give or take the seam."""
    from scipy import ndimage

    rows, columns = tile.outer
    for k, window in enumerate(ndimage.find_objects(found.labels), start=1):
        if window is None:
            continue
        mask = found.labels[window] == k
        v, h = np.nonzero(mask)
        y = v.mean() + window[0].start + rows.start
        x = h.mean() + window[1].start + columns.start
        inside = all(
            own.start - seam - 0.5 <= place < own.stop + seam - 0.5
            for own, place in zip(tile.core, (y, x), strict=True)
        )
        if inside:
            yield _Piece(
                window[0].start + rows.start,
                window[1].start + columns.start,
                mask,
                float(found.scores[k - 1]),
                int(found.classes[k - 1]) == 2,
                number,
                _cut_off(window, tile, found.labels.shape),
            )


def _cut_off(window: tuple[slice, ...], tile: Tile, shape: tuple[int, ...]) -> bool:
    """True where a mask ends at the halo's border and not at the frame's."""
    for part, own, seen, side in zip(window, tile.core, tile.outer, shape, strict=True):
        if part.start == 0 and seen.start < own.start:
            return True
        if part.stop == side and seen.stop > own.stop:
            return True
    return False


def _once(pieces: list[_Piece], same: float) -> list[_Piece]:
    """Without the doubles of different tiles, best score first."""
    kept: list[_Piece] = []
    cells: dict[tuple[int, int], list[_Piece]] = {}
    for piece in sorted(pieces, key=lambda item: (-item.score, item.y0, item.x0)):
        middle = (
            (piece.y0 + piece.mask.shape[0] // 2) // 64,
            (piece.x0 + piece.mask.shape[1] // 2) // 64,
        )
        near = [
            other
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            for other in cells.get((middle[0] + dy, middle[1] + dx), [])
            if other.tile != piece.tile
        ]
        if any(piece.overlap(other) > same for other in near):
            continue
        kept.append(piece)
        cells.setdefault(middle, []).append(piece)
    return kept


def _with_large(
    pieces: list[_Piece],
    flat: np.ndarray,
    rms: np.ndarray,
    bad: np.ndarray,
    fwhm: float,
    network: SegmentNetwork,
    settings: TileSettings,
) -> list[_Piece]:
    """Large galaxies from the binned frame in place of what the tiles made of them."""
    b = settings.binning
    binned, noise, masked = _binned(flat, rms, bad, b)
    found = _pieces_of(binned, noise, masked, max(fwhm / b, 1.5), network, settings, scale=b)
    large = [
        _Piece(
            piece.y0 * b,
            piece.x0 * b,
            np.kron(piece.mask, np.ones((b, b), dtype=bool)),
            piece.score,
            piece.star,
            -1,
        )
        for piece in found
        if 2 * np.sqrt(piece.area / np.pi) * b >= settings.large and not piece.star
    ]
    if not large:
        return pieces
    # Drawn first: a satellite in a large galaxy's mask stays an object of its own. What the tiles
    # have of the galaxy itself goes: the same mask, or a part that their halo cut off.
    return large + [
        piece for piece in pieces if not any(_part_of(piece, galaxy, settings) for galaxy in large)
    ]


def _part_of(piece: _Piece, galaxy: _Piece, settings: TileSettings) -> bool:
    if piece.overlap(galaxy) > settings.same:
        return True
    return piece.truncated and piece.shared(galaxy) > 0.5 * piece.area


def _binned(
    flat: np.ndarray, rms: np.ndarray, bad: np.ndarray, b: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over b x b pixels, their noise, and blocks of which over half is masked."""
    ny, nx = (side - side % b for side in flat.shape)
    blocks = (ny // b, b, nx // b, b)
    good = (~bad[:ny, :nx]).reshape(blocks)
    number = good.sum((1, 3))
    total = np.where(good, flat[:ny, :nx].reshape(blocks), 0).sum((1, 3))
    mean = (total / np.maximum(number, 1)).astype(np.float32)
    noise = rms[:ny, :nx].reshape(blocks).mean((1, 3)) / b
    return mean, noise.astype(np.float32), number < b * b / 2


def _drawn(pieces: list[_Piece], shape: tuple[int, int]) -> tuple[np.ndarray, dict[int, str]]:
    """All objects as labels; large ones first, and of others the surer keeps a shared pixel."""
    labels = np.zeros(shape, dtype=np.int32)
    classes = {}
    large = [piece for piece in pieces if piece.tile < 0]
    others = sorted(
        (piece for piece in pieces if piece.tile >= 0), key=lambda item: (item.score, item.y0)
    )
    for number, piece in enumerate([*large, *others], start=1):
        bottom = min(piece.y0 + piece.mask.shape[0], shape[0])
        right = min(piece.x0 + piece.mask.shape[1], shape[1])
        window = labels[piece.y0 : bottom, piece.x0 : right]
        window[piece.mask[: window.shape[0], : window.shape[1]]] = number
        classes[number] = "star" if piece.star else "galaxy"
    return labels, classes
