"""The device of a run."""

from __future__ import annotations

from autofit_ml.errors import SettingsError

__all__ = ["usable_device"]


def usable_device(choice: str) -> str:
    """ "cpu" or "cuda" for the setting `device` ("auto", "cpu", "cuda").

    Raises
    ------
    SettingsError
        "cuda" where there is none.
    """
    if choice == "cpu":
        return choice
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "cuda":
        raise SettingsError("no CUDA device is available", "use --device cpu or auto")
    return "cpu"
