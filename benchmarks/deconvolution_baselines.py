"""What deconvolution is compared with, each with its best settings: chosen with the truth.

All work on the grid of an `Observation` without double sampling, in units of the noise; `off` is
the squared error of an image (G, G), which decides between settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from autofit_ml.deconvolution.operator import Observation
from autofit_ml.deconvolution.spectra import fft2, grid_of, ifft2
from autofit_ml.deconvolution.target import target_transfer
from autofit_ml.images.stamp import PSF

__all__ = ["mean_power", "richardson_lucy", "total_variation", "wiener"]

Error = Callable[[torch.Tensor], float]


def mean_power(images: torch.Tensor) -> torch.Tensor:
    """Azimuthally averaged power spectrum of images (N, G, G): the mean in each bin of a `Grid`."""
    return fft2(images).flatten(1).abs().square().mean(0) @ grid_of(images.shape[-1]).gather


def wiener(observation: Observation, power: torch.Tensor) -> torch.Tensor:
    """With a power spectrum (BINS,)."""
    side = observation.side
    grid = grid_of(side)
    power = (power.clamp_min(1e-12).log() @ grid.spread).exp().reshape(grid.shape)
    gain = observation.transfer[0, 0]
    seen = fft2(observation.data[0, 0])
    return ifft2(power * gain.conj() / (power * gain.abs().square() + 1) * seen, side)


def richardson_lucy(observation: Observation, psf: PSF, off: Error) -> torch.Tensor:
    """scikit-image's, to the full PSF, seen through the target PSF; best settings.

    Those are the number of iterations, the pedestal (in units of the noise) that is added before
    and subtracted after, and what lies outside the stamp: nothing, or its mirror image. The sky's
    negative pixels must become positive: setting them to 0 alone would add light, and a high
    pedestal makes the method nearly linear.
    """
    from skimage.restoration import richardson_lucy as lucy

    kernel = psf.data.astype(float)
    kernel = kernel / kernel.sum()
    margin = max(kernel.shape) // 2
    data = observation.data[0, 0].numpy().astype(float)
    best, found = math.inf, None
    mirrored = np.pad(data, margin, mode="reflect")
    choices = [(0.0, np.pad(data, margin)), *((level, mirrored) for level in (0.0, 1.0, 4.0, 20.0))]
    for pedestal, padded in choices:
        positive = np.maximum(padded + pedestal, 1e-3)
        top = positive.max()
        for iterations in (1, 2, 4, 7, 12, 20, 35, 60, 100, 200):
            sharp = lucy(positive / top, kernel, num_iter=iterations, clip=False) * top - pedestal
            inner = sharp[margin : margin + len(data), margin : margin + len(data)]
            image = _through_target(torch.from_numpy(inner).float())
            error = off(image)
            if error < best:
                best, found = error, image
    assert found is not None
    return found


def _through_target(image: torch.Tensor) -> torch.Tensor:
    side = image.shape[-1]
    grid = grid_of(side)
    gain = target_transfer(grid.ky, grid.kx).float().reshape(grid.shape)
    return ifft2(fft2(image) * gain, side)


def total_variation(observation: Observation, off: Error) -> torch.Tensor:
    """Accelerated proximal gradients with scikit-image's TV denoiser; best weight."""
    from skimage.restoration import denoise_tv_chambolle

    step = 1 / float(observation.transfer.abs().max() ** 2)
    best, found = math.inf, None
    for weight in (0.1, 0.3, 1.0, 3.0, 10.0):
        x = observation.adjoint(observation.data)
        ahead, t = x, 1.0
        for _ in range(60):
            rest = observation.data - observation.forward(ahead)
            point = (ahead + step * observation.adjoint(rest))[0, 0].numpy()
            new = denoise_tv_chambolle(point, weight=weight * step, max_num_iter=20)
            new = torch.from_numpy(np.asarray(new, np.float32))[None, None]
            t_new = 0.5 * (1 + math.sqrt(1 + 4 * t * t))
            ahead, x, t = new + (t - 1) / t_new * (new - x), new, t_new
        error = off(x[0, 0])
        if error < best:
            best, found = error, x[0, 0]
    assert found is not None
    return found
