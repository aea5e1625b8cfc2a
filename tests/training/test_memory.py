"""Batches of sets in memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

from safetensors.torch import save_file

from training.memory import Batches
from training.tasks.deconvolve.galaxies import SharpGalaxies, central


def test_a_batch_has_members_of_one_group():
    batches = Batches((10, 7), 3, 1, shuffle=True)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 5
    for batch in drawn:
        assert len(batch) == 3
        assert bool((batch < 10).all()) or bool((batch >= 10).all())
    members = torch.cat(drawn)
    assert len(members.unique()) == len(members) and int(members.max()) < 17
    # Batches of the groups are mixed, and in another order in the next epoch.
    assert [bool(b[0] < 10) for b in Batches((90, 90), 3, 1, shuffle=True)][:30] != [True] * 30
    batches.set_epoch(1)
    assert [b.tolist() for b in batches] != [b.tolist() for b in drawn]


def test_in_order_nothing_is_left_out():
    batches = Batches((10, 7), 3, 1, shuffle=False)
    assert torch.equal(torch.cat(list(batches)), torch.arange(17))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1, 3, 3, 1] and len(batches) == 7


def test_middles_of_larger_images(tmp_path):
    """Images of two sizes: batches of either, middles of both."""
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.rand(4, n, n, generator=generator) for n in (8, 12))
    for name, image in (("a", large), ("b", small)):
        save_file({"image": image.half()}, tmp_path / name)
    galaxies = SharpGalaxies([tmp_path / "a", tmp_path / "b"])
    assert galaxies.groups == [4, 4] and len(galaxies) == 8
    assert galaxies[torch.tensor([1, 3])].shape == (2, 8, 8)
    assert galaxies[torch.tensor([4])].shape == (1, 12, 12)
    assert galaxies.count(8) == 8 and galaxies.count(12) == 4
    some = galaxies.of_side(8, torch.tensor([1, 6]))
    assert some.shape == (2, 8, 8)
    torch.testing.assert_close(some.sum((1, 2)), torch.ones(2))
    expected = central(large[2:3].half().float(), 8)
    torch.testing.assert_close(some[1:], expected)
    with pytest.raises(IndexError):
        galaxies[torch.tensor([8])]
