"""What a learnt start is worth: python benchmarks/initialisation.py [WEIGHTS] [-n 200] [--docs]

On held-out simulations (recipes ``single``, ``blends``, ``realistic``; seeds of their own), all
segmented by the pipeline's default:

- the network alone: scatter of re, n, q and flux against the truth, and the share of the truth
  inside its 68.3 % intervals, by S/N;
- fits from **one** start: from the network, from moments, from the truth itself and from where the
  best fit ends. Iterations to converge, and wrong minima: chi2 more than 1 above the best of ten
  random starts and all others. Catastrophic: a fatal flag, or re or flux off by a factor of 2 at
  S/N over 20 where the best fit is not;
- the default's several starts, and what can be dropped;
- times: network against moments, and the whole fit with each;
- real stamps (``--real``): chi2 of the starts, and whether the answers are the same.

``--hidden`` masks a quarter to two fifths of each target; ``--surveys jwst-f200w`` is a survey that
networks after 1.0.0 do not know.

Coverage needs more galaxies than fits from twenty starts do: ``--alone`` gives the first section a
sample of its own size, ``-n 0`` leaves the others out. ``--json`` writes what
``training/export.py --metrics`` takes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from documents import DATA, machine, markdown_table, write_section

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.errors import AutofitError
from autofit_ml.fitting import Fits, RefineSettings, refine
from autofit_ml.images import discover, read_source
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import Starts, start_from_moments
from autofit_ml.initialisation.cutouts import cut_outs
from autofit_ml.initialisation.network import to_relative
from autofit_ml.initialisation.resnet import ask, start_chi2, start_from_network
from autofit_ml.scenes import to_fit_space
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.settings import ReadOptions
from autofit_ml.simulation import SimulatedObject, compose_recipe, simulate_one, to_stamps
from autofit_ml.weights import load

SURVEYS = ("sdss-r", "legacysurvey-r", "kids-r", "hsc-i")
BINS = ((10, 20), (20, 50), (50, 100), (100, 300), (300, 1e9))
RECIPES = ("single", "blends", "realistic")
PARAMETERS = ((0, "x"), (2, "flux"), (3, "rc"), (4, "n"), (5, "eta1"), (6, "eta2"))


@dataclass(frozen=True)
class Sample:
    """Simulated galaxies of one recipe, segmented."""

    name: str
    objects: list[SimulatedObject]
    stamps: list[Stamp]
    found: list[Segmentation]

    @property
    def truth(self) -> np.ndarray:
        """x, y, flux, re, n, q, pa, sky; n is NaN where there is no single profile."""
        rows = []
        for item in self.objects:
            t = item.truth[0]
            rows.append([float(t[name]) for name in ("x", "y", "flux", "re", "n", "q", "pa")])
            rows[-1].append(item.sky)
        return np.array(rows)

    @property
    def snr(self) -> np.ndarray:
        """Total S/N of each target's own light."""
        return np.array([float(item.truth[0]["snr"]) for item in self.objects])


def sample(
    recipe: str, each: int, surveys: Sequence[str], seed: int, segmenter: str, hidden: bool = False
) -> Sample:
    """Galaxies (no stars) of a recipe, others in each survey, whose target was detected."""
    objects = [
        simulate_one(compose_recipe([f"data={recipe}", f"survey={name}"]), first + k, seed)
        for first, name in zip(range(0, each * len(surveys), each), surveys, strict=True)
        for k in range(each)
    ]
    objects = [item for item in objects if item.truth[0]["kind"] != "star"]
    stamps = to_stamps(objects)
    if hidden:
        rng = np.random.default_rng(seed)
        stamps = [
            stamp.replace(mask=stamp.mask | band(item.labels == 1, rng))
            for stamp, item in zip(stamps, objects, strict=True)
        ]
    pairs = list(zip(objects, segment_all(stamps, segmenter), strict=True))
    kept = [
        (item, stamp, result)
        for item, (stamp, result) in pairs
        if isinstance(result, Segmentation) and result.target
    ]
    return Sample(recipe, *(list(column) for column in zip(*kept, strict=True)))


def band(footprint: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows or columns that hold a quarter to two fifths of a footprint."""
    axis, share = int(rng.integers(2)), rng.uniform(0.25, 0.4)
    below = np.cumsum(footprint.sum(axis)) / max(footprint.sum(), 1)
    first = rng.uniform(0, 1 - share)
    some = (below > first) & (below <= first + share)
    return np.broadcast_to(some if axis == 0 else some[:, None], footprint.shape)


# ------------------------------------------------------------------ the network alone


Figures = dict[str, dict[str, float]]
"""Name: value, the ends of its 68 % interval, and the number of objects."""


def alone(part: Sample, network: Any) -> dict[str, dict[str, Figures]]:
    """Scatter and coverage by S/N, against the truth (galaxies of one profile).

    Beside it the scatter of moments, and of the default fit: what the data allow.
    """
    truth, single = part.truth, np.isfinite(part.truth[:, 4])
    members = np.flatnonzero(single)
    stamps, found = [part.stamps[i] for i in members], [part.found[i] for i in members]
    cut = cut_outs(stamps, found)
    answers = ask(network, cut)
    true = to_relative(cut, to_fit_space(torch.as_tensor(truth[members]))).numpy()
    mean = answers.mean.double().numpy()
    lower = answers.lower.double().numpy()
    sigma = np.sqrt((lower**2).sum(2))
    inside = (np.abs(mean - true) < sigma).astype(float)
    eta, true_eta = (np.hypot(v[:, 5], v[:, 6]) for v in (mean, true))
    errors = {
        "network": {
            "re": mean[:, 3] + eta / 2 - true[:, 3] - true_eta / 2,
            "n": (mean[:, 4] - true[:, 4]) / np.log(10),
            "q": np.exp(-eta) - np.exp(-true_eta),
            "flux": mean[:, 2] - true[:, 2],
        }
    }
    classical = start_from_moments(stamps, found)
    fitted = refine(stamps, starts=classical, segmentations=found).values
    for name, values in (("moments", classical.values), ("fit", fitted)):
        ln = np.log(values[:, 2:5] / truth[members, 2:5])
        errors[name] = {"re": ln[:, 1], "n": ln[:, 2] / np.log(10), "flux": ln[:, 0]}
        errors[name]["q"] = values[:, 5] - truth[members, 5]
    out = {}
    for low, high in (*BINS, (50, 1e9)):
        some = (part.snr[members] >= low) & (part.snr[members] < high)
        if some.sum() < 20:
            continue
        figures: dict[str, Figures] = {
            name: {f"{key} scatter": figure(error[some], width) for key, error in kinds.items()}
            for name, kinds in errors.items()
        }
        figures["network"].update(
            {f"coverage of {key}": figure(inside[some, k], np.mean) for k, key in PARAMETERS}
        )
        out[f"{low:g}-{high:g}" if high < 1e8 else f"over {low:g}"] = figures
    return out


def width(values: np.ndarray) -> float:
    """Half the distance of the 16 and 84 % points."""
    low, high = np.percentile(values[np.isfinite(values)], [15.87, 84.13])
    return float(0.5 * (high - low))


def figure(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> dict[str, float]:
    """A statistic with its 68 % interval, from a hundred bootstraps."""
    rng = np.random.default_rng(5)
    drawn = [statistic(rng.choice(values, len(values))) for _ in range(100)]
    low, high = np.percentile(drawn, [15.87, 84.13])
    value = float(statistic(values))
    return {"value": value, "low": float(low), "high": float(high), "number": len(values)}


# ------------------------------------------------------------------ fits from one start


def fit(part: Sample, starts: Starts, **settings: Any) -> Fits:
    """Fits of a sample."""
    return refine(
        part.stamps,
        starts=starts,
        segmentations=part.found,
        settings=RefineSettings(**settings),
    )


def plain(values: np.ndarray) -> Starts:
    """Starts without a covariance."""
    return Starts(values, None, np.zeros(len(values), dtype=np.int32))


def from_each(part: Sample, network: Any, random_starts: int) -> dict[str, Any]:
    """Fits from every kind of start, and the best chi2 of all, random ones included."""
    truth = part.truth.copy()
    truth[:, 4] = np.where(np.isfinite(truth[:, 4]), truth[:, 4], 2.0)
    truth[:, 5] = np.clip(truth[:, 5], 0.05, 1)
    starts = {
        "network": start_from_network(part.stamps, part.found, network),
        "moments": start_from_moments(part.stamps, part.found),
        "truth": plain(truth),
    }
    fits = {name: fit(part, start, start_n=()) for name, start in starts.items()}
    several = {
        "moments, n = 1 and 4 (default of moments)": fit(part, starts["moments"]),
        "network, +-1.5 sigma of ln n": fit(part, starts["network"], certain=0.0),
        "network, the same unless sigma(ln n) < 0.15": fit(part, starts["network"], certain=0.15),
        "network, the same unless sigma(ln n) < 0.3 (default)": fit(part, starts["network"]),
    }
    rng = np.random.default_rng(3)
    best = np.fmin.reduce([result.chi2 for result in (*fits.values(), *several.values())])
    best_values = fits["moments"].values.copy()
    for result in (*fits.values(), *several.values()):
        better = result.chi2 <= best
        best_values[better] = result.values[better]
    for _ in range(random_starts):
        values = scattered(truth, rng)
        result = fit(part, plain(values), start_n=())
        better = result.chi2 < best
        best_values[better] = result.values[better]
        best = np.fmin(best, result.chi2)
    usable = np.isfinite(best_values).all(1)
    floor = np.where(usable[:, None], best_values, truth)
    fits["the best fit itself"] = fit(part, plain(floor), start_n=())
    rows = {}
    for name, result in (*fits.items(), *several.items()):
        rows[name] = judged(result, best, best_values, part.snr)
    return {"rows": rows, "objects": len(truth), "flags": flag_shares(starts["network"])}


def scattered(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random starts about the truth: 40 % in flux and re, any n and shape."""
    n = len(truth)
    values = truth.copy()
    values[:, :2] += rng.normal(0, 0.5, (n, 2))
    values[:, 2] *= np.exp(rng.normal(0, 0.4, n))
    values[:, 3] *= np.exp(rng.normal(0, 0.5, n))
    values[:, 4] = np.exp(rng.uniform(np.log(0.5), np.log(6), n))
    values[:, 5] = rng.uniform(0.2, 1, n)
    values[:, 6] = rng.uniform(0, 180, n)
    return values


def judged(
    result: Fits, best: np.ndarray, best_values: np.ndarray, snr: np.ndarray
) -> dict[str, float]:
    """Iterations, wrong minima and catastrophic failures of one kind of fit."""
    wrong = ~(result.chi2 <= best + 1.0)
    with np.errstate(all="ignore"):
        far = (np.abs(np.log(result.values[:, 2:4] / best_values[:, 2:4])) > np.log(2)).any(1)
    failed = (result.flags & int(Flag.FAILED | Flag.NOT_CONVERGED)) != 0
    return {
        "iterations": float(result.n_iter.mean()),
        "median": float(np.median(result.n_iter)),
        "starts": float(result.n_starts.mean()),
        "wrong": int(wrong.sum()),
        "catastrophic": int((failed | (far & wrong & (snr > 20))).sum()),
        "fatal": int(((result.flags & int(FATAL)) != 0).sum()),
    }


def flag_shares(starts: Starts) -> dict[str, float]:
    """Shares of objects that were refused."""
    return {
        flag.name or "": float(((starts.flags & int(flag)) != 0).mean())
        for flag in (Flag.OUT_OF_DOMAIN, Flag.INIT_FALLBACK)
    }


# ------------------------------------------------------------------ time


def times(part: Sample, network: Any, repeats: int = 3) -> dict[str, float]:
    """Milliseconds a galaxy, the best of some runs, on one thread for the starts."""
    out: dict[str, float] = {}
    threads = torch.get_num_threads()

    def measure(name: str, call: Any) -> Any:
        result = None
        for _ in range(repeats):
            began = time.perf_counter()
            result = call()
            spent = 1e3 * (time.perf_counter() - began) / len(part.stamps)
            out[name] = min(out.get(name, np.inf), spent)
        return result

    torch.set_num_threads(1)
    measure("cut-outs", lambda: cut_outs(part.stamps, part.found))
    cut = cut_outs(part.stamps, part.found)
    measure("network and its chi2", lambda: ask(network, cut))
    learnt = measure(
        "start from the network", lambda: start_from_network(part.stamps, part.found, network)
    )
    moments = measure("start from moments", lambda: start_from_moments(part.stamps, part.found))
    torch.set_num_threads(threads)
    measure("fit from moments, three starts", lambda: fit(part, moments))
    measure("fit from moments, one start", lambda: fit(part, moments, start_n=()))
    measure("fit from the network, three starts", lambda: fit(part, learnt))
    measure("fit from the network, one start", lambda: fit(part, learnt, start_n=()))
    return out


# ------------------------------------------------------------------ real stamps


def real(network: Any) -> list[dict[str, Any]]:
    """Starts and answers on the shared real galaxies."""
    rows = []
    for folder in ("pymorph_sdss", "profit_kids_sdss", "scarlet_hsc_hst", "cosmos_hst_btk"):
        if not (DATA / folder).is_dir():
            continue
        for source in discover(DATA / folder).sources:
            item = read_any(source)
            if item is None or max(item.shape) > 600:
                continue
            _, result = next(iter(segment_all([item], "auto")))
            if not isinstance(result, Segmentation) or not result.target:
                continue
            part = Sample(folder, [], [item], [result])
            learnt = start_from_network([item], [result], network)
            moments = start_from_moments([item], [result])
            cut = cut_outs([item], [result])
            chi2 = [
                float(start_chi2(cut, to_relative(cut, to_fit_space(torch.as_tensor(s.values)))))
                for s in (learnt, moments)
            ]
            fits = [fit(part, s) for s in (learnt, moments)]
            rows.append(
                {
                    "stamp": f"{folder}/{item.id}",
                    "network": chi2[0],
                    "moments": chi2[1],
                    "fallback": bool(learnt.flags[0] & int(Flag.INIT_FALLBACK)),
                    "unlike": bool(learnt.flags[0] & int(Flag.OUT_OF_DOMAIN)),
                    "delta": float(fits[0].chi2[0] - fits[1].chi2[0]),
                    "re": float(fits[0].values[0, 3] / fits[1].values[0, 3]),
                    "iterations": [int(f.n_iter[0]) for f in fits],
                }
            )
    return rows


def read_any(source: Any) -> Stamp | None:
    """A stamp, or None for what cannot be read as one."""
    try:
        item = read_source(source, ReadOptions()).item
    except AutofitError:
        return None
    return item if isinstance(item, Stamp) else None


# ------------------------------------------------------------------ tables


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Markdown of each section."""
    out = {}
    rows = []
    for recipe, part in report["alone"].items():
        for snr, kinds in part.items():
            v = {name: {k: f["value"] for k, f in kind.items()} for name, kind in kinds.items()}
            row = [recipe, snr, str(kinds["network"]["re scatter"]["number"])]
            row += [f"{100 * each['re scatter']:.1f} %" for each in v.values()]
            row += [f"{each['n scatter']:.3f}" for each in v.values()]
            row += [f"{v['network']['q scatter']:.3f}"]
            row += [f"{100 * v['network']['flux scatter']:.1f} %"]
            row += [f"{100 * v['network'][f'coverage of {name}']:.0f}" for _, name in PARAMETERS]
            rows.append(row)
    header = ["recipe", "S/N", "objects", "re", "moments", "fit"]
    header += ["n (dex)", "moments", "fit", "q", "flux", *(f"{p}, %" for _, p in PARAMETERS)]
    out["alone"] = markdown_table(header, rows)
    rows = []
    for recipe, part in report["fits"].items():
        for name, v in part["rows"].items():
            share = 100 / part["objects"]
            rows.append(
                [f"{recipe}: {name}", f"{v['starts']:.2f}", f"{v['iterations']:.2f}"]
                + [f"{v['median']:.0f}", f"{v['wrong'] * share:.2f} %"]
                + [f"{v['catastrophic'] * share:.2f} %"]
            )
    header = ["starts", "per object", "iterations", "median", "wrong minima", "catastrophic"]
    if rows:
        out["fits"] = markdown_table(header, rows)
        rows = [[name, f"{value:.2f}"] for name, value in report["times"].items()]
        out["times"] = markdown_table(["64 x 64 stamps", "ms a galaxy"], rows)
    if report.get("real"):
        rows = [
            [
                row["stamp"],
                f"{row['network']:.2f}" + (" (moments)" if row["fallback"] else ""),
                f"{row['moments']:.2f}",
                f"{row['delta']:+.2f}",
                f"{row['re']:.4f}",
            ]
            for row in report["real"]
        ]
        header = ["stamp", "start, network", "start, moments", "final chi2, difference", "re ratio"]
        out["real"] = markdown_table(header, rows)
    return out


def held_out(report: dict[str, Any]) -> dict[str, Any]:
    """The same for a bundle's ``metrics.json``."""
    out: dict[str, Any] = {"machine": report["machine"], "command": report["command"]}
    for recipe, part in report["alone"].items():
        figures: dict[str, Figures] = {}
        for snr, kinds in part.items():
            for name, kind in kinds.items():
                figures.setdefault(name, {}).update(
                    {f"{key}, S/N {snr}": entry for key, entry in kind.items()}
                )
        out[recipe] = {"figures": figures}
        if recipe in report["fits"]:
            out[recipe]["fits"] = report["fits"][recipe]
    out.update({name: report[name] for name in ("times", "real") if name in report})
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="?", default="initialise/multi-any")
    parser.add_argument("-n", type=int, default=200, help="galaxies of each recipe and survey")
    parser.add_argument("--alone", type=int, help="of these, for the network alone (default: -n)")
    parser.add_argument("--random", type=int, default=10, help="random starts")
    parser.add_argument("--surveys", nargs="+", default=list(SURVEYS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--segmenter", default="auto")
    parser.add_argument("--hidden", action="store_true", help="mask a third of each target")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    network = load(arguments.weights)
    words = ["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]
    report: dict[str, Any] = {"machine": machine(), "alone": {}, "fits": {}}
    report["command"] = shlex.join(words)
    for number, recipe in enumerate(arguments.recipes):
        each = arguments.alone or arguments.n
        how = arguments.surveys, 9100 + number, arguments.segmenter, arguments.hidden
        part = sample(recipe, each, *how)
        report["alone"][recipe] = alone(part, network)
        if not arguments.n:
            continue
        if each != arguments.n:
            part = sample(recipe, arguments.n, *how)
        report["fits"][recipe] = from_each(part, network, arguments.random)
        if "times" not in report:
            report["times"] = times(part, network)
    if arguments.real:
        report["real"] = real(network)
    if arguments.json:
        arguments.json.write_text(json.dumps(held_out(report), indent=2) + "\n")
    for name, text in tables(report).items():
        print(f"\n{name}\n{text}")
        if arguments.docs:
            write_section("initialisation.md", name, text)


if __name__ == "__main__":
    main()
