"""Stars of an epoch: what they say of its PSF, and how bright they are beside the reference."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.difference.photometry import psf_at, with_pixel
from autofit_ml.errors import InputError
from autofit_ml.images.psf_error import with_errors
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.measure import find_stars, psf_fwhm

__all__ = ["Scale", "Stars", "common_stars", "measure_stars", "relative_scale"]

_FEWEST = 3
"""Stars that a photometric scale, or a PSF, is measured with, at least."""

_MOST = 200
_BRIGHT = 20.0
"""S/N of a star that is used."""

_OFF = 4.0
"""Standard deviations from the others at which a star is no star."""

_ROUNDS = 2
"""Corrections of a PSF: its changes are linear only where they are small."""


@dataclass(frozen=True)
class Stars:
    """Stars measured with the PSF that they show.

    Attributes
    ----------
    flux, error : ndarray, (n,)
        NaN where a star could not be measured.
    width : float
        1-sigma error of the PSF before the stars were looked at (`with_errors`).
    change : ndarray, (k,)
        Changes of the PSF that the stars ask for, in units of its `PSF.modes`.
    covariance : ndarray, (k, k)
        Of these, with the scatter from star to star: the PSF of a source is that of one star.
    response : ndarray, (k,)
        Relative change of a star's flux by each: what a change of the PSF does to the scale.
    """

    flux: np.ndarray
    error: np.ndarray
    width: float
    change: np.ndarray
    covariance: np.ndarray
    response: np.ndarray

    def corrected(self, psf: PSF, *, scaled: bool = True) -> PSF:
        """The PSF as the stars show it; its modes are what they leave unknown.

        `scaled`: fluxes are counted in those of the stars, so that a change that makes these
        brighter makes everything else fainter.
        """
        bent = with_errors(psf, self.width, 0.0)
        if bent.modes is None:
            return psf
        modes = bent.modes.astype(float)
        data = psf.data + np.tensordot(self.change, modes, 1)
        if scaled:
            modes = modes - self.response[:, None, None] * data
        values, vectors = np.linalg.eigh(self.covariance)
        spread = vectors * np.sqrt(values.clip(min=0))
        return dataclasses.replace(
            psf,
            data=data.astype(np.float32),
            modes=np.tensordot(spread.T, modes, 1).astype(np.float32),
        )


def common_stars(frame: Frame, reference: Frame) -> tuple[np.ndarray, np.ndarray] | None:
    """x and y of the reference's stars in both images, (2, n) each; None if they are too few."""
    try:
        x, y = find_stars(reference.data, reference.sigma, reference.mask)[:_MOST, :2].T
    except InputError:
        return None
    if len(x) < _FEWEST:
        return None
    if frame.wcs is not None and reference.wcs is not None:
        there = pixel_positions(frame.wcs, *sky_positions(reference.wcs, x, y))
    elif frame.data.shape == reference.data.shape:
        there = x, y
    else:
        return None
    return np.array(there), np.array([x, y])


def measure_stars(frame: Frame, places: np.ndarray | None, width: float) -> Stars:
    """Measure fluxes of stars, and changes of the frame's PSF that they have in common.

    Each star has a flux, a position and a sky of its own; all share the changes of the PSF.

    Parameters
    ----------
    frame : Frame
        With a PSF.
    places : ndarray, (2, n), or None
        x and y; None: no stars.
    width : float
        1-sigma error of the PSF, as of `with_errors`. 0, or a PSF that has modes of its own: the
        stars are measured with it as it is.

    Returns
    -------
    Stars
    """
    if frame.psf is None:
        raise InputError("no PSF", "give one", frame.file)
    given = with_errors(frame.psf, width, 0.0).modes
    k = 0 if given is None else len(given)
    free = k > 0 and frame.psf.modes is None
    nothing = np.zeros(0)
    out = Stars(nothing, nothing, width, np.zeros(k), np.eye(k), np.zeros(k))
    if places is None:
        return out
    for step in range(_ROUNDS + 1):
        same = None if frame.varying_psf is not None else _stack(frame.psf, out)
        measured = [_measured(frame, out, x, y, same) for x, y in places.T]
        flux, error = np.array([one[:2] for one in measured], float).T
        with np.errstate(invalid="ignore"):
            good = flux > _BRIGHT * error
        out = dataclasses.replace(out, flux=flux, error=error)
        if not k or good.sum() < _FEWEST:
            break
        change, told, response = (
            np.array([one[n] for one, use in zip(measured, good, strict=True) if use])
            for n in (2, 3, 4)
        )
        out = dataclasses.replace(out, response=np.median(response, 0))
        if not free or step == _ROUNDS:
            break
        more, covariance = _together(change, told, -out.change)
        out = dataclasses.replace(out, change=out.change + more, covariance=covariance)
    return out


def _measured(
    frame: Frame, known: Stars, x: float, y: float, stack: torch.Tensor | None
) -> tuple[float, float, np.ndarray, np.ndarray, np.ndarray]:
    """Flux and error of a star, changes of the PSF by it alone, their covariance, response.

    `stack`: the PSF and its changes (`_stack`) where they are the same everywhere.
    """
    k = len(known.change)
    none = math.nan, math.nan, np.zeros(k), np.eye(k), np.zeros(k)
    if not (math.isfinite(x) and math.isfinite(y)):
        return none
    psf = frame.psf_at(x, y)
    # Near the core: light of neighbours, and wings, differ with the seeing.
    reach = max(4, round(1.25 * psf_fwhm(psf) / psf.oversampling))
    column, row = round(x), round(y)
    ny, nx = frame.data.shape
    if not (reach <= column < nx - reach and reach <= row < ny - reach):
        return none
    window = np.s_[row - reach : row + reach + 1, column - reach : column + reach + 1]
    good = ~frame.mask[window]
    if good[reach - 3 : reach + 4, reach - 3 : reach + 4].mean() < 1:
        return none
    if stack is None:
        stack = _stack(psf, known)
    right, down = torch.tensor([[x - column], [y - row]], dtype=torch.float64)
    images = psf_at(stack, right, down, oversampling=psf.oversampling)[0].numpy()
    shape, *bent, by_x, by_y = (_cut(image, reach)[good] for image in images)
    design = np.stack([shape, by_x, by_y, np.ones(good.sum())], -1)
    noise = frame.sigma[window][good].astype(float) ** 2
    # All pixels weigh alike, as the source's do where the sky is brighter than it is.
    inverse = np.linalg.pinv(design)
    data = frame.data[window][good].astype(float)
    values = inverse @ data
    flux, error = values[0], math.sqrt(float(inverse[0] ** 2 @ noise))
    if not k:
        return flux, error, *none[2:]
    response = np.array([inverse[0] @ one for one in bent])
    across = flux * np.array([one - design @ (inverse @ one) for one in bent])
    solved = np.linalg.pinv(across.T)
    return flux, error, solved @ (data - design @ values), (solved * noise) @ solved.T, response


def _stack(psf: PSF, known: Stars) -> torch.Tensor:
    """The PSF as it is known, its changes, and its derivatives by x and y."""
    modes = with_errors(psf, known.width, 0.0).modes
    parts = [] if modes is None else list(modes.astype(float))
    data = psf.data + sum(c * one for c, one in zip(known.change, parts, strict=True))
    moved = with_errors(dataclasses.replace(psf, data=data, modes=None), 0.0, 1.0).modes
    images = [data, *parts, *([] if moved is None else moved)]
    return torch.as_tensor(
        np.stack([with_pixel(dataclasses.replace(psf, data=one)) for one in images])
    )


def _cut(image: np.ndarray, reach: int) -> np.ndarray:
    """The middle of an image, with zeros beyond it, (2 reach + 1, 2 reach + 1)."""
    wide = np.pad(image, [(max(0, reach - side // 2),) * 2 for side in image.shape])
    y, x = (side // 2 for side in wide.shape)
    return wide[y - reach : y + reach + 1, x - reach : x + reach + 1]


def _together(
    change: np.ndarray, covariance: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Changes (k,) by all stars and a unit Gaussian about `prior`, and their covariance.

    Parameters
    ----------
    change : ndarray, (n, k)
    covariance : ndarray, (n, k, k)
    """
    one = np.eye(len(prior))
    scatter, mean, spread = 0.0, np.median(change, 0), one
    own = np.einsum("nii->ni", covariance)
    for _ in range(10):
        weight = np.linalg.inv(covariance + scatter * one)
        keep = np.einsum("ni,nij,nj->n", change - mean, weight, change - mean)
        keep = keep < len(prior) * _OFF**2
        spread = np.linalg.inv(weight[keep].sum(0) + one)
        mean = spread @ (np.einsum("nij,nj->i", weight[keep], change[keep]) + prior)
        share = (own[keep] + scatter) ** -2
        excess = share * ((change[keep] - mean) ** 2 - own[keep])
        scatter = max(float(excess.sum() / share.sum()), 0.0) if keep.any() else scatter
    return mean, spread + scatter * one


@dataclass(frozen=True)
class Scale:
    """Flux in an image of a source with flux 1 in the reference.

    Attributes
    ----------
    value, error : float
    how : str
        "stars", "zero points", "kernel" or "none".
    number : int
        Stars.
    """

    value: float
    error: float
    how: str
    number: int = 0


def relative_scale(
    frame: Frame, mine: Stars, reference: Frame, theirs: Stars, how: str = "auto"
) -> Scale | None:
    """The scale of an image by stars measured in both (`measure_stars`), or by zero points.

    Returns
    -------
    Scale or None
        None where neither stars nor zero points tell (`how` "auto").

    Raises
    ------
    InputError
        They do not, and `how` is "stars" or "zeropoints".
    """
    if how in ("auto", "stars"):
        found = _by_stars(mine, theirs)
        if found is not None:
            return found
    if how in ("auto", "zeropoints"):
        value = 10 ** (0.4 * (frame.zeropoint - reference.zeropoint))
        if math.isfinite(value):
            return Scale(value, 0.0, "zero points")
    if how == "auto":
        return None
    what = f"fewer than {_FEWEST} good stars in common" if how == "stars" else "no zero points"
    raise InputError(f"{what} with {reference.id}", "use --scale auto", frame.file)


def _by_stars(mine: Stars, theirs: Stars) -> Scale | None:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mine.flux / theirs.flux
        error = np.abs(ratio) * np.hypot(mine.error / mine.flux, theirs.error / theirs.flux)
        good = (mine.flux > _BRIGHT * mine.error) & (theirs.flux > _BRIGHT * theirs.error)
    good &= np.isfinite(ratio)
    ratio, error = ratio[good], error[good]
    excess = 0.0
    for _ in range(5):
        if len(ratio) < _FEWEST:
            return None
        middle = np.median(ratio)
        excess = max((1.4826 * np.median(np.abs(ratio - middle))) ** 2 - np.median(error) ** 2, 0.0)
        keep = np.abs(ratio - middle) < _OFF * np.sqrt(error**2 + excess)
        if keep.all():
            break
        ratio, error = ratio[keep], error[keep]
    weight = 1 / (error**2 + excess)
    return Scale(
        float((weight * ratio).sum() / weight.sum()), float(weight.sum() ** -0.5), "stars",
        len(ratio),
    )  # fmt: skip
