"""Non-parametric morphology of an object and, in the same way, of its model: by statmorph.

In: a stamp, its segmentation and its fit. Out: columns of the catalogue. Masks are those of the
fit, sky and neighbours are taken off; the model has its PSF, and noise as the noise plane says,
so that what noise and seeing do to a measure they do to both.
"""

import math
import warnings
import zlib
from typing import Any

import numpy as np
from scipy import ndimage

from autofit_ml.catalogue import Column
from autofit_ml.images.stamp import Stamp
from autofit_ml.runs.object_fit import Drawn, ObjectFit
from autofit_ml.segmentation import Segmentation

__all__ = ["COLUMNS", "morphology"]

_MEASURES = {
    "petro_circ": ("rpetro_circ", "pix", "Petrosian radius (eta = 0.2) in circles"),
    "petro_ellip": ("rpetro_ellip", "pix", "Petrosian semi-major axis (eta = 0.2) in ellipses"),
    "r20": ("r20", "pix", "Radius of 20 % of the light within 1.5 Petrosian radii"),
    "r50": ("r50", "pix", "Radius of half of the light within 1.5 Petrosian radii"),
    "r80": ("r80", "pix", "Radius of 80 % of the light within 1.5 Petrosian radii"),
    "half_ellip": ("rhalf_ellip", "pix", "Half-light semi-major axis of the curve of growth"),
    "concentration": ("concentration", "", "Concentration 5 log10(r80 / r20)"),
    "asymmetry": ("asymmetry", "", "Asymmetry of 180 degrees, less that of the sky"),
    "smoothness": ("smoothness", "", "Clumpiness (smoothness), less that of the sky"),
    "gini": ("gini", "", "Gini coefficient of the pixels' light"),
    "m20": ("m20", "", "Second moment of the brightest 20 % of the light, logarithm of the share"),
}
"""Column -> (name in statmorph, unit, meaning)."""

COLUMNS = (
    *(Column(name, "float64", unit, text) for name, (_, unit, text) in _MEASURES.items()),
    *(
        Column(f"{name}_model", "float64", unit, f"Of the model with PSF and noise: {text}")
        for name, (_, unit, text) in _MEASURES.items()
    ),
    Column("morphology_flag", "int32", "", "Of statmorph: 0 good, 1 suspect, 2 bad, 4 failed"),
)

_GROWN = 2
"""Pixels by which the footprint of the target is grown: statmorph wants its faint parts too."""


def morphology(stamp: Stamp, segmentation: Segmentation, fit: ObjectFit) -> dict[str, Any]:
    """Columns of one object; nothing where it has no fit or no footprint."""
    drawn = fit.drawn[0] if fit.drawn else None
    own = segmentation.labels == segmentation.target
    if drawn is None or not segmentation.target or not own.any():
        return {"morphology_flag": 4}
    left_out = fit.masked[0]
    mask = stamp.mask if left_out is None else stamp.mask | left_out
    own = ndimage.binary_dilation(own, iterations=_GROWN) & ~(mask & ~own)
    target, light = _light(stamp, drawn)
    random = np.random.default_rng(zlib.crc32(stamp.id.encode()))
    noise = random.standard_normal(target.shape) * stamp.sigma
    data = _measured(light, own, mask, stamp)
    model = _measured(target + noise, own, mask, stamp)
    return {
        **{name: value for name, value in data.items() if name != "flag"},
        **{f"{name}_model": value for name, value in model.items() if name != "flag"},
        "morphology_flag": int(data["flag"]),
    }


def _light(stamp: Stamp, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """The model of the target alone, and the data without sky and neighbours."""
    target = np.asarray(np.sum(drawn.components, axis=0, dtype=np.float64))
    return target, stamp.data - (drawn.model.astype(np.float64) - target)


def _measured(
    image: np.ndarray, own: np.ndarray, mask: np.ndarray, stamp: Stamp
) -> dict[str, float]:
    """Numbers of one image; NaN where statmorph has none."""
    from statmorph import SourceMorphology

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = SourceMorphology(
                np.where(mask, 0.0, image),
                own.astype(np.int32),
                1,
                mask=mask,
                weightmap=np.asarray(stamp.sigma, np.float64),
                sersic_fitting_args={"maxiter": 1},  # its own profile is not used
            )
            values = {name: float(found[key]) for name, (key, *_) in _MEASURES.items()}
            flag = float(found.flag)
        except Exception:  # whatever a strange image makes it raise: no measures
            values, flag = dict.fromkeys(_MEASURES, -99.0), 4.0
    good = {n: v if math.isfinite(v) and v != -99.0 else math.nan for n, v in values.items()}
    return good | {"flag": flag}
