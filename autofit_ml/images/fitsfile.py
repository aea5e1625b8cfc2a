"""Open one FITS file from bytes read once: sha256, decompression in memory, typed errors.

Objects often share a file (a table of positions in one frame, thousands of extensions), so each
thread keeps the files that it read last.
"""

import contextlib
import functools
import hashlib
import io
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from autofit_ml.errors import InputError, errors_as
from autofit_ml.images.roles import hdu_role
from autofit_ml.images.unpacking import (
    DAMAGED,
    FITS_BLOCK,
    TAIL,
    claimed_end,
    unpacked,
    unpacked_limit,
    what_it_is,
)

__all__ = [
    "FitsFile",
    "HduInfo",
    "image_array",
    "list_hdus",
    "open_fits",
    "opened_headers",
    "parsed_fits",
]

READ_FAILURES = (Exception,)
"""astropy, its decompression and numpy raise anything on damaged files (CfitsioException too)."""

MAX_PIXELS = 2**31
"""Largest number of pixels read from one HDU; a larger NAXISn is a damaged header."""

KEPT_FILES = 32
KEPT_BYTES = 512 * 2**20
"""Number and uncompressed size of the files that a thread keeps open, together."""

_kept = threading.local()


@dataclass(frozen=True)
class HduInfo:
    """Name, shape and kind of an HDU, for discovery.

    Attributes
    ----------
    index : int
    name : str
        EXTNAME, upper case, "" if none.
    extver : int
    kind : str
        "image" (2-D, or more axes), "vector" (1-D), "table" or "empty".
    shape : tuple of int
        numpy order; () without data.
    bare : bool
        True when the header says nothing beyond the array's layout (no WCS, no calibration).
    role : str or None
        Plane that its name tells ("image" for unnamed ones), see `autofit_ml.images.roles`.
    """

    index: int
    name: str
    extver: int
    kind: str
    shape: tuple[int, ...]
    bare: bool
    role: str | None = None


@dataclass(frozen=True)
class PlainImage:
    """An image HDU as astropy has it, whose pixels are in the file as they are.

    Attributes
    ----------
    header : Header
    text : str
        Its cards as they are in the file.
    pixels : ndarray, shape (naxis n, ..., naxis 1)
        Read-only, with the file's byte order.
    """

    header: fits.Header
    text: str
    pixels: np.ndarray

    @property
    def name(self) -> str:
        return self.header.get("EXTNAME", "")

    @property
    def ver(self) -> int:
        return self.header.get("EXTVER", 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape


@dataclass(frozen=True)
class FitsFile:
    """A parsed file: its HDUs, the sha256 of the bytes on disk and what astropy warned of.

    `unread` bytes follow the last HDU and are no padding: a damaged header, as a rule.
    """

    path: Path
    sha256: str
    hdus: Sequence[Any]
    infos: tuple[HduInfo, ...]
    length: int
    messages: tuple[str, ...]
    unread: int = 0

    def find(self, key: int | str) -> HduInfo:
        """The HDU with index, EXTNAME or "EXTNAME,EXTVER" `key` (InputError: there is none)."""
        for info in self.infos:
            titles = (info.name, f"{info.name},{info.extver}")
            if info.index == key if isinstance(key, int) else key.upper() in titles:
                return info
        names = ", ".join(f"{i.index}:{i.name or i.kind}" for i in self.infos)
        raise InputError(f"no HDU {key!r} (has {names})", "name an HDU that exists", self.path)


def open_fits(path: str | Path) -> FitsFile:
    """Read `path` once, hash it, decompress it in memory and parse its headers.

    Parameters
    ----------
    path : path
        ``.fits``, plain or compressed with gzip, bzip2 or tile compression; the content decides,
        not the name.

    Raises
    ------
    InputError
        No such file, a directory, no permission, empty, not FITS, truncated or damaged.
    """
    path = Path(path)
    files: OrderedDict[tuple, FitsFile] = _kept.__dict__.setdefault("files", OrderedDict())
    try:
        status = path.stat()
        key = (os.fspath(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if key in files:
            files.move_to_end(key)
            return files[key]
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError("no such file", "check the path", path) from error
    except IsADirectoryError as error:
        raise InputError(
            "a directory, not a FITS file", "give the files inside it, or rename it", path
        ) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot be read: {reason}", "check the permissions", path) from error
    file = parsed_fits(raw, path)
    files[key] = file
    while len(files) > KEPT_FILES or sum(one.length for one in files.values()) > KEPT_BYTES:
        files.popitem(last=False)
    return file


def parsed_fits(raw: bytes, path: Path) -> FitsFile:
    """Parse the bytes of a file; see `open_fits`."""
    digest = hashlib.sha256(raw).hexdigest()
    content = unpacked(raw, path)
    if content[:9] != b"SIMPLE  =":
        problem, remedy = what_it_is(content)
        raise InputError(problem, remedy, path)
    plain = _plain_images(content)
    if plain:
        infos = tuple(_describe(index, hdu) for index, hdu in enumerate(plain))
        return FitsFile(path, digest, plain, infos, len(content), ())
    _refuse_endless(content, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with errors_as(InputError, "damaged FITS file", DAMAGED, path):
            hdus = fits.open(io.BytesIO(content), memmap=False)
            len(hdus)  # reads every header
            infos = tuple(_describe(index, hdu) for index, hdu in enumerate(hdus))
            place = hdus[-1].fileinfo() or {}
            end = int(place.get("datLoc", 0)) + int(place.get("datSpan", 0))
    messages = _told(caught, path)
    rest = content[end:].strip(b"\0 ")
    if rest:
        last = f"{infos[-1].index} {infos[-1].name}".strip()
        messages.append(f"{path.name}: what follows HDU {last} cannot be read: a damaged header")
    said = tuple(dict.fromkeys(messages))
    return FitsFile(path, digest, hdus, infos, len(content), said, len(rest))


def _refuse_endless(content: bytes, path: Path) -> None:
    """Raise InputError where a header counts more axes or columns than FITS allows (999).

    astropy goes through all of them, for hours.
    """
    for name in (b"NAXIS   =", b"ZNAXIS  =", b"TFIELDS ="):
        place = content.find(name)
        while place >= 0:
            number = content[place + 9 : place + 80].partition(b"/")[0].strip()
            if place % 80 == 0 and number.isdigit() and len(number) > 3:
                card = f"{name[:8].decode().rstrip()}={number.decode()}"
                raise InputError(f"damaged FITS file: {card} (999 at most)", DAMAGED, path)
            place = content.find(name, place + 1)


def _told(caught: Sequence[warnings.WarningMessage], path: Path) -> list[str]:
    """Warnings of astropy, but for truncation, which is judged for each HDU where it matters."""
    texts = (" ".join(str(warning.message).split()) for warning in caught)
    return [f"{path.name}: {text[:200]}" for text in texts if "truncated" not in text.lower()]


_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_UNSCALED = {"BSCALE": 1, "BZERO": 0, "BLANK": None, "GROUPS": None, "PCOUNT": 0, "GCOUNT": 1}
"""Cards of an image whose pixels are in the file as they are."""


def _plain_images(content: bytes) -> list[PlainImage]:
    """HDUs of a file that holds only complete images of unscaled pixels; else an empty list.

    astropy is asked about all other files; it takes three times as long.
    """
    images: list[PlainImage] = []
    start = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            while start == 0 or content[start:].strip(b"\0 "):
                image, start = _plain_image(content, start)
                images.append(image)
        except (ValueError, KeyError, fits.VerifyError, Warning):
            return []
    return images


def _plain_image(content: bytes, start: int) -> tuple[PlainImage, int]:
    """The image whose header begins at `start`, and where the next header begins."""
    end = content.index(b"END" + 77 * b" ", start)
    text = content[start:end].decode("ascii")
    first = "XTENSION= 'IMAGE   ' " if start else f"SIMPLE  = {'T':>20} "
    if (end - start) % 80 or not text.isprintable() or not text.startswith(first):
        raise ValueError("not the header of an image")

    def number(place: int, name: str) -> int:
        card = text[80 * place : 80 * place + 80]
        if card[:10] != f"{name:8}= ":
            raise ValueError(f"{name} is not where it belongs")
        return int(card[10:].partition("/")[0])

    dtype = np.dtype(_DTYPES[number(1, "BITPIX")])
    axes = range(number(2, "NAXIS"), 0, -1)
    shape = tuple(number(2 + axis, f"NAXIS{axis}") for axis in axes) or (0,)
    header = fits.Header.fromstring(text)
    if min(shape) < 0 or any(header.get(card, is_) != is_ for card, is_ in _UNSCALED.items()):
        raise ValueError("not an image of unscaled pixels")
    place = end + 80 + -(end + 80) % FITS_BLOCK
    pixels = np.frombuffer(content, dtype, math.prod(shape), place).reshape(shape)
    stop = place + pixels.nbytes
    return PlainImage(header, text, pixels), stop + -stop % FITS_BLOCK


def _describe(index: int, hdu: Any) -> HduInfo:
    name = str(hdu.name or "").strip().upper()
    if index == 0 and name == "PRIMARY":
        name = ""
    try:
        extver = int(getattr(hdu, "ver", 1) or 1)
    except (TypeError, ValueError):
        extver = 1
    header = hdu.header
    bare = not any(card in header for card in ("CTYPE1", "CRVAL1", "PIXSCALE", "BUNIT", "GAIN"))
    table = isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))
    if table and not isinstance(hdu, fits.CompImageHDU):
        return HduInfo(index, name, extver, "table", (), bare)
    if not hasattr(hdu, "shape"):  # astropy could not tell what it is
        raise ValueError(f"the header of HDU {index} is damaged")
    shape = tuple(int(n) for n in hdu.shape)
    if not shape or 0 in shape:
        return HduInfo(index, name, extver, "empty", (), bare)
    kind = "vector" if len(shape) == 1 and shape[0] > 1 else "image"
    role = hdu_role(name, str(header.get("UTYPE", "")))
    return HduInfo(index, name, extver, kind, shape, bare, role)


def list_hdus(path: str | Path) -> tuple[HduInfo, ...]:
    """HDUs of a file, reading headers only where the compression allows it.

    Raises
    ------
    InputError
        As `open_fits`.
    """
    path = Path(path)
    with contextlib.suppress(OSError):
        return _listed(path, path.stat().st_mtime_ns)
    return open_fits(path).infos  # raises the typed error


@functools.lru_cache(maxsize=128)
def _listed(path: Path, _changed: int) -> tuple[HduInfo, ...]:
    with contextlib.suppress(*READ_FAILURES), opened_headers(path) as hdus:
        return tuple(_describe(index, hdu) for index, hdu in enumerate(hdus))
    return open_fits(path).infos


@contextlib.contextmanager
def opened_headers(path: Path) -> Iterator[fits.HDUList]:
    """HDUs of a file, for a look at their headers: the data of a plain file are not read.

    Raises
    ------
    InputError
        As `open_fits`.
    OSError and others of `READ_FAILURES`
        What astropy raises.
    """
    with path.open("rb") as stream:

        def read(start: int, size: int) -> bytes:
            stream.seek(start)
            return stream.read(size)

        end = claimed_end(read) if read(0, 9) == b"SIMPLE  =" else None
        rest = stream.seek(0, os.SEEK_END) - (end or 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if end is None or rest > TAIL:
            yield open_fits(path).hdus
        else:
            with fits.open(path, memmap=True) as hdus:
                yield hdus


def image_array(file: FitsFile, info: HduInfo, what: str) -> tuple[np.ndarray, list[str]]:
    """Pixels of an image HDU as a 2-D native array (BZERO, BSCALE and BLANK applied).

    A new array for each call: the file keeps none.

    Parameters
    ----------
    file : FitsFile
    info : HduInfo
    what : str
        The plane's name, for messages.

    Returns
    -------
    data : ndarray, shape (ny, nx)
        float64 (images) or integer (labels, masks).
    messages : list of str

    Raises
    ------
    InputError
        Not 2-D, truncated, damaged, complex, or empty.
    """
    messages: list[str] = []
    if info.kind == "table":
        raise InputError(f"the {what} HDU {info.index} is a table", "give an image", file.path)
    if info.kind == "empty":
        raise InputError(f"the {what} HDU {info.index} has no data", "give an image", file.path)
    if float(np.prod([float(n) for n in info.shape])) > MAX_PIXELS:
        raise InputError(
            f"the {what} claims {info.shape} pixels", "check NAXIS1 and NAXIS2", file.path
        )
    hdu = file.hdus[info.index]
    plain = isinstance(hdu, PlainImage)
    data = hdu.pixels if plain else _astropy_pixels(file, hdu, what, messages)
    shape, extra = data.shape, data.ndim - 2
    alone = [axis for axis, n in enumerate(shape) if n == 1][: max(extra, 0)]  # the leading ones
    if alone and len(alone) == extra:
        data = data.squeeze(tuple(alone))
        messages.append(f"{what} of shape {shape} squeezed to {data.shape}")
    if data.ndim != 2:
        raise InputError(
            f"the {what} is {data.ndim}-dimensional {data.shape}, not a 2-D image",
            "give one 2-D plane per HDU or file",
            file.path,
        )
    if data.dtype.kind == "c":
        raise InputError(f"the {what} is complex", "give a real-valued image", file.path)
    if data.dtype.kind not in "fiub":
        raise InputError(f"the {what} has type {data.dtype}", "give a numeric image", file.path)
    native = data.dtype.newbyteorder("=")
    # A signalling NaN among float32 pixels makes the cast "invalid"; it becomes NaN like others.
    with np.errstate(invalid="ignore"):
        return data.astype(np.float64 if native.kind == "f" else native), messages


def _astropy_pixels(file: FitsFile, hdu: Any, what: str, messages: list[str]) -> np.ndarray:
    """Pixels of an HDU of astropy's, scaled and decompressed."""
    with errors_as(InputError, f"damaged {what}", DAMAGED, file.path):
        place = hdu.fileinfo() or {}
        start, size = place.get("datLoc"), int(hdu.size)
    if isinstance(hdu, fits.CompImageHDU):  # its size is that of the pixels, not of the tiles
        most = unpacked_limit(file.length)
        if size > most:
            raise InputError(
                f"the {what} unpacks to {size / 2**20:.0f} MiB, over {most / 2**20:.0f}",
                "if that is right, unpack it with funpack and give the plain file",
                file.path,
            )
        size = max(0, int(place.get("datSpan", 0)) - FITS_BLOCK + 1)
    if start is not None and start + size > file.length:
        raise InputError(
            f"truncated: the {what} needs {start + size} bytes, the file has {file.length}",
            DAMAGED,
            file.path,
        )
    with warnings.catch_warnings(record=True) as caught, np.errstate(invalid="ignore"):
        warnings.simplefilter("always")
        with errors_as(InputError, f"damaged {what}", DAMAGED, file.path):
            data = hdu.section[...]
    messages += _told(caught, file.path)
    if data is None:
        raise InputError(f"the {what} has no data", "give an image", file.path)
    return data
