"""Simulated objects as a folder that ``autofit-ml fit`` reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from autofit_ml.catalogue.atomic import atomic_write_ecsv
from autofit_ml.errors import OutputError, errors_as
from autofit_ml.images.stamp import Stamp
from autofit_ml.simulation.objects import SimulatedObject, source_table, truth_table

__all__ = ["export_fits", "write_planes"]


def export_fits(
    objects: Sequence[SimulatedObject],
    folder: str | Path,
    *,
    labels: bool = False,
    tables: bool = True,
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
    tables : bool
        False: only the images.

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
    with errors_as(
        OutputError, "cannot write simulated images", "choose another folder", folder, of=OSError
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for item in objects:
            write_planes(item, folder, item.id, labels=labels, survey=item.survey)
        if tables:
            atomic_write_ecsv(folder / "sources.ecsv", source_table(objects))
            stamps = [item for item in objects if item.kind == "stamp"]
            if stamps:
                atomic_write_ecsv(folder / "truth.ecsv", truth_table(stamps))
    return folder


def write_planes(
    item: SimulatedObject | Stamp,
    folder: Path,
    name: str,
    *,
    sigma: bool = True,
    labels: bool = False,
    survey: str = "",
) -> None:
    """The planes of one image as ``autofit-ml fit`` reads them.

    Parameters
    ----------
    item : SimulatedObject or Stamp
    folder : Path
    name : str
        Files are called ``<name>_<plane>.fits``.
    sigma : bool
        Write the noise map; without it a fit builds one.
    labels : bool
        Write the labels; 1 is the target of a stamp.
    survey : str
        For the SURVEY card.
    """
    header = fits.Header() if item.wcs is None else item.wcs.to_header()
    header["OBJECT"] = name
    if item.filter:
        header["FILTER"] = item.filter
    for card, value, comment in (
        ("ZP", item.zeropoint, "AB magnitude of one image unit"),
        ("GAIN", item.gain, "electrons per image unit"),
        ("PIXSCALE", item.pixel_scale, "arcsec per pixel"),
    ):
        if np.isfinite(value):
            header[card] = (value, comment)
    if survey:
        header["SURVEY"] = survey
    psf_header = fits.Header([("PSFPIX", item.psf.has_pixel, "the PSF contains the pixel")])
    if item.psf.oversampling != 1:
        psf_header["OVERSAMP"] = (item.psf.oversampling, "PSF pixels per image pixel")
    planes = {"image": (item.data, header), "psf": (item.psf.data, psf_header)}
    if sigma:
        planes["sigma"] = (item.sigma, fits.Header())
    if item.mask.any():
        planes["mask"] = (item.mask.astype(np.uint8), fits.Header())
    if labels and item.labels is not None:
        stamp = getattr(item, "kind", "stamp") == "stamp"
        planes["seg"] = (item.labels, fits.Header([("TARGET", 1)] if stamp else []))
    for plane, (array, cards) in planes.items():
        fits.PrimaryHDU(array, cards).writeto(folder / f"{name}_{plane}.fits", overwrite=True)
