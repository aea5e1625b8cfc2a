"""Ours and seven other fitters on the same images: python benchmarks/side_by_side.py [SECTION ...]

Simulated stamps (GalSim), the same for all: pixels, noise maps, masks, PSFs and starting values.

- ``peers``: time, memory, accuracy, errors and failures of each, taking turns in one run.
- ``number``: cost against the number of galaxies, 10 to 10 000 (``--full``: 100 000).
- ``size``: stamps of 32 to 512 pixels a side.
- ``components``: 1 to 8 Sérsic galaxies that overlap, fitted together.
- ``bands``: 1 to 9 bands fitted together.
- ``snr``: accuracy and time by S/N.
- ``plot``: docs/figures/side_by_side.png from what the sections left in benchmarks/out.
- ``settings``: how each fitter is configured.

``-n 4`` for a trial; ``--docs`` writes docs/side-by-side.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from documents import DOCS, machine, markdown_table, write_section
from peers.install import PEERS
from scenes import INDICES, fitted, half_width, in_bands, joined, psf_of, scaled, segmented
from side_by_side_fits import OURS, Fits, join, prepare, run_fitter, settings_of
from speed import sample, scaling, truth
from undisturbed import Disturbances, undisturbed

from autofit_ml.fitting import object_of
from autofit_ml.runs.workers import processors
from autofit_ml.simulation import observe_scene, simulate_sersic, to_stamps
from autofit_ml.simulation.sources import Source

OUT = Path(__file__).resolve().parent / "out" / "side_by_side"
PAGE = "side-by-side.md"
SIDES = (32, 64, 128, 256, 512)
COMPONENTS = (1, 2, 3, 4, 6, 8)
BANDS = (1, 2, 3, 5, 9)
SNRS = (10, 20, 50, 100, 300, 1000)
QUICK_PEERS = ("pyimfit", "astrophot", "scipy")
"""Peers of the sections that would take the others hours."""
LIMIT = 1800.0
"""Seconds after which a peer's job is given up."""


def kept(section: str, numbers: dict[str, Any]) -> None:
    """Keep the numbers of a section, for the plot."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{section}.json").write_text(json.dumps(numbers, indent=1))


def numbers_of(section: str) -> dict[str, Any]:
    """The numbers that a section left; empty if it has not run."""
    path = OUT / f"{section}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def attempt(
    name: str,
    stamps: Path,
    first: int,
    last: int,
    arguments: argparse.Namespace,
    tally,
    threads=None,
) -> Fits | None:
    """`run_fitter`, repeated while others are busy; None, with a line, where it failed."""
    job = functools.partial(
        run_fitter, name, stamps, first, last, threads or arguments.threads, LIMIT
    )
    try:
        return undisturbed(job, tally, arguments.tries)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{name}, {first} to {last - 1}: {str(error)[-600:]}", flush=True)
        return None


def duration(seconds: float) -> str:
    """A time with three digits, in a unit that suits it."""
    if not np.isfinite(seconds):
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length or (unit == "s" and seconds >= 1):
            return f"{seconds / length:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"


# ------------------------------------------------------------------ accuracy


def offsets(fits: Fits, true: np.ndarray) -> dict[str, np.ndarray]:
    """Relative errors of re, n and flux, NaN where the fitter failed."""
    off = fits.values / np.where(true == 0, np.nan, true) - 1
    off[fits.failed] = np.nan
    return {"re": off[:, 3], "n": off[:, 4], "flux": off[:, 2]}


def spread(values: np.ndarray) -> str:
    """Median and half the distance of the 16 and 84 % points, per cent."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return "-"
    return f"{100 * np.median(values):+.1f} ± {100 * half_width(values):.1f} %"


def coverage(fits: Fits, true: np.ndarray, column: int) -> str:
    """Share of truths within 1 σ, where the fitter gives an error."""
    error = np.where(fits.errors > 0, fits.errors, np.nan)[:, column]
    pull = np.abs(fits.values - true)[:, column] / error
    pull = pull[np.isfinite(pull) & ~fits.failed]
    return f"{100 * np.mean(pull < 1):.0f} %" if len(pull) else "-"


def accuracy_row(fits: Fits, true: np.ndarray) -> list[str]:
    """Bias and scatter, coverage, failures."""
    off = offsets(fits, true)
    wrong = ~fits.failed & (np.abs(off["re"]) > 0.5)
    return [
        *(spread(off[name]) for name in ("re", "n", "flux")),
        *(coverage(fits, true, column) for column in (3, 4, 2)),
        f"{100 * fits.failed.mean():.0f} %",
        f"{100 * wrong.mean():.0f} %",
    ]


ACCURACY = [
    "re, bias ± scatter", "n", "flux", "1 σ of re", "of n", "of flux", "failed",
    "re off by half",
]  # fmt: skip


# ------------------------------------------------------------------ peers


def peers(arguments: argparse.Namespace) -> str:
    """All fitters on the same galaxies, in turn."""
    number, rounds = arguments.n or 100, arguments.rounds
    objects = sample(number)[0]
    true = truth(objects)
    edges = np.linspace(0, number, min(rounds, number) + 1).astype(int)
    names = [*OURS, *arguments.peers]
    parts: dict[str, list[Fits]] = {name: [] for name in names}
    tally = Disturbances()
    with tempfile.TemporaryDirectory() as folder:
        stamps = prepare(objects, Path(folder), files=True)
        for turn, (first, last) in enumerate(pairwise(edges)):
            for name in names if turn % 2 == 0 else names[::-1]:
                bounds = (0, number) if name in OURS else (first, last)
                found = attempt(name, stamps, *bounds, arguments, tally)
                if found is not None:
                    parts[name].append(found)
    complete = {
        name: _median_of(those) if name in OURS else join(those)
        for name, those in parts.items()
        if len(those) == len(edges) - 1
    }
    base = {t: float(np.mean(each)) for t, each in complete["refine"].seconds.items()}
    costs, quality = [], []
    for fits in complete.values():
        for threads, each in fits.seconds.items():
            mean = float(np.mean(each))
            own = base.get(threads, base[max(base)])
            row = [f"{fits.label}, {threads} thread{'s' * (threads > 1)}"]
            row += [duration(float(np.median(each))), duration(mean), f"{mean / own:.3g}"]
            costs.append([*row, f"{fits.memory:.0f}", f"{fits.memory_before:.0f}"])
        quality.append([fits.label, *accuracy_row(fits, true)])
    kept(
        "peers",
        {
            name: {"label": fits.label, "seconds": fits.best[1], "threads": fits.best[0]}
            for name, fits in complete.items()
        },
    )
    header = ["fitter", "time a galaxy, median", "mean", "times refine()", "peak memory, MB",
              "before the first fit"]  # fmt: skip
    text = f"{machine()}; {number} galaxies in {len(edges) - 1} turns.\n\n"
    text += markdown_table(header, costs)
    text += "\n\n" + markdown_table(["fitter", *ACCURACY], quality)
    missing = sorted(set(names) - set(complete))
    if missing:
        text += f"\n\nNot in the tables, since a job ended with an error: {', '.join(missing)}."
    return text + f"\n\nWhile this was measured, {tally}."


def _median_of(runs: list[Fits]) -> Fits:
    """Runs on the same galaxies: the answers of the first, the median time of all."""
    whole = runs[0]
    whole.seconds = {t: np.median([run.seconds[t] for run in runs], axis=0) for t in whole.seconds}
    whole.memory = max(run.memory for run in runs)
    return whole


# ------------------------------------------------------------------ number


def number_of_galaxies(arguments: argparse.Namespace) -> str:
    """Ours measured, the peers extrapolated from their time a galaxy."""
    counts = [10, 100, 1000, 10000] + [100000] * arguments.full
    if arguments.n:
        counts = [10, arguments.n]
    options = ("--quick",) if arguments.tries == 1 else ()
    _, answers = scaling(counts, options)
    others = {k: v for k, v in numbers_of("peers").items() if k not in OURS}
    rows = []
    for answer in answers:
        n = answer["n"]
        row = [str(n), duration(1e-3 * answer["ms"] * n), f"{answer['ms']:.2f}"]
        row += [f"{answer['added_mb']:.0f}", f"{answer['input_mb']:.0f}"]
        rows.append(row + [duration(n * one["seconds"]) for one in others.values()])
    kept("number", {"answers": answers})
    header = ["galaxies", "refine()", "ms a galaxy", "memory added, MB", "the stamps, MB"]
    header += [f"{one['label']}, extrapolated" for one in others.values()]
    text = f"{machine()}.\n\n" + markdown_table(header, rows)
    noisy = [str(a["n"]) for a in answers if a["disturbed"]]
    if noisy:
        text += f"\n\nOther processes were busy while {', '.join(noisy)} were measured."
    return text


# ------------------------------------------------------------------ size


def size(arguments: argparse.Namespace) -> str:
    """Time and memory against the side of the stamp."""
    names = ["refine", *(p for p in arguments.peers if p in QUICK_PEERS)]
    tally = Disturbances()
    rows, numbers = [], {}
    for side in SIDES:
        count = arguments.n or max(4, min(64, 64 * 64**2 // side**2))
        objects = simulate_sersic(
            count, seed=21, size=side, psf_size=25, psf_fwhm=(3, 4), n=(0.6, 5.5),
            re=(max(side / 26, 2.0), side / 8), snr=(50, 500),
        )  # fmt: skip
        row, numbers[side] = [f"{side} × {side}"], {}
        with tempfile.TemporaryDirectory() as folder:
            stamps = prepare(objects, Path(folder))
            for name in names:
                last = count if name in OURS else min(count, 8)
                found = attempt(name, stamps, 0, last, arguments, tally)
                if found is None:
                    row += ["-", "-"]
                    continue
                seconds = found.best[1]
                numbers[side][name] = {"label": found.label, "seconds": seconds}
                row += [duration(seconds), f"{found.memory:.0f}"]
        rows.append(row)
    kept("size", numbers)
    header = ["stamp", *(w for n in names for w in (OURS.get(n, n), "MB"))]
    counts = arguments.threads
    fastest = f"the faster of {counts} threads" if len(counts) > 1 else f"{counts[0]} thread"
    text = f"{machine()}; {fastest}.\n\n"
    return text + markdown_table(header, rows) + f"\n\nWhile this was measured, {tally}."


# ------------------------------------------------------------------ components


def groups(number: int, count: int, seed: int = 61) -> list[Any]:
    """`count` overlapping galaxies in 96 × 96 pixels: one at the centre, the rest around it."""
    rng = np.random.default_rng([seed, count])
    objects = []
    for k in range(number):
        psf, shape = psf_of(rng), (96, 96)
        turn = rng.uniform(0, 2 * np.pi)
        sources = []
        for i in range(count):
            angle = turn + 2 * np.pi * i / max(count - 1, 1)
            away = 0.0 if i == 0 else rng.uniform(15, 18)
            sources.append(
                Source(
                    float(47.5 + rng.uniform(-0.5, 0.5) + away * np.cos(angle)),
                    float(47.5 + rng.uniform(-0.5, 0.5) + away * np.sin(angle)),
                    1.0,
                    float(rng.uniform(5, 7) if i == 0 else rng.uniform(2, 3)),
                    float(rng.choice(INDICES[INDICES < 2.5])),
                    rng.uniform(0.5, 1),
                    rng.uniform(0, 180),
                )
            )
        target = scaled(sources[0], 300.0, psf, shape)
        rest = [one.with_flux(target.flux * rng.uniform(0.2, 0.4)) for one in sources[1:]]
        objects.append(observe_scene(f"group{k}", target, rest, psf, shape, rng=rng, sky=5.0))
    return objects


def hand_over_scenes(path: Path, objects: list[Any], fits: list[Any]) -> None:
    """Stamps with the starts of all their galaxies: eight columns, then seven for each other."""
    starts = []
    for fit in fits:
        value = dict(zip(fit.names, fit.start, strict=True))
        names = [name.split(".")[0] for name in fit.names if name.endswith(".flux")]
        columns = ("x", "y", "flux", "re", "n", "q", "pa")
        each = [[value[f"{name}.{column}"] for column in columns] for name in names]
        sky = next((v for k, v in value.items() if k.startswith("sky")), 0.0)
        starts.append([*each[0], sky, *(v for one in each[1:] for v in one)])
    np.savez(
        path,
        data=np.stack([o.data for o in objects]),
        sigma=np.stack([o.sigma for o in objects]),
        mask=np.stack([o.mask for o in objects]),
        psf=np.stack([o.psf.data for o in objects]),
        start=np.array(starts),
    )


def components(arguments: argparse.Namespace) -> str:
    """Time against the number of galaxies fitted together."""
    tally = Disturbances()
    rows, numbers = [], {}
    for count in COMPONENTS:
        number = arguments.n or 16
        objects = groups(number, count)
        stamps = [
            stamp.replace(labels=item.labels, target_label=1)
            for stamp, item in zip(to_stamps(objects), objects, strict=True)
        ]
        scenes = [object_of(s, g) for s, g in zip(stamps, segmented(stamps, "given"), strict=True)]
        job = functools.partial(fitted, scenes, "sersic", max_neighbours=7)
        job()
        runs = [undisturbed(job, tally, arguments.tries) for _ in range(3)]
        fits, seconds = runs[0][0], 1e-3 * float(np.median([ms for _, ms in runs]))
        # Those in which all of them were found and fitted.
        full = [i for i, fit in enumerate(fits) if fit.neighbours == count - 1]
        off = [abs(fits[i]["sersic.re"] / objects[i].target.re - 1) for i in full]
        median = f"{100 * np.median(off):.1f} %" if off else "-"
        row = [str(count), f"{len(full)} of {number}", duration(seconds), median]
        numbers[count] = {"refine": {"label": "autofit-ml, scenes", "seconds": seconds}}
        found = None
        if full and "pyimfit" in arguments.peers:
            some = full[:8]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "stamps.npz"
                hand_over_scenes(path, [objects[i] for i in some], [fits[i] for i in some])
                found = attempt("pyimfit", path, 0, len(some), arguments, tally)
        if found is None:
            row += ["-", "-"]
        else:
            numbers[count]["pyimfit"] = {"label": found.label, "seconds": found.best[1]}
            true = np.array([objects[i].target.re for i in some])
            row += [duration(found.best[1])]
            row += [f"{100 * np.median(np.abs(found.values[:, 3] / true - 1)):.1f} %"]
        rows.append(row)
    kept("components", numbers)
    header = ["galaxies", "all fitted in", "autofit-ml", "median error of re", "pyimfit",
              "median error of re"]  # fmt: skip
    text = f"{machine()}; 96 × 96 pixels.\n\n{markdown_table(header, rows)}"
    return text + f"\n\nWhile this was measured, {tally}."


# ------------------------------------------------------------------ bands


def bands(arguments: argparse.Namespace) -> str:
    """Time against the number of bands, one shape for all."""
    number = arguments.n or 60
    objects, true = in_bands(number, max(BANDS), 50.0, 62)
    tally = Disturbances()
    rows, numbers = [], {}
    for count in BANDS:
        names = tuple("ugrizyjhk"[:count])
        scenes = joined(objects, count)
        job = functools.partial(fitted, scenes, "sersic", bands=names)
        job()
        runs = [undisturbed(job, tally, arguments.tries) for _ in range(3)]
        seconds = 1e-3 * float(np.median([ms for _, ms in runs]))
        numbers[count] = {"refine": {"label": "autofit-ml, joint fit", "seconds": seconds}}
        off = np.log(np.array([fit["sersic.re"] for fit in runs[0][0]]) / true[:, 0])
        first = numbers[BANDS[0]]["refine"]["seconds"]
        rows.append([str(count), duration(seconds), f"{seconds / first:.2f}", spread(off)])
    kept("bands", numbers)
    text = f"{machine()}; {number} galaxies, 64 × 64 pixels, S/N 50 in each band.\n\n"
    header = ["bands", "time a galaxy", "of one band", "re, bias ± scatter"]
    return text + markdown_table(header, rows) + f"\n\nWhile this was measured, {tally}."


# ------------------------------------------------------------------ S/N


def snr(arguments: argparse.Namespace) -> str:
    """Accuracy and time by S/N."""
    number = arguments.n or 24
    names = ["refine", *arguments.peers]
    tally = Disturbances()
    rows, numbers = {name: [] for name in names}, {}
    for value in SNRS:
        objects = simulate_sersic(
            number, seed=63, size=64, psf_size=25, psf_fwhm=(3, 4), n=(0.6, 5.5), re=(2.5, 8),
            snr=(value, value),
        )  # fmt: skip
        true, numbers[value] = truth(objects), {}
        with tempfile.TemporaryDirectory() as folder:
            stamps = prepare(objects, Path(folder))
            for name in names:
                threads = [max(arguments.threads)] if name in OURS else [min(arguments.threads)]
                found = attempt(name, stamps, 0, number, arguments, tally, threads)
                if found is None:
                    continue
                scatter = half_width(v) if len(v := _finite(offsets(found, true)["re"])) else None
                seconds = float("nan") if found.failed.all() else found.best[1]
                if not found.failed.all():
                    numbers[value][name] = {"seconds": seconds, "scatter": scatter}
                row = [f"{found.label}, S/N {value}", duration(seconds)]
                rows[name].append(row + accuracy_row(found, true))
    kept("snr", numbers)
    text = f"{machine()}; {number} galaxies at each S/N.\n\n"
    text += markdown_table(
        ["fitter", "time a galaxy", *ACCURACY], [row for name in names for row in rows[name]]
    )
    return text + f"\n\nWhile this was measured, {tally}."


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


# ------------------------------------------------------------------ settings and plot


def settings(arguments: argparse.Namespace) -> str:
    """How each peer is configured, from its script."""
    text = []
    for peer in PEERS:
        text.append(f"**{peer}** (`benchmarks/peers/fit_{peer}.py`)\n")
        text += [f"- {key}: {value}" for key, value in settings_of(peer).items()]
        text.append("")
    return "\n".join(text)


def plot(arguments: argparse.Namespace) -> str:
    """docs/figures/side_by_side.png, or benchmarks/out/side_by_side.png without --docs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    colours = dict(zip(["refine", "fit", *PEERS], [f"C{i}" for i in range(10)], strict=False))
    _draw_number(axes[0, 0], colours)
    panels = {"size": "pixels a side", "components": "galaxies fitted together",
              "bands": "bands", "snr": "S/N"}  # fmt: skip
    for place, (section, label) in zip(axes.flat[1:], panels.items(), strict=False):
        _draw(place, section, "seconds", colours)
        place.set(xlabel=label, ylabel="s a galaxy")
    _draw(axes[1, 2], "snr", "scatter", colours)
    axes[1, 2].set(xlabel="S/N", ylabel="scatter of re, relative")
    lines: dict[str, Any] = {}
    for place in axes.flat:
        place.set(xscale="log", yscale="log")
        ticks = sorted({float(x) for line in place.get_lines() for x in line.get_xdata()})
        place.set_xticks(ticks, [f"{x:g}" for x in ticks])
        place.set_xticks([], minor=True)
        place.spines[["top", "right"]].set_visible(False)
        for line in place.get_lines():
            lines.setdefault(line.get_label(), line)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=5)
    path = (DOCS / "figures" if arguments.docs else OUT) / "side_by_side.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return f"![Cost and accuracy against number, size, components, bands, S/N](figures/{path.name})"


def _draw(axes: Any, section: str, what: str, colours: dict[str, str]) -> None:
    found = numbers_of(section)
    for name in colours:
        points = [
            (float(x), each[name][what])
            for x, each in found.items()
            if name in each and each[name].get(what)
        ]
        if points:
            label = "autofit-ml" if name == "refine" else name
            axes.plot(*zip(*points, strict=True), "o-", ms=4, color=colours[name], label=label)


def _draw_number(axes: Any, colours: dict[str, str]) -> None:
    axes.set(xlabel="galaxies", ylabel="s in all (peers: extrapolated)")
    answers = numbers_of("number").get("answers", [])
    counts = [a["n"] for a in answers]
    if not answers:
        return
    total = [1e-3 * a["ms"] * a["n"] for a in answers]
    axes.plot(counts, total, "o-", ms=4, color=colours["refine"], label="autofit-ml")
    for name, one in numbers_of("peers").items():
        if name not in OURS:
            totals = [one["seconds"] * n for n in counts]
            axes.plot(counts, totals, "--", color=colours[name], label=name)


SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "settings": settings,
    "peers": peers,
    "number": number_of_galaxies,
    "size": size,
    "components": components,
    "bands": bands,
    "snr": snr,
    "plot": plot,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION",
                        help=", ".join(SECTIONS))  # fmt: skip
    parser.add_argument("-n", type=int, default=0, help="galaxies of each section")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="PEER",
                        help=", ".join(PEERS))  # fmt: skip
    parser.add_argument("--rounds", type=int, default=4, help="turns in peers")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tries", type=int, default=4, help="1: never repeat what was disturbed")
    parser.add_argument("--full", action="store_true", help="100 000 galaxies too")
    parser.add_argument("--docs", action="store_true", help="write into the documentation")
    arguments = parser.parse_args()
    for given, known in ((arguments.sections, SECTIONS), (arguments.peers, PEERS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; one of {', '.join(known)}")
    cores = processors()
    arguments.threads = [count for count in arguments.threads if count <= cores]
    torch.set_num_threads(max(arguments.threads))
    print(machine())
    for name in arguments.sections:
        began = time.perf_counter()
        text = SECTIONS[name](arguments)
        print(f"\n{name}, {(time.perf_counter() - began) / 60:.1f} min\n{text}", flush=True)
        if arguments.docs:
            write_section(PAGE, name, text)


if __name__ == "__main__":
    main()
