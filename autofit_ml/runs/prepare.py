"""Sources from their files to starting values: read, then segmented and initialised."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from autofit_ml.errors import InputError, WeightsError
from autofit_ml.images import Frame, ReadResult, Source, Stamp
from autofit_ml.initialisation import Starts, initialise
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.frames import (
    Failure,
    FrameImages,
    Others,
    cut_objects,
    frame_images,
    naming,
    object_names,
    read_bands,
    told_of_bands,
    unexpected,
)
from autofit_ml.runs.identity import source_hashes
from autofit_ml.runs.jobs import Job
from autofit_ml.segmentation import Detections, Segmentation
from autofit_ml.segmentation.dispatch import detect_in_frame, segment_all
from autofit_ml.settings import FitSettings, SourceSettings

__all__ = [
    "READ",
    "Failure",
    "Objects",
    "Prepared",
    "failed",
    "pieces",
    "prepare",
    "prepare_objects",
    "read_in_parts",
    "read_objects",
    "with_sources",
    "without_stamps",
]


@dataclass(frozen=True)
class Objects:
    """Objects as they come from their files, in the order of the inputs.

    Attributes
    ----------
    items : list of (str, Stamp or Failure)
        A source's id and one of its objects.
    others : dict
        Id -> images in the further bands, where there are bands.
    hashes : dict
        File -> sha256.
    seconds : float
        Time spent.
    unfinished : frozenset
        Sources of which more objects follow.
    """

    items: list[tuple[str, Stamp | Failure]]
    others: Others = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    unfinished: frozenset[str] = frozenset()

    @property
    def order(self) -> list[str]:
        """Ids of all objects."""
        return [item.id for _, item in self.items]

    @property
    def stamps(self) -> list[Stamp]:
        """Stamps that could be read."""
        return [item for _, item in self.items if isinstance(item, Stamp)]

    @property
    def failures(self) -> list[Failure]:
        """The others."""
        return [item for _, item in self.items if isinstance(item, Failure)]

    @classmethod
    def joined(cls, parts: Sequence[Objects]) -> Objects:
        """Several parts as one, in order."""
        return cls(
            [item for part in parts for item in part.items],
            {name: images for part in parts for name, images in part.others.items()},
            {file: text for part in parts for file, text in part.hashes.items()},
            sum(part.seconds for part in parts),
            parts[-1].unfinished,
        )


@dataclass(frozen=True)
class Prepared:
    """A batch that is ready to be fitted.

    stamps, segmentations, starts: row by row the same object (starts is None when there are
    none); failures: the others; objects: source id -> ids of its objects, in order; hashes:
    file -> sha256; seconds: time spent; unfinished: sources of which more objects follow; others:
    id -> images in the further bands, where there are bands.
    """

    stamps: list[Stamp]
    segmentations: list[Segmentation]
    starts: Starts | None
    failures: list[Failure]
    objects: dict[str, list[str]]
    hashes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    unfinished: frozenset[str] = frozenset()
    others: Others = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Ids of all objects, in the order of the inputs."""
        return [name for names in self.objects.values() for name in names]


def read_objects(sources: Sequence[Source], settings: FitSettings) -> Objects:
    """Read the objects of some sources.

    Never raises for a bad object: it becomes a `Failure`. A frame becomes as many objects as are
    detected in it, called ``<frame>@<number>`` (no other id holds an ``@``).
    """
    return Objects.joined(list(read_in_parts(sources, settings)))


def read_in_parts(
    sources: Sequence[Source], settings: FitSettings, done: Collection[str] = ()
) -> Iterator[Objects]:
    """The same, at most ``settings.batch_size`` objects at a time: for large frames.

    Parameters
    ----------
    sources : sequence of Source
    settings : FitSettings
    done : collection of str
        Ids of objects that need no more work.
    """
    began = time.perf_counter()
    items: list[tuple[str, Stamp | Failure]] = []
    hashes: dict[str, str] = {}
    others: Others = {}
    for source in sources:
        for item in _stamps_of(source, settings, hashes, others):
            if item.id in done:
                others.pop(item.id, None)
                continue
            if len(items) == settings.batch_size:
                more = frozenset({source.id} & {name for name, _ in items})
                taken = {one.id: others.pop(one.id) for _, one in items if one.id in others}
                seconds = time.perf_counter() - began
                yield Objects(items, taken, dict(hashes), seconds, more)
                began, items = time.perf_counter(), []
            items.append((source.id, item))
    yield Objects(items, others, hashes, time.perf_counter() - began)


def with_sources(
    sources: Sequence[Source], settings: FitSettings, done: Collection[str]
) -> Iterator[tuple[list[Source], Objects]]:
    """`read_in_parts`, each part with the sources that end with it."""
    for part in read_in_parts(sources, settings, done):
        yield ([] if part.unfinished else list(sources)), part


def pieces(whole: Objects, size: int) -> Iterator[Objects]:
    """A batch in pieces of at most `size` objects, so that each can be saved by itself."""
    number = max(1, len(whole.items))
    for first in range(0, number, size):
        some, rest = whole.items[first : first + size], whole.items[first + size :]
        more = {source for source, _ in rest} if rest else whole.unfinished
        yield Objects(
            some,
            {one.id: whole.others[one.id] for _, one in some if one.id in whole.others},
            whole.hashes,
            whole.seconds * len(some) / number,
            frozenset({source for source, _ in some} & more),
        )


def prepare(sources: Sequence[Source], settings: FitSettings) -> Prepared:
    """Read, segment and initialise the objects of some sources."""
    return prepare_objects(read_objects(sources, settings), settings)


def prepare_objects(part: Objects, settings: FitSettings) -> Prepared:
    """Segment and initialise objects."""
    began = time.perf_counter()
    stamps: list[Stamp] = []
    segmentations: list[Segmentation] = []
    failures = part.failures
    objects: dict[str, list[str]] = {}
    for name, one in part.items:
        objects.setdefault(name, []).append(one.id)
    for item, segmentation in segment_all(
        part.stamps, settings.segmenter, settings.weights, settings.device
    ):
        if isinstance(segmentation, Exception):
            failures.append(_failure(item, segmentation))
        else:
            stamps.append(item)
            segmentations.append(segmentation)
    begun = list(_initialised(stamps, segmentations, settings))
    failures += [
        _failure(stamp, start)
        for stamp, start in zip(stamps, begun, strict=True)
        if isinstance(start, Exception)
    ]
    good = [i for i, start in enumerate(begun) if isinstance(start, Starts)]
    starts = [start for start in begun if isinstance(start, Starts)]
    stamps = [stamps[i] for i in good]
    return Prepared(
        stamps,
        [segmentations[i] for i in good],
        Starts.joined(starts) if starts else None,
        failures,
        objects,
        part.hashes,
        part.seconds + time.perf_counter() - began,
        part.unfinished,
        {stamp.id: part.others[stamp.id] for stamp in stamps if stamp.id in part.others},
    )


def _initialised(
    stamps: Sequence[Stamp], segmentations: Sequence[Segmentation], settings: FitSettings
) -> Iterator[Starts | Exception]:
    """Each stamp's start, or what went wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            starts = initialise(
                stamps,
                segmentations,
                settings.init,
                weights=settings.weights,
                device=settings.device,
            )
    except WeightsError:
        raise
    except Exception as error:  # one object must never cost the others
        if len(stamps) == 1:
            yield error
            return
        for stamp, segmentation in zip(stamps, segmentations, strict=True):
            yield from _initialised([stamp], [segmentation], settings)
        return
    for k in range(len(stamps)):
        yield starts.some([k])


def _failure(item: Stamp, error: Exception) -> Failure:
    if isinstance(error, InputError):
        return Failure(item.id, item.file, naming(error, item.file), item)
    return Failure(item.id, item.file, unexpected(error, item.file), item)


def failed(source: Source, message: str) -> Objects:
    """A source none of whose objects can be read."""
    failure = Failure(source.id, source.file, f"{source.file}: {message}")
    return Objects([(source.id, failure)], hashes=source_hashes(source))


def without_stamps(part: Objects, message: str) -> Objects:
    """Objects that cannot be fitted."""
    failures: list[tuple[str, Stamp | Failure]] = [
        (source, Failure(one.id, one.file, f"{one.file}: {message}")) for source, one in part.items
    ]
    return Objects(failures, {}, part.hashes, part.seconds, part.unfinished)


def _stamps_of(
    source: Source, settings: FitSettings, hashes: dict[str, str], others: Others
) -> Iterator[Stamp | Failure]:
    """The stamps of a source, or the reason why there are none; other bands go into `others`."""
    items = _read(source, settings, hashes, others)
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                item = next(items, None)
        except InputError as error:
            hashes.update(source_hashes(source))
            yield Failure(source.id, source.file, naming(error, source.file))
            return
        except Exception as error:  # one object must never cost the others
            hashes.update(source_hashes(source))
            yield Failure(source.id, source.file, unexpected(error, source.file))
            return
        if item is None:
            return
        yield item


def _read(
    source: Source, settings: FitSettings, hashes: dict[str, str], others: Others
) -> Iterator[Stamp | Failure]:
    result, *more = read_bands(source, settings.read, hashes)
    assert result is not None
    if isinstance(result.item, Frame):
        yield from _cut(result, settings, source, more, others)
        return
    stamp = result.item
    if more:
        others[stamp.id] = tuple(None if one is None else one.stamp for one in more)
        stamp = told_of_bands(stamp, source, others[stamp.id])
    yield stamp


def _cut(
    result: ReadResult,
    settings: FitSettings,
    source: Source,
    more: Sequence[ReadResult | None],
    others: Others,
) -> Iterator[Stamp | Failure]:
    """Stamps around everything that is detected in a frame, and the same of the other bands."""
    images = frame_images(result, more, settings.read)
    frame, found = _detected(images, source, settings)
    if len(found.sources) == 0:
        yield Failure(
            frame.id,
            frame.file,
            f"{frame.file}: nothing is detected in this frame "
            "(check the noise plane, or give positions with --manifest)",
        )
        return
    names = object_names(frame.id, len(found.sources))
    images = dataclasses.replace(images, frame=frame)
    yield from cut_objects(images, source, found, names, settings, others)


def _detected(
    images: FrameImages, source: Source, settings: FitSettings
) -> tuple[Frame, Detections]:
    """Detections in a frame, or in all bands with its pixels together; flags and messages."""
    frame, segmenter = images.frame, settings.segmenter
    bands = [source.band, *(other.band for other in source.others if other is not None)]
    frames = [frame, *filter(None, images.others)]
    known = [k for k, one in enumerate(frames) if one.psf is not None]
    if len(known) < 2 or known[0]:
        seeing = 3.0 if frame.psf is None else psf_fwhm(frame.psf)
        return detect_in_frame(frame, seeing, segmenter, settings.weights, settings.device)
    from autofit_ml.sources.infer import detect_together

    how = SourceSettings(
        segmenter=segmenter if segmenter in ("auto", "maskrcnn") else "sep",
        weights=settings.weights,
    )
    together = detect_together(
        [frames[k] for k in known], [bands[k] for k in known], how, settings.device
    )
    told = together.image
    return frame.replace(flags=told.flags, messages=told.messages), together.found


READ: Job[Objects] = Job(
    read_objects,
    Objects.joined,
    lambda part: len(part.items),
    failed,
    in_parts=with_sources,
    reads_only=True,
)
"""What workers do where the main process fits: networks, and the GPU, are left to that."""
