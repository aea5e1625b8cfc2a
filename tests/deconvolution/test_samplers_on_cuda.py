"""The samplers on a GPU: nothing of them is left on the host, and the host hardly waits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("azula")

from fake_cuda import fake_cuda, on_cuda
from weights_bundles import tiny_prior

from autofit_ml.deconvolution import operator
from autofit_ml.deconvolution.diffusion import Draws
from autofit_ml.deconvolution.eps import sample_eps
from autofit_ml.deconvolution.gibbs import sample_gibbs
from autofit_ml.deconvolution.network import InBfloat16
from autofit_ml.deconvolution.operator import Observation, observe
from autofit_ml.deconvolution.prior import sample_prior
from autofit_ml.deconvolution.sampling import _broadened, _distance, _followed
from autofit_ml.deconvolution.spectra import coloured
from autofit_ml.deconvolution.summary import detail_share, half_light_radius, prior_fraction
from autofit_ml.images.psf import moffat_psf
from autofit_ml.images.stamp import Stamp
from autofit_ml.posterior.diagnostics import split_rhat
from benchmarks.analytic_priors import GaussianPrior, TemplatePrior

# Half precision is a matter of values, which there are none of.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available")

SIDE = 48


def stamps(**changes) -> list[Stamp]:
    """Two of one shape."""
    values = {
        "data": np.ones((SIDE, SIDE), np.float32),
        "sigma": np.ones((SIDE, SIDE), np.float32),
        "mask": np.zeros((SIDE, SIDE), bool),
        "psf": moffat_psf(4.0),
        **changes,
    }
    return [Stamp(id=name, **values) for name in "ab"]


def observed(case: str) -> Observation:
    """Objects, on the host: as simple as can be, with another noise, masks, correlated noise."""
    correlation = np.zeros((3, 3))
    correlation[1] = 0.3, 1.0, 0.3
    changes = {
        "plain": {},
        "noise map": {"sigma": np.linspace(1, 2, SIDE**2, dtype=np.float32).reshape(SIDE, SIDE)},
        "masks": {"mask": np.arange(SIDE**2).reshape(SIDE, SIDE) % 7 == 0},
        "correlated": {"noise_correlation": correlation},
        "2x": {},
    }[case]
    times = 2 if case == "2x" else 1
    return observe(stamps(**changes), oversampling=times)


def draws() -> Draws:
    return Draws(0, torch.arange(2, device="cuda"))


# Both sides of every question that is asked of values: masked or not, diagonal or not.
@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize("case", ["plain", "noise map", "masks", "correlated", "2x"])
def test_eps(case, answer, monkeypatch):
    monkeypatch.setattr(operator, "_ITERATIONS", 2)
    network, seen = tiny_prior(), observed(case)
    with fake_cuda(answer) as decisions:
        network, seen = on_cuda(network), on_cuda(seen)
        shape = (2, 3, seen.side, seen.side)
        waits = []
        for steps in (4, 8):
            before = decisions.waits
            drawn, calls = sample_eps(network, seen, 3, draws(), steps=steps)
            assert drawn.device.type == "cuda" and drawn.shape == shape and calls == steps + 1
            waits.append(decisions.waits - before)
        # What the data are like is asked once; the solver stops where all images have converged.
        assert waits[0] <= 2 + (case == "2x") + 5 * 2
        assert waits[1] <= 9 * 2
        if answer and case != "2x":  # uniform noise, nothing folded: nothing to solve
            assert waits[1] == 0


@pytest.mark.parametrize("answer", [False, True])
def test_gibbs(answer):
    network, seen = tiny_prior(), observed("masks")
    with fake_cuda(answer) as decisions:
        network, seen = on_cuda(network), on_cuda(seen)
        start = torch.zeros(2, 4, seen.side, seen.side, device="cuda")
        chain, _ = sample_gibbs(network, seen, start, draws(), sweeps=10, steps=4, keep=10)
        assert chain.device.type == "cuda" and chain.shape == (2, 4, 10, seen.side, seen.side)
        assert decisions.waits == 0
        assert split_rhat(_followed(chain)).device.type == "cuda"


def test_prior_and_what_is_kept():
    """Prior samples, misfit, broader target PSF, the shares that a result states."""
    network, seen = tiny_prior(), observe(stamps()[:1])
    with fake_cuda() as decisions:
        network, seen = on_cuda(network), on_cuda(seen)
        prior = sample_prior(InBfloat16(network), 4, SIDE, draws_of_one(), steps=4, device="cuda")
        assert prior.device.type == "cuda" and prior.shape == (4, SIDE, SIDE)
        assert decisions.waits == 0
        drawn = torch.zeros(1, 4, seen.side, seen.side, device="cuda")
        assert isinstance(_distance(network, seen, drawn[:, :1], draws_of_one()), float)
        assert _broadened(prior, 3.0).device.type == "cuda"
        assert prior_fraction(prior, prior, 1e-3).device.type == "cuda"
        detail_share(prior, 4.0)
        half_light_radius(prior[0])
        assert seen.forward(drawn).device.type == "cuda"


def draws_of_one() -> Draws:
    return Draws(0, torch.zeros(1, dtype=torch.int64, device="cuda"))


def test_priors_with_known_posteriors():
    """Those of tests and examples."""
    seen = observed("plain")
    with fake_cuda():
        seen = on_cuda(seen)
        power = torch.ones(seen.side, seen.side // 2 + 1, device="cuda")
        images = torch.ones(5, seen.side, seen.side, device="cuda")
        for prior in (GaussianPrior(images[0], power), TemplatePrior(images, power)):
            assert sample_eps(prior, seen, 3, draws(), steps=4)[0].device.type == "cuda"
            assert all(part.device.type == "cuda" for part in prior.posterior(seen))


def test_noise_is_the_same_on_every_device():
    """A generator of the host draws for a device too."""
    generator = torch.Generator().manual_seed(0)
    with fake_cuda():
        power = torch.ones(3, 8, 5, device="cuda")
        assert coloured(power, 8, generator).device.type == "cuda"


def test_a_mix_of_devices_is_found():
    """What these tests rest on."""
    seen = observed("plain")
    with fake_cuda(), pytest.raises(Exception, match="same device"):
        on_cuda(seen).forward(torch.zeros(2, 1, 64, 64))
