"""Fits for benchmarks/side_by_side.py: one interface to our fits and to those of the peers.

    python side_by_side_fits.py KIND stamps.npz answers.json FIRST LAST THREADS

is our counterpart of benchmarks/peers/fit_*.py: the same process layout, timing and file of answers
(peers/exchange.py). KIND is `refine`, which reads own.npz beside stamps.npz, or `fit`, which
reads the folder `images` beside it.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers.exchange import memory
from peers.install import install
from speed import COLUMNS, hand_over
from speed import ours as refine_all

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.initialisation import Starts, initialise
from autofit_ml.segmentation import segment_sep
from autofit_ml.simulation import SimulatedObject, export_fits, to_stamps

__all__ = ["OURS", "Fits", "join", "prepare", "run_fitter", "settings_of", "tested_threads"]

HERE = Path(__file__).resolve().parent
OURS = {"refine": "autofit-ml, refine()", "fit": "autofit-ml, fit() from files"}
REPEATS = 3
UNUSABLE = int(FATAL | Flag.NOT_CONVERGED)


@dataclass
class Fits:
    """Answers of a fitter.

    Attributes
    ----------
    label : str
        With its version.
    values, errors : ndarray, (n, 8)
        Columns as `speed.COLUMNS`; NaN where there is none.
    converged : ndarray of bool, (n,)
        What the fitter itself says.
    seconds : dict
        Number of threads -> seconds of each galaxy.
    memory, memory_before : float
        Resident memory in MB: largest, and before the first fit.
    """

    label: str
    values: np.ndarray
    errors: np.ndarray
    converged: np.ndarray
    seconds: dict[int, np.ndarray]
    memory: float
    memory_before: float

    @property
    def failed(self) -> np.ndarray:
        """Where there is no answer, or one that the fitter calls bad."""
        return ~(self.converged & np.isfinite(self.values[:, :7]).all(1))

    @property
    def best(self) -> tuple[int, float]:
        """The number of threads that is fastest, and its mean seconds a galaxy."""
        means = {threads: float(np.mean(each)) for threads, each in self.seconds.items()}
        threads = min(means, key=lambda key: means[key])
        return threads, means[threads]


def join(parts: Sequence[Fits]) -> Fits:
    """The galaxies of several runs, one after the other."""
    return Fits(
        parts[0].label,
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.errors for p in parts]),
        np.concatenate([p.converged for p in parts]),
        {t: np.concatenate([p.seconds[t] for p in parts]) for t in parts[0].seconds},
        max(p.memory for p in parts),
        max(p.memory_before for p in parts),
    )


def tested_threads(name: str, threads: Sequence[int]) -> list[int]:
    """Those of `threads` that a fitter can be told to use; the rest run as they are."""
    return list(threads) if name in ("pyimfit", "astrophot", "galmoss", *OURS) else [threads[0]]


def settings_of(peer: str) -> dict[str, str]:
    """A peer's SETTINGS, read from its script without running it."""
    tree = ast.parse((HERE / "peers" / f"fit_{peer}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SETTINGS":
            return ast.literal_eval(node.value)
    raise ValueError(f"fit_{peer}.py has no SETTINGS")


def prepare(objects: Sequence[SimulatedObject], folder: Path, *, files: bool = False) -> Path:
    """What all fitters read: stamps.npz, own.npz and, if wanted, images/."""
    folder.mkdir(parents=True, exist_ok=True)
    stamps = to_stamps(objects)
    segmentations = [segment_sep(stamp) for stamp in stamps]
    starts = initialise(stamps, segmentations)
    hand_over(folder / "stamps.npz", stamps, segmentations, starts)
    # The peers' masks hold the neighbours too.
    np.savez(
        folder / "own.npz",
        mask=np.stack([s.mask for s in stamps]),
        flags=starts.flags,
        method=starts.method,
    )
    if files:
        export_fits(objects, folder / "images")
        export_fits(objects[:1], folder / "first")
    return folder / "stamps.npz"


def run_fitter(
    name: str,
    stamps: Path,
    first: int,
    last: int,
    threads: Sequence[int],
    limit: float | None = None,
) -> Fits:
    """A fitter's answers for stamps first to last - 1, in a process of its own.

    Raises
    ------
    RuntimeError
        It ended with an error.
    subprocess.TimeoutExpired
        It took longer than `limit` seconds.
    """
    answers = stamps.with_name(f"{name}_{first}.json")
    if name in OURS:
        command = [sys.executable, __file__, name, stamps, answers, first, last]
    else:
        command = [install(name), HERE / "peers" / f"fit_{name}.py", stamps, answers, first, last]
    if name != "pysersic":  # JAX takes the processors it finds
        command.append(",".join(str(count) for count in tested_threads(name, threads)))
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"OMP_NUM_THREADS": str(max(threads))},
        cwd=stamps.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    return read(answers, name)


def read(answers: Path, name: str) -> Fits:
    """A file of answers."""
    found = json.loads(answers.read_text())
    return Fits(
        OURS.get(name) or f"{name} {found['version']}",
        np.array(found["values"], dtype=float),
        np.array(found["errors"], dtype=float),
        np.array(found["converged"], dtype=bool),
        {int(key): np.array(each, dtype=float) for key, each in found["seconds"].items()},
        found["memory"],
        found["memory_before"],
    )


# ------------------------------------------------------------------ ours, in a process of its own


def own_refine(stamps: Path, first: int, last: int, threads: Sequence[int]) -> dict:
    """`refine` from the starts that the peers get, all galaxies at once."""
    import torch

    with np.load(stamps) as planes, np.load(stamps.with_name("own.npz")) as own:
        data, sigma, psf = (planes[name][first:last] for name in ("data", "sigma", "psf"))
        masks = own["mask"][first:last]
        flags, method = own["flags"][first:last], str(own["method"])
        starts = Starts(planes["start"][first:last], None, flags, method)
    items = [
        Stamp(str(i), *each, PSF(kernel))
        for i, (*each, kernel) in enumerate(zip(data, sigma, masks, psf, strict=True))
    ]
    segmentations = [segment_sep(stamp) for stamp in items]  # as in `prepare`
    before = memory("VmRSS")
    seconds = {}
    for count in threads:
        torch.set_num_threads(count)
        few = Starts(starts.values[:64], None, starts.flags[:64], starts.method)
        refine_all(items[:64], segmentations[:64], few)
        spent = [refine_all(items, segmentations, starts) for _ in range(REPEATS)]
        results = spent[0][0]
        seconds[count] = [1e-3 * float(np.median([ms for _, ms in spent]))] * len(items)
    return {
        "values": results.values,
        "errors": results.errors,
        "converged": (results.flags & UNUSABLE) == 0,
        "seconds": seconds,
        "memory_before": before,
    }


def own_fit(stamps: Path, threads: Sequence[int]) -> dict:
    """`autofit_ml.fit` on the FITS files, with its defaults; no pictures are drawn."""
    import torch

    import autofit_ml

    autofit_ml.fit(stamps.with_name("first"))  # loads networks and tables
    before = memory("VmRSS")
    seconds = {}
    for count in threads:
        torch.set_num_threads(count)
        began = time.perf_counter()
        table = autofit_ml.fit(stamps.with_name("images"), workers=0 if count == 1 else -1)
        seconds[count] = [(time.perf_counter() - began) / len(table)] * len(table)
    table.sort("id")
    return {
        "values": np.array([np.asarray(table[c], dtype=float) for c in COLUMNS]).T,
        "errors": np.array([np.asarray(table[f"{c}_err"], dtype=float) for c in COLUMNS]).T,
        "converged": (np.asarray(table["flags"]) & UNUSABLE) == 0,
        "seconds": seconds,
        "memory_before": before,
    }


def main() -> None:
    kind, stamps, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    first, last = int(sys.argv[4]), int(sys.argv[5])
    threads = [int(word) for word in sys.argv[6].split(",")]
    found = (
        own_refine(stamps, first, last, threads) if kind == "refine" else own_fit(stamps, threads)
    )
    # Worker processes, if any, count too: at most so many, each at most as large as the largest.
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found |= {"version": "", "memory": memory("VmHWM") + max(threads) * workers}
    for name in ("values", "errors"):
        found[name] = [[v if np.isfinite(v) else None for v in row] for row in found[name].tolist()]
    target.write_text(json.dumps(found | {"converged": found["converged"].tolist()}))


if __name__ == "__main__":
    main()
