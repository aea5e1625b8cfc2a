"""The content of a FITS file's bytes: what packed it, how far it may grow, where its data end."""

import bz2
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from autofit_ml.errors import InputError, errors_as

__all__ = [
    "DAMAGED",
    "FITS_BLOCK",
    "TAIL",
    "claimed_end",
    "unpacked",
    "unpacked_limit",
    "what_it_is",
]

DAMAGED = "copy or download the file again"
FITS_BLOCK = 2880

UNPACKED_BYTES = 256 * 2**20
UNPACKED_RATIO = 100
"""A compressed file may unpack to so many bytes, or so many times its size, whichever is more."""

TAIL = 2**20
"""Bytes that are looked at behind what the headers claim."""

MAX_HEADER_BLOCKS = 1000
"""A header of more blocks (36 cards each) is damaged."""


def unpacked(raw: bytes, path: Path) -> bytes:
    """Uncompressed content, told by magic bytes (a wrong extension does no harm), in bounds.

    Only what the headers claim is unpacked, and `TAIL` behind it, which tells a damaged header.
    """
    packer = "gzip" if raw[:2] == b"\x1f\x8b" else "bzip2" if raw[:3] == b"BZh" else ""
    if not packer:
        end = claimed_end(lambda start, size: raw[start : start + size])
        return raw if end is None or len(raw) <= end + TAIL else raw[: end + TAIL]
    whole, content, most = io.BytesIO(raw), bytearray(), unpacked_limit(len(raw))
    stream = gzip.GzipFile(fileobj=whole) if packer == "gzip" else bz2.BZ2File(whole)

    def upto(end: int) -> None:
        while len(content) < end:
            piece = stream.read(min(end - len(content), 2**24))
            content.extend(piece)
            if len(content) > most:
                raise InputError(
                    f"unpacks to over {most / 2**20:.0f} MiB, from {len(raw) / 2**20:.1f} MiB",
                    f"if that is right, unpack it with {packer} and give the plain file",
                    path,
                )
            if not piece:
                return

    def read(start: int, size: int) -> bytes:
        upto(start + size)
        return bytes(content[start : start + size])

    with errors_as(
        InputError,
        f"damaged {packer} file",
        DAMAGED,
        path,
        of=(OSError, EOFError, ValueError, zlib.error),
    ):
        end = claimed_end(read)
        upto(most + 1 if end is None else end + TAIL)
    return bytes(content)


def unpacked_limit(size: int) -> int:
    """Bytes that a compressed file of `size` bytes may unpack to."""
    return max(UNPACKED_BYTES, UNPACKED_RATIO * size)


_SIZES = re.compile(rb"(BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS) *= *([-+\w]+)")


def claimed_end(read: Callable[[int, int], bytes]) -> int | None:
    """Offset at which the data end by a FITS file's headers; None: a header cannot be read.

    Parameters
    ----------
    read : callable
        ``read(start, size)``: these bytes of the file, fewer at its end.
    """
    place = 0
    while read(place, 9) in (b"SIMPLE  =", b"XTENSION="):
        cards: dict[bytes, bytes] = {}
        for _ in range(MAX_HEADER_BLOCKS):
            block = read(place, FITS_BLOCK)
            place += FITS_BLOCK
            lines = [block[k : k + 80] for k in range(0, len(block), 80)]
            found = [match for line in lines if (match := _SIZES.match(line))]
            cards = {match[1]: match[2] for match in reversed(found)} | cards
            if any(line[:8].rstrip() == b"END" for line in lines) or len(block) < FITS_BLOCK:
                break
        else:
            return None
        try:
            axes = [int(cards[b"NAXIS%d" % k]) for k in range(1, int(cards[b"NAXIS"]) + 1)]
            if cards.get(b"GROUPS") == b"T" and axes[:1] == [0]:
                axes = axes[1:]
            items = int(cards.get(b"PCOUNT", 0)) + math.prod(axes) if axes else 0
            size = abs(int(cards[b"BITPIX"])) // 8 * int(cards.get(b"GCOUNT", 1)) * items
        except (KeyError, ValueError):
            return None
        if size < 0:
            return None
        place += -(-size // FITS_BLOCK) * FITS_BLOCK
    return place


def what_it_is(content: bytes) -> tuple[str, str]:
    """(problem, remedy) for content that does not start like FITS."""
    head = content[:512].lstrip().lower()
    if not content:
        return "the file is empty", DAMAGED
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "not a FITS file but a web page (an error answer?)", DAMAGED
    if head.startswith(b"version https://git-lfs"):
        return "not a FITS file but a Git LFS pointer", "fetch the data with `git lfs pull`"
    if content[:2] == b"PK":
        return "not a FITS file but a zip archive", "unpack it first"
    if content[:9] == b"SIMPLE  =" or content[:8] == b"XTENSION":
        return "the FITS header is not complete", DAMAGED
    return "not a FITS file", "give a FITS image (.fits, .fits.gz, .fits.fz, .fits.bz2)"
