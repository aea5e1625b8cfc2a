"""Simulated stamps a second, and the two paths side by side.

    python benchmarks/simulation_speed.py [--quick] [--device cuda] [--only-device]

One process, one thread: GalSim's path from a recipe to a finished object (PSF, scene, light, noise,
defects, labels, truth), 64 x 64 single galaxies and 128 x 128 blends of about six sources. Then
the device-side path (`EndlessSersic`) with the same kinds of scenes, on one thread, in one worker
process a core and on a GPU if there is one. Last: the light of 200 scenes (half of them blends with
stars, all over the range of structure) drawn by both paths.

Bars: at least 40 single stamps and 15 blends a second and core by GalSim; no pixel of the 200
scenes differs by more than 1e-4 of the scene's peak.

`--only-device` needs neither GalSim nor Hydra nor pydantic: it times the device-side path and, on a
GPU, compares its light with the CPU's. The table is written without `--quick` and `--only-device`.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # read when numpy is imported

import numpy as np
import torch
from documents import machine, markdown_table, write_section
from torch.utils.data import DataLoader
from undisturbed import Disturbances, undisturbed

from training.endless import EndlessSersic, EndlessSettings, render_scene

BARS = {"single": 40.0, "blends": 15.0}
WORST = 1e-4
ON_ANOTHER_DEVICE = 1e-5
"""Of the peak; float32 rounding of another FFT and other matrix products."""

SCENES = {
    "single": EndlessSettings(psf_fwhm=(2.0, 3.2), psf_beta=(2.8, 3.3)),
    "blends": EndlessSettings(
        shape=(128, 128),
        max_sources=16,
        neighbours=5.0,
        snr=(20.0, 1000.0),
        star_probability=0.05,
        re=(2.0, 12.0),
        clustered=0.25,
        clustering_scale=30.0,
        psf_fwhm=(2.0, 3.2),
        psf_beta=(2.8, 3.3),
    ),
}
"""What the recipes `single` and `blends` mean with SDSS seeing, as far as Sérsic profiles go."""

COMPARED = {
    "single": EndlessSettings(
        re=(0.7, 16.0), psf_fwhm=(2.0, 4.0), star_probability=0.1, lights=True
    ),
    "blends": EndlessSettings(
        max_sources=8,
        neighbours=4.0,
        re=(0.7, 16.0),
        neighbour_re=(0.7, 16.0),
        psf_fwhm=(2.0, 4.0),
        lights=True,
    ),
}
"""64 x 64 scenes of both paths: re up to a quarter of the stamp, n 0.5 to 6, q 0.1 to 1."""

TITLES = {"single": "64 x 64, single", "blends": "128 x 128, about 6 sources"}


def galsim_speed(name: str, number: int, warm_up: int, tally: Disturbances, tries: int) -> float:
    """Objects a second of a recipe; GalSim's tables of the Sérsic indices are made beforehand."""
    from autofit_ml.simulation import compose_recipe, simulate_one

    recipe = compose_recipe([f"data={name}"])
    for index in range(warm_up):
        simulate_one(recipe, index)

    def run() -> float:
        began = time.perf_counter()
        for index in range(warm_up, warm_up + number):
            simulate_one(recipe, index)
        return number / (time.perf_counter() - began)

    return undisturbed(run, tally, tries)


def device_speed(
    name: str, device: torch.device, workers: int, seconds: float, tally: Disturbances, tries: int
) -> float:
    """Stamps a second of the device-side path, in this process or in worker processes."""
    size = {"single": 64, "blends": 16} if device.type == "cpu" else {"single": 4096, "blends": 512}
    data = EndlessSersic(SCENES[name], size[name], seed=1, device=device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def run() -> float:
        # The processes end with their loader, so their time counts as this one's.
        batches = iter(DataLoader(data, batch_size=None, num_workers=workers))
        for _ in range(1 + 2 * workers):
            next(batches)
        wait()
        began, number = time.perf_counter(), 0
        while number < 2 or time.perf_counter() - began < seconds:
            number += len(next(batches)["image"])
            wait()
        return number / (time.perf_counter() - began)

    return undisturbed(run, tally, tries)


def differences(name: str, number: int) -> list[tuple[float, str]]:
    """Largest difference from GalSim over the scene's peak, and the scene, for each scene."""
    from autofit_ml.images.stamp import PSF
    from autofit_ml.simulation.draw import EXACT, render_source
    from autofit_ml.simulation.sources import Source

    batch = EndlessSersic(COMPARED[name], number, seed=17).batch(0)
    found = []
    for i in range(number):
        psf = PSF(batch["psf"][i].numpy())
        rows = batch["catalogue"][i, : int(batch["number"][i])].tolist()
        theirs = [render_source(Source(*row), psf, COMPARED[name].shape, EXACT) for row in rows]
        total = np.sum(theirs, axis=0)
        each = [
            float(np.abs(ours.numpy() - other).max()) / total.max()
            for ours, other in zip(batch["lights"][i], theirs, strict=False)
        ]
        x, y, _, re, n, q, _ = rows[int(np.argmax(each))]
        worst = float(np.abs(batch["light"][i].numpy() - total).max()) / total.max()
        where = f"n {n:.2f}, re {re:.2f}, q {q:.2f} at ({x:.1f}, {y:.1f})"
        found.append((worst, f"{where}, PSF FWHM {float(batch['psf_fwhm'][i]):.2f}"))
    return found


def on_device(device: torch.device) -> float:
    """Largest difference over the peak between a device's light and the CPU's."""
    worst = 0.0
    for settings in COMPARED.values():
        batch = EndlessSersic(dataclasses.replace(settings, lights=False), 64, seed=2).batch(0)
        rows, psf = torch.nan_to_num(batch["catalogue"]), batch["psf"]
        here = render_scene(rows, psf, settings.shape).sum(1)
        there = render_scene(rows.to(device), psf.to(device), settings.shape).sum(1).cpu()
        worst = max(worst, float(((here - there).abs().amax((1, 2)) / here.amax((1, 2))).max()))
    return worst


def main() -> None:
    """Run everything; status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few objects; writes nothing")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--only-device", action="store_true", help="no GalSim")
    arguments = parser.parse_args()
    quick, tally = arguments.quick, Disturbances()
    tries, seconds = (1, 1.0) if quick else (12, 10.0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cuda = arguments.device.startswith("cuda") or (
        arguments.device == "auto" and torch.cuda.is_available()
    )
    rows, missed = [], False

    def add(path: str, name: str, speed: float, used: int | None, bar: float | None) -> None:
        nonlocal missed
        each = math.nan if used is None else speed / used
        rows.append(
            [
                path,
                TITLES[name],
                f"{speed:.0f}",
                "" if used is None else f"{each:.0f}",
                "" if bar is None else f"{bar:.0f}",
            ]
        )
        missed = missed or (bar is not None and each < bar)
        print("  ".join(rows[-1]), flush=True)

    torch.set_num_threads(1)
    for name in SCENES:
        if not arguments.only_device:
            number, warm_up = (20, 20) if quick else (400, 300)
            add("GalSim", name, galsim_speed(name, number, warm_up, tally, tries), 1, BARS[name])
    cpu = torch.device("cpu")
    runs: list[tuple[str, torch.device, int, int | None]] = [
        ("device-side, this process", cpu, 0, 1),
        (f"device-side, {cores} worker processes", cpu, cores or 1, cores),
    ]
    if cuda:
        chosen = "cuda" if arguments.device == "auto" else arguments.device
        title = torch.cuda.get_device_name(torch.device(chosen))
        runs.append((f"device-side, {title}", torch.device(chosen), 0, None))
    for path, device, workers, used in runs:
        for name in SCENES:
            add(path, name, device_speed(name, device, workers, seconds, tally, tries), used, None)
    notes = [f"{machine()}; {tally}."]
    if cuda:
        apart = on_device(runs[-1][1])
        notes.append(f"Light on the GPU and on the CPU differ by {apart:.1e} of the peak at most.")
        missed = missed or apart > ON_ANOTHER_DEVICE
    if not arguments.only_device:
        number = 5 if quick else 100
        found = [item for name in COMPARED for item in differences(name, number)]
        errors = np.array([item[0] for item in found])
        worst = max(found, key=lambda item: item[0])
        notes.append(
            f"{len(found)} scenes drawn by both paths: largest difference {worst[0]:.1e} of the "
            f"scene's peak ({worst[1]}), median {np.median(errors):.1e}; bar {WORST:.0e}."
        )
        missed = missed or worst[0] > WORST
    header = ["path", "stamps", "stamps / s", "per core", "bar"]
    text = "\n\n".join([markdown_table(header, rows), *notes])
    print(text)
    if not quick and not arguments.only_device:
        write_section("simulation.md", "simulation-speed", text)
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
