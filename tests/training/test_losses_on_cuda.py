"""Networks and losses on a GPU: nothing of them is left on the host."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("hydra")
pytest.importorskip("azula")

from fake_cuda import fake_cuda, on_cuda
from weights_bundles import tiny_network

from autofit_ml.initialisation.cutouts import PSF_SIDE, SCALARS, SIDE
from training.settings import compose
from training.tasks import find_task
from training.tasks.initialise.measure import FIELDS

# Half precision is a matter of values, which there are none of.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available")

BOTH = pytest.mark.parametrize("answer", [False, True])
"""Sides of every question that is asked of values."""


def module_of(experiment: str, *more: str):
    """The smallest module of an experiment's task, on the host."""
    training = compose([f"experiment={experiment}", "size=debug", *more])
    return find_task(training.task).module(training, 10)


def cut_outs(number: int) -> dict[str, torch.Tensor]:
    """A batch of the initialiser's on the GPU."""
    shapes = {
        **dict.fromkeys(("data", "root_weight", "footprint"), (SIDE, SIDE)),
        "psf": (PSF_SIDE, PSF_SIDE),
        "scalars": (len(SCALARS),),
        "centre": (2,),
        "target": (7,),
    }
    return {
        name: torch.zeros(number, *shapes.get(name, ()), dtype=kind, device="cuda")
        for name, kind in FIELDS.items()
    }


def detections(number: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A batch of the Mask R-CNN's on the GPU."""
    where = {"device": "cuda"}
    targets = {
        "boxes": torch.zeros(3, 4, **where),
        "labels": torch.ones(3, dtype=torch.int64, **where),
        "masks": torch.zeros(3, 64, 64, dtype=torch.uint8, **where),
    }
    return [torch.zeros(4, 64, 64, **where) for _ in range(number)], [targets] * number


def checked(loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> None:
    assert loss.shape == () and loss.requires_grad
    assert {value.device.type for value in (loss, *terms.values())} == {"cuda"}


@BOTH
@pytest.mark.parametrize("kind", ["mse", "nll", "physics", "full", "selfsupervised"])
def test_initialiser(kind, answer):
    """Every loss; a batch of which some or none is masked."""
    module = module_of("initialise_multi", f"model/loss={kind}")
    with fake_cuda(answer) as decisions:
        on_cuda(module)
        checked(*module.loss(cut_outs(6)))
        # Whether anything is masked, and what.
        assert decisions.waits <= 2
        module.eval()
        batch = {
            name: plane.float() if plane.is_floating_point() else plane
            for name, plane in cut_outs(6).items()
        }
        mean, lower = module.network.gaussian(module.features(batch), batch["scalars"])
        assert mean.device.type == lower.device.type == "cuda"
        assert module.network.distance(module.features(batch)).device.type == "cuda"
        assert module.chi2(batch, mean)[0].device.type == "cuda"
        module.validation_step(batch, 0)


@BOTH
def test_deconvolution_prior(answer):
    module = module_of("deconvolve")
    with fake_cuda(answer) as decisions:
        on_cuda(module)
        checked(*module.loss(torch.ones(6, 48, 48, device="cuda")))
        assert decisions.waits == 0
        module.eval()
        module.validation_step(torch.ones(6, 32, 32, device="cuda"), 0)
        for part in module._validation[0]:
            assert part.device.type == "cpu" and part.shape == (6,)


def test_mask_rcnn():
    """Losses in training and in validation, detections."""
    module = module_of("segment_ground")
    with fake_cuda():
        on_cuda(module)
        checked(*module.loss(detections(2)))
        module.eval()
        losses = module._losses(*detections(2))
        assert {value.device.type for value in losses.values()} == {"cuda"}
        for found in module.network(detections(2)[0]):
            assert {value.device.type for value in found.values()} == {"cuda"}


@BOTH
def test_detection(answer):
    """The loaded Mask R-CNN, for images of one size."""
    network = tiny_network()
    with fake_cuda(answer):
        for found in on_cuda(network)(detections(2)[0]):
            assert {value.device.type for value in found.values()} == {"cuda"}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimisers(name):
    """A step with gradients where the weights are."""
    module = module_of("deconvolve", f"model.optimiser.name={name}")
    with fake_cuda(True):  # step 0 would divide by 0
        on_cuda(module)
        optimiser = module.configure_optimizers()["optimizer"]
        for weight in module.parameters():
            weight.grad = torch.zeros_like(weight)
        optimiser.step()
        state = [value for entry in optimiser.state.values() for value in entry.values()]
        assert {value.device.type for value in state if value.ndim} == {"cuda"}
