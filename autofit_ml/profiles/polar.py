r"""Transforms of profiles whose isophotes are not ellipses.

In the frame in which the component's ellipse is the unit circle, the brightness is a function of
the radius u and the angle :math:`\phi`; with :math:`\rho` the half-light radius, its orders
:math:`a_m(\ln u) = u^2 \langle I(u, \phi)\,e^{-im\phi}\rangle` give the transform

.. math:: S(\kappa, \psi) = \frac{2\pi}{F} \sum_m (-i)^m\, e^{im\psi}
          \int a_m(x)\, J_m(e^{x}\kappa/\rho)\, dx .

Sampled like this, evenly in ln u, a cusp costs nothing and wings reach as far as they like, which
is what pixels are bad at. Nothing is left out but orders beyond a largest one.

**Scaling.** Boxiness and Fourier modes stretch the radius by a factor that depends on the angle
alone, :math:`I(u, \phi) = I(u e^{\Delta(\phi)})`. In the spectra of FFTLog that is a product,

.. math:: \tilde a(\omega, \phi) = e^{(\sigma - 2 + i\omega) \Delta(\phi)}\, \tilde a(\omega),

so that the profile is sampled once, whatever the angle, and may end sharply. The isophote that
holds half of the light is then the one of generalised radius re. A twist depends on the radius, and
is sampled at every angle; the ellipse (re, q, pa) holds half of the light and is an isophote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from autofit_ml.profiles.fftlog import LogGrid, smooth_grid
from autofit_ml.profiles.live import half_light, sample_light
from autofit_ml.profiles.registry import Profile

__all__ = ["PolarTable", "polar_table"]


@dataclass(frozen=True)
class PolarAccuracy:
    """Accuracy settings of the transforms.

    Attributes
    ----------
    max_order : int
        Largest m.
    n_phi : int
        Angles in a whole turn; a multiple of 32.
    n_psi : int
        Steps of psi in a whole turn; a multiple of 4.
    """

    max_order: int
    n_phi: int
    n_psi: int


@dataclass(frozen=True)
class PolarTable:
    """Transforms of a profile of kind "pixel".

    Attributes
    ----------
    profile : Profile
    accuracy : PolarAccuracy
    """

    profile: Profile
    accuracy: PolarAccuracy

    @property
    def n_shapes(self) -> int:
        """Number of shape parameters, those of the modifiers included."""
        return len(self.profile.shapes)

    @property
    def n_own(self) -> int:
        """Number of the profile's own, which come first."""
        return self.n_shapes - sum(len(m.shapes) for m in self.profile.modifiers)

    @cached_property
    def grid(self) -> LogGrid:
        """Where the profile is sampled and its transform given, in ln r and ln kappa.

        In natural units for a profile that is only scaled, else in half-light radii.
        """
        if self.profile.truncated:
            return LogGrid(4096, 1800, 0.01, -18.0, -7.0, 1400, truncated=True)
        low = math.log(1e-4)
        if self._scaled:
            return LogGrid(384, 384, 0.1, -24.0, low, 336, fine=2)
        return LogGrid(384, 256, 0.1, -17.0, low, 336, fine=2)

    @property
    def _scaled(self) -> bool:
        """The brightness depends on the angle through a scaling of the radius only."""
        return bool(self.profile.modifiers) and not any(m.radial for m in self.profile.modifiers)

    @cached_property
    def fold(self) -> int:
        """The isophotes repeat after 1 / fold of a turn."""
        if not self.profile.modifiers:
            return 2 if self.profile.symmetric else 1
        return math.gcd(*(m.fold for m in self.profile.modifiers))

    @cached_property
    def aligned(self) -> bool:
        """Angles count from the major axis, not from +x."""
        return not self.profile.modifiers or any(m.aligned for m in self.profile.modifiers)

    @property
    def pair(self) -> int | None:
        """Column (among the shapes) of the first of a pair that turns with the axes."""
        column = self.n_own
        for modifier in self.profile.modifiers:
            if not modifier.aligned:
                return column
            column += len(modifier.shapes)
        return None

    @property
    def is_complex(self) -> bool:
        """Whether the transform has an imaginary part: not if the isophotes repeat after half a
        turn."""
        return self.fold == 1

    @property
    def n_psi(self) -> int:
        """Steps of psi in one period."""
        return self.accuracy.n_psi // self.fold

    @property
    def psi_step(self) -> float:
        """One of them, radians."""
        return 2 * math.pi / self.accuracy.n_psi

    @cached_property
    def angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles of one period (or half of one that is symmetric) and weights that add up to 1.

        Evenly spaced, unless there may be kinks on the axes: then Gauss-Legendre nodes in every
        eighth of a turn that crowd there.
        """
        if self.profile.modifiers and not any(m.kinks for m in self.profile.modifiers):
            n = self.accuracy.n_phi // self.fold
            return (np.arange(n) + 0.5) * 2 * math.pi / self.accuracy.n_phi, np.full(n, 1 / n)
        t, w = np.polynomial.legendre.leggauss(self.accuracy.n_phi // 8)
        t, w = (t + 1) / 2, w / 2
        phi, weight = t**2 * math.pi / 4, 2 * t * w
        quarter = np.concatenate([phi, math.pi / 2 - phi])
        both = np.concatenate([weight, weight])
        if self._mirror and self.fold == 4:
            return phi, weight
        quarters = (2 if self._mirror else 4) // self.fold
        angle = (quarter + math.pi / 2 * np.arange(quarters)[:, None]).ravel()
        return angle, np.tile(both, quarters) / (2 * quarters)

    @property
    def _mirror(self) -> bool:
        if not self.profile.modifiers:
            return self.profile.symmetric
        return all(m.mirror for m in self.profile.modifiers)

    @cached_property
    def orders(self) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
        """Orders that are kept (cosines, then sines), what projects onto them (orders, angles), and
        what puts them together again: (1 or 2 parts, orders, 2, n_psi), value and slope per step.
        """
        phi, weight = self.angles
        cosines = np.arange(0, self.accuracy.max_order + 1, self.fold)
        sines = np.array([], dtype=int) if self._mirror else cosines[1:]
        every = np.concatenate([cosines, sines])
        project = np.concatenate(
            [np.cos(cosines[:, None] * phi) * weight, np.sin(sines[:, None] * phi) * weight]
        )
        project[1 : len(cosines)] *= 2
        project[len(cosines) :] *= 2
        psi = np.arange(self.n_psi) * self.psi_step
        wave = np.concatenate([np.cos(cosines[:, None] * psi), np.sin(sines[:, None] * psi)])
        slope = np.concatenate(
            [
                -cosines[:, None] * np.sin(cosines[:, None] * psi),
                sines[:, None] * np.cos(sines[:, None] * psi),
            ]
        )
        both = np.stack([wave, slope * self.psi_step], axis=1)
        factor = (-1j) ** every
        parts = [both * factor.real[:, None, None]]
        if self.is_complex:
            parts.append(both * factor.imag[:, None, None])
        return tuple(int(m) for m in every), project, np.stack(parts)

    def nodes(
        self, shapes: torch.Tensor, dtype: torch.dtype, derivatives: bool = True
    ) -> torch.Tensor:
        """Transforms and their derivatives on the grid of ln kappa and psi.

        Parameters
        ----------
        shapes : Tensor, float64, (B, S)
            Fit-space shapes; the pair of a twist in the frame of the table's angles.
        dtype : torch.dtype
            Of the result.
        derivatives : bool
            Without them S counts as 0.

        Returns
        -------
        Tensor, (B or 1, n_kappa + 1, n_psi, 4, 1 + S, parts)
            The value, the slope per step of ln kappa, that per step of psi, and the mixed one; each
            of S and of its derivatives by the shapes; real and imaginary parts. A single row serves
            all objects if there are no shapes.
        """
        if not self.n_shapes:
            return _fixed_nodes(self, shapes.device, dtype)
        return self._nodes(shapes, dtype, derivatives)

    def _nodes(self, shapes: torch.Tensor, dtype: torch.dtype, derivatives: bool) -> torch.Tensor:
        grid, (orders, _, synthesis) = self.grid, self.orders
        spectra, log_radius = self._spectra(shapes, derivatives)
        omega = grid.on(shapes.device).omega
        slope = -grid.kappa_step * torch.complex(torch.full_like(omega, grid.bias), omega)
        both = torch.stack([spectra, slope * spectra], dim=1)
        radial = grid.transform(both, log_radius[:, None, None, None], orders).to(dtype)
        matrix = torch.as_tensor(synthesis, device=shapes.device, dtype=dtype)
        b, _, t, c, n = radial.shape
        # (B, kappa, value or slope, tangents, orders) x (orders, parts * value or slope * psi)
        flat = radial.permute(0, 4, 1, 2, 3).reshape(b, n * 2 * t, c)
        wide = flat @ matrix.permute(1, 0, 2, 3).reshape(c, -1)
        wide = wide.view(b, n, 2, t, len(matrix), 2, self.n_psi)
        return wide.permute(0, 1, 6, 5, 2, 3, 4).flatten(3, 4).contiguous()

    def _spectra(
        self, shapes: torch.Tensor, derivatives: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Spectra of all orders, complex (B, 1 + S, orders, frequencies), for unit flux, with the
        change of the half-light radius in the derivatives; and the logarithm of that radius."""
        grid = self.grid
        constants = grid.on(shapes.device)
        project = torch.as_tensor(self.orders[1], device=shapes.device)
        phi, weight = (torch.as_tensor(x, device=shapes.device) for x in self.angles)
        s = torch.complex(torch.full_like(constants.omega, grid.bias), constants.omega)

        # a (B, angles or 1, points); da (B, own and radial shapes, angles or 1, points)
        a, da = self._sample(shapes, phi)
        delta, by_shape = self._stretch(shapes, phi)  # (B, angles), (B, S, angles)
        area = (-2 * delta).exp() * weight
        if a.shape[1] == 1:
            mean_a = a[:, 0] * area.sum(1)[:, None]
            mean_da = da[:, :, 0] * area.sum(1)[:, None, None]
            mean_da = mean_da + (by_shape * -2 * area[:, None]).sum(2)[..., None] * a
        else:
            mean_a = (a * area[..., None]).sum(1)
            mean_da = (da * area[:, None, :, None]).sum(2)
            mean_da = mean_da + (by_shape * -2 * area[:, None]) @ a
        half = half_light(grid, mean_a, mean_da)

        phases = ((s - 2)[None, None] * delta[..., None]).exp()  # (B, angles, frequencies)
        projection = project.to(phases.dtype)
        plain = not self.profile.modifiers or all(m.radial for m in self.profile.modifiers)
        if a.shape[1] == 1:
            spectrum, by_own = grid.spectrum(a[:, 0]), grid.spectrum(da[:, :, 0])
            angular = projection @ phases  # (B, orders, frequencies)
            by_angle = (s - 2) * (
                (by_shape[:, :, None] * project).to(phases.dtype) @ phases[:, None]
            )
            value = spectrum[:, None] * angular
            change = by_own[:, :, None] * angular[:, None] + spectrum[:, None, None] * by_angle
        elif plain:
            value = grid.spectrum(project @ a)
            change = grid.spectrum(project @ da)
        else:
            at_angle = grid.spectrum(a) * phases
            value = projection @ at_angle
            change = projection @ (grid.spectrum(da) * phases[:, None])
            turned = (by_shape[:, :, None] * project).to(phases.dtype) @ at_angle[:, None]
            change = change + (s - 2) * turned
        moved = half.log_radius_by_shape[:, :, None, None] * (s * value)[:, None]
        rise = (half.integral_by_shape / half.integral[:, None])[:, :, None, None]
        change = change + moved - rise * value[:, None]
        spectra = torch.cat([value[:, None], change], dim=1)
        return spectra / half.integral[:, None, None, None], half.log_radius

    def _sample(self, shapes: torch.Tensor, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """u^2 I (B, angles or 1, points) before any scaling, and its derivatives by the shapes
        (B, S, angles or 1, points)."""
        profile, grid = self.profile, self.grid
        assert profile.light is not None
        own, log = self.n_own, tuple(shape.log for shape in profile.shapes)
        b, device = len(shapes), shapes.device
        r = grid.on(device).r
        if self._scaled:
            a, by_own = sample_light(profile.light, log[:own], shapes[:, :own], grid)
            da = a.new_zeros((b, self.n_shapes, 1, len(r)))
            da[:, :own, 0] = by_own
            return a[:, None], da
        size = (b, len(phi), len(r))
        with torch.enable_grad():
            natural = [
                (column.exp() if is_log else column)[:, None, None].expand(size).contiguous()
                for column, is_log in zip(shapes.unbind(1), log, strict=True)
            ]
            leaves = [column.requires_grad_() for column in natural]
            if not profile.modifiers:
                x, y = (phi.cos()[:, None] * r).expand(size), (phi.sin()[:, None] * r).expand(size)
                light = profile.light(x, y, *leaves)
                used = leaves
            else:
                # In units of the half-light radius that the profile has without modifiers.
                base = half_light(
                    smooth_grid(),
                    *sample_light(profile.light, log[:own], shapes[:, :own], smooth_grid()),
                )
                log_r = torch.as_tensor(grid.log_r, device=device)
                log_radius = (log_r + base.log_radius[:, None, None]).expand(size).contiguous()
                log_radius.requires_grad_()
                stretch, column = torch.zeros((), device=device, dtype=r.dtype), own
                for modifier in profile.modifiers:
                    values = leaves[column : column + len(modifier.shapes)]
                    column += len(modifier.shapes)
                    if modifier.radial:
                        wide = phi[:, None].expand(size)
                        stretch = stretch + modifier.stretch(log_r.expand(size), wide, *values)
                light = profile.light((log_radius + stretch).exp(), *leaves[:own])
                used = [*leaves, log_radius]
            slopes = (
                torch.autograd.grad(light.sum(), used, allow_unused=True, materialize_grads=True)
                if used
                else ()
            )
        square = r.square()
        a = light.detach() * square
        da = a.new_empty((b, self.n_shapes, *size[1:]))
        for i, (leaf, is_log) in enumerate(zip(leaves, log, strict=True)):
            slope = slopes[i] * leaf.detach() if is_log else slopes[i]
            if profile.modifiers and i < own:
                slope = slope + slopes[-1] * base.log_radius_by_shape[:, i, None, None]
            da[:, i] = slope * square
        return a, da

    def _stretch(
        self, shapes: torch.Tensor, phi: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Delta of the modifiers that scale (B, angles), and its derivatives by all shapes
        (B, S, angles)."""
        size = (len(shapes), len(phi))
        total = torch.zeros(size, dtype=phi.dtype, device=phi.device)
        slopes = total.new_zeros((size[0], self.n_shapes, size[1]))
        column = self.n_own
        for modifier in self.profile.modifiers:
            columns = slice(column, column + len(modifier.shapes))
            column = columns.stop
            if modifier.radial:
                continue
            with torch.enable_grad():
                leaves = [
                    value[:, None].expand(size).contiguous().requires_grad_()
                    for value in shapes[:, columns].detach().unbind(1)
                ]
                delta = modifier.stretch(phi.expand(size), *leaves)
                by_value = torch.autograd.grad(delta.sum(), leaves)
            total = total + delta.detach()
            slopes[:, columns] = torch.stack(by_value, dim=1)
        return total, slopes


@lru_cache(maxsize=64)
def _fixed_nodes(table: PolarTable, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Nodes of a profile without shape parameters."""
    return table._nodes(torch.zeros((1, 0), dtype=torch.float64, device=device), dtype, False)


@lru_cache(maxsize=64)
def polar_table(profile: Profile) -> PolarTable:
    """The table of a profile of kind "pixel"."""
    return PolarTable(profile, _accuracy(profile))


def _accuracy(profile: Profile) -> PolarAccuracy:
    """What keeps the image within 5e-5 of its peak (docs/profiles.md)."""
    if not profile.shapes:  # made once
        return PolarAccuracy(128, 512, 512)
    if profile.truncated:
        return PolarAccuracy(48, 320, 192)
    if not profile.modifiers or any(m.kinks for m in profile.modifiers):
        return PolarAccuracy(32, 128, 128)
    largest = max(m.max_order for m in profile.modifiers)
    return PolarAccuracy(largest, 4 * largest, 4 * largest)
