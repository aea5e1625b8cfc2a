"""Time of the whole command: python benchmarks/end_to_end.py [--quick]

Writes 1 000 simulated galaxies (64 x 64 pixels) as separate FITS files (image, sigma, PSF each)
and times ``autofit-ml fit FOLDER --save none`` as a process, from its start to the closed
catalogue, for several numbers of worker processes, in turn. What a galaxy costs beyond start-up is
the difference between 1 000 and 100 galaxies. Then: where the time goes, in one process. Then
(alone with ``--only survey``): stamps of 128 x 128 pixels as SDSS would see them, 500 different
ones under several names, with and without given masks: 8 289 of them (the sample of GALMOSS), or
1 000 where that would take long.

Bars: at most 20 ms a galaxy with sep and moments; 8 289 stamps with given masks in under 10 min
on two cores.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from documents import machine, markdown_table, write_section
from undisturbed import Disturbances, undisturbed

from autofit_ml.simulation import compose_recipe, export_fits, simulate_one, simulate_sersic

COMMAND = Path(sys.executable).with_name("autofit-ml")
WORKERS = (-1, 0, 2)
PIPELINES: dict[str, dict[str, str]] = {
    "defaults": {},
    "sep and moments": {"segmenter": "sep", "init": "moments"},
}
SURVEY = 8289
DIFFERENT = 500
RUNS = {
    "masks given, neighbours masked, starts from moments": (
        SURVEY,
        True,
        {"neighbours": "mask", "init": "moments"},
    ),
    "masks given, else the defaults": (1000, True, {}),
    "defaults: both networks, neighbours fitted along": (1000, False, {}),
}
"""What is run on the survey -> how many stamps, whether labels are given, options."""


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


def write_survey(folder: Path, n: int, different: int, *, labels: bool) -> None:
    """n stamps of SDSS-like galaxies with neighbours: some, under several names."""
    recipe = compose_recipe(["data=blends", "survey=sdss-r"])
    some = folder.with_name("different")
    export_fits([simulate_one(recipe, k) for k in range(different)], some, labels=labels)
    folder.mkdir()
    for k in range(n):
        for path in some.glob(f"*{k % different:06d}_*.fits"):
            (folder / f"galaxy{k:06d}_{path.stem.rpartition('_')[2]}.fits").hardlink_to(path)


def run(images: Path, out: Path, workers: int, options: Mapping[str, str]) -> dict:
    """Seconds (wall, CPU) of one whole command, and its summary."""
    shutil.rmtree(out, ignore_errors=True)
    command = [COMMAND, "fit", images, "--out", out, "--save", "none", "--workers", workers]
    command += ["--json", "-q", *(f"--{name}={value}" for name, value in options.items())]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
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

    from autofit_ml.runs import FitSettings, fit_run

    torch.set_num_threads(1)
    spent: dict[str, float] = {}

    def timed(module, name: str, label: str) -> None:
        function = getattr(module, name)

        def wrapper(*args, **kwargs):
            began = time.thread_time()
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):
                result = iter(list(result))
            spent[label] = spent.get(label, 0.0) + time.thread_time() - began
            return result

        setattr(module, name, wrapper)

    stages = (
        ("sources", "discover", "find the inputs"),
        ("loop", "source_fingerprints", "fingerprints of the inputs"),
        ("prepare", "read_source", "read files (3 a galaxy)"),
        ("prepare", "segment_all", "segment"),
        ("prepare", "initialise", "starting values"),
        ("fitting", "_fitted", "refine"),
        ("fitting", "catalogue_rows", "rows"),
        ("outputs", "save_shard", "write shards"),
        ("outputs", "write_catalogue", "merge and write the catalogue"),
    )
    for module, name, label in stages:
        timed(import_module(f"autofit_ml.runs.{module}"), name, label)
    columns = []
    for options in PIPELINES.values():
        settings = FitSettings(**{"workers": 0, "save": (), **options})
        shutil.rmtree(out, ignore_errors=True)
        spent.clear()
        began = time.thread_time()
        n = fit_run(images, out, settings).n_objects
        whole = time.thread_time() - began
        parts = [spent.get(label, 0.0) for _, _, label in stages]
        columns.append([f"{1e3 * t / n:.2f}" for t in (*parts, whole - sum(parts), whole)])
    labels = [*(label for _, _, label in stages), "the rest", "all"]
    rows = [list(row) for row in zip(labels, *columns, strict=True)]
    header = ["CPU ms a galaxy, one process, one thread", *PIPELINES]
    return markdown_table(header, rows)


def processes(quick: bool) -> tuple[str, str, bool]:
    """Tables of the whole command and of its stages; whether the bar was missed."""
    many, few, rounds = (60, 20, 1) if quick else (1000, 100, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_images, out = folder / "all", folder / "out"
        write_images(all_images, many)
        some_images = subset(all_images, folder / "some", few)
        one_image = subset(all_images, folder / "one", 1)
        run(one_image, out, 0, {})  # file caches
        tally = Disturbances()
        runs: dict[tuple[str, int, int], list[dict]] = {}
        for _ in range(rounds):
            for (pipeline, options), workers in itertools.product(PIPELINES.items(), WORKERS):
                for images, n in ((one_image, 1), (some_images, few), (all_images, many)):
                    job = functools.partial(run, images, out, workers, options)
                    answer = undisturbed(job, tally, 1 if quick else 4)
                    if answer["objects"] != n:
                        raise RuntimeError(f"{answer['objects']} objects instead of {n}")
                    runs.setdefault((pipeline, workers, n), []).append(answer)
        rows, per_galaxy = [], {}
        for pipeline, workers in itertools.product(PIPELINES, WORKERS):
            wall = {
                n: statistics.median(r["wall"] for r in runs[pipeline, workers, n])
                for n in (1, few, many)
            }
            cpu = statistics.median(r["cpu"] for r in runs[pipeline, workers, many])
            beyond = 1e3 * (wall[many] - wall[few]) / (many - few)
            per_galaxy[pipeline, workers] = 1e3 * wall[many] / many
            rows.append(
                [
                    pipeline,
                    f"{workers}" + (" (default)" if workers == -1 else ""),
                    *(f"{wall[n]:.1f}" for n in (1, few, many)),
                    f"{per_galaxy[pipeline, workers]:.1f}",
                    f"{beyond:.1f}",
                    f"{1e3 * cpu / many:.1f}",
                ]
            )
        header = ["pipeline", "workers", "s for 1", f"s for {few}", f"s for {many}",
                  "ms a galaxy, all", "beyond start-up", "CPU ms a galaxy"]  # fmt: skip
        text = markdown_table(header, rows)
        memory = [peak_memory(images, out) for images in (some_images, all_images)]
        text += (
            f"\n\n{machine()}. Largest memory of the main process: {memory[0]:.0f} MB for {few} "
            f"galaxies, {memory[1]:.0f} MB for {many}. While this was measured, {tally}."
        )
        stages = profile(all_images, out)
    return text, stages, per_galaxy["sep and moments", -1] > 20 and not quick


def survey(quick: bool) -> tuple[str, list[str]]:
    """Table of the SDSS-like stamps; the runs that missed the bar."""
    different = 20 if quick else DIFFERENT
    tally, rows, missed = Disturbances(), [], []
    for label, (most, given, options) in RUNS.items():
        count = 40 if quick else most
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_survey(folder / "images", count, different, labels=given)
            job = functools.partial(run, folder / "images", folder / "out", -1, options)
            answer = undisturbed(job, tally, 1)
        if answer["objects"] != count:
            raise RuntimeError(f"{answer['objects']} objects instead of {count}")
        whole = answer["wall"] / count * SURVEY
        if given and whole > 600 and not quick:
            missed.append(label)
        row = [label, f"{count}", f"{answer['wall'] / 60:.1f}", f"{whole / 60:.1f}"]
        rows.append([*row, f"{1e3 * answer['wall'] / count:.1f}", f"{answer['failed']}"])
    header = ["", "stamps", "min", f"min for {SURVEY}", "ms a galaxy", "not fitted"]
    text = f"{machine()}; {different} of the stamps are different.\n\n"
    text += markdown_table(header, rows) + f"\n\nWhile this was measured, {tally}."
    return text, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few galaxies; writes nothing")
    parser.add_argument("--only", choices=("processes", "survey"), help="one of the two parts")
    arguments = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.2f}")
    missed = []
    if arguments.only != "survey":
        text, stages, slow = processes(arguments.quick)
        missed += ["ms a galaxy"] * slow
        print(f"{text}\n{stages}", flush=True)
        if not arguments.quick:
            write_section("performance.md", "end to end", text)
            write_section("performance.md", "stages", stages)
    if arguments.only != "processes":
        text, late = survey(arguments.quick)
        missed += late
        print(text, flush=True)
        if not arguments.quick:
            write_section("performance.md", "survey", text)
    if missed:
        print(f"MISSED: {', '.join(missed)}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
