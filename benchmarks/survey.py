"""Surveys under stress: python benchmarks/survey.py [kills scaling scheduler catalogue] [--docs]

- kills: a survey whose worker processes are killed a hundred times, beside one that nothing
  disturbs: rows lost, doubled, changed.
- scaling: the same survey on one worker and on two, in turn.
- scheduler: a real scheduler of dask.distributed, the survey's own flow of tasks, and a thousand
  workers without pixels that hold tasks for times drawn from those that tiles of a real survey
  took, recorded just before and stretched to a mean of a minute.
- catalogue: bytes of a row, measured, and what a hundred million rows take.

The area is one simulated frame, cut into four that overlap (`scaling`: at four places of the sky).
Writes docs/survey.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS
from documents import machine, markdown_table, write_section

from autofit_ml.images import Source
from autofit_ml.settings import FitSettings, SurveySettings
from autofit_ml.simulation import compose_recipe, simulate_one, to_stamps
from autofit_ml.survey.context import Survey
from autofit_ml.survey.engine import on_workers
from autofit_ml.survey.images import Cell
from autofit_ml.survey.plan import TileJob
from autofit_ml.survey.run import survey_run
from autofit_ml.survey.sky import tiling
from autofit_ml.survey.status import finished_tiles, survey_status

HERE = Path(__file__).resolve().parent
PRICE = 0.04
"""US dollars for a core hour, as large clouds asked in 2025 (on demand, general purpose)."""

STEP = 2000
LONGEST = float(os.environ.get("SURVEY_MINUTES", "25"))
"""Minutes that the scheduler's tiles may take; what was run until then is in the table."""

WORDS = ("--segmenter", "sep", "--init", "moments", "--quiet")


def area(folder: Path, side: int, places: int = 1) -> Path:
    """A simulated frame cut into four of about `side` pixels, with WCS; at some places alike."""
    item = simulate_one(compose_recipe(["data=validation/frame"]), 0, 9003)
    stamp = to_stamps([item])[0]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cd = stamp.pixel_scale / 3600 * np.diag([-1.0, 1.0])
    folder.mkdir(parents=True)
    step = side - side // 5
    corners = ((0, 0), (step, 0), (0, step), (step, step))
    for k, (place, (x, y)) in enumerate(itertools.product(range(places), corners)):
        part = np.s_[y : y + side, x : x + side]
        wcs.wcs.crval = [float(place), 0.0]
        header = wcs[part].to_header()
        header["ZP"], header["FILTER"], header["GAIN"] = stamp.zeropoint, "r", stamp.gain
        fits.writeto(folder / f"f{k}_image.fits", stamp.data[part], header)
        fits.writeto(folder / f"f{k}_sigma.fits", stamp.sigma[part])
        fits.writeto(folder / f"f{k}_mask.fits", stamp.mask[part].astype(np.uint8))
    fits.writeto(folder / "psf.fits", stamp.psf.data)
    return folder


def rows(out: Path) -> pyarrow.Table:
    """All rows of a survey, by id."""
    return pyarrow.dataset.dataset(sorted(out.glob("tiles/*/*.parquet"))).to_table().sort_by("id")


def command(images: Path, out: Path, *more: str) -> list[str]:
    """The command line of a survey."""
    start = [sys.executable, "-m", "autofit_ml", "survey", str(images), "--out", str(out)]
    return [*start, *WORDS, *more]


def workers_of(process: int) -> list[psutil.Process]:
    """Worker processes of a survey."""
    try:
        children = psutil.Process(process).children(recursive=True)
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    except psutil.NoSuchProcess:
        return []


def at_work(worker: psutil.Process) -> bool:
    """Whether a worker has reached its scheduler."""
    try:
        return any(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections())
    except psutil.Error:
        return False


# --- kills ------------------------------------------------------------------------------------


def kills(folder: Path, number: int) -> tuple[list[str], list[list[str]]]:
    """Kill worker processes, and each tenth time all of the survey, while it runs."""
    images, quiet, out = area(folder / "images", 300), folder / "quiet", folder / "killed"
    words = ("--tiling", "healpix:15", "--run", "detect")
    subprocess.run(command(images, quiet, *words, "--workers", "2"), check=True)
    rng, killed, whole, began = random.Random(1), 0, 0, time.monotonic()
    process = subprocess.Popen(command(images, out, *words, "--workers", "2"))
    seen: dict[int, int] = {}
    while process.poll() is None:
        time.sleep(rng.uniform(0.0, 0.1))
        done = len(list(out.glob("tiles/*/*.parquet")))
        some = [one for one in workers_of(process.pid) if one.pid in seen]
        for one in workers_of(process.pid):
            seen.setdefault(one.pid, done)
        ready = [one for one in some if done > seen[one.pid] and at_work(one)]
        if killed >= number or not ready:
            continue
        killed += 1
        print(f"kill {killed}, {done} tiles", flush=True)
        if killed % 10 == 0:
            whole += 1
            process.kill()
            process.wait()
            process = subprocess.Popen(command(images, out, *words, "--workers", "2"))
            continue
        rng.choice(ready).send_signal(signal.SIGKILL)
    status = process.returncode
    failed = len(survey_status(out).tile_failures)
    if failed:
        subprocess.run([sys.executable, "-m", "autofit_ml", "survey", "retry", str(out), "-q"])
    one, other = rows(quiet), rows(out)
    ids = [set(table.column("id").to_pylist()) for table in (one, other)]
    same = sum(a == b for a, b in zip(one.to_pylist(), other.to_pylist(), strict=False))
    tiles = len(list(out.glob("tiles/*/*.parquet")))
    minutes = (time.monotonic() - began) / 60
    return ["", "measured"], [
        ["kills (of these of the whole survey)", f"{killed} ({whole}), in {minutes:.0f} min"],
        ["tiles; exit status", f"{tiles}; {status}"],
        ["tiles that failed, done by `survey retry`", str(failed)],
        ["objects of the undisturbed survey", str(len(one))],
        ["lost", str(len(ids[0] - ids[1]))],
        ["doubled", str(len(other) - len(ids[1]))],
        ["rows with another value", str(len(one) - same)],
    ]


# --- scaling ----------------------------------------------------------------------------------


def busy(images: Path, out: Path, number: int) -> tuple[float, list[float]]:
    """Wall time of a survey, and processor time of each worker."""
    began, used = time.monotonic(), {}
    process = subprocess.Popen(
        command(images, out, "--tiling", "healpix:12", "--workers", f"{number}")
    )
    while process.poll() is None:
        for one in workers_of(process.pid):
            try:
                used[one.pid] = sum(one.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"status {process.returncode}")
    return time.monotonic() - began, sorted(used.values())[-number:]


def scaling(folder: Path, number: int) -> tuple[list[str], list[list[str]]]:
    """One worker and two, in turn."""
    images = area(folder / "images", 760, places=4)
    found: dict[int, list[tuple[float, list[float]]]] = {1: [], 2: []}
    load = []
    for turn in range(number):
        for workers in (1, 2):
            load.append(os.getloadavg()[0])
            out = folder / f"{turn}-{workers}"
            found[workers].append(busy(images, out, workers))
            print(workers, found[workers][-1], flush=True)
    wall = [float(np.median([one for one, _ in found[k]])) for k in (1, 2)]
    most = [float(np.median([max(used) for _, used in found[k]])) for k in (1, 2)]
    total = [float(np.median([sum(used) for _, used in found[k]])) for k in (1, 2)]
    return ["", "1 worker", "2 workers", "ratio"], [
        ["processor time of the busiest worker, s", *(f"{v:.1f}" for v in most),
         f"**{most[0] / most[1]:.2f}**"],
        ["processor time of all workers, s", *(f"{v:.1f}" for v in total),
         f"{total[0] / total[1]:.2f}"],
        [f"wall time, s (load of the machine {min(load):.1f} to {max(load):.1f})",
         *(f"{v:.0f}" for v in wall), f"{wall[0] / wall[1]:.2f}"],
    ]  # fmt: skip


# --- scheduler --------------------------------------------------------------------------------


def jobs(number: int) -> Iterator[TileJob]:
    """Tiles along a strip: each lies in two images, each image in eight tiles."""
    shape, window = (4096, 4096), (0, 4096, 0, 4096)

    def cell(k: int) -> Cell:
        planes = {
            role: (Path(f"/survey/exposures/night{k // 1000}/exposure{k:06d}_{role}.fits"), None)
            for role in ("image", "sigma", "mask", "psf")
        }
        return Cell(Source(f"exposure{k:06d}", planes), 0, window, window, shape)

    for tile in range(number):
        yield TileJob(tile, (cell(tile // 4), cell(tile // 4 + 1)))


def recorded(folder: Path) -> np.ndarray:
    """Seconds that the tiles of a small survey took, stretched to a mean of a minute."""
    images, out = area(folder / "images", 420), folder / "recorded"
    words = ("--tiling", "healpix:13", "--save", "none", "--workers", "2")
    subprocess.run(command(images, out, *words), check=True)
    seconds = np.asarray(finished_tiles(out, tiling("healpix:14"))["seconds"], dtype=float)
    print(len(seconds), "tiles, seconds", np.percentile(seconds, (0, 5, 50, 95, 100)), flush=True)
    return seconds * 60.0 / seconds.mean()


def scheduler(folder: Path, number: int) -> tuple[list[str], list[list[str]]]:
    """A real scheduler, a thousand workers that only wait."""
    from distributed import Client

    quiet = subprocess.DEVNULL
    ttl = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "null"}
    where = folder / "scheduler.json"
    words = ["--port", "0", "--no-dashboard", "--scheduler-file", str(where)]
    central = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", *words], env=ttl, stdout=quiet, stderr=quiet
    )
    while not where.exists():
        time.sleep(0.2)
    time.sleep(1.0)
    address = json.loads(where.read_text())["address"]
    durations, faster = recorded(folder), 30.0
    fake = [sys.executable, str(HERE / "survey_workers.py"), address, str(folder)]
    fake += ["--seconds", json.dumps([float(v) / faster for v in durations])]
    crowd = subprocess.Popen(fake, stdout=quiet, stderr=quiet)
    try:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(1000, timeout=300)
            survey = Survey(folder, "detect", FitSettings(), tiling("healpix:12"), 120.0, 1.0)
            process, own = psutil.Process(central.pid), psutil.Process()
            before, mine = sum(process.cpu_times()[:2]), sum(own.cpu_times()[:2])
            memory = {0: process.memory_info().rss / 1e6}
            began, done, stop = time.monotonic(), set(), threading.Event()
            for outcome in on_workers(client, survey, jobs(number), stop):
                done.add(outcome.name)
                if time.monotonic() - began > 60 * LONGEST:
                    stop.set()
                if len(done) % STEP == 0:
                    memory[len(done)] = process.memory_info().rss / 1e6
                    print(len(done), memory[len(done)], time.monotonic() - began, flush=True)
            seconds = time.monotonic() - began
            tiles = len(done)
            each = (sum(process.cpu_times()[:2]) - before) / tiles
            submitter = (sum(own.cpu_times()[:2]) - mine) / tiles
    finally:
        for one in (crowd, central):
            one.kill()
            one.wait()
    assert tiles == number or stop.is_set()
    every = -(-len(memory) // 12)
    hours = 1e6 * float(durations.mean()) / 1000 / 3600
    return ["", "measured"], [
        ["seconds of a tile: least, median, 95 %, most",
         ", ".join(f"{v:.0f}" for v in np.percentile(durations, (0, 50, 95, 100)))
         + f" ({len(durations)} recorded, mean made 60)"],
        ["tiles that were run, and the cells they wait for", f"{tiles:,} + {tiles // 4 + 1:,}"],
        ["workers", f"1 000, time {faster:.0f} times faster: {tiles / seconds:.0f} tiles/s in "
         f"{seconds / 60:.0f} min, load of the machine {os.getloadavg()[2]:.0f}"],
        ["scheduler's processor time a tile", f"{1e3 * each:.2f} ms"],
        ["client's processor time a tile", f"{1e3 * submitter:.2f} ms"],
        [f"scheduler's memory: before; after each {STEP * every:,} tiles, MB",
         f"{memory[0]:.0f}; " + ", ".join(f"{v:.0f}" for v in list(memory.values())[every::every])],
        ["so 10⁶ tiles of a minute on 1 000 workers would take",
         f"{hours:.1f} h, the scheduler {100 * 1e6 * each / 3600 / hours:.0f} % busy, the client "
         f"{100 * 1e6 * submitter / 3600 / hours:.0f} %"],
    ]  # fmt: skip


# --- the catalogue on paper -------------------------------------------------------------------


def catalogue(folder: Path, number: int) -> tuple[list[str], list[list[str]]]:
    """Bytes and seconds of a row, measured; a hundred million of them."""
    from autofit_ml.survey.export import export_parquet

    images = area(folder / "images", 760)
    table: list[list[str]] = []
    for model in ("sersic", "sersic+exp"):
        out = folder / str(len(table))
        settings = FitSettings(segmenter="sep", init="moments", save="none", workers=0, model=model)
        survey_run(images, out, settings, SurveySettings(run="fit", tiling="healpix:9"))
        status = survey_status(out)
        path, count = export_parquet(out)
        half, whole = folder / "half.parquet", pq.read_table(path)
        sizes = []
        for rows in (count, count // 2):  # what a file costs without rows is not counted
            pq.write_table(whole.slice(0, rows), half, compression="zstd")
            sizes.append(half.stat().st_size)
        size = (sizes[0] - sizes[1]) / (count - count // 2)
        seconds = 3600 * status.processor_hours / status.objects
        hours = 1e8 * seconds / 3600
        table.append([
            f"`--model {model}` ({count} objects)", f"{size:.0f}", f"{1e3 * seconds:.0f} ms",
            f"{1e8 * size / 1e9:.0f} GB", f"{hours:,.0f}", f"{PRICE * hours:,.0f} $",
        ])  # fmt: skip
    header = ["", "bytes a row", "processor time", "10⁸ rows", "core hours", f"at {PRICE} $"]
    return header, table


SECTIONS = {
    "kills": (kills, 100),
    "scaling": (scaling, 2),
    "scheduler": (scheduler, 1_000_000),
    "catalogue": (catalogue, 1),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("-n", type=int, default=0, help="kills, turns, tiles")
    parser.add_argument("--docs", action="store_true", help="write into docs/survey.md")
    arguments = parser.parse_args()
    for name in arguments.sections:
        make, usual = SECTIONS[name]
        folder = Path(tempfile.mkdtemp())
        try:
            header, table = make(folder, arguments.n or usual)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        text = markdown_table(header, table) + f"\n\n{machine()}."
        print(f"\n{name}\n{text}", flush=True)
        if arguments.docs:
            write_section("survey.md", name, text)


if __name__ == "__main__":
    main()
