"""One FITS file per object: the images of its fit."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from autofit_ml.catalogue.fits_table import escape_text
from autofit_ml.catalogue.schema import Column, band_suffix, columns_for

__all__ = ["BandPlanes", "object_fits_bytes", "read_draws"]


def _card(column: Column, value: Any) -> str | None:
    """The header card of one catalogue value; None for what does not fit in a header."""
    if column.size > 1:
        return None
    keyword = column.name.upper()
    if len(keyword) > 8:
        keyword = f"HIERARCH {keyword}"
    if column.dtype == "str":
        # A blank value: the object has none.
        return _text(keyword, escape_text(str(value)).decode("ascii"))
    if column.dtype == "bool":
        return _text(keyword, bool(value), column.description[:40])
    if column.dtype == "int32":
        return _text(keyword, int(value), column.description[:30])
    unit = f"[{column.unit}] " if column.unit else ""
    comment = f"{unit}{column.description}"
    # 80 characters less keyword, "= ", the longest float, " / ".
    comment = comment[: max(0, 46 - len(keyword))]
    # FITS headers have no NaN: an undefined value stands for it.
    if not math.isfinite(value):
        return _text(keyword, None, comment)
    return _float_card(keyword, float(value), comment)


@dataclass(frozen=True)
class BandPlanes:
    """The planes of a further band: IMAGE, MODEL, RESIDUAL, SIGMA, MASK, COMPONENT_1, ..."""

    planes: Mapping[str, np.ndarray | None]
    wcs: WCS | None = None
    origin: tuple[int, int] = (0, 0)


_TYPES = {"MASK": np.uint8, "SEGM": np.int32}
_BITPIX = {np.uint8: 8, np.int32: 32, np.float32: -32}


@functools.lru_cache(maxsize=4096, typed=True)
def _text(keyword: str, value: str | float | None, comment: str = "") -> str:
    """A card that comes back from plane to plane and from object to object."""
    return str(fits.Card(keyword, value, comment))


def _float_card(keyword: str, value: float, comment: str) -> str:
    """Card of a float as astropy formats it, made from the card of another float."""
    width = 20 if len(keyword) <= 8 else 0
    before, _, after = _text(keyword, 0.5, comment).rstrip().partition(f"{0.5:>{width}}")
    number = str(value).replace("e", "E")
    card = f"{before}{number:>{width}}{after}"
    if len(number) > 20 or len(card) > 80:
        return str(fits.Card(keyword, value, comment))
    return f"{card:80}"


def _image_cards(name: str, plane: np.ndarray, origin: tuple[int, int]) -> list[str]:
    ny, nx = plane.shape
    return [
        _text("XTENSION", "IMAGE", "Image extension"),
        _text("BITPIX", _BITPIX[plane.dtype.type], "array data type"),
        _text("NAXIS", 2, "number of array dimensions"),
        _text("NAXIS1", nx),
        _text("NAXIS2", ny),
        _text("PCOUNT", 0, "number of parameters"),
        _text("GCOUNT", 1, "number of groups"),
        _text("EXTNAME", name.upper(), "extension name"),
        str(fits.Card("LTV1", float(-origin[0]), "stamp x = file x + LTV1")),
        str(fits.Card("LTV2", float(-origin[1]), "stamp y = file y + LTV2")),
    ]


def _wcs_cards(wcs: WCS | None) -> list[str]:
    return [] if wcs is None else [str(card) for card in wcs.to_header(relax=True).cards]


def _hdu_bytes(cards: Sequence[str], plane: np.ndarray | None = None) -> bytes:
    """An HDU with DATASUM and CHECKSUM (FITS standard 4.0, section 4.4.2.7 and appendix J)."""
    body = b"" if plane is None else plane.astype(plane.dtype.newbyteorder(">")).tobytes()
    body += b"\0" * (-len(body) % 2880)
    datasum = _sum_of(body)
    unknown = "0" * 16
    # A fixed comment where astropy would put the time: the same fit gives the same file.
    checksum = _text("CHECKSUM", unknown, "data unit")
    text = "".join(
        [*cards, checksum, str(fits.Card("DATASUM", str(datasum), "data unit")), f"{'END':80}"]
    )
    text += " " * (-len(text) % 2880)
    whole = _sum_of(text.encode("ascii"), datasum)
    code = "".join(
        chr(_encoded(~whole >> shift & 255)[k]) for k in range(4) for shift in (24, 16, 8, 0)
    )
    known = checksum.replace(unknown, code[-1] + code[:-1])
    return text.replace(checksum, known).encode("ascii") + body


def _sum_of(content: bytes, start: int = 0) -> int:
    """Ones' complement sum of 32-bit words."""
    total = start + int(np.frombuffer(content, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


@functools.lru_cache(maxsize=256)
def _encoded(byte: int) -> tuple[int, ...]:
    """Four letters or digits that add up to a byte."""
    quotient, rest = divmod(byte, 4)
    code = [quotient + rest + 48, *3 * [quotient + 48]]
    again = True
    while again:
        again = False
        for sign in b":;<=>?@[\\]^_`":
            for k in (0, 2):
                if sign in code[k : k + 2]:
                    code[k], code[k + 1] = code[k] + 1, code[k + 1] - 1
                    again = True
    return tuple(code)


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

    primary = [
        _text("SIMPLE", True, "conforms to FITS standard"),
        _text("BITPIX", 8, "array data type"),
        _text("NAXIS", 0, "number of array dimensions"),
        _text("EXTEND", True),
    ]
    for column in columns_for() if columns is None else columns:
        if column.name in row:
            card = _card(column, row[column.name])
            if card is not None:
                primary.append(card)
    hdus = [_hdu_bytes(primary)]
    place = _wcs_cards(wcs)
    for name, plane in planes:
        if plane is None:
            continue
        if np.shape(plane) != np.shape(data):
            raise ValueError(f"{name} has shape {np.shape(plane)}, IMAGE {np.shape(data)}")
        pixels = np.asarray(plane, dtype=_TYPES.get(name, np.float32))
        cards = [*_image_cards(name, pixels, origin), *place]
        if name == "SEGM":
            cards.append(_text("TARGET", int(target), "label of the target, 0 = not detected"))
            for label, kind in sorted((classes or {}).items()):
                if label < 1000:  # a keyword has 8 letters
                    cards.append(_text(f"CLASS{label}", kind, f"of label {label}"))
        hdus.append(_hdu_bytes(cards, pixels))
    for band, other in (bands or {}).items():
        place = _wcs_cards(other.wcs)
        for name, plane in other.planes.items():
            if plane is not None:
                pixels = np.asarray(plane, dtype=_TYPES.get(name, np.float32))
                title = f"{name}{band_suffix(band)}"
                hdus.append(
                    _hdu_bytes([*_image_cards(title, pixels, other.origin), *place], pixels)
                )
    return b"".join(hdus)


def read_draws(path: Path) -> dict[str, np.ndarray] | None:
    """Draws of a file of one object: parameter -> (chains, draws).

    None where there is no such file, or h5netcdf is not installed.
    """
    if not path.is_file():
        return None
    try:
        import h5netcdf
    except ImportError:
        return None
    with h5netcdf.File(path) as file:
        group = file["posterior"]
        return {
            name: np.asarray(values)
            for name, values in group.variables.items()
            if tuple(values.dimensions) == ("chain", "draw")
        }
