"""Pairs of simulated images of stars, and what changed between them."""

from dataclasses import dataclass

import numpy as np

from autofit_ml.images.stamp import Frame


def stars(places, fluxes, fwhm, shape):
    """Gaussian stars at (n, 2) x and y."""
    s, out = fwhm / 2.3548, np.zeros(shape)
    for (x, y), flux in zip(places, fluxes, strict=True):
        rows = np.arange(max(0, int(y) - 25), min(shape[0], int(y) + 26))
        columns = np.arange(max(0, int(x) - 25), min(shape[1], int(x) + 26))
        ry = np.exp(-0.5 * ((rows - y) / s) ** 2)
        rx = np.exp(-0.5 * ((columns - x) / s) ** 2)
        out[np.ix_(rows, columns)] += flux / (2 * np.pi * s * s) * ry[:, None] * rx[None, :]
    return out


def gaussian(fwhm, half=20):
    return stars([(half, half)], [1.0], fwhm, (2 * half + 1, 2 * half + 1))


@dataclass(frozen=True)
class Pair:
    science: Frame
    reference: Frame
    stars: np.ndarray  # (n, 2)
    fluxes: np.ndarray  # (n,), in the reference
    new: np.ndarray  # (m, 3): x, y, flux


def frame(name, data, variance, **more):
    mask = np.zeros(data.shape, bool)
    return Frame(name, data.astype(np.float32), np.sqrt(variance).astype(np.float32), mask, **more)


def pair(seed, size=384, *, scale=0.8, seeing=(3.6, 3.0), sky=(100.0, 100.0), new=25, stars_=70,
         noise=None):  # fmt: skip
    """Science and reference with other seeing and scale, noise of sky and photons."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, size, (stars_, 2))
    fluxes = 10 ** rng.uniform(3, 5, stars_)
    changed = np.c_[rng.uniform(30, size - 30, (new, 2)), rng.uniform(400, 2000, new)]
    light = [
        scale * stars(places, fluxes, seeing[0], (size, size))
        + stars(changed[:, :2], changed[:, 2], seeing[0], (size, size)),
        stars(places, fluxes, seeing[1], (size, size)),
    ]
    rng = rng if noise is None else np.random.default_rng(noise)
    frames = []
    for name, image, level in zip(("science", "reference"), light, sky, strict=True):
        variance = level + image
        noise = rng.normal(size=image.shape) * np.sqrt(variance)
        frames.append(frame(name, image + noise, variance))
    return Pair(*frames, places, fluxes, changed)
