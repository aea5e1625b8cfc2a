"""Cut-outs to train on: what the network learns from is what it will be shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter

pytest.importorskip("lightning")
pytest.importorskip("galsim")

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.initialisation.cutouts import cut_outs
from autofit_ml.initialisation.network import to_relative
from autofit_ml.segmentation import Segmentation
from training.endless import EndlessSersic, EndlessSettings
from training.tasks.initialise import sets
from training.tasks.initialise.cutouts import CutoutDataModule
from training.tasks.initialise.endless import cut_endless
from training.tasks.initialise.sets import make_cutout_sets

ENTRY = {"endless": {"snr": [50, 300], "re": [1.5, 5]}, "count": 40, "seed": 5}


def test_endless_cut_outs_are_those_of_the_pipeline():
    """Flux, radius, scalars and targets, measured by either code on the same stamps."""
    settings = EndlessSettings(
        shape=(64, 64), psf_size=25, snr=(50, 300), re=(1.5, 5.0), max_sources=3, neighbours=1
    )
    batch = EndlessSersic(settings, 24, seed=3).batch(0)
    ours = cut_endless(batch)
    assert len(ours["known"]) == 24
    stamps, found = [], []
    for k in range(24):
        plane = {name: batch[name][k].numpy() for name in ("image", "sigma", "mask", "labels")}
        stamps.append(
            Stamp("s", plane["image"], plane["sigma"], plane["mask"], PSF(batch["psf"][k].numpy()))
        )
        sky, rms = float(batch["sky"][k]), float(batch["sky_rms"][k])
        others = maximum_filter(plane["labels"] > 1, 3) & (plane["labels"] != 1)
        found.append(Segmentation(plane["labels"], 1, others, sky, rms))
    cut = cut_outs(stamps, found)
    target = to_relative(cut, batch["fit"][:, 0].double())
    for name, theirs in (
        ("flux", cut.flux),
        ("radius", cut.radius),
        ("target", target),
    ):
        np.testing.assert_allclose(ours[name], theirs, rtol=2e-3, atol=2e-3, err_msg=name)
    # The FWHM is that of the Moffat there, and measured on the pixels here.
    np.testing.assert_allclose(
        ours["scalars"][:, [0, 2, 3, 4, 5]], cut.scalars[:, [0, 2, 3, 4, 5]], rtol=2e-3, atol=2e-3
    )
    assert 0.2 < (cut.scalars[:, 5] > 0.01).mean() < 0.9
    np.testing.assert_allclose(ours["scalars"][:, 1], cut.scalars[:, 1], atol=0.15)
    # The square may stand a pixel further, but shows the same light.
    np.testing.assert_allclose(
        ours["data"].double().sum((1, 2)), cut.data.sum((1, 2)), rtol=0.05, atol=30
    )


def test_fresh_galaxies_replace_those_of_the_last_epoch(tmp_path):
    (kept,) = make_cutout_sets([ENTRY], tmp_path)
    fresh = {**ENTRY, "seed": 6}
    module = CutoutDataModule([kept], [kept], batch_size=8, fresh=[fresh])
    module.setup()
    first = dict(module.sets["train"].tensors)
    module.renew(1)
    second = module.sets["train"].tensors
    number = len(torch.unique(first["flux"]))
    assert number == len(first["flux"]) > 70
    half = len(module.sets["val"])
    assert torch.equal(first["data"][:half], second["data"][:half])
    assert not torch.isin(second["flux"][half:], first["flux"]).any()
    assert torch.isfinite(second["data"]).all()


def test_a_calibration_takes_targets_as_they_are_found(tmp_path, monkeypatch):
    """Whatever their masks hold, but of one profile: nothing is fitted in the truth's place."""
    monkeypatch.setattr(sets, "_partner", lambda *_: 0)
    entry = {"data": "single", "surveys": ["sdss-r"], "count": 4, "seed": 3, "others": False}
    entry |= {"segmenters": {"sep": 1}, "set": ["data.target.snr=[100,200]"]}
    with pytest.raises(InputError, match="no object to learn from"):
        make_cutout_sets([entry], tmp_path)
    (path,) = make_cutout_sets([{**entry, "target": "found"}], tmp_path)
    module = CutoutDataModule([path], [path], batch_size=8)
    module.setup()
    assert module.sets["val"].tensors["known"].tolist() == [True] * 4
    with pytest.raises(InputError, match="no object to learn from"):
        make_cutout_sets([{**entry, "data": "bulge_disc", "target": "found"}], tmp_path)
