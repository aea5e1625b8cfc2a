"""Sets of sharp galaxies for the deconvolution's prior: made where they are missing.

One safetensors file per set: noiseless stamps of unit flux as they look through the target PSF
(`autofit_ml.deconvolution.target.TARGET_FWHM`), drawn by GalSim with the sources of
`autofit_ml.simulation` at lower accuracy (2 % of a galaxy's light may fold back): point sources,
single profiles, bulges with discs, structured galaxies (arms, bars, knots, irregulars), pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from autofit_ml.deconvolution.target import TARGET_FWHM, target_psf
from autofit_ml.simulation.draw import DrawAccuracy, draw_box
from autofit_ml.simulation.recipe import Galaxies, Structure
from autofit_ml.simulation.scenes import draw_galaxy
from autofit_ml.simulation.sources import Source
from training.memory import write_tensors
from training.settings import Entry

__all__ = ["ACCURACY", "KINDS", "NAMES", "STRUCTURE", "make_sharp_sets", "sharp_image"]

KINDS = {"point": 0.03, "sersic": 0.25, "bulge_disc": 0.22, "structured": 0.35, "pair": 0.15}
"""What is drawn, and how often, where an entry does not say."""

NAMES = (*KINDS, "group")
"""All that can be drawn; a group is several objects anywhere in the stamp."""

ACCURACY = DrawAccuracy(folding=2e-2, margin=1.2, largest=192)
"""Of the drawn light."""

STRUCTURE = Structure(knot_fraction=(0.02, 0.3), bar_probability=0.4)
"""Of structured galaxies."""

_Kind = Literal["sersic", "bulge_disc", "structured"]
_CHUNK = 500
_INSIDE = 0.85
"""Least share of the light that the stamp must hold."""


def _galaxies(kind: _Kind, **changes: Any) -> Galaxies:
    smallest = 2.5 if kind == "structured" else 0.4
    settings = {"re": (smallest, 16.0), "q": (0.15, 1.0), "structure": STRUCTURE, **changes}
    return Galaxies(morphology={kind: 1.0}, **settings)


_GALAXIES = {
    "sersic": (
        _galaxies("sersic", n_distribution="population"),
        _galaxies("sersic", n=(0.5, 5.0)),
    ),
    "bulge_disc": (_galaxies("bulge_disc"),),
    "structured": (_galaxies("structured"),),
}


def sharp_image(
    rng: np.random.Generator, side: int, kinds: Mapping[str, float] | None = None
) -> tuple[np.ndarray, str]:
    """One galaxy (pair, group) of unit flux, float32 (side, side), and its kind.

    Parameters
    ----------
    rng : Generator
    side : int
    kinds : mapping, optional
        How often each of `NAMES` is drawn; default `KINDS`.
    """
    names, share = zip(*(kinds or KINDS).items(), strict=True)
    psf = target_psf()
    while True:
        kind = str(rng.choice(names, p=share))
        x, y = (side - 1) / 2 + rng.uniform(-1, 1, 2)
        if kind == "pair":
            image, flux = _pair(rng, psf, side, x, y)
        elif kind == "group":
            image, flux = _group(rng, psf, side, x, y)
        else:
            source = _source(rng, kind, x, y)
            image, flux = draw_box(source, psf, (0, 0), (side, side), ACCURACY), source.flux
        total = float(image.sum())
        if total > _INSIDE * flux:
            return (image / total).astype(np.float32), kind


def _source(rng: np.random.Generator, kind: str, x: float, y: float) -> Source:
    if kind == "point":
        return Source(x, y, 1.0, 0.0, float("nan"))
    choices = _GALAXIES[kind]
    settings = choices[int(rng.integers(len(choices)))]
    return draw_galaxy(rng, settings, 1.0, magnitude=21.0, flux=1.0, x=x, y=y)


def _pair(
    rng: np.random.Generator, psf: Any, side: int, x: float, y: float
) -> tuple[np.ndarray, float]:
    """A galaxy with a companion of a twentieth of its flux or more."""
    kinds = ("sersic", "bulge_disc", "structured")
    first = _source(rng, str(rng.choice(kinds)), x, y)
    reach = max(2.0, rng.uniform(0.5, 3.0) * first.re)
    reach, angle = min(reach, 0.35 * side), rng.uniform(0, 2 * np.pi)
    flux = float(np.exp(rng.uniform(np.log(0.05), 0)))
    kind = str(rng.choice(("point", *kinds)))
    second = _source(rng, kind, x + reach * np.cos(angle), y + reach * np.sin(angle))
    second = second.with_flux(flux)
    image = sum(draw_box(one, psf, (0, 0), (side, side), ACCURACY) for one in (first, second))
    return np.asarray(image), 1.0 + flux


def _group(
    rng: np.random.Generator, psf: Any, side: int, x: float, y: float
) -> tuple[np.ndarray, float]:
    """Two to six objects, the brightest in the middle, others also over the stamp's edge."""
    kinds = ("sersic", "bulge_disc", "structured")
    members = [_source(rng, str(rng.choice(kinds)), x, y)]
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.uniform(-2, side + 1, 2)
        kind = str(rng.choice(("point", *kinds)))
        flux = float(np.exp(rng.uniform(np.log(0.01), 0)))
        members.append(_source(rng, kind, x, y).with_flux(flux))
    image = np.asarray(sum(draw_box(one, psf, (0, 0), (side, side), ACCURACY) for one in members))
    # What lies outside is no light that is missing.
    return image, float(image.sum())


def make_sharp_sets(entries: Sequence[Entry], root: str | Path, *, workers: int = 1) -> list[Path]:
    """Files of all entries, made first where they are missing.

    Parameters
    ----------
    entries : sequence of mapping
        Each with ``sharp`` (the side), ``count``, ``seed`` and, where they are others, ``kinds``.
    root : path
    workers : int
        Processes that draw.

    Returns
    -------
    list of Path
        safetensors: ``image`` float16 (N, side, side), in units of each one's peak; ``peak``
        float32 (N,), of the image of unit flux; ``kind`` uint8 (N,), place in `NAMES`.
    """
    files = []
    for entry in entries:
        side, count, seed = int(entry["sharp"]), int(entry["count"]), int(entry["seed"])
        kinds = dict(entry.get("kinds") or KINDS)
        what = {"kinds": kinds, "fwhm": TARGET_FWHM, "inside": _INSIDE, "format": 1}
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        path = Path(root) / f"sharp-{side}-{count}-{seed}-{digest}.safetensors"
        if not path.exists():
            print(f"drawing {path}", flush=True)
            parts = _drawn(side, count, seed, kinds, workers)
            write_tensors(path, {key: torch.cat([one[key] for one in parts]) for key in parts[0]})
        files.append(path)
    return files


def _drawn(
    side: int, count: int, seed: int, kinds: dict[str, float], workers: int
) -> list[dict[str, torch.Tensor]]:
    jobs = [
        (side, min(_CHUNK, count - first), seed, first // _CHUNK, kinds)
        for first in range(0, count, _CHUNK)
    ]
    if workers <= 1 or len(jobs) == 1:
        return [_chunk(job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_chunk, jobs))


def _chunk(job: tuple[int, int, int, int, dict[str, float]]) -> dict[str, torch.Tensor]:
    side, count, seed, number, kinds = job
    rng = np.random.default_rng([seed, 0x53484152, number])
    drawn = [sharp_image(rng, side, kinds) for _ in range(count)]
    images = np.stack([image for image, _ in drawn])
    peak = images.max((1, 2))
    return {
        "image": torch.from_numpy((images / peak[:, None, None]).astype(np.float16)),
        "peak": torch.from_numpy(peak),
        "kind": torch.tensor([NAMES.index(kind) for _, kind in drawn], dtype=torch.uint8),
    }
