"""Hydra configs of trainings: conf/train.yaml and its groups."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from autofit_ml.simulation.recipe import config_folder

__all__ = ["compose"]


def compose(overrides: Sequence[str]) -> DictConfig:
    """The resolved configuration of ``conf/train.yaml`` with overrides."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose("train", overrides=list(overrides))
