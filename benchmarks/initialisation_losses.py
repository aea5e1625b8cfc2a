"""What each term of the loss is worth: python benchmarks/initialisation_losses.py RUNS

RUNS holds one run for each loss (conf/experiment/initialise_losses.yaml says how they are made).
Each network is asked about the simulated part of its training set, about new galaxies like it
(the same recipe, other seeds), and about such that are unlike it: another PSF (Euclid VIS),
another noise (HSC, correlated), spirals (SDSS r). The last checkpoint is taken, whose weights are
averaged: how far it has over-fitted is part of the answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from documents import machine, markdown_table, write_section
from safetensors.torch import load_file

from training.checkpoints import network_state
from training.settings import Training, read_training
from training.tasks.initialise.module import InitialiseModule, InitialiseTraining
from training.tasks.initialise.sets import make_cutout_sets

SETS = {
    "new, like it": {"data": "single", "surveys": ["sdss-r"], "count": 1500, "seed": 924},
    "other PSF": {"data": "single", "surveys": ["euclid-vis"], "count": 600, "seed": 919},
    "other noise": {"data": "single", "surveys": ["hsc-i"], "count": 600, "seed": 917},
    "spirals": {"data": "realistic", "surveys": ["sdss-r"], "count": 300, "seed": 103},
}
TITLES = {
    "mse": "squared errors",
    "nll": "NLL",
    "full": "NLL and physics",
    "physics": "physics only",
    "selfsupervised": "evidence lower bound",
}


def network_of(run: Path) -> tuple[InitialiseModule, Training]:
    """The averaged weights at the end of a run."""
    training = read_training(run / "training.yaml")
    module = InitialiseModule(training.settings(InitialiseTraining), 1)
    module.network.load_state_dict(network_state(run / "checkpoints" / "last.ckpt"))
    return module.eval(), training


@torch.no_grad()
def judged(module: InitialiseModule, tensors: dict[str, torch.Tensor]) -> list[float]:
    """Scatter of re (%) and n (dex), NLL, coverage (%) of ln rc and ln n, ln chi2 of the start."""
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    parts = []
    for first in range(0, len(tensors["known"]), 256):
        batch = {name: plane[first : first + 256] for name, plane in tensors.items()}
        mean, lower = module.network.gaussian(module.features(batch), batch["scalars"])
        parts.append((mean, lower, module.chi2(batch, mean)[0]))
    mean, lower, chi2 = (torch.cat(part) for part in zip(*parts, strict=True))
    known = tensors["known"] & (tensors["snr"] > 20)
    error = (tensors["target"] - mean)[known]
    lower = lower[known]
    scaled = torch.linalg.solve_triangular(lower, error[..., None], upper=False)[..., 0]
    log_det = lower.diagonal(dim1=1, dim2=2).log().sum(1)
    sigma = lower.square().sum(2).sqrt()
    eta = torch.hypot(mean[:, 5], mean[:, 6])[known]
    true = tensors["target"][known]
    ln_re = error[:, 3] + (torch.hypot(true[:, 5], true[:, 6]) - eta) / 2
    inside = (error.abs() < sigma).float().mean(0)
    return [
        100 * width_about_zero(ln_re),
        width_about_zero(error[:, 4]) / np.log(10),
        float((0.5 * scaled.square().sum(1) + log_det).median()),
        100 * float(inside[3]),
        100 * float(inside[4]),
        float(chi2.clamp(1e-3, 1e6).log().mean()),
    ]


def width_about_zero(values: torch.Tensor) -> float:
    """Half the distance of the 16 and 84 % points about 0: offsets count."""
    return float(torch.quantile(values.abs(), 0.6827))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--sets", type=Path, default=Path("sets"))
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for name, title in TITLES.items():
        run = arguments.runs / name
        if not (run / "checkpoints" / "last.ckpt").exists():
            continue
        module, training = network_of(run)
        simulated = [entry for entry in training.sets.train if "data" in entry]
        own = [load_file(file) for file in make_cutout_sets(simulated, arguments.sets)]
        sets = {"its training set": {k: torch.cat([part[k] for part in own]) for k in own[0]}}
        for label, entry in SETS.items():
            if entry["data"] == "single":
                entry = {**entry, "segmenters": {"auto": 1}}
            (file,) = make_cutout_sets([entry], arguments.sets)
            sets[label] = load_file(file)
        for label, tensors in sets.items():
            re, n, nll, rc, ln_n, chi2 = judged(module, tensors)
            learnt = name in ("nll", "full", "selfsupervised")
            rows.append(
                [f"{title}: {label}", f"{re:.1f} %", f"{n:.3f}"]
                + ([f"{nll:.2f}", f"{rc:.0f}", f"{ln_n:.0f}"] if learnt else ["-"] * 3)
                + [f"{chi2:.3f}"]
            )
    header = ["loss: galaxies", "re", "n (dex)", "median NLL", "rc, %", "n, %", "ln chi2"]
    text = markdown_table(header, rows)
    print(machine(), text, sep="\n")
    if arguments.docs:
        write_section("initialisation.md", "losses", text)


if __name__ == "__main__":
    main()
