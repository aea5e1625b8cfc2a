"""Time per galaxy of the refinement: python benchmarks/speed.py [--quick] [--no-peers]

Simulated 64 x 64 stamps with 25 x 25 PSFs (FWHM 3 to 4 pixels), Sérsic index 0.6 to 5.5, re 2.5 to
8 pixels, S/N 10 to 1000. Ours is `refine` with its default settings, nothing else; pyimfit and
AstroPhot (benchmarks/peers) get the same stamps, noise maps, masks, PSFs and starting values, and a
free sky too. All are timed in turn in one run, on at most two threads. Then: time and memory for
100, 1 000 and 10 000 galaxies, and where the time goes.

Bars: at most 2.3 ms a galaxy on two cores, at least 50 times pyimfit's speed and 140 times
AstroPhot's; time per galaxy for 100, 1 000 and 10 000 galaxies within 20 %, memory flat.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from documents import machine, markdown_table
from undisturbed import Disturbances, undisturbed

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.fitting import Fits, refine
from autofit_ml.initialisation import Starts, initialise
from autofit_ml.runs.workers import processors
from autofit_ml.segmentation import segment_sep
from autofit_ml.simulation import render_source, simulate_sersic, to_stamps

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
THREADS = min(2, processors())
SCALES = (100, 1000, 10000)
COLUMNS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")


def sample(n: int, seed: int = 7):
    """Objects, stamps, segmentations and starting values."""
    objects = simulate_sersic(
        n, seed=seed, size=64, psf_size=25, psf_fwhm=(3, 4), n=(0.6, 5.5), re=(2.5, 8)
    )
    stamps = to_stamps(objects)
    segmentations = [segment_sep(stamp) for stamp in stamps]
    return objects, stamps, segmentations, initialise(stamps, segmentations)


def ours(stamps, segmentations, starts) -> tuple[Fits, float]:
    """Answers and milliseconds per galaxy: of one thread the processor time, as the peers'."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    results = refine(stamps, None, starts, segmentations)
    return results, 1e3 * (clock() - began) / len(stamps)


def hand_over(path: Path, stamps, segmentations, starts) -> None:
    """What the peers read."""
    np.savez(
        path,
        data=np.stack([s.data for s in stamps]),
        sigma=np.stack([s.sigma for s in stamps]),
        mask=np.stack(
            [s.mask | g.contaminants for s, g in zip(stamps, segmentations, strict=True)]
        ),
        psf=np.stack([s.psf.data for s in stamps]),
        start=starts.values,
    )


def run_peer(python: Path, name: str, stamps: Path, first: int, last: int) -> dict:
    """The answers of a peer for stamps first to last - 1."""
    answers = stamps.with_name(f"{name}_{first}.json")
    command = [python, PEERS / f"fit_{name}.py", stamps, answers, first, last]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        cwd=stamps.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    return json.loads(answers.read_text())


def chi2(objects, segmentations, values: np.ndarray) -> np.ndarray:
    """chi2 of each row of parameters, drawn by GalSim."""
    out = np.full(len(values), np.inf)
    for i, (item, segmentation, row) in enumerate(zip(objects, segmentations, values, strict=True)):
        x, y, flux, re, n, q, pa, sky = row
        if not np.all(np.isfinite(row)):
            continue
        source = item.target.replace(
            x=x, y=y, flux=flux, re=re, n=float(np.clip(n, 0.31, 6.19)), q=q, pa=pa % 180
        )
        if abs(source.n - n) > 1e-9 or q < 0.05:
            continue  # GalSim does not draw these
        use = ~(item.mask | segmentation.contaminants)
        residual = (item.data - render_source(source, item.psf, item.data.shape) - sky) / item.sigma
        out[i] = np.square(residual[use]).sum()
    return out


def truth(objects) -> np.ndarray:
    """True parameters, columns as `COLUMNS`."""
    return np.array([[*(getattr(o.target, c) for c in COLUMNS[:-1]), o.sky] for o in objects])


def accuracy(values: np.ndarray, true: np.ndarray) -> list[str]:
    """Median |error| of re and n, and the share with re off by over half."""
    re = np.abs(values[:, 3] / true[:, 3] - 1)
    n = np.abs(values[:, 4] / true[:, 4] - 1)
    return [
        f"{100 * np.median(re):.1f} %",
        f"{100 * np.median(n):.1f} %",
        f"{np.mean(re > 0.5):.0%}",
    ]


def compare(data, counts: dict[str, int], rounds: int = 4, tries: int = 12) -> tuple[str, dict]:
    """Ours and the peers in turn, `rounds` times; the table and the numbers."""
    from peers.install import install

    python = install()
    objects, stamps, segmentations, starts = data
    most = max(counts.values())
    taken = slice(0, most)
    few = Starts(starts.values[taken], None, starts.flags[taken], starts.method)
    answers: dict[str, list[dict]] = {name: [] for name in counts}
    times: list[float] = []
    tally = Disturbances()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stamps.npz"
        hand_over(path, stamps[taken], segmentations[taken], few)
        for turn in range(rounds):
            for name, count in counts.items():
                results, milliseconds = undisturbed(
                    lambda: ours(stamps, segmentations, starts), tally, tries
                )
                times.append(milliseconds)
                edges = np.linspace(0, count, rounds + 1).astype(int)
                job = functools.partial(run_peer, python, name, path, edges[turn], edges[turn + 1])
                answers[name].append(undisturbed(job, tally, tries))
    torch.set_num_threads(1)
    single = [
        undisturbed(lambda: ours(stamps, segmentations, starts)[1], tally, tries) for _ in range(2)
    ]
    torch.set_num_threads(THREADS)
    true = truth(objects)
    own = float(np.mean(times))
    good = (results.flags & int(FATAL | Flag.NOT_CONVERGED)) == 0
    name = "autofit-ml, 2 threads"
    values = {name: results.values}
    found = [*accuracy(results.values, true), f"{np.sum(~good)}"]
    rows = [[name, f"{len(true)}", f"{np.median(times):.3g}", f"{own:.3g}", "", "", *found]]
    mean = float(np.mean(single))
    rows.append(["the same, 1 thread", f"{len(true)}", f"{np.median(single):.3g}", f"{mean:.3g}"])
    rows[-1] += [f"{mean / own:.1f}", "", "", "", "", ""]
    numbers = {"autofit-ml": own}
    for peer, parts in answers.items():
        label = f"{peer} {parts[0]['version']}"
        values[label] = np.array([row for part in parts for row in part["values"]], dtype=float)
        n = len(values[label])
        lost = n - sum(c for part in parts for c in part["converged"])
        ratios = []
        for threads in ("1", "2"):
            spent = 1e3 * np.array([t for part in parts for t in part["seconds"][threads]])
            ratios.append(spent.mean() / own)
            plural = "" if threads == "1" else "s"
            rows.append([f"{label}, {threads} thread{plural}", f"{n}", f"{np.median(spent):.3g}"])
            alone = f"{spent.mean() / mean:.0f}" if threads == "1" else ""
            rows[-1] += [f"{spent.mean():.3g}", f"{ratios[-1]:.0f}", alone]
            rows[-1] += (
                [*accuracy(values[label], true[:n]), f"{lost}"] if threads == "1" else [""] * 4
            )
        numbers[peer] = min(ratios)  # the peer at its best
    header = [
        "fitter",
        "galaxies",
        "ms a galaxy, median",
        "mean",
        "times ours",
        "processor time of one thread, times ours",
        "median error of re",
        "of n",
        "re off by over half",
        "not converged or flagged unusable",
    ]
    text = markdown_table(header, rows)
    least = min(counts.values())
    fits = {
        name: chi2(objects[:least], segmentations[:least], v[:least]) for name, v in values.items()
    }
    drawn = np.all([np.isfinite(fit) for fit in fits.values()], axis=0)
    lowest = np.min(list(fits.values()), axis=0)
    notes = [
        f"{name} {np.median((fit - lowest)[drawn]):.2f} / {np.max((fit - lowest)[drawn]):.1f}"
        for name, fit in fits.items()
    ]
    text += (
        "\n\nchi2 above the lowest of the three, drawn by GalSim from each fitter's parameters, "
        f"for the {drawn.sum()} of the first {least} galaxies that GalSim draws for all (median / "
        f"largest): {'; '.join(notes)}."
    )
    text += f"\n\nWhile this was measured, {tally}."
    return text, numbers


def scale(n: int, tries: int = 12) -> dict:
    """Time per galaxy and added memory for n galaxies: 500 different ones, each with new noise."""
    objects, stamps, segmentations, starts = sample(min(n, 500))
    rng = np.random.default_rng(3)
    ours(stamps[:64], segmentations[:64], _rows(starts, np.arange(min(64, len(stamps)))))
    which = np.arange(n) % len(stamps)
    many = []
    for i in which:
        item, noise = objects[i], rng.standard_normal(stamps[i].shape, dtype=np.float32)
        clean = item.model + item.neighbour_light + np.float32(item.sky)
        many.append(stamps[i].replace(data=clean + noise * item.sigma))
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    # Many small runs, or one long one: about a thousand galaxies each, the median counts.
    tally = Disturbances()
    masks, begin = [segmentations[i] for i in which], _rows(starts, which)
    repeats = [
        undisturbed(
            lambda: ours(many, masks, begin)[1], tally, tries if n <= 1000 else min(tries, 4)
        )
        for _ in range(max(1, 1000 // n))
    ]
    return {
        "n": n,
        "ms": float(np.median(repeats)),
        "disturbed": tally.disturbed > 0,
        "added_mb": (_memory("VmHWM") - before) / 1e6,
        "input_mb": sum(s.data.nbytes + s.sigma.nbytes + s.mask.nbytes for s in many) / 1e6,
    }


def _rows(starts: Starts, index: np.ndarray) -> Starts:
    return Starts(starts.values[index], None, starts.flags[index], starts.method)


def _memory(kind: str) -> float:
    """Resident memory of this process, bytes: VmRSS now, VmHWM at most (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return 1024.0 * int(line.split()[1])
    raise OSError(f"no {kind} in /proc/self/status")


def scaling(counts=SCALES, options: tuple[str, ...] = ()) -> tuple[str, list[dict]]:
    """`scale` for each count, each in its own process."""
    answers = []
    for n in counts:
        done = subprocess.run(
            [sys.executable, __file__, "--scale", str(n), *options],
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    times = [a["ms"] for a in answers]
    rows = [
        [f"{a['n']}", f"{a['ms']:.2f}", f"{a['added_mb']:.0f}", f"{a['input_mb']:.0f}"]
        for a in answers
    ]
    text = markdown_table(
        [
            "galaxies",
            "ms a galaxy",
            "memory added by refine, MB (peak)",
            "the stamps themselves, MB",
        ],
        rows,
    )
    text += f"\n\nSlowest over fastest: {max(times) / min(times):.2f} (bar: 1.20)."
    noisy = [str(a["n"]) for a in answers if a["disturbed"]]
    if noisy:
        text += f" Other processes were busy while {', '.join(noisy)} were measured."
    return text, answers


def profile(data, n: int = 256) -> str:
    """Where the time goes: our functions (one thread, cumulative) and PyTorch's operations."""
    _, stamps, segmentations, starts = data
    stamps, segmentations = stamps[:n], segmentations[:n]
    starts = _rows(starts, np.arange(n))
    torch.set_num_threads(1)
    try:
        ours(stamps, segmentations, starts)
        recorder = cProfile.Profile()
        recorder.enable()
        ours(stamps, segmentations, starts)
        recorder.disable()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as operations:
            ours(stamps, segmentations, starts)
    finally:
        torch.set_num_threads(THREADS)
    functions = []
    for (file, _, name), row in pstats.Stats(recorder).stats.items():  # type: ignore[attr-defined]
        if "autofit_ml" in file and name[0] not in "<":
            place = ".".join(Path(file).with_suffix("").parts[-2:])
            functions.append((f"{place}.{name}", 1e3 * row[3] / n, row[1]))
    functions.sort(key=lambda row: -row[1])
    total = functions[0][1]
    text = markdown_table(
        ["function (with what it calls)", "ms a galaxy", "share", "calls"],
        [
            [f"`{f}`", f"{t:.3f}", f"{t / total:.0%}", str(c)]
            for f, t, c in functions
            if t > 0.01 * total
        ],
    )
    averages = sorted(operations.key_averages(), key=lambda row: -row.self_cpu_time_total)
    self_total = sum(row.self_cpu_time_total for row in averages)
    text += "\n\n" + markdown_table(
        ["PyTorch operation (itself)", "ms a galaxy", "share", "calls"],
        [
            [
                f"`{row.key}`",
                f"{1e-3 * row.self_cpu_time_total / n:.3f}",
                f"{row.self_cpu_time_total / self_total:.0%}",
                str(row.count),
            ]
            for row in averages[:10]
        ],
    )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few galaxies")
    parser.add_argument("--no-peers", action="store_true", help="ours only")
    parser.add_argument("--only", choices=("compare", "scaling", "profile"), help="one part")
    parser.add_argument("--scale", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.scale:
        print(json.dumps(scale(arguments.scale, 1 if arguments.quick else 12)))
        return
    print(f"{machine()}; load {os.getloadavg()[0]:.2f}")
    parts = {arguments.only} if arguments.only else {"compare", "scaling", "profile"}
    failures = []
    data = None
    if parts & {"compare", "profile"}:
        data = sample(64 if arguments.quick else 512)
        ours(data[1][:64], data[2][:64], _rows(data[3], np.arange(64)))
    if "compare" in parts and not arguments.no_peers:
        counts = (
            {"pyimfit": 4, "astrophot": 4} if arguments.quick else {"pyimfit": 28, "astrophot": 12}
        )
        text, numbers = compare(data, counts, tries=1 if arguments.quick else 12)
        text = f"{machine()}; {len(data[1])} galaxies for ours.\n\n{text}"
        print(text)
        for name, bar in (("pyimfit", 50), ("astrophot", 140)):
            if numbers[name] < bar:
                failures.append(f"{numbers[name]:.0f} times {name}, bar {bar}")
        if numbers["autofit-ml"] > 2.3:
            failures.append(f"{numbers['autofit-ml']:.2f} ms a galaxy, bar 2.3")
    elif "compare" in parts:
        times = [ours(*data[1:])[1] for _ in range(5)]
        print(f"ours: {np.median(times):.2f} ms a galaxy ({min(times):.2f} to {max(times):.2f})")
    if "scaling" in parts:
        text, answers = scaling((100, 300), ("--quick",)) if arguments.quick else scaling()
        print(text)
        times = [a["ms"] for a in answers]
        if max(times) > 1.2 * min(times):
            failures.append(f"time per galaxy varies by {max(times) / min(times):.2f}, bar 1.20")
    if "profile" in parts:
        print(profile(data, min(256, len(data[1]))))
    for failure in failures:
        print(f"MISSED: {failure}")
    raise SystemExit(1 if failures and not arguments.quick else 0)


if __name__ == "__main__":
    main()
