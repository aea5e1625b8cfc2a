r"""Muon for convolutions: the momentum's matrix, made orthogonal, is the step.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): a weight :math:`(O, I h w)` moves
by :math:`-\eta s U V^T`, with :math:`U S V^T` the momentum's singular value decomposition, found by
Newton-Schulz iterations. With :math:`s = 0.2 \sqrt{\max(O, I h w)}` the steps are as large as
AdamW's (Liu et al. 2025, arXiv:2502.16982), so that both take one rate. torch's own Muon takes
matrices only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["MuonAdamW", "orthogonal"]

_MOMENTUM = 0.95
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """:math:`U V^T` of a matrix, singular values within about 0.7 to 1.2."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.bfloat16() if wide else matrix.bfloat16().T
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


class MuonAdamW(torch.optim.AdamW):
    """Muon for the weights of convolutions, AdamW for all else.

    Parameters
    ----------
    parameters : iterable of Tensor
    lr : float
    weight_decay : float
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        given = list(parameters)
        super().__init__(
            [
                {"params": [p for p in given if p.ndim == 4], "muon": True},
                {"params": [p for p in given if p.ndim != 4], "muon": False},
            ],
            lr=lr,
            weight_decay=weight_decay,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._move(weight, weight.grad, group["lr"], group["weight_decay"])
                        weight.grad = None  # AdamW has nothing to do with it
        super().step()
        return loss

    def _move(
        self, weight: torch.Tensor, gradient: torch.Tensor, rate: float, decay: float
    ) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.tensor(0.0)  # AdamW asks for it when a run is continued
        state["step"] += 1
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        matrix = gradient.lerp(momentum, _MOMENTUM).flatten(1)
        direction = orthogonal(matrix).view_as(weight)
        weight.mul_(1 - rate * decay)
        weight.add_(direction, alpha=-rate * 0.2 * max(matrix.shape) ** 0.5)
