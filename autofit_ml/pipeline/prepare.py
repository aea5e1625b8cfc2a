"""One source from its files to starting values: what the worker processes do."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.images import Source, cut_stamps, read_source
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.initialise import Starts, initialise
from autofit_ml.pipeline.settings import FitSettings
from autofit_ml.segment import Segmentation, detect_sources, segment

__all__ = ["Failure", "Prepared", "ignore_interrupts", "prepare"]


@dataclass(frozen=True)
class Failure:
    """An object that cannot be fitted, and why."""

    id: str
    file: str
    message: str


@dataclass(frozen=True)
class Prepared:
    """A batch that is ready to be fitted.

    stamps, segmentations, starts: row by row the same object (starts is None when there are
    none); failures: the others; objects: source id -> ids of its objects, in order; hashes:
    file -> sha256; seconds: time spent.
    """

    stamps: list[Stamp]
    segmentations: list[Segmentation]
    starts: Starts | None
    failures: list[Failure]
    objects: dict[str, list[str]]
    hashes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def order(self) -> list[str]:
        """Ids of all objects, in the order of the inputs."""
        return [name for names in self.objects.values() for name in names]


def ignore_interrupts() -> None:
    """Worker processes leave Ctrl-C to the main process, which ends them in good order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def prepare(sources: Sequence[Source], settings: FitSettings) -> Prepared:
    """Read, segment and initialise the objects of some sources.

    Never raises for a bad object: it becomes a `Failure`. A frame becomes as many objects as are
    detected in it.
    """
    began = time.perf_counter()
    stamps: list[Stamp] = []
    segmentations: list[Segmentation] = []
    failures: list[Failure] = []
    objects: dict[str, list[str]] = {}
    hashes: dict[str, str] = {}
    values, flags = [], []
    for source in sources:
        objects[source.id] = []
        for item in _stamps_of(source, settings, hashes):
            objects[source.id].append(item.id)
            if isinstance(item, Failure):
                failures.append(item)
                continue
            try:
                segmentation = _segment(item, settings)
                start = initialise([item], [segmentation], settings.init)
            except InputError as error:
                failures.append(Failure(item.id, item.file, str(error)))
                continue
            except Exception as error:  # one object must never cost the others
                failures.append(Failure(item.id, item.file, _unexpected(error)))
                continue
            stamps.append(item)
            segmentations.append(segmentation)
            values.append(start.values)
            flags.append(start.flags)
    starts = None
    if stamps:
        starts = Starts(np.concatenate(values), None, np.concatenate(flags), settings.init)
    seconds = time.perf_counter() - began
    return Prepared(stamps, segmentations, starts, failures, objects, hashes, seconds)


def _stamps_of(source: Source, settings: FitSettings, hashes: dict[str, str]):
    """The stamps of a source, or the reason why there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = read_source(source, settings.read)
        hashes.update(result.hashes)
        if isinstance(result.item, Frame):
            yield from _cut(result.item, settings)
        else:
            yield result.item
    except InputError as error:
        yield Failure(source.id, source.file, str(error))
    except Exception as error:  # one object must never cost the others
        yield Failure(source.id, source.file, _unexpected(error))


def _cut(frame: Frame, settings: FitSettings):
    """Stamps around everything that is detected in a frame."""
    fwhm = 3.0
    if frame.psf is not None:
        area = 1.0 / float(np.square(frame.psf.data, dtype=np.float64).sum())
        fwhm = 2.3548 * math.sqrt(area / (4 * math.pi)) / frame.psf.oversampling
    found = detect_sources(frame, fwhm=fwhm)
    if len(found.sources) == 0:
        yield Failure(
            frame.id,
            frame.file,
            f"{frame.file}: nothing is detected in this frame "
            "(check the noise plane, or give positions with --manifest)",
        )
        return
    width = len(str(len(found.sources)))
    named = [
        {
            "id": f"{frame.id}_{i:0{width}d}",
            "x": float(row["x"]),
            "y": float(row["y"]),
            "radius": float(row["radius"]),
            "label": int(row["label"]),
        }
        for i, row in enumerate(found.sources, start=1)
    ]
    yield from cut_stamps(frame, named, settings.read)


def _segment(stamp: Stamp, settings: FitSettings) -> Segmentation:
    method = settings.segmenter
    if method == "auto":
        method = "given" if stamp.labels is not None else "sep"
    return segment(stamp, method)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error} (this is a bug: please report it with the file)"
