r"""Gaussian priors of a fit's parameters: the one way in which knowledge enters beside the pixels.

.. math:: \chi^2 \mathrel{+}= (\theta - \mu)^T P\, (\theta - \mu)

Into :math:`\mu` and P go

- what was measured beside the pixels: the sky's level, and the PSF's parameters (unit Gaussians,
  since their changes of the PSF are those of one standard deviation);
- what any galaxy is like ("broad"), for every extended component, neighbours included: n is
  log-normal, so is the circularised re in radii of the object's footprint, (eta1, eta2) is a round
  Gaussian about 0, and all other parameters are flat. It fades where the pixels have the say,
  :math:`P \to P / (1 + (S/N / 35)^8)`, 0 from S/N 70 on, with the S/N inside the footprint, or the
  target's where that is higher: a faint neighbour's prior would move a bright target;
- in its place, of the target alone: the network's Gaussian ("network"), or a population's;
- in the place of all these: what an earlier fit found, widened (`autofit_ml.fitting.known`).

Priors that a model file gives to single parameters in catalogue units are residuals of their own
(`autofit_ml.fitting.extras`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from autofit_ml.fitting.known import put_known
from autofit_ml.scenes import sersic
from autofit_ml.scenes.coordinates import spans_of
from autofit_ml.scenes.layout import Layout
from autofit_ml.scenes.populations import Population

if TYPE_CHECKING:
    from autofit_ml.fitting.batch import Member, SceneBatch

__all__ = ["GaussianPrior", "make_prior"]

_FIT_SPACE = ("x", "y", "ln_flux", "ln_rc", "ln_n", "eta1", "eta2")
"""The fit's coordinates of a Sérsic profile."""

_DRAWS = 20000
"""Of a population, for its mean and covariance."""

_BROAD = {
    "ln_n": (math.log(1.8), 0.75),
    "ln_rc": (math.log(0.55), 0.6),
    "ln_re": (math.log(0.55), 0.6),
    "eta1": (0.0, 0.85),
    "eta2": (0.0, 0.85),
}
"""Coordinate -> mean and standard deviation; sizes in radii of the footprint."""

_FADES = 35.0
"""S/N at which half of what any galaxy is like is left; nothing is at twice that."""


@dataclass(frozen=True)
class GaussianPrior:
    """Gaussian prior of theta, for B objects; what is known of components is apart from the rest.

    Attributes
    ----------
    mean : Tensor, float64, (B, D)
    precision : Tensor, float64, (B, D, D)
        Inverse covariance; zeros where nothing is known.
    """

    mean: torch.Tensor
    precision: torch.Tensor

    def select(self, index: torch.Tensor) -> GaussianPrior:
        """Select some of the objects."""
        return GaussianPrior(self.mean[index], self.precision[index])

    @classmethod
    def join(cls, parts: Sequence[GaussianPrior]) -> GaussianPrior:
        """Join the priors of several batches, in order."""
        return cls(
            torch.cat([part.mean for part in parts]), torch.cat([part.precision for part in parts])
        )

    def pull(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """chi2 of theta (B, D), the share of each number, and minus half of its gradient.

        Element by element: a matrix product's last digits would depend on the batch.
        """
        offset = self.mean - theta
        pull = (self.precision * offset[:, None, :]).sum(-1)
        return offset * pull, pull

    @property
    def log_normaliser(self) -> torch.Tensor:
        """ln of the density at the mean, over the numbers of which something is known, (B,)."""
        known = self.precision.diagonal(dim1=1, dim2=2) > 0
        whole = self.precision + torch.diag_embed((~known).to(self.precision))
        return (torch.logdet(whole) - known.sum(1) * math.log(2 * math.pi)) / 2


def make_prior(batch: SceneBatch) -> tuple[GaussianPrior, list[str]]:
    """Prior of a batch: what is known of its objects' parameters beside their pixels.

    And which prior each target has: "broad" too where the network had nothing to say.
    """
    layout, kind = batch.layout, batch.settings.prior
    b, d = len(batch.members), layout.size
    mean, precision = np.zeros((b, d)), np.zeros((b, d, d))
    own = np.einsum("bdd->bd", precision)  # a view of the diagonals
    for i in range(layout.n_images):
        own[:, layout.psf_slice(i)] = 1.0
    names = [kind if kind == "none" else "broad"] * b
    if kind != "none":
        _put_broad(batch.members, layout, mean, own)
    if kind == "network":
        start = _fit_space(np.array([member.start for member in batch.members]))
        for k, member in enumerate(batch.members):
            cov = member.start_cov[:7, :7]
            if np.isfinite(cov).all() and (np.diagonal(cov) > 0).all():
                _put_target(layout, range(7), start[k], cov, mean[k], precision[k])
                names[k] = kind
    elif isinstance(kind, Population):
        known, at, cov = _population_gaussian(kind)
        for k, member in enumerate(batch.members):
            stamp = member.object.reference
            shift = np.zeros(7)
            shift[2] = 0.4 * math.log(10) * stamp.zeropoint
            shift[3] = -math.log(stamp.pixel_scale)
            _put_target(layout, known, at + shift[known], cov, mean[k], precision[k])
            names[k] = f"population:{kind.name}"
    for k, member in enumerate(batch.members):
        own_fit = member.object.known
        if own_fit is not None and put_known(own_fit, layout, mean[k], precision[k]):
            names[k] = f"{names[k]}+stage"
    prior = GaussianPrior(
        torch.as_tensor(mean, device=batch.device), torch.as_tensor(precision, device=batch.device)
    )
    if layout.sky_terms:
        precisions = prior.precision.diagonal(dim1=1, dim2=2)
        for i in range(layout.n_images):
            at = layout.sky_slice(i).start
            prior.mean[:, at], precisions[:, at] = batch.sky_prior(i).T
    return prior, names


def _put_broad(
    members: Sequence[Member], layout: Layout, mean: np.ndarray, own: np.ndarray
) -> None:
    """Put the broad prior of all components into means and precisions, (B, D), in place."""
    footprints = np.array([_footprints(member, len(layout.spans)) for member in members])
    ln_radius, snr = np.log(footprints[..., 0]), footprints[..., 1]
    faded = np.minimum(np.maximum(snr, snr[:, :1]) / _FADES, 1e9)
    fading = np.where(faded < 2, 1 / (1 + faded**8), 0.0)
    for j, item in enumerate(layout.free):
        k = next(k for k, span in enumerate(layout.spans) if item.coordinate < span.slice.stop)
        span = layout.spans[k]
        coordinate = span.coordinate_name(item.parameter)
        given = span.component.parameters[item.parameter].prior is not None
        if item.order or given or coordinate not in _BROAD:
            continue
        middle, sd = _BROAD[coordinate]
        mean[:, j] = middle + (ln_radius[:, k] if item.parameter == "re" else 0.0)
        own[:, j] = fading[:, k] / sd**2


def _footprints(member: Member, n: int) -> list[tuple[float, float]]:
    """Radius of the circle with its area (pixels), and S/N, of each of n components' footprint."""
    found, stamp = member.object.segmentation, member.object.reference
    labels = [item.label for item in member.neighbours]
    out = []
    for label in [found.target] * (n - len(labels)) + labels:
        own = (np.asarray(found.labels) == label) & (label != 0)
        seen = own & ~stamp.mask
        light = (stamp.data[seen].astype(float) - found.sky_level) / stamp.sigma[seen]
        area = max(float(own.sum()), member.fwhm[0] ** 2, 1.0)
        out.append((math.sqrt(area / math.pi), math.sqrt(max((light**2 - 1).sum(), 0.0))))
    return out


def _put_target(
    layout: Layout,
    known: Sequence[int],
    at: np.ndarray,
    cov: np.ndarray,
    mean: np.ndarray,
    precision: np.ndarray,
) -> None:
    """A Gaussian in the place of what is known of any galaxy: the target's, in place, (D,), (D, D).

    `known`: the places in `_FIT_SPACE` of the Gaussian's numbers. It is that of the target's first
    component; what it says of numbers that are not free is left out.
    """
    first = layout.spans[0]
    precision[[j for j, item in enumerate(layout.free) if item.coordinate < first.slice.stop]] = 0
    full = [f"{first.component.name}.{_FIT_SPACE[k]}" for k in known]
    free = [k for k, name in enumerate(full) if name in layout.names]
    places = [layout.names.index(full[k]) for k in free]
    mean[places] = at[free]
    precision[np.ix_(places, places)] = np.linalg.inv(cov[np.ix_(free, free)])


def _fit_space(catalogue: np.ndarray) -> np.ndarray:
    """The coordinates `_FIT_SPACE`, (B, 7), of catalogue values (B, 7)."""
    (plain,) = spans_of(sersic())
    columns = {plain.full(name): catalogue[:, k] for k, name in enumerate(plain.parameters)}
    return torch.stack(plain.coordinates(columns), 1).numpy()


def _population_gaussian(population: Population) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Gaussian of a population: places in `_FIT_SPACE`, mean and covariance.

    That of the same mean and covariance; of magnitudes at zero point 0 and sizes in arcsec.
    """
    drawn = population.draw(_DRAWS)
    blank = np.ones(_DRAWS)
    flux = 10 ** (-0.4 * drawn["mag"]) if "mag" in drawn else blank
    pa = 180.0 * (np.arange(_DRAWS) + 0.5) / _DRAWS  # any direction
    columns = [blank, blank, flux, *(drawn.get(name, blank) for name in ("re", "n", "q")), pa]
    values = _fit_space(np.stack(columns, 1))
    says = {"mag": (2,), "re": (3,), "n": (4,), "q": (5, 6)}
    known = [k for name, places in says.items() if name in drawn for k in places]
    mean, cov = values[:, known].mean(0), np.atleast_2d(np.cov(values[:, known].T))
    for k in (5, 6):  # directions are drawn evenly, not symmetrically
        if k in known:
            j = known.index(k)
            variance = np.mean(np.log(drawn["q"]) ** 2) / 2
            mean[j], cov[j, :], cov[:, j], cov[j, j] = 0.0, 0.0, 0.0, variance
    return known, mean, cov
