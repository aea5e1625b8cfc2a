r"""The least-squares problem of a batch of stamps: chi2, its gradient, and the Gauss-Newton matrix.

.. math:: \chi^2 = \sum_p w_p\,(d_p - f_p(\theta) - s)^2 + (\theta-\mu)^T \Pi\, (\theta-\mu),
          \qquad w = 1/\sigma^2 \text{ (0 where masked)}

Images are scaled inside so that a typical sigma is 1 (maggies are 1e-10); `scale` undoes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluate, Evaluation
from autofit_ml.profiles import HankelTable
from autofit_ml.rendering import FourierPlan, render, render_with_jacobian

__all__ = ["Problem", "chunk_size", "pixel_sum"]

_CHUNK_ELEMENTS = 16 * 6656 * 7
"""Size of the spectra of one chunk (complex numbers): large enough to hide the cost of a call,
small enough to stay near the cache (docs/performance.md)."""


@dataclass(frozen=True)
class Problem:
    """Observations of B objects whose stamps have one shape.

    Attributes
    ----------
    plan : FourierPlan
    table : HankelTable
    psf : Tensor, complex, (B, n_modes)
    data, root_weight : Tensor, (B, ny, nx)
        Scaled image; 1/sigma of the scaled image, 0 where masked.
    prior_mean : Tensor, float64, (B, 8)
    prior_precision : Tensor, float64, (B, 8, 8)
        Gaussian prior in fit space; zeros where there is none.
    scale : Tensor, float64, (B,)
        Image units per scaled unit.
    chunk : int
        Objects per evaluation.
    """

    plan: FourierPlan
    table: HankelTable
    psf: torch.Tensor
    data: torch.Tensor
    root_weight: torch.Tensor
    prior_mean: torch.Tensor
    prior_precision: torch.Tensor
    scale: torch.Tensor
    chunk: int

    def __len__(self) -> int:
        return len(self.data)

    def evaluator(self, owner: torch.Tensor) -> Evaluate:
        """`evaluate` for problems that share objects: problem i is object ``owner[i]``."""
        return lambda index, theta: self.evaluate(owner[index], theta)

    def evaluate(self, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
        """The objects `index` (A,) at `theta` (A, 8).

        `light` holds the sums of the derivative images over the (filled-up) stamp, (A, 7).
        """

        parts = []
        for first in range(0, len(index), self.chunk):
            some = slice(first, first + self.chunk)
            parts.append(self._evaluate_chunk(index[some], theta[some]))
        return Evaluation.join(parts)

    def image(self, index: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Model without sky (A, ny, nx)."""
        with torch.no_grad():
            return render(self.plan, self.table, self.psf[index], theta[:, :7])

    def design(self, index: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Derivatives of the image by the eight parameters (A, 8, ny, nx); channel 2 = model
        without sky, channel 7 = ones."""
        images = render_with_jacobian(self.plan, self.table, self.psf[index], theta[:, :7])
        return torch.cat([images, torch.ones_like(images[:, :1])], dim=1)

    def _evaluate_chunk(self, index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = render_with_jacobian(self.plan, self.table, self.psf[index], theta[:, :7])
        a, _, ny, nx = images.shape
        root = self.root_weight[index]
        sky = theta[:, 7].to(images.dtype)[:, None, None]
        rows = torch.empty((a, 9, ny * nx), dtype=images.dtype, device=images.device)
        residual = (self.data[index] - images[:, 2] - sky) * root
        torch.mul(images, root[:, None], out=rows[:, :7].view(a, 7, ny, nx))
        rows[:, 7] = root.flatten(1)
        rows[:, 8] = residual.flatten(1)
        gram = torch.bmm(rows, rows.transpose(1, 2)).to(torch.float64)
        chi2 = pixel_sum(residual.to(torch.float64).square())
        offset = self.prior_mean[index] - theta
        pull = (self.prior_precision[index] @ offset[..., None])[..., 0]
        return (
            chi2 + (offset * pull).sum(1),
            gram[:, :8, 8] + pull,
            gram[:, :8, :8] + self.prior_precision[index],
            pixel_sum(images).to(torch.float64),
        )


def pixel_sum(images: torch.Tensor) -> torch.Tensor:
    """Sum over the last two axes, one after the other: the same to the bit for any batch."""
    return images.sum(-1).sum(-1)


def chunk_size(plan: FourierPlan) -> int:
    """Objects that are evaluated together with this plan."""
    return max(1, min(128, _CHUNK_ELEMENTS // (7 * plan.n_modes)))
