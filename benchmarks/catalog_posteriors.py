"""Posteriors of stars and galaxies by Laplace, variational inference and Hamiltonian Monte Carlo.

    python benchmarks/catalog_posteriors.py [-n SOURCES] [--hmc NUMBER] [--docs]
    python benchmarks/catalog_posteriors.py --stars SOURCES [--docs]

Sources drawn from Celeste's priors (r 17 to 22.3 mag), each alone in five SDSS-like bands, drawn
and noisy as the model has it: so each method is judged by what it makes of the posterior alone. The
evidences of Hamiltonian Monte Carlo are those of importance sampling from a Student-t density (nu =
5) with the draws' mean and covariance. ``--stars``: how often a source is a star of which the
default says so with some probability.
"""

import argparse
import dataclasses
import math
import time

import numpy as np
import torch
from catalog_scores import reliability
from documents import machine, markdown_table, write_section

from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.posterior.hmc import HMCSettings, sample_hmc
from autofit_ml.scenes.populations import CELESTE, read_populations
from autofit_ml.settings import SourceSettings
from autofit_ml.sources.field import Field, make_field
from autofit_ml.sources.gaussians import Gaussians
from autofit_ml.sources.infer import make_priors
from autofit_ml.sources.problem import SourceProblem
from autofit_ml.sources.scan import Posterior, Scan, Starts

BANDS = "ugriz"
SIGMA = {"u": 0.15, "g": 0.030, "r": 0.045, "i": 0.07, "z": 0.25}
GAIN = {"u": 250.0, "g": 900.0, "r": 900.0, "i": 700.0, "z": 150.0}
SEEING = {"u": 1.5, "g": 1.4, "r": 1.3, "i": 1.25, "z": 1.25}
SIDE, SCALE, LIMITS = 40, 0.396, (17.0, 22.3)
EDGES = (0.0, 0.02, 0.2, 0.5, 0.8, 0.98, 1.0001)
AT_ONCE = 500
NAMES = {"laplace": "Laplace", "vi": "variational", "hmc": "HMC"}


def moffat(fwhm: float, beta: float = 3.5, side: int = 41) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    a = fwhm / SCALE / 2 / math.sqrt(2 ** (1 / beta) - 1)
    image = (1 + (x * x + y * y) / a**2) ** -beta
    return (image / image.sum()).astype(np.float32)


def drawn(kind: str, n: int, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Parameters of n objects inside the limits, and their share of the type."""
    (population,) = (one for one in read_populations(CELESTE) if one.type == kind)
    found = population.draw(100 * n + 10_000, seed)
    inside = (found["mag"] > LIMITS[0]) & (found["mag"] < LIMITS[1])
    some = {name: values[inside][:n] for name, values in found.items()}
    return some, population.share * inside.mean()


def truths(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which are stars, and parameters (n, 11) with ln fluxes in nanomaggies."""
    rng = np.random.default_rng(seed)
    stars, share = drawn("star", n, seed)
    galaxies, rest = drawn("galaxy", n, seed + 1)
    star = rng.random(n) < share / (share + rest)
    theta = np.zeros((n, 11))
    theta[:, :2] = rng.uniform(-0.49, 0.49, (n, 2))
    for i in range(n):
        one = {name: values[i] for name, values in (stars if star[i] else galaxies).items()}
        g = one["mag"] + one["g-r"]
        i_ = one["mag"] - one["r-i"]
        magnitudes = np.array([g + one["u-g"], g, one["mag"], i_, i_ - one["i-z"]])
        theta[i, 2:7] = 0.4 * math.log(10) * (22.5 - magnitudes)
        if not star[i]:
            e, turn = -math.log(one["q"]), rng.uniform(0, 2 * math.pi)
            share = np.clip(one["dev"], 1e-4, 1 - 1e-4)
            theta[i, 7] = math.log(min(one["re"] / SCALE, 8.0)) - e / 2
            theta[i, 8:] = math.log(share / (1 - share)), e * math.cos(turn), e * math.sin(turn)
    return star, theta


def observed(star: np.ndarray, theta: np.ndarray, seed: int) -> tuple[Field, np.ndarray]:
    """A field with each source in a square of its own, and their pixels."""
    n = len(star)
    columns = math.ceil(math.sqrt(n))
    shape = (columns * SIDE, columns * SIDE)
    k = np.arange(n)
    anchor = np.stack([k % columns, k // columns], 1) * SIDE + SIDE // 2
    frames = [
        Frame(
            b, np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, bool),
            PSF(moffat(SEEING[b])), pixel_scale=SCALE, zeropoint=22.5, filter=b, gain=GAIN[b],
        )
        for b in BANDS
    ]  # fmt: skip
    field = make_field(frames, list(BANDS), [0.0] * 5)
    patches, corners = field.patches(SIDE, anchor, [torch.zeros((n, SIDE, SIDE))] * 5)
    rng = np.random.default_rng(seed + 2)
    for kind, prior in zip((True, False), make_priors(field, SourceSettings()), strict=True):
        some = torch.as_tensor(np.flatnonzero(star == kind))
        problem = SourceProblem(prior, patches, Likelihood())
        for b, image in enumerate(
            problem.images(some, torch.as_tensor(theta)[some][:, : problem.size])
        ):
            field.add(b, corners[b][some], image)
    made = []
    for frame, band in zip(frames, field.bands, strict=True):
        light, b = band.model.numpy(), frame.filter
        sigma = np.sqrt(SIGMA[b] ** 2 + light.clip(0) / GAIN[b]).astype(np.float32)
        noisy = (light + rng.normal(size=shape) * sigma).astype(np.float32)
        made.append(frame.replace(data=noisy, sigma=sigma))
    return make_field(made, list(BANDS), [0.0] * 5), anchor


def scanned(field: Field, anchor: np.ndarray, theta: np.ndarray, seed: int) -> Scan:
    """All sources at their maxima, from starts near the truth."""
    n = len(anchor)
    rng = np.random.default_rng(seed + 3)
    at = anchor + np.clip(theta[:, :2] + 0.2 * rng.normal(size=(n, 2)), -0.49, 0.49)
    scale = np.array([band.scale for band in field.bands])
    flux = np.exp(theta[:, 2:7] + 0.2 * rng.normal(size=(n, 5))) / scale
    starts = Starts(
        *at.T, np.maximum(flux, 1.0), np.full(n, 2.0), np.zeros((n, 2)), np.full(n, SIDE)
    )
    scan = Scan(field, starts, make_priors(field, SourceSettings()), Likelihood())
    scan.run(1)
    return scan


def by_hmc(scan: Scan, number: int) -> Posterior:
    """Means and covariances of draws, evidences by importance sampling, of the first sources."""
    laplace = scan.posterior("laplace")
    found, some = [], np.arange(number)
    problems, _, _ = scan.problems(some)
    index = torch.arange(number)
    for kind, problem in enumerate(problems):
        known = (laplace.stars, laplace.galaxies)[kind]
        start = known.mean[:number]
        lower, upper, _ = problem.bounds(scan.theta[kind][some])
        samples = sample_hmc(
            problem.log_density, start, known.covariance[:number], lower, upper,
            HMCSettings(chains=2, draws=200, warmup=100, rounds=1, seed=1),
        )  # fmt: skip
        draws = samples.draws.flatten(1, 2)
        mean = draws.mean(1)
        off = draws - mean[:, None]
        covariance = off.transpose(1, 2) @ off / (draws.shape[1] - 1)
        evidence = importance(problem, index, mean, covariance) + problem.prior.log_share
        held = [0, 1, *range(7, problem.size)]
        even = torch.full(draws.shape[:2], 1 / draws.shape[1], dtype=draws.dtype)
        found.append(Gaussians(mean, covariance, evidence, draws[..., held], even))
        print(NAMES["hmc"], kind, "median R-hat", float(samples.rhat.nanmedian()))
    p_star = torch.sigmoid(found[0].log_evidence - found[1].log_evidence).numpy()
    return dataclasses.replace(laplace, stars=found[0], galaxies=found[1], p_star=p_star)


def importance(
    problem: SourceProblem, index: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> torch.Tensor:
    """ln of the integral of the density, by draws of a Student-t of 5 degrees of freedom."""
    d, nu, draws = mean.shape[1], 5.0, 400
    root = torch.linalg.cholesky(covariance + 1e-12 * torch.diag_embed(torch.ones_like(mean)))
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn((len(mean), draws, d), generator=generator, dtype=torch.float64)
    chi2 = torch.randn((len(mean), draws, 5), generator=generator, dtype=torch.float64).square()
    z = normal / (chi2.sum(2, keepdim=True) / nu).sqrt()
    points = mean[:, None] + z @ root.transpose(1, 2)
    log_p = (
        torch.cat([-problem.measure(index, points[:, k]) / 2 for k in range(draws)])
        .view(draws, -1)
        .T
    )
    log_q = (
        math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        - root.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
        - (nu + d) / 2 * torch.log1p(z.square().sum(2) / nu)
    )  # fmt: skip
    return torch.logsumexp(log_p - log_q, 1) - math.log(draws)


def judged(posterior: Posterior, star: np.ndarray, theta: np.ndarray, field: Field) -> list[str]:
    """A row: classification, and coverage under the true type."""
    n = len(posterior.p_star)
    star, theta = star[:n], theta[:n].copy()
    theta[:, 2:7] -= np.log([band.scale for band in field.bands])
    p = np.clip(posterior.p_star, 1e-6, 1 - 1e-6)
    loss = -np.where(star, np.log(p), np.log(1 - p)).mean()
    inside: dict[str, list[np.ndarray]] = {"flux": [], "colour": [], "shape": [], "position": []}
    turn = np.zeros((4, 11))
    for k in range(4):
        turn[k, 2 + k], turn[k, 3 + k] = 1, -1
    for kind, one in ((True, posterior.stars), (False, posterior.galaxies)):
        some = np.flatnonzero(star == kind)
        d = one.mean.shape[1]
        off = theta[some, :d] - one.mean[some].numpy()
        covariance = one.covariance[some].numpy()
        pull = off / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        inside["position"].append(abs(pull[:, :2]).ravel() < 1)
        inside["flux"].append(abs(pull[:, 2:7]).ravel() < 1)
        inside["shape"].append(abs(pull[:, 7:]).ravel() < 1)
        c = turn[:, :d]
        error = np.sqrt(np.einsum("kd,nde,ke->nk", c, covariance, c))
        inside["colour"].append(abs(off @ c.T / error).ravel() < 1)
    shares = [100 * np.concatenate(inside[name]).mean() for name in inside]
    wrong = [(p[star] < 0.5).mean(), (p[~star] > 0.5).mean()]
    return [
        str(n), f"{loss:.3f}", *(f"{100 * w:.0f}" for w in wrong),
        f"{p.sum():.1f} / {star.sum()}", *(f"{share:.0f}" for share in shares),
    ]  # fmt: skip


def told(number: int) -> str:
    """Probabilities of a star, and how many are, of sources drawn in parts."""
    p, star = [], []
    for seed in range(1000, 1000 + 10 * math.ceil(number / AT_ONCE), 10):
        kind, theta = truths(AT_ONCE, seed)
        field, anchor = observed(kind, theta, seed)
        p.append(scanned(field, anchor, theta, seed).posterior("laplace").p_star)
        star.append(kind)
        print(seed, np.concatenate(p).sum(), np.concatenate(star).sum(), flush=True)
    lines, _, brier = reliability(np.concatenate(p), np.concatenate(star), EDGES)
    rows = [
        [f"{line['low']:g} to {min(line['high'], 1):g}", f"{line['n']:.0f}",
         f"{100 * line['p']:.1f} %", f"{100 * line['share']:.1f} ± {100 * line['error']:.1f} %"]
        for line in lines
    ]  # fmt: skip
    table = markdown_table(["probability of a star", "sources", "told", "true"], rows)
    return f"{table}\n\nBrier score {brier:.4f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=300, help="sources for Laplace")
    parser.add_argument("--hmc", type=int, default=100, help="... for the other methods")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/catalog.md")
    parser.add_argument("--stars", type=int, default=0, help="sources for probabilities alone")
    args = parser.parse_args()
    if args.stars:
        text = told(args.stars)
        print(text)
        if args.docs:
            write_section("catalog.md", "stars", text)
        return
    star, theta = truths(args.n, args.seed)
    field, anchor = observed(star, theta, args.seed)
    scan = scanned(field, anchor, theta, args.seed)
    rows = []

    def add(name: str, posterior: Posterior, seconds: float, number: int) -> None:
        few = first(posterior, number)
        row = [name, *judged(few, star, theta, field), f"{1000 * seconds / number:.0f}"]
        rows.append(row)
        print("  ".join(row), flush=True)

    began = time.process_time()
    laplace = scan.posterior("laplace")
    seconds = time.process_time() - began
    add(NAMES["laplace"], laplace, seconds, args.n)
    add(NAMES["laplace"], laplace, seconds * args.hmc / args.n, args.hmc)
    began = time.process_time()
    add(
        NAMES["vi"],
        scan.posterior("vi", np.arange(args.hmc)),
        time.process_time() - began,
        args.hmc,
    )
    began = time.process_time()
    add(NAMES["hmc"], by_hmc(scan, args.hmc), time.process_time() - began, args.hmc)
    if args.docs:
        header = (
            "", "sources", "log loss", "stars missed %", "galaxies missed %", "sum of p / stars",
            "position %", "flux %", "colour %", "shape %", "ms",
        )  # fmt: skip
        write_section("catalog.md", "posteriors", f"{markdown_table(header, rows)}\n\n{machine()}")


def first(posterior: Posterior, number: int) -> Posterior:
    """What is known of the first sources."""
    some = torch.arange(number)
    stars, galaxies = (one.select(some) for one in (posterior.stars, posterior.galaxies))
    return dataclasses.replace(
        posterior, stars=stars, galaxies=galaxies, p_star=posterior.p_star[:number]
    )


if __name__ == "__main__":
    main()
