"""True if a noise plane is the noise: how sky pixels scatter, and what else the plane may be."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from autofit_ml.fitting.pixels import pixel_sum

__all__ = ["LEAST_SKY", "RIGHT", "likely_cause", "sky_scatter"]

RIGHT = (0.8, 1.25)
"""Scatter of sky pixels over sigma outside of which the noise plane is not the noise."""

LEAST_SKY = 500
"""Pixels of sky below which that is not judged."""

_SAMPLE = 4096
_APART = 4
"""Pixels between those of a difference: beyond what resampled noise has in common."""

_COUNTS = 0.1
"""Share of sky pixels at exactly their median value above which they are counts (a Gaussian has
as many if its standard deviation is 4 steps)."""

_LEAST_KNOWN = 0.06
"""Error of the scatter of counts above which it is not judged."""

_SAME = 0.07
"""Logarithm of a ratio up to which two noises are the same."""


def sky_scatter(residual: torch.Tensor, data: torch.Tensor, sky: torch.Tensor) -> torch.Tensor:
    """Scatter of sky pixels in units of their sigma, float64, (B,).

    Robust (median absolute deviation, of at most 4096 pixels), since sky has sources that nobody
    detected; where that is not near 1, that of differences between pixels, which light that is
    spread over many hardly enters; of counts of few photons, which have no quartiles, the standard
    deviation.

    Parameters
    ----------
    residual : Tensor, (B, ny, nx)
        (data - model) / sigma.
    data : Tensor, (B, ny, nx)
        Any units.
    sky : Tensor, bool, (B, ny, nx)

    Returns
    -------
    Tensor, float64, (B,)
        NaN with fewer than `LEAST_SKY` pixels, or counts too few to tell.
    """
    number = sky.sum(2).sum(1)
    rank = sky.flatten(1).cumsum(1, dtype=torch.int32)
    step = (number + _SAMPLE - 1).div(_SAMPLE, rounding_mode="floor").clamp_min(1)[:, None]
    wanted = sky.flatten(1) & (rank % step == 0)
    place = torch.where(wanted, rank.div(step, rounding_mode="floor") - 1, _SAMPLE)
    blank = residual.new_full((len(residual), _SAMPLE + 1), torch.nan)
    pulls = blank.scatter(1, place, residual.flatten(1))[:, :-1]
    values = blank.scatter(1, place, data.flatten(1))[:, :-1]
    out = _robust(pulls)
    wrong = ((out < RIGHT[0]) | (out > RIGHT[1])).nonzero()[:, 0]
    if len(wrong):
        both = sky[wrong, :, _APART:] & sky[wrong, :, :-_APART]
        apart = residual[wrong, :, _APART:] - residual[wrong, :, :-_APART]
        apart = torch.where(both, apart, torch.nan).flatten(1) / 2**0.5
        many = both.sum((1, 2)) >= LEAST_SKY
        out[wrong] = torch.where(many, _robust(apart), out[wrong])
    common = (values == values.nanmedian(1, keepdim=True).values).sum(1)
    counts = common > _COUNTS * values.isfinite().sum(1)
    if bool(counts.any()):
        out = torch.where(counts, _deviation(residual, sky, number), out)
    return torch.where(number >= LEAST_SKY, out, torch.nan)


def _robust(pulls: torch.Tensor) -> torch.Tensor:
    """Median absolute deviation as a standard deviation, float64, (B,)."""
    middle = pulls.nanmedian(1, keepdim=True).values
    return 1.4826 * (pulls - middle).abs().nanmedian(1).values.to(torch.float64)


def _deviation(residual: torch.Tensor, sky: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Standard deviation of sky pixels, float64, (B,); NaN where its error is too large."""
    size = number.clamp_min(1)
    off = torch.where(sky, residual, torch.zeros_like(residual)).to(torch.float64)
    mean = pixel_sum(off) / size
    off = torch.where(sky, off - mean[:, None, None], torch.zeros_like(off)).square()
    square = pixel_sum(off) / size
    kurtosis = pixel_sum(off.square()) / size / square.clamp_min(1e-300).square()
    known = 0.5 * ((kurtosis - 1).clamp_min(0) / size).sqrt() < _LEAST_KNOWN
    return torch.where(known, square.sqrt(), torch.nan)


def likely_cause(
    ratio: float, sigma: float, *, gain: float, correlated: bool, built: bool, poisson: bool
) -> str:
    """Likely cause of a wrong noise plane, and the remedy.

    Parameters
    ----------
    ratio : float
        Scatter of sky pixels over `sigma`.
    sigma : float
        Of the noise plane in the sky, image units.
    gain : float
        Electrons per image unit; NaN if unknown.
    correlated : bool
        The noise of adjacent pixels is.
    built : bool
        From gain, read noise and sky, not given.
    poisson : bool
        The likelihood counts electrons: only the gain and the sky's level matter.
    """
    if poisson or built:
        return "check gain, read noise and the sky that was subtracted (SKYSUB)"
    true = ratio * sigma

    def same(other: float) -> bool:
        return abs(math.log(true / other)) < _SAME

    causes: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: same(sigma**0.5), "it holds the variance: name it _var"),
        (lambda: same(sigma**-0.5), "it holds a weight, the inverse variance: name it _ivar"),
        (lambda: same(sigma**2), "it holds the noise, not the variance: name it _sigma"),
        (lambda: same(sigma**-2), "it holds the noise, not a weight: name it _sigma"),
        (lambda: same(1 / sigma), "variance and weight are exchanged: name it _var or _ivar"),
        (lambda: same(sigma / gain), f"it is in electrons: divide it by the gain {gain:g}"),
        (lambda: same(sigma * gain), f"the image is in electrons: multiply by the gain {gain:g}"),
    )
    for holds, text in causes:
        if holds():
            return text
    if 0.3 < ratio < 1 and correlated:
        return "the noise of neighbouring pixels is correlated, as after resampling"
    if not 0.1 < ratio < 10:
        return f"it has other units than the image: a factor of {ratio:.3g}"
    return f"it is wrong by a factor: multiply it by {ratio:.3g}"
