r"""The denoiser of sharp galaxies under coloured noise: the learned prior.

In: :math:`u = x + n` with Gaussian noise n of known power spectrum :math:`q(k)`, any units. Out:
:math:`D(u; q) \approx E[x \mid u]`. With :math:`q = \sigma^2` it is a diffusion model's usual
denoiser; the coloured spectra are those that `eps` meets.

The estimate has two parts.

1. A mixture of C Gaussians, fitted to the training set: class c has a mean
   :math:`F m_c` and a stationary covariance of power :math:`F^2 P_c(|k|)`, with the flux F as a
   free amplitude. Flux and probabilities of the classes follow from u; their mixture's mean
   :math:`\bar m` and total power P make a Wiener estimate about a mean,
   :math:`x_s = \bar m + \frac{P}{P + q} (u - \bar m)`, with error power
   :math:`v = P q / (P + q)`. This is the skip connection of EDM (Karras et al. 2022,
   arXiv:2206.00364, eq. 7), with a prior in the place of one variance.
2. A U-Net's correction, :math:`D = x_s + g * N_\theta`, with
   :math:`g^2 = v + 0.01 \min(\bar v, q)`: what it has to learn has unit variance at every noise
   level, and so has the loss.

Everything that enters the U-Net is relative to fluxes and noise found from u and q, so
:math:`D(c u; c^2 q) = c D(u; q)`.

U-Net blocks, schedule and the denoiser's interface are azula's (Rozet 2024,
https://github.com/probabilists/azula); `DeconvolveNetwork` works with azula's samplers.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autofit_ml.deconvolution.spectra import BINS, Grid, fft2, grid_of, ifft2
from autofit_ml.deconvolution.target import TARGET_FWHM
from autofit_ml.extras import needs
from autofit_ml.weights.manifest import tuples

with needs("deconvolve", "deconvolution with a learned prior"):
    from azula.denoise import Denoiser, DiracPosterior
    from azula.nn.unet import UNet, UNetBlock
    from azula.noise import VESchedule

__all__ = ["DeconvolveNetwork", "DeconvolveSettings", "InBfloat16", "Skip", "build", "describe"]

_CHANNELS = 6
_COARSE = BINS // 2
_GROUPS = 8
_TEMPER = 3.0
"""Log likelihoods of the classes are divided by this: no class is true."""

_FLOOR = 0.01
"""Of g squared, relative to the mean of v: modes without light must not decide the loss. Modes
that the data know well keep their own small scale."""


@dataclass(frozen=True)
class DeconvolveSettings:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the U-Net at 1/2, 1/4, ... of the image's sampling.
    blocks : tuple of int
        Residual blocks of each, on the way down and on the way up.
    features : int
        Of the conditioning vector.
    classes : int
        Gaussians of the mixture.
    side : int
        Pixels of the classes' mean images.
    window : int
        Pixels in the middle whose moments normalise the features of larger grids.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (2, 2, 2)
    features: int = 96
    classes: int = 128
    side: int = 96
    window: int = 64


@dataclass(frozen=True)
class Skip:
    """The mixture's estimate; half planes are (B, K), orthonormal.

    Attributes
    ----------
    mean : Tensor, complex
        The classes' common mean.
    estimate : Tensor, complex
    gain, error, scale : Tensor
        P / (P + q), v, g.
    total : Tensor
        P + q.
    shares : Tensor, shape (B, C)
        Probabilities of the classes.
    signal : Tensor, shape (B,)
        ln of the flux over its error.
    """

    mean: torch.Tensor
    estimate: torch.Tensor
    gain: torch.Tensor
    error: torch.Tensor
    scale: torch.Tensor
    total: torch.Tensor
    shares: torch.Tensor
    signal: torch.Tensor


class _CentralNorm(nn.Module):
    """Group normalisation with the moments of the middle of an image.

    On grids of the window's size it is the usual one. A larger grid has the same galaxy in the
    middle of more sky, which would change the moments of the whole.
    """

    def __init__(self, window: int, groups: int = _GROUPS) -> None:
        super().__init__()
        self.window, self.groups = window, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the network in float32, which is twice as fast to differentiate as bfloat16."""
        side = x.shape[-1]
        if side <= self.window:
            return nn.functional.group_norm(x.float(), self.groups, eps=1e-5).to(x.dtype)
        first = (side - self.window) // 2
        middle = x[..., first : first + self.window, first : first + self.window].float()
        mean = self._of_groups(middle)
        scale = torch.rsqrt(self._of_groups((middle - mean).square()) + 1e-5)
        return torch.addcmul((-mean * scale).to(x.dtype), x, scale.to(x.dtype))

    def _of_groups(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over pixels and the channels of each group, (B, C, 1, 1)."""
        size = x.shape[1] // self.groups
        mean = x.mean((2, 3), keepdim=True).unflatten(1, (self.groups, size))
        return mean.mean(2, keepdim=True).expand(-1, -1, size, -1, -1).flatten(1, 2)


class DeconvolveNetwork(Denoiser):
    """``denoise(u, q)`` for images (B, G, G) and spectra (B, G, G // 2 + 1) or (G, G // 2 + 1).

    G is any multiple of 8 from 32 on. ``forward(x_t, t)`` is azula's interface: white noise of
    the schedule's level.
    """

    def __init__(self, settings: DeconvolveSettings) -> None:
        super().__init__()
        self.settings = settings
        self.target_fwhm = TARGET_FWHM
        self.schedule = VESchedule(sigma_min=1e-3, sigma_max=1e5)
        c, side = settings.classes, settings.side
        self.register_buffer("class_mean", torch.zeros(c, side, side))
        self.register_buffer("class_power", torch.ones(c, BINS))
        self.register_buffer("class_share", torch.full((c,), 1.0 / c))
        self.register_buffer("usual_misfit", torch.tensor(torch.inf))
        self.embed = nn.Sequential(
            nn.Linear(2 * BINS + 2 * _COARSE + c + 1, settings.features),
            nn.SiLU(),
            nn.Linear(settings.features, settings.features),
        )
        self.unet = UNet(
            in_channels=4 * _CHANNELS,
            out_channels=8,
            hid_channels=settings.widths,
            hid_blocks=settings.blocks,
            mod_features=settings.features,
            norm="group",
            groups=_GROUPS,
        )
        depth = len(settings.widths)
        for part, ascending in ((self.unet.descent, False), (self.unet.ascent, True)):
            for k, stage in enumerate(part):
                level = depth - 1 - k if ascending else k
                for block in stage:
                    if isinstance(block, UNetBlock):
                        block.norm = _CentralNorm(settings.window // 2 >> level)
        self.unet.to(memory_format=torch.channels_last)
        last = self.unet.ascent[-1][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self._kept: dict[Any, tuple[torch.Tensor, ...]] = {}
        self.register_load_state_dict_post_hook(_forget)

    # -------------------------------------------------------------- interface

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, **_: Any) -> "DiracPosterior":
        """azula's interface; ``alpha`` is 1."""
        _, sigma = self.schedule(t)
        side = x_t.shape[-1]
        level = sigma.reshape(-1, 1, 1).square().to(x_t)
        return DiracPosterior(self.denoise(x_t, level.expand(-1, side, side // 2 + 1)))

    def denoise(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """The mean of x given u, (B, G, G)."""
        return self.estimate(u, spectrum)[0]

    def estimate(
        self, u: torch.Tensor, spectrum: torch.Tensor, *, autocast: torch.dtype | None = None
    ) -> tuple[torch.Tensor, Skip]:
        """`denoise`, and the skip connection's part.

        Parameters
        ----------
        u : Tensor, float32, shape (B, G, G)
        spectrum : Tensor, positive, shape (B, G, G // 2 + 1)
        autocast : torch.dtype, optional
            Precision of the U-Net.
        """
        grid, unit, transform, q, skip = self._skipped(u, spectrum)
        inputs, features, gate = self._inputs(transform, q, skip, grid)
        with torch.autocast(
            u.device.type, autocast or torch.bfloat16, enabled=autocast is not None
        ):
            planes = nn.functional.pixel_unshuffle(inputs, 2)
            planes = planes.contiguous(memory_format=torch.channels_last)
            out = self.unet(planes, self.embed(features))
        out = nn.functional.pixel_shuffle(out.float(), 2)
        change = out[:, 0] + out[:, 1] * gate
        change = fft2(change).flatten(1) * skip.scale
        found = (skip.estimate + change) * unit
        scaled = dataclasses.replace(skip, scale=skip.scale * unit)
        return ifft2(found.unflatten(1, grid.shape), grid.side), scaled

    @torch.no_grad()
    def misfit(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """Mean over long waves of |u - mean|^2 / (P + q), (B,): about 1 for usual galaxies."""
        grid, _, transform, _, skip = self._skipped(u, spectrum)
        apart = (transform - skip.mean).abs().square() / skip.total
        low = grid.low
        return apart[:, low] @ grid.count[low] / grid.count[low].sum()

    # -------------------------------------------------------------- mixture of classes

    @torch.no_grad()
    def _skipped(self, u: torch.Tensor, spectrum: torch.Tensor):
        """Grid, unit, transform and powers in that unit, and the mixture's estimate."""
        grid = grid_of(u.shape[-1], str(u.device))
        q = spectrum.expand(len(u), *grid.shape).flatten(1)
        # Units in which the noise is about 1: powers and their squares stay finite.
        unit = (q.log() @ grid.count / grid.count.sum()).div(2).exp()[:, None]
        transform, q = fft2(u).flatten(1) / unit, q / unit.square()
        return grid, unit, transform, q, self.skip(transform, q, grid)

    def skip(self, u: torch.Tensor, q: torch.Tensor, grid: Grid) -> Skip:
        """The mixture's estimate from half planes (B, K)."""
        means, power, folded, lowest_mean = self._classes(grid)
        low, lowest, count = grid.low, grid.lowest, grid.count
        # Flux from the longest waves, then class by class.
        weight = count[lowest] / q[:, lowest]
        inverse = (weight * lowest_mean.abs().square()).sum(1)
        flux = (weight * (lowest_mean.conj() * u[:, lowest]).real).sum(1) / inverse
        flux = (flux.clamp_min(0).square() + 1 / inverse).sqrt()
        variance = flux.square()[:, None, None] * power[None, :, low] + q[:, None, low]
        weight = count[low] / variance  # (B, C, L)
        some = means[:, low]
        inverse = torch.einsum("bcl,cl->bc", weight, some.abs().square())
        seen = u[:, low]
        overlap = torch.einsum("bcl,cl,bl->bc", weight, some.real, seen.real)
        overlap += torch.einsum("bcl,cl,bl->bc", weight, some.imag, seen.imag)
        fluxes = (overlap / inverse).clamp_min(0)
        misfit = torch.einsum("bcl,bl->bc", weight, seen.abs().square())
        misfit = misfit - fluxes * (2 * overlap - fluxes * inverse)
        log_det = torch.einsum("bcl,l->bc", variance.log(), count[low])
        fluxes = (fluxes.square() + 0.25 / inverse).sqrt()
        log_odds = -0.5 * (misfit + log_det + inverse.log()) - fluxes.log()
        shares = (
            log_odds / _TEMPER + self.get_buffer("class_share").clamp_min(1e-9).log()
        ).softmax(1)

        amplitude = shares * fluxes
        mean = torch.complex(amplitude @ means.real, amplitude @ means.imag)
        second = (shares * (fluxes.square() + 1 / inverse)) @ folded
        least = (shares * fluxes.square()) @ self.get_buffer("class_power") / grid.side**2
        binned = (second - mean.abs().square() @ grid.gather).clamp_min(
            0.5 * least + 1e-12 * second
        )
        # In k = 0 the classes have no scatter of their own; the flux must stay the data's.
        binned[:, 0] = torch.maximum(binned[:, 0], binned[:, 1])
        prior = (binned.log() @ grid.spread).exp()
        total = prior + q
        gain = prior / total
        error = gain * q
        floor = _FLOOR * torch.minimum((error @ count / count.sum())[:, None], q)
        return Skip(
            mean=mean,
            estimate=mean + gain * (u - mean),
            gain=gain,
            error=error,
            scale=(error + floor).sqrt(),
            total=total,
            shares=shares,
            signal=(shares * (fluxes * inverse.sqrt()).log()).sum(1),
        )

    def _classes(self, grid: Grid) -> tuple[torch.Tensor, ...]:
        """On a grid: mean transforms (C, K), powers (C, K), second moments (C, BINS), mean."""
        key = (grid.side, grid.ky.device)
        if key not in self._kept:
            side, own = grid.side, self.settings.side
            image = self.get_buffer("class_mean")
            before = (side - own) // 2
            if side >= own:
                after = side - own - before
                image = nn.functional.pad(image, (before, after, before, after))
            else:
                image = image[:, -before : side - before, -before : side - before]
            means = fft2(image).flatten(1)
            binned = self.get_buffer("class_power") / side**2
            power = (binned.clamp_min(1e-30).log() @ grid.spread).exp()
            power[:, 0] = binned[:, 0]
            folded = binned + means.abs().square() @ grid.gather
            middle = (self.get_buffer("class_share")[:, None] * means).sum(0)[grid.lowest]
            self._kept[key] = (means, power, folded, middle)
        return self._kept[key]

    def _inputs(
        self, u: torch.Tensor, q: torch.Tensor, skip: Skip, grid: Grid
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 6, G, G), conditioning vector, and what the second output is multiplied by."""
        apart = u - skip.mean
        planes = torch.stack(
            [
                apart / skip.total.sqrt(),
                skip.gain * apart / skip.scale,
                skip.estimate,
                skip.mean,
            ],
            dim=1,
        )
        white, scaled, estimate, mean = ifft2(planes.unflatten(-1, grid.shape), grid.side).unbind(1)
        usual = (skip.error @ grid.count / grid.count.sum()).sqrt()[:, None, None]
        top = mean.amax((1, 2), keepdim=True).clamp_min(1e-20)
        gate = (estimate.abs() / usual).asinh()
        middle = (grid.side - 1) / 2
        along = (torch.arange(grid.side, device=u.device) - middle) / 32
        radius = torch.hypot(along[:, None], along[None, :]).expand_as(white)
        images = torch.stack(
            [
                2 * (white / 2).asinh(),
                2 * (scaled / 2).asinh(),
                (estimate / usual).asinh() / 3,
                mean / top,
                (estimate / top).clamp(-2, 3),
                radius,
            ],
            dim=1,
        )
        ratio = (q / (skip.total - q).clamp_min(1e-30)).log().clamp(-20, 20)
        log_q = q.log()
        angle = torch.atan2(grid.ky, grid.kx)
        shape = [
            ((log_q - (log_q @ grid.gather) @ grid.spread) * turn) @ grid.gather
            for turn in (torch.cos(2 * angle), torch.sin(2 * angle))
        ]
        # How much more, or less, power than expected: galaxies differ in their fine structure.
        power = (apart.abs().square() @ grid.gather).clamp_min(1e-20)
        excess = (power / (skip.total @ grid.gather).clamp_min(1e-20)).log().clamp(-6, 6)
        features = torch.cat(
            [
                (ratio @ grid.gather) / 5,
                *(part.unflatten(1, (_COARSE, 2)).mean(2) for part in shape),
                skip.shares,
                skip.signal[:, None] / 3,
                excess / 2,
            ],
            dim=1,
        )
        return images, features, gate


@dataclass(frozen=True, eq=False)
class InBfloat16:
    """A network whose U-Net computes in bfloat16; all else stays in float32.

    Attributes
    ----------
    network : DeconvolveNetwork
    """

    network: DeconvolveNetwork

    def denoise(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """Denoise as `DeconvolveNetwork.denoise` does."""
        return self.network.estimate(u, spectrum, autocast=torch.bfloat16)[0]

    def misfit(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """Measure the misfit as `DeconvolveNetwork.misfit` does."""
        return self.network.misfit(u, spectrum)

    def get_buffer(self, target: str) -> torch.Tensor:
        """Return a buffer of the network."""
        return self.network.get_buffer(target)


def _forget(module: nn.Module, _: Any) -> None:
    """Forget what was derived from other classes."""
    if isinstance(module, DeconvolveNetwork):
        module._kept.clear()


def build(config: Mapping[str, Any]) -> DeconvolveNetwork:
    """A network from a bundle's ``config.json``.

    Raises
    ------
    KeyError, TypeError, ValueError
        The configuration is not one of this version's.
    """
    if config["architecture"] != "deconvolve-unet":
        raise ValueError(f"unknown architecture {config['architecture']!r}")
    if config["target_fwhm"] != TARGET_FWHM:
        raise ValueError(f"target PSF of {config['target_fwhm']} pixels, not {TARGET_FWHM}")
    return DeconvolveNetwork(DeconvolveSettings(**tuples(config["network"])))


def describe(network: DeconvolveNetwork) -> dict[str, Any]:
    """The part of a bundle's ``config.json`` from which `build` makes the network again."""
    return {
        "task": "deconvolve",
        "format": 1,
        "architecture": "deconvolve-unet",
        "network": dataclasses.asdict(network.settings),
        "target_fwhm": TARGET_FWHM,
        "units": "any: the denoiser is equivariant to a common factor of flux and noise; "
        "target_fwhm in output pixels, pixel included",
    }
