"""Hamiltonian Monte Carlo under the model that made the sky: the referee of `catalog.py`.

Each source is sampled as a star and as a galaxy with the population's exact densities and the
Poisson likelihood; everything else of the field (other sources, PSF, sky) is known to it. The
probability of a star is that of the two evidences (bridge sampling: Meng and Wong 1996, Stat. Sin.
6, 831). Galaxy profiles are GalSim's transforms; nothing of the package's renderers is used.

Parameters: x, y, r magnitude, four colours; galaxies also arcsin(sqrt(share)), ln re (pixels) and
the ellipticity (1 - q) (cos, sin)(2 angle). In these a share ~ Beta(1/2, 1/2) is uniform, and
q ~ Beta(2, 2) at a random angle has the density 1 - |e|.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import galsim
import numpy as np
import torch
from astropy.table import Table
from catalog_frames import BANDS, PIXEL_SCALE, ZEROPOINT, Field, sky_of, source_of
from torch import Tensor

from autofit_ml.posterior.hmc import HMCSettings, sample_hmc
from autofit_ml.scenes.populations import Population
from autofit_ml.simulation.draw import FAST, draw_box

__all__ = ["referee"]

SIDES = (33, 65)
"""Stamps of small and of large sources, pixels."""

LARGEST = 8.0
"""Half-light radii that fit into them, pixels."""

_EXPONENTIAL = 1.6783469900166605


@dataclass(frozen=True)
class _Stamps:
    """Stamps of one size: data and what lies under the source (B, bands, n, n), with the sky."""

    data: Tensor
    under: Tensor
    gain: Tensor
    psf: Tensor
    kx: Tensor
    ky: Tensor
    side: int
    corner: Tensor

    def light(self, objects: Tensor, fluxes: Tensor, x: Tensor, y: Tensor, shape) -> Tensor:
        """Light (A, bands, n, n), nanomaggies; `shape`: (share, re, e1, e2) or None."""
        angle = self.kx * x[:, None, None] + self.ky * y[:, None, None]
        spectrum = torch.polar(torch.ones_like(angle), -angle)
        if shape is not None:
            spectrum = spectrum * _galaxy(self.kx, self.ky, *shape)
        images = torch.fft.irfft2(spectrum[:, None] * self.psf, s=(2 * self.side,) * 2)
        return fluxes[:, :, None, None] * images[..., : self.side, : self.side]


def _dev_table() -> tuple[float, float, Tensor]:
    """GalSim's transform of a de Vaucouleurs profile of half-light radius 1 against ln k."""
    profile = galsim.DeVaucouleurs(half_light_radius=1, gsparams=galsim.GSParams(
        kvalue_accuracy=1e-7, folding_threshold=1e-4))  # fmt: skip
    low, step = math.log(1e-4), 0.02
    k = np.exp(low + step * np.arange(870))
    return low, step, torch.tensor([profile.kValue(one, 0).real for one in k])


_LOW, _STEP, _DEV = _dev_table()


def _interpolated(log_k: Tensor) -> Tensor:
    """Cubic (Catmull-Rom) interpolation of the table."""
    table = _DEV.to(log_k.dtype)
    place = ((torch.nan_to_num(log_k) - _LOW) / _STEP).clamp(1.0, len(table) - 3.001)
    i = place.floor().long()
    t = place - i
    a, b, c, d = (table[i + k] for k in (-1, 0, 1, 2))
    return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _galaxy(kx: Tensor, ky: Tensor, share: Tensor, re: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """Transform of the mixture; e points along the major axis' doubled angle from +x."""
    size = torch.sqrt(e1**2 + e2**2 + 1e-12)
    q = 1 - size
    # squared lengths of k along and across the major axis
    k2 = kx**2 + ky**2
    turned = (kx**2 - ky**2) * (e1 / size)[:, None, None] + 2 * kx * ky * (e2 / size)[:, None, None]
    along, across = (k2 + turned) / 2, (k2 - turned) / 2
    kappa2 = re[:, None, None] ** 2 * (along + q[:, None, None] ** 2 * across) + 1e-8
    disc = (1 + kappa2 / _EXPONENTIAL**2) ** -1.5
    bulge = _interpolated(torch.log(kappa2) / 2)
    return disc + share[:, None, None] * (bulge - disc)


def _cut(field: Field, rows: np.ndarray, side: int) -> _Stamps:
    """Stamps around some sources of the truth."""
    ny, nx = next(iter(field.light.values())).shape
    data, under, corner = [], [], []
    for k in rows:
        row = field.truth[k]
        x0 = int(np.clip(round(row["x"]) - side // 2, 0, nx - side))
        y0 = int(np.clip(round(row["y"]) - side // 2, 0, ny - side))
        box = (slice(y0, y0 + side), slice(x0, x0 + side))
        planes = []
        for band, frame in field.frames.items():
            own = draw_box(source_of(row, band), frame.psf, (y0, x0), (side, side), FAST)
            # read noise counts as so much more sky
            level = sky_of(band)[0] + BANDS[band].read_noise ** 2 / BANDS[band].gain
            planes.append((frame.data[box] + level, field.light[band][box] - own + level))
        data.append([p[0] for p in planes])
        under.append([p[1] for p in planes])
        corner.append((x0, y0))
    n = 2 * side
    kx, ky = (2 * math.pi * f for f in (torch.fft.rfftfreq(n), torch.fft.fftfreq(n)))
    kx, ky = kx[None, None, :], ky[None, :, None]
    psfs = []
    for frame in field.frames.values():
        image = torch.zeros(n, n)
        height, width = frame.psf.data.shape
        height, width = min(height, n), min(width, n)
        y0, x0 = (frame.psf.data.shape[0] - height) // 2, (frame.psf.data.shape[1] - width) // 2
        image[:height, :width] = torch.as_tensor(frame.psf.data[y0 : y0 + height, x0 : x0 + width])
        centre = kx * ((width - 1) / 2) + ky * ((height - 1) / 2)
        psfs.append(
            (torch.fft.rfft2(image)[None] * torch.polar(torch.ones_like(centre), centre))[0]
        )
    return _Stamps(
        torch.tensor(np.array(data), dtype=torch.float32),
        torch.tensor(np.array(under), dtype=torch.float32),
        torch.tensor([BANDS[band].gain for band in field.frames], dtype=torch.float32),
        torch.stack(psfs),
        kx, ky, side, torch.tensor(corner, dtype=torch.float64),
    )  # fmt: skip


class _Prior:
    """Densities of one population in the referee's parameters."""

    def __init__(self, population: Population) -> None:
        terms = {term.names: term.numbers for term in population.terms}
        mag = terms[("mag",)]
        self.mag = (float(mag["mean"]), float(mag["sd"]))
        mixture = next(v for k, v in terms.items() if len(k) == 4)
        weights, means, covariances = (
            torch.as_tensor(mixture[k], dtype=torch.float64)
            for k in ("weights", "means", "covariances")
        )
        self.colours = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(weights),
            torch.distributions.MultivariateNormal(means, covariances),
        )
        self.galaxy = population.type == "galaxy"
        if self.galaxy:
            median, sd = (float(terms[("re",)][name]) for name in ("median", "sd"))
            self.size = (math.log(median / PIXEL_SCALE), sd)

    def log_density(self, theta: Tensor) -> Tensor:
        """ln prior (A,) of theta (A, D); the position is uniform in a square pixel of area 1."""
        out = _normal(theta[:, 2], *self.mag) + self.colours.log_prob(theta[:, 3:7])
        if self.galaxy:
            ellipticity = torch.sqrt((theta[:, 9:11] ** 2).sum(1) + 1e-12)
            # Beta(2, 2) over the plane: 6 q (1 - q) / (2 pi (1 - q)); share: uniform in its angle
            out = out + torch.log((3 / math.pi) * (1 - ellipticity).clamp(min=1e-300))
            out = out + _normal(theta[:, 8], *self.size) - math.log(math.pi / 2)
        return out


def _normal(x: Tensor, mean: float, sd: float) -> Tensor:
    return -(((x - mean) / sd) ** 2) / 2 - math.log(sd * math.sqrt(2 * math.pi))


def _fluxes(theta: Tensor) -> Tensor:
    """Fluxes (A, 5) of r magnitudes and colours."""
    r, ug, gr, ri, iz = theta[:, 2:7].T
    g, i = r + gr, r - ri
    return 10 ** (0.4 * (ZEROPOINT - torch.stack([g + ug, g, r, i, i - iz], 1)))


class _Density:
    """ln posterior of sources of one type, for `sample_hmc`."""

    def __init__(self, stamps: _Stamps, prior: _Prior) -> None:
        self.stamps, self.prior = stamps, prior

    def value(self, objects: Tensor, theta: Tensor) -> Tensor:
        s = self.stamps
        place = (theta[:, :2] - s.corner[objects]).float()
        shape = None
        if self.prior.galaxy:
            shape = (torch.sin(theta[:, 7]).float() ** 2, theta[:, 8].clamp(-8, 5).exp().float(),
                     theta[:, 9].float(), theta[:, 10].float())  # fmt: skip
        light = s.light(objects, _fluxes(theta).float(), place[:, 0], place[:, 1], shape)
        gain = s.gain[:, None, None]
        under, data = s.under[objects], s.data[objects]
        expected = under + light
        bad = expected <= 0
        # against the light of the rest alone, so that numbers stay small
        ratio = torch.where(bad, torch.ones_like(light), light / under)
        terms = gain * (data * torch.log1p(ratio.clamp(min=-0.999)) - light)
        out = terms.double().sum((1, 2, 3)) + self.prior.log_density(theta)
        outside = bad.flatten(1).any(1)
        if self.prior.galaxy:
            outside = outside | ((theta[:, 9:11] ** 2).sum(1) >= 1)
        return torch.where(outside, -math.inf, out)

    def __call__(self, objects: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = [], []
        for part in torch.arange(len(theta)).split(128):
            with torch.enable_grad():
                some = theta[part].detach().clone().requires_grad_()
                value = self.value(objects[part], some)
                finite = torch.isfinite(value)
                (gradient,) = torch.autograd.grad(torch.where(finite, value, 0.0).sum(), some)
            values.append(value.detach())
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)


def _climbed(density: _Density, theta: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Near the maximum: Adam with a falling step."""
    objects = torch.arange(len(theta))
    best, most = theta.clone(), torch.full((len(theta),), -math.inf, dtype=torch.float64)
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for step in range(1, 201):
        value, gradient = density(objects, theta)
        better = value > most
        best[better], most[better] = theta[better], value[better]
        theta = torch.where(torch.isfinite(value)[:, None], theta, best)
        gradient = torch.where(torch.isfinite(value)[:, None], gradient, 0.0)
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        rate = 0.05 * 0.5 ** (step / 50)
        move = rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        theta = torch.maximum(torch.minimum(theta + move, upper), lower)
        if density.prior.galaxy:
            size = (theta[:, 9:11] ** 2).sum(1).sqrt().clamp(min=1e-9)
            theta[:, 9:11] *= (size.clamp(max=0.97) / size)[:, None]
    return best


def _curvature(density: _Density, theta: Tensor) -> Tensor:
    """Inverse of the negative Hessian by differences of gradients, made positive."""
    objects, d = torch.arange(len(theta)), theta.shape[1]
    hessian = torch.zeros(len(theta), d, d, dtype=torch.float64)
    for k in range(d):
        step = torch.zeros(d, dtype=torch.float64)
        step[k] = 3e-3
        up, down = (density(objects, theta + sign * step)[1] for sign in (1, -1))
        hessian[:, k] = -(up - down) / 6e-3
    hessian = torch.nan_to_num((hessian + hessian.transpose(1, 2)) / 2, nan=0.0)
    values, vectors = torch.linalg.eigh(hessian)
    values = values.abs().clamp(min=1.0)
    return vectors @ torch.diag_embed(1 / values) @ vectors.transpose(1, 2)


def _log_evidence(density: _Density, draws: Tensor, log_density: Tensor) -> Tensor:
    """ln evidence (B,) by bridge sampling with a Gaussian fitted to half of the draws."""
    b, _, _, d = draws.shape
    half = draws.shape[2] // 2
    first, second = draws[:, :, :half].flatten(1, 2), draws[:, :, half:].flatten(1, 2)
    mean = first.mean(1)
    centred = first - mean[:, None]
    covariance = centred.transpose(1, 2) @ centred / (first.shape[1] - 1)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(d, dtype=torch.float64))
    gaussian = torch.distributions.MultivariateNormal(mean, scale_tril=root)
    proposed = gaussian.sample(torch.Size([second.shape[1]])).transpose(0, 1)
    objects = torch.arange(b)[:, None].expand(proposed.shape[:2]).flatten()
    outside = torch.zeros(len(objects), dtype=torch.bool)
    flat = proposed.flatten(0, 1)
    if density.prior.galaxy:
        outside = (flat[:, 7] < 0) | (flat[:, 7] > math.pi / 2)
    value = torch.where(outside, -math.inf, density(objects, flat)[0]).view(b, -1)
    ratio_proposed = value - gaussian.log_prob(proposed.transpose(0, 1)).T
    ratio_drawn = log_density[:, :, half:].flatten(1) - gaussian.log_prob(second.transpose(0, 1)).T
    out = torch.median(ratio_drawn, 1).values
    for _ in range(100):
        # equal numbers of both: h = 1 / (1 + r / z)
        up = torch.logsumexp(torch.nn.functional.logsigmoid(ratio_proposed - out[:, None]), 1)
        down = torch.logsumexp(torch.nn.functional.logsigmoid(-(ratio_drawn - out[:, None])), 1)
        out = out + up - down
    return out


def referee(
    field: Field,
    rows: np.ndarray,
    stars: Population,
    galaxies: Population,
    star_share: float,
    settings: HMCSettings | None = None,
) -> Table:
    """Posterior medians of some rows of the truth, in the columns of a catalogue.

    Columns: row (of the truth), x, y, p_star, flux_<band> of the more probable type, re, q, pa, dev
    of the galaxy, rhat (the largest of both types).
    """
    settings = settings or HMCSettings(chains=2, draws=250, warmup=150, rounds=1, max_steps=8)
    re = np.nan_to_num(np.asarray(field.truth["re"], float)[rows], nan=0.0)
    parts = [rows[(re <= 2.5)], rows[(re > 2.5) & (re <= LARGEST)]]
    tables = []
    for part, side in zip(parts, SIDES, strict=True):
        if len(part):
            tables.append(_of_one_size(field, part, side, stars, galaxies, star_share, settings))
    columns = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    order = np.argsort(columns["row"])
    return Table({name: values[order] for name, values in columns.items()})


def _of_one_size(
    field: Field, rows: np.ndarray, side: int, stars, galaxies, star_share: float,
    settings: HMCSettings,
) -> dict[str, np.ndarray]:  # fmt: skip
    stamps, truth = _cut(field, rows, side), field.truth[rows]
    found = {}
    for name, population in (("star", stars), ("galaxy", galaxies)):
        density = _Density(stamps, _Prior(population))
        theta = _starts(truth, name == "galaxy")
        lower = torch.full_like(theta, -math.inf)
        upper = torch.full_like(theta, math.inf)
        if name == "galaxy":
            lower[:, 7], upper[:, 7] = 0.0, math.pi / 2
        theta = _climbed(density, theta, lower, upper)
        samples = sample_hmc(density, theta, _curvature(density, theta), lower, upper, settings)
        evidence = _log_evidence(density, samples.draws, samples.log_density)
        found[name] = (samples, evidence)
    log_odds = found["star"][1] - found["galaxy"][1] + math.log(star_share / (1 - star_share))
    p_star = torch.sigmoid(log_odds).numpy()
    out: dict[str, np.ndarray] = {"row": rows, "p_star": p_star}
    is_star = p_star > 0.5
    both = {}
    for name, (samples, _) in found.items():
        flat = samples.draws.flatten(1, 2)
        fluxes = _fluxes(flat.flatten(0, 1)).view(*flat.shape[:2], 5)
        both[name] = {"x": flat[..., 0], "y": flat[..., 1]}
        both[name] |= {f"flux_{band}": fluxes[..., k] for k, band in enumerate(BANDS)}
    for name in both["star"]:
        values = [both[kind][name].median(1).values.numpy() for kind in ("galaxy", "star")]
        out[name] = np.where(is_star, values[1], values[0])
    flat = found["galaxy"][0].draws.flatten(1, 2)
    out["dev"] = (torch.sin(flat[..., 7]) ** 2).median(1).values.numpy()
    out["re"] = flat[..., 8].exp().median(1).values.numpy()
    out["q"] = (1 - flat[..., 9:11].norm(dim=-1)).median(1).values.numpy()
    middle = flat[..., 9:11].mean(1)
    out["pa"] = (np.rad2deg(np.arctan2(*middle.T.flip(0).numpy()) / 2) - 90) % 180
    worst = [torch.nan_to_num(found[k][0].rhat, nan=9.9).amax(1) for k in found]
    out["rhat"] = torch.maximum(*worst).numpy()
    return out


def _starts(truth: Table, galaxy: bool) -> Tensor:
    """The truth; as a galaxy, a star is a small one, and as a star, a galaxy is a point."""
    n = len(truth)
    magnitudes = [ZEROPOINT - 2.5 * np.log10(np.asarray(truth[f"flux_{b}"])) for b in BANDS]
    colours = [blue - red for blue, red in itertools.pairwise(magnitudes)]
    columns = [np.asarray(truth["x"]), np.asarray(truth["y"]), magnitudes[2], *colours]
    if galaxy:
        star = np.asarray(truth["is_star"])
        share = np.where(star, 0.3, np.clip(truth["dev"], 0.05, 0.95))
        re = np.where(star, 0.3, np.clip(truth["re"], 0.05, None))
        size = np.where(star, 0.3, 1 - np.asarray(truth["q"]))
        angle = np.deg2rad(2 * (np.where(star, 0.0, np.asarray(truth["pa"])) + 90))
        columns += [np.arcsin(np.sqrt(share)), np.log(re), size * np.cos(angle),
                    size * np.sin(angle)]  # fmt: skip
    return torch.tensor(np.stack([np.broadcast_to(c, n) for c in columns], 1), dtype=torch.float64)
