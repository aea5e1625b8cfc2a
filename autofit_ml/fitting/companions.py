r"""Companions that the segmentation missed: compact residuals become components of another fit.

A star on a galaxy, or a satellite, too faint for a label of its own leaves a residual as compact as
the PSF. The residual over its noise, r, is filtered by a Gaussian K of the PSF's width less one
twice as wide, which no smooth misfit passes:

.. math:: S = \frac{(K_1 - K_2) * r}{|K_1 - K_2|}

A peak counts if it is significant, holds enough light beside the target's, and is nothing of the
galaxy's own: a wrong profile, an arm or a bar leaves dips as deep as its peaks are high, or the
same at the other side of the centre. What counts is fitted along as a point source, or as a small
Sérsic profile where the residual is wider than the PSF, and stays if the BIC is smaller with it.
Where there is nothing, that costs one transform of the stamp.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage

from autofit_ml.catalogue.flags import Flag, usable
from autofit_ml.fitting.batch import Member
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.fitting.results import SceneFit
from autofit_ml.segmentation.shapes import Ellipse, mirrored

__all__ = ["compact_residuals", "with_companions"]

_SIGNIFICANT = 7.0
"""Least S of a peak, in units of the scatter of S where that is above 1."""

_ABOVE_DIPS, _FIRST = 2.5, 3.6
"""Least S of a peak in units of the deepest dip on the target; that of the most significant one
where dips are deeper than noise's."""

_NOISE = 5.0
"""Depth of dips that noise does not have."""

_OPPOSITE = 0.5
"""Least S at the other side of the centre, in units of that of the peak, that makes both the
galaxy's own."""

_LEAST_SHARE = 0.002
"""Least flux in units of the target's."""

_REACH = 4.0
"""Elliptical radius up to which companions are looked for, in re; two FWHM are added."""

_CORE_RE, _CORE_FWHM = 0.25, 1.25
"""Radius of the centre that is the galaxy's own, in re and in FWHM (the larger one)."""

_WIDER = 40.0
"""Gain in chi2 by the wider Gaussian that makes a companion a galaxy: the BIC of the four further
parameters."""

_AT_ONCE, _ROUNDS = 6, 4
"""Companions that are added at once, at most, and how often."""


def compact_residuals(
    residual: torch.Tensor,
    root: torch.Tensor,
    target: torch.Tensor,
    others: torch.Tensor,
    ellipses: np.ndarray,
    fwhm: Sequence[float],
) -> dict[int, tuple[Neighbour, ...]]:
    """Peaks of fits' residuals that look like sources on the targets.

    Parameters
    ----------
    residual : Tensor, (B, ny, nx)
        (data - model) / sigma; 0 where masked.
    root : Tensor, (B, ny, nx)
        1 / sigma.
    target, others : Tensor, (B, ny, nx)
        Light of the target and of the neighbours in the model.
    ellipses : ndarray, (B, 5)
        x, y, re, q, pa of the targets.
    fwhm : sequence of float, (B,)
        Of the PSF, pixels.

    Returns
    -------
    dict
        Object -> companions, the most significant first; fluxes in the units of `target`. Objects
        without any are left out.
    """
    ny, nx = residual.shape[1:]
    narrow, wide = _Gaussian.of(fwhm, (ny, nx)), _Gaussian.of([2 * v for v in fwhm], (ny, nx))
    cross = narrow.product(wide)
    response = narrow.product(narrow) - cross
    norm = np.sqrt(response + wide.product(wide) - cross)
    spectrum = torch.fft.rfft2(residual)
    smooth = [
        torch.fft.irfft2(spectrum * one.transfer(spectrum), s=(ny, nx)) for one in (narrow, wide)
    ]
    s = (smooth[0] - smooth[1]) / torch.as_tensor(norm).to(residual)[:, None, None]
    high = torch.where(root > 0, s, 0.0).amax((1, 2)) > _SIGNIFICANT
    out = {}
    for k in high.nonzero()[:, 0].tolist():
        gains = [
            (one[k] / math.sqrt(width.product(width)[k])).square()
            for one, width in zip(smooth, (narrow, wide), strict=True)
        ]
        light = s[k] * float(norm[k] / response[k]) / torch.where(root[k] > 0, root[k], torch.inf)
        images = torch.stack([s[k], light, gains[1] - gains[0], target[k], others[k]])
        found = _peaks(images.cpu().numpy(), (root[k] > 0).cpu().numpy(), ellipses[k], fwhm[k])
        if found:
            out[k] = found
    return out


@dataclasses.dataclass(frozen=True)
class _Gaussian:
    """Fourier transforms of Gaussians of sum 1 along y and x, (B, ny) and (B, nx) each."""

    along: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, fwhm: Sequence[float], shape: tuple[int, int]) -> _Gaussian:
        """Make Gaussians of some widths, pixels."""
        sigma = np.array(fwhm)[:, None] / 2.3548
        return cls(tuple(np.exp(-2 * (np.pi * sigma * np.fft.fftfreq(n)) ** 2) for n in shape))

    def product(self, other: _Gaussian) -> np.ndarray:
        """Sum over all pixels of one times the other, (B,)."""
        y, x = ((a * b).mean(1) for a, b in zip(self.along, other.along, strict=True))
        return y * x

    def transfer(self, spectrum: torch.Tensor) -> torch.Tensor:
        """The whole transform, as `torch.fft.rfft2` has it."""
        y, x = (torch.as_tensor(a).to(spectrum.real) for a in self.along)
        return y[:, :, None] * x[:, None, : spectrum.shape[2]]


def _peaks(
    images: np.ndarray, good: np.ndarray, ellipse: np.ndarray, fwhm: float
) -> tuple[Neighbour, ...]:
    """Companions of one object.

    `images` (5, ny, nx): S, the flux of a point source that it means, the gain in chi2 by a wider
    one, the light of the target and of the neighbours. `good`: pixels that were fitted.
    """
    s, light, gain, target, others = images
    x, y, re, q, pa = ellipse
    rho = Ellipse(x, y, 1.0, max(q, 0.05), math.radians(pa + 90)).distance_map(s.shape)
    v, h = np.ogrid[: s.shape[0], : s.shape[1]]
    own = (rho < _CORE_RE * re) | (np.hypot(h - x, v - y) < _CORE_FWHM * fwhm)
    place = good & ~own & (others <= target) & (rho < _REACH * re + 2 * fwhm)
    s = s / max(1.0, 1.4826 * float(np.median(np.abs(s[good]))))
    dip = -float(s[place].min(initial=0.0))
    opposite = ndimage.maximum_filter(mirrored(np.where(good, s, 0.0), x, y), 3)
    top = s == ndimage.maximum_filter(s, 2 * round(fwhm) + 1)
    share = light > _LEAST_SHARE * float(target.sum())
    peaks = (
        top
        & place
        & share
        & (s > max(_SIGNIFICANT, _ABOVE_DIPS * dip))
        & (opposite < _OPPOSITE * s)
    )
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-s[rows, columns], kind="stable")
    if dip > _NOISE and s[rows, columns].max(initial=0.0) < _FIRST * dip:
        return ()
    found = []
    for number, (row, column) in enumerate(zip(rows[order], columns[order], strict=True), start=1):
        galaxy = gain[row, column] > _WIDER
        size = fwhm if galaxy else 0.0
        flux = float(light[row, column]) * (2.0 if galaxy else 1.0)
        start = np.array([column, row, flux, size, 1.0, 0.9, 0.0, 0.0])
        found.append(Neighbour(-number, "sersic" if galaxy else "point", start))
    return tuple(found)


def with_companions(
    members: Sequence[Member],
    fits: Sequence[SceneFit],
    largest: int,
    again: Callable[[Sequence[Member]], Sequence[SceneFit]],
) -> list[SceneFit]:
    """Fits with the companions that their residuals show, where the data want them.

    Parameters
    ----------
    members : sequence of Member
    fits : sequence of SceneFit
        Theirs; `SceneFit.companions` is what `compact_residuals` found.
    largest : int
        Companions of an object, at most; 0: none are looked for.
    again : callable
        Fits members, in order.

    Returns
    -------
    list of SceneFit
        BLENDED is raised where a companion could not be fitted.
    """
    out = list(fits)
    step = {k: _AT_ONCE for k, fit in enumerate(out) if fit.companions and largest}
    for _ in range(_ROUNDS):
        more = {}
        for k, number in step.items():
            room = largest - sum(item.label < 0 for item in out[k].around)
            if min(room, number) > 0 and out[k].companions:
                more[k] = _member_with(members[k], out[k], min(room, number))
        if not more:
            break
        for (k, member), fit in zip(more.items(), again(list(more.values())), strict=True):
            if _better(fit, out[k]):
                out[k] = fit
            else:  # some of them are none
                step[k] = (len(member.neighbours) - len(out[k].around)) // 2
    blended = int(Flag.BLENDED)
    return [
        dataclasses.replace(fit, flags=fit.flags | blended) if fit.companions and largest else fit
        for fit in out
    ]


def _member_with(member: Member, fit: SceneFit, room: int) -> Member:
    """A member with further neighbours, in one order of profiles."""
    known = min([0, *(item.label for item in fit.around)])
    new = [dataclasses.replace(item, label=item.label + known) for item in fit.companions[:room]]
    every = sorted([*fit.around, *new], key=lambda item: item.profile)
    return dataclasses.replace(member, neighbours=every)


def _better(fit: SceneFit, before: SceneFit) -> bool:
    """True if companions explain so much more of the data that they are there."""
    if fit.flags & int(Flag.FAILED) or (usable(before.flags) and not usable(fit.flags)):
        return False
    gain = (before.chi2 - fit.chi2) / max(1.0, fit.chi2 / max(fit.ndof, 1))
    return gain > (fit.n_fitted - before.n_fitted) * math.log(max(fit.n_pix, 2))
