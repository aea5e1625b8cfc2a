"""One FITS file per deconvolved object."""

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from autofit_ml.catalogue.fits_table import escape_text
from autofit_ml.deconvolution.summary import Sharp

if TYPE_CHECKING:
    from autofit_ml.deconvolution.uses import SampleFits

__all__ = ["sharp_fits_bytes"]


def sharp_fits_bytes(sharp: Sharp, fits_of_samples: "SampleFits | None" = None) -> bytes:
    """The FITS file ``sharp/<id>.fits`` of one object.

    Parameters
    ----------
    sharp : Sharp
    fits_of_samples : SampleFits, optional
        Adds STRUCTURE (samples minus their own Sérsic profiles, mean) and STRUCTSIG (that over its
        scatter).

    Returns
    -------
    payload : bytes
        PRIMARY: posterior mean, flux per output pixel in the input's units, with all cards; then
        STD, SAMPLES (N, y, x), Q16, Q50, Q84, RESIDUAL (at the data's sampling) and PRIORFRAC.
        Every HDU has CHECKSUM and DATASUM.

    Notes
    -----
    TARGFWHM is the FWHM of the Gaussian target PSF, pixel included, in output pixels; OVERSAMP
    output pixels make a data pixel; LTV1, LTV2 and LTM1_1, LTM2_2 take the pixels of the
    image's file to those of the HDU (pixel = LTM file + LTV, 1-based).
    """
    primary = fits.PrimaryHDU(sharp.mean)
    _cards(primary.header, sharp)
    hdus: list[Any] = [primary]
    planes = [
        ("STD", sharp.std),
        ("SAMPLES", sharp.samples),
        ("Q16", sharp.q16),
        ("Q50", sharp.median),
        ("Q84", sharp.q84),
        ("RESIDUAL", sharp.residual),
        ("PRIORFRAC", sharp.prior_fraction),
    ]
    if fits_of_samples is not None:
        planes.append(("STRUCTURE", fits_of_samples.structure))
        planes.append(("STRUCTSIG", fits_of_samples.significance))
    for name, plane in planes:
        hdu = fits.ImageHDU(np.asarray(plane, dtype=np.float32), name=name)
        if name == "RESIDUAL":
            _placed(hdu.header, sharp, 1)
        else:
            _sampling(hdu.header, sharp)
        if name not in ("PRIORFRAC", "STRUCTSIG") and sharp.unit:
            hdu.header["BUNIT"] = sharp.unit
        hdus.append(hdu)
    for hdu in hdus:
        hdu.add_checksum(when="data unit")
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


def _placed(header: fits.Header, sharp: Sharp, scale: int) -> None:
    """Header cards that place the pixels in the file that the stamp was cut out of."""
    for axis, first in enumerate(sharp.origin, start=1):
        header[f"LTM{axis}_{axis}"] = (float(scale), "pixel = LTM * file's pixel + LTV")
        header[f"LTV{axis}"] = (0.5 * (1 - scale) - scale * first, "pixel = LTM * file's + LTV")


def _sampling(header: fits.Header, sharp: Sharp) -> None:
    s = sharp.oversampling
    header["TARGFWHM"] = (sharp.target_fwhm, "[pix] Gaussian target PSF, pixel included")
    header["OVERSAMP"] = (s, "output pixels per data pixel")
    _placed(header, sharp, s)
    if sharp.wcs is not None:
        header.extend(sharp.wcs.to_header(relax=True).cards, update=True)


def _cards(header: fits.Header, sharp: Sharp) -> None:
    _sampling(header, sharp)
    if sharp.unit:
        header["BUNIT"] = sharp.unit
    header["OBJECT"] = escape_text(sharp.id).decode("ascii")
    for keyword, value, comment in (
        ("NSAMPLES", len(sharp.samples), "posterior samples"),
        ("SAMPLER", sharp.sampler, "how it was deconvolved"),
        ("POSTERIO", sharp.is_posterior, "F: one image, not a posterior; no errors"),
        ("NCALLS", sharp.calls, "network calls per sample"),
        ("SEED", sharp.seed, ""),
        ("WEIGHTS", escape_text(sharp.weights).decode("ascii"), ""),
        ("WGTHASH", sharp.weights_sha256[:40], "sha256, 40 of 64"),
        ("PSFHASH", sharp.psf_sha256[:40], "sha256, 40 of 64"),
        ("DETAIL", _finite(sharp.detail), "share of fine detail not determined"),
        ("CHI2", _finite(sharp.chi2), "of the re-convolved mean, per pixel"),
        ("DISTANCE", _finite(sharp.distance), "from the training set, 1 = limit"),
        ("RHAT", _finite(sharp.rhat), "largest of the Gibbs chains"),
        ("NWARN", len(sharp.warnings), "warnings, in HISTORY"),
    ):
        header[keyword] = (value, comment)
    for text in sharp.warnings:
        header["HISTORY"] = escape_text(f"WARNING: {text}").decode("ascii")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
