"""Random numbers that belong to an object, not to the batch it is in.

A number is a hash of (seed, the object's key, what it is for, where in the chain); there is no
state to share, so that the same object gets the same numbers alone, in any batch, on any thread
and on any device. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA),
which passes the usual batteries of tests on consecutive counters.
"""

from __future__ import annotations

import math

import torch

__all__ = ["RandomStreams"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


class RandomStreams:
    """One stream per object.

    Parameters
    ----------
    seed : int
    keys : Tensor, int64, (B,)
        Identity of each object: equal keys get equal numbers.
    """

    def __init__(self, seed: int, keys: torch.Tensor):
        start = torch.tensor(int(seed) & (2**63 - 1), dtype=torch.int64, device=keys.device)
        self._keys = _mix(_mix(start) + _mix(keys.to(torch.int64) * _GOLDEN + 1))

    def select(self, index: torch.Tensor) -> RandomStreams:
        """The objects at `index`."""
        out = RandomStreams.__new__(RandomStreams)
        out._keys = self._keys[index]
        return out

    def uniform(self, purpose: int, step: int, *shape: int) -> torch.Tensor:
        """Uniform numbers in (0, 1), float64, (B, *shape).

        `purpose` and `step` (both counted from 0) say which: the same two give the same numbers.
        """
        count = math.prod(shape)
        where = _mix(self._keys + _mix(torch.full_like(self._keys, purpose * (1 << 40) + step)))
        counter = torch.arange(1, count + 1, device=where.device) * _GOLDEN
        bits = _mix(where[:, None] + counter)
        # 53 bits; the half keeps 0 and 1 out.
        numbers = (_shift(bits, 11).to(torch.float64) + 0.5) * 2.0**-53
        return numbers.view(-1, *shape)

    def normal(self, purpose: int, step: int, *shape: int) -> torch.Tensor:
        """Standard normal numbers, float64, (B, *shape)."""
        # Box and Muller (1958): these functions round alike wherever a number sits in an array.
        radius, angle = self.uniform(purpose, step, 2, *shape).unbind(1)
        return (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """Finaliser of SplitMix64 (products wrap)."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right, filling up with zeros."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
