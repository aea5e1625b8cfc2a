r"""Images from Fourier modes.

In: modes as `autofit_ml.rendering.fourier` lays them out. Out: images, and derivatives of images by
the position of what they show. Such a derivative multiplies every mode by a power of
:math:`-i k_x` and :math:`-i k_y`. The transform along y commutes with factors of :math:`k_x`, and
adding the finely sampled modes of the other levels to the first with both, so that the images that
are made of one spectrum share these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autofit_ml.rendering.fourier import FourierPlan

__all__ = ["phase", "synthesise", "synthesise_derivatives"]


def phase(plan: FourierPlan, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """exp(-i k . x_c) at all modes, complex, shape (B, n_modes); `x`, `y` (B,) in pixels."""
    one = torch.ones((), dtype=plan.dtype, device=plan.device)
    turns = [
        torch.polar(one, -shift[:, None] * k) for shift, k in zip((x, y), plan.lines, strict=True)
    ]
    sizes = [(level.kx.numel(), level.ky.numel()) for level in plan.levels]
    parts, first_x, first_y = [], 0, 0
    for level, (nx, ny) in zip(plan.levels, sizes, strict=True):
        along = turns[0][:, first_x : first_x + nx], turns[1][:, first_y : first_y + ny]
        parts.append(level.outer(*along))
        first_x, first_y = first_x + nx, first_y + ny
    return plan.joined(parts)


def synthesise(plan: FourierPlan, spectra: torch.Tensor) -> torch.Tensor:
    """Inverse transform, restricted to the stamp.

    Differentiable by autograd.

    Parameters
    ----------
    plan : FourierPlan
    spectra : Tensor, complex, shape (..., n_modes)

    Returns
    -------
    Tensor, real, shape (..., ny, nx)
    """
    level = plan.levels[0]
    flat = spectra.reshape(-1, 1, plan.n_modes)
    modes = flat[..., : level.size].unflatten(2, (*level.kx.shape, *level.ky.shape)).clone()
    _add_others(plan, modes, flat[..., level.size :])
    rows = _along_y(plan, modes).sum(2)
    images = _along_x(plan, rows.transpose(-1, -2))
    return images.reshape(*spectra.shape[:-1], *plan.shape)


def synthesise_derivatives(
    plan: FourierPlan,
    base: torch.Tensor,
    factors: Sequence[torch.Tensor],
    orders: Sequence[tuple[int, int, int]],
    out: torch.Tensor,
) -> None:
    """Derivatives by position of the images of some spectra, ``base * factors[f]``.

    Parameters
    ----------
    plan : FourierPlan
    base : Tensor, complex, (N, n_modes)
    factors : sequence of Tensor, real or complex, (N, n_modes) or what broadcasts to it
    orders : sequence of (f, order in x, order in y)
        One for each image.
    out : Tensor, (N, images, ny, nx)
        Overwritten.
    """
    level, n = plan.levels[0], len(base)
    slots = {(f, 0): f for f in range(len(factors))}
    for f, _, order in orders:
        for k in range(1, order + 1):
            slots.setdefault((f, k), len(slots))
    modes = base.new_empty((n, len(slots), *level.kx.shape, *level.ky.shape))
    others = base.new_empty((n, len(factors), plan.n_modes - level.size))
    for f, factor in enumerate(factors):
        torch.mul(base[:, : level.size], factor[..., : level.size], out=modes[:, f].flatten(1))
        torch.mul(base[:, level.size :], factor[..., level.size :], out=others[:, f])
    _add_others(plan, modes[:, : len(factors)], others)
    pairs, ky = torch.view_as_real(modes).flatten(-2), level.ky_pairs
    for (f, k), slot in slots.items():
        if k:
            torch.mul(pairs[:, slots[f, k - 1]], ky, out=pairs[:, slot])
    rows = _along_y(plan, modes).transpose(-1, -2)
    spectra = base.new_empty((n, len(orders), *rows.shape[2:]))
    for i, (f, in_x, in_y) in enumerate(orders):
        torch.mul(rows[:, slots[f, in_y]], level.slopes[in_x, in_y], out=spectra[:, i])
    out.copy_(_along_x(plan, spectra.sum(2) if rows.shape[2] > 1 else spectra[:, :, 0]))


def _along_y(plan: FourierPlan, modes: torch.Tensor) -> torch.Tensor:
    """Modes (N, K, a, nkx, b, nky), overwritten, to rows (N, K, a, nkx, ny)."""
    part, ly = modes.sum(-2) if modes.shape[-2] > 1 else modes[..., 0, :], plan.fft_shape[0]
    if part.shape[-1] > ly:
        part[..., ly // 2] += part[..., ly]
    return torch.fft.ifft(part[..., :ly], dim=-1)[..., : plan.shape[0]]


def _along_x(plan: FourierPlan, spectra: torch.Tensor) -> torch.Tensor:
    """Spectra of rows (..., ny, nkx) to images (..., ny, nx)."""
    return torch.fft.irfft(spectra, n=plan.fft_shape[1], dim=-1)[..., : plan.shape[1]]


def _add_others(plan: FourierPlan, first: torch.Tensor, others: torch.Tensor) -> None:
    """Add modes of the other levels (N, K, modes) to low ones of the first
    (N, K, a, nkx, b, nky), in place."""
    if len(plan.levels) == 1:
        return
    jy, jx = plan.turn.shape
    flat = others.flatten(0, 1)
    start, added = 0, flat.real.new_zeros(())
    for level in plan.levels[1:]:
        if level.to_y is None or level.to_x is None:
            raise ValueError("a level without its extension")
        part = torch.view_as_real(flat[:, start : start + level.size])
        start += level.size
        along_y = level.to_y @ part.reshape(len(part), level.ky.numel(), -1)
        pair = (along_y.flatten(0, 1) @ level.to_x).view(-1, jy, 2, jx, 2)
        added = added + (pair[:, :, 0] + pair[:, :, 1].flip(1))
    low = (torch.view_as_complex(added) * plan.turn).transpose(1, 2)
    low = low.unflatten(0, first.shape[:2])
    first[:, :, 0, :jx, 0, : jy // 2 + 1] += low[..., jy // 2 :]
    ly = plan.fft_shape[0]
    first[:, :, 0, :jx, 0, ly - jy // 2 : ly] += low[..., : jy // 2]
