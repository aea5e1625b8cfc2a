"""Pictures of long searches: the best model so far of each object, every few minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_json, file_stem
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.report import thumbnail

__all__ = ["FOLDER", "Watch", "Watched"]

FOLDER = "progress"
"""Of the pictures, in the results folder."""


@dataclass(frozen=True)
class Watch:
    """Folder and rhythm of the pictures of a search.

    Attributes
    ----------
    folder : Path
        Results folder.
    seconds : float
        Between two pictures of an object.
    clock : callable
        Seconds.
    """

    folder: Path
    seconds: float
    clock: Callable[[], float] = time.monotonic

    def of(self, problem: SceneProblem, names: Sequence[str]) -> Watched:
        """Watch the search over a problem; `names` are its objects' ids."""
        return Watched(self, problem, tuple(names), self.clock())


@dataclass
class Watched:
    """A search that is watched: remembers the best point of each object.

    Attributes
    ----------
    watch : Watch
    problem : SceneProblem
    names : tuple of str
    begun : float
        When the search began.
    """

    watch: Watch
    problem: SceneProblem
    names: tuple[str, ...]
    begun: float
    evaluations: int = 0

    def __post_init__(self) -> None:
        self._due = self.begun + self.watch.seconds
        self._best = np.full(len(self.names), -np.inf)
        self._theta = np.full((len(self.names), self.problem.layout.size), np.nan)
        self._new: set[int] = set()

    def see(self, index: torch.Tensor, theta: torch.Tensor, value: torch.Tensor) -> None:
        """Take note of some points: objects (A,), theta (A, D), log density (A,)."""
        which, level = index.cpu().numpy(), value.detach().to("cpu", torch.float64).numpy()
        self.evaluations += len(which)
        level = np.where(np.isfinite(level), level, -np.inf)
        order = np.argsort(level)  # of several points of an object the best is put last
        at = np.full(len(self.names), -1)
        at[which[order]] = order
        better = np.flatnonzero(at >= 0)
        better = better[level[at[better]] > self._best[better]]
        self._best[better] = level[at[better]]
        if len(better):
            self._theta[better] = theta.detach().cpu().numpy()[at[better]]
            self._new.update(map(int, better))
        now = self.watch.clock()
        if now >= self._due:
            self._due = now + self.watch.seconds
            for k in sorted(self._new):
                self._draw(k, now)
            self._new.clear()

    def _draw(self, k: int, now: float) -> None:
        """The picture of object k, ``progress/<id>.jpg``, and its parameters beside it."""
        index = torch.tensor([k], device=self.problem.base.device)
        theta = torch.as_tensor(self._theta[k : k + 1], device=self.problem.base.device)
        image = self.problem.images[0].select(index)
        parts = self.problem.component_images(index, theta, 0)
        sky = self.problem.sky_image(index, theta, 0)
        model = torch.stack(parts).sum(0) + sky
        data, drawn, root = (_plane(one) for one in (image.data, model, image.root_weight))
        seen = root > 0
        sigma = np.where(seen, 1 / np.where(seen, root, 1.0), np.inf)
        picture = thumbnail(data, drawn, data - drawn, sigma, ~seen)
        base = self.watch.folder / FOLDER / file_stem(self.names[k])
        atomic_write_bytes(base.with_name(f"{base.name}.jpg"), picture, fsync=False)
        values = self.problem.layout.values(theta, self.problem.base[index], 0)
        about: dict[str, Any] = {
            "id": self.names[k],
            "log_density": float(self._best[k]),
            "evaluations": self.evaluations,
            "seconds": round(now - self.begun, 1),
            "parameters": {name: float(value) for name, value in values.items()},
        }
        atomic_write_json(base.with_name(f"{base.name}.json"), about, fsync=False)


def _plane(image: torch.Tensor) -> np.ndarray:
    """The plane of one object."""
    return image.detach().cpu().numpy().astype(np.float32).reshape(image.shape[-2:])
