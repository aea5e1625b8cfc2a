"""Images: from files to arrays.

In: FITS files (one per plane, or several planes in one file), folders, globs, manifests, and
`ReadOptions` (what the user says about them). Out: `Stamp` (one object) or `Frame` (a large
image), with noise, mask, PSF, WCS and zero point checked and in one convention; a `Source` for
every object found, also for those that cannot be read.

Neighbours: `autofit_ml.segmentation` and `autofit_ml.fitting` take stamps; `autofit_ml.runs` calls
`discover` and `read_source`; flags are those of `autofit_ml.catalogue`.
"""

from autofit_ml.images.discover import discover
from autofit_ml.images.frame import cut_like, cut_stamps
from autofit_ml.images.manifest import MANIFEST_COLUMNS, read_manifest
from autofit_ml.images.psf import centre_psf, gaussian_psf, moffat_psf, no_psf
from autofit_ml.images.reader import (
    FRAME_SIDE,
    ReadResult,
    read,
    read_frame,
    read_item,
    read_source,
)
from autofit_ml.images.source import Discovery, Source
from autofit_ml.images.stamp import PSF, Frame, Stamp, VaryingPSF
from autofit_ml.images.star_psf import psf_from_stars, with_star_psf
from autofit_ml.settings import ReadOptions

__all__ = [
    "FRAME_SIDE",
    "MANIFEST_COLUMNS",
    "PSF",
    "Discovery",
    "Frame",
    "ReadOptions",
    "ReadResult",
    "Source",
    "Stamp",
    "VaryingPSF",
    "centre_psf",
    "cut_like",
    "cut_stamps",
    "discover",
    "gaussian_psf",
    "moffat_psf",
    "no_psf",
    "psf_from_stars",
    "read",
    "read_frame",
    "read_item",
    "read_manifest",
    "read_source",
    "with_star_psf",
]
