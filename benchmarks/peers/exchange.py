"""What the scripts of the peers share: reading stamps, timing fits, writing answers.

    python fit_NAME.py stamps.npz answers.json FIRST LAST [THREADS]

stamps.npz: data, sigma (B, ny, nx), mask (B, ny, nx; True = bad), psf (B, h, w), start (B, 8: x, y,
flux, re, n, q, pa in degrees counter-clockwise from +y, sky; 0-based pixels, re along the
semi-major axis). THREADS: numbers of threads, as "1,2"; every stamp is fitted with each.

answers.json: version; values and errors (n x 8, columns as start, null where there is none),
converged (n) and message, all with the first number of threads; seconds: number of threads ->
seconds of each stamp (with one thread, processor time); memory, memory_before: resident memory in
MB, largest, and after the imports with the stamps read.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gamma, gammaincinv

PLANES = ("data", "sigma", "mask", "psf", "start")
Planes = Sequence[np.ndarray]


@dataclass(frozen=True)
class Answer:
    """A fit.

    Attributes
    ----------
    values, errors : list of float
        x, y, flux, re, n, q, pa, sky; NaN where there is none.
    converged : bool
        What the fitter itself says.
    """

    values: list[float]
    errors: list[float]
    converged: bool
    message: str = ""


NOTHING = [math.nan] * 8


def intensity_per_flux(re: float, n: float, q: float) -> float:
    """Brightness at re of a Sérsic profile of unit flux (Graham & Driver 2005, eqs. 2 and 4)."""
    b = gammaincinv(2 * n, 0.5)
    return 1.0 / (2 * np.pi * q * re**2 * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n))


def flux_and_error(
    intensity: float, re: float, n: float, q: float, covariance: np.ndarray | None = None
) -> tuple[float, float]:
    """Flux and its error from the covariance of (intensity, re, n, q), if there is one."""
    flux = intensity / intensity_per_flux(re, n, q)
    if covariance is None:
        return flux, math.nan
    slope = np.empty(4)
    for i in range(4):
        point = np.array([intensity, re, n, q], dtype=float)
        step = 1e-5 * max(abs(point[i]), 1e-3)
        point[i] += step
        above = point[0] / intensity_per_flux(*point[1:])
        point[i] -= 2 * step
        slope[i] = (above - point[0] / intensity_per_flux(*point[1:])) / (2 * step)
    return flux, math.sqrt(max(float(slope @ covariance @ slope), 0.0))


def memory(kind: str) -> float:
    """Resident memory in MB: VmRSS now, VmHWM at most (Linux), else the largest."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(kind):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clock_for(threads: int) -> Callable[[], float]:
    """Processor time of one thread, which others disturb little; else the time that passes."""
    return time.process_time if threads == 1 else time.perf_counter


def one_by_one(
    fit: Callable[[Planes, int], Answer], planes: Planes, threads: int
) -> tuple[list[Answer], list[float]]:
    """The answer for each stamp, and seconds; an exception is a failure of that stamp alone."""
    answers, seconds, clock = [], [], clock_for(threads)
    for i in range(len(planes[0])):
        began = clock()
        try:
            answer = fit([plane[i] for plane in planes], threads)
        except Exception:
            answer = Answer(NOTHING, NOTHING, False, traceback.format_exc(limit=-1)[-300:])
        seconds.append(clock() - began)
        answers.append(answer)
    return answers, seconds


def run(
    version: str,
    fit: Callable[[Planes, int], Answer] | None = None,
    *,
    batch: Callable[[Planes, int], list[Answer]] | None = None,
    threads: Sequence[int] = (1,),
) -> None:
    """The command line of a peer.

    Parameters
    ----------
    fit : callable
        Planes of one stamp and number of threads -> its answer.
    batch : callable
        The same for all stamps at once; each gets an equal share of the time.
    threads : sequence of int
        Those used unless the command line says otherwise.
    """
    source, target, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if len(sys.argv) > 5:
        threads = [int(word) for word in sys.argv[5].split(",")]
    with np.load(source) as stamps:
        planes = [
            stamps[name][first:last].astype(bool if name == "mask" else np.float64)
            for name in PLANES
        ]
    before = memory("VmRSS")
    answers: list[Answer] = []
    seconds: dict[int, list[float]] = {}
    for count in threads:
        # The first call loads and compiles what is compiled on first use; it is not counted.
        if batch is not None:
            batch([plane[:1] for plane in planes], count)
            clock = clock_for(count)
            began = clock()
            found = batch(planes, count)
            seconds[count] = [(clock() - began) / len(found)] * len(found)
        elif fit is not None:
            one_by_one(fit, [plane[:1] for plane in planes], count)
            found, seconds[count] = one_by_one(fit, planes, count)
        answers = answers or found
    document = {
        "version": version,
        "values": [_plain(a.values) for a in answers],
        "errors": [_plain(a.errors) for a in answers],
        "converged": [bool(a.converged) for a in answers],
        "message": [a.message for a in answers],
        "seconds": seconds,
        "memory": memory("VmHWM"),
        "memory_before": before,
    }
    unfinished = f"{target}.part"
    with open(unfinished, "w") as stream:
        json.dump(document, stream)
    os.replace(unfinished, target)


def _plain(row: Sequence[float]) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in row]
