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

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from autofit_ml.profiles.fftlog import LogGrid, smooth_grid
from autofit_ml.profiles.live import HalfLight, half_light, sample_light
from autofit_ml.profiles.modifiers import Modifier
from autofit_ml.profiles.products import each_product
from autofit_ml.profiles.profile import Profile

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
class _Samples:
    """Brightness of a batch at the table's angles and radii.

    a : u^2 I (B, angles or 1, points) before any scaling; da : its derivatives by the shapes that
    it depends on; delta : ln of the scaling (B, angles); by_scaling : its derivatives by the other
    shapes; half : of the mean over the angles; log_unit : of the grid's length, (B,).
    """

    a: torch.Tensor
    da: torch.Tensor
    delta: torch.Tensor
    by_scaling: torch.Tensor
    half: HalfLight
    log_unit: torch.Tensor


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
        return len(self.profile.own_shapes)

    @cached_property
    def grid(self) -> LogGrid:
        """Grid on which the profile is sampled and its transform given, in ln r and ln kappa.

        In natural units for a profile that is only scaled, else in half-light radii.
        """
        if self.profile.truncated:
            return LogGrid(3072, 1440, 0.0125, -18.0, -7.0, 1120, truncated=True)
        low = math.log(1e-4)
        if self._is_unchanging:
            return LogGrid(512, 480, 0.08, -24.0, low, 210)
        return LogGrid(512, 320, 0.08, -17.0, low, 210)

    @property
    def is_scaled(self) -> bool:
        """Some modifier scales the radius by a factor that depends on the angle alone."""
        return any(not m.radial for m in self.profile.modifiers)

    @property
    def _is_unchanging(self) -> bool:
        """Apart from a scaling of the radius the profile is the same at every angle."""
        return self.is_scaled and not any(m.radial for m in self.profile.modifiers)

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
        return next((columns.start for m, columns in self._modifiers if not m.aligned), None)

    @cached_property
    def _modifiers(self) -> tuple[tuple[Modifier, slice], ...]:
        """Each modifier, and the columns of its shapes."""
        out, column = [], self.n_own
        for modifier in self.profile.modifiers:
            out.append((modifier, slice(column, column + len(modifier.shapes))))
            column = out[-1][1].stop
        return tuple(out)

    @property
    def is_complex(self) -> bool:
        """True if the transform has an imaginary part: not if the isophotes repeat after half a
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
        modifiers = self.profile.modifiers
        return all(m.mirror for m in modifiers) if modifiers else self.profile.symmetric

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
        slope = -grid.step * torch.complex(torch.full_like(omega, grid.bias), omega)
        both = torch.stack([spectra, slope * spectra], dim=1)
        radial = grid.transform(both, log_radius[:, None, None, None], orders).to(dtype)
        matrix = torch.as_tensor(synthesis, device=shapes.device, dtype=dtype)
        b, _, t, c, n = radial.shape
        # (B, kappa, value or slope, tangents, orders) x (orders, parts * value or slope * psi)
        flat = radial.permute(0, 4, 1, 2, 3).reshape(b, n * 2 * t, c)
        wide = each_product(flat, matrix.permute(1, 0, 2, 3).reshape(c, -1))
        wide = wide.view(b, n, 2, t, len(matrix), 2, self.n_psi)
        return wide.permute(0, 1, 6, 5, 2, 3, 4).flatten(3, 4).contiguous()

    def half_light(self, shapes: torch.Tensor) -> tuple[HalfLight, torch.Tensor]:
        """Light and half-light radius in units of the sampling grid, and the logarithm (B,) of that
        unit in the profile's natural one; `shapes` as for `nodes`."""
        samples = self._samples(shapes, derivatives=False)
        return samples.half, samples.log_unit

    def turned(self, shapes: torch.Tensor, twice: torch.Tensor) -> torch.Tensor:
        """Fit-space shapes (B, S) in the frame of the table's angles, for a component whose major
        axis has twice the angle `twice` (B,)."""
        pair = self.pair
        if pair is None or not self.aligned:
            return shapes
        cos, sin = twice.cos(), twice.sin()
        one, two = shapes[:, pair], shapes[:, pair + 1]
        turned = torch.stack([cos * one + sin * two, cos * two - sin * one], dim=1)
        return torch.cat([shapes[:, :pair], turned, shapes[:, pair + 2 :]], dim=1)

    @staticmethod
    def axis(twice: torch.Tensor) -> torch.Tensor:
        """Angle of the end of the major axis that `pa` points to (0 <= pa < 180), from its double
        in (-pi, pi]."""
        return torch.where(twice < math.pi, twice / 2 + math.pi, twice / 2)

    def _samples(self, shapes: torch.Tensor, derivatives: bool) -> _Samples:
        phi, weight = (torch.as_tensor(x, device=shapes.device) for x in self.angles)
        sampled, scaling = self._columns if derivatives else ([], [])
        a, da, log_unit = self._sample(shapes, phi, sampled)
        delta, by_scaling = self._stretch(shapes, phi, bool(scaling))
        area = (-2 * delta).exp() * weight
        by_area = -2 * by_scaling * area[:, None]
        if a.shape[1] == 1:
            whole = area.sum(1)
            mean = a[:, 0] * whole[:, None]
            by_sampled = da[:, :, 0] * whole[:, None, None]
            by_scale = by_area.sum(2)[..., None] * a
        else:
            mean = (a * area[..., None]).sum(1)
            by_sampled = (da * area[:, None, :, None]).sum(2)
            by_scale = each_product(by_area, a)
        half = half_light(self.grid, mean, torch.cat([by_sampled, by_scale], dim=1))
        return _Samples(a, da, delta, by_scaling, half, log_unit)

    def _spectra(
        self, shapes: torch.Tensor, derivatives: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Spectra of all orders, complex (B, 1 + S, orders, frequencies), for unit flux, with the
        change of the half-light radius in the derivatives; and the logarithm of that radius."""
        grid = self.grid
        constants = grid.on(shapes.device)
        project = torch.as_tensor(self.orders[1], device=shapes.device)
        s = torch.complex(torch.full_like(constants.omega, grid.bias), constants.omega)
        samples = self._samples(shapes, derivatives)
        a, da, half = samples.a, samples.da, samples.half
        delta, by_scaling = samples.delta, samples.by_scaling
        if self.is_scaled:
            phases = ((s - 2) * delta[..., None]).exp()  # (B, angles, frequencies)
            turned = (by_scaling[:, :, None] * project).to(s.dtype)
            projection = project.to(s.dtype)
        if a.shape[1] == 1:
            spectrum, angular = grid.spectrum(a), each_product(projection, phases)
            value = spectrum * angular
            by_sampled = grid.spectrum(da) * angular[:, None]
            by_scale = (s - 2) * spectrum[:, None] * each_product(turned, phases[:, None])
        elif self.is_scaled:
            at_angle = grid.spectrum(a) * phases
            value = each_product(projection, at_angle)
            by_sampled = each_product(projection, grid.spectrum(da) * phases[:, None])
            by_scale = (s - 2) * each_product(turned, at_angle[:, None])
        else:
            value = grid.spectrum(each_product(project, a))
            by_sampled = grid.spectrum(each_product(project, da))
            by_scale = by_sampled[:, :0]
        change = torch.cat([by_sampled, by_scale], dim=1)
        change = change + half.log_radius_by_shape[:, :, None, None] * (s * value)[:, None]
        rise = half.integral_by_shape / half.integral[:, None]
        change = change - rise[:, :, None, None] * value[:, None]
        if derivatives:
            columns = [*self._columns[0], *self._columns[1]]
            change = change[:, sorted(range(len(columns)), key=columns.__getitem__)]
        spectra = torch.cat([value[:, None], change], dim=1)
        return spectra / half.integral[:, None, None, None], half.log_radius

    @cached_property
    def _columns(self) -> tuple[list[int], list[int]]:
        """Columns of the shapes that the samples depend on, and of those that scale the radius."""
        sampled: list[int] = list(range(self.n_own))
        scaling: list[int] = []
        for modifier, columns in self._modifiers:
            some = range(columns.start, columns.stop)
            (sampled if modifier.radial else scaling).extend(some)
        return sampled, scaling

    def _sample(
        self, shapes: torch.Tensor, phi: torch.Tensor, wanted: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """u^2 I (B, angles or 1, points) before any scaling, its derivatives by the shapes `wanted`
        (B, wanted, angles or 1, points), and the logarithm of the grid's unit of length (B,)."""
        profile, grid = self.profile, self.grid
        assert profile.light is not None
        own, log = self.n_own, tuple(shape.log for shape in profile.shapes)
        r = grid.on(shapes.device).r
        log_unit = r.new_zeros(len(shapes))
        if self._is_unchanging:
            a, da = sample_light(profile.light, log[:own], shapes[:, :own], grid, bool(wanted))
            return a[:, None], da[:, :, None], log_unit
        size = (len(shapes), len(phi), len(r))
        with torch.set_grad_enabled(bool(wanted)):
            columns = [
                (column.exp() if is_log else column)[:, None, None].expand(size).contiguous()
                for column, is_log in zip(shapes.detach().unbind(1), log, strict=True)
            ]
            leaves = [column.requires_grad_(bool(wanted)) for column in columns]
            if profile.modifiers:
                # In units of the half-light radius that the profile has without modifiers.
                light_samples = sample_light(
                    profile.light, log[:own], shapes[:, :own], smooth_grid(), bool(wanted)
                )
                base = half_light(smooth_grid(), *light_samples)
                log_unit = base.log_radius
                log_u = torch.as_tensor(grid.log_r, device=shapes.device).expand(size)
                log_r = (log_u + log_unit[:, None, None]).requires_grad_(bool(wanted))
                angle, radial = phi[:, None].expand(size), torch.zeros_like(log_u)
                for modifier, of in self._modifiers:
                    if modifier.radial:
                        radial = radial + modifier.stretch(log_u, angle, *leaves[of])
                light = profile.light((log_r + radial).exp(), *leaves[:own])
                used = [*(leaves[i] for i in wanted), log_r]
            else:
                x, y = phi.cos()[:, None] * r, phi.sin()[:, None] * r
                light = profile.light(x.expand(size), y.expand(size), *leaves)
                used = leaves
            slopes = torch.autograd.grad(light.sum(), used) if wanted else ()
        square = r.square()
        da = r.new_empty((size[0], len(wanted), *size[1:]))
        for i, column in enumerate(wanted):
            slope = slopes[i] * leaves[column].detach() if log[column] else slopes[i]
            if profile.modifiers and column < own:
                slope = slope + slopes[-1] * base.log_radius_by_shape[:, column, None, None]
            da[:, i] = slope * square
        return light.detach() * square, da, log_unit

    def _stretch(
        self, shapes: torch.Tensor, phi: torch.Tensor, derivatives: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Delta of the modifiers that scale (B, angles), and its derivatives by their shapes
        (B, scaling shapes, angles)."""
        size = (len(shapes), len(phi))
        total = torch.zeros(size, dtype=phi.dtype, device=phi.device)
        slopes: list[torch.Tensor] = []
        for modifier, columns in self._modifiers:
            if modifier.radial:
                continue
            with torch.set_grad_enabled(derivatives):
                leaves = [
                    value[:, None].expand(size).contiguous().requires_grad_(derivatives)
                    for value in shapes[:, columns].detach().unbind(1)
                ]
                delta = modifier.stretch(phi.expand(size), *leaves)
                if derivatives:
                    slopes += torch.autograd.grad(delta.sum(), leaves)
            total = total + delta.detach()
        return total, torch.stack(slopes, dim=1) if slopes else total.new_zeros(size[0], 0, size[1])


@lru_cache(maxsize=64)
def _fixed_nodes(table: PolarTable, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Nodes of a profile without shape parameters."""
    return table._nodes(torch.zeros((1, 0), dtype=torch.float64, device=device), dtype, False)


@lru_cache(maxsize=64)
def polar_table(profile: Profile) -> PolarTable:
    """The table of a profile of kind "pixel"."""
    return PolarTable(profile, _accuracy(profile))


def _accuracy(profile: Profile) -> PolarAccuracy:
    """Accuracy that keeps the image within 5e-5 of its peak (docs/profiles.md)."""
    if not profile.shapes:  # made once
        return PolarAccuracy(128, 512, 512)
    if profile.truncated:
        return PolarAccuracy(48, 320, 128)
    if not profile.modifiers or any(m.kinks for m in profile.modifiers):
        return PolarAccuracy(32, 128, 128)
    largest = max(m.max_order for m in profile.modifiers)
    return PolarAccuracy(largest, 4 * largest, 4 * largest)
