r"""The posterior density of many sources of one type at once, each on its own patch of sky.

.. math:: -2 \ln p(\theta) = \sum_b \sum_p \rho\big(d_{bp}, m_{bp}(\theta) + o_{bp}\big)
          - 2 \ln \pi(\theta)

with the bands b, their pixels p, the likelihood's :math:`\rho`, the light o of the other sources
(held), and the prior :math:`\pi`. The parameters are

- of a star: x, y, ln flux in each band;
- of a galaxy: the same, ln rc, its profile's shape (logit of the de Vaucouleurs share, or ln n),
  eta1 and eta2 (`autofit_ml.rendering`), which all bands share.

x and y are pixels of the first band from the source's anchor, a whole pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluation
from autofit_ml.fitting.likelihoods import Likelihood, PixelTerms
from autofit_ml.fitting.pixels import Placement, normal_equations, pixel_sum
from autofit_ml.profiles import Profile, get_profile
from autofit_ml.rendering import FourierPlan, component_channels, render_component
from autofit_ml.sources.priors import SourcePrior

__all__ = ["BandPatch", "SourceProblem", "positive_part"]

_CHUNK = 16 * 6656 * 14
"""Complex numbers of the spectra that are evaluated together: what stays near the cache."""


_POSITION, _SIZE, _SHAPE, _ETA = 3.0, (-2.5, 5.0), 6.0, 2.5
"""Bounds: pixels from the start; ln rc; logit of the share, or ln n from `_INDEX`; eta."""

_INDEX = (math.log(0.35), math.log(7.5))


@dataclass(frozen=True)
class BandPatch:
    """Patches of A sources in one image, scaled so that a typical sigma is 1.

    Attributes
    ----------
    plan : FourierPlan
    psf : Tensor, complex, (A, n_modes) or (1, n_modes)
    data, root, others : Tensor, (A, side, side)
        Sky-subtracted image, 1/sigma (0 where masked or outside), light of the other sources.
    counted : Tensor, (A, side, side)
        Share of sigma^2 that is noise; the rest is what drawing the PSF may be off by.
    electrons : Tensor, float64, (A,)
        Electrons per unit; NaN if unknown.
    placement : Placement
        From the first band's pixels about the anchor to this patch's.
    flux : int
        Which of the fluxes it shows: images of one band share theirs.
    """

    plan: FourierPlan
    psf: torch.Tensor
    data: torch.Tensor
    root: torch.Tensor
    others: torch.Tensor
    counted: torch.Tensor
    electrons: torch.Tensor
    placement: Placement
    flux: int


@dataclass(frozen=True)
class SourceProblem:
    """A sources of one type.

    Attributes
    ----------
    prior : SourcePrior
    bands : tuple of BandPatch
    likelihood : Likelihood
    """

    prior: SourcePrior
    bands: tuple[BandPatch, ...]
    likelihood: Likelihood

    def __len__(self) -> int:
        return len(self.bands[0].data)

    @property
    def size(self) -> int:
        """Parameters of a source, D."""
        return 2 + self.fluxes + 4 * (self.prior.type == "galaxy")

    @property
    def fluxes(self) -> int:
        """Number of bands: each has one flux, and one image or more."""
        return 1 + max(band.flux for band in self.bands)

    @cached_property
    def profile(self) -> Profile:
        """Profile that is drawn."""
        return get_profile("point" if self.prior.type == "star" else self.prior.shape)

    @property
    def _chunk(self) -> int:
        modes = max(band.plan.n_modes for band in self.bands)
        return max(1, min(128, _CHUNK // (7 * modes)))

    def evaluate(self, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
        """-2 ln p, half its negative gradient, and a positive curvature, as `minimise` wants it."""
        value, slope, curvature = self.prior.evaluate(theta)
        pixels = self.pixels(index, theta)
        return Evaluation(
            pixels.chi2 - 2 * value,
            pixels.gradient + slope,
            pixels.matrix + positive_part(-curvature),
            pixels.light,
        )

    def measure(self, index: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """-2 ln p alone, (A,)."""
        out = -2 * self.prior.log_density(theta)
        for some in _chunks(len(index), 2 * self._chunk):
            for band, image in zip(self.bands, self.images(index[some], theta[some]), strict=True):
                terms = self._terms(band, index[some], image)
                out[some] += pixel_sum(terms.rho.to(torch.float64))
        return out

    def log_density(
        self, index: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ln p (A,) and its gradient (A, D), for samplers."""
        value, slope, _ = self.prior.evaluate(theta)
        pixels = self.pixels(index, theta)
        return value - pixels.chi2 / 2, slope + pixels.gradient

    def images(self, index: torch.Tensor, theta: torch.Tensor) -> list[torch.Tensor]:
        """Each source's own light in each band, (A, side, side)."""
        out = []
        for b, band in enumerate(self.bands):
            local, _ = self._local(index, theta, b)
            out.append(render_component(band.plan, self.profile, self._psf(band, index), local))
        return out

    def bounds(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bounds (A, D) and largest steps (D,) of sources that begin at theta."""
        lower, upper = torch.full_like(theta, -math.inf), torch.full_like(theta, math.inf)
        lower[:, :2], upper[:, :2] = theta[:, :2] - _POSITION, theta[:, :2] + _POSITION
        fluxes = slice(2, 2 + self.fluxes)
        lower[:, fluxes], upper[:, fluxes] = -12.0, 30.0
        steps = torch.full((theta.shape[1],), 1.5, dtype=theta.dtype)
        steps[:2] = 1.0
        if self.prior.type == "galaxy":
            low, high = _INDEX if self.prior.shape == "sersic" else (-_SHAPE, _SHAPE)
            side = float(self.bands[0].data.shape[-1])
            lower[:, -4:] = torch.tensor([_SIZE[0], low, -_ETA, -_ETA])
            upper[:, -4:] = torch.tensor([min(_SIZE[1], math.log(side)), high, _ETA, _ETA])
            steps[-4:] = torch.tensor([0.7, 1.5, 0.5, 0.5])
        return lower, upper, steps

    def expanded(
        self, index: torch.Tensor, theta: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The pixels to second order about theta, for each band.

        Each source's own light there, what it lacks, the curvature, (A, side, side), and -2 ln L
        beyond their square, (A,).
        """
        out = []
        for band, own in zip(self.bands, self.images(index, theta), strict=True):
            terms = self._terms(band, index, own)
            lack = terms.score / terms.curvature.clamp_min(1e-20)
            rest = pixel_sum((terms.rho - lack * terms.score).to(torch.float64))
            out.append((own, lack, terms.curvature, rest))
        return out

    def parabolas(
        self,
        index: torch.Tensor,
        rows: torch.Tensor,
        theta: torch.Tensor,
        target: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-2 ln L at theta (N, D) of sources ``index[rows]``, and how it changes with the fluxes.

        Returns
        -------
        square, across, rest : Tensor, float64, (N, fluxes)
            rest - 2 across r + square r^2, summed over bands, with fluxes 1 + r times those in
            theta. `target` is `expanded` of sources `index`.
        """
        out = theta.new_zeros((3, len(theta), self.fluxes))
        for some in _chunks(len(rows), 2 * self._chunk):
            at = rows[some]
            images = self.images(index[at], theta[some])
            for b, (image, (own, lack, curvature, rest)) in enumerate(
                zip(images, target, strict=True)
            ):
                left = (own[at] - image).add_(lack[at])
                weighted = image * curvature[at]
                flux = self.bands[b].flux
                out[0, some, flux] += pixel_sum((weighted * image).to(torch.float64))
                out[1, some, flux] += pixel_sum((weighted * left).to(torch.float64))
                out[2, some, flux] += rest[at] + pixel_sum(
                    (left.square() * curvature[at]).to(torch.float64)
                )
        return out[0], out[1], out[2]

    def design(self, index: torch.Tensor, theta: torch.Tensor, b: int) -> torch.Tensor:
        """Derivatives of the images of a band by theta, (A, D, side, side)."""
        channels, jacobian = self._channels(index, theta, b)
        return torch.einsum("apyx,apd->adyx", channels, jacobian.to(channels.dtype))

    def pixels(self, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
        """chi2, half its negative gradient and the Gauss-Newton matrix of the pixels alone."""
        parts = [self._some(index[c], theta[c]) for c in _chunks(len(index), self._chunk)]
        if not parts:
            return Evaluation.empty(0, self.size, 0, theta.device)
        return Evaluation.join(parts)

    def _some(self, index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, d = theta.shape
        chi2, gradient = theta.new_zeros(a), theta.new_zeros((a, d))
        matrix = theta.new_zeros((a, d, d))
        for b, band in enumerate(self.bands):
            channels, jacobian = self._channels(index, theta, b)
            terms = self._terms(band, index, channels[:, 2])
            share, slope, curvature = normal_equations([channels], terms, jacobian)
            chi2, gradient, matrix = chi2 + share, gradient + slope, matrix + curvature
        return chi2, gradient, matrix, theta.new_zeros((a, 0))

    def _channels(
        self, index: torch.Tensor, theta: torch.Tensor, b: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images that span the derivatives (A, P, side, side), and theirs by theta (A, P, D)."""
        band = self.bands[b]
        local, turn = self._local(index, theta, b)
        channels, mixing = component_channels(
            band.plan, self.profile, self._psf(band, index), local
        )
        if mixing is not None:
            turn = mixing @ turn
        jacobian = theta.new_zeros((len(theta), turn.shape[1], theta.shape[1]))
        jacobian[:, :, self._columns(b)] = turn
        return channels, jacobian

    def _columns(self, b: int) -> list[int]:
        """Places in theta of a band's parameters, in the profile's order."""
        shapes = range(self.size - 4, self.size) if self.prior.type == "galaxy" else ()
        return [0, 1, 2 + self.bands[b].flux, *shapes]

    def _local(
        self, index: torch.Tensor, theta: torch.Tensor, b: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters as the renderer takes them on a band's patch; derivatives by theirs."""
        placement = self.bands[b].placement.select(index)
        full, turn = placement.place(theta[:, self._columns(b)], self.profile.parameters)
        if self.profile.name == "exp_dev":
            share = full[:, 4].sigmoid()
            full[:, 4] = share
            turn[:, 4] *= (share * (1 - share))[:, None]
        return full, turn

    def _psf(self, band: BandPatch, index: torch.Tensor) -> torch.Tensor:
        if len(band.psf) == 1:
            return band.psf.expand(len(index), -1)
        return band.psf[index]

    def misfit(self, band: BandPatch, index: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Misfit of each pixel by a source's light, 1 in the mean, (A, side, side)."""
        pixels, share = self._seen(band, index, own)
        misfit = self.likelihood.misfit(*pixels)[0]
        return misfit if share is None else misfit * share

    def _terms(self, band: BandPatch, index: torch.Tensor, own: torch.Tensor) -> PixelTerms:
        pixels, share = self._seen(band, index, own)
        terms = self.likelihood.terms(*pixels)
        if share is None:
            return terms
        return PixelTerms(terms.rho * share, terms.score * share, terms.curvature * share)

    def _seen(
        self, band: BandPatch, index: torch.Tensor, own: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Arguments of the likelihood; by what its terms are multiplied.

        Counts have the variance of Poisson's law: where drawing may be off by more, their
        likelihood is lowered in the same ratio as a Gaussian's (McCullagh & Nelder 1989,
        Generalized Linear Models, 9.2).
        """
        root, share = band.root[index], None
        if self.likelihood.name == "poisson":
            share = band.counted[index]
            root = root * share.rsqrt()
        electrons = band.electrons[index].to(own.dtype)
        return (band.data[index], own + band.others[index], root, electrons), share


def positive_part(matrix: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices with the magnitudes of their eigenvalues, (A, D, D)."""
    values, vectors = torch.linalg.eigh((matrix + matrix.transpose(1, 2)) / 2)
    return (vectors * values.abs()[:, None]) @ vectors.transpose(1, 2)


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))
