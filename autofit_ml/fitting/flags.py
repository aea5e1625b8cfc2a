"""Flags of a fit, and why they are raised."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.geometry import covers_stamp, geometry_flags, target_found
from autofit_ml.fitting.minima import Known
from autofit_ml.fitting.sky_noise import RIGHT, likely_cause
from autofit_ml.scenes.model import Scene

__all__ = ["flags_of", "undetermined", "wrong_noise"]

_BLENDED = 0.05
"""Neighbours' light over the target's, inside re, that raises BLENDED."""

_LEAST_SNR = 10.0

_MAGNITUDE = 2.5 / math.log(10)
_LARGEST_SIZE_ERROR, _LARGEST_MAG_ERROR = 0.5, 0.5
"""re_err / re and mag_err above which UNDETERMINED is raised."""

_LEAST_LIGHT = 0.5
"""Share of the flux in the stamp below which EXTRAPOLATED is raised."""


def flags_of(
    batch: SceneBatch,
    scene: Scene,
    known: Known,
    of: dict[str, np.ndarray],
    values: np.ndarray,
    errors: np.ndarray,
    blend: float,
    k: int,
) -> tuple[int, str]:
    """Flags of object k, and why the fit is not of the target ("" where it is)."""
    row, main = int(known.minima.rows[k]), known.main[k]
    member, ellipse = batch.members[row], known.ellipses[k]
    reference, found, masked = member.object.reference, member.object.segmentation, member.masked
    flags = geometry_flags(reference, found, masked, *ellipse)
    flags |= _size_flags(known.names, values, errors, known.target[main], of["light"][main])
    there, lost = of["snr"] > _LEAST_SNR and not flags & Flag.UNDETERMINED, ""
    if not scene.has_positions:
        lost = target_found(reference, found, masked, *ellipse[:2], significant=bool(there))
    present = np.isfinite(values) | bool(batch.missing(row))
    finite = bool(np.isfinite(of["theta_cov"]).all() and present.all())
    filled = covers_stamp(reference, found, masked)
    ndof = int(of["n_pix"]) - int(of["n_free"])
    left = of["misfit"] - of["allowed"] * max(ndof, 1) / of["n_pix"]
    much = 5 * of["spread"]
    for raised, flag in (
        (not of["settled"], Flag.NOT_CONVERGED),
        (of["held"], Flag.AT_BOUND),
        (bool(lost), Flag.NO_TARGET),
        (not (of["good"] and finite), Flag.BAD_COVARIANCE),
        (of["correlated"], Flag.CORRELATED_NOISE),
        (of["snr"] < _LEAST_SNR, Flag.LOW_SNR),
        (blend > _BLENDED, Flag.BLENDED),
        (abs(left) > much, Flag.POOR_FIT),
        (filled, Flag.EXTRAPOLATED),
        (filled and (left > much or ellipse[2] > min(reference.shape) / 4), Flag.UNDETERMINED),
        (_bad(of["scatter"]).any(), Flag.BAD_SIGMA),
    ):
        flags |= int(flag) if raised else 0
    return flags, lost


def _size_flags(
    names: tuple[str, ...], values: np.ndarray, errors: np.ndarray, main: str, light: float
) -> int:
    """UNDETERMINED and EXTRAPOLATED of the main component, `light` of which is in the stamp."""
    flags = Flag.UNDETERMINED if undetermined(names, values, errors, main) else Flag(0)
    place = _places(names)
    if f"{main}.re" in place and light < _LEAST_LIGHT * values[place[f"{main}.flux"]]:
        flags |= Flag.EXTRAPOLATED
    return int(flags)


def undetermined(names: tuple[str, ...], values: np.ndarray, errors: np.ndarray, main: str) -> bool:
    """True if the errors say that the data do not tell size or magnitude of a component."""
    place = _places(names)
    limits = {"flux": _LARGEST_MAG_ERROR / _MAGNITUDE, "re": _LARGEST_SIZE_ERROR}
    known = [(place[f"{main}.{n}"], most) for n, most in limits.items() if f"{main}.{n}" in place]
    return any(errors[j] > most * values[j] for j, most in known)


@lru_cache(maxsize=64)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    """Place of each parameter in the first image."""
    return {name.partition("[")[0]: j for j, name in reversed(list(enumerate(names)))}


def _bad(scatter: np.ndarray) -> np.ndarray:
    """Images whose noise plane is not the noise (not those where that is not known)."""
    return (scatter < RIGHT[0]) | (scatter > RIGHT[1])


def wrong_noise(batch: SceneBatch, row: int, scatter: np.ndarray, correlated: bool) -> list[str]:
    """Messages about an object's noise planes."""
    out = []
    member = batch.members[row]
    for i, stamp in enumerate(member.object.stamps):
        if stamp is None:
            continue
        band = f"{batch.layout.bands[i]}: " if batch.layout.n_images > 1 else ""
        if not math.isfinite(scatter[i]):
            number = int(batch.empty(i)[row].sum())
            out.append(f"{band}noise not checked: {number} pixels of sky tell too little")
        if not _bad(scatter)[i]:
            continue
        sky = batch.empty(i)[row]
        sigma = float(np.median(stamp.sigma[sky[: stamp.shape[0], : stamp.shape[1]].cpu().numpy()]))
        cause = likely_cause(
            float(scatter[i]), sigma, gain=stamp.gain, correlated=correlated,
            built=bool(stamp.flags & Flag.SIGMA_ESTIMATED),
            poisson=batch.settings.likelihood.name == "poisson",
        )  # fmt: skip
        out.append(f"{band}sky pixels scatter by {scatter[i]:.3g} of the noise plane; {cause}")
    return out
