"""Small bundles of weights for tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from autofit_ml.segment.network import NetworkSettings, Preprocessing, SegmentNetwork, describe
from autofit_ml.weights import WeightInfo, write_bundle
from autofit_ml.weights.bundle import describe_files
from autofit_ml.weights.manifest import MANIFEST_FORMAT

TINY = NetworkSettings(
    widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid=8, hidden=16, mask_layers=(8,)
)


def tiny_network(seed: int = 0) -> SegmentNetwork:
    """An untrained network of a few thousand parameters."""
    torch.manual_seed(seed)
    return SegmentNetwork(TINY, Preprocessing()).eval()


def add_bundle(root: Path, name: str = "segment/test-r@1.0.0", **changes) -> WeightInfo:
    """A bundle of an untrained network in a folder with a manifest."""
    network = tiny_network()
    write_bundle(
        root / name,
        state=network.state_dict(),
        config=describe(network),
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
