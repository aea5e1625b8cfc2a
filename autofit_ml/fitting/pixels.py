"""Pixels of a batch of objects as tensors: one image of each, and where it lies.

Images are scaled inside so that a typical sigma is 1 (maggies are 1e-10); `ImageData.scale` undoes
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from autofit_ml.rendering import FourierPlan

if TYPE_CHECKING:
    from autofit_ml.fitting.likelihoods import PixelTerms

__all__ = ["ImageData", "PatchPlans", "Placement", "normal_equations", "pixel_sum", "placed"]


@dataclass(frozen=True)
class Placement:
    """Local affine map from the first image's pixels to another's, of B objects.

    Attributes
    ----------
    matrix : Tensor, float64, (B, 2, 2)
        d (x, y) here / d (x, y) there.
    offset : Tensor, float64, (B, 2)
        Position here of the first image's (0, 0).
    """

    matrix: torch.Tensor
    offset: torch.Tensor

    def select(self, index: torch.Tensor) -> Placement:
        """Select some of the objects."""
        return Placement(self.matrix[index], self.offset[index])

    def place(self, full: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters (A, F) of one component (`Profile.parameters`) here, and their derivatives by
        those there, (A, F, F)."""
        turn, shift = self.linear([(0, names)], full.shape[1])
        return placed(full, turn, shift), turn

    def linear(
        self, components: Sequence[tuple[int, Sequence[str]]], size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the fit parameters of components: matrix (B, F, F) and shift (B, F).

        `components`: (first place, names) of each, of `size` places. The map is taken as a
        similarity (rotation, mirror, one scale): shear of a few per cent is what the position
        takes, not the shape.
        """
        m, (b, f) = self.matrix, (len(self.matrix), size)
        turn = torch.eye(f, dtype=m.dtype, device=m.device).repeat(b, 1, 1)
        shift = m.new_zeros((b, f))
        determinant = m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]
        parity = torch.where(determinant < 0, -1.0, 1.0).to(m)
        # Direction of the first image's x axis here; a mirrored second axis changes eta2's sign.
        angle = torch.atan2(m[:, 1, 0] - parity * m[:, 0, 1], m[:, 0, 0] + parity * m[:, 1, 1])
        cos, sin = (2 * angle).cos(), (2 * angle).sin()
        shapes = torch.stack([cos, -sin * parity, sin, cos * parity], 1).unflatten(1, (2, 2))
        for first, names in components:
            if "x" not in names:
                continue
            i = first + names.index("x")
            turn[:, i : i + 2, i : i + 2], shift[:, i : i + 2] = m, self.offset
            if "q" in names:
                i = first + names.index("q")
                turn[:, i : i + 2, i : i + 2] = shapes
                shift[:, first + names.index("re")] = determinant.abs().log() / 2
        return turn, shift


def placed(full: torch.Tensor, turn: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Parameters (A, F) as `Placement.linear` maps them."""
    return (turn * full[:, None]).sum(-1) + shift


@dataclass(frozen=True)
class ImageData:
    """One image of each of B objects, all of one shape.

    Attributes
    ----------
    plan : FourierPlan
    psf : Tensor, complex, (B, n_modes)
    data, root_weight : Tensor, (B, ny, nx)
        Without the pedestal and in units of `scale`; 1/sigma, 0 where masked.
    scale, pedestal : Tensor, float64, (B,)
        Image units.
    placement : Placement or None
        None for the first image.
    psf_basis : Tensor, complex, (B, K, n_modes), or None
        Changes of the PSF by one standard deviation of each of its fitted parameters.
    electrons : Tensor, float64, (B,)
        Electrons per scaled unit; NaN if unknown.
    block : int
        Pixels are blocks of block x block image pixels, averaged; `scale` is then block^2 larger.
    patches : PatchPlans or None
        Where components are drawn on a part of the stamp.
    """

    plan: FourierPlan
    psf: torch.Tensor
    data: torch.Tensor
    root_weight: torch.Tensor
    scale: torch.Tensor
    pedestal: torch.Tensor
    placement: Placement | None = None
    psf_basis: torch.Tensor | None = None
    electrons: torch.Tensor | None = None
    block: int = 1
    patches: PatchPlans | None = None

    def select(self, index: torch.Tensor) -> ImageData:
        """Select some of the objects."""
        return ImageData(
            self.plan,
            self.psf[index],
            self.data[index],
            self.root_weight[index],
            self.scale[index],
            self.pedestal[index],
            None if self.placement is None else self.placement.select(index),
            None if self.psf_basis is None else self.psf_basis[index],
            None if self.electrons is None else self.electrons[index],
            self.block,
            None if self.patches is None else self.patches.select(index),
        )

    @classmethod
    def join(cls, parts: Sequence[ImageData]) -> ImageData:
        """Images of one plan as one batch, in order."""

        def joined(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], Placement):
                matrices = torch.cat([value.matrix for value in values])
                return Placement(matrices, torch.cat([value.offset for value in values]))
            return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]

        names = [item.name for item in dataclasses.fields(cls)]
        return cls(**{name: joined(name) for name in names})

    @cached_property
    def background(self) -> torch.Tensor:
        """1, x - xc, y - yc, (3, ny, nx), in image pixels about the stamp's centre."""
        ny, nx = self.plan.shape
        dtype, device = self.data.dtype, self.data.device
        x = (torch.arange(nx, dtype=dtype, device=device) - (nx - 1) / 2) * self.block
        y = (torch.arange(ny, dtype=dtype, device=device) - (ny - 1) / 2) * self.block
        one = torch.ones((ny, nx), dtype=dtype, device=device)
        return torch.stack([one, one * x, one * y[:, None]])


@dataclass(frozen=True)
class PatchPlans:
    """Patches of the components of B objects, and what draws them.

    Attributes
    ----------
    size : Tensor, int64, (B, components)
        Side, pixels; 0: the whole stamp.
    corner : Tensor, int64, (B, components, 2)
        x and y of the first pixel.
    plans : dict
        Side -> plan, and the modes of the PSFs, (B, n_modes).
    """

    size: torch.Tensor
    corner: torch.Tensor
    plans: dict[int, tuple[FourierPlan, torch.Tensor]]

    def select(self, index: torch.Tensor) -> PatchPlans:
        """Select some of the objects."""
        plans = {side: (plan, psf[index]) for side, (plan, psf) in self.plans.items()}
        return PatchPlans(self.size[index], self.corner[index], plans)


def pixel_sum(images: torch.Tensor) -> torch.Tensor:
    """Sum over the last two axes, one after the other: the same to the bit for any batch."""
    return images.sum(-1).sum(-1)


def normal_equations(
    blocks: Sequence[torch.Tensor], terms: PixelTerms, jacobian: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over the pixels of an image that a Gauss-Newton step needs.

    Parameters
    ----------
    blocks : sequence of Tensor, (A, some, ny, nx)
        Images from which those of the derivatives are combined, P in all.
    terms : PixelTerms, (A, ny, nx)
    jacobian : Tensor, float64, (A, P, D)
        Combination of the images that is the derivative by each parameter.

    Returns
    -------
    chi2, gradient, matrix : Tensor, float64, (A,), (A, D), (A, D, D)
        Of chi2, half its negative gradient, and the curvature.
    """
    root = terms.curvature.sqrt()
    a, p = jacobian.shape[:2]
    rows = root.new_empty((a, p + 1, root[0].numel()))
    first = 0
    for block in blocks:
        place = rows[:, first : first + block.shape[1]].view(block.shape)
        torch.mul(block, root[:, None], out=place)
        first += block.shape[1]
    rows[:, p] = (terms.score / root.clamp_min(1e-20)).flatten(1)
    gram = torch.bmm(rows, rows.transpose(1, 2)).to(torch.float64)
    across = jacobian.transpose(1, 2)
    gradient = (across @ gram[:, :p, p:])[..., 0]
    return pixel_sum(terms.rho.to(torch.float64)), gradient, across @ gram[:, :p, :p] @ jacobian
