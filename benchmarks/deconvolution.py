"""Deconvolution against the truth: python benchmarks/deconvolution.py SECTION ... [--docs]

Galaxies are the held-out set of ``conf/experiment/deconvolve.yaml`` (drawn first where missing),
seen through Moffat and Gaussian PSFs of 1.5 to 5 times the target's width, with white noise.

- ``exact``: both samplers on priors with known posteriors (a stationary Gaussian, 128 templates).
- ``sbc``: ranks of the truth's flux, size, ellipticity, concentration and fine structure among
  posterior draws (simulation-based calibration, Talts et al. 2018, arXiv:1804.06788); expected
  coverage about a reference that depends on the data, their Wiener estimate with the mean power
  spectrum of galaxies (TARP, Lemos et al. 2023, arXiv:2302.03026); coverage of pixels. Each
  simulation is a line of ``--results``, so that a longer run goes on where a shorter one ended:
  the ``sbc.csv`` beside the weights holds those that the documentation's table is made of.
- ``ladder``: ranks of the truth's fine structure among samples that begin with the truth under
  noise of some level: flat at every level if the network is right at all lower ones.
- ``baselines``: posterior mean against Wiener with the galaxy's own power spectrum, Richardson-Lucy
  and total variation with their best settings for each galaxy (chosen with the truth).
- ``samplers``: EPS against split Gibbs with the trained prior, also behind masks.
- ``sweeps``: what split Gibbs makes of EPS's samples, beside the truth.
- ``larger``: stamps of 128 x 128 pixels, galaxies of the sizes trained on and larger ones.
- ``sizes``: sizes of the training galaxies, and which larger ones get a warning.
- ``neighbours``: distance of prior samples to the nearest training image.
- ``time``: seconds for 64 samples of one 64 x 64 stamp.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from analytic_priors import GaussianPrior, TemplatePrior
from deconvolution_baselines import mean_power, richardson_lucy, total_variation, wiener
from documents import machine, markdown_table, write_section
from scipy import stats

from autofit_ml.deconvolution import SamplingSettings, deconvolve_each
from autofit_ml.deconvolution.diffusion import Draws
from autofit_ml.deconvolution.eps import highest_level, sample_eps
from autofit_ml.deconvolution.gibbs import sample_gibbs
from autofit_ml.deconvolution.network import InBfloat16
from autofit_ml.deconvolution.operator import Observation, observe
from autofit_ml.deconvolution.prior import sample_prior
from autofit_ml.deconvolution.spectra import coloured, fft2, grid_of
from autofit_ml.deconvolution.summary import half_light_radius
from autofit_ml.deconvolution.target import target_psf
from autofit_ml.images.psf import gaussian_psf, moffat_psf
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.simulation.draw import draw_box
from autofit_ml.simulation.galaxies import draw_galaxy
from autofit_ml.simulation.recipe import Galaxies
from autofit_ml.weights import load

SIDE = 64
LEVELS = (20, 50, 100)
STATISTICS = ("flux", "size", "ellipticity", "concentration", "fine structure")


# ------------------------------------------------------------------ simulations


def galaxies(part: str = "test", training: Path | None = None) -> Any:
    """Sharp galaxies of a part of the experiment's sets, or of those in a run's training.yaml."""
    from training.settings import compose, read_training
    from training.tasks.deconvolve.galaxies import SharpGalaxies
    from training.tasks.deconvolve.sets import make_sharp_sets

    sets = compose(["experiment=deconvolve"]).sets
    entries = getattr(read_training(training).sets if training else sets, part)
    return SharpGalaxies(make_sharp_sets(entries, sets.folder))


def random_psf(rng: np.random.Generator) -> PSF:
    """Moffat or Gaussian, circular, FWHM 3 to 10 pixels."""
    fwhm = float(np.exp(rng.uniform(np.log(3.0), np.log(10.0))))
    if rng.uniform() < 0.3:
        return gaussian_psf(fwhm)
    return moffat_psf(fwhm, beta=float(rng.uniform(2.5, 4.5)), half_size=31)


@dataclasses.dataclass(frozen=True)
class Case:
    """One simulated observation: truth (G, G) and stamp, noise 1."""

    truth: torch.Tensor
    stamp: Stamp
    snr: float

    def off(self, image: torch.Tensor) -> float:
        """Squared error of an estimate."""
        return float((image - self.truth).square().sum())


def simulate(images: Any, number: int, level: float, psf: PSF | None = None) -> Case:
    """Simulation `number` at a S/N within a factor of 1.4 of `level`, as large as the image."""
    rng = np.random.default_rng([number, int(level), 77])
    unit = images[torch.tensor([number % len(images)])]
    psf = random_psf(rng) if psf is None else psf
    side = unit.shape[-1]
    stamp = Stamp(
        id=f"sim{number}-{level:g}",
        data=np.zeros((side, side), np.float32),
        sigma=np.ones((side, side), np.float32),
        mask=np.zeros((side, side), bool),
        psf=psf,
    )
    operator = observe([stamp], side=side)
    seen = operator.forward(unit[:, None])
    snr = level * float(np.exp(rng.uniform(-np.log(1.4), np.log(1.4))))
    flux = snr / float(seen.square().sum().sqrt())
    data = flux * seen[0, 0].numpy() + rng.normal(size=(side, side))
    return Case(flux * unit[0], stamp.replace(data=data.astype(np.float32)), snr)


def measured(images: torch.Tensor) -> np.ndarray:
    """`STATISTICS` of images (N, G, G), (N, 5)."""
    side = images.shape[-1]
    along = torch.arange(side) - (side - 1) / 2
    dy, dx = along[:, None], along[None, :]
    r2 = dy**2 + dx**2
    flux = images.sum((1, 2))
    window = images * torch.exp(-0.5 * r2 / 8.0**2)
    total = window.sum((1, 2))
    xx, yy = (window * dx**2).sum((1, 2)) / total, (window * dy**2).sum((1, 2)) / total
    near = (images * torch.exp(-0.5 * r2 / 2.5**2)).sum((1, 2))
    grid = grid_of(side)
    fine = (torch.hypot(grid.ky, grid.kx) > np.pi / 3).float() * grid.count
    power = fft2(images).flatten(1).abs().square() @ fine
    columns = [flux, xx + yy, (xx - yy) / (xx + yy), near / flux, (power / flux**2).log()]
    return torch.stack(columns, dim=1).numpy()


# ------------------------------------------------------------------ exact posteriors


def observation_of(truth: torch.Tensor, seed: int, fwhm: float) -> Observation:
    """Periodic data of a truth with unit noise."""
    side = truth.shape[-1]
    empty = np.zeros((side, side), np.float32)
    stamp = Stamp("one", empty, empty + 1, empty > 0, gaussian_psf(fwhm))
    operator = observe([stamp], side=side)
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(side, side))).float()
    return dataclasses.replace(operator, data=operator.forward(truth[None, None]) + noise)


def key(number: int = 0) -> torch.Tensor:
    """Of one object."""
    return torch.tensor([number])


def exact(scale: float) -> str:
    """Both samplers on known posteriors."""
    side = 32
    along = torch.arange(side) - (side - 1) / 2
    r2 = along[:, None] ** 2 + along[None, :] ** 2
    k = torch.hypot(
        2 * np.pi * torch.fft.fftfreq(side)[:, None], 2 * np.pi * torch.fft.rfftfreq(side)[None]
    )
    gaussian = GaussianPrior(30 * torch.exp(-r2 / 18), 4000 / (1 + (k / 0.3) ** 2) ** 2)
    rows = []
    draws = max(100, int(1500 * scale))
    truth = gaussian.draw(1, torch.Generator().manual_seed(1))[0]
    observation = observation_of(truth, 2, 4.0)
    mean, variance = gaussian.posterior(observation)
    start = mean + coloured(variance.expand(draws, -1, -1), side, torch.Generator().manual_seed(3))
    high = torch.full((1, 1, 1, 1), 1e3)
    for steps in (24, 32, 48, 64, 96):
        samples, _ = sample_eps(
            gaussian, observation, draws, Draws(4, key()), steps=steps, highest=high
        )
        rows.append(_modes(f"EPS, {steps} steps", samples[0], mean[0], variance[0]))
    for steps in (8, 12, 24):
        chain, _ = sample_gibbs(
            gaussian, observation, start[None], Draws(5, key()), sweeps=30, steps=steps
        )
        rows.append(
            _modes(f"split Gibbs, 30 sweeps of {steps}", chain[0, :, -1], mean[0], variance[0])
        )
    header = ["Gaussian prior", "variance", "its range over octaves", "mean, off by"]
    text = markdown_table(header, rows)

    generator = torch.Generator().manual_seed(0)
    mixture = TemplatePrior(_templates(128, side, generator), torch.full_like(k, 0.05))
    truths = mixture.draw(max(6, int(40 * scale)), generator)
    results: dict[str, list[tuple[float, float]]] = {}
    for i, one in enumerate(truths):
        observation = observation_of(one, 10 + i, 5.0)
        draw = {
            "exact": mixture.draw_posterior(observation, 200, torch.Generator().manual_seed(i))[0]
        }
        for steps in (32, 48, 64):
            draw[f"EPS, {steps} steps"] = sample_eps(
                mixture, observation, 200, Draws(i, key()), steps=steps
            )[0][0]
        begin = draw["EPS, 32 steps"][None]
        for sweeps in (10, 40):
            chain, _ = sample_gibbs(
                mixture, observation, begin, Draws(500 + i, key()), sweeps=sweeps
            )
            draw[f"split Gibbs, {sweeps} sweeps"] = chain[0, :, -1]
        for name, some in draw.items():
            off = float((some.mean(0) - one).square().mean())
            results.setdefault(name, []).append((off, float(some.var(0).mean())))
    reference = np.array(results["exact"])
    rows = []
    for name, values in results.items():
        ratio = np.sqrt(np.mean(values, axis=0) / reference.mean(0))
        rows.append([name, f"{ratio[0]:.3f}", f"{ratio[1]:.3f}"])
    return (
        text
        + "\n\n"
        + markdown_table(["128 templates", "RMSE over exact", "scatter over exact"], rows)
    )


def _templates(number: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Elliptical blobs of different sizes and fluxes."""
    along = torch.arange(side) - (side - 1) / 2
    size, q, turn = (torch.rand(number, 1, 1, generator=generator) for _ in range(3))
    size, q, turn = 1.2 + 3 * size, 0.4 + 0.6 * q, np.pi * turn
    flux = 300 * (1 + 0.3 * torch.randn(number, 1, 1, generator=generator))
    x = along[None, None, :] * torch.cos(turn) + along[None, :, None] * torch.sin(turn)
    y = along[None, :, None] * torch.cos(turn) - along[None, None, :] * torch.sin(turn)
    image = torch.exp(-0.5 * ((x / size) ** 2 + (y / (q * size)) ** 2))
    return flux * image / image.sum((1, 2), keepdim=True)


def _modes(
    name: str, samples: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
) -> list[str]:
    transforms = fft2(samples.double())
    ratio = (transforms.var(0) / variance).flatten()
    off = (transforms.mean(0) - fft2(mean.double())).abs().square() / variance
    parts = [float(part.mean()) for part in ratio[variance.flatten().argsort()].chunk(5)]
    excess = max(float(off.mean()) - 1 / len(samples), 0.0) ** 0.5
    return [
        name,
        f"{float(ratio.mean()):.3f}",
        f"{min(parts):.3f} to {max(parts):.3f}",
        f"{excess:.3f} sd",
    ]


# ------------------------------------------------------------------ calibration


def calibrate(
    network: Any,
    scale: float,
    draws: int,
    steps: int,
    path: Path,
    largest: float,
    part: tuple[int, int],
    weights: str,
) -> str:
    """Ranks, TARP and pixel coverage; simulations of earlier runs in `path` are used again.

    `part` (i, n) draws every n-th group alone, for n processes beside each other.
    """
    images = galaxies()
    known = galaxies("val")
    usual = mean_power(known.of_side(SIDE, torch.arange(known.count(SIDE))))
    done = {(int(row["simulation"]), int(row["level"])) for row in _kept(path, weights)}
    number = max(4, int(300 * scale))
    began = time.perf_counter()
    group = 4
    for first in range((part[0] - 1) * group, number, part[1] * group):
        for level in LEVELS:
            members = [
                k for k in range(first, min(first + group, number)) if (k, level) not in done
            ]
            if not members or time.perf_counter() - began > largest:
                continue
            cases = [simulate(images, k, level) for k in members]
            observation = observe([case.stamp for case in cases], side=SIDE)
            samples, _ = sample_eps(
                network,
                observation,
                draws,
                Draws(9, torch.tensor(members)),
                steps=steps,
            )
            rows = []
            for i, (k, case) in enumerate(zip(members, cases, strict=True)):
                # Padding or not makes no difference here: units of the noise, 1.
                one = _calibration(case, observation.take(slice(i, i + 1)), samples[i], usual)
                made = {"weights": weights, "simulation": k, "level": level, "draws": draws}
                rows.append({**made, **one})
            _keep(path, rows)
    return _calibration_tables(_kept(path, weights))


def _kept(path: Path, weights: str) -> list[dict[str, str]]:
    """Lines of earlier runs, all with these weights."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    others = {row["weights"] for row in rows} - {weights}
    if others:
        raise SystemExit(f"{path} holds simulations with {', '.join(others)}: another --results")
    return rows


def _keep(path: Path, rows: Sequence[Mapping[str, float | str]]) -> None:
    """Add lines; other processes may do so too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def _calibration(
    case: Case, observation: Observation, samples: torch.Tensor, usual: torch.Tensor
) -> dict[str, float]:
    """Of one simulation; `usual` is the mean power spectrum of galaxies of unit flux."""
    truth = case.truth
    drawn, true = measured(samples), measured(truth[None])[0]
    # A function of the data alone: one that knew the truth's own spectrum would lie nearer to the
    # truth than to samples, however good these are.
    flux = observation.data.sum().clamp_min(3.0 * SIDE)
    reference = wiener(observation, usual * flux.square())
    to_truth = (truth - reference).square().sum()
    to_samples = (samples - reference).square().sum((1, 2))
    mean = samples.mean(0)
    best = wiener(observation, mean_power(truth[None]))
    ranks = (drawn < true).mean(0)
    apart = (true - drawn.mean(0)) / drawn.std(0)
    found = {
        **{f"rank {name}": value for name, value in zip(STATISTICS, ranks, strict=True)},
        **{f"z {name}": value for name, value in zip(STATISTICS, apart, strict=True)},
        "tarp": (to_samples < to_truth).float().mean(),
        **pixels_inside(samples, truth),
        "flux error": drawn[:, 0].mean() / true[0] - 1,
        "gain dB": 10 * math.log10(best.sub(truth).square().sum() / case.off(mean)),
    }
    return {name: round(float(value), 5) for name, value in found.items()}


def pixels_inside(samples: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Shares of the truth's bright pixels inside central intervals of samples (N, G, G)."""
    mean = samples.mean(0)
    inside = mean > 0.02 * mean.max()
    # Between the two draws next to it the truth's place is not known: any place in that gap.
    below = (samples < truth).sum(0)[inside]
    gap = torch.rand(below.shape, generator=torch.Generator().manual_seed(len(samples)))
    rank = (below + gap) / (len(samples) + 1)
    return {
        "pixels in 68 %": ((rank > 0.1587) & (rank < 0.8413)).float().mean(),
        "pixels in 95 %": ((rank > 0.025) & (rank < 0.975)).float().mean(),
    }


def _calibration_tables(simulations: Sequence[Mapping[str, str]]) -> str:
    """Tables of simulations; a truth is anywhere between the two draws that are next to it."""
    rows, pixels = [], []
    for level in LEVELS:
        kept = [one for one in simulations if int(one["level"]) == level]
        if not kept:
            continue
        n = len(kept)
        found = {
            name: np.array([float(one[name]) for one in kept])
            for name in kept[0]
            if name != "weights"
        }
        row = [str(level), str(n)]
        gap = np.random.default_rng(level).uniform(size=n)
        places = {
            name: (found[name] * found["draws"] + gap) / (found["draws"] + 1)
            for name in (*(f"rank {name}" for name in STATISTICS), "tarp")
        }
        for name in STATISTICS:
            ranks = places[f"rank {name}"]
            p = stats.kstest(ranks, "uniform").pvalue
            low = 0.5 * (1 - 0.6827)
            share = np.mean((ranks > low) & (ranks < 1 - low))
            row.append(f"{100 * share:.0f} % (p {p:.2g}, z {np.median(found[f'z {name}']):+.2f})")
        distance = stats.kstest(places["tarp"], "uniform").statistic
        row.append(f"{distance:.3f} / {1.36 / math.sqrt(n):.3f}")
        rows.append(row)
        bias = 100 * np.mean(found["flux error"])
        error = 100 * np.std(found["flux error"]) / math.sqrt(n)
        pixels.append(
            [
                str(level),
                f"{100 * np.mean(found['pixels in 68 %']):.1f} %",
                f"{100 * np.mean(found['pixels in 95 %']):.1f} %",
                f"{bias:+.2f} ± {error:.2f} %",
                f"{np.mean(found['gain dB']):+.2f} dB",
            ]
        )
    return (
        "Coverage of 68 % intervals, p-value of flat ranks (Kolmogorov-Smirnov), median of "
        "(truth - mean) / scatter:\n\n"
        + markdown_table(["S/N", "simulations", *STATISTICS, "TARP / critical (5 %)"], rows)
        + "\n\n"
        + markdown_table(
            ["S/N", "pixels in 68 %", "pixels in 95 %", "flux bias", "mean over Wiener"], pixels
        )
    )


def ladder(network: Any, scale: float, steps: int) -> str:
    """At which noise levels the fine structure goes wrong (S/N 100)."""
    images = galaxies()
    number, draws, group = max(4, int(100 * scale)), 20, 4
    rows = []
    for level, finer, lowest in ((0.2, 1, 0.02), (0.2, 4, 0.002), (1, 1, 0.02), (5, 1, 0.02)):
        ranks, apart = [], []
        for first in range(0, number, group):
            members = list(range(first, min(first + group, number)))
            cases = [simulate(images, k, 100) for k in members]
            observation = observe([case.stamp for case in cases], side=SIDE)
            truth = torch.stack([case.truth for case in cases])[:, None]
            noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(first))
            whole = float((highest_level(observation) / 0.02).log().mean())
            samples, _ = sample_eps(
                network,
                observation,
                draws,
                Draws(9, torch.tensor(members)),
                steps=max(8, round(finer * steps * math.log(level / lowest) / whole)),
                lowest=lowest,
                highest=torch.full((len(members), 1, 1, 1), float(level)),
                start=(truth + level * noise).expand(-1, draws, -1, -1),
            )
            for case, some in zip(cases, samples, strict=True):
                drawn, true = measured(some)[:, -1], measured(case.truth[None])[0, -1]
                ranks.append((np.sum(drawn < true) + 0.5) / (draws + 1))
                apart.append((true - drawn.mean()) / drawn.std())
        inside = np.mean(np.abs(np.array(ranks) - 0.5) < 0.5 * 0.6827)
        rows.append(
            [
                f"{level:g}, down to {lowest:g}",
                f"{finer}",
                str(number),
                f"{100 * inside:.0f} %",
                f"{stats.kstest(ranks, 'uniform').pvalue:.2g}",
                f"{np.sqrt(np.mean(np.square(apart))):.2f}",
            ]
        )
    header = ["noise", "steps, relative", "simulations", "in 68 %", "p of flat ranks", "rms z"]
    return markdown_table(header, rows)


# ------------------------------------------------------------------ baselines


def baselines(network: Any, scale: float, steps: int) -> str:
    """PSNR and flux bias by S/N."""
    images = galaxies()
    number = max(4, int(60 * scale))
    rows = []
    for level in LEVELS:
        errors: dict[str, list[float]] = {}
        fluxes: dict[str, list[float]] = {}
        for k in range(number):
            case = simulate(images, 1000 + k, level)
            observation = observe([case.stamp], side=SIDE)
            found = {
                "posterior mean": sample_eps(
                    network, observation, 32, Draws(2, key(k)), steps=steps
                )[0][0].mean(0),
                "Wiener": wiener(observation, mean_power(case.truth[None])),
                "Richardson-Lucy": richardson_lucy(observation, case.stamp.psf, case.off),
                "total variation": total_variation(observation, case.off),
            }
            for name, image in found.items():
                off = (image - case.truth).square().mean()
                errors.setdefault(name, []).append(
                    10 * math.log10(float(case.truth.max() ** 2 / off))
                )
                fluxes.setdefault(name, []).append(float(image.sum() / case.truth.sum()) - 1)
        for name, values in errors.items():
            gain = np.array(errors["posterior mean"]) - np.array(values)
            bias, scatter = 100 * np.mean(fluxes[name]), 100 * np.std(fluxes[name])
            rows.append(
                [
                    str(level),
                    name,
                    f"{np.mean(values):.2f}",
                    "" if name == "posterior mean" else f"{np.mean(gain):+.2f}",
                    "" if name == "posterior mean" else f"{100 * np.mean(gain > 0):.0f} %",
                    f"{bias:+.2f} ± {scatter / math.sqrt(number):.2f} %",
                ]
            )
    header = ["S/N", "estimate", "PSNR, dB", "ours is better by", "in", "flux bias"]
    return f"{number} galaxies at each S/N.\n\n" + markdown_table(header, rows)


# ------------------------------------------------------------------ samplers, time, memory


def samplers(network: Any, scale: float) -> str:
    """EPS and split Gibbs on the same data, also behind a mask."""
    images = galaxies()
    number, draws = max(3, int(20 * scale)), 32
    rows = []
    for name in ("whole", "a tenth masked"):
        ratios, offs, hats = [], [], []
        for k in range(number):
            case = simulate(images, 500 + k, 50, gaussian_psf(4.0))
            stamp = case.stamp
            if name != "whole":
                rng = np.random.default_rng(k)
                stamp = stamp.replace(mask=rng.uniform(size=stamp.shape) < 0.1)
            observation = observe([stamp], side=SIDE)
            first, _ = sample_eps(network, observation, draws, Draws(1, key(k)))
            chain, _ = sample_gibbs(
                network, observation, first, Draws(2, key(k)), sweeps=30, keep=20
            )
            from autofit_ml.deconvolution.sampling import _followed
            from autofit_ml.posterior.diagnostics import split_rhat

            second = chain[0].flatten(0, 1)
            spread = [measured(some).std(0) for some in (first[0], second)]
            off = measured(first[0]).mean(0) - measured(second).mean(0)
            ratios.append(spread[0] / spread[1])
            offs.append(np.abs(off) / spread[1])
            hats.append(float(split_rhat(_followed(chain)).max()))
        ratio, off = np.median(ratios, axis=0), np.median(offs, axis=0)
        rows.append(
            [
                name,
                *(f"{r:.2f}, {o:.2f}" for r, o in zip(ratio, off, strict=True)),
                f"{np.median(hats):.2f}",
            ]
        )
    header = ["data", *STATISTICS, "R-hat"]
    return (
        "Scatter of EPS over that of Gibbs, and how far their means are apart in units of it "
        f"(medians of {number} galaxies, S/N 50, PSF of 4 pixels):\n\n"
        + markdown_table(header, rows)
    )


def sweeps(network: Any, scale: float, steps: int) -> str:
    """Calibration of EPS's samples and of the same after sweeps of split Gibbs (S/N 100)."""
    images = galaxies()
    number, draws = max(4, int(100 * scale)), 24
    shown = (0, 2, 4, 8)
    apart: dict[int, list[np.ndarray]] = {count: [] for count in shown}
    for k in range(number):
        case = simulate(images, k, 100)
        observation = observe([case.stamp], side=SIDE)
        first, _ = sample_eps(network, observation, draws, Draws(9, key(k)), steps=steps)
        chain, _ = sample_gibbs(
            network, observation, first, Draws(2, key(k)), sweeps=max(shown), keep=max(shown)
        )
        true = measured(case.truth[None])[0]
        for count in shown:
            drawn = measured(chain[0, :, count - 1] if count else first[0])
            apart[count].append((true - drawn.mean(0)) / drawn.std(0, ddof=1))
    rows = []
    for count, values in apart.items():
        rms, mean = np.sqrt(np.mean(np.square(values), axis=0)), np.mean(values, axis=0)
        rows.append([str(count), *(f"{r:.2f}, {m:+.2f}" for r, m in zip(rms, mean, strict=True))])
    return (
        f"(truth - mean) / scatter, rms and mean over {number} simulations of {draws} samples, "
        "S/N 100, after sweeps of split Gibbs that begin with those of EPS (right: 1.07 and 0):\n\n"
        + markdown_table(["sweeps", *STATISTICS], rows)
    )


def larger(weights: str, scale: float, precision: str) -> str:
    """Stamps of 128 x 128 pixels at a S/N of 50, through the whole function."""
    number = max(2, int(12 * scale))
    settings = SamplingSettings(weights=weights, prior=False, precision=precision)
    rows = []
    for re in RE:
        cases = large_cases(number, re)
        found: dict[str, list[float]] = {}
        inside = []
        for case in cases:
            ((_, sharp),) = deconvolve_each([case.stamp], settings)
            if isinstance(sharp, Exception):
                raise sharp
            samples = torch.from_numpy(sharp.samples)
            drawn, true = measured(samples), measured(case.truth[None])[0]
            inside.append(np.abs((drawn < true).mean(0) - 0.5) < 0.5 * 0.6827)
            best = wiener(observe([case.stamp], side=128), mean_power(case.truth[None]))
            here = {
                **pixels_inside(samples, case.truth),
                "gain": 10 * math.log10(case.off(best) / case.off(samples.mean(0))),
                "flux": 100 * (drawn[:, 0].mean() / true[0] - 1),
                "unlike": sharp.distance > 1,
            }
            for name, value in here.items():
                found.setdefault(name, []).append(float(value))
        mean = {name: float(np.mean(values)) for name, values in found.items()}
        error = np.std(found["flux"]) / math.sqrt(number)
        rows.append(
            [
                f"{re[0]:g} to {re[1]:g} pixels",
                *(f"{100 * share:.0f} %" for share in np.mean(inside, axis=0)),
                f"{100 * mean['pixels in 68 %']:.0f} / {100 * mean['pixels in 95 %']:.0f} %",
                f"{mean['flux']:+.2f} ± {error:.2f} %",
                f"{mean['gain']:+.2f} dB",
                f"{100 * mean['unlike']:.0f} %",
            ]
        )
    header = ["re", *STATISTICS, "pixels in 68 / 95 %", "flux bias", "over Wiener", "DISTANCE > 1"]
    return (
        f"{number} galaxies in each row, {settings.samples} samples, S/N 50; of the statistics, "
        "how many truths lie in 68 % intervals:\n\n" + markdown_table(header, rows)
    )


def sizes(weights: str, scale: float, precision: str, training: Path) -> str:
    """Radii of the training galaxies, and which of those of `larger` get the warning."""
    images = galaxies("train", training)
    radii = np.concatenate([[half_light_radius(one) for one in part] for part in images.images])
    shares = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995)
    quantiles = [f"{value:.1f}" for value in np.quantile(radii, shares)]
    number = max(2, int(12 * scale))
    settings = SamplingSettings(weights=weights, prior=False, precision=precision, samples=8)
    rows = []
    for re in RE:
        warned = 0
        for case in large_cases(number, re):
            ((_, sharp),) = deconvolve_each([case.stamp], settings)
            if isinstance(sharp, Exception):
                raise sharp
            warned += any("half-light radius" in text for text in sharp.warnings)
        rows.append([f"{re[0]:g} to {re[1]:g} pixels", str(number), str(warned)])
    return (
        f"Half-light radii (circularised, output pixels) of {len(images)} training images:\n\n"
        + markdown_table([f"{100 * share:g} %" for share in shares], [quantiles])
        + "\n\n"
        + markdown_table(["re", "galaxies", "with a warning for their size"], rows)
    )


RE = ((4.0, 16.0), (16.0, 32.0))
"""Half-light radii of `larger`, output pixels: as the training galaxies, and larger."""


def large_cases(number: int, re: tuple[float, float]) -> list[Case]:
    """Stamps of 128 x 128 pixels at a S/N of 50."""
    images = large_galaxies(number, 128, re)
    return [simulate(images, 2000 + k, 50) for k in range(number)]


def large_galaxies(number: int, side: int, re: tuple[float, float]) -> torch.Tensor:
    """Sharp galaxies of unit flux (number, side, side) with half-light radii in pixels."""
    from training.tasks.deconvolve.sets import STRUCTURE, SharpRecipe

    mix = {"sersic": 0.4, "bulge_disc": 0.3, "structured": 0.3}
    recipe = Galaxies(
        morphology=mix, re=re, q=(0.15, 1.0), n_distribution="population", structure=STRUCTURE
    )
    accuracy = SharpRecipe(side, re=re).accuracy
    images = []
    for k in range(number):
        rng = np.random.default_rng([k, side, int(re[0])])
        x, y = (side - 1) / 2 + rng.uniform(-1, 1, 2)
        source = draw_galaxy(rng, recipe, 1.0, magnitude=21.0, flux=1.0, x=x, y=y)
        image = draw_box(source, target_psf(), (0, 0), (side, side), accuracy)
        images.append(torch.from_numpy(image / image.sum()).float())
    return torch.stack(images)


def neighbours(network: Any, scale: float, training: Path) -> str:
    """Nearest training images of prior samples and of held-out galaxies."""
    held_out = galaxies()
    from training.tasks.deconvolve.module import neighbour_distances

    train = galaxies("train", training)
    number = max(16, int(100 * scale))
    drawn = sample_prior(network, number, SIDE, Draws(3, key()))
    drawn = drawn / drawn.sum((1, 2), keepdim=True)
    some = held_out[torch.arange(number)]
    rows = []
    for name, images in (("prior samples", drawn), ("held-out galaxies", some)):
        distance = neighbour_distances(images, train).numpy()
        row = [f"{v:.3f}" for v in np.quantile(distance, [0, 0.05, 0.25, 0.5, 0.75])]
        rows.append([name, str(number), *row])
    header = ["relative distance", "number", "least", "5 %", "25 %", "median", "75 %"]
    return f"Among {len(train)} training images.\n\n" + markdown_table(header, rows)


def timing(weights: str) -> str:
    """Seconds of the whole function."""
    images = galaxies()
    cases = [simulate(images, 700 + k, 50, moffat_psf(4.0)) for k in range(4)]
    rows, drawn = [], {}
    for name, stamps, changes in (
        ("one stamp, EPS", [cases[0].stamp], {}),
        ("one stamp, bfloat16", [cases[0].stamp], {"precision": "bfloat16"}),
        ("four stamps, EPS", [case.stamp for case in cases], {}),
        ("one stamp, 2x", [cases[0].stamp], {"oversampling": 2, "samples": 16}),
        ("one stamp, split Gibbs", [cases[0].stamp], {"sampler": "gibbs", "samples": 16}),
    ):
        settings = SamplingSettings(weights=weights, prior=False, **changes)
        began = time.perf_counter()
        results = [result for _, result in deconvolve_each(stamps, settings)]
        seconds = (time.perf_counter() - began) / len(stamps)
        first = results[0]
        if isinstance(first, Exception):
            raise first
        drawn[name] = first
        rows.append([name, str(settings.samples), str(first.calls), f"{seconds:.1f}"])
    header = ["64 x 64 pixels", "samples", "calls each", "seconds per stamp"]
    one, other = drawn["one stamp, EPS"], drawn["one stamp, bfloat16"]
    apart = np.sqrt(np.mean((one.samples - other.samples) ** 2) / np.mean(one.std**2))
    shift = np.sqrt(np.mean((one.mean - other.mean) ** 2) / np.mean(one.std**2))
    return (
        f"{machine()}.\n\n{markdown_table(header, rows)}\n\nThe same seed in bfloat16: samples "
        f"apart by {apart:.2f} of the pixels' scatter (rms), their mean by {shift:.3f}."
    )


def _command(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, section: str, weights: str
) -> str:
    """What makes the table once more."""
    words = ["python benchmarks/deconvolution.py", section]
    for name in _OPTIONS[section]:
        value = getattr(arguments, name)
        if value != parser.get_default(name):
            words += [f"--{name}", str(value)]
    if section == "exact":
        return f"`{' '.join(words)}`:"
    return f"`{' '.join(words)}`, weights `{weights}`:"


_OPTIONS = {
    "exact": ("scale",),
    "sbc": ("scale", "draws", "steps", "precision"),
    "ladder": ("scale", "steps", "precision"),
    "baselines": ("scale", "steps", "precision"),
    "samplers": ("scale", "precision"),
    "sweeps": ("scale", "steps", "precision"),
    "larger": ("scale", "precision"),
    "sizes": ("scale", "precision"),
    "neighbours": ("scale", "precision"),
    "time": (),
}
"""Those that a section's table depends on, beside the weights."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sections = tuple(_OPTIONS)
    parser.add_argument("section", nargs="*", choices=[*sections, []], default=[])
    parser.add_argument("--weights", default="deconvolve/galaxies-any", help="name or folder")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full number of cases"
    )
    parser.add_argument("--draws", type=int, default=100, help="of each simulation (sbc)")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--results", type=Path, default=Path("results/sbc.csv"))
    parser.add_argument("--seconds", type=float, default=math.inf, help="limit of sbc's new cases")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(1, 1), metavar=("I", "N"), help="sbc in N processes"
    )
    parser.add_argument("--card", type=Path, help="the tables, for training/export.py --card")
    parser.add_argument("--docs", action="store_true", help="write into docs/deconvolution.md")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    wanted = arguments.section or list(sections)
    network: Any = None
    weights, training = "", Path()
    if set(wanted) - {"exact"}:
        network = load(arguments.weights)
        weights = network.info.name if network.info else arguments.weights
        training = network.bundle.folder / "training.yaml"
        if arguments.precision == "bfloat16":
            network = InBfloat16(network)
    texts = {}
    for section in wanted:
        if section == "exact":
            text = exact(arguments.scale)
        elif section == "sbc":
            text = calibrate(
                network,
                arguments.scale,
                arguments.draws,
                arguments.steps,
                arguments.results,
                arguments.seconds,
                arguments.part,
                weights,
            )
        elif section == "ladder":
            text = ladder(network, arguments.scale, arguments.steps)
        elif section == "baselines":
            text = baselines(network, arguments.scale, arguments.steps)
        elif section == "samplers":
            text = samplers(network, arguments.scale)
        elif section == "sweeps":
            text = sweeps(network, arguments.scale, arguments.steps)
        elif section == "larger":
            text = larger(arguments.weights, arguments.scale, arguments.precision)
        elif section == "sizes":
            text = sizes(arguments.weights, arguments.scale, arguments.precision, training)
        elif section == "neighbours":
            text = neighbours(network, arguments.scale, training)
        else:
            text = timing(arguments.weights)
        text = f"{_command(parser, arguments, section, weights)}\n\n{text}"
        print(f"## {section}\n\n{text}\n", flush=True)
        texts[section] = text
        if arguments.docs:
            write_section("deconvolution.md", section, text)
    if arguments.card:
        parts = [f"## Measured: {name}\n\n{text}\n" for name, text in texts.items()]
        arguments.card.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
