"""`plan_run`: what a run would read and fit, and how long it would take.

In: the arguments of `fit_run`. Out: a `RunPlan`. Nothing is written where the results would go; a
few objects are fitted in a temporary folder to see how long one takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.errors import AutofitError
from autofit_ml.images import Discovery, Source
from autofit_ml.images.fitsfile import list_hdus
from autofit_ml.runs.fit import fit_found, fit_identity, fit_inputs
from autofit_ml.runs.folder import saved_state
from autofit_ml.runs.identity import source_fingerprints
from autofit_ml.runs.kinds import FITTED
from autofit_ml.runs.summary import Progress
from autofit_ml.settings import FitSettings, Paths

__all__ = ["RunPlan", "plan_run"]

_LARGEST = 1024 * 1024
"""Images of more pixels are not tried: they may be frames of hundreds of objects."""


@dataclass(frozen=True)
class RunPlan:
    """Plan of a run: what it would do.

    Attributes
    ----------
    sources : int
        Objects, or frames whose objects are not known before they are segmented.
    done : int
        Of these, finished by an earlier run in the same results folder.
    bands : tuple of str
        Fitted together; empty: every image is an object.
    planes : dict
        Plane ("image", "noise", "psf", "mask", "seg") -> number of sources that bring it.
    large : int
        Sources of over a million pixels (or frames by their survey or by ``mode``).
    problems : dict
        Source -> why it cannot be read, as far as names and headers tell.
    ignored : tuple of (Path, str)
        Files that are no images.
    model : str
        As `print` shows the scene.
    weights : tuple of str
        Bundles that may be used.
    folder : str
        What is in the results folder: "new", "continues", or why it is refused.
    tried, failed : int
        Objects that were fitted to find out, and those of them that failed.
    messages : dict
        What the tried objects' rows said -> how often.
    seconds : float
        Expected for what is left to do; NaN where nothing could be tried.
    """

    sources: int
    done: int
    bands: tuple[str, ...]
    planes: dict[str, int]
    large: int
    problems: dict[str, str]
    ignored: tuple[tuple[Path, str], ...]
    model: str
    weights: tuple[str, ...]
    folder: str
    tried: int = 0
    failed: int = 0
    messages: dict[str, int] = field(default_factory=dict)
    seconds: float = float("nan")

    @property
    def todo(self) -> int:
        """Sources that are left to do."""
        return self.sources - self.done

    @property
    def refused(self) -> bool:
        """True if the run would stop before it begins."""
        return self.folder not in ("new", "continues")


def plan_run(
    paths: Paths,
    out: str | Path | None = None,
    settings: FitSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    sample: int = 12,
) -> RunPlan:
    """Say what `fit_run` would do with the same arguments.

    Parameters
    ----------
    paths, out, settings, manifest, restart
        As of `fit_run`.
    sample : int
        Objects to fit to find out how long one takes; 0: none.

    Raises
    ------
    SettingsError, WeightsError
        What `fit_run` would refuse before it begins, but for the results folder.
    """
    from autofit_ml.runs.model import run_model

    settings = settings or FitSettings()
    found = fit_inputs(paths, manifest, settings)
    identity, used = fit_identity(settings, found, Progress())
    folder, done = _results(out, identity, found, restart)
    large = [source for source in found.sources if _is_large(source)]
    plan = RunPlan(
        sources=len(found),
        done=len(done),
        bands=found.bands,
        planes=_planes(found.sources),
        large=len(large),
        problems={s.id: str(s.problem) for s in found.sources if s.problem is not None},
        ignored=found.ignored,
        model=str(run_model(settings, found.bands).scene),
        weights=tuple(sorted(used)),
        folder=folder,
    )
    left = [s for s in found.sources if s.id not in done and s.problem is None and s not in large]
    if not left or sample < 1 or plan.refused:
        return plan
    return _tried(plan, _spread(left, sample + 1), settings, identity, found)


def _results(
    out: str | Path | None, identity: dict, found: Discovery, restart: bool
) -> tuple[str, set[str]]:
    """Look into the results folder without touching it."""
    if out is None or restart or not Path(out).exists():
        return "new", set()
    try:
        state = saved_state(out, FITTED, identity, source_fingerprints(found.sources))
    except AutofitError as error:
        return str(error), set()
    return ("new", set()) if state is None else ("continues", state)


def _planes(sources: Sequence[Source]) -> dict[str, int]:
    noise = {"sigma", "var", "ivar", "wht", "noise"}
    count: Counter[str] = Counter()
    for source in sources:
        count.update({"noise" if name in noise else name for name in source.planes})
    order = ("image", "noise", "psf", "mask", "seg")
    return {name: count[name] for name in order if count[name]}


def _is_large(source: Source) -> bool:
    if source.problem is not None or "image" not in source.planes:
        return False
    if source.kind is not None:
        return source.kind == "frame" and "x" not in source.overrides
    path, number = source.planes["image"]
    with contextlib.suppress(AutofitError, OSError):
        for info in list_hdus(path):
            if len(info.shape) >= 2 and (number is None or info.index == number):
                return int(np.prod(info.shape[-2:])) > _LARGEST
    return False


def _spread(sources: Sequence[Source], number: int) -> list[Source]:
    """Some of the sources, evenly over the list."""
    places = np.unique(np.linspace(0, len(sources) - 1, min(number, len(sources))).astype(int))
    return [sources[k] for k in places]


def _tried(
    plan: RunPlan,
    some: Sequence[Source],
    settings: FitSettings,
    identity: dict,
    found: Discovery,
) -> RunPlan:
    """The plan with what fitting some objects tells."""
    # The first object pays for imports and tables; with one object only it has to count itself.
    parts = [some[:1], some[1:]] if len(some) > 1 else [some, some]
    messages: Counter[str] = Counter()
    failed, seconds = 0, float("nan")
    quick = settings.replace(workers=0)
    for part in parts:
        told = _Rows()
        tried = dataclasses.replace(found, sources=tuple(part))
        with tempfile.TemporaryDirectory(prefix="autofit-ml-") as folder:
            began = time.perf_counter()
            fit_found(tried, folder, quick, identity, told)
            seconds = (time.perf_counter() - began) / len(part)
        failed = sum(int((one["status"] == "failed").sum()) for one in told.rows)
        messages = Counter(text for one in told.rows for text in one["message"] if text)
    small = plan.todo - plan.large - len(plan.problems)
    return dataclasses.replace(
        plan,
        tried=len(parts[-1]),
        failed=failed,
        messages=dict(messages.most_common()),
        seconds=seconds * max(small, 0),
    )


class _Rows(Progress):
    """Keeps the rows of every batch."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def batch(self, n_sources: int, rows: Mapping[str, Any]) -> None:
        """After a batch."""
        self.rows.append(rows)
