"""Scenes of endless stamps: random numbers, sources and their places, fluxes, tables."""

import math

import numpy as np
import torch

from autofit_ml.scenes import to_fit_space
from training.endless.settings import SPREAD, EndlessSettings

__all__ = [
    "CATALOGUE",
    "EMPTY",
    "GALAXY",
    "STAR",
    "Random",
    "draw_scenes",
    "flux_for_snr",
    "generator",
    "tables",
]

CATALOGUE = ("x", "y", "flux", "re", "n", "q", "pa")
"""Parameters of one source, in the conventions of `autofit_ml.scenes`; a star has re = 0."""

EMPTY, GALAXY, STAR = 0, 1, 2
"""Kinds of source slots."""

_TRIES = 16
"""Places that are tried for a neighbour before it is left out."""

_NEWTON_STEPS = 6
"""Steps that solve flux for S/N: 1e-6 after five over all ratios of light to sky."""


class Random:
    """Random tensors of one generator, float64 on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, size: tuple[int, ...], limits: tuple[float, float]) -> torch.Tensor:
        value = torch.rand(size, generator=self.generator, device=self.device, dtype=torch.float64)
        return limits[0] + (limits[1] - limits[0]) * value

    def log_uniform(self, size: tuple[int, ...], limits: tuple[float, float]) -> torch.Tensor:
        return self.uniform(size, (math.log(limits[0]), math.log(limits[1]))).exp()

    def normal(self, size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.randn(size, generator=self.generator, device=self.device, dtype=dtype)

    def log_normal(self, size: tuple[int, ...], limits: tuple[float, float]) -> torch.Tensor:
        """Log-normal draws with `limits` as the 5 and 95 % points."""
        low, high = math.log(limits[0]), math.log(limits[1])
        return ((low + high) / 2 + (high - low) / (2 * SPREAD) * self.normal(size)).exp()

    def poisson(self, size: tuple[int, ...], mean: float) -> torch.Tensor:
        rate = torch.full(size, mean, device=self.device, dtype=torch.float64)
        return torch.poisson(rate, generator=self.generator)


def generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The generator of one step. CPU generators use 32 bits of a seed: no two steps share them."""
    high, low = np.random.SeedSequence(seed).generate_state(2).tolist()
    low = (low + step * 0x9E3779B1) % (1 << 32)
    return torch.Generator(device=device).manual_seed((high >> 1) << 32 | low)


def draw_scenes(
    random: Random, settings: EndlessSettings, b: int, fwhm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Catalogues (B, K, 7), with fluxes relative to the target's, and the target's S/N (B,)."""
    (ny, nx), k = settings.shape, settings.max_sources
    shift = random.uniform((b, 2), (-settings.max_shift, settings.max_shift))
    centre = torch.stack([shift[:, 0] + (nx - 1) / 2, shift[:, 1] + (ny - 1) / 2], dim=1)
    chance = random.uniform((b, k), (0, 1))
    star = chance < settings.star_fraction
    star[:, 0] = chance[:, 0] < settings.star_probability
    low, high = settings.re
    re = random.log_uniform((b, k), settings.neighbour_re or (0.5 * low, math.sqrt(low * high)))
    re[:, 0] = random.log_uniform((b,), settings.re)
    flux = random.log_uniform((b, k), settings.flux_ratio)
    flux[:, 0] = 1.0
    shapes = [
        random.log_uniform((b, k), settings.n),
        random.uniform((b, k), settings.q),
        random.uniform((b, k), (0, 180)),
    ]
    snr = random.log_uniform((b,), settings.snr)
    place, placed = centre[:, None], torch.ones((b, 1), dtype=torch.bool, device=random.device)
    if k > 1:
        place, placed = _place_neighbours(random, settings, centre, star, fwhm)
    flux = torch.where(placed, flux, 0.0)
    re = torch.where(star, 0.0, re)
    catalogue = torch.stack([place[..., 0], place[..., 1], flux, re, *shapes], dim=2)
    if k > 1:  # empty slots last
        order = torch.argsort((~placed).to(torch.int8), dim=1, stable=True)
        catalogue = catalogue.gather(1, order[:, :, None].expand_as(catalogue))
    return catalogue, snr


def _place_neighbours(
    random: Random,
    settings: EndlessSettings,
    centre: torch.Tensor,
    star: torch.Tensor,
    fwhm: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (B, K, 2) of all sources, the target's first, and which of them exist (B, K)."""
    (ny, nx), (b, k) = settings.shape, star.shape
    margin = 0.1 * min(ny, nx) if settings.margin is None else settings.margin
    mean = settings.neighbours * (1 + 2 * margin / ny) * (1 + 2 * margin / nx)
    number = random.poisson((b,), mean)
    companion = (random.uniform((b, k), (0, 1)) < settings.clustered) & ~star
    anywhere = torch.stack(
        [
            random.uniform((b, k, _TRIES), (-margin, nx - 1 + margin)),
            random.uniform((b, k, _TRIES), (-margin, ny - 1 + margin)),
        ],
        dim=-1,
    )
    # Surface density ~ r^-slope: the cumulative number grows as r^(2 - slope).
    radius = random.uniform((b, k, _TRIES), (0, 1)) ** (1 / (2 - settings.clustering_slope))
    angle = random.uniform((b, k, _TRIES), (0, 2 * math.pi))
    around = torch.stack([angle.cos(), angle.sin()], dim=-1) * radius[..., None]
    around = centre[:, None, None] + settings.clustering_scale * around
    tries = torch.where(companion[:, :, None, None], around, anywhere)
    x, y = tries.unbind(-1)
    inside = (x >= -margin) & (x <= nx - 1 + margin) & (y >= -margin) & (y <= ny - 1 + margin)
    closest2 = (settings.min_separation * fwhm).square()[:, None, None]
    place = centre[:, None].repeat(1, k, 1)
    exists = torch.zeros((b, k), dtype=torch.bool, device=random.device)
    exists[:, 0] = True
    for i in range(1, k):
        apart = (tries[:, i, :, None] - place[:, None, :i]).square().sum(-1)  # (B, tries, i)
        free = inside[:, i] & ((apart >= closest2) | ~exists[:, None, :i]).all(-1)
        first = free.to(torch.int8).argmax(1)
        place[:, i] = tries[:, i].gather(1, first[:, None, None].expand(-1, 1, 2))[:, 0]
        exists[:, i] = free.any(1) & (number >= i)
    return place, exists


def flux_for_snr(
    unit: torch.Tensor, snr: torch.Tensor, sky_rms: torch.Tensor, gain: torch.Tensor
) -> torch.Tensor:
    """Flux that gives images of unit flux (B, ny, nx) the total S/N `snr` by their own noise.

    Newton's method in ln flux on ``ln sum(f^2 u^2 / (1 + c f u))`` with f = flux / sky_rms and
    c = 1 / (gain sky_rms), whose slope lies between 1 and 2. Float64, (B,).
    """
    unit = unit.flatten(1)
    square, positive = unit * unit, unit.clamp_min(0)
    c = 1 / (gain * sky_rms)
    wanted = 2 * snr.log()
    log_f = 0.5 * (wanted - square.sum(1).to(torch.float64).log())  # if there were only sky
    for _ in range(_NEWTON_STEPS):
        light = positive * (c * log_f.exp()).to(unit.dtype)[:, None]
        share = 1 / (1 + light)
        terms = square * share
        total = terms.sum(1).to(torch.float64)
        slope = 1 + (terms * share).sum(1).to(torch.float64) / total
        log_f = log_f + (wanted - 2 * log_f - total.log()) / slope
    return log_f.exp() * sky_rms


def tables(catalogue: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kinds, fit space and catalogue as a batch shows them."""
    flux, re = catalogue[..., 2], catalogue[..., 3]
    full, star = flux > 0, (flux > 0) & (re == 0)
    kind = (full.to(torch.int8) + star.to(torch.int8)).to(torch.int8)
    x, y, _, _, n, q, pa = catalogue.unbind(-1)
    one = torch.ones_like(flux)
    usual = torch.stack(
        [
            x,
            y,
            torch.where(full, flux, one),
            torch.where(kind == GALAXY, re, one),
            torch.where(kind == GALAXY, n, one),
            torch.where(kind == GALAXY, q, one),
            pa,
            torch.zeros_like(one),
        ],
        dim=-1,
    )
    fit = torch.where(full[..., None], to_fit_space(usual)[..., :7], 0.0)
    shown = catalogue.clone()
    shown[..., 4] = torch.where(star, torch.nan, n)
    shown[..., 5] = torch.where(star, 1.0, q)
    shown[..., 6] = torch.where(star, 0.0, pa)
    shown = torch.where(full[..., None], shown, 0.0)
    return kind, fit.to(torch.float32), shown.to(torch.float32)
