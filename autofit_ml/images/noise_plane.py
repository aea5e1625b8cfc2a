"""The noise plane of an image: sigma, whatever it is stored as."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import HduInfo
from autofit_ml.images.planes import OpenFiles, check_shape, plane_array
from autofit_ml.images.roles import NOISE_PLANES
from autofit_ml.measure import clipped_sky, measure_sky

__all__ = ["SENTINEL_VALUE", "read_sigma"]

SENTINEL_SIGMA = 1e10
"""A sigma this large stands for "no weight"."""

SENTINEL_VALUE = 1e30
"""A pixel this large stands for "no data" (SExtractor's and others' convention)."""


def read_sigma(
    planes: Mapping[str, tuple[Path, int | str | None]],
    files: OpenFiles,
    data: np.ndarray,
    mask: np.ndarray,
    image_info: HduInfo,
    messages: list[str],
) -> tuple[np.ndarray | None, bool]:
    """(sigma, estimated) from the preferred noise plane; bad pixels are added to `mask`."""
    present = [role for role in (*NOISE_PLANES, "noise") if role in planes]
    if not present:
        return None, False
    role = present[0]
    if len(present) > 1:
        messages.append(f"several noise planes ({', '.join(present)}): {role} is used")
    values, _, info = plane_array(planes[role], role, files, image_info, messages)
    path = planes[role][0]
    if np.asarray(values).dtype.kind != "f":
        values = np.asarray(values, dtype=np.float64)
    check_shape(values, data.shape, role, path)
    if role == "noise":
        role = _guess_noise_role(values, data, mask)
        if role == "":
            messages.append(f"unnamed HDU {info.index} is not a noise map of the image: not used")
            return None, False
        messages.append(f"unnamed HDU {info.index} taken as {role}: it matches the sky's scatter")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sigma = values if role == "sigma" else np.sqrt(values)
        if role in ("ivar", "wht"):
            sigma = 1.0 / sigma
        bad = ~np.isfinite(sigma) | (sigma <= 0) | (sigma >= SENTINEL_VALUE)
    large = ~bad & (sigma >= SENTINEL_SIGMA)
    if large.any() and not (large | bad).all():
        usual = float(np.median(sigma[~(large | bad)]))
        if usual < 1e-3 * SENTINEL_SIGMA:
            bad |= large
    if bad.all() or not (~bad & ~mask).any():
        raise InputError(
            f"no usable pixel in the {role} plane (zero, negative, NaN or without weight)",
            "give the 1-sigma noise per pixel in image units, or leave the plane out",
            path,
        )
    n_bad = int((bad & ~mask).sum())
    if n_bad:
        messages.append(f"{n_bad} pixels without valid {role} masked")
    mask |= bad
    sigma = np.where(bad, 1.0, sigma)
    return _rescaled_weight(sigma, data, mask, messages) if role == "wht" else (sigma, False)


def _guess_noise_role(values: np.ndarray, data: np.ndarray, mask: np.ndarray) -> str:
    """True if an unnamed plane is ivar, sigma or var: the one whose sky noise fits the image's."""
    good = np.isfinite(values) & (values > 0) & ~mask
    if good.sum() < 100:
        return ""
    sky = measure_sky(data, ~good)
    typical = float(np.median(values[good]))
    if not sky.rms > 0:
        return ""
    ratios = {
        "ivar": sky.rms * math.sqrt(typical),
        "sigma": sky.rms / typical,
        "var": sky.rms / math.sqrt(typical),
    }
    role = min(ratios, key=lambda name: abs(math.log(ratios[name])))
    return role if 0.5 < ratios[role] < 2.0 else ""


def _rescaled_weight(
    sigma: np.ndarray, data: np.ndarray, mask: np.ndarray, messages: list[str]
) -> tuple[np.ndarray, bool]:
    """A weight map may be an exposure map: scale it to the measured sky if it is far off.

    Where the sky is quieter under low weights it is no weight at all: it holds the noise itself.
    """
    sky = measure_sky(data, mask, np.where(mask, np.inf, sigma))
    least, _ = _explains(sigma, data, mask)
    for name, values in (("1-sigma noise", 1.0 / sigma**2), ("variance", 1.0 / sigma)):
        likelihood, scale = _explains(values, data, mask)
        if likelihood > least + 0.05 and 0.8 < scale < 1.25:
            messages.append(f"the weight map is taken as {name}: that is how the sky scatters")
            return values, True
    expected = float(np.median(sigma[~mask]))
    if sky.n_pixels and sky.rms > 0 and not 1 / 3 < sky.rms / expected < 3:
        messages.append(
            f"weight map scaled by {expected / sky.rms:.3g} in sigma to the measured sky scatter: "
            "it is not an inverse variance"
        )
        return sigma * (sky.rms / expected), True
    return sigma, False


def _explains(sigma: np.ndarray, data: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """(log likelihood per sky pixel of a noise map times a factor, the factor that suits best).

    Objects are outliers; at most 100 000 pixels are looked at, and fewer than 500 tell nothing.
    """
    good = ~mask & np.isfinite(sigma) & (sigma > 0)
    some = np.flatnonzero(good)
    some = some[:: math.ceil(some.size / 100_000) or 1]
    if some.size < 500:
        return math.inf, math.nan
    values, noise = data.ravel()[some], sigma.ravel()[some]
    pull = np.abs(values - clipped_sky(values)[0]) / noise
    scale = 1.4826 * float(np.median(pull))
    if not scale > 0:
        return math.inf, math.nan
    cost = np.log(scale * noise) + 0.5 * np.minimum(pull / scale, 4.0) ** 2
    return -float(np.mean(cost)), scale
