"""Time of the whole command: python benchmarks/end_to_end.py [--quick] [--against PATH]

Writes 1 000 simulated galaxies (64 x 64 pixels) as separate FITS files (image, sigma, PSF each)
and times ``autofit-ml fit FOLDER --save none`` as a process, from its start to the closed
catalogue, for several numbers of worker processes, in turn. What a galaxy costs beyond start-up is
the difference between 1 000 and 100 galaxies. Then: where the time goes, in one process. Then
(alone with ``--only survey``): stamps of 128 x 128 pixels as SDSS would see them, 500 different
ones under several names, with and without given masks: 8 289 of them (the sample of GALMOSS), or
1 000 where that would take long.

With ``--against`` a checkout of an earlier version, only: the same commands by both versions in
turn, and their stages.

Bars: at most 20 ms a galaxy with sep and moments; 8 289 stamps with given masks in at most 4 min on
two cores.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from documents import machine, markdown_table
from undisturbed import Disturbances, undisturbed

from autofit_ml.simulation import compose_recipe, export_fits, simulate_one, simulate_sersic

HERE = Path(__file__).resolve().parent.parent
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


def command(tree: Path, images: Path, out: Path, options: Mapping[str, str]) -> list[str]:
    """The command line of a version that fits a folder into an empty one."""
    shutil.rmtree(out, ignore_errors=True)
    module = "autofit_ml" if (tree / "autofit_ml" / "__main__.py").exists() else "autofit_ml.cli"
    words = [sys.executable, "-m", module, "fit", images, "--out", out, "--json", "-q"]
    return [*map(str, words), *(f"--{name}={value}" for name, value in options.items())]


def run(images: Path, out: Path, options: Mapping[str, str], tree: Path = HERE) -> dict:
    """Seconds (wall, CPU) of one whole command, and its summary."""
    words = command(tree, images, out, {"save": "none", **options})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, **surroundings(tree))
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-2000:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "objects": summary["objects"], "failed": summary["failed"]}


def surroundings(tree: Path) -> dict[str, Any]:
    """Where a version's process runs: Python looks for modules in its folder first."""
    return {"cwd": tree, "env": {**os.environ, "PYTHONPATH": str(tree)}}


def peak_memory(images: Path, out: Path, tree: Path = HERE) -> float:
    """Largest resident memory of the command's main process, MB."""
    words = command(tree, images, out, {"save": "none"})
    peak = 0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, **surroundings(tree)) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
            peak = int(found[1]) if found else peak  # none in the moment that it ends
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}")
    return peak / 1024


STAGES = """
import json, shutil, sys, time
import torch
import autofit_ml as afm
torch.set_num_threads(1)
few, images, out, options = *sys.argv[1:4], json.loads(sys.argv[4])
spent = {}
def timed(label, action):
    began = time.process_time()
    result = action()
    spent[label] = time.process_time() - began
    return result
def fit(folder, save):
    shutil.rmtree(out, ignore_errors=True)
    return afm.fit(folder, out=out, save=save, workers=0, **options)
def chain(folder):
    stamps = timed("read", lambda: afm.read(folder))
    found = timed("segment", lambda: afm.segment(stamps, options.get("segmenter", "auto")))
    init = options.get("init", "resnet")
    timed("starting values", lambda: afm.initialise(stamps, found, init))
    before = sum(spent.values())
    timed("all of these", lambda: fit(folder, "none"))
    spent["find inputs, fit, rows, catalogue"] = spent["all of these"] - before
    timed("pictures, report", lambda: fit(folder, "objects,previews,report"))
    spent["pictures, report"] -= spent["all of these"]
chain(few)
spent.clear()
chain(images)
print(json.dumps(spent))
"""
"""CPU seconds of the stages in one process, one thread, by names that all versions have."""


def stages(trees: Sequence[Path], few: Path, images: Path, out: Path, count: int) -> str:
    """Table of the CPU time by stage."""
    titles = (
        [*PIPELINES] if len(trees) == 1 else [f"{p}, {t.name}" for p in PIPELINES for t in trees]
    )
    columns = []
    for options, tree in itertools.product(PIPELINES.values(), trees):
        words = [sys.executable, "-c", STAGES, *map(str, (few, images, out)), json.dumps(options)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, **surroundings(tree)
        )
        columns.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [[label, *(f"{1e3 * c[label] / count:.2f}" for c in columns)] for label in columns[0]]
    return markdown_table(["CPU ms a galaxy, one process, one thread", *titles], rows)


def compare(other: Path, quick: bool) -> None:
    """Print how this version does beside another: whole commands in turn, then the stages."""
    trees, rounds = (other, HERE), 1 if quick else 2
    counts = {"one": 1, "some": 100, "many": 1000, "survey": SURVEY, "given": 1000, "plain": 1000}
    if quick:
        counts = {"one": 1, "some": 10, "many": 20, "survey": 40, "given": 20, "plain": 20}
    masked, given, plain = (options for _, _, options in RUNS.values())
    jobs: list[tuple[str, str, Mapping[str, str]]] = [
        *((name, f"{counts[name]} galaxies of 64 x 64", {}) for name in ("one", "some", "many")),
        ("many", f"{counts['many']} of 64 x 64, sep and moments", PIPELINES["sep and moments"]),
        *zip(("survey", "given", "plain"), RUNS, (masked, given, plain), strict=True),
        (
            "frame",
            "frame of 2048 x 1489 with pictures and report",
            {"mode": "frame", "save": "objects,previews,report"},
        ),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out"
        write_images(folder / "many", counts["many"])
        for part in ("one", "some"):
            subset(folder / "many", folder / part, counts[part])
        for part in ("survey", "given", "plain"):
            different = 20 if quick else DIFFERENT
            write_survey(folder / part, counts[part], different, labels=part != "plain")
        frame = simulate_one(compose_recipe(["data=validation/frame"]), 0, 9003)
        export_fits([frame], folder / "frame")
        tally, rows = Disturbances(), []
        for images, label, options in jobs:
            runs: dict[Path, list[dict]] = {tree: [] for tree in trees}
            for _, tree in itertools.product(range(rounds), trees):
                job = functools.partial(run, folder / images, out, options, tree)
                runs[tree].append(undisturbed(job, tally, 1 if quick else 3))
            row = [label]
            for kind in ("wall", "cpu"):
                old, new = (min(one[kind] for one in runs[tree]) for tree in trees)
                row += [f"{old:.1f}", f"{new:.1f}", f"{new / old:.2f}"]
            rows.append(row)
            print(row, flush=True)
        memory = [peak_memory(folder / "many", out, tree) for tree in trees]
        header = ["", "s, earlier", "s, now", "ratio", "CPU s, earlier", "CPU s, now", "ratio"]
        print(f"{markdown_table(header, rows)}\n\nLargest memory of the main process, "
              f"{counts['many']} galaxies: {memory[0]:.0f} and {memory[1]:.0f} MB. While this was "
              f"measured, {tally}.\n")  # fmt: skip
        print(stages(trees, folder / "one", folder / "some", out, counts["some"]))


def processes(quick: bool) -> tuple[str, str, bool]:
    """Tables of the whole command and of its stages; whether the bar was missed."""
    many, few, rounds = (60, 20, 1) if quick else (1000, 100, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_images, out = folder / "all", folder / "out"
        write_images(all_images, many)
        some_images = subset(all_images, folder / "some", few)
        one_image = subset(all_images, folder / "one", 1)
        run(one_image, out, {})  # file caches
        tally = Disturbances()
        runs: dict[tuple[str, int, int], list[dict]] = {}
        for _ in range(rounds):
            for (pipeline, options), workers in itertools.product(PIPELINES.items(), WORKERS):
                for images, n in ((one_image, 1), (some_images, few), (all_images, many)):
                    job = functools.partial(run, images, out, {"workers": str(workers), **options})
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
        by_stage = stages([HERE], one_image, some_images, out, few)
    return text, by_stage, per_galaxy["sep and moments", -1] > 20 and not quick


def survey(quick: bool) -> tuple[str, list[str]]:
    """Table of the SDSS-like stamps; the runs that missed the bar."""
    different = 20 if quick else DIFFERENT
    tally, rows, missed = Disturbances(), [], []
    for label, (most, given, options) in RUNS.items():
        count = 40 if quick else most
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_survey(folder / "images", count, different, labels=given)
            job = functools.partial(run, folder / "images", folder / "out", options)
            answer = undisturbed(job, tally, 1)
        if answer["objects"] != count:
            raise RuntimeError(f"{answer['objects']} objects instead of {count}")
        whole = answer["wall"] / count * SURVEY
        if given and whole > 240 and not quick:
            missed.append(label)
        row = [label, f"{count}", f"{answer['wall'] / 60:.1f}", f"{whole / 60:.1f}"]
        rows.append([*row, f"{1e3 * answer['wall'] / count:.1f}", f"{answer['failed']}"])
    header = ["", "stamps", "min", f"min for {SURVEY}", "ms a galaxy", "not fitted"]
    text = f"{machine()}; {different} of the stamps are different.\n\n"
    text += markdown_table(header, rows) + f"\n\nWhile this was measured, {tally}."
    return text, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few galaxies")
    parser.add_argument("--only", choices=("processes", "survey"), help="one of the two parts")
    parser.add_argument("--against", type=Path, help="checkout of an earlier version")
    arguments = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.2f}")
    if arguments.against is not None:
        compare(arguments.against.resolve(), arguments.quick)
        return
    missed = []
    if arguments.only != "survey":
        text, by_stage, slow = processes(arguments.quick)
        missed += ["ms a galaxy"] * slow
        print(f"{text}\n{by_stage}", flush=True)
    if arguments.only != "processes":
        text, late = survey(arguments.quick)
        missed += late
        print(text, flush=True)
    if missed:
        print(f"MISSED: {', '.join(missed)}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
