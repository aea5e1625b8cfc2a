"""Instance labels, and the truth of each source once it is drawn.

The mask of a source is an isophote: the pixels where its own noise-free light exceeds a number of
sigma of the sky. Where several exceed it, the pixel belongs to the brightest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.simulation.objects import SOURCE_DTYPE, Artefact, SimulatedObject, SourceLight
from autofit_ml.simulation.sources import Source

__all__ = ["add_light", "described", "flags_by_construction", "instance_labels", "source_truth"]


def add_light(image: np.ndarray, light: SourceLight) -> None:
    """Add one source's light to an image, in place."""
    image[_box(light)] += light.data


def _box(light: SourceLight) -> tuple[slice, slice]:
    height, width = light.data.shape
    return slice(light.y0, light.y0 + height), slice(light.x0, light.x0 + width)


def instance_labels(
    lights: Sequence[SourceLight], shape: tuple[int, int], level: float
) -> np.ndarray:
    """Instance masks as one label image.

    Parameters
    ----------
    lights : sequence of SourceLight
        Noise-free, PSF-convolved.
    shape : tuple of int
        (ny, nx).
    level : float
        Isophote, image units per pixel.

    Returns
    -------
    ndarray, int32, shape (ny, nx)
        0, or i + 1 where source i is above `level` and the brightest.
    """
    labels = np.zeros(shape, dtype=np.int32)
    brightest = np.full(shape, level, dtype=np.float32)
    for i, light in enumerate(lights):
        box = _box(light)
        own = light.data > brightest[box]
        labels[box][own] = i + 1
        brightest[box][own] = light.data[own]
    return labels


def source_truth(
    sources: Sequence[Source],
    lights: Sequence[SourceLight],
    labels: np.ndarray,
    total: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
    zeropoint: float,
    detectable: Sequence[bool] | None = None,
) -> np.ndarray:
    """Truth of each source.

    Parameters
    ----------
    sources, lights : sequences of the same length
    labels : ndarray, int32, shape (ny, nx)
    total : ndarray, shape (ny, nx)
        Light of all sources together, without sky.
    sigma, mask : ndarray, shape (ny, nx)
    zeropoint : float
    detectable : sequence of bool, optional

    Returns
    -------
    ndarray of `SOURCE_DTYPE`
    """
    truth = np.zeros(len(sources), dtype=SOURCE_DTYPE)
    counts = np.bincount(labels.ravel(), minlength=len(sources) + 1)
    for i, (source, light) in enumerate(zip(sources, lights, strict=True)):
        box, row = _box(light), truth[i]
        good = ~mask[box]
        row["snr"] = np.sqrt(np.sum(np.square(light.data / sigma[box], dtype=float)[good]))
        radius = source.elliptical_radius(light.data.shape, (light.y0, light.x0))
        row["blend_fraction"] = np.nan
        if radius.size:
            # A thin galaxy may pass between pixel centres.
            inside = radius <= max(source.re, 1.0, float(radius.min()))
            light_inside = max(float(total[box][inside].sum(dtype=float)), 0.0)
            own = float(light.data[inside].sum(dtype=float))
            row["blend_fraction"] = np.clip(1 - own / light_inside, 0, 1) if light_inside else 0.0
        row["kind"] = source.kind
        for name in ("x", "y", "flux", "re", "n", "q", "pa"):
            row[name] = getattr(source, name)
        row["mag"] = zeropoint - 2.5 * np.log10(source.flux)
    truth["source"] = np.arange(len(sources))
    truth["n_pixels"] = counts[1 : len(sources) + 1]
    truth["detectable"] = True if detectable is None else detectable
    return truth


def described(
    sources: Sequence[Source],
    lights: Sequence[SourceLight],
    total: np.ndarray,
    detectable: Sequence[bool] | None = None,
    *,
    isophote: float,
    sigma: np.ndarray,
    **known: Any,
) -> SimulatedObject:
    """An object with everything that follows from its light: labels, truth, S/N, flags.

    Parameters
    ----------
    sources, lights : sequences of the same length
        The target first, in a stamp.
    total : ndarray, shape (ny, nx)
        Light of all sources together, without sky.
    detectable : sequence of bool, optional
    isophote : float
        Of the instance masks, in units of ``sky_rms``.
    sigma : ndarray, shape (ny, nx)
    **known
        The other attributes of `SimulatedObject`.
    """
    mask, bits = known["mask"], known["artefacts"]
    labels = instance_labels(lights, total.shape, isophote * known["sky_rms"])
    truth = source_truth(
        sources, lights, labels, total, sigma, mask, known["zeropoint"], detectable
    )
    flags, snr = Flag(0), float("nan")
    if known.get("kind", "stamp") == "stamp":
        saturated = (bits & (Artefact.SATURATED | Artefact.BLEED)) > 0
        correlated = known["correlation"] is not None
        flags = flags_by_construction(sources[0], truth[0], labels, mask, saturated, correlated)
        snr = float(truth["snr"][0])
    return SimulatedObject(
        **known,
        sigma=sigma.astype(np.float32),
        sources=tuple(sources),
        labels=labels,
        truth=truth,
        snr=snr,
        flags=int(flags),
    )


def flags_by_construction(
    target: Source,
    truth: np.ndarray,
    labels: np.ndarray,
    mask: np.ndarray,
    saturated: np.ndarray,
    correlated: bool,
) -> Flag:
    """`Flag` bits that hold for a stamp's target whatever a fit finds.

    `truth` is the target's row, `saturated` a boolean image.
    """
    blend = float(truth["blend_fraction"])
    radius = target.elliptical_radius(mask.shape)
    inside = radius <= max(target.re, 1.0, float(radius.min()))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    holds = {
        # 5 % of the target's own light inside re
        Flag.BLENDED: blend / max(1 - blend, 1e-9) > 0.05,
        Flag.EDGE: np.any(border == 1),
        Flag.CENTRE_MASKED: mask[inside].mean() > 0.5,
        Flag.SATURATED: np.any(saturated[radius <= max(2 * target.re, 1.0)]),
        Flag.CORRELATED_NOISE: correlated,
        Flag.POINT_SOURCE: target.is_star,
        Flag.LOW_SNR: truth["snr"] < 10,
    }
    return Flag(sum(int(flag) for flag, true in holds.items() if true))
