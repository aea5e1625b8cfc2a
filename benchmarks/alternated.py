"""Time of the fit in two versions, in turn: python benchmarks/alternated.py EARLIER [-n 60]

Each version (this one, and a checkout at EARLIER) fits the same kinds of simulated galaxies in a
process of its own, on one thread; the two take turns, and what counts is processor time: the ratio
of two runs that follow each other hardly knows what else the machine does. Printed for each kind:
the least milliseconds a galaxy of both, and the median and the range of the ratios.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from documents import machine, markdown_table

HERE = Path(__file__).resolve()
KINDS: dict[str, str] = {
    "one Sérsic profile, 64 x 64": "refine of stamps of S/N 10 to 1 000, starts from the network",
    "faint, 64 x 64": "S/N 5 to 40, starts from moments",
    "with neighbours, 128 x 128": "fitted along",
    "two components, 64 x 64": "sersic+exp",
    "seven bands, 100 x 100": "one Sérsic profile in all of them",
    "with neighbours, 301 x 301": "re of 20 to 45 pixels",
}


def job_of(kind: str, n: int) -> tuple[Callable[[], Any], int]:
    """What fits the galaxies of a kind, with the version that Python finds, and their number."""
    from autofit_ml.fitting import join_images, refine
    from autofit_ml.initialisation import initialise
    from autofit_ml.scenes import parse_model, sersic
    from autofit_ml.segmentation import segment_sep
    from autofit_ml.simulation import observe_scene, simulate_sersic, to_stamps

    scene, bands, init = sersic(), ("",), "moments"
    common: dict[str, Any] = {"psf_fwhm": (2.5, 4), "sky": 10.0}
    if kind.startswith("one"):
        found = simulate_sersic(
            4 * n, seed=7, size=64, psf_size=25, psf_fwhm=(3, 4), n=(0.6, 5.5), re=(2.5, 8)
        )
        init = "resnet"
    elif kind.startswith("with neighbours, 301"):
        found = simulate_sersic(
            max(2, n // 10), seed=301, size=301, psf_size=31, snr=(300, 1000), re=(20, 45),
            n=(0.7, 4.5), neighbours=30.0, **common,
        )  # fmt: skip
    elif kind.startswith("with neighbours"):
        found = simulate_sersic(
            n, seed=903, size=128, psf_size=31, snr=(20, 500), re=(2.5, 12), n=(0.5, 5.5),
            neighbours=5.0, **common,
        )  # fmt: skip
    elif kind.startswith("seven"):
        found = simulate_sersic(
            max(4, n // 3), seed=77, size=100, psf_size=25, n=(0.6, 5), re=(3, 10),
            snr=(30, 300), **common,
        )  # fmt: skip
    else:
        faint = kind.startswith("faint")
        snr = (5, 40) if faint else (50, 500)
        found = simulate_sersic(n, seed=901, size=64, re=(2, 8), snr=snr, **common)
        scene = scene if faint else parse_model("sersic+exp")
    stamps = to_stamps(found)
    segmentations = [segment_sep(stamp) for stamp in stamps]
    starts = initialise(stamps, segmentations, init)
    objects: Any = stamps
    if kind.startswith("seven"):
        rng, bands = np.random.default_rng(5), tuple("ugrizyJ")
        objects = []
        for one, segmentation in zip(found, segmentations, strict=True):
            several = [
                observe_scene(
                    f"{one.id}{band}", one.target.replace(flux=one.target.flux * colour), (),
                    one.psf, one.data.shape, rng=rng, sky=10.0,
                )
                for band, colour in zip(bands, (1.0, 1.4, 0.7, 0.9, 1.2, 0.6, 1.1), strict=True)
            ]  # fmt: skip
            objects.append(join_images(to_stamps(several), segmentation))
    return lambda: refine(objects, scene, starts, segmentations, bands=bands), len(stamps)


def work(kind: str, n: int) -> None:
    """Fit whenever a line comes in; answer with milliseconds a galaxy."""
    import torch

    torch.set_num_threads(1)
    job, number = job_of(kind, n)
    job()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        job()
        print(1e3 * (time.process_time() - began) / number, flush=True)


def times_of(trees: Sequence[Path], kind: str, n: int, rounds: int) -> np.ndarray:
    """Milliseconds a galaxy, (rounds, versions)."""
    workers = []
    for tree in trees:
        paths = [str(tree), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        words = [sys.executable, str(HERE), "--work", kind, "-n", str(n)]
        workers.append(
            subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        )

    def answer(worker: subprocess.Popen) -> str:
        line = worker.stdout.readline() if worker.stdout else ""
        if not line:
            raise RuntimeError(f"{kind}: a version ended with status {worker.wait()}")
        return line

    try:
        for worker in workers:
            answer(worker)
        out = np.zeros((rounds, len(workers)))
        for k in range(rounds):
            for i, worker in enumerate(workers):
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
                out[k, i] = float(answer(worker))
        return out
    finally:
        for worker in workers:
            worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("earlier", type=Path, nargs="?", help="checkout of the earlier version")
    parser.add_argument("-n", type=int, default=60, help="galaxies of 128 x 128 pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="kinds that begin so")
    parser.add_argument("--work", choices=list(KINDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.n)
        return
    if arguments.earlier is None:
        parser.error("give the checkout of an earlier version")
    trees = arguments.earlier.resolve(), HERE.parent.parent
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    rows = []
    for kind, about in KINDS.items():
        if arguments.only and not kind.startswith(tuple(arguments.only)):
            continue
        times = times_of(trees, kind, arguments.n, arguments.rounds)
        ratio = times[:, 1] / times[:, 0]
        before, now = times.min(0)
        row = [f"{kind}: {about}", f"{before:.3g}", f"{now:.3g}", f"{np.median(ratio):.2f}"]
        rows.append([*row, f"{ratio.min():.2f} to {ratio.max():.2f}"])
        print(rows[-1], flush=True)
    header = ["", "before, ms a galaxy", "now", "ratio, median", "range"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
