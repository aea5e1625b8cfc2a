"""Simulated objects as a folder that ``autofit-ml fit`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from autofit_ml.errors import OutputError
from autofit_ml.simulation.objects import SimulatedObject, source_table, truth_table

__all__ = ["export_fits"]


def export_fits(
    objects: Sequence[SimulatedObject], folder: str | Path, *, labels: bool = False
) -> Path:
    """Write ``<id>_image.fits``, ``_sigma``, ``_psf`` (``_mask`` where needed) and tables.

    ``truth.ecsv`` has a row for each stamp's target, ``sources.ecsv`` one for every source of
    every image.

    The image's header has OBJECT, FILTER, ZP, GAIN, PIXSCALE and a WCS; the PSF's PSFPIX and, if
    not 1, OVERSAMP. Readers look for FITS files, so that the tables beside them are not taken for
    inputs.

    Parameters
    ----------
    objects : sequence of SimulatedObject
    folder : path
        Made if absent; files of the same names are replaced.
    labels : bool
        Write the true labels as ``<id>_seg.fits`` (a stamp's TARGET = 1) too.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    OutputError
        The folder or a file cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in objects:
            _export_object(item, folder, labels)
        sources = source_table(objects)
        sources.write(folder / "sources.ecsv", format="ascii.ecsv", overwrite=True)
        stamps = [item for item in objects if item.kind == "stamp"]
        if stamps:
            truth_table(stamps).write(folder / "truth.ecsv", format="ascii.ecsv", overwrite=True)
    except OSError as error:
        raise OutputError(
            f"cannot write simulated images: {error}", "choose another folder", folder
        ) from error
    return folder


def _export_object(item: SimulatedObject, folder: Path, labels: bool) -> None:
    header = item.wcs.to_header()
    header["OBJECT"] = item.id
    header["FILTER"] = item.filter
    header["ZP"] = (item.zeropoint, "AB magnitude of one image unit")
    if np.isfinite(item.gain):
        header["GAIN"] = (item.gain, "electrons per image unit")
    header["PIXSCALE"] = (item.pixel_scale, "arcsec per pixel")
    header["SURVEY"] = item.survey

    psf_header = fits.Header()
    psf_header["PSFPIX"] = (item.psf.has_pixel, "the PSF contains the pixel")
    if item.psf.oversampling != 1:
        psf_header["OVERSAMP"] = (item.psf.oversampling, "PSF pixels per image pixel")

    planes: dict[str, tuple[np.ndarray, fits.Header]] = {
        "image": (item.data, header),
        "sigma": (item.sigma, fits.Header()),
        "psf": (item.psf.data, psf_header),
    }
    if item.mask.any():
        planes["mask"] = (item.mask.astype(np.uint8), fits.Header())
    if labels:
        planes["seg"] = (item.labels, fits.Header([("TARGET", 1)] if item.kind == "stamp" else []))
    for plane, (array, plane_header) in planes.items():
        fits.PrimaryHDU(array, plane_header).writeto(
            folder / f"{item.id}_{plane}.fits", overwrite=True
        )
