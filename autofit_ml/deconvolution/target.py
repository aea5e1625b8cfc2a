r"""The target PSF: what "sharp" means.

A Gaussian that contains the output pixel, of `TARGET_FWHM` output pixels. It is sampled at the
pixels' centres and read as the band-limited function through these samples, like every PSF image
of the package (`autofit_ml.simulation.draw`); so its transform is

.. math:: T(k) = t(k_x)\, t(k_y), \qquad
    t(k) = \sum_n e^{-n^2 / 2 \sigma^2} \cos(k n) \Big/ \sum_n e^{-n^2 / 2 \sigma^2}.
"""

import functools
import math

import numpy as np
import torch

from autofit_ml.images.stamp import PSF

__all__ = [
    "LARGEST_RADIUS",
    "TARGET_FWHM",
    "TRANSFER_LIMIT",
    "WIDEST_PSF",
    "sigma_of",
    "target_psf",
    "target_transfer",
]

TARGET_FWHM = 2.0
"""FWHM of the Gaussian target PSF, pixel included, in output pixels. Weights are made for it."""

WIDEST_PSF = 12.0
"""Widest PSF that weights are trained for, FWHM in output pixels."""

LARGEST_RADIUS = 18.0
"""99 % of the galaxies that weights are trained for are smaller. Circularised half-light radius in
output pixels (`summary.half_light_radius`); measured by ``benchmarks/deconvolution.py sizes``."""

TRANSFER_LIMIT = 1.5
"""Largest modulus of a transfer from the target image to the data. A PSF with more power than the
target has it in the corners of the band only, where the target keeps a thousandth of the light."""


def sigma_of(fwhm: float) -> float:
    """Standard deviation of a Gaussian."""
    return fwhm / (2 * math.sqrt(2 * math.log(2)))


@functools.cache
def target_psf(fwhm: float = TARGET_FWHM) -> PSF:
    """The target PSF as an image."""
    half = math.ceil(6 * sigma_of(fwhm)) + 1
    profile = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma_of(fwhm)) ** 2)
    image = np.outer(profile, profile)
    return PSF((image / image.sum()).astype(np.float32), source="analytic")


def target_transfer(ky: torch.Tensor, kx: torch.Tensor, fwhm: float = TARGET_FWHM) -> torch.Tensor:
    """T at frequencies in radians per output pixel, broadcast."""
    sigma = sigma_of(fwhm)
    half = math.ceil(8 * sigma) + 1
    n = torch.arange(-half, half + 1, dtype=torch.float64)
    weight = torch.exp(-0.5 * (n / sigma) ** 2)
    weight = (weight / weight.sum()).to(ky.device)
    n = n.to(ky.device)

    def along(k: torch.Tensor) -> torch.Tensor:
        return (torch.cos(k.double()[..., None] * n) * weight).sum(-1)

    return along(ky) * along(kx)
