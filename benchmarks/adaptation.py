"""An initialiser on a survey it was not trained on: python benchmarks/adaptation.py [--docs]

The network for SDSS r is asked about KiDS-like and HSC-like galaxies (recipe ``blends``), before
and after it was adapted to 400 of them: without labels (the renderer's chi2 alone), and with the
refiner's results as labels. Judged on 300 others, against the truth, and on the real KiDS and HSC
stamps of the shared data by the chi2 of the start. Beside it the network for all surveys.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from documents import machine, markdown_table, write_section
from initialisation import DATA, Sample, read_any, sample, width

from autofit_ml.images import discover
from autofit_ml.initialisation.cutouts import cut_outs
from autofit_ml.initialisation.network import to_relative
from autofit_ml.initialisation.resnet import ask
from autofit_ml.scenes import to_fit_space
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.simulation import compose_recipe, export_fits, simulate_one
from autofit_ml.weights import load

HERE = Path(__file__).resolve().parent
TRAINING = HERE.parent / "training"
SURVEYS = {"kids-r": "profit_kids_sdss", "hsc-i": "pysersic"}
WAYS = {
    "without labels": [],
    "with labels of fits": ["labels=fit", "model/loss=full"],
}


def adapted(start: str, survey: str, way: str, folder: Path, epochs: int) -> Path:
    """The bundle of a network adapted to simulated images of a survey."""
    images = folder / f"{survey}-images"
    if not images.exists():
        recipe = compose_recipe(
            ["data=blends", f"survey={survey}", "data.target.star_probability=0"]
        )
        export_fits([simulate_one(recipe, k, 7001) for k in range(400)], images)
    name = f"{survey}-{'labels' if WAYS[way] else 'self'}"
    run = folder / name
    train = [
        *("experiment=adapt", f"name=initialise/{name}-x", f"start={start}", f"images={images}"),
        *(f"run={run}", f"sets.folder={folder / 'sets'}", f"trainer.epochs={epochs}"),
        *("trainer.accelerator=cpu", *WAYS[way]),
    ]
    for script, arguments in (
        ("train.py", train),
        ("export.py", [str(run), "--out", str(folder / "weights"), "--last"]),
    ):
        subprocess.run([sys.executable, str(TRAINING / script), *arguments], check=True)
    return folder / "weights" / f"initialise/{name}-x@0.1.0"


def judged(part: Sample, network: Any) -> list[str]:
    """Scatter of re and n, bias of re, coverage of ln rc, mean ln chi2 of the start."""
    truth = part.truth
    members = np.flatnonzero(np.isfinite(truth[:, 4]) & (part.snr > 20))
    cut = cut_outs([part.stamps[i] for i in members], [part.found[i] for i in members])
    answers = ask(network, cut)
    true = to_relative(cut, to_fit_space(torch.as_tensor(truth[members]))).numpy()
    mean = answers.mean.double().numpy()
    sigma = np.sqrt((answers.lower.double().numpy() ** 2).sum(2))
    eta, true_eta = (np.hypot(v[:, 5], v[:, 6]) for v in (mean, true))
    ln_re = mean[:, 3] + eta / 2 - true[:, 3] - true_eta / 2
    inside = np.abs(mean[:, 3] - true[:, 3]) < sigma[:, 3]
    unlike = answers.distance > network.get_buffer("usual_distance")
    return [
        f"{100 * width(ln_re):.1f} %",
        f"{100 * np.median(ln_re):+.1f} %",
        f"{width(mean[:, 4] - true[:, 4]) / np.log(10):.3f}",
        f"{100 * inside.mean():.0f}",
        f"{answers.chi2.clamp(1e-3, 1e6).log().mean():.3f}",
        f"{100 * unlike.float().mean():.0f} %",
    ]


def real_stamps(folder: str) -> tuple[list[Any], list[Segmentation]]:
    """Real stamps of a survey that were segmented."""
    stamps, found = [], []
    if (DATA / folder).is_dir():
        items = [read_any(source) for source in discover(DATA / folder).sources]
        usable = [item for item in items if item is not None and "sdss" not in item.id]
        for stamp, result in segment_all(usable, "auto"):
            if isinstance(result, Segmentation) and result.target:
                stamps.append(stamp)
                found.append(result)
    return stamps, found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--start", default="initialise/sdss-r")
    parser.add_argument("--all", default="initialise/multi-any", help="network for all surveys")
    parser.add_argument("--runs", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    rows = []
    for survey, folder in SURVEYS.items():
        part = sample("blends", arguments.n, [survey], 9201, "auto")
        stamps, found = real_stamps(folder)
        networks = {"before": load(arguments.start)}
        for way in WAYS:
            bundle = adapted(arguments.start, survey, way, arguments.runs, arguments.epochs)
            networks[f"adapted {way}"] = load(bundle)
        networks["all surveys"] = load(arguments.all)
        for name, network in networks.items():
            real = "-"
            if stamps:
                chi2 = ask(network, cut_outs(stamps, found)).chi2
                real = f"{chi2.clamp(1e-3, 1e6).log().mean():.3f}"
            rows.append([f"{survey}: {name}", *judged(part, network), real])
    header = ["survey", "re", "bias", "n (dex)", "rc, %", "ln chi2", "unlike", "ln chi2, real"]
    text = markdown_table(header, rows)
    print(machine(), text, sep="\n")
    if arguments.docs:
        write_section("initialisation.md", "adapt", text)


if __name__ == "__main__":
    main()
