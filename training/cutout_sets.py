"""Sets of cut-outs for the initialising network: made where they are missing.

python training/cutout_sets.py experiment=initialise_ground      # only make the sets

Three kinds of entries, all ending in the same file of tensors (`FIELDS`):

- ``data``/``surveys``: simulated sets (`training_sets`), segmented as the pipeline would;
- ``endless``: batches of our own renderer, with footprints by construction;
- ``images``: a folder of real images, read and segmented by the pipeline.

Labels are the truth where a galaxy is one Sérsic profile, else what the refiner finds from there;
``known`` is False where there is none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file

from autofit_ml.catalogue.flags import FATAL
from autofit_ml.fitting import refine
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.cutouts import PSF_SIDE, SIDE, cut_outs
from autofit_ml.initialisation.network import TARGETS, USUAL_LN_N, to_relative
from autofit_ml.initialisation.starts import Starts
from autofit_ml.measure import psf_fwhm
from autofit_ml.scenes import to_fit_space
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.segmentation.maskrcnn import segment_cut_out
from autofit_ml.simulation import (
    EndlessSersic,
    EndlessSettings,
    SimulatedObject,
    read_objects,
    to_stamps,
)
from autofit_ml.weights.settings import tuples
from training_sets import make_sets

__all__ = [
    "FIELDS",
    "centroids",
    "endless_cut_outs",
    "make_cutout_sets",
    "ranges_of",
    "scalars_of",
]

FIELDS: dict[str, torch.dtype] = {
    "data": torch.float16,
    "root_weight": torch.float16,
    "footprint": torch.bool,
    "psf": torch.float16,
    "scalars": torch.float32,
    "flux": torch.float32,
    "radius": torch.float32,
    "centre": torch.float32,
    "target": torch.float32,
    "known": torch.bool,
    "snr": torch.float32,
}
"""As in `autofit_ml.initialisation.cutouts.Cutouts`, and ``target`` (B, 7): relative parameters."""

_CHUNK = 200
"""Images that are read and segmented together."""


def make_cutout_sets(
    entries: Sequence[Mapping[str, Any]], root: str | Path, *, workers: int = 1
) -> list[Path]:
    """Files of all entries, made first where they are missing.

    Parameters
    ----------
    entries : sequence of mapping
        See ``conf/experiment/initialise_*.yaml``. ``apart``: other galaxies for each of the
        surveys (its seed is one more than that of the survey before), not the same ones.
    root : path
    workers : int
        Processes that simulate.
    """
    files: list[Path] = []
    for given in entries:
        entry = _plain(given)
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


def _plain(values: Any) -> dict[str, Any]:
    if isinstance(values, DictConfig):
        values = OmegaConf.to_container(values, resolve=True)
    return dict(values)


# ------------------------------------------------------------------ simulated sets


def _simulated_set(entry: Mapping[str, Any], folder: Path) -> Path:
    choices = {
        "segmenters": entry.get("segmenters", {"given": 0.3, "sep": 0.3, "auto": 0.4}),
        "others": bool(entry.get("others", True)),
        "min_snr": float(entry.get("min_snr", 12.0)),
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
                parts += _cut_simulated(some, name, choices["others"], choices["min_snr"])
    return _write(path, _joined(parts))


def _cut_simulated(
    objects: Sequence[SimulatedObject], segmenter: str, others: bool, min_snr: float
) -> list[dict[str, torch.Tensor]]:
    stamps = [
        stamp.replace(labels=item.labels, id=f"{item.id}@0")
        for stamp, item in zip(to_stamps(objects), objects, strict=True)
    ]
    if segmenter == "given":
        labels = [np.asarray(item.labels) for item in objects]
    else:
        bare = [stamp.replace(labels=None) for stamp in stamps]
        found = [result for _, result in segment_all(bare, segmenter)]
        labels = [
            result.labels if isinstance(result, Segmentation) else np.zeros(stamp.shape, np.int32)
            for result, stamp in zip(found, bare, strict=True)
        ]
    targets: list[Stamp] = []
    truth: list[tuple[float, ...]] = []
    exact: list[bool] = []
    snr: list[float] = []
    for item, stamp, own in zip(objects, stamps, labels, strict=True):
        for k, row in enumerate(item.truth if others else item.truth[:1]):
            if row["kind"] == "star" or row["snr"] < min_snr or not row["flux"] > 0:
                continue
            single = row["kind"] == "sersic"
            if k and not single:  # a fit over the whole image, for what stands at its border
                continue
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
    """What the refiner makes of galaxies that are no single profile, and whether it converged."""
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


def _endless_set(entry: Mapping[str, Any], root: Path) -> Path:
    identity = {"endless": entry["endless"], "count": entry["count"], "seed": entry["seed"]}
    path = root / f"endless-{entry['count']}-{entry['seed']}-{_digest(identity)}.safetensors"
    if path.exists():
        return path
    print(f"rendering {path}", flush=True)
    return _write(path, endless_cut_outs(entry, int(entry["seed"])))


def endless_cut_outs(
    entry: Mapping[str, Any], seed: int, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Cut-outs of an endless entry: objects that fill the square as `cut_outs` would let them.

    Parameters
    ----------
    entry : mapping
        ``endless``: fields of `EndlessSettings`; ``count``.
    seed : int
    device : torch.device or str
        Where they are drawn; the result is on the host.
    """
    settings = EndlessSettings(shape=(SIDE, SIDE), psf_size=PSF_SIDE, **tuples(entry["endless"]))
    source = EndlessSersic(settings, 128, seed=seed, device=device)
    parts, count, step = [], 0, 0
    while count < int(entry["count"]):
        part = _cut_endless(source.batch(step))
        parts.append(part)
        count += len(part["known"])
        step += 1
    return {name: plane[: int(entry["count"])] for name, plane in _joined(parts).items()}


def _cut_endless(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`cut_outs` for a batch of stamps that are already as large as the square."""
    rms = batch["sky_rms"][:, None, None]
    data = (batch["image"] - batch["sky"][:, None, None]) / rms
    root_weight = rms / batch["sigma"]
    footprint = batch["labels"] == 1
    others = (batch["labels"] > 1).to(data.dtype)[:, None]
    grown = torch.nn.functional.max_pool2d(others, 3, 1, 1)[:, 0] > 0
    masked = grown & ~footprint
    data, root_weight = data.masked_fill(masked, 0.0), root_weight.masked_fill(masked, 0.0)
    centre = centroids(torch.where(footprint, data, 0.0).clamp_min(0.0), footprint)
    fwhm = batch["psf_fwhm"].clamp_min(1.0)
    radius = torch.maximum((footprint.sum((1, 2)) / torch.pi).sqrt(), fwhm / 2)
    # What is larger is binned, what is not detected has no footprint.
    usual = (radius <= 0.375 * SIDE) & (footprint.sum((1, 2)) >= 5)
    target = batch["fit"][:, 0].clone()
    target[:, :2] -= centre
    flux = torch.where(footprint, data, 0.0).sum((1, 2)).clamp_min(1.0)
    target[:, 2] -= (flux * batch["sky_rms"]).log()
    target[:, 3] -= (0.5 * radius).log()
    target[:, 4] -= USUAL_LN_N
    out = {
        "data": data,
        "root_weight": root_weight,
        "footprint": footprint,
        "psf": batch["psf"],
        "scalars": scalars_of(data, root_weight, footprint, flux, radius, fwhm),
        "flux": flux,
        "radius": radius,
        "centre": centre,
        "target": target,
        "known": torch.ones_like(usual),
        "snr": batch["snr"][:, 0],
    }
    return {name: plane[usual].to("cpu", FIELDS[name]) for name, plane in out.items()}


def scalars_of(
    data: torch.Tensor,
    root_weight: torch.Tensor,
    footprint: torch.Tensor,
    flux: torch.Tensor,
    radius: torch.Tensor,
    fwhm: torch.Tensor,
) -> torch.Tensor:
    """`autofit_ml.initialisation.cutouts.SCALARS`, (B, 5)."""
    number = footprint.sum((1, 2)).clamp_min(1)
    peak = data.masked_fill(root_weight == 0, 1.0).amax((1, 2))
    columns = [
        radius.log(),
        fwhm.log(),
        (flux / number.sqrt()).clamp_min(1.0).log(),
        peak.clamp_min(1.0).log(),
        torch.ones_like(radius),
    ]
    return torch.stack([column.to(torch.float32) for column in columns], dim=1)


def centroids(light: torch.Tensor, footprint: torch.Tensor) -> torch.Tensor:
    """(x, y) of the brighter half of the light, or of the footprint where there is none, (B, 2)."""
    smooth = torch.nn.functional.avg_pool2d(light[:, None], 3, 1, 1)[:, 0]
    weight = torch.where(smooth > 0.5 * smooth.amax((1, 2), keepdim=True), light, 0.0)
    empty = weight.sum((1, 2), keepdim=True) <= 0
    weight = torch.where(empty, footprint.to(light.dtype), weight)
    total = weight.sum((1, 2)).clamp_min(1e-12)
    pixels = torch.arange(SIDE, dtype=light.dtype, device=light.device)
    x = (weight.sum(1) * pixels).sum(1) / total
    y = (weight.sum(2) * pixels).sum(1) / total
    return torch.stack([x, y], dim=1)


# ------------------------------------------------------------------ real images


def _real_set(entry: Mapping[str, Any], root: Path) -> Path:
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
    cut = _joined([_cut(kept, segmentations, values, known, np.full(len(kept), np.nan))])
    measured = {
        "pixel_scale": [stamp.pixel_scale for stamp in kept if np.isfinite(stamp.pixel_scale)],
        "psf_fwhm": [psf_fwhm(stamp.psf) for stamp in kept],
    }
    return _write(path, cut, {name: _range(values) for name, values in measured.items()})


def ranges_of(path: Path) -> dict[str, list[float]]:
    """Pixel scales (arcsec) and FWHM (pixels) of a set of real images: smallest, largest."""
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}


def _range(values: Sequence[float]) -> str:
    return json.dumps([min(values), max(values)] if values else [])


# ------------------------------------------------------------------ files


def _joined(parts: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    parts = list(parts)
    if not parts:
        raise SystemExit("a set has no object to learn from")
    tensors = {name: torch.cat([part[name] for part in parts]) for name in FIELDS}
    # Cores beyond the range of half precision are left out.
    finite = torch.isfinite(tensors["target"]).all(1)
    finite &= torch.isfinite(tensors["data"]).flatten(1).all(1)
    return {name: plane[finite].contiguous() for name, plane in tensors.items()}


def _write(
    path: Path, tensors: dict[str, torch.Tensor], about: dict[str, str] | None = None
) -> Path:
    # Cores beyond the range of half precision are left out.
    finite = torch.isfinite(tensors["target"]).all(1) & torch.isfinite(tensors["data"]).all(2).all(
        1
    )
    tensors = {name: plane[finite].contiguous() for name, plane in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata=about)
    temporary.replace(path)
    return path


def _digest(values: Mapping[str, Any]) -> str:
    layout = {"fields": list(FIELDS), "targets": list(TARGETS), "side": SIDE}
    text = json.dumps({**layout, **values}, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def main() -> None:
    """Make the sets of an experiment."""
    from settings import compose

    config = compose(sys.argv[1:])
    for part in ("train", "val"):
        for file in make_cutout_sets(
            config.sets[part], config.sets.folder, workers=config.sets.workers
        ):
            print(file)


if __name__ == "__main__":
    main()
