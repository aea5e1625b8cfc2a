"""The network as segmenter of a run: weights named, chosen, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bright_pixels import BrightPixels
from weights_bundles import add_bundle

import autofit_ml
from autofit_ml.catalogue import Flag
from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.errors import DamagedWeightsError, SettingsError, UnknownWeightsError
from autofit_ml.segmentation import dispatch
from autofit_ml.weights import choice, manifest
from autofit_ml.weights.choice import choose_weights


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An own folder with weights for seeing of 2 to 5 pixels at 0.1 to 0.4 arcsec."""
    root = tmp_path / "weights"
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(root))
    monkeypatch.setenv("AUTOFIT_ML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "installed_folder", lambda: tmp_path / "not installed")
    add_bundle(root, "segment/test-any@1.0.0", psf_fwhm=(2.0, 5.0), pixel_scale=(0.1, 0.4))
    choice.forget()
    yield root
    choice.forget()


@pytest.fixture
def believed(monkeypatch):
    """Whatever the untrained network finds is used."""
    monkeypatch.setattr(dispatch, "why_refused", lambda *given: "")


def fit(images, **options):
    return autofit_ml.fit(images, save="none", workers=0, init="moments", **options)


def test_columns_say_which_weights_were_used(images, weights, believed):
    """The untrained network finds nothing to speak of: the run goes on, target or not."""
    table = fit(images, segmenter="maskrcnn", weights="segment/test-any")
    assert set(table["segmenter"]) == {"maskrcnn"}
    assert set(table["weights"]) == {"segment/test-any@1.0.0"}
    assert len(table) == 8


def test_a_network_that_finds_nothing_is_replaced_by_sep(images, weights):
    table = fit(images, segmenter="maskrcnn", weights="segment/test-any")
    bright = np.asarray(table["snr"]) > 100
    assert set(table["segmenter"][bright]) == {"sep"}
    assert all("has no label: sep was used" in text for text in table["message"][bright])


def test_out_of_domain_images_go_through_sep(images, weights):
    add_bundle(weights, "segment/sharp-any@1.0.0", psf_fwhm=(0.5, 1.0), pixel_scale=(0.01, 0.02))
    table = fit(images, segmenter="maskrcnn", weights="segment/sharp-any")
    assert set(table["segmenter"]) == {"sep"}
    assert np.all(np.asarray(table["flags"]) & int(Flag.OUT_OF_DOMAIN))
    assert "no weights for images like this one" in table["message"][0]
    plain = fit(images, segmenter="sep")
    np.testing.assert_array_equal(table["re"].value, plain["re"].value)


def test_weights_are_chosen_by_seeing_and_pixel_scale(weights):
    add_bundle(weights, "segment/space-any@1.0.0", psf_fwhm=(1.5, 4.0), pixel_scale=(0.03, 0.1))
    choice.forget()
    assert choose_weights("segment", "", 0.2, 3.0) == "segment/test-any@1.0.0"
    assert choose_weights("segment", "", 0.05, 3.0) == "segment/space-any@1.0.0"
    assert choose_weights("segment", "", float("nan"), 1.6) == "segment/space-any@1.0.0"
    assert choose_weights("segment", "", 0.2, 20.0) is None
    assert choose_weights("segment", "segment/space-any", 0.25, 3.0) is None
    assert choose_weights("segment", "segment/space-any", 0.18, 3.0) == "segment/space-any@1.0.0"


def test_a_folder_is_believed_and_recorded(images, weights, believed, tmp_path):
    folder = weights / "segment/test-any@1.0.0"
    out = tmp_path / "out"
    table = fit(images, segmenter="maskrcnn", weights=str(folder), out=out)
    assert set(table["weights"]) == {str(folder)}
    recorded = json.loads((out / "run.json").read_text())["weights"]
    assert recorded == {str(folder): file_sha256(folder / "model.safetensors")}


def test_wrong_weights_stop_the_run_before_it_begins(images, weights, tmp_path):
    with pytest.raises(UnknownWeightsError):
        fit(images, segmenter="maskrcnn", weights="segment/nothing", out=tmp_path / "out")
    path = weights / "segment/test-any@1.0.0" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedWeightsError):
        fit(images, segmenter="maskrcnn", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_weights_installed(images, monkeypatch, tmp_path):
    monkeypatch.delenv("AUTOFIT_ML_WEIGHTS", raising=False)
    monkeypatch.setattr(manifest, "installed_folder", lambda: tmp_path / "not installed")
    choice.forget()
    for segmenter in ("auto", "maskrcnn"):
        with pytest.raises(SettingsError, match="no weights for the task"):
            fit(images, segmenter=segmenter)
    choice.forget()


def test_frame_goes_through_the_network_once(tmp_path, weights, monkeypatch):
    """Every galaxy of a frame has a row; its stamp carries the frame's labels."""
    from autofit_ml.simulation import compose_recipe, export_fits, simulate_one

    network = BrightPixels()
    calls: list[str] = []
    monkeypatch.setattr(choice, "network", lambda name, device: calls.append(name) or network)
    monkeypatch.setattr(
        choice, "usable_weights", lambda task, given: {"segment/test-any": "0" * 64}
    )
    recipe = compose_recipe(
        ["data=frame", "data.shape=[300,320]", "data.neighbours.magnitude=[15,20.5]"]
    )
    frame = simulate_one(recipe, 0, 4)
    export_fits([frame], tmp_path / "images")
    table = autofit_ml.fit(
        tmp_path / "images",
        mode="frame",
        segmenter="maskrcnn",
        init="moments",
        save="none",
        workers=0,
    )
    assert set(table["segmenter"]) == {"maskrcnn"}
    assert all(str(name).startswith(f"{frame.id}@") for name in table["id"])
    x, y = (np.asarray(table[axis], dtype=float) for axis in ("x", "y"))
    bright = frame.truth[(frame.truth["mag"] < 19.5) & (frame.truth["n_pixels"] > 20)]
    inside = (np.abs(bright["x"] - 160) < 150) & (np.abs(bright["y"] - 150) < 140)
    assert inside.sum() >= 3
    for row in bright[inside]:
        assert np.nanmin(np.hypot(x - row["x"], y - row["y"])) < 2
