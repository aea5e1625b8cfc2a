"""Epochs of a light curve as FITS files: what was measured, and the images about each position."""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from autofit_ml.catalogue import atomic_write_bytes
from autofit_ml.difference.light_curve import Measured, Spot
from autofit_ml.difference.stars import Scale
from autofit_ml.errors import ResumeError
from autofit_ml.images.stamp import PSF, Stamp

__all__ = ["read_epoch", "write_epoch"]


def write_epoch(path: Path, one: Measured) -> None:
    """Write an epoch: a header, and for each position k NOISE_k, DATA_k, SIGMA_k, MASK_k, PSF_k."""
    primary = fits.PrimaryHDU()
    head = primary.header
    head["EPOCH"] = one.id
    if math.isfinite(one.time):
        head["MJD"] = one.time
    head["SCALE"] = (one.scale.value, "flux here of flux 1 in the reference")
    head["SCALEERR"], head["SCALEHOW"] = one.scale.error, one.scale.how
    head["NSTARS"], head["CONVOLVD"] = one.scale.number, one.convolved
    head["ISREF"], head["POSITNS"] = one.reference, len(one.spots)
    for text in one.messages:
        head.add_comment(text.encode("ascii", "replace").decode())
    hdus: list[fits.ImageHDU] = []
    for k, spot in enumerate(one.spots, start=1):
        noise = fits.ImageHDU(spot.noise, name=f"NOISE_{k}")
        for card, value in (("FLUX", spot.flux), ("FLUXERR", spot.error)):
            if math.isfinite(value):
                noise.header[card] = value
        hdus.append(noise)
        if spot.stamp is not None:
            hdus += _stamp_hdus(spot.stamp, k)
    buffer = io.BytesIO()
    fits.HDUList([primary, *hdus]).writeto(buffer, output_verify="silentfix")
    atomic_write_bytes(path, buffer.getvalue())


def _stamp_hdus(stamp: Stamp, k: int) -> list[fits.ImageHDU]:
    data = fits.ImageHDU(stamp.data, name=f"DATA_{k}")
    if stamp.wcs is not None:
        data.header.extend(stamp.wcs.to_header(relax=True).cards, update=True)
    data.header["XPOS"], data.header["YPOS"] = stamp.position
    data.header["XFIRST"], data.header["YFIRST"] = stamp.origin
    if math.isfinite(stamp.pixel_scale):
        data.header["PIXSCALE"] = stamp.pixel_scale
    psf = fits.ImageHDU(stamp.psf.data, name=f"PSF_{k}")
    psf.header["HASPIXEL"], psf.header["OVERSAMP"] = stamp.psf.has_pixel, stamp.psf.oversampling
    out = [
        data,
        fits.ImageHDU(stamp.sigma, name=f"SIGMA_{k}"),
        fits.ImageHDU(stamp.mask.astype("u1"), name=f"MASK_{k}"),
        psf,
    ]
    if stamp.psf.modes is not None:
        out.append(fits.ImageHDU(stamp.psf.modes, name=f"MODES_{k}"))
    return out


def read_epoch(path: Path) -> Measured:
    """Read an epoch that `write_epoch` wrote.

    Raises
    ------
    ResumeError
        It is damaged.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            head = hdus[0].header
            planes = {hdu.name: hdu for hdu in hdus[1:]}
            spots = [_spot(planes, k, head["EPOCH"]) for k in range(1, head["POSITNS"] + 1)]
            scale = Scale(head["SCALE"], head["SCALEERR"], head["SCALEHOW"], head["NSTARS"])
            said = tuple(map(str, head["COMMENT"])) if "COMMENT" in head else ()
            return Measured(
                head["EPOCH"], head.get("MJD", math.nan), scale, tuple(spots), head["CONVOLVD"],
                head["ISREF"], said,
            )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"an epoch cannot be read: {error}", "use --restart", path) from error


def _spot(planes: dict[str, fits.ImageHDU], k: int, name: str) -> Spot:
    noise = planes[f"NOISE_{k}"]
    flux, error = (noise.header.get(card, math.nan) for card in ("FLUX", "FLUXERR"))
    stamp = _stamp(planes, k, name) if f"DATA_{k}" in planes else None
    return Spot(flux, error, _native(noise), stamp)


def _stamp(planes: dict[str, fits.ImageHDU], k: int, name: str) -> Stamp:
    data, shape = planes[f"DATA_{k}"], planes[f"PSF_{k}"]
    head = data.header
    wcs = WCS(head) if "CTYPE1" in head else None
    psf = PSF(_native(shape), shape.header["HASPIXEL"], shape.header["OVERSAMP"])
    if f"MODES_{k}" in planes:
        psf = dataclasses.replace(psf, modes=_native(planes[f"MODES_{k}"]))
    return Stamp(
        id=f"{name}_{k}",
        data=_native(data),
        sigma=_native(planes[f"SIGMA_{k}"]),
        mask=planes[f"MASK_{k}"].data.astype(bool),
        psf=psf,
        x=head["XPOS"],
        y=head["YPOS"],
        origin=(head["XFIRST"], head["YFIRST"]),
        wcs=wcs,
        pixel_scale=head.get("PIXSCALE", math.nan),
    )


def _native(hdu: fits.ImageHDU) -> np.ndarray:
    return hdu.data.astype(np.float32)
