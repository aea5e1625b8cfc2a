"""The device of a run."""

from __future__ import annotations

__all__ = ["usable_device"]


def usable_device(device: str) -> str:
    """ "cpu" or "cuda" for the setting "auto"; the others as they are."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
