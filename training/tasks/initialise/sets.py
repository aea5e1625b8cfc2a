"""Sets of cut-outs for the initialising network: made where they are missing.

Three kinds of entries, all ending in the same file of tensors (`measure.FIELDS`):

- ``data``/``surveys``: simulated sets (`training.sets`), segmented as the pipeline would;
- ``endless``: batches of our own renderer, with footprints by construction;
- ``images``: a folder of real images, read and segmented by the pipeline.

Labels are the truth where a galaxy is one Sérsic profile, else what the refiner finds from there;
``known`` is False where there is none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from autofit_ml.catalogue.flags import FATAL
from autofit_ml.fitting import refine
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.cutouts import SCALARS, SIDE, cut_outs
from autofit_ml.initialisation.network import TARGETS, to_relative
from autofit_ml.initialisation.starts import Starts
from autofit_ml.measure import psf_fwhm
from autofit_ml.scenes import to_fit_space
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.segmentation.maskrcnn import segment_cut_out
from autofit_ml.simulation import SimulatedObject, read_objects, to_stamps
from training.memory import write_tensors
from training.sets import make_sets
from training.settings import Entry
from training.tasks.initialise.endless import endless_cut_outs
from training.tasks.initialise.measure import FIELDS, joined

__all__ = ["make_cutout_sets", "ranges_of"]

_CHUNK = 200
"""Images that are read and segmented together."""


def make_cutout_sets(entries: Sequence[Entry], root: str | Path, *, workers: int = 1) -> list[Path]:
    """Files of all entries, made first where they are missing.

    Parameters
    ----------
    entries : sequence of mapping
        See ``conf/experiment/initialise_*.yaml``. ``apart``: other galaxies for each of the
        surveys (its seed is one more than that of the survey before), not the same ones.
        ``target: found``, for a calibration: the instance that the pipeline takes for the target,
        right or wrong, of galaxies of one profile (a fit to others shares the image's noise).
    root : path
    workers : int
        Processes that simulate.
    """
    files: list[Path] = []
    for entry in entries:
        if "endless" in entry:
            files.append(_endless_set(entry, Path(root)))
        elif "images" in entry:
            files.append(_real_set(entry, Path(root)))
        else:
            for k, survey in enumerate(entry["surveys"]):
                seed = int(entry["seed"]) + (k if entry.get("apart") else 0)
                one = {**entry, "surveys": [survey], "seed": seed}
                (folder,) = make_sets([one], root, workers=workers)
                files.append(_simulated_set(one, folder))
    return files


# ------------------------------------------------------------------ simulated sets


def _simulated_set(entry: Entry, folder: Path) -> Path:
    choices = {
        "segmenters": entry.get("segmenters", {"given": 0.3, "sep": 0.3, "auto": 0.4}),
        "others": bool(entry.get("others", True)),
        "min_snr": float(entry.get("min_snr", 12.0)),
        **({"target": entry["target"]} if "target" in entry else {}),
    }
    path = folder / f"cutouts-{_digest(choices)}.safetensors"
    if path.exists():
        return path
    print(f"cutting out {path}", flush=True)
    rng = np.random.default_rng(int(entry["seed"]) + 7)
    names = list(choices["segmenters"])
    share = np.array([choices["segmenters"][name] for name in names], dtype=float)
    parts = []
    for first in range(0, int(entry["count"]), _CHUNK):
        objects = read_objects(folder, range(first, min(first + _CHUNK, int(entry["count"]))))
        how = rng.choice(len(names), size=len(objects), p=share / share.sum())
        for k, name in enumerate(names):
            some = [item for item, chosen in zip(objects, how, strict=True) if chosen == k]
            if some:
                parts += _cut_simulated(some, name, choices)
    return write_tensors(path, joined(parts))


def _cut_simulated(
    objects: Sequence[SimulatedObject], segmenter: str, choices: Mapping[str, Any]
) -> list[dict[str, torch.Tensor]]:
    as_found = choices.get("target") == "found"
    stamps = [
        stamp.replace(labels=item.labels, id=f"{item.id}@0")
        for stamp, item in zip(to_stamps(objects), objects, strict=True)
    ]
    if segmenter == "given":
        labels = [np.asarray(item.labels) for item in objects]
        taken = [1] * len(objects)
    else:
        bare = [stamp.replace(labels=None) for stamp in stamps]
        found = [result for _, result in segment_all(bare, segmenter)]
        labels = [
            result.labels if isinstance(result, Segmentation) else np.zeros(stamp.shape, np.int32)
            for result, stamp in zip(found, bare, strict=True)
        ]
        taken = [result.target if isinstance(result, Segmentation) else 0 for result in found]
    targets: list[Stamp] = []
    truth: list[tuple[float, ...]] = []
    exact: list[bool] = []
    snr: list[float] = []
    for item, stamp, own, target in zip(objects, stamps, labels, taken, strict=True):
        for k, row in enumerate(item.truth if choices["others"] else item.truth[:1]):
            if row["kind"] == "star" or row["snr"] < choices["min_snr"] or not row["flux"] > 0:
                continue
            single = row["kind"] == "sersic"
            # A fit over the whole image, for what stands at its border.
            if not single and (k or as_found):
                continue
            if as_found and k == 0:
                label = target
            else:
                label = _partner(own, item.labels == k + 1, row["x"], row["y"])
            if not label:
                continue
            targets.append(
                stamp.replace(labels=own, target_label=label, x=float(row["x"]), y=float(row["y"]))
            )
            n = row["n"] if single else 1.5
            truth.append(
                tuple(float(row[name]) for name in ("x", "y", "flux", "re"))
                + (float(n), max(float(row["q"]), 0.05), float(row["pa"]), float(item.sky))
            )
            exact.append(single)
            snr.append(float(row["snr"]))
    if not targets:
        return []
    segmentations = [segment_cut_out(stamp, "") for stamp in targets]
    values, known = np.array(truth), np.array(exact)
    composite = np.flatnonzero(~known)
    if len(composite):
        values[composite], known[composite] = _refined(
            [targets[i] for i in composite],
            [segmentations[i] for i in composite],
            values[composite],
        )
    return [_cut(targets, segmentations, values, known, np.array(snr))]


def _partner(labels: np.ndarray, true: np.ndarray, x: float, y: float) -> int:
    """The instance that stands for a source: it holds most of the source's mask or its centre."""
    size = int(true.sum())
    if size < 5:
        return 0
    inside = np.bincount(labels[true].ravel(), minlength=1)
    inside[0] = 0
    label = int(inside.argmax())
    if not inside[label]:
        return 0
    union = size + int((labels == label).sum()) - int(inside[label])
    return label if inside[label] > 0.4 * union else 0


def _refined(
    stamps: Sequence[Stamp], segmentations: Sequence[Segmentation], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit galaxies that are no single profile; return values, and whether the fits converged."""
    starts = Starts(values, None, np.zeros(len(values), dtype=np.int32))
    results = refine(stamps, starts=starts, segmentations=segmentations)
    good = ((results.flags & int(FATAL)) == 0) & np.isfinite(results.values).all(1)
    return np.where(good[:, None], results.values, values), good


def _cut(
    stamps: Sequence[Stamp],
    segmentations: Sequence[Segmentation],
    values: np.ndarray,
    known: np.ndarray,
    snr: np.ndarray,
) -> dict[str, torch.Tensor]:
    cut = cut_outs(stamps, segmentations)
    out = {
        name: torch.as_tensor(getattr(cut, name)).to(kind)
        for name, kind in FIELDS.items()
        if hasattr(cut, name)
    }
    target = to_relative(cut, to_fit_space(torch.as_tensor(values)))
    return {
        **out,
        "target": target.to(torch.float32),
        "known": torch.as_tensor(known),
        "snr": torch.as_tensor(snr, dtype=torch.float32),
    }


# ------------------------------------------------------------------ our own renderer


def _endless_set(entry: Entry, root: Path) -> Path:
    identity = {"endless": entry["endless"], "count": entry["count"], "seed": entry["seed"]}
    path = root / f"endless-{entry['count']}-{entry['seed']}-{_digest(identity)}.safetensors"
    if path.exists():
        return path
    print(f"rendering {path}", flush=True)
    return write_tensors(path, endless_cut_outs(entry, int(entry["seed"])))


# ------------------------------------------------------------------ real images


def _real_set(entry: Entry, root: Path) -> Path:
    """Every object that the pipeline finds in a folder: no labels, or those of an earlier fit.

    ``labels: fit`` takes the refiner's converged results as labels. ``part``: "val" is every
    eighth object, "train" the others.
    """
    from autofit_ml.images import read

    folder = Path(entry["images"])
    how = {name: entry.get(name) for name in ("labels", "options", "part")}
    how["images"] = str(folder.resolve())
    path = root / f"real-{folder.name}-{_digest(how)}.safetensors"
    if path.exists():
        return path
    print(f"cutting out {path}", flush=True)
    stamps = [item for item in read(folder, **entry.get("options", {})) if isinstance(item, Stamp)]
    part = entry.get("part")
    pairs = [
        (stamp, found)
        for k, (stamp, found) in enumerate(segment_all(stamps, "auto"))
        if (part is None or (k % 8 == 7) == (part == "val"))
        and isinstance(found, Segmentation)
        and found.target
    ]
    kept, segmentations = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    from autofit_ml.initialisation import start_from_moments

    values = start_from_moments(kept, segmentations).values
    known = np.zeros(len(kept), dtype=bool)
    if how["labels"] == "fit":
        values, known = _refined(kept, segmentations, values)
    cut = joined([_cut(kept, segmentations, values, known, np.full(len(kept), np.nan))])
    measured = {
        "pixel_scale": [stamp.pixel_scale for stamp in kept if np.isfinite(stamp.pixel_scale)],
        "psf_fwhm": [psf_fwhm(stamp.psf) for stamp in kept],
    }
    return write_tensors(path, cut, {name: _range(values) for name, values in measured.items()})


def ranges_of(path: Path) -> dict[str, list[float]]:
    """Pixel scales (arcsec) and FWHM (pixels) of a set of real images: smallest, largest."""
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}


def _range(values: Sequence[float]) -> str:
    return json.dumps([min(values), max(values)] if values else [])


# ------------------------------------------------------------------ files


def _digest(values: Mapping[str, Any]) -> str:
    layout = {"fields": list(FIELDS), "targets": list(TARGETS), "side": SIDE, "scalars": SCALARS}
    text = json.dumps({**layout, **values}, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
