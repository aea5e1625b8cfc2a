"""Small bundles of weights for tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from autofit_ml.deconvolution.network import DeconvolveNetwork, DeconvolveSettings
from autofit_ml.deconvolution.network import describe as describe_prior
from autofit_ml.initialisation.network import InitialiseNetwork, InitialiseSettings
from autofit_ml.initialisation.network import describe as describe_initialiser
from autofit_ml.segmentation.channels import Preprocessing
from autofit_ml.segmentation.network import NetworkSettings, SegmentNetwork, describe
from autofit_ml.weights import WeightInfo, write_bundle
from autofit_ml.weights.bundle import describe_files
from autofit_ml.weights.manifest import MANIFEST_FORMAT
from training.tasks.segment.network import TrainableNetwork

TINY = NetworkSettings(
    widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid=8, hidden=16, mask_layers=(8,)
)


def tiny_network(seed: int = 0, **changes) -> SegmentNetwork:
    """An untrained network of a few thousand parameters; `changes` are fields of its settings."""
    trained = tiny_trainable(seed)
    network = SegmentNetwork(dataclasses.replace(TINY, **changes), trained.preprocessing).eval()
    network.load_state_dict(trained.state_dict())
    return network


def tiny_trainable(seed: int = 0) -> TrainableNetwork:
    """The same before it is trained."""
    torch.manual_seed(seed)
    return TrainableNetwork(TINY, Preprocessing()).eval()


def tiny_initialiser(seed: int = 0, **thresholds: float) -> InitialiseNetwork:
    """An untrained initialising network; `thresholds` are values of its buffers."""
    torch.manual_seed(seed)
    settings = InitialiseSettings(widths=(8, 8, 8), blocks=(1, 1, 1), psf_widths=(4,), hidden=16)
    network = InitialiseNetwork(settings).eval()
    for name, value in thresholds.items():
        network.get_buffer(name).fill_(value)
    return network


def add_initialise_bundle(root: Path, name: str, **changes) -> WeightInfo:
    """A bundle of an untrained initialising network."""
    network = tiny_initialiser()
    return _add(root, name, network, describe_initialiser(network), changes)


def add_bundle(root: Path, name: str = "segment/test-r@1.0.0", **changes) -> WeightInfo:
    """A bundle of an untrained network in a folder with a manifest."""
    network = tiny_trainable()
    return _add(root, name, network, describe(network), changes)


def _add(root: Path, name: str, network, config: dict, changes: dict) -> WeightInfo:
    write_bundle(
        root / name,
        state=network.state_dict(),
        config=config,
        metrics={"ap50": 0.0},
        training="name: test\n",
        card=f"# {name}\n",
    )
    survey, _, band = name.partition("/")[2].partition("@")[0].rpartition("-")
    info = WeightInfo(name=name, survey=survey, band=band, files=describe_files(root / name))
    info = dataclasses.replace(info, **changes)
    manifest = root / "manifest.json"
    content = (
        json.loads(manifest.read_text())
        if manifest.exists()
        else {"format": MANIFEST_FORMAT, "bundles": []}
    )
    content["bundles"].append(dataclasses.asdict(info))
    manifest.write_text(json.dumps(content))
    return info


def tiny_prior(seed: int = 0, *, classes: int = 4, random: bool = True) -> DeconvolveNetwork:
    """An untrained prior; its U-Net does something if `random`."""
    torch.manual_seed(seed)
    settings = DeconvolveSettings(
        widths=(8, 8), blocks=(1, 1), features=16, classes=classes, side=32
    )
    network = DeconvolveNetwork(settings).eval()
    along = torch.arange(32) - 15.5
    r2 = along[:, None] ** 2 + along[None, :] ** 2
    for k in range(classes):
        image = torch.exp(-r2 / (2 * (1.5 + k) ** 2))
        network.class_mean[k] = image / image.sum()
    network.class_power.fill_(1e-3)
    network.usual_misfit.fill_(1.0)
    if random:
        torch.nn.init.normal_(network.unet.ascent[-1][-1].weight, std=0.02)
    return network


def add_deconvolve_bundle(root: Path, name: str, **changes) -> WeightInfo:
    """A bundle of an untrained prior."""
    network = tiny_prior()
    return _add(root, name, network, describe_prior(network), changes)
