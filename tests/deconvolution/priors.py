"""Observations and exact priors for the tests of the samplers."""

from __future__ import annotations

import numpy as np
import torch

from autofit_ml.deconvolution.diffusion import Draws
from autofit_ml.deconvolution.operator import Observation, observe
from autofit_ml.images.psf import gaussian_psf
from autofit_ml.images.stamp import PSF, Stamp
from benchmarks.analytic_priors import GaussianPrior

SIDE = 32


def draws(seed: int, objects: int = 1) -> Draws:
    """Random numbers of some objects."""
    return Draws(seed, torch.arange(objects))


def stamp_of(
    data: np.ndarray, *, fwhm: float = 4.0, sigma: float | np.ndarray = 1.0, **changes
) -> Stamp:
    """A stamp with a Gaussian PSF and white noise."""
    values = {
        "id": "one",
        "data": np.asarray(data, np.float32),
        "sigma": np.broadcast_to(np.float32(sigma), data.shape).copy(),
        "mask": np.zeros(data.shape, bool),
        "psf": gaussian_psf(fwhm),
    }
    return Stamp(**{**values, **changes})


def delta_psf() -> PSF:
    """The target PSF itself: the data are the sharp image."""
    from autofit_ml.deconvolution.target import target_psf

    return target_psf()


def observed(
    truth: torch.Tensor, seed: int, *, oversampling: int = 1, mask: np.ndarray | None = None, **psf
) -> tuple[Observation, Stamp]:
    """Noisy data of a sharp image (G, G), periodic: nothing lies outside the stamp."""
    side = truth.shape[-1] // oversampling
    mask = np.zeros((side, side), bool) if mask is None else mask
    empty = stamp_of(np.zeros((side, side)), mask=mask, **psf)
    operator = observe([empty], oversampling=oversampling, side=truth.shape[-1])
    rng = np.random.default_rng(seed)
    clean = operator.forward(truth[None, None] / float(operator.noise[0]))[0, 0].numpy()
    data = clean * float(operator.noise[0]) + empty.sigma * rng.normal(size=clean.shape)
    stamp = empty.replace(data=data.astype(np.float32))
    return observe([stamp], oversampling=oversampling, side=truth.shape[-1]), stamp


def power_law(side: int = SIDE, level: float = 4000.0) -> torch.Tensor:
    """A power spectrum that falls from far above the noise to below it."""
    ky = 2 * np.pi * torch.fft.fftfreq(side)
    kx = 2 * np.pi * torch.fft.rfftfreq(side)
    k = torch.hypot(ky[:, None], kx[None, :])
    return (level / (1 + (k / 0.3) ** 2) ** 2).float()


def gaussian_prior(side: int = SIDE) -> GaussianPrior:
    """A blob with scatter."""
    along = torch.arange(side) - (side - 1) / 2
    mean = 30 * torch.exp(-(along[:, None] ** 2 + along[None, :] ** 2) / 18)
    return GaussianPrior(mean, power_law(side))
