"""Sets of sharp galaxies for the deconvolution's prior: made where they are missing.

One safetensors file per set: noiseless stamps of unit flux as they look through the target PSF
(`autofit_ml.deconvolution.target.TARGET_FWHM`), drawn by GalSim with the sources of
`autofit_ml.simulation` at lower accuracy (2 % of a galaxy's light may fold back): point sources,
single profiles, bulges with discs, structured galaxies (arms, bars, knots, irregulars), pairs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autofit_ml.deconvolution.target import TARGET_FWHM, target_psf
from autofit_ml.simulation.draw import DrawAccuracy, draw_box
from autofit_ml.simulation.galaxies import draw_galaxy
from autofit_ml.simulation.recipe import Galaxies, Structure
from autofit_ml.simulation.sources import Source
from training.memory import write_tensors
from training.settings import Entry

__all__ = ["KINDS", "NAMES", "STRUCTURE", "SharpRecipe", "make_sharp_sets", "sharp_image"]

KINDS = {"point": 0.03, "sersic": 0.25, "bulge_disc": 0.22, "structured": 0.35, "pair": 0.15}
"""What is drawn, and how often, where an entry does not say."""

NAMES = (*KINDS, "group")
"""All that can be drawn; a group is several objects anywhere in the stamp."""

RE = (0.4, 16.0)
"""Half-light radii in pixels, where an entry does not say; of structured galaxies 2.5 at least."""

INSIDE = 0.85
"""Least share of the light that an image must hold, where an entry does not say."""

STRUCTURE = Structure(knot_fraction=(0.02, 0.3), bar_probability=0.4)
"""Of structured galaxies."""

_CHUNK = 500


@dataclass(frozen=True)
class SharpRecipe:
    """Recipe of the sharp images of a set.

    Attributes
    ----------
    side : int
        Pixels.
    kinds : tuple of (str, float)
        How often each of `NAMES` is drawn.
    re : tuple of float
        Smallest and largest half-light radius, pixels, log-uniform.
    inside : float
        Least share of the light that an image must hold. With less, large galaxies go on beyond
        the edge, as they do in stamps that are cut too small for them.
    """

    side: int
    kinds: tuple[tuple[str, float], ...] = tuple(KINDS.items())
    re: tuple[float, float] = RE
    inside: float = INSIDE

    @property
    def accuracy(self) -> DrawAccuracy:
        """Accuracy of the drawn light: 2 % of a galaxy may fold back."""
        return DrawAccuracy(folding=2e-2, margin=1.2, largest=math.ceil(12 * self.re[1]))

    def galaxies(self, kind: str) -> tuple[Galaxies, ...]:
        """Settings of which each galaxy takes one."""
        low, high = self.re
        return _galaxies(kind, max(low, 2.5) if kind == "structured" else low, high)

    def digest(self) -> str:
        """Eight characters for a file's name."""
        what: dict[str, Any] = {
            "kinds": dict(self.kinds),
            "fwhm": TARGET_FWHM,
            "inside": self.inside,
            "format": 1,
        }
        if self.re != RE:
            what["re"] = self.re
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


@functools.cache
def _galaxies(kind: str, low: float, high: float) -> tuple[Galaxies, ...]:
    def of(**changes: Any) -> Galaxies:
        settings = {"re": (low, high), "q": (0.15, 1.0), "structure": STRUCTURE, **changes}
        return Galaxies.model_validate({"morphology": {kind: 1.0}, **settings})

    if kind == "sersic":
        return of(n_distribution="population"), of(n=(0.5, 5.0))
    return (of(),)


def sharp_image(rng: np.random.Generator, recipe: SharpRecipe) -> tuple[np.ndarray, str]:
    """Draw one galaxy (pair, group) of unit flux, float32 (side, side); give its kind too."""
    names, share = zip(*recipe.kinds, strict=True)
    side = recipe.side
    while True:
        kind = str(rng.choice(names, p=share))
        x, y = (side - 1) / 2 + rng.uniform(-1, 1, 2)
        if kind == "pair":
            image, flux = _pair(rng, recipe, x, y)
        elif kind == "group":
            image, flux = _group(rng, recipe, x, y)
        else:
            source = _source(rng, recipe, kind, x, y)
            image, flux = _drawn_source(source, recipe), source.flux
        total = float(image.sum())
        if total > recipe.inside * flux:
            return (image / total).astype(np.float32), kind


def _drawn_source(source: Source, recipe: SharpRecipe) -> np.ndarray:
    shape = (recipe.side, recipe.side)
    return draw_box(source, target_psf(), (0, 0), shape, recipe.accuracy)


def _source(rng: np.random.Generator, recipe: SharpRecipe, kind: str, x: float, y: float) -> Source:
    if kind == "point":
        return Source(x, y, 1.0, 0.0, float("nan"))
    choices = recipe.galaxies(kind)
    settings = choices[int(rng.integers(len(choices)))]
    return draw_galaxy(rng, settings, 1.0, magnitude=21.0, flux=1.0, x=x, y=y)


def _pair(
    rng: np.random.Generator, recipe: SharpRecipe, x: float, y: float
) -> tuple[np.ndarray, float]:
    """A galaxy with a companion of a twentieth of its flux or more."""
    kinds = ("sersic", "bulge_disc", "structured")
    first = _source(rng, recipe, str(rng.choice(kinds)), x, y)
    reach = max(2.0, rng.uniform(0.5, 3.0) * first.re)
    reach, angle = min(reach, 0.35 * recipe.side), rng.uniform(0, 2 * np.pi)
    flux = float(np.exp(rng.uniform(np.log(0.05), 0)))
    kind = str(rng.choice(("point", *kinds)))
    x, y = x + reach * np.cos(angle), y + reach * np.sin(angle)
    second = _source(rng, recipe, kind, x, y).with_flux(flux)
    image = sum(_drawn_source(one, recipe) for one in (first, second))
    return np.asarray(image), 1.0 + flux


def _group(
    rng: np.random.Generator, recipe: SharpRecipe, x: float, y: float
) -> tuple[np.ndarray, float]:
    """Two to six objects, the brightest in the middle, others also over the stamp's edge."""
    kinds = ("sersic", "bulge_disc", "structured")
    members = [_source(rng, recipe, str(rng.choice(kinds)), x, y)]
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.uniform(-2, recipe.side + 1, 2)
        kind = str(rng.choice(("point", *kinds)))
        flux = float(np.exp(rng.uniform(np.log(0.01), 0)))
        members.append(_source(rng, recipe, kind, x, y).with_flux(flux))
    image = np.asarray(sum(_drawn_source(one, recipe) for one in members))
    # What lies outside is no light that is missing.
    return image, float(image.sum())


def make_sharp_sets(entries: Sequence[Entry], root: str | Path, *, workers: int = 1) -> list[Path]:
    """Files of all entries, made first where they are missing.

    Parameters
    ----------
    entries : sequence of mapping
        Each with ``sharp`` (the side), ``count``, ``seed`` and, where they are others, ``kinds``,
        ``re`` and ``inside`` (`SharpRecipe`).
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
        count, seed = int(entry["count"]), int(entry["seed"])
        recipe = _recipe(entry)
        path = Path(root) / f"sharp-{recipe.side}-{count}-{seed}-{recipe.digest()}.safetensors"
        if not path.exists():
            print(f"drawing {path}", flush=True)
            parts = _drawn(recipe, count, seed, workers)
            write_tensors(path, {key: torch.cat([one[key] for one in parts]) for key in parts[0]})
        files.append(path)
    return files


def _recipe(entry: Mapping[str, Any]) -> SharpRecipe:
    low, high = entry.get("re") or RE
    return SharpRecipe(
        side=int(entry["sharp"]),
        kinds=tuple((entry.get("kinds") or KINDS).items()),
        re=(float(low), float(high)),
        inside=float(entry.get("inside") or INSIDE),
    )


def _drawn(
    recipe: SharpRecipe, count: int, seed: int, workers: int
) -> list[dict[str, torch.Tensor]]:
    jobs = [
        (recipe, min(_CHUNK, count - first), seed, first // _CHUNK)
        for first in range(0, count, _CHUNK)
    ]
    if workers <= 1 or len(jobs) == 1:
        return [_chunk(job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_chunk, jobs))


def _chunk(job: tuple[SharpRecipe, int, int, int]) -> dict[str, torch.Tensor]:
    recipe, count, seed, number = job
    rng = np.random.default_rng([seed, 0x53484152, number])
    drawn = [sharp_image(rng, recipe) for _ in range(count)]
    images = np.stack([image for image, _ in drawn])
    peak = images.max((1, 2))
    return {
        "image": torch.from_numpy((images / peak[:, None, None]).astype(np.float16)),
        "peak": torch.from_numpy(peak),
        "kind": torch.tensor([NAMES.index(kind) for _, kind in drawn], dtype=torch.uint8),
    }
