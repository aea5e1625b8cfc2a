"""Jobs: work that a run does with its sources, in workers and in this process."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from autofit_ml.images import Source
from autofit_ml.runs.summary import Progress

__all__ = ["Ahead", "Job", "Part", "RunSettings", "Task"]

Task = list[Source]
Part = TypeVar("Part")


class RunSettings(Protocol):
    """Settings that every run over images has."""

    @property
    def batch_size(self) -> int: ...
    @property
    def workers(self) -> int: ...


@dataclass(frozen=True)
class Job(Generic[Part]):
    """Work that is done with sources before their run goes on in the main process.

    Attributes
    ----------
    do : callable
        ``do(sources, settings)``: a module-level function; never raises for a bad object.
    joined : callable
        Several parts as one, in order.
    size : callable
        Objects of a part.
    failed : callable
        ``failed(source, message)``: the part of a source that killed its worker.
    in_parts : callable, optional
        ``in_parts(sources, settings, done)``: the same in parts of at most a batch, for very large
        sources, as pairs of the sources that end with a part and the part; objects whose ids are
        in `done` are left out.
    rest : callable, optional
        ``rest(part, settings)``: what workers make of such a part, a module-level function. None:
        it is what is wanted.
    one_by_one : callable, optional
        Parts of a single object each, of such a part, for the one that kills a worker.
    lost : callable, optional
        ``lost(part, message)``: what comes of such a part where it killed its worker.
    warm_up : callable, optional
        What workers do while this process still reads the first large source: imports.
    reads_only : bool
        No network runs in workers.
    per_task : int
        The most sources that a worker does at a time.
    complete : bool
        Nothing but saving is left to do with a part: each is given out by itself, and what workers
        are doing when the run is to stop is finished.
    """

    do: Callable[[Task, Any], Part]
    joined: Callable[[Sequence[Part]], Part]
    size: Callable[[Part], int]
    failed: Callable[[Source, str], Part]
    in_parts: Callable[[Task, Any, Collection[str]], Iterator[tuple[Task, Any]]] | None = None
    rest: Callable[[Any, Any], Part] | None = None
    one_by_one: Callable[[Any], Iterable[Any]] | None = None
    lost: Callable[[Any, str], Part] | None = None
    warm_up: Callable[[], object] | None = None
    reads_only: bool = False
    per_task: int = 16
    complete: bool = False


@dataclass(frozen=True)
class Ahead:
    """State of a run that reading ahead depends on.

    Attributes
    ----------
    stop : threading.Event
        Ends the iteration before the next batch.
    progress : Progress
    done : collection of str
        Ids of objects of unfinished frames that need no more work.
    partial : collection of str
        Ids of these frames, which are done in parts in this process.
    begun : callable
        Told of sources before they are read in this process.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)
    done: Collection[str] = ()
    partial: Collection[str] = ()
    begun: Callable[[Task], object] = lambda sources: None
