"""Check of the installation, or of a file or folder: ``autofit-ml doctor``.

In: nothing, or paths as `autofit_ml.fit` takes them. Out: `Checkup`s that the command line prints.
Reads every image of the paths as a run would; fits nothing.
"""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from autofit_ml.errors import AutofitError
from autofit_ml.extras import EXTRAS, install_command, missing_from
from autofit_ml.runs.workers import processors
from autofit_ml.settings import ReadOptions

__all__ = ["Checkup", "check_images", "check_installation"]

_NEEDED = (
    *("numpy", "scipy", "scikit-image", "astropy", "photutils", "sep"),
    *("torch", "torchvision", "pyarrow", "duckdb"),
)


@dataclass(frozen=True)
class Checkup:
    """One line of the doctor's report.

    Attributes
    ----------
    what : str
        Package, device, bundle or object.
    state : {"ok", "note", "bad"}
        "note": works, with an assumption or without something optional.
    text : str
    """

    what: str
    state: str
    text: str


def check_installation() -> list[Checkup]:
    """Versions, optional parts, devices, weights."""
    from autofit_ml import __version__

    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    out = [Checkup("autofit-ml", "ok", f"{__version__}, {system}")]
    for name in _NEEDED:
        try:
            out.append(Checkup(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            out.append(Checkup(name, "bad", f"not installed: pip install {name}"))
    for extra, purpose in EXTRAS.items():
        if missing_from(extra):
            out.append(Checkup(f"[{extra}]", "note", f"no {purpose}: {install_command(extra)}"))
        else:
            out.append(Checkup(f"[{extra}]", "ok", purpose))
    return [*out, *_devices(), *_weights()]


def _devices() -> list[Checkup]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Checkup("torch", "bad", f"cannot be imported: {error}")]
    threads = torch.get_num_threads()
    out = [Checkup("cpu", "ok", f"processors: {processors()}, threads of PyTorch: {threads}")]
    if not torch.cuda.is_available():
        text = "none that PyTorch can use; fits run on the processors"
        if torch.version.cuda:
            text += " (4.5 GB less disk: uv pip install --torch-backend cpu torch torchvision)"
        return [*out, Checkup("cuda", "note", text)]
    for k in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(k)
        text = (
            f"{torch.cuda.get_device_name(k)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        )
        out.append(Checkup(f"cuda:{k}", "ok", text))
    return out


def _weights() -> list[Checkup]:
    from autofit_ml.weights import find_bundle, list_weights

    out = []
    try:
        known = list_weights()
    except AutofitError as error:
        return [Checkup("weights", "bad", str(error))]
    for info in known:
        try:
            folder, _ = find_bundle(info.name, offline=True)
        except AutofitError as error:
            out.append(Checkup(info.name, "bad", str(error)))
            continue
        out.append(Checkup(info.name, "ok", f"{info.status}, {info.bytes / 1e6:.1f} MB, {folder}"))
    return out or [Checkup("weights", "bad", "none are installed")]


def check_images(
    paths: str | Path | Iterable[str | Path] | None,
    options: ReadOptions | None = None,
    *,
    manifest: str | Path | None = None,
) -> list[Checkup]:
    """Read every image as a run would.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        As of `autofit_ml.fit`.
    options : ReadOptions, optional
        What is said about the images.
    manifest : path, optional

    Returns
    -------
    list of Checkup
        For each object what was read and assumed, or why it cannot be used; then the files that
        are no images.

    Raises
    ------
    SettingsError
        Nothing to read.
    """
    from autofit_ml.images import discover, read_item
    from autofit_ml.runs.kinds import is_result

    options = options or ReadOptions()
    found = discover(paths, manifest=manifest, survey=options.survey, mode=options.mode)
    out = []
    for source in found.sources:
        if source.file and is_result(source.file):
            out.append(Checkup(source.id, "note", "a result of this program, no image"))
            continue
        try:
            item = read_item(source, options)
        except AutofitError as error:
            out.append(Checkup(source.id, "bad", str(error)))
            continue
        out.append(_read(source.id, item, source.messages))
    out += [Checkup(str(path), "note", f"left out: {why}") for path, why in found.ignored]
    return out


def _read(name: str, item: object, said: tuple[str, ...]) -> Checkup:
    """Describe what was understood of a stamp or frame."""
    import numpy as np

    from autofit_ml.catalogue import flag_names
    from autofit_ml.images import Frame, Stamp
    from autofit_ml.measure import psf_fwhm

    if not isinstance(item, (Stamp, Frame)):
        raise TypeError(type(item).__name__)
    ny, nx = item.data.shape
    parts = [f"{'stamp' if isinstance(item, Stamp) else 'frame'} of {nx} x {ny}"]
    if item.psf is not None:
        parts.append(f"PSF of {psf_fwhm(item.psf):.2f} pixels FWHM")
    if item.mask.any():
        parts.append(f"{100 * item.mask.mean():.0f} % masked")
    parts.append(f"{item.pixel_scale:.3g} arcsec a pixel" if item.pixel_scale > 0 else "no scale")
    parts.append(
        f"zero point {item.zeropoint:g}" if np.isfinite(item.zeropoint) else "no zero point"
    )
    if item.wcs is None:
        parts.append("no WCS")
    notes = list(dict.fromkeys((*said, *item.messages)))
    if item.flags:
        notes.append(" ".join(flag_names(item.flags)))
    text = ", ".join(parts) + (": " + "; ".join(notes) if notes else "")
    return Checkup(name, "note" if notes else "ok", text)
