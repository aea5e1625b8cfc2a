"""Plane of an object that a file or an HDU holds, by its name.

The planes are ``image``, ``sigma``, ``var``, ``ivar``, ``wht`` (a weight map that may be only
proportional to the inverse variance), ``psf``, ``mask`` and ``seg``. The three tables below are
the whole rule; where an object has two planes of a kind, the name that comes first is used.
"""

import re
from pathlib import Path

__all__ = [
    "AUXILIARY_WORDS",
    "EXTNAMES",
    "NOISE_PLANES",
    "SUFFIXES",
    "as_id",
    "fits_stem",
    "hdu_role",
    "is_auxiliary",
    "is_fits_name",
    "split_role",
]

SUFFIXES: dict[str, str] = {
    "image": "image",
    "sci": "image",
    "img": "image",
    "sigma": "sigma",
    "err": "sigma",
    "error": "sigma",
    "rms": "sigma",
    "std": "sigma",
    "stddev": "sigma",
    "unc": "sigma",
    "uncert": "sigma",
    "uncertainty": "sigma",
    "noise": "sigma",
    "var": "var",
    "variance": "var",
    "ivar": "ivar",
    "invvar": "ivar",
    "wht": "wht",
    "weight": "wht",
    "weights": "wht",
    "psf": "psf",
    "mask": "mask",
    "dq": "mask",
    "bpm": "mask",
    "badpix": "mask",
    "flag": "mask",
    "flags": "mask",
    "seg": "seg",
    "segm": "seg",
    "segmap": "seg",
}
"""Last word of a file name (``m51_r_sigma.fits``) -> plane."""

EXTNAMES: dict[str, str] = {
    "": "image",
    "PRIMARY": "image",
    "COMPRESSED_IMAGE": "image",
    "SCI": "image",
    "IMAGE": "image",
    "DATA": "image",
    "ERR": "sigma",
    "ERROR": "sigma",
    "SIGMA": "sigma",
    "RMS": "sigma",
    "STD": "sigma",
    "STDDEV": "sigma",
    "UNC": "sigma",
    "UNCERT": "sigma",
    "UNCERTAINTY": "sigma",
    "NOISE": "sigma",
    "VAR": "var",
    "VARIANCE": "var",
    "STAT": "var",
    "IVAR": "ivar",
    "INVVAR": "ivar",
    "WHT": "wht",
    "WT": "wht",
    "WGT": "wht",
    "WEIGHT": "wht",
    "WEIGHTS": "wht",
    "PSF": "psf",
    "PSFIMAGE": "psf",
    "MASK": "mask",
    "DQ": "mask",
    "BPM": "mask",
    "BADPIX": "mask",
    "FLAG": "mask",
    "FLAGS": "mask",
    "QUAL": "mask",
    "SEG": "seg",
    "SEGM": "seg",
    "SEGMAP": "seg",
}
"""EXTNAME (upper case) -> plane; any other name is an image of its own. ESO calls the image DATA,
its variance STAT and its mask QUAL."""

UTYPES: dict[str, str] = {
    "StdDevUncertainty": "sigma",
    "VarianceUncertainty": "var",
    "InverseVariance": "ivar",
}
"""UTYPE card of an uncertainty that astropy's CCDData wrote -> plane; wins over the EXTNAME."""

NOISE_PLANES = ("sigma", "ivar", "var", "wht")
"""Planes that give the noise, the preferred first."""

AUXILIARY_WORDS = frozenset(
    {
        "back",
        "bkg",
        "background",
        "cf",
        "difference",
        "kernel",
        "kernels",
        "model",
        "nexp",
        "psfs",
        "residual",
        "residuals",
    }
)
"""First or last word of a file name in a *folder* that marks it as no galaxy image."""

_EXTENSION = re.compile(r"\.(fits|fit|fts)(\.(gz|fz|bz2))?$", re.IGNORECASE)


def is_fits_name(path: Path) -> bool:
    """True for ``.fits``, ``.fit``, ``.fts`` and their ``.gz``, ``.fz``, ``.bz2`` forms."""
    return _EXTENSION.search(path.name) is not None


def fits_stem(path: Path) -> str:
    """File name without the FITS (and compression) extension."""
    return _EXTENSION.sub("", path.name)


def split_role(path: Path) -> tuple[str, str, bool]:
    """(base name, plane, explicit) of a file, e.g. ``m51_psf.fits`` -> ("m51", "psf", True).

    `explicit` is False when the name carries no plane suffix; it is then an image. A bare plane
    name (``psf.fits``) has an empty base.
    """
    stem = fits_stem(path)
    role = SUFFIXES.get(stem.lower())
    if role is not None:
        return "", role, True
    found = re.match(r"^(.+)[_.-]([A-Za-z]+)$", stem, re.DOTALL)
    if found is not None:
        role = SUFFIXES.get(found.group(2).lower())
        if role is not None:
            return found.group(1), role, True
    return stem, "image", False


def hdu_role(name: str, utype: str = "") -> str | None:
    """Plane of an HDU called `name` with a UTYPE card; None when neither is a known one."""
    return UTYPES.get(utype) or EXTNAMES.get(name.strip().upper())


def is_auxiliary(path: Path) -> bool:
    """True when the name says background, kernel, residual, ...: not an image of an object."""
    words = [word for word in re.split(r"[_.\s-]+", fits_stem(path).lower()) if word]
    return bool(words) and (words[0] in AUXILIARY_WORDS or words[-1] in AUXILIARY_WORDS)


def as_id(text: str) -> str:
    """An id as it was written; bytes that are no text (of a file's name) become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") or "object"
