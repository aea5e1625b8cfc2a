"""One FITS file per object: the images of its fit."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from autofit_ml.catalogue.fits_table import escape_text
from autofit_ml.catalogue.schema import Column, band_suffix, columns_for

__all__ = ["BandPlanes", "object_fits_bytes"]


def _card(column: Column, value: Any) -> fits.Card | None:
    """The header card of one catalogue value; None for what does not fit in a header."""
    if column.size > 1:
        return None
    keyword = column.name.upper()
    if len(keyword) > 8:
        keyword = f"HIERARCH {keyword}"
    if column.dtype == "str":
        # A blank value: the object has none.
        return fits.Card(keyword, escape_text(str(value)).decode("ascii"))
    if column.dtype == "bool":
        return fits.Card(keyword, bool(value), column.description[:40])
    if column.dtype == "int32":
        return fits.Card(keyword, int(value), column.description[:30])
    # FITS headers have no NaN: an undefined value stands for it.
    number = float(value) if math.isfinite(value) else None
    unit = f"[{column.unit}] " if column.unit else ""
    comment = f"{unit}{column.description}"
    # 80 characters less keyword, "= ", the longest float, " / ".
    return fits.Card(keyword, number, comment[: max(0, 46 - len(keyword))])


@dataclass(frozen=True)
class BandPlanes:
    """The planes of a further band: IMAGE, MODEL, RESIDUAL, SIGMA, MASK, COMPONENT_1, ..."""

    planes: Mapping[str, np.ndarray | None]
    wcs: WCS | None = None
    origin: tuple[int, int] = (0, 0)


_TYPES = {"MASK": np.uint8, "SEGM": np.int32}


def _image_hdu(
    name: str, plane: np.ndarray, wcs: WCS | None, origin: tuple[int, int]
) -> fits.ImageHDU:
    kind = _TYPES.get(name.partition("_")[0], np.float32)
    hdu = fits.ImageHDU(np.asarray(plane).astype(kind), name=name)
    hdu.header["LTV1"] = (float(-origin[0]), "stamp x = file x + LTV1")
    hdu.header["LTV2"] = (float(-origin[1]), "stamp y = file y + LTV2")
    hdu.header.extend(wcs.to_header(relax=True).cards if wcs is not None else (), update=True)
    return hdu


def object_fits_bytes(
    *,
    data: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
    row: Mapping[str, Any],
    columns: Sequence[Column] | None = None,
    model: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    target: int = 0,
    classes: Mapping[int, str] | None = None,
    components: Sequence[np.ndarray] = (),
    neighbours: np.ndarray | None = None,
    bands: Mapping[str, BandPlanes] | None = None,
    wcs: WCS | None = None,
    origin: tuple[int, int] = (0, 0),
) -> bytes:
    """The FITS file ``objects/<id>.fits`` of one object.

    Parameters
    ----------
    data, sigma : ndarray, shape (ny, nx)
        Image and 1-sigma noise, image units; written as float32.
    mask : ndarray, bool, shape (ny, nx)
        True = not used in the fit; written as uint8.
    row : mapping of str to scalar
        The object's catalogue row; goes into the primary header, except ``cov``. NaN becomes an
        undefined value, names of more than 8 letters become HIERARCH cards.
    columns : sequence of Column, optional
        Of the catalogue that `row` belongs to; those of a single Sersic profile by default.
    model, residual : ndarray, shape (ny, nx), optional
        Model including PSF and sky, and data - model; absent for a failed object.
    labels : ndarray, int, shape (ny, nx), optional
        Segmentation (0 = sky); written as int32.
    target : int
        Label of the target; the card TARGET of SEGM.
    classes : mapping, optional
        label -> "galaxy" or "star": the cards CLASS1, CLASS2, ... of SEGM.
    components : sequence of ndarray, shape (ny, nx)
        Each component of the target with its PSF, without sky: COMPONENT_1 and on.
    neighbours : ndarray, shape (ny, nx), optional
        All neighbours that were fitted along, together: NEIGHBOURS.
    bands : mapping, optional
        Name of each further band -> its planes ("IMAGE", "MODEL", ...): ``IMAGE_<band>`` and so
        on. They may differ in shape from the first band's and from each other's.
    wcs : astropy.wcs.WCS, optional
        Of the stamp's pixels; written into every image HDU.
    origin : tuple of int
        (x0, y0) of the stamp's first pixel in the file: cards LTV1, LTV2 (stamp = file + LTV).

    Returns
    -------
    payload : bytes
        PRIMARY (header only), IMAGE, MODEL, RESIDUAL, SIGMA, MASK, SEGM, COMPONENT_1..k,
        NEIGHBOURS, then the planes of further bands; planes that were not given are left out.
        Every HDU has CHECKSUM and DATASUM.

    Raises
    ------
    ValueError
        The planes differ in shape.
    """
    planes: list[tuple[str, np.ndarray | None]] = [
        ("IMAGE", data),
        ("MODEL", model),
        ("RESIDUAL", residual),
        ("SIGMA", sigma),
        ("MASK", mask),
        ("SEGM", labels),
        *((f"COMPONENT_{k}", image) for k, image in enumerate(components, 1)),
        ("NEIGHBOURS", neighbours),
    ]

    primary = fits.PrimaryHDU()
    for column in columns_for() if columns is None else columns:
        if column.name in row:
            card = _card(column, row[column.name])
            if card is not None:
                primary.header.append(card, end=True)
    hdus: list[Any] = [primary]
    for name, plane in planes:
        if plane is None:
            continue
        if np.shape(plane) != np.shape(data):
            raise ValueError(f"{name} has shape {np.shape(plane)}, IMAGE {np.shape(data)}")
        hdu = _image_hdu(name, plane, wcs, origin)
        if name == "SEGM":
            hdu.header["TARGET"] = (int(target), "label of the target, 0 = not detected")
            for label, kind in sorted((classes or {}).items()):
                if label < 1000:  # a keyword has 8 letters
                    hdu.header[f"CLASS{label}"] = (kind, f"of label {label}")
        hdus.append(hdu)
    for band, other in (bands or {}).items():
        for name, plane in other.planes.items():
            if plane is not None:
                hdus.append(
                    _image_hdu(f"{name}{band_suffix(band)}", plane, other.wcs, other.origin)
                )
    for hdu in hdus:
        # A fixed text where astropy would put the time: the same fit gives the same file.
        hdu.add_checksum(when="data unit")
    buffer = io.BytesIO()
    # Every card is made above and checked by the tests: verifying again takes a quarter of the time
    fits.HDUList(hdus).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()
