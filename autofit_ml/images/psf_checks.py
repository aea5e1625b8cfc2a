"""Checks of a PSF image: sky left in it, a second source, wings or parts that are cut.

In: an image with its source in the middle. Out: the image, repaired where that is safe, and what
was found. Sky, sources and wings are told from the outskirts, where a PSF falls steeply and is, to
a part, the same on opposite sides; diffraction rings and spikes are, plateaus and neighbours are
not. Damage shows in the core: it is off the middle, lopsided, or zero.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autofit_ml.measure import core_centroid

__all__ = ["CheckedPSF", "check_psf", "find_damage"]

LEAST_SIDE = 13
"""Pixels of a PSF image below which its rim says nothing."""

PLATEAU = 0.005
"""Share of the light in a plateau over the whole image, from which it is one."""

MISSING = 0.02
"""Share of the light beyond the border, from which the wings are cut."""

SECOND = 0.01
"""Light of a second source over the whole, from which it is one."""

SHALLOWEST = 3.0
"""Slope that wings have far out at least: that of optics; the seeing's is steeper."""

WAVINESS = 0.1
"""How far wings deviate from a power law, relative."""

OFF_MIDDLE = 1.0
"""Pixels by which a PSF's core is off its array's middle, from which it is not what was meant;
`OFF_SHARE` of the side too: large images of right PSFs are off by more than a pixel."""

OFF_SHARE = 0.02

LOPSIDED = 0.15
"""Share of the core's light without its like opposite; real PSFs have up to 0.09."""

CORE = 0.1
"""Part of the peak above which a pixel is of the core."""


@dataclass(frozen=True)
class CheckedPSF:
    """A PSF image after the checks.

    Attributes
    ----------
    data : ndarray, float64, shape (h, w)
        Sums to 1.
    messages : tuple of str
    bad : bool
        Anything was found.
    """

    data: np.ndarray
    messages: tuple[str, ...]
    bad: bool


def check_psf(image: np.ndarray) -> CheckedPSF:
    """Look for a plateau, a second source and cut wings.

    Parameters
    ----------
    image : ndarray, shape (h, w)
        Centred, any positive sum. Images under `LEAST_SIDE` are not judged.

    Returns
    -------
    CheckedPSF
        A plateau is subtracted, a second source replaced by the pixels opposite the centre; wings
        are left as they are.
    """
    data = np.asarray(image, dtype=np.float64) / float(np.sum(image))
    if min(data.shape) < LEAST_SIDE:
        return CheckedPSF(data, (), False)
    messages = []
    for repaired in (_without_second, _without_plateau):
        data, note = repaired(data)
        messages += note
    messages += _cut_wings(data)
    return CheckedPSF(data / data.sum(), tuple(messages), bool(messages))


def find_damage(given: np.ndarray, centred: np.ndarray, shift: tuple[float, float]) -> list[str]:
    """Say how a PSF's core shows that part of the image is lost, or that it is another's.

    Parameters
    ----------
    given, centred : ndarray, shape (h, w)
        As read, and with the source in the middle (its shape may differ by some pixels).
    shift : tuple of float
        (dx, dy) from the one to the other, pixels.

    Returns
    -------
    list of str
        A message for each sign: off the middle, lopsided, zeros where light should be.
    """
    messages = []
    if max(map(abs, shift)) > max(OFF_MIDDLE, OFF_SHARE * min(given.shape)):
        messages.append("PSF with its peak over a pixel off its middle: is part of it lost?")
    odd = np.abs(centred - centred[::-1, ::-1])
    # Five times what noise does to the difference: the core of a noisy star is smaller.
    bright = max(0.5 * CORE * centred.max(), 5 * 1.4826 * _median(odd.ravel()))
    core = np.maximum(centred, centred[::-1, ::-1]) > bright
    share = 0.5 * float(odd[core].sum() / centred[core].sum()) if core.any() else 0.0
    if share > LOPSIDED:
        messages.append(f"PSF lopsided: {100 * share:.0f} % of its light have no like opposite")
    empty = given == 0
    opposite = float(given[::-1, ::-1][empty].sum() / given.sum())
    if opposite > MISSING or np.any(empty & (_amid(given) | _amid(given.T).T)):
        messages.append(f"PSF with {empty.sum()} pixels of exactly 0, where it should have light")
    return messages


def _amid(image: np.ndarray) -> np.ndarray:
    """Mask of pixels that have pixels of the core on both sides in their row."""
    bright = image > CORE * image.max()
    left, right = np.logical_or.accumulate(bright, 1), np.logical_or.accumulate(bright[:, ::-1], 1)
    return left & right[:, ::-1]


@functools.lru_cache(maxsize=16)
def _radii(shape: tuple[int, int]) -> np.ndarray:
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.hypot(y[:, None], x[None, :])


@functools.lru_cache(maxsize=256)
def _between(shape: tuple[int, int], low: float, high: float) -> tuple[np.ndarray, float]:
    """Pixels between two radii in units of the half side, and their mean radius."""
    radius = (_radii(shape) / ((min(shape) - 1) / 2)).ravel()
    inside = np.flatnonzero((radius >= low) & (radius < high))
    return inside, float(radius[inside].mean()) if inside.size else math.nan


def _median(values: np.ndarray) -> float:
    """`numpy.median` of finite values, without its overhead."""
    middle = values.size // 2
    pair = (middle - 1 + values.size % 2, middle)
    return float(np.partition(values, pair)[list(pair)].mean())


def _scatter(values: np.ndarray) -> float:
    return 1.4826 * _median(np.abs(values - _median(values)))


def _without_second(data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Replace a source off the centre: a peak of its own without a match opposite."""
    mirrored = data[::-1, ::-1]
    radius = _radii(data.shape)
    *_, fwhm = core_centroid(data)
    outside = radius > max(1.5 * fwhm, 3.0)
    if outside.sum() < 20:
        return data, []
    width = max(fwhm / 2.355, 0.7)
    smooth = ndimage.gaussian_filter(data, width, mode="constant")
    excess = smooth - smooth[::-1, ::-1]
    noise = _scatter(excess[outside])
    peaks = outside & (excess == ndimage.maximum_filter(excess, 2 * math.ceil(width) + 1))
    place = np.where(peaks & (excess > 0.5 * smooth), excess, -np.inf)
    y, x = np.unravel_index(int(np.argmax(place)), data.shape)
    distance = np.hypot(*np.ogrid[-y : data.shape[0] - y, -x : data.shape[1] - x])
    light = float((data - mirrored)[distance <= 1.2 * fwhm + 1].sum())
    if not place[y, x] > 6.0 * noise or light < SECOND:
        return data, []
    replaced = (distance <= 3.0 * fwhm) & outside & (distance < distance[::-1, ::-1])
    note = (
        f"PSF with a second source {radius[y, x]:.0f} px from its centre ({100 * light:.1f} % of "
        "the light): replaced by what is opposite"
    )
    return np.where(replaced, np.minimum(data, mirrored), data), [note]


def _ring(data: np.ndarray, low: float, high: float) -> tuple[float, float, float]:
    """(mean radius, mean level, its error) between two radii in units of the half side."""
    inside, radius = _between(data.shape, low, high)
    if inside.size < 8:
        return math.nan, math.nan, math.nan
    values = data.ravel()[inside]
    return radius, _median(values), _scatter(values) / math.sqrt(values.size)


def _without_plateau(data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Subtract the constant c of A r^-p + c, fitted to rings from the core's edge to the rim."""
    radius = _radii(data.shape)
    corners = data[radius > (min(data.shape) + 1) / 2]
    if corners.size < 30 or np.mean(corners == 0) > 0.5:  # none, or the PSF is cut to a circle
        edges = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    else:
        edges = [0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.05, np.inf]
    rings = np.array([_ring(data, *pair) for pair in itertools.pairwise(edges)])
    rings = rings[np.isfinite(rings[:, 0])]
    if len(rings) < 5:
        return data, []
    level, sure = _constant(*rings.T)
    share = level * data.size
    _, rim, error = rings[-1]  # a plateau is what is left there
    sure &= math.copysign(1.0, level) * rim > 2.5 * error
    sure &= abs(rim - level) <= 0.5 * abs(level) + 2.0 * error
    if not sure or abs(share) < PLATEAU:
        return data, []
    note = (
        f"PSF with a plateau of {100 * share / (1 - share):.1f} % of its light (sky left in, or "
        "too much subtracted?): removed"
    )
    return (data - level) / (1.0 - share), [note]


def _constant(radius: np.ndarray, level: np.ndarray, error: np.ndarray) -> tuple[float, bool]:
    """(c of A r^-p + c, whether every p that fits wants it with its sign)."""
    slopes = np.arange(2.0, 9.1, 0.25)
    wing = (radius / radius[0]) ** -slopes[:, None]
    scatter = np.tile(error + 1e-9, (len(slopes), 1))
    for _ in range(4):  # rings and spikes: the wings follow a power law to 10 %
        weight = scatter**-2
        ww, w, one = (weight * wing**2).sum(1), (weight * wing).sum(1), weight.sum(1)
        right, level_sum = (weight * wing * level).sum(1), (weight * level).sum(1)
        determinant = ww * one - w**2
        height = (right * one - level_sum * w) / determinant
        constant = (ww * level_sum - w * right) / determinant
        spread = np.sqrt(ww / determinant)
        scatter = np.hypot(error + 1e-9, WAVINESS * np.abs(height)[:, None] * wing)
    misfit = (level - height[:, None] * wing - constant[:, None]) / scatter
    # The weights depend on the fit: a likelihood, not chi2 alone.
    cost = (misfit**2 + 2 * np.log(scatter)).sum(1)
    best = int(cost.argmin())
    possible = cost < cost[best] + 4.0
    sign = math.copysign(1.0, constant[best])
    return float(constant[best]), bool(np.all((sign * constant - 3.0 * spread)[possible] > 0))


def _cut_wings(data: np.ndarray) -> list[str]:
    """Light beyond the border, by the slope of the wings at it."""
    r1, inner, _ = _ring(data, 0.65, 0.85)
    r2, rim, error = _ring(data, 0.85, 1.03)
    if not rim > 5.0 * error or not inner > rim:
        return []
    slope = max(math.log(inner / rim) / math.log(r2 / r1), SHALLOWEST)
    half = (min(data.shape) - 1) / 2
    beyond = 2.0 * math.pi * half**2 * rim * r2**slope / (slope - 2.0)
    missing = beyond - float(data[_radii(data.shape) > half].sum())
    if missing < MISSING:
        return []
    return [f"PSF cut where {100 * missing / (1 + missing):.0f} % of its light or more is missing"]
