"""Galaxies injected into empty places of a user's own images."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue import Flag, atomic_write_json, read_catalogue_arrow
from autofit_ml.errors import AutofitError, InputError
from autofit_ml.images import Frame, Source, Stamp, read_item
from autofit_ml.injection.stamps import PARAMETERS, emptied, empty_regions, light_of
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.summary import Progress
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import detect_in_frame, segment_all
from autofit_ml.settings import FitSettings, ReadOptions
from autofit_ml.simulation.files import write_planes

__all__ = ["inject_once"]

_TOGETHER = 32
_PER_FRAME = 64


Galaxy = dict[str, Any]
"""What is true of an injected galaxy."""


def inject_once(
    folder: Path,
    sources: Sequence[Source],
    settings: FitSettings,
    results: Path,
    names: Sequence[str],
    make: Callable[[int, Stamp, np.random.Generator], tuple[Stamp, Galaxy]],
    told: Progress,
    *,
    seed: int,
    most: int,
    keep_mask: bool = False,
) -> dict[str, Any]:
    """Write stamps with injected galaxies to ``injected/``; once for a folder.

    Parameters
    ----------
    folder : path
    sources : sequence of Source
    settings, results
        Of a run of these images: how they are read and segmented; its folder. The light of its
        galaxies is subtracted.
    names : sequence of str
        Ids of the galaxies.
    make : callable
        ``make(k, place, rng)``: an empty stamp with galaxy k in it, and what was injected.
    told : Progress
    seed : int
    most : int
        Places that are looked for, at most.
    keep_mask : bool
        Keep the masks of stamps.

    Returns
    -------
    dict
        ``truth``: a dict for each galaxy; ``places``, ``skipped``: numbers of stamps that galaxies
        were put into, and of images without empty sky; ``gain``: known everywhere.

    Raises
    ------
    InputError
        No empty sky.
    """
    record = folder / "injected.json"
    with contextlib.suppress(OSError, ValueError):  # else made anew: the same, from the same seed
        about: dict[str, Any] = json.loads(record.read_text("utf-8"))
        return about
    told.note("looking for empty sky")
    rng = np.random.default_rng(seed)
    rows = {row["id"]: row for row in read_catalogue_arrow(results).to_pylist()}
    places, skipped = _empty_places(sources, settings, most, rng, rows, told, keep_mask=keep_mask)
    if not places:
        raise InputError(
            f"no empty sky in {len(sources)} images",
            "larger cut-outs or frames are needed to inject galaxies",
            results,
        )
    told.note(f"injecting {len(names)} galaxies into {len(places)} empty stamps")
    truth = []
    for k, name in enumerate(names):
        place = places[k % len(places)]
        filled, galaxy = make(k, place, rng)
        built = bool(place.flags & int(Flag.SIGMA_ESTIMATED))
        write_planes(filled, folder / "injected", name, sigma=not built)
        truth.append(galaxy)
    gain = all(place.gain > 0 for place in places)
    about = {"truth": truth, "places": len(places), "skipped": skipped, "gain": gain}
    atomic_write_json(record, about)
    return about


def _empty_places(
    sources: Sequence[Source],
    settings: FitSettings,
    number: int,
    rng: np.random.Generator,
    rows: Mapping[str, Mapping[str, Any]],
    told: Progress,
    *,
    keep_mask: bool = False,
) -> tuple[list[Stamp], int]:
    """Empty stamps, and the number of images that had none; not many more than are needed.

    Parameters
    ----------
    sources : sequence of Source
    settings : FitSettings
        Of a run of these images: how they are read and segmented.
    number : int
        Of stamps that are wanted.
    rng : Generator
    rows : mapping
        Id -> row of that run's catalogue: the light of its galaxies is subtracted.
    told : Progress
    keep_mask : bool
        Keep the masks of stamps.
    """
    found: list[Stamp] = []
    skipped = 0
    order = [sources[k] for k in rng.permutation(len(sources))]
    for first in range(0, len(order), _TOGETHER):
        if len(found) >= number:
            break
        if first:
            told.stage(f"looking for empty sky: {len(found)} places in {first} images")
        stamps: list[Stamp] = []
        for item in _read(order[first : first + _TOGETHER], settings.read):
            if isinstance(item, Stamp):
                stamps.append(item)
                continue
            regions = _of_frame(item, settings, rng)
            found += regions
            skipped += not regions
        for stamp, segmentation in segment_all(
            stamps, settings.segmenter, settings.weights, settings.device
        ):
            empty = None
            if isinstance(segmentation, Segmentation):
                light = _light(stamp, rows.get(stamp.id))
                empty = emptied(stamp, segmentation, rng, light, keep_mask=keep_mask)
            if empty is None:
                skipped += 1
            else:
                found.append(empty)
    return found, skipped


def _read(sources: Sequence[Source], options: ReadOptions) -> Iterator[Stamp | Frame]:
    for source in sources:
        try:
            yield read_item(source, options)
        except AutofitError:
            continue  # its row of the run says why


def _light(stamp: Stamp, row: Mapping[str, Any] | None) -> np.ndarray | float:
    """Light of the galaxy that the run fitted; 0 without a usable row."""
    if row is None or not row["use"]:
        return 0.0
    galaxy = {name: float(row[name]) for name in PARAMETERS}
    galaxy["x"] -= stamp.origin[0]
    galaxy["y"] -= stamp.origin[1]
    return light_of(galaxy, stamp)


def _of_frame(frame: Frame, settings: FitSettings, rng: np.random.Generator) -> list[Stamp]:
    seeing = 3.0 if frame.psf is None else psf_fwhm(frame.psf)
    frame, detections = detect_in_frame(
        frame, seeing, settings.segmenter, settings.weights, settings.device
    )
    radius = float(np.median(detections.sources["radius"])) if len(detections.sources) else 10.0
    return empty_regions(frame, detections.labels, _PER_FRAME, radius, rng, settings.read)
