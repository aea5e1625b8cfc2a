r"""Gaussian priors of a fit's parameters: the one way in which knowledge enters beside the pixels.

.. math:: \chi^2 \mathrel{+}= (\theta - \mu)^T P\, (\theta - \mu)

Into :math:`\mu` and P go

- what was measured beside the pixels: the sky's level, and the PSF's parameters (unit Gaussians,
  since their changes of the PSF are those of one standard deviation);
- what is known of galaxies, of every extended component, neighbours included ("broad"): a Sérsic
  index is log-normal, its circularised radius log-normal about a share of the radius of its
  footprint, and its ellipticity (eta1, eta2) a round Gaussian about 0. All other parameters are
  flat;
- or what is known of the target: the network's Gaussian ("network"), or a population's.

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

from autofit_ml.scenes import sersic
from autofit_ml.scenes.coordinates import spans_of
from autofit_ml.scenes.layout import Layout

if TYPE_CHECKING:
    from autofit_ml.fitting.batch import Member, SceneBatch

__all__ = ["GaussianPrior", "make_prior"]

_START = ("x", "y", "ln_flux", "ln_rc", "ln_n", "eta1", "eta2")
"""What the covariance of a start is about."""

_INDEX = (math.log(1.8), 0.8)
"""ln n: mean and standard deviation."""

_SIZE = (math.log(0.5), 0.9)
"""ln of the circularised re over the radius of the footprint."""

_ELLIPTICITY = 0.8
"""Standard deviation of eta1 and eta2."""


@dataclass(frozen=True)
class GaussianPrior:
    """Gaussian prior of theta, for B objects.

    Attributes
    ----------
    mean : Tensor, float64, (B, D)
    precision : Tensor, float64, (B, D, D)
        Inverse covariance; zeros where nothing is known.
    """

    mean: torch.Tensor
    precision: torch.Tensor

    def select(self, index: torch.Tensor) -> GaussianPrior:
        """Of some objects."""
        return GaussianPrior(self.mean[index], self.precision[index])

    @classmethod
    def join(cls, parts: Sequence[GaussianPrior]) -> GaussianPrior:
        """Of several batches as one, in order."""
        return cls(
            torch.cat([part.mean for part in parts]), torch.cat([part.precision for part in parts])
        )

    def pull(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """chi2 of theta (B, D), as the share of each of its numbers, and minus half of its gradient.

        Element by element: a matrix product's last digits would depend on the batch.
        """
        offset = self.mean - theta
        pull = (self.precision * offset[:, None, :]).sum(-1)
        return offset * pull, pull


def make_prior(batch: SceneBatch) -> GaussianPrior:
    """What is known of the parameters of a batch's objects beside their pixels."""
    layout, kind = batch.layout, batch.settings.prior
    b, d = len(batch.members), layout.size
    mean, precision = np.zeros((b, d)), np.zeros((b, d, d))
    own = np.einsum("bdd->bd", precision)  # a view of the diagonals
    for i in range(layout.n_images):
        if layout.sky_terms:
            at = layout.sky_slice(i).start
            mean[:, at], own[:, at] = batch.sky_prior(i).cpu().numpy().T
        own[:, layout.psf_slice(i)] = 1.0
    if kind != "none":
        _put_broad(batch.members, layout, mean, own)
    if kind == "network":
        start = np.array([member.start for member in batch.members])
        (plain,) = spans_of(sersic())
        columns = {plain.full(name): start[:, k] for k, name in enumerate(plain.parameters)}
        at = torch.stack(plain.coordinates(columns), 1).numpy()
        for k, member in enumerate(batch.members):
            cov = member.start_cov[:7, :7]
            if np.isfinite(cov).all() and (np.diagonal(cov) > 0).all():
                _put_target(layout, _START, at[k], cov, mean[k], precision[k])
    return GaussianPrior(
        torch.as_tensor(mean, device=batch.device), torch.as_tensor(precision, device=batch.device)
    )


def _put_broad(
    members: Sequence[Member], layout: Layout, mean: np.ndarray, own: np.ndarray
) -> None:
    """What is known of any galaxy: means and precisions of all components, in place, (B, D)."""
    radii = np.log([_footprints(member, len(layout.spans)) for member in members])
    for j, item in enumerate(layout.free):
        k = next(k for k, span in enumerate(layout.spans) if item.coordinate < span.slice.stop)
        component = layout.spans[k].component
        if item.order or component.parameters[item.parameter].prior is not None:
            continue
        coordinate = layout.spans[k].coordinate_name(item.parameter)
        if coordinate == "ln_n":
            mean[:, j], sd = _INDEX
        elif coordinate in ("ln_rc", "ln_re"):
            mean[:, j], sd = radii[:, k] + _SIZE[0], _SIZE[1]
        elif coordinate in ("eta1", "eta2"):
            sd = _ELLIPTICITY
        else:
            continue
        own[:, j] = sd**-2


def _footprints(member: Member, n: int) -> list[float]:
    """Radius of the circle with the area of each component's footprint, pixels."""
    found = member.object.segmentation
    labels = [item.label for item in member.neighbours]
    labels = [found.target] * (n - len(labels)) + labels
    areas = [np.count_nonzero(np.asarray(found.labels) == label) if label else 0 for label in labels]
    return [math.sqrt(max(area, member.fwhm[0] ** 2) / math.pi) for area in areas]


def _put_target(
    layout: Layout,
    names: Sequence[str],
    at: np.ndarray,
    cov: np.ndarray,
    mean: np.ndarray,
    precision: np.ndarray,
) -> None:
    """A Gaussian in the place of what is known of any galaxy: the target's, in place, (D,), (D, D).

    Of the target's first component; what it says of numbers that are not free is left out.
    """
    first = layout.spans[0]
    every = [j for j, item in enumerate(layout.free) if item.coordinate < first.slice.stop]
    precision[every] = 0.0
    full = [f"{first.component.name}.{name}" for name in names]
    known = [k for k, name in enumerate(full) if name in layout.names]
    places = [layout.names.index(full[k]) for k in known]
    mean[places] = at[known]
    precision[np.ix_(places, places)] = np.linalg.inv(cov[np.ix_(known, known)])
