r"""Deconvolution without a learned prior: Wiener filter, Richardson-Lucy, total variation.

One image for each stamp, by scikit-image; there is no posterior and no error. All three have a
number that says how far to go: the balance of the Wiener filter, the iterations of Richardson-Lucy,
the weight of the total variation. It is chosen by the discrepancy principle (Morozov 1966): the
least sharp image whose residual is the noise,

.. math:: \frac{1}{N} \sum \left(\frac{d - A x}{\sigma}\right)^2 = 1 ,

which needs the noise map and not the truth. As for the samplers, x is the image with the target
PSF (`target`), so that results can be laid beside each other, and A that of `operator.observe`.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from astropy.convolution import Gaussian2DKernel, interpolate_replace_nans
from skimage import restoration

from autofit_ml.deconvolution.operator import Observation, observe
from autofit_ml.images.stamp import Stamp

__all__ = ["restore"]

_STEPS = 10
"""Halvings of the interval of a balance or weight; it then is known to 3 %."""

_MOST = 1024
"""Most iterations of Richardson-Lucy."""

_FISTA = 25

Restored = tuple[np.ndarray, int]
"""Image on the grid of an observation, and iterations."""


def restore(stamp: Stamp, method: str, *, sky: float = 0.0) -> tuple[np.ndarray, Observation, int]:
    """Deconvolve one stamp.

    Parameters
    ----------
    stamp : Stamp
        Masked pixels are filled from their neighbours.
    method : {"wiener", "richardson-lucy", "tv"}
    sky : float
        Subtracted first, image units.

    Returns
    -------
    image : ndarray, float64, (G, G)
        In units of the noise, on the observation's grid.
    observation : Observation
        Of the stamp alone.
    iterations : int
        Of the method.

    Raises
    ------
    InputError
        The stamp cannot be deconvolved (`operator.observe`).
    """
    observation = observe([stamp], sky=[sky])
    data = _on_the_grid(stamp, observation, sky)
    weight = observation.weight[0, 0].double().numpy()

    def misfit(image: np.ndarray) -> float:
        residual = data - _seen(observation, image)
        return float(np.sum(weight * residual**2) / np.sum(weight > 0))

    work = {"wiener": _wiener, "richardson-lucy": _richardson_lucy, "tv": _total_variation}[method]
    image, iterations = work(data, observation, misfit)
    return image, observation, iterations


def _seen(observation: Observation, image: np.ndarray) -> np.ndarray:
    return observation.forward(torch.from_numpy(image)[None, None])[0, 0].numpy()


def _on_the_grid(stamp: Stamp, observation: Observation, sky: float) -> np.ndarray:
    """The data in units of the noise, gaps filled, mirrored at the edges of the stamp."""
    values = (stamp.data.astype(np.float64) - sky) / float(observation.noise[0])
    values[stamp.mask] = np.nan
    kernel = Gaussian2DKernel(1.5)
    while np.isnan(values).any():
        values = interpolate_replace_nans(values, kernel, boundary="extend")
    (y, x), (ny, nx), side = observation.corner[0], stamp.shape, observation.side
    return np.pad(values, ((y, side - ny - y), (x, side - nx - x)), mode="symmetric")


def _kernel(observation: Observation) -> np.ndarray:
    """Kernel that turns the target PSF into the data's PSF; odd sides, sum 1."""
    side = observation.side
    point = np.zeros((side, side))
    point[side // 2, side // 2] = 1.0
    half = min(side // 2, side - 1 - side // 2)
    centre = slice(side // 2 - half, side // 2 + half + 1)
    kernel = _seen(observation, point)[centre, centre]
    return kernel / kernel.sum()


def _bisected(
    run: Callable[[float], np.ndarray],
    misfit: Callable[[np.ndarray], float],
    ends: tuple[float, float],
) -> np.ndarray:
    """The image at the logarithm of a number between `ends` where the misfit, which grows with it,
    is 1; at an end where it is nowhere."""
    low, high = ends
    image = run(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        tried = run(middle)
        if misfit(tried) <= 1:
            low, image = middle, tried
        else:
            high = middle
    return image


def _wiener(
    data: np.ndarray, observation: Observation, misfit: Callable[[np.ndarray], float]
) -> Restored:
    kernel = _kernel(observation)

    def run(balance: float) -> np.ndarray:
        return np.asarray(restoration.wiener(data, kernel, math.exp(balance), clip=False))

    return _bisected(run, misfit, (-16.0, 8.0)), 1


def _richardson_lucy(
    data: np.ndarray, observation: Observation, misfit: Callable[[np.ndarray], float]
) -> Restored:
    """On data raised until nothing is negative; scikit-image starts from one half everywhere."""
    kernel = np.maximum(_kernel(observation), 0)
    kernel /= kernel.sum()
    pedestal = max(0.0, -float(data.min())) + 1e-3
    scale = float(data.max()) + pedestal

    def run(iterations: int) -> np.ndarray:
        raised = (data + pedestal) / scale
        found = restoration.richardson_lucy(raised, kernel, iterations, clip=False)
        return np.asarray(found) * scale - pedestal

    few, many = 0, 1
    while misfit(image := run(many)) > 1 and many < _MOST:
        few, many = many, 2 * many
    while many - few > max(1, many // 32):
        middle = (few + many) // 2
        tried = run(middle)
        if misfit(tried) <= 1:
            many, image = middle, tried
        else:
            few = middle
    return image, many


def _total_variation(
    data: np.ndarray, observation: Observation, misfit: Callable[[np.ndarray], float]
) -> Restored:
    """Accelerated proximal gradient steps (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2, 183)."""
    lipschitz = float(observation.transfer.abs().square().max())
    start = data

    def run(weight: float) -> np.ndarray:
        nonlocal start
        image = ahead = start
        moment = 1.0
        for _ in range(_FISTA):
            residual = torch.from_numpy(_seen(observation, ahead) - data)[None, None]
            slope = observation.adjoint(residual)[0, 0].numpy()
            step = ahead - slope / lipschitz
            new = restoration.denoise_tv_chambolle(
                step, weight=math.exp(weight) / lipschitz, eps=1e-4, max_num_iter=60
            )
            after = (1 + math.sqrt(1 + 4 * moment**2)) / 2
            ahead = new + (moment - 1) / after * (new - image)
            image, moment = new, after
        start = image
        return image

    return _bisected(run, misfit, (-8.0, 5.0)), _FISTA
