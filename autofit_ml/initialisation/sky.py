"""The sky that starts are measured against."""

from __future__ import annotations

import numpy as np

from autofit_ml.images.stamp import Stamp
from autofit_ml.segmentation.result import Segmentation

__all__ = ["sky_of"]


def sky_of(stamp: Stamp, segmentation: Segmentation, good: np.ndarray) -> tuple[float, float]:
    """Level and scatter, with stand-ins where the segmentation found no sky."""
    sky, rms = segmentation.sky_level, segmentation.sky_rms
    if not (np.isfinite(sky) and np.isfinite(rms) and rms > 0):
        values = stamp.data[good] if good.any() else stamp.data.ravel()
        noise = stamp.sigma[good] if good.any() else stamp.sigma.ravel()
        if not np.isfinite(sky):
            sky = float(np.percentile(values, 5))
        if not (np.isfinite(rms) and rms > 0):
            rms = float(np.median(noise))
    return float(sky), float(rms)
