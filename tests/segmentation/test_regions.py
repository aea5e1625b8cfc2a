"""Boxes: torchvision's arithmetic, without its Python."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import boxes as torchvision_boxes

from autofit_ml.segmentation import regions


def some_boxes(number, width, height, seed=0, least=0.05):
    """Inside an image, from a twentieth of a pixel to all of it, some at its border."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height])
    middle = torch.rand(number, 2, generator=generator) * size
    half = 10 ** (torch.rand(number, 2, generator=generator) * 3.4 - 1.6)
    low, high = (middle - half).clamp_min(0), (middle + half).minimum(size)
    low[::7, 0], high[::5, 1] = 0.0, height
    low[0], high[0] = torch.zeros(2), size
    return torch.cat([low, high.maximum(low + least)], dim=1)


@pytest.mark.parametrize("image", [(64, 64), (144, 80), (32, 208)])
def test_anchors(image):
    """Also where the coarsest map does not divide the image."""
    grid = (image[0] // 16, image[1] // 16)
    coarsest = tuple(-(-number // 2) for number in grid)
    sides = (24.0, 96.0)
    reference = AnchorGenerator(tuple((side,) for side in sides), (regions.ASPECTS,) * 2)
    maps = [torch.zeros(1, 1, *shape) for shape in (grid, coarsest)]
    (expected,) = reference(ImageList(torch.zeros(1, 4, *image), [image]), maps)
    found = [
        regions.anchors(side, shape, image, torch.device("cpu"))
        for side, shape in zip(sides, (grid, coarsest), strict=True)
    ]
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=0)


def test_decoding():
    boxes = some_boxes(200, 128, 96)
    shifts = 3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    expected = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode(shifts, [boxes])[:, 0]
    torch.testing.assert_close(regions.decode(shifts, boxes, (10.0, 5.0)), expected)
    huge = regions.decode(torch.full((1, 4), 1e4), boxes[:1])
    assert torch.isfinite(huge).all()


def test_clipping():
    boxes = some_boxes(50, 300, 300) - 60
    expected = torchvision_boxes.clip_boxes_to_image(boxes, (90, 120))
    torch.testing.assert_close(regions.clip(boxes, (90, 120)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("side", [7, 14])
def test_features_in_boxes(side):
    """All levels, boxes smaller than a pixel and at the image's border."""
    ny, nx = 112, 160
    generator = torch.Generator().manual_seed(2)
    maps = [torch.randn(2, 5, ny >> k, nx >> k, generator=generator) for k in (1, 2, 3, 4)]
    boxes = some_boxes(300, nx, ny)
    assert set(regions.level_of(boxes, 4).tolist()) == {0, 1, 2, 3}
    reference = MultiScaleRoIAlign(list("0123"), side, 2, canonical_scale=96, canonical_level=4)
    expected = reference(dict(zip("0123", maps, strict=True)), [boxes[:0], boxes], [(ny, nx)] * 2)
    found = regions.roi_align(regions.Features.of([part[1] for part in maps]), boxes, side)
    # Places are rounded by 5e-6 pixels, from one of which to the next the maps change by a few.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    last = [part.contiguous(memory_format=torch.channels_last)[1] for part in maps]
    assert torch.equal(regions.roi_align(regions.Features.of(last), boxes, side), found)


def test_no_boxes():
    features = regions.Features.of([torch.randn(5, 8 >> k, 8 >> k) for k in range(4)])
    assert regions.roi_align(features, torch.zeros(0, 4), 7).shape == (0, 5, 7, 7)
    assert regions.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, torch.zeros(0)).shape == (0,)


def test_doubles():
    """Within a kind, and whatever the kind."""
    generator = torch.Generator().manual_seed(3)
    boxes = some_boxes(60, 40, 40).repeat(8, 1)
    boxes += torch.rand(boxes.shape, generator=generator) * 0.2 * regions.sides(boxes).repeat(1, 2)
    scores = torch.rand(len(boxes), generator=generator)
    kinds = torch.randint(0, 3, (len(boxes),), generator=generator)
    expected = torchvision_boxes.batched_nms(boxes, scores, kinds, 0.5)
    assert 100 < len(expected) < len(boxes)
    assert torch.equal(regions.nms(boxes, scores, 0.5, kinds), expected)
    expected = torchvision_boxes.nms(boxes, scores, 0.5)
    assert torch.equal(regions.nms(boxes, scores, 0.5), expected)


def test_doubles_without_torchvisions_python():
    """Which takes a second to import; it can still be imported afterwards."""
    code = """
import sys
import torch
from autofit_ml.segmentation.regions import nms
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
scores = torch.tensor([0.5, 0.9, 0.7])
assert nms(boxes, scores, 0.5).tolist() == [1, 2]
assert not {"torchvision", "torch._dynamo"} & set(sys.modules)
import torchvision
assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
