r"""The objective of scene photometry: a host that stays, a point source whose flux changes.

.. math:: d_e = P_e \ast \big[H(\theta) + \sum_j h_j \delta_j + f_e\,\delta(x, y)\big] + B_e

in every epoch e, with its own PSF, grid, background and changes of the PSF
(`autofit_ml.images.psf_error`). The host H is a scene (`autofit_ml.fitting`); h_j are the
fluxes of host pixels, a Gaussian with mean 0 each, and f_e may have either sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluation
from autofit_ml.fitting.pixels import ImageData
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.profiles import get_profile
from autofit_ml.rendering import component_channels, render_component
from autofit_ml.rendering.synthesis import phase, synthesise

__all__ = ["EpochScene", "HostPixels"]

_POINT = get_profile("psf")


@dataclass(frozen=True)
class HostPixels:
    """Pixels of the host beside its model.

    Attributes
    ----------
    x, y : Tensor, float64, (N,)
        In the first image.
    precision : Tensor, float64, (N, N)
        Of their fluxes before the fit; their mean is 0.
    """

    x: torch.Tensor
    y: torch.Tensor
    precision: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)


class EpochScene:
    """One host and one source in several epochs; the parameters are one vector theta.

    In order: the numbers of the host's problem (its shape, backgrounds, changes of the PSFs),
    x and y of the source in the first image, its flux in each epoch that has one, host pixels.

    Parameters
    ----------
    host : SceneProblem
        Of one object; its fluxes and `flux` are in one unit for all epochs.
    present : sequence of bool
        Epochs with the source.
    position, position_error : float
        Where the source is expected in the first image; error 0: there.
    pixels : HostPixels
    floor : float
        Error of the model, as a share of its light.
    """

    def __init__(
        self,
        host: SceneProblem,
        present: list[bool],
        position: tuple[float, float],
        position_error: float,
        pixels: HostPixels,
        floor: float,
    ) -> None:
        self.host, self.present, self.pixels, self.floor = host, present, pixels, floor
        self.n_host = host.layout.size
        device = host.images[0].data.device
        self._one = torch.zeros(1, dtype=torch.int64, device=device)
        self.expected = torch.tensor(position, dtype=torch.float64, device=device)
        self.position_error = position_error
        self.at = slice(self.n_host, self.n_host + 2)
        self.fluxes = slice(self.at.stop, self.at.stop + sum(present))
        self.grid = slice(self.fluxes.stop, self.fluxes.stop + len(pixels))
        self.size = self.grid.stop
        self.places = {e: self.fluxes.start + k for k, e in enumerate(self.epochs)}
        self.roots = [image.root_weight[0] for image in host.images]
        self._columns = [self._pixel_columns(image) for image in host.images]
        self._changes: list[torch.Tensor | None] = [None] * len(host.images)
        self._grams: list[torch.Tensor] = []
        self._weigh()

    @property
    def epochs(self) -> list[int]:
        """Epochs with a flux."""
        return [e for e, seen in enumerate(self.present) if seen]

    def start(self, theta: torch.Tensor) -> torch.Tensor:
        """Starting theta (1, size) from the host's (1, n_host)."""
        rest = theta.new_zeros((1, self.size - self.n_host))
        rest[0, :2] = self.expected
        return torch.cat([theta, rest], 1)

    def bounds(
        self, lower: torch.Tensor, upper: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bounds of theta from the host's, (1, n_host) each, and the largest step."""
        free = lower.new_full((1, self.size - self.n_host), torch.inf)
        low, high = -free, free.clone()
        reach = 3 * self.position_error
        low[0, :2], high[0, :2] = self.expected - reach, self.expected + reach
        step = lower.new_full((self.size,), torch.inf)
        step[: self.n_host] = self.host.layout.max_step
        step[self.at] = 1.0
        return torch.cat([lower, low], 1), torch.cat([upper, high], 1), step

    def evaluate(self, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
        """chi2, gradient and matrix, for `levenberg_marquardt.minimise`; one problem."""
        own = theta[:, : self.n_host]
        chi2, gradient, matrix = (part[0] for part in self.host.beyond_pixels(self._one, own))
        whole = theta.new_zeros((self.size, self.size))
        slope = theta.new_zeros(self.size)
        whole[: self.n_host, : self.n_host], slope[: self.n_host] = matrix, gradient
        total = chi2 + self._priors(theta[0], slope, whole)
        for i in range(len(self.host.images)):
            rows, jacobian, light, _ = self._image(theta, i)
            residual = self._residual(i, light)
            root = self.roots[i]
            weighted = (rows * root).flatten(1)
            small = (weighted @ weighted.T).to(theta)
            near = slice(0, self.grid.start)
            whole[near, near] += jacobian.T @ small @ jacobian
            slope[near] += jacobian.T @ (weighted @ residual.flatten()).to(theta)
            total = total + residual.to(theta).square().sum()
            if len(self.pixels):
                columns = self._columns[i] * root.flatten()
                across = jacobian.T @ (weighted @ columns.T).to(theta)
                whole[near, self.grid] += across
                whole[self.grid, near] += across.T
                whole[self.grid, self.grid] += self._grams[i]
                slope[self.grid] += (columns @ residual.flatten()).to(theta)
        light = theta.new_zeros((1, 0))
        return Evaluation(total[None], slope[None], whole[None], light)

    def images(self, theta: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Host with background, and source, of an epoch, in units of its `scale`, (ny, nx)."""
        _, _, light, point = self._image(theta, epoch)
        return light - point, point

    def chi2(self, theta: torch.Tensor, epoch: int) -> tuple[float, int]:
        """chi2 and number of pixels of an epoch."""
        residual = self._residual(epoch, self._image(theta, epoch)[2])
        return float(residual.double().square().sum()), int((self.roots[epoch] > 0).sum())

    def settle(self, theta: torch.Tensor) -> None:
        """Take the errors of the model, and what changes of the PSFs do to host pixels, from theta.

        Both depend on the model itself, and are constant during a minimisation.
        """
        for i, image in enumerate(self.host.images):
            given = image.root_weight[0]
            sky = self.host.sky_image(self._one, theta[:, : self.n_host], i)[0]
            light = self._image(theta, i)[2] - sky
            variance = torch.where(given > 0, given, 1.0) ** -2 + (self.floor * light) ** 2
            self.roots[i] = torch.where(given > 0, variance.rsqrt(), torch.zeros_like(given))
            if len(self.pixels) and image.psf_basis is not None:
                spectrum = self._pixel_spectrum(image, theta[0, self.grid])
                parts = [self._seen(image, mode * spectrum) for mode in image.psf_basis[0]]
                self._changes[i] = torch.stack(parts)
        self._weigh()

    # ------------------------------------------------------------------ pieces

    def _residual(self, i: int, light: torch.Tensor) -> torch.Tensor:
        return (self.host.images[i].data[0] - light) * self.roots[i]

    def _priors(
        self, theta: torch.Tensor, slope: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        """chi2 of the source's position and of the host pixels; slope and matrix in place."""
        chi2 = theta.new_zeros(())
        if self.position_error > 0:
            off = (theta[self.at] - self.expected) / self.position_error
            chi2 = chi2 + off.square().sum()
            slope[self.at] -= off / self.position_error
            whole[self.at, self.at] += (
                torch.eye(2, dtype=theta.dtype, device=theta.device) / self.position_error**2
            )
        if len(self.pixels):
            pull = self.pixels.precision @ theta[self.grid]
            chi2 = chi2 + pull @ theta[self.grid]
            slope[self.grid] -= pull
            whole[self.grid, self.grid] += self.pixels.precision
        return chi2

    def _image(
        self, theta: torch.Tensor, i: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images that span the derivatives (P, ny, nx), what combines them (P, D without pixels),
        the whole model and the source alone (ny, nx)."""
        host, image, own = self.host, self.host.images[i], theta[:, : self.n_host]
        blocks, by_host = host.channels(self._one, own, i)
        psf = host.psf_of(self._one, own, i)
        light = torch.stack(host.light_of(blocks)).sum(0)[0] + host.sky_image(self._one, own, i)[0]
        channels = torch.cat(blocks, 1)[0].clone()
        n = len(channels)
        jacobian = theta.new_zeros((n + 3, self.grid.start))
        jacobian[:n, : self.n_host] = by_host[0]
        if len(self.pixels):
            light = light + (self._columns[i].T @ theta[0, self.grid].to(light)).view(light.shape)
            change = self._changes[i]
            if change is not None:
                modes = own[0, host.layout.psf_slice(i)].to(light)
                light = light + torch.einsum("k,kyx->yx", modes, change)
                channels[n - len(change) :] += change
        position, turn = self._there(theta[:, self.at], image)
        place = torch.cat([position, -image.scale[:, None].log()], 1)
        drawn = component_channels(image.plan, _POINT, psf, place)[0][0]
        flux = theta[0, self.places[i]] if self.present[i] else theta.new_zeros(())
        point = flux.to(drawn) * drawn[2]
        jacobian[n : n + 2, self.at] = flux * turn
        if self.present[i]:
            jacobian[n + 2, self.places[i]] = 1.0
            if image.psf_basis is not None:
                basis = image.psf_basis[0]
                several = place.expand(len(basis), -1)
                changed = render_component(image.plan, _POINT, basis, several)
                channels[n - len(basis) :] += flux.to(drawn) * changed
        return torch.cat([channels, drawn]), jacobian, light + point, point

    @staticmethod
    def _there(position: torch.Tensor, image: ImageData) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (N, 2) of the first image in another's pixels, and their derivatives (2, 2)."""
        if image.placement is None:
            return position, torch.eye(2, dtype=position.dtype, device=position.device)
        matrix = image.placement.matrix[0]
        return position @ matrix.T + image.placement.offset[0], matrix

    def _pixel_places(self, image: ImageData) -> torch.Tensor:
        """x, y and ln flux of host pixels of flux 1, (N, 3), for the renderer."""
        places, _ = self._there(torch.stack([self.pixels.x, self.pixels.y], 1), image)
        return torch.cat([places, -image.scale.log().expand(len(places), 1)], 1)

    def _pixel_columns(self, image: ImageData) -> torch.Tensor:
        """Images of host pixels of flux 1, (N, ny nx)."""
        places = self._pixel_places(image)
        if not len(places):
            return image.data.new_zeros((0, image.data[0].numel()))
        parts = [
            render_component(image.plan, _POINT, image.psf.expand(len(some), -1), some).flatten(1)
            for some in places.split(64)
        ]
        return torch.cat(parts)

    def _pixel_spectrum(self, image: ImageData, fluxes: torch.Tensor) -> torch.Tensor:
        """Modes of the host pixels without a PSF, (n_modes,)."""
        out = torch.zeros_like(image.psf[0])
        places = self._pixel_places(image).to(image.plan.dtype)
        for some, flux in zip(places.split(64), fluxes.to(places).split(64), strict=True):
            waves = phase(image.plan, some[:, 0], some[:, 1])
            out = out + (flux * some[:, 2].exp()).to(waves.dtype) @ waves
        return out

    @staticmethod
    def _seen(image: ImageData, spectrum: torch.Tensor) -> torch.Tensor:
        return synthesise(image.plan, spectrum[None])[0]

    def _weigh(self) -> None:
        """Normal matrices of the host pixels with the weights as they are."""
        self._grams = []
        for columns, root in zip(self._columns, self.roots, strict=True):
            weighted = columns * root.flatten()
            self._grams.append((weighted @ weighted.T).double())
