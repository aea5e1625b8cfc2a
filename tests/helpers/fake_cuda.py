"""A GPU without a GPU: tensors that have a device and a shape, but no values.

PyTorch's `FakeTensorMode` refuses every operation on tensors of different devices, as CUDA would,
and needs no CUDA. Where code looks at values (a host waits for the device there), everything is
answered alike, so that either side of a branch can be walked: conditions are `answer`, and what
selects elements selects all of them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from autofit_ml.profiles.sersic import sersic_table

__all__ = ["Decisions", "fake_cuda", "on_cuda"]

aten = torch.ops.aten
T = TypeVar("T")


class Decisions(TorchDispatchMode):
    """Answers where a value would decide, and counts how often the host would wait.

    Parameters
    ----------
    answer : bool
        Of every condition; numbers are 0 or 1.
    """

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self.answer, self.waits = answer, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is aten._local_scalar_dense.default:
            self._wait(args[0])
            return _number(args[0].dtype, self.answer)
        if function is aten._to_copy.default:
            there = torch.device(kwargs.get("device") or args[0].device)
            if there.type == "cpu" and not kwargs.get("non_blocking"):
                self._wait(args[0])
        if function is aten.nonzero.default:
            self._wait(args[0])
            return args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
        if function in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            places = [self._selected(index) for index in args[1]]
            flat = [place for places_ in places for place in places_]
            return function(args[0], flat, *args[2:], **kwargs)
        if str(function).startswith("torchvision.nms"):
            self._wait(args[0])
            return torch.zeros(len(args[0]), dtype=torch.int64, device=args[0].device)
        return function(*args, **kwargs)

    def _wait(self, tensor: torch.Tensor) -> None:
        self.waits += tensor.device.type == "cuda"

    def _selected(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Indices of all elements of a mask; others as they are."""
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return [index]
        self._wait(index)
        zeros = index.new_zeros(index.numel(), dtype=torch.int64)
        return [zeros] * index.ndim


def _number(dtype: torch.dtype, answer: bool) -> bool | int | float:
    if dtype == torch.bool:
        return answer
    return float(answer) if dtype.is_floating_point else int(answer)


@contextmanager
def fake_cuda(answer: bool = False) -> Iterator[Decisions]:
    """Tensors of ``device="cuda"`` without a GPU; `on_cuda` moves a network there."""
    _forget()
    sersic_table()  # tabulated by scipy, which takes no fake tensors
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Decisions(answer) as decisions:
            yield decisions
    finally:
        _forget()


def on_cuda(value: T) -> T:
    """A module with fake tensors, the same one, or a dataclass of them, another one.

    Made on the host before: `torch.nn.Module.to` cannot swap real tensors for fake ones.
    """
    if isinstance(value, torch.nn.Module):
        for part in value.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = _fake(tensor)
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    fake = {name: _fake(one) for name, one in fields.items() if isinstance(one, torch.Tensor)}
    return dataclasses.replace(value, **fake)


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
    return torch.nn.Parameter(empty) if isinstance(tensor, torch.nn.Parameter) else empty


def _forget() -> None:
    """Empty the package's caches: fake tensors must not outlive the mode."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("autofit_ml", "training"):
            for value in list(vars(module).values()):
                clear: Callable[[], None] | None = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()
