"""The network over a whole frame: tiles with a halo, one owner for each object.

A frame is cut into cores that cover it once, each with a halo around it. The network sees core and
halo; an object belongs to the tile whose core holds the centroid of its mask. Two tiles may place
the same object on either side of their seam by a pixel, so that a core reaches `seam` pixels into
its neighbours, and what two tiles then both have (intersection over union of the masks) is kept
once, the surer of them. Objects are merged across seams only: a satellite inside a galaxy's mask
stays an object of its own.

Large galaxies are found on the frame binned 2 x 2, 4 x 4 ..., in the same way (`pieces`).

Objects are numbered by position, so that numbers do not depend on the tiles.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Frame
from autofit_ml.measure import large_objects
from autofit_ml.segmentation.detection import (
    Detections,
    background_of,
    detection_table,
    scaled,
)
from autofit_ml.segmentation.maskrcnn import MaskRCNNSettings, find_instances
from autofit_ml.segmentation.network import DIVISIBLE, SegmentNetwork
from autofit_ml.segmentation.pieces import BINNINGS, SAME, Piece, at_all_scales, draw
from autofit_ml.segmentation.repair import repaired

__all__ = ["Tile", "TileSettings", "detect_instances", "tiles_of"]


@dataclass(frozen=True)
class TileSettings:
    """Settings of the tiles that a frame is cut into.

    Attributes
    ----------
    core : int
        Longest side of a tile's own part, pixels.
    halo : int
        Pixels around it that the network also sees: at least the radius of the largest objects
        that are not left to the binned pass.
    seam : int
        How far into its neighbours a core takes objects, pixels.
    binnings : tuple of int
        Of the passes for large galaxies.
    network : MaskRCNNSettings
    """

    core: int = 512
    halo: int = 96
    seam: int = 4
    binnings: tuple[int, ...] = BINNINGS
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


def tiles_of(shape: tuple[int, int], core: int, halo: int) -> Iterator[Tile]:
    """Tiles that cover an image once with their cores, of about one size, row by row."""
    ny, nx = shape
    for y0, y1 in _cuts(ny, core):
        for x0, x1 in _cuts(nx, core):
            yield Tile(
                (slice(y0, y1), slice(x0, x1)),
                (
                    slice(max(y0 - halo, 0), min(y1 + halo, ny)),
                    slice(max(x0 - halo, 0), min(x1 + halo, nx)),
                ),
            )


def _cuts(number: int, most: int) -> list[tuple[int, int]]:
    """Cut `number` pixels into as few parts as possible, all but the last of one length."""
    parts = -(-number // most)
    side = min(-(-number // (parts * DIVISIBLE)) * DIVISIBLE, most)
    return [(start, min(start + side, number)) for start in range(0, number, side)]


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
        Background mesh, pixels; larger where an object is.
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
    image, bad, unit = scaled(frame.data, frame.mask, frame.file or None)
    large, box = large_objects(image, bad, box)
    level, rms = background_of(image, bad | large, box)
    flat = image - level

    def find(image: np.ndarray, noise: np.ndarray, bad: np.ndarray, fwhm: float) -> list[Piece]:
        return _found_in(image, noise, bad, fwhm, network, settings)

    pieces = at_all_scales(find, flat, rms, bad, fwhm, settings.binnings)
    labels = repaired(draw(pieces, image.shape), flat, rms, bad)
    covered = bad | large | (labels > 0)
    if not covered.all():
        level, _ = background_of(image, covered, box)
    flat, noise = image - level, frame.sigma / np.float32(unit)
    table, labels, given = detection_table(flat, noise, labels, unit)
    return Detections(
        sources=table,
        labels=labels,
        background=level * np.float32(unit),
        classes={k: pieces[i - 1].kind for k, i in enumerate(given, start=1)},
        method="maskrcnn",
    )


def _found_in(
    flat: np.ndarray,
    rms: np.ndarray,
    bad: np.ndarray,
    fwhm: float,
    network: SegmentNetwork,
    settings: TileSettings,
) -> list[Piece]:
    """Objects of all tiles, each once."""
    every = list(tiles_of(flat.shape, settings.core, settings.halo))
    pieces: list[Piece] = []
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
        for number, (tile, inside) in enumerate(zip(some, found, strict=True), start=start):
            pieces += _own(tile, number, inside, settings.seam)
    return _once(pieces)


def _own(tile: Tile, number: int, found: Sequence[Piece], seam: int) -> Iterator[Piece]:
    """The instances whose centroid lies in a tile's core, give or take the seam."""
    top, left = (part.start for part in tile.outer)
    for item in found:
        piece = dataclasses.replace(item, y0=item.y0 + top, x0=item.x0 + left, source=number)
        v, h = np.nonzero(piece.mask)
        inside = all(
            own.start - seam - 0.5 <= place < own.stop + seam - 0.5
            for own, place in zip(
                tile.core, (v.mean() + piece.y0, h.mean() + piece.x0), strict=True
            )
        )
        if inside:
            yield dataclasses.replace(piece, truncated=_cut_off(piece, tile))


def _cut_off(piece: Piece, tile: Tile) -> bool:
    """True where a mask ends at the halo's border and not at the frame's."""
    for part, own, seen in zip(piece.window, tile.core, tile.outer, strict=True):
        if part.start == seen.start < own.start or own.stop < seen.stop == part.stop:
            return True
    return False


def _once(pieces: list[Piece]) -> list[Piece]:
    """Without the doubles of different tiles, best score first."""
    kept: list[Piece] = []
    cells: dict[tuple[int, int], list[Piece]] = {}
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
            if other.source != piece.source
        ]
        if any(piece.overlap(other) > SAME for other in near):
            continue
        kept.append(piece)
        cells.setdefault(middle, []).append(piece)
    return kept
