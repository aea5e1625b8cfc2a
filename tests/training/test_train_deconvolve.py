"""Debug size, end to end: draw the sets, train, continue, export, load, deconvolve."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("galsim")
pytest.importorskip("azula")

from training_scripts import script

from autofit_ml.deconvolution import SamplingSettings, deconvolve_each
from autofit_ml.deconvolution.summary import half_light_radius
from autofit_ml.deconvolution.target import TARGET_FWHM, target_psf
from autofit_ml.images.psf import moffat_psf
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.simulation.galaxies import draw_galaxy
from autofit_ml.weights import choice, weight_info
from training.muon import MuonAdamW, orthogonal
from training.settings import compose
from training.tasks.deconvolve import sets
from training.tasks.deconvolve.galaxies import SharpGalaxies
from training.tasks.deconvolve.module import (
    DeconvolveModule,
    DeconvolveTraining,
    neighbour_distances,
)
from training.tasks.deconvolve.observations import draw_observations
from training.tasks.deconvolve.sets import KINDS, SharpRecipe, make_sharp_sets, sharp_image
from training.train import _begin_with

RUN = Path("runs/debug/deconvolve/galaxies-any")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished debug training."""
    folder = tmp_path_factory.mktemp("training")
    script("train.py", "experiment=deconvolve", "size=debug", cwd=folder)
    return folder


def test_run_has_logs_and_goes_on(run):
    header = (run / RUN / "csv" / "metrics.csv").read_text().splitlines()[0]
    names = {"val/loss", "val/skip", "val/gain_db", "val/gain_db_side32", "train/loss"}
    assert names <= set(header.split(","))
    before = json.loads((run / RUN / "history.json").read_text())
    out = script("train.py", "experiment=deconvolve", "size=debug", "trainer.epochs=3", cwd=run)
    after = json.loads((run / RUN / "history.json").read_text())
    assert after["steps"] == before["steps"] * 3 // 2
    assert "drawing" not in out
    with (run / RUN / "csv" / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert len(steps) == 3 and min(steps) < before["steps"] <= max(steps) < after["steps"]


def test_bundle_deconvolves(run, tmp_path, monkeypatch):
    """What comes out is useless, but goes all the way."""
    script("export.py", str(RUN), "--out", str(tmp_path), "--version", "0.0.1", "--last", cwd=run)
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(tmp_path))
    choice.forget()
    try:
        info = weight_info("deconvolve/galaxies-any@0.0.1")
        assert (info.task, info.survey, info.band) == ("deconvolve", "multi", "any")
        assert info.psf_fwhm == (TARGET_FWHM, 6 * TARGET_FWHM)
        rng = np.random.default_rng(0)
        stamp = Stamp(
            id="one",
            data=rng.normal(size=(32, 32)).astype(np.float32)
            + 800 * np.pad(moffat_psf(5.0, half_size=12).data, ((3, 4), (3, 4))),
            sigma=np.ones((32, 32), np.float32),
            mask=np.zeros((32, 32), bool),
            psf=moffat_psf(4.0),
        )
        settings = SamplingSettings(samples=4, steps=8, weights="deconvolve/galaxies-any@0.0.1")
        [(_, sharp)] = deconvolve_each([stamp], settings)
        assert not isinstance(sharp, Exception)
        assert np.isfinite(sharp.samples).all()
        assert sharp.mean.sum() == pytest.approx(800, rel=0.5)
        assert np.isfinite(sharp.distance)
    finally:
        choice.forget()


def test_sharp_images():
    """Unit flux, in the stamp, and not sharper than the target PSF; the same for the same seed."""
    rng, recipe = np.random.default_rng(3), SharpRecipe(48)
    drawn = [sharp_image(rng, recipe) for _ in range(40)]
    images = np.stack([image for image, _ in drawn])
    assert {kind for _, kind in drawn} <= set(KINDS)
    np.testing.assert_allclose(images.sum((1, 2)), 1, rtol=1e-4)
    # Nothing is brighter than a point source of all the light.
    assert images.max() <= 1.03 * target_psf().data.max()
    assert images.min() > -0.03 * images.max()
    np.testing.assert_array_equal(sharp_image(np.random.default_rng(3), recipe)[0], images[0])
    assert psf_fwhm(target_psf()) == pytest.approx(TARGET_FWHM, rel=0.1)


def test_large_sharp_galaxies(monkeypatch):
    """As large as asked for; those too large for the image are left out as far as asked for."""
    drawn = []
    monkeypatch.setattr(
        sets, "draw_galaxy", lambda *a, **k: drawn.append(draw_galaxy(*a, **k)) or drawn[-1]
    )

    def of(inside):
        rng = np.random.default_rng(4)
        recipe = SharpRecipe(64, kinds=(("sersic", 1.0),), re=(14.0, 20.0), inside=inside)
        drawn.clear()
        return [sharp_image(rng, recipe)[0] for _ in range(24)]

    assert all(image.sum() == pytest.approx(1) for image in of(0.2))
    assert len(drawn) == 24 and all(14 <= source.re <= 20 for source in drawn)
    images = of(0.9)
    assert len(drawn) > 30
    radii = [half_light_radius(torch.from_numpy(image)) for image in images]
    assert max(radii) < 20 and 5 < np.median(radii) < 14  # circularised


def test_sets_that_are_drawn_are_found_again():
    """Names say what is in a set; those of sets drawn before stay."""
    names = {
        recipe.digest()
        for recipe in (
            SharpRecipe(64),
            SharpRecipe(64, re=(0.4, 32.0)),
            SharpRecipe(64, inside=0.6),
            SharpRecipe(64, kinds=(("group", 1.0),)),
        )
    }
    assert len(names) == 4 and SharpRecipe(64).digest() == "543c0a3b"


def test_observations():
    """S/N as asked for; the kinds of members have the spectra that they should."""
    settings = compose(["experiment=deconvolve"]).settings(DeconvolveTraining).observations
    along = torch.arange(32) - 15.5
    image = torch.exp(-(along[:, None] ** 2 + along[None, :] ** 2) / 18)
    images = (image / image.sum()).expand(400, -1, -1)
    generator = torch.Generator().manual_seed(0)
    flux, spectra, sigma = draw_observations(images, settings, generator)
    ratio = (spectra / sigma[:, None, None] ** 2).flatten(1)
    assert (ratio <= 1.0001).all()
    white = (ratio > 0.9999).all(1)
    assert float(white.float().mean()) == pytest.approx(settings.white, abs=0.08)
    only_flux = (ratio[:, 1:] > 0.9999).all(1) & ~white
    assert float(only_flux.float().mean()) > 0.5 * settings.prior
    assert (spectra > 0).all() and torch.isfinite(flux).all()


def test_muon_steps_are_orthogonal_and_of_adams_size():
    """Of a convolution's weight; other parameters move as AdamW moves them."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 45, generator=generator)
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    torch.testing.assert_close(orthogonal(matrix.T), orthogonal(matrix).T)
    # The smaller half of the values a twentieth: one iteration would leave them at a fifth.
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values[4:] *= 0.05
    assert float(torch.linalg.svdvals(orthogonal(u * values @ v)).min()) > 0.5

    weight, bias = torch.nn.Parameter(torch.zeros(8, 5, 3, 3)), torch.nn.Parameter(torch.ones(8))
    same = torch.nn.Parameter(torch.ones(8))
    ours = MuonAdamW([weight, bias], lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW([same], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        before = weight.detach().clone()
        weight.grad = torch.randn(weight.shape, generator=generator)
        bias.grad = torch.randn(8, generator=generator)
        same.grad = bias.grad.clone()
        ours.step()
        theirs.step()
        step = float((weight - (1 - 1e-3) * before).detach().square().mean().sqrt())
        assert step == pytest.approx(0.2e-2, rel=0.2)
    torch.testing.assert_close(bias, same)

    still = torch.nn.Parameter(torch.ones(8, 5, 3, 3))
    still.grad = torch.zeros_like(still)
    MuonAdamW([still], lr=1e-2, weight_decay=0.1).step()
    torch.testing.assert_close(still.detach(), torch.full_like(still, 1 - 1e-3))

    other = torch.nn.Parameter(weight.detach().clone()), torch.nn.Parameter(bias.detach().clone())
    again = MuonAdamW(other, lr=1e-2, weight_decay=0.1)
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    for some, optimiser in (((weight, bias), ours), (other, again)):
        some[0].grad, some[1].grad = torch.ones(8, 5, 3, 3), torch.ones(8)
        optimiser.step()
    torch.testing.assert_close(other, (weight, bias))


def test_large_images_are_mostly_cropped():
    """Each side once in a while, small ones more often; half of the image at least."""
    settings = compose(["experiment=deconvolve", "size=debug"]).settings(DeconvolveTraining)
    settings = dataclasses.replace(settings, least_side=40, usual_side=64, cropped=0.3)
    module = DeconvolveModule(settings, 10)
    torch.manual_seed(0)
    for side, least in ((64, 40), (112, 56), (160, 80), (40, 40)):
        found = [module._cropped(torch.ones(1, side, side)).shape[-1] for _ in range(600)]
        assert set(found) == set(range(least, side + 1, 8))
        whole = 0.7 * min(1.0, (64 / side) ** 2) if side > least else 1.0
        assert found.count(side) / 600 == pytest.approx(whole, abs=0.07)
        if side == 160:
            assert found.count(80) > 2 * found.count(152)


def test_an_older_network_goes_on(tmp_path):
    """Inputs that it did not have count for nothing at first."""
    old, new = torch.nn.Linear(3, 2), torch.nn.Linear(5, 2)
    state = {f"network.{name}": values for name, values in old.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "old.ckpt")
    _begin_with(new, str(tmp_path / "old.ckpt"))
    x = torch.randn(4, 5)
    torch.testing.assert_close(new(x), old(x[:, :3]))


def test_neighbours_are_found(tmp_path):
    """A turned copy is at distance 0, another galaxy is not."""
    galaxies = SharpGalaxies(make_sharp_sets([{"sharp": 32, "count": 6, "seed": 1}], tmp_path))
    other = SharpGalaxies(make_sharp_sets([{"sharp": 32, "count": 6, "seed": 2}], tmp_path))
    copies = galaxies[torch.arange(6)].transpose(1, 2).flip(2)
    assert float(neighbour_distances(copies, galaxies).max()) < 1e-3
    assert float(neighbour_distances(other[torch.arange(6)], galaxies).median()) > 0.02
