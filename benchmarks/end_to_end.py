"""Time of the whole command: python benchmarks/end_to_end.py [--quick]

Writes 1 000 simulated galaxies (64 x 64 pixels) as separate FITS files (image, sigma, PSF each)
and times ``autofit-ml fit FOLDER --save none`` as a process, from its start to the closed
catalogue, for several numbers of worker processes, in turn. What a galaxy costs beyond start-up is
the difference between 1 000 and 100 galaxies. Then: where the time goes, in one process.

Bar: at most 20 ms a galaxy.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from documents import machine, markdown_table, write_section
from undisturbed import Disturbances, undisturbed

from autofit_ml.simulate import export_fits, simulate_sersic

COMMAND = Path(sys.executable).with_name("autofit-ml")
WORKERS = (-1, 0, 1, 2)


def write_images(folder: Path, n: int) -> None:
    """n galaxies as separate files."""
    objects = simulate_sersic(
        n, seed=11, size=64, psf_size=25, psf_fwhm=(3, 4), n=(0.6, 5.5), re=(2.5, 8)
    )
    export_fits(objects, folder)


def subset(folder: Path, target: Path, n: int) -> Path:
    """A folder with the files of the first n objects."""
    target.mkdir()
    for path in sorted(folder.glob("*.fits")):
        if int(path.name[3:8]) < n:
            shutil.copy(path, target)
    return target


def run(images: Path, out: Path, workers: int, environment: dict[str, str] | None = None) -> dict:
    """Seconds (wall, CPU) of one whole command, and its summary."""
    shutil.rmtree(out, ignore_errors=True)
    command = [COMMAND, "fit", images, "--out", out, "--save", "none", "--workers", workers]
    command += ["--json", "-q"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-2000:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "objects": summary["objects"], "failed": summary["failed"]}


def peak_memory(images: Path, out: Path) -> float:
    """Largest resident memory of the command's main process, MB."""
    shutil.rmtree(out, ignore_errors=True)
    code = (
        "import resource, subprocess, sys; "
        "subprocess.run(sys.argv[1:], check=True, capture_output=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", code, COMMAND, "fit", images, "--out", out, "--save", "none"]
    command += ["-q"]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def profile(images: Path, out: Path) -> str:
    """CPU time by stage in one process, one thread."""
    from importlib import import_module

    import torch

    from autofit_ml.api import settings_from
    from autofit_ml.pipeline import fit_run

    torch.set_num_threads(1)
    spent: dict[str, float] = {}

    def timed(module, name: str, label: str) -> None:
        function = getattr(module, name)

        def wrapper(*args, **kwargs):
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[label] = spent.get(label, 0.0) + time.thread_time() - began

        setattr(module, name, wrapper)

    stages = (
        ("flow", "discover", "find the inputs"),
        ("flow", "source_fingerprints", "fingerprints of the inputs"),
        ("prepare", "read_source", "read files (3 a galaxy)"),
        ("prepare", "segment", "segment"),
        ("prepare", "initialise", "starting values"),
        ("fitting", "refine", "refine"),
        ("fitting", "catalogue_rows", "rows"),
        ("outputs", "save_shard", "write shards"),
        ("outputs", "write_catalogue", "merge and write the catalogue"),
    )
    for module, name, label in stages:
        timed(import_module(f"autofit_ml.pipeline.{module}"), name, label)
    settings = settings_from({"workers": 0, "save": ()})
    began = time.thread_time()
    shutil.rmtree(out, ignore_errors=True)
    summary = fit_run(images, out, settings)
    total = time.thread_time() - began
    n = summary.n_objects
    rows = [[label, f"{1e3 * spent.get(label, 0) / n:.2f}"] for _, _, label in stages]
    rows.append(["the rest", f"{1e3 * (total - sum(spent.values())) / n:.2f}"])
    rows.append(["all", f"{1e3 * total / n:.2f}"])
    return markdown_table(["stage (one process, one thread)", "CPU ms a galaxy"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few galaxies; writes nothing")
    arguments = parser.parse_args()
    many, few, rounds = (60, 20, 1) if arguments.quick else (1000, 100, 3)
    load = os.getloadavg()[0]
    print(f"{machine()}; load {load:.2f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_images, out = folder / "all", folder / "out"
        write_images(all_images, many)
        some_images = subset(all_images, folder / "some", few)
        one_image = subset(all_images, folder / "one", 1)
        run(one_image, out, 0)  # file caches
        tally = Disturbances()
        runs: dict[tuple[int, int], list[dict]] = {}
        for _ in range(rounds):
            for workers in WORKERS:
                for images, n in ((one_image, 1), (some_images, few), (all_images, many)):
                    job = functools.partial(run, images, out, workers)
                    answer = undisturbed(job, tally, 1 if arguments.quick else 6)
                    if answer["objects"] != n:
                        raise RuntimeError(f"{answer['objects']} objects instead of {n}")
                    runs.setdefault((workers, n), []).append(answer)
        rows, per_galaxy = [], {}
        for workers in WORKERS:
            wall = {
                n: statistics.median(r["wall"] for r in runs[workers, n]) for n in (1, few, many)
            }
            cpu = statistics.median(r["cpu"] for r in runs[workers, many])
            beyond = 1e3 * (wall[many] - wall[few]) / (many - few)
            per_galaxy[workers] = 1e3 * wall[many] / many
            rows.append(
                [
                    f"{workers}" + (" (default)" if workers == -1 else ""),
                    *(f"{wall[n]:.1f}" for n in (1, few, many)),
                    f"{per_galaxy[workers]:.1f}",
                    f"{beyond:.1f}",
                    f"{1e3 * cpu / many:.1f}",
                ]
            )
        text = markdown_table(
            [
                "workers",
                "s for 1",
                f"s for {few}",
                f"s for {many}",
                "ms a galaxy, all",
                "beyond start-up",
                "CPU ms a galaxy",
            ],
            rows,
        )
        memory = [peak_memory(images, out) for images in (some_images, all_images)]
        text += (
            f"\n\n{machine()}. Largest memory of the main process: {memory[0]:.0f} MB for {few} "
            f"galaxies, {memory[1]:.0f} MB for {many}. While this was measured, {tally}."
        )
        print(text)
        stages = profile(all_images, out)
        print(stages)
    if not arguments.quick:
        write_section("performance.md", "end to end", text)
        write_section("performance.md", "stages", stages)
    missed = per_galaxy[-1] > 20 and not arguments.quick
    if missed:
        print(f"MISSED: {per_galaxy[-1]:.1f} ms a galaxy, bar 20")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
