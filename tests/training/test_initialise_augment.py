"""Other views of cut-outs: the truth stays the truth, and masks do what masked stamps show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("galsim")

from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.initialisation.cutouts import cut_outs
from autofit_ml.initialisation.network import to_relative
from autofit_ml.initialisation.physics import cut_out_parameters, model_images, robust_chi2
from autofit_ml.segmentation import Segmentation
from training.endless import EndlessSersic, EndlessSettings
from training.tasks.initialise import augment as views
from training.tasks.initialise.augment import Augmentation, Masks, augment, masks
from training.tasks.initialise.endless import cut_endless

NUMBER = 48
MASKED = Masks(share=1.0, large=0.4, edge=0.4, object=0.0)


@pytest.fixture(scope="module")
def drawn():
    """Galaxies of our own renderer."""
    settings = EndlessSettings(
        shape=(64, 64), psf_size=25, snr=(100, 300), re=(2.0, 6.0), n=(0.6, 4.0)
    )
    return EndlessSersic(settings, NUMBER, seed=3).batch(0)


@pytest.fixture
def batch(drawn):
    """Their cut-outs, as a training batch."""
    cut = cut_endless(drawn)
    return {name: p.float() if p.is_floating_point() else p for name, p in cut.items()}


def chi2_of_the_truth(batch) -> torch.Tensor:
    parameters = cut_out_parameters(
        batch["target"], batch["centre"], batch["flux"], batch["radius"]
    )
    images = model_images(parameters, batch["psf"])
    planes = (batch[name] for name in ("data", "root_weight", "centre", "radius"))
    return robust_chi2(images, *planes)[0]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_truth_fits_every_view(batch, share):
    """Flips, turns, added noise, masks: what is relative to the image follows."""
    torch.manual_seed(4)
    settings = Augmentation(0.5, 0.0, 0.0, dataclasses.replace(MASKED, share=share))
    for _ in range(3):
        view = augment(batch, settings)
        chi2 = chi2_of_the_truth(view)
        # about 1 +- sqrt(2 / pixels) for the smallest galaxies
        assert float(chi2.median()) == pytest.approx(1, abs=0.06)
        assert ((chi2 > 0.5) & (chi2 < 1.6)).all(), chi2
        off = (view["centre"] - 31.5).abs().amax()
        # the endless galaxies are up to a pixel off the middle, and so are their centroids
        assert float(off) < 2.0
        assert (view["data"][view["root_weight"] == 0] == 0).all()


def test_masks_are_of_three_kinds(batch):
    """Small ones, large ones, and strips from border to border; none hides a whole galaxy."""
    torch.manual_seed(5)
    footprint = batch["footprint"].repeat(20, 1, 1)

    def drawn_masks(**changes):
        return masks(footprint, dataclasses.replace(MASKED, **changes))

    half = drawn_masks(share=0.5)
    assert float(half.any(2).any(1).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert not drawn_masks(share=0.0).any()
    tall = {}
    for kind, shares in (
        ("small", {"large": 0.0, "edge": 0.0}),
        ("large", {"large": 1.0, "edge": 0.0}),
        ("edge", {"large": 0.0, "edge": 1.0}),
    ):
        masked = drawn_masks(**shares)
        left = (footprint & ~masked).sum((1, 2)) / footprint.sum((1, 2))
        assert float(left.min()) >= 0.3
        sides = torch.stack([masked.any(1).sum(1), masked.any(2).sum(1)]).sort(0).values
        tall[kind] = sides[:, masked.any(2).any(1)]
    assert int(tall["small"].max()) < 64 // 5
    assert int(tall["large"].max()) == 64 // 2
    assert (tall["edge"][1] == 64).all()
    assert 64 // 8 <= int(tall["edge"][0].min()) <= int(tall["edge"][0].max()) <= 64 // 2
    # a third of a footprint and more is hidden often enough to be learnt
    often = (footprint & ~drawn_masks()).sum((1, 2)) / footprint.sum((1, 2))
    assert 0.1 < float((often < 0.67).float().mean()) < 0.6


def test_a_masked_cut_out_is_that_of_a_masked_stamp(batch, drawn, monkeypatch):
    """A strip over the core's side: radius, centre, target as the pipeline measures them."""
    monkeypatch.setattr(views, "_coin", lambda share, b, device: torch.ones(b, dtype=torch.bool))
    masked = torch.zeros(NUMBER, 64, 64, dtype=torch.bool)
    masked[:, :, 33:] = True
    ours = {**batch, **views._hidden(batch, torch.arange(NUMBER), masked)}
    stamps, found = [], []
    for k in range(NUMBER):
        plane = {name: drawn[name][k].numpy() for name in ("image", "sigma", "mask", "labels")}
        hole = plane["mask"] | masked[k].numpy()
        psf = PSF(drawn["psf"][k].numpy())
        stamps.append(Stamp("s", plane["image"], plane["sigma"], hole, psf))
        labels = np.where(masked[k].numpy(), 0, plane["labels"])
        sky, rms = float(drawn["sky"][k]), float(drawn["sky_rms"][k])
        found.append(Segmentation(labels, 1, labels > 1, sky, rms))
    cut = cut_outs(stamps, found)
    np.testing.assert_allclose(ours["radius"], cut.radius, rtol=0.02)
    # half precision may put a pixel to the other side of the threshold of the brighter half
    assert np.percentile(abs(ours["centre"].numpy() - cut.centre), 95) < 0.01
    np.testing.assert_allclose(ours["centre"], cut.centre, atol=0.2)
    target = to_relative(cut, drawn["fit"][:, 0].double()).numpy()
    for k in (0, 1):
        place = (ours["target"][:, k] + ours["centre"][:, k], target[:, k] + cut.centre[:, k])
        np.testing.assert_allclose(*place, atol=0.01)
    np.testing.assert_allclose(ours["target"][:, 3:], target[:, 3:], atol=0.02)
    # half precision of the stored cut-outs; what the square gained at its border was not there
    shared = (ours["root_weight"] > 0).numpy()
    np.testing.assert_allclose(ours["data"].numpy()[shared], cut.data[shared], rtol=2e-3, atol=2e-2)
    assert (ours["footprint"].numpy() == cut.footprint).mean() > 0.999


def test_bands_hide_a_third_of_the_object(batch):
    torch.manual_seed(7)
    footprint = batch["footprint"].repeat(8, 1, 1)
    bands = masks(footprint, Masks(share=0.0, large=0.0, edge=0.0, object=1.0))
    hidden = (footprint & bands).sum((1, 2)) / footprint.sum((1, 2))
    large = footprint.sum((1, 2)) > 150  # of a few rows, each is a large part
    assert float(hidden[large].min()) > 0.15 and float(hidden[large].max()) < 0.5
    assert float(hidden[large].mean()) == pytest.approx(0.325, abs=0.02)
