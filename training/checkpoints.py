"""A run's weights, read from its checkpoints.

Lightning writes checkpoints as pickles. Those of `train` hold tensors, numbers and text only, and
are read as such (``weights_only``): no class is imported, so that a checkpoint outlives every
module's name, and a file from somebody else can do no harm. What leaves a run is safetensors
(`export`).
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from autofit_ml.errors import DamagedWeightsError

__all__ = ["network_state"]

_PREFIX = "network."


def network_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The network's own (averaged) tensors, without the Lightning module's prefix.

    Parameters
    ----------
    path : path
        Of a checkpoint that `train` has written.

    Raises
    ------
    DamagedWeightsError
        The file is no such checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedWeightsError(
            f"is no checkpoint of training/train.py: {reason}",
            "give a run's checkpoints/last.ckpt or best.ckpt",
            path,
        ) from error
    return {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
