"""Output of a run: pictures and files of its objects, shards, catalogue, run.json."""

from __future__ import annotations

import json
import math
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

from autofit_ml.catalogue import (
    BandPlanes,
    Flag,
    atomic_write_bytes,
    atomic_write_figure,
    atomic_write_json,
    band_suffix,
    file_stem,
    merge_shards,
    object_fits_bytes,
    write_shard,
)
from autofit_ml.catalogue.arrow import numpy_values
from autofit_ml.images import Source, Stamp
from autofit_ml.report import THUMBNAIL_FOLDER, BandPicture, preview_png, thumbnail
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identifier
from autofit_ml.runs.kinds import RUN_FILE
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import ObjectFit
from autofit_ml.runs.pictured import Pictured
from autofit_ml.runs.prepare import Failure, Prepared
from autofit_ml.segmentation import Segmentation
from autofit_ml.settings import FitSettings

if TYPE_CHECKING:
    from autofit_ml.posterior.scenes import ScenePosterior
    from autofit_ml.runs.fitted import Fitted

__all__ = ["save_pictures", "save_shard", "version", "write_catalogue"]

_MOST_PIXELS = 4096**2
"""Larger images of failed objects are not drawn."""

_VERSIONS = (
    *("autofit-ml", "torch", "numpy", "scipy", "astropy", "sep", "photutils", "pyarrow"),
    *("matplotlib", "pillow"),
)


def save_pictures(
    folder: Path,
    prepared: Prepared,
    fitted: Mapping[str, ObjectFit],
    rows: dict[str, np.ndarray],
    model: RunModel,
    settings: FitSettings,
) -> None:
    """Write the FITS file, the preview and the thumbnail of every object of a batch."""
    import torch

    place = {name: i for i, name in enumerate(prepared.order)}
    kinds = set(settings.save)

    def save(stamp: Stamp, segmentation: Segmentation) -> None:
        i = place[stamp.id]
        row = {name: column[i] for name, column in rows.items() if column.ndim == 1}
        images = (stamp, *prepared.others.get(stamp.id, ()))
        _save_object(folder, images, segmentation, fitted[stamp.id], model, row, kinds)

    for failure in prepared.failures:
        i = place[failure.id]
        row = {name: column[i] for name, column in rows.items() if column.ndim == 1}
        _save_failure(folder, failure, row, kinds)
    for stamp in prepared.stamps:
        posterior = fitted[stamp.id].posterior
        if posterior is not None:
            _save_posterior(folder, stamp.id, posterior, fitted[stamp.id].model)
    # Half of the time is spent in what lets other threads run: compression, numpy, the disk.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # one in a worker process
        list(pool.map(save, prepared.stamps, prepared.segmentations))


def _save_posterior(folder: Path, name: str, posterior: ScenePosterior, model: str) -> None:
    """``posterior/<id>.nc`` (ArviZ InferenceData) and a corner plot of the target beside it."""
    from autofit_ml.posterior import corner_figure, to_inference_data, write_inference_data

    attributes = {"id": name, "model": model}
    if np.isfinite(posterior.log_evidence):
        attributes["log_evidence"] = str(posterior.log_evidence)
        attributes["log_evidence_err"] = str(posterior.log_evidence_err)
    data = to_inference_data(
        posterior.samples, 0, posterior.names, attributes, values=posterior.draws
    )
    target = folder / "posterior"
    target.mkdir(exist_ok=True)
    stem = file_stem(name)
    write_inference_data(data, target, stem)
    flat = posterior.draws.reshape(-1, len(posterior.names))
    flat = flat[np.isfinite(flat).all(1)]
    shown = [
        k
        for k, parameter in enumerate(posterior.names)
        if not parameter.startswith("neighbour_") and np.ptp(flat[:, k]) > 0
    ]
    figure = corner_figure(flat[:, shown], [posterior.names[k] for k in shown])
    atomic_write_figure(target / f"{stem}.png", figure, dpi=80)


def _save_object(
    folder: Path,
    images: Sequence[Stamp | None],
    segmentation: Segmentation,
    fit: ObjectFit,
    run: RunModel,
    row: dict[str, Any],
    kinds: set[str],
) -> None:
    bands = {
        band: Pictured.of(stamp, fit, k)
        for k, (band, stamp) in enumerate(zip(run.bands, images, strict=True))
        if stamp is not None
    }
    one = bands.pop(run.bands[0])
    stamp, drawn, mask = one.stamp, one.drawn, one.mask
    stem = file_stem(stamp.id)
    # Not synced to the disk one by one: the shard, written after them, is what a resumed run
    # relies on, and these can be made again.
    if "objects" in kinds:
        payload = object_fits_bytes(
            data=stamp.data,
            sigma=stamp.sigma,
            mask=mask,
            row=row,
            columns=run.columns,
            model=one.model,
            residual=one.residual,
            labels=segmentation.labels,
            target=segmentation.target,
            classes=segmentation.classes,
            components=[] if drawn is None else drawn.components,
            neighbours=None if drawn is None else drawn.neighbours,
            bands={
                band: BandPlanes(other.planes, other.stamp.wcs, other.stamp.origin)
                for band, other in bands.items()
            },
            wcs=stamp.wcs,
            origin=stamp.origin,
        )
        atomic_write_bytes(folder / "objects" / f"{stem}.fits", payload, fsync=False)
    if "previews" in kinds:
        picture = preview_png(
            stamp.data,
            one.model,
            one.residual,
            stamp.sigma,
            mask,
            segmentation.labels,
            segmentation.target,
            row,
            stamp.pixel_scale,
            origin=stamp.origin,
            classes=segmentation.classes,
            band=run.bands[0],
            more=[_band_picture(band, other, row) for band, other in bands.items()],
            light=None if drawn is None else np.sum(drawn.components, axis=0),
            psf=None if stamp.psf.source == "none" else stamp.psf,
            wcs=stamp.wcs,
            zeropoint=stamp.zeropoint,
        )
        atomic_write_bytes(folder / "previews" / f"{stem}.png", picture, fsync=False)
    if "report" in kinds:
        planes = (stamp.data, one.model, one.residual, stamp.sigma, mask)
        small = thumbnail(*planes, sky=float(row["sky"]))
        atomic_write_bytes(folder / THUMBNAIL_FOLDER / f"{stem}.jpg", small, fsync=False)


def _save_failure(folder: Path, failure: Failure, row: dict[str, Any], kinds: set[str]) -> None:
    """Pictures of the data of an object without a fit, where its image can be read."""
    if not kinds & {"previews", "report"}:
        return
    stamp = failure.stamp
    if stamp is None:
        data = _readable_image(Path(failure.file))
        if data is None:
            return
        sigma = mask = wcs = None
        origin, scale = (0, 0), math.nan
    else:
        data, sigma, mask, wcs = stamp.data, stamp.sigma, stamp.mask, stamp.wcs
        origin, scale = stamp.origin, stamp.pixel_scale
    stem = file_stem(failure.id)
    planes = (data, None, None, sigma, mask)
    if "previews" in kinds:
        picture = preview_png(*planes, None, 0, row, scale, origin=origin, wcs=wcs)
        atomic_write_bytes(folder / "previews" / f"{stem}.png", picture, fsync=False)
    if "report" in kinds:
        atomic_write_bytes(
            folder / THUMBNAIL_FOLDER / f"{stem}.jpg", thumbnail(*planes), fsync=False
        )


def _readable_image(path: Path) -> np.ndarray | None:
    """The first image of a FITS file, whatever else is wrong with it; None where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path) as hdus:
                for hdu in hdus:
                    shape = getattr(hdu, "shape", ())
                    if hdu.is_image and len(shape) == 2 and 0 < math.prod(shape) <= _MOST_PIXELS:
                        return np.asarray(hdu.data, dtype=np.float32)
    except Exception:  # the row says what is wrong with the file; here it has no picture
        return None
    return None


def _band_picture(band: str, one: Pictured, row: Mapping[str, Any]) -> BandPicture:
    stamp = one.stamp
    sky = float(row.get(f"sky{band_suffix(band)}", math.nan))
    return BandPicture(band, stamp.data, one.model, one.residual, stamp.sigma, one.mask, sky)


def save_shard(
    folder: RunFolder,
    part: Fitted,
    model: RunModel,
    identity: dict[str, Any],
) -> None:
    """Save the rows of some sources: they count as done."""
    columns = (part.rows[name] for name in ("id", "status", "message"))
    failed = {
        str(name): str(why)
        for name, status, why in zip(*columns, strict=True)
        if status == "failed"
    }
    about = {"autofit_ml": str(identity["autofit_ml"]), "settings": json.dumps(identity)}
    folder.save(
        lambda shard: write_shard(shard, part.rows, about, model.columns),
        part.objects,
        hashes=part.hashes,
        failures={
            name: failed[ids[0]]
            for name, ids in part.objects.items()
            if ids and failed.keys() >= set(ids)
        },
        unfinished=sorted(part.unfinished),
    )


def write_catalogue(
    folder: RunFolder,
    sources: Sequence[Source],
    settings: FitSettings,
    identity: dict[str, Any],
    weights: dict[str, str],
    began: float,
    device: str | None,
) -> pa.Table:
    """Merge the shards into the catalogue and write run.json.

    Parameters
    ----------
    folder : RunFolder
        Every source is in it.
    sources : sequence of Source
        In the order of the catalogue.
    settings : FitSettings
    identity : dict
        From `autofit_ml.runs.fit.fit_identity`.
    weights : dict
        Bundle -> sha256 of its weights, of those that the run could use.
    began : float
        ``time.perf_counter()`` at the beginning of this call.
    device : str or None
        None when nothing was left to fit.
    """
    hashes: dict[str, str] = {}
    for journal in folder.journals:
        hashes.update(journal["hashes"])
    order = [name for source in sources for name in folder.done.get(source.id, ())]
    table = merge_shards(folder.shards, folder.path, order)
    if settings.posterior != "laplace":
        from autofit_ml.posterior.summary import write_summary

        write_summary(folder.path, table.column("id").to_pylist())
    status = table.column("status").to_pylist()
    flags = numpy_values(table.column("flags"))
    atomic_write_json(
        folder.path / RUN_FILE,
        {
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in _VERSIONS},
            },
            "identifiers": _identifiers(table, identity),
            "settings": identity,
            "execution": {
                "device": device,
                "batch_size": settings.batch_size,
                "workers": settings.workers,
                "platform": platform.platform(),
            },
            "weights": weights,
            "inputs": dict(sorted(hashes.items())),
            "counts": {
                "objects": len(status),
                "failed": status.count("failed"),
                "flags": {
                    flag.name: int(((flags & int(flag)) != 0).sum())
                    for flag in Flag
                    if (flags & int(flag)).any()
                },
            },
            "timings": {
                "object_seconds": float(np.nansum(numpy_values(table.column("time_ms")))) / 1e3,
                "last_call_seconds": time.perf_counter() - began,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        },
    )
    return table


def _identifiers(table: pa.Table, identity: dict[str, Any]) -> dict[str, str]:
    """Hashes of a run's settings, of its data, and of both: equal ones give equal results."""
    objects = zip(*(table.column(name).to_pylist() for name in ("id", "data_id")), strict=True)
    data, how = identifier(sorted(objects)), identifier(identity)
    return {"run": identifier([how, data]), "settings": how, "data": data}


def version(name: str) -> str:
    """Version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
