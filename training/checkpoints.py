"""What a run's checkpoint holds: the only place where one is unpickled.

Lightning's checkpoints are pickles, so that a run can be continued; they are read from runs of
one's own only. What leaves a run is safetensors (`export.py`).
"""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["network_state"]

_PREFIX = "network."


def network_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The network's own (averaged) tensors, without the Lightning module's prefix.

    Parameters
    ----------
    path : path
        Of a checkpoint that `train.py` has written.
    """
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    return {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
