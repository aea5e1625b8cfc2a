"""Boxes of a Mask R-CNN: anchors, their regression, features inside them, doubles among them.

The same arithmetic as torchvision's ``AnchorGenerator``, ``BoxCoder``, ``LevelMapper``,
``roi_align`` and ``batched_nms`` (``tests/segmentation/test_regions.py`` compares them), without
torchvision's Python, whose import takes longer than segmenting a hundred stamps. Boxes are
(x0, y0, x1, y1) in pixels of the image.
"""

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

__all__ = ["Features", "anchors", "clip", "decode", "level_of", "nms", "roi_align", "sides"]

ASPECTS = (0.5, 1.0, 2.0)
"""Height over width of the anchors of each pixel."""

CANONICAL_SIDE, CANONICAL_LEVEL = 96, 4
"""Boxes of this side are read from the level with 2**-4 of the image's sampling, those of half of
it from the next finer level, and so on (Lin et al. 2017, equation 1)."""

_SAMPLES = 2
"""Points along each axis of a cell of the grid on which a box's features are read."""

_LARGEST_STRETCH = math.log(1000 / 16)
"""Of a box's side, ln: larger ones would overflow in an untrained network."""


@functools.lru_cache(maxsize=64)
def anchors(
    side: float, grid: tuple[int, int], image: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Anchors of one level, row by row, shape (rows * columns * len(ASPECTS), 4).

    Parameters
    ----------
    side : float
        Of the square anchor, pixels.
    grid, image : (int, int)
        Rows and columns of the level's features and of the image.
    device : torch.device
    """
    root = torch.tensor(ASPECTS).sqrt()
    height, width = root * side, side / root
    base = (torch.stack([-width, -height, width, height], dim=1) / 2).round()
    y, x = (
        torch.arange(number, dtype=torch.float32) * (pixels // number)
        for number, pixels in zip(grid, image, strict=True)
    )
    y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
    corners = torch.stack([x, y, x, y], dim=1)
    return (corners[:, None] + base).reshape(-1, 4).to(device)


def decode(
    shifts: torch.Tensor, boxes: torch.Tensor, weights: tuple[float, float] = (1.0, 1.0)
) -> torch.Tensor:
    """Boxes moved and stretched as a network says.

    Parameters
    ----------
    shifts : Tensor, shape (..., 4)
        Of the centre (x, y) in units of the box's sides, and of ln width and ln height, times the
        weights.
    boxes : Tensor, shape (..., 4)
    weights : (float, float)
        Of the centre and of the sides.
    """
    low, high = boxes.unflatten(-1, (2, 2)).unbind(-2)
    sides = high - low
    centre = low + 0.5 * sides + sides * shifts[..., :2] / weights[0]
    half = 0.5 * sides * (shifts[..., 2:] / weights[1]).clamp(max=_LARGEST_STRETCH).exp()
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Boxes cut at the border of an image of `shape` (rows, columns)."""
    ny, nx = shape
    return boxes.clamp_min(0).minimum(boxes.new_tensor([nx, ny, nx, ny]))


def sides(boxes: torch.Tensor) -> torch.Tensor:
    """Width and height, shape (..., 2)."""
    return boxes[..., 2:] - boxes[..., :2]


def level_of(boxes: torch.Tensor, levels: int) -> torch.Tensor:
    """Level with 1/2, 1/4 ... of the sampling that each box is read from, shape (n,)."""
    side = sides(boxes).prod(-1).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + 1e-6)
    return level.clamp(1, levels).long() - 1


@dataclass(frozen=True)
class Features:
    """Features of one image at several samplings, as one table.

    Attributes
    ----------
    table : Tensor, shape (pixels of all levels, channels)
    layout : Tensor, int32, shape (levels, 3)
        Rows and columns of each level, and where it begins in the table.
    """

    table: torch.Tensor
    layout: torch.Tensor

    @classmethod
    def of(cls, maps: Sequence[torch.Tensor]) -> "Features":
        """Make the table of maps (channels, rows, columns) at 1/2, 1/4 ... of an image's sampling.

        Channels last in memory are read fastest.
        """
        layout, start = [], 0
        for part in maps:
            layout.append((part.shape[1], part.shape[2], start))
            start += part.shape[1] * part.shape[2]
        table = torch.cat([part.permute(1, 2, 0).flatten(0, 1) for part in maps])
        return cls(table, torch.tensor(layout, dtype=torch.int32).to(table.device))


def roi_align(features: Features, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Features inside boxes on a grid of side x side cells.

    A cell's features are the mean of bilinear interpolations at 2 x 2 points (RoIAlign, He et al.
    2017, section 3; torchvision's ``aligned=False``). Each is a sum of 16 rows of the table, and
    all of them are one `embedding_bag`.

    Parameters
    ----------
    features : Features
    boxes : Tensor, shape (n, 4)
    side : int

    Returns
    -------
    Tensor, shape (n, channels, side, side)
    """
    level = level_of(boxes, len(features.layout))
    layout = features.layout[level]
    scaled = (boxes * (0.5 ** (level + 1))[:, None]).unflatten(1, (2, 2))
    pixels, parts = _interpolation(scaled[:, 0], scaled[:, 1], layout[:, [1, 0]], side)
    row = layout[:, 2, None, None] + pixels[:, 1] * layout[:, 1, None, None]
    # All pairs of a cell's 4 rows and 4 columns.
    points = 2 * _SAMPLES
    places = (
        row.repeat_interleave(points, 2)[:, :, None] + pixels[:, 0].repeat(1, 1, points)[:, None]
    )
    weights = (
        parts[:, 1].repeat_interleave(points, 2)[:, :, None]
        * (parts[:, 0].repeat(1, 1, points)[:, None])
    )
    summed = functional.embedding_bag(
        places.flatten(0, 2), features.table, mode="sum", per_sample_weights=weights.flatten(0, 2)
    )
    return summed.unflatten(0, (len(boxes), side, side)).permute(0, 3, 1, 2)


def _interpolation(
    low: torch.Tensor, high: torch.Tensor, number: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (int32) along each axis that make up the cells of boxes, and their weights.

    Parameters
    ----------
    low, high : Tensor, shape (n, 2)
        Ends of the boxes along x and y, pixels of their level.
    number : Tensor, int32, shape (n, 2)
        Pixels that there are.
    side : int
        Cells.

    Returns
    -------
    Tensor, Tensor, both of shape (n, 2, side, 2 * _SAMPLES)
    """
    step = (high - low).clamp_min(1.0) / side
    points = torch.arange(side * _SAMPLES, device=low.device, dtype=low.dtype)
    at = low[..., None] + (points + 0.5) / _SAMPLES * step[..., None]
    last = number[..., None] - 1
    outside = (at < -1) | (at > number[..., None])
    at = at.clamp_min(0).minimum(last.to(at.dtype))
    first = at.int()
    share = at - first
    weights = torch.stack([1 - share, share], dim=-1).masked_fill(outside[..., None], 0.0)
    pixels = torch.stack([first, (first + 1).minimum(last)], dim=-1)
    return pixels.unflatten(2, (side, _SAMPLES)).flatten(3), (
        weights.unflatten(2, (side, _SAMPLES)).flatten(3) / _SAMPLES
    )


def nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    overlap: float,
    kinds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Select boxes so that none overlaps with a surer one of its kind.

    Parameters
    ----------
    boxes : Tensor, shape (n, 4)
    scores : Tensor, shape (n,)
    overlap : float
        Largest intersection over union.
    kinds : Tensor of int, shape (n,), optional
        None: all are of one kind.

    Returns
    -------
    Tensor of int64
        Places of those that stay, the surest first.
    """
    if kinds is not None and len(boxes):
        boxes = boxes + (kinds * (boxes.max() + 1))[:, None]
    suppress: Callable[..., torch.Tensor] = _suppression()
    return suppress(boxes, scores, overlap)


@functools.cache
def _suppression() -> Callable[..., torch.Tensor]:
    """torchvision's compiled operation, without importing its Python where that can be avoided."""
    found = importlib.util.find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        for library in sorted(Path(folder).glob("_C*")):
            if hasattr(torch.ops.torchvision, "nms"):
                break
            try:
                torch.ops.load_library(library)
            except OSError:  # needs what torchvision's own import prepares
                continue
    if not hasattr(torch.ops.torchvision, "nms"):
        importlib.import_module("torchvision")
    return torch.ops.torchvision.nms
