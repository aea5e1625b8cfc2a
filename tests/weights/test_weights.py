"""Finding, checking and loading weights; every failure says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from weights_bundles import add_bundle, tiny_network

import autofit_ml
from autofit_ml.errors import (
    DamagedWeightsError,
    IncompatibleWeightsError,
    MissingWeightsError,
    UnknownWeightsError,
    WeightsError,
)
from autofit_ml.weights import (
    find_bundle,
    list_weights,
    load,
    manifest,
    pull,
    read_bundle,
    verify_bundle,
    weight_info,
    write_bundle,
)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An own folder of weights, and an empty cache."""
    root = tmp_path / "weights"
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(root))
    monkeypatch.setenv("AUTOFIT_ML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "installed_folder", lambda: tmp_path / "not installed")
    add_bundle(root, "segment/test-r@1.0.0")
    return root


def test_list_by_task_survey_and_band(weights):
    add_bundle(weights, "segment/test-r@1.2.0")
    add_bundle(weights, "segment/test-g@0.9.0")
    add_bundle(weights, "segment/everything-any@2.0.0", survey="multi", band="any")
    add_bundle(weights, "segment/old-r@3.0.0", status="withdrawn")
    names = [info.name for info in list_weights("segment", "test")]
    assert names == [
        "segment/everything-any@2.0.0",
        "segment/test-g@0.9.0",
        "segment/test-r@1.2.0",
        "segment/test-r@1.0.0",
    ]
    assert "segment/test-g@0.9.0" not in [i.name for i in list_weights(band="r")]
    assert list_weights("deconvolve", "test") == []
    assert weight_info("segment/test-r").version == "1.2.0"
    assert weight_info("segment/test-r@1.0.0").version == "1.0.0"
    assert weight_info("segment/test-r").bytes > 10_000


def test_loaded_network_is_the_one_written(weights):
    network = load("segment/test-r")
    assert not network.training
    assert network.info.name == "segment/test-r@1.0.0"
    assert network.bundle.metrics == {"ap50": 0.0}
    image = [torch.linspace(-1, 1, 4 * 32 * 32).reshape(4, 32, 32)]
    with torch.no_grad():
        ours, written = network(image)[0], tiny_network()(image)[0]
    torch.testing.assert_close(ours["boxes"], written["boxes"])
    from_path = load(weights / "segment/test-r@1.0.0")
    assert from_path.info is None
    assert autofit_ml.load("segment/test-r@1.0.0").info == network.info


def test_unknown_names(weights):
    with pytest.raises(UnknownWeightsError, match=r"segment/test-r@1\.0\.0"):
        load("segment/tset-r")
    with pytest.raises(UnknownWeightsError, match="names look like"):
        load("Something Else")
    with pytest.raises(UnknownWeightsError):
        load("segment/test-r@9.9.9")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "CARD.md"])
def test_flipped_byte(weights, name):
    path = weights / "segment/test-r@1.0.0" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedWeightsError, match="altered") as caught:
        load("segment/test-r")
    assert caught.value.file == path
    assert "install autofit-ml anew" in caught.value.remedy
    add_bundle(weights, "segment/test-r@1.0.0", url="http://127.0.0.1:9/nothing")
    path.write_bytes(content)
    with pytest.raises(DamagedWeightsError) as caught:
        load("segment/test-r")
    assert "weights pull segment/test-r@1.0.0" in caught.value.remedy


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_missing_and_truncated_files(weights, name):
    folder = weights / "segment/test-r@1.0.0"
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(DamagedWeightsError, match="bytes instead of"):
        load("segment/test-r")
    (folder / name).unlink()
    with pytest.raises(DamagedWeightsError, match="missing"):
        load("segment/test-r")


def test_damaged_bundle_given_by_its_folder(weights):
    """Without a manifest entry the file itself must tell."""
    path = weights / "segment/test-r@1.0.0" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedWeightsError, match="cannot be read"):
        load(path.parent)
    (path.parent / "config.json").write_text("{")
    with pytest.raises(DamagedWeightsError, match="no JSON"):
        load(path.parent)


def rewrite(folder, **changes):
    """The bundle with other values in its config."""
    bundle = read_bundle(folder)
    network = tiny_network()
    return write_bundle(
        folder,
        state=network.state_dict(),
        config={**bundle.config, **changes},
        metrics={},
        training="",
        card="",
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"format": 99}, "format 99"),
        ({"task": "classify"}, "classify"),
        ({"architecture": "transformer"}, "transformer"),
        ({"network": {"widths": [4, 4, 4, 4], "depth": 3}}, "depth"),
        ({"network": {}}, "does not fit"),
    ],
)
def test_bundles_of_other_versions(weights, changes, what):
    folder = weights / "segment/test-r@1.0.0"
    rewrite(folder, **changes)
    with pytest.raises(IncompatibleWeightsError, match=what):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"format": None}, "format None"),
        ({"format": "1"}, "format '1'"),
        ({"network": None}, "describes no network"),
        ({"network": [1, 2]}, "describes no network"),
        ({"network": {"widths": [10**9] * 4}}, "widths is"),
        ({"network": {"widths": [1] * 10**5}}, "widths is"),
        ({"network": {"widths": [-4] * 4}}, "describes no network|does not fit"),
        ({"network": {"blocks": [10**6] * 4}}, "blocks is"),
        ({"network": {"hidden": 10**12}}, "hidden is"),
    ],
)
def test_senseless_configs(weights, changes, what):
    folder = weights / "segment/test-r@1.0.0"
    rewrite(folder, **changes)
    with pytest.raises(IncompatibleWeightsError, match=what) as caught:
        load(folder)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.json", b"[1, 2]", "no JSON object"),
        ("config.json", b"null", "no JSON object"),
        ("config.json", b"[" * 10**5, "no JSON"),
        ("metrics.json", b'"text"', "no JSON object"),
        ("CARD.md", b"# a card\xff\xfe", "cannot be read"),
        ("model.safetensors", b"\xff" * 64, "cannot be read"),
        ("model.safetensors", b"", "cannot be read"),
    ],
)
def test_damaged_files(weights, name, content, what):
    folder = weights / "segment/test-r@1.0.0"
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedWeightsError, match=what) as caught:
        load(folder)
    assert caught.value.file == folder / name


def test_weights_that_are_not_finite(weights):
    folder = weights / "segment/test-r@1.0.0"
    bundle = read_bundle(folder)
    state = tiny_network().state_dict()
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name].view(-1)[0] = float("nan")
    write_bundle(folder, state=state, config=bundle.config, metrics={}, training="", card="")
    with pytest.raises(DamagedWeightsError, match=f"{name} is not finite"):
        load(folder)


def test_bundle_that_needs_a_newer_library(weights):
    add_bundle(weights, "segment/new-r@1.0.0", needs="99.0.0")
    with pytest.raises(IncompatibleWeightsError, match=r"needs autofit-ml 99\.0\.0"):
        load("segment/new-r")


def test_manifest_of_a_newer_format_or_broken(weights):
    manifest = weights / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(IncompatibleWeightsError, match="format 99"):
        list_weights()
    manifest.write_text("[1, 2")
    with pytest.raises(WeightsError, match="manifest"):
        list_weights()


def test_offline_says_what_to_do(weights, tmp_path):
    add_bundle(weights, "segment/far-r@1.0.0", url="http://127.0.0.1:9/nothing")
    shutil.move(weights / "segment/far-r@1.0.0", tmp_path / "elsewhere")
    with pytest.raises(MissingWeightsError, match="offline") as caught:
        load("segment/far-r", offline=True)
    assert "copy its folder" in caught.value.remedy
    # Copied into the cache, it loads.
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "cache" / "segment/far-r@1.0.0")
    assert load("segment/far-r", offline=True).info.version == "1.0.0"


def test_no_address(weights):
    add_bundle(weights, "segment/gone-r@1.0.0")
    shutil.rmtree(weights / "segment/gone-r@1.0.0")
    with pytest.raises(MissingWeightsError, match="no address"):
        load("segment/gone-r")


def test_pull_checks_every_file(weights, server, tmp_path):
    root, address = server
    add_bundle(weights, "segment/web-r@1.0.0", url=f"{address}/web")
    shutil.move(weights / "segment/web-r@1.0.0", root / "web")
    assert load("segment/web-r").info.name == "segment/web-r@1.0.0"
    assert find_bundle("segment/web-r")[0] == tmp_path / "cache" / "segment/web-r@1.0.0"
    shutil.rmtree(tmp_path / "cache")
    card = root / "web" / "CARD.md"
    card.write_text("# another\n")
    with pytest.raises(MissingWeightsError, match="cannot be fetched"):
        pull("segment/web-r")
    assert not (tmp_path / "cache" / "segment/web-r@1.0.0" / "CARD.md").exists()


def test_verify_names_the_file(weights):
    info = weight_info("segment/test-r")
    verify_bundle(weights / info.name, info)
    (weights / info.name / "training.yaml").write_text("name: tset\n")
    with pytest.raises(DamagedWeightsError, match=r"training\.yaml"):
        verify_bundle(weights / info.name, info)


def test_nothing_is_read_at_import():
    code = (
        "import sys, autofit_ml, autofit_ml.weights\n"
        "print('torch' in sys.modules, 'pooch' in sys.modules, 'safetensors' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


def test_installed_bundles_are_whole():
    """Every bundle that comes with the package verifies and loads."""
    from autofit_ml.weights import installed_folder
    from autofit_ml.weights.manifest import read_manifest

    folder = installed_folder()
    if not (folder / "manifest.json").exists():
        pytest.skip("no weights come with this version")
    for name, info in read_manifest(folder).items():
        verify_bundle(folder / name, info)
        assert load(folder / name) is not None
        assert max(item["bytes"] for item in info.files.values()) <= 16e6
        assert info.bytes <= 40e6
