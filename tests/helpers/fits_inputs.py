"""Small FITS inputs, good and bad, each an object of its own in one folder."""

from __future__ import annotations

import bz2
import gzip
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

SHAPE = (40, 44)


def galaxy(shape=SHAPE, seed=0, flux=3000.0, scale=3.0, sky=5.0) -> np.ndarray:
    """Exponential disc, convolved with nothing, in unit noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape, dtype=float)
    radius = np.hypot(x - (shape[1] - 1) / 2, (y - (shape[0] - 1) / 2) / 0.7)
    model = flux / (2 * np.pi * 0.7 * scale**2) * np.exp(-radius / scale)
    return (model + sky + rng.normal(0, 1, shape)).astype(np.float32)


def gaussian(shape=(21, 21), fwhm=3.0, dx=0.0, dy=0.0) -> np.ndarray:
    """Sampled Gaussian off the array's centre by (dx, dy), sum 1."""
    y, x = np.indices(shape, dtype=float)
    r2 = (x - (shape[1] - 1) / 2 - dx) ** 2 + (y - (shape[0] - 1) / 2 - dy) ** 2
    image = np.exp(-0.5 * r2 / (fwhm / 2.3548) ** 2)
    return image / image.sum()


def fits_bytes(data, cards=None) -> bytes:
    """A FITS file with one image."""
    stream = io.BytesIO()
    fits.writeto(stream, np.asarray(data), fits.Header(cards or {}))
    return stream.getvalue()


def write_plane(folder: Path, name: str, data, cards=None) -> Path:
    """One FITS file."""
    path = folder / name
    path.write_bytes(fits_bytes(data, cards))
    return path


def write_object(folder: Path, name: str, *, cards=None, **planes) -> Path:
    """``<name>_image.fits``, ``_sigma``, ``_psf`` and what else is named; False leaves one out."""
    planes = {"image": galaxy(), "sigma": None, "psf": gaussian(), **planes}
    image = np.asarray(planes["image"])
    if planes["sigma"] is None:
        planes["sigma"] = np.ones(image.shape[-2:], np.float32)
    for plane, data in planes.items():
        if data is False:
            continue
        if np.ndim(data) == 0:
            data = np.full(image.shape[-2:], float(data))
        kept = np.asarray(data)
        if kept.dtype == np.float64 and kept.size and np.all(np.abs(kept[np.isfinite(kept)]) < 1e3):
            kept = kept.astype(np.float32)
        write_plane(folder, f"{name}_{plane}.fits", kept, cards if plane == "image" else None)
    return folder / f"{name}_image.fits"


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    make : (folder, name) -> file that is to be named on the command line, or None when the folder
    finds it; says : what the message must hold; file : ending of the culprit's name.
    """

    make: Callable[[Path, str], Path | None]
    says: str
    file: str = "_image.fits"


def _planes(**planes) -> Callable[[Path, str], None]:
    def make(folder: Path, name: str) -> None:
        write_object(folder, name, **{k: v() if callable(v) else v for k, v in planes.items()})

    return make


def _image(data, **cards) -> Callable[[Path, str], None]:
    return _planes(image=data, sigma=False, cards=cards)


def _raw(content, ending=".fits", named=False) -> Callable[[Path, str], Path | None]:
    def make(folder: Path, name: str) -> Path | None:
        path = folder / f"{name}{ending}"
        path.write_bytes(content() if callable(content) else content)
        return path if named else None

    return make


def _damaged(plane: str, change: Callable[[bytes], bytes]) -> Callable[[Path, str], None]:
    """A good object, one file of which is then changed."""

    def make(folder: Path, name: str) -> None:
        write_object(folder, name)
        path = folder / f"{name}_{plane}.fits"
        path.write_bytes(change(path.read_bytes()))

    return make


def _card(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        start = content.index(old)
        return content[:start] + new.ljust(80) + content[start + 80 :]

    return change


def _directory(folder: Path, name: str) -> Path:
    (folder / f"{name}.fits").mkdir()
    return folder / f"{name}.fits"


def _dangling_link(folder: Path, name: str) -> None:
    os.symlink(folder / "gone_long_ago.fits", folder / f"{name}.fits")


def _table(folder: Path, name: str) -> Path:
    path = folder / f"{name}.fits"
    Table({"a": [1, 2]}).write(path)
    return path


def _sigma_table(folder: Path, name: str) -> None:
    write_object(folder, name, sigma=False)
    Table({"a": [1.0]}).write(folder / f"{name}_sigma.fits")


def _two_sigmas(folder: Path, name: str) -> None:
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(galaxy(), name="SCI")]
    hdus += [fits.ImageHDU(np.ones(SHAPE), name="SIGMA") for _ in range(2)]
    fits.HDUList(hdus).writeto(folder / f"{name}.fits")


def _no_science(folder: Path, name: str) -> Path:
    path = folder / f"{name}.fits"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones(SHAPE), name="SIGMA")]
    fits.HDUList(hdus).writeto(path)
    return path


def _cut_tiles(folder: Path, name: str) -> None:
    path = folder / f"{name}.fits.fz"
    tiles = fits.CompImageHDU(galaxy(), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(path)
    path.write_bytes(path.read_bytes()[:-2880])


def _lonely(plane: str) -> Callable[[Path, str], None]:
    def make(folder: Path, name: str) -> None:
        write_plane(folder, f"{name}_{plane}.fits", gaussian())

    return make


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


BAD_KINDS: dict[str, Kind] = {
    # not FITS
    "notes.txt": Kind(_raw(b"this is no image\n", "", named=True), "not a FITS", ""),
    "text-called-fits": Kind(_raw(b"this is no image\n"), "not a FITS", ".fits"),
    "empty-file": Kind(_raw(b""), "empty", ".fits"),
    "web-page": Kind(_raw(b"<!DOCTYPE html><html>404</html>"), "web page", ".fits"),
    "lfs-pointer": Kind(_raw(b"version https://git-lfs.github.com/spec/v1\n"), "LFS", ".fits"),
    "zip": Kind(_raw(b"PK\x03\x04" + bytes(90)), "zip", ".fits"),
    "png": Kind(_raw(b"\x89PNG\r\n\x1a\n" + bytes(50)), "not a FITS", ".fits"),
    "random-bytes": Kind(_raw(lambda: np.random.default_rng(1).bytes(5000)), "not a FITS", ".fits"),
    "directory": Kind(_directory, "directory", ".fits"),
    "dangling-link": Kind(_dangling_link, "no such file", ".fits"),
    # damaged FITS
    "half-an-image": Kind(_damaged("image", _half), "truncated"),
    "half-a-sigma": Kind(_damaged("sigma", _half), "truncated", "_sigma.fits"),
    "half-a-psf": Kind(_damaged("psf", _half), "truncated", "_psf.fits"),
    "half-a-header": Kind(_raw(lambda: fits_bytes(galaxy())[:400]), "header", ".fits"),
    "text-for-sigma": Kind(_damaged("sigma", lambda _: b"no\n"), "not a FITS", "_sigma.fits"),
    "half-a-gzip": Kind(
        _raw(lambda: _half(gzip.compress(fits_bytes(galaxy()))), ".fits.gz"), "gzip", ".fits.gz"
    ),
    "gzip-of-nothing": Kind(_raw(gzip.compress(b""), ".fits.gz"), "empty", ".fits.gz"),
    "gzip-of-text": Kind(_raw(gzip.compress(b"hello"), ".fits.gz"), "not a FITS", ".fits.gz"),
    "half-a-bzip2": Kind(
        _raw(lambda: _half(bz2.compress(fits_bytes(galaxy()))), ".fits.bz2"), "bzip2", ".fits.bz2"
    ),
    "half-the-tiles": Kind(_cut_tiles, "damaged|truncated", ".fits.fz"),
    "naxis-is-text": Kind(
        _damaged("image", _card(b"NAXIS   =", b"NAXIS   = 'two'")), "damaged|header|no data"
    ),
    "absurd-naxis": Kind(
        _damaged("image", _card(b"NAXIS1  =", b"NAXIS1  =           9999999999")),
        "truncated|claims",
    ),
    "negative-naxis": Kind(
        _damaged("image", _card(b"NAXIS1  =", b"NAXIS1  =                  -44")),
        "damaged|no data|empty|truncated",
    ),
    "bitpix-17": Kind(
        _damaged("image", _card(b"BITPIX  =", b"BITPIX  =                   17")), "damaged|BITPIX"
    ),
    # no image in it
    "table": Kind(_table, "table", ".fits"),
    "header-only": Kind(
        _raw(lambda: fits.PrimaryHDU().header.tostring().encode(), named=True), "no data", ".fits"
    ),
    "sigma-only-file": Kind(_no_science, "no image|no SCI", ".fits"),
    "vector": Kind(_image(np.arange(100.0)), "dimension|shape"),
    "cube": Kind(_image(np.zeros((3, 20, 20)) + np.arange(20.0)), "3-dimensional"),
    "four-axes": Kind(_image(np.zeros((2, 2, 20, 20)) + np.arange(20.0)), "4-dimensional"),
    "too-small": Kind(_image(np.arange(12.0).reshape(3, 4)), "too small"),
    "one-row": Kind(_image(np.arange(50.0).reshape(1, 50)), "too small|dimension"),
    # bad pixels
    "all-nan": Kind(_image(np.full(SHAPE, np.nan)), "no finite pixel"),
    "all-infinite": Kind(_image(np.full(SHAPE, np.inf)), "no finite pixel"),
    "all-sentinel": Kind(_image(np.full((20, 20), 3e32) * np.arange(1.0, 21.0)), "1e30"),
    "constant": Kind(_image(np.full(SHAPE, 7.0)), "constant"),
    "zero": Kind(_image(np.zeros(SHAPE, np.int16)), "constant"),
    "denormal": Kind(_image(galaxy().astype(float) * 1e-40), "single precision"),
    "noiseless": Kind(_image(np.pad(np.full((2, 2), 5.0), 14)), "no scatter|no noise"),
    # planes that do not fit
    "everything-masked": Kind(_planes(mask=np.ones(SHAPE, np.uint8)), "every pixel is masked"),
    "all-but-four-masked": Kind(
        _planes(mask=lambda: 1 - np.pad(np.ones((2, 2), np.uint8), ((19, 19), (21, 21)))),
        "few usable|masked|pixel",
    ),
    "mask-of-another-shape": Kind(
        _planes(mask=np.zeros((40, 40), np.uint8)), "shape", "_mask.fits"
    ),
    "sigma-of-another-shape": Kind(
        _planes(sigma=np.ones((39, 44), np.float32)), "shape", "_sigma.fits"
    ),
    "sigma-transposed": Kind(
        _planes(sigma=np.ones(SHAPE[::-1], np.float32)), "shape", "_sigma.fits"
    ),
    "sigma-zero": Kind(_planes(sigma=0.0), "sigma", "_sigma.fits"),
    "sigma-negative": Kind(_planes(sigma=-1.0), "sigma", "_sigma.fits"),
    "sigma-nan": Kind(_planes(sigma=np.nan), "sigma", "_sigma.fits"),
    "sigma-infinite": Kind(_planes(sigma=np.inf), "sigma", "_sigma.fits"),
    "sigma-table": Kind(_sigma_table, "no image", "_sigma.fits"),
    "two-sigmas": Kind(_two_sigmas, "two", ".fits"),
    "invvar-zero": Kind(_planes(sigma=False, invvar=0.0), "ivar", "_invvar.fits"),
    "invvar-negative": Kind(_planes(sigma=False, invvar=-2.0), "ivar", "_invvar.fits"),
    "variance-negative": Kind(_planes(sigma=False, var=-2.0), "var", "_var.fits"),
    "weight-zero": Kind(_planes(sigma=False, wht=0.0), "wht|weight", "_wht.fits"),
    "labels-of-another-shape": Kind(_planes(seg=np.zeros((5, 5), np.int16)), "shape", "_seg.fits"),
    "labels-with-fractions": Kind(_planes(seg=0.5), "labels", "_seg.fits"),
    # PSF
    "no-psf": Kind(_planes(psf=False), "--psf-fwhm"),
    "psf-nan": Kind(
        _planes(psf=np.where(gaussian() > 0.05, np.nan, gaussian())), "NaN", "_psf.fits"
    ),
    "psf-infinite": Kind(_planes(psf=gaussian() + np.inf), "infinite", "_psf.fits"),
    "psf-zero": Kind(_planes(psf=np.zeros((15, 15))), "zero", "_psf.fits"),
    "psf-negative": Kind(_planes(psf=-gaussian()), "negative", "_psf.fits"),
    "psf-flat": Kind(_planes(psf=np.ones((15, 15))), "flat", "_psf.fits"),
    "psf-in-the-corner": Kind(
        _planes(psf=lambda: np.fft.ifftshift(gaussian())), "centre|corner", "_psf.fits"
    ),
    "psf-far-off": Kind(_planes(psf=gaussian(dx=7.0)), "far from the centre", "_psf.fits"),
    "psf-vector": Kind(_planes(psf=np.ones(9)), "dimension|shape", "_psf.fits"),
    "psf-cube": Kind(_planes(psf=np.ones((3, 9, 9))), "dimension|shape", "_psf.fits"),
    "psf-without-image": Kind(_lonely("psf"), "without its image", "_psf.fits"),
    "sigma-without-image": Kind(_lonely("sigma"), "without its image", "_sigma.fits"),
}
"""Objects that cannot be fitted."""


def _holes() -> np.ndarray:
    image = galaxy()
    image[3:6, 4:30] = np.nan
    image[30, 10] = np.inf
    return image


def _bad_sigma_pixels() -> np.ndarray:
    sigma = np.ones(SHAPE, np.float32)
    sigma[0, :10], sigma[1, :10], sigma[2, :10] = 0, -3, np.nan
    return sigma


FLAWED_KINDS: dict[str, Kind] = {
    "holes": Kind(_planes(image=_holes), "masked"),
    "bad-sigma-pixels": Kind(_planes(sigma=_bad_sigma_pixels), "without valid sigma"),
    "psf-shifted": Kind(_planes(psf=gaussian(dx=0.4, dy=-0.3)), "recentred"),
    "psf-not-normalised": Kind(_planes(psf=gaussian() * 37.0), "normalised"),
    "psf-larger-than-image": Kind(_planes(psf=gaussian((151, 151))), ""),
    "no-sigma": Kind(_planes(sigma=False), "sigma is the measured|sigma built"),
    "unit-third-axis": Kind(_planes(image=lambda: galaxy()[None]), "squeezed"),
    "bad-cards": Kind(
        _planes(cards={"ZP": "unknown", "GAIN": -3.0, "PIXSCALE": "NaN"}), "ZP|GAIN|PIXSCALE"
    ),
    "bad-wcs": Kind(
        _planes(
            cards={
                "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 1.0, "CRVAL2": 2.0,
                "CRPIX1": 1.0, "CRPIX2": 1.0, "CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0,
                "CD2_2": 0.0,
            }
        ),
        "WCS",
    ),
    "target-not-in-labels": Kind(
        _planes(seg=lambda: np.pad(np.ones((12, 12), np.int16), ((14, 14), (16, 16)))), ""
    ),
    "mask-of-floats": Kind(_planes(mask=lambda: np.eye(*SHAPE, dtype=np.float32)), ""),
    "maggies": Kind(
        _planes(image=lambda: galaxy().astype(float) * 1e-10, sigma=1e-10), ""
    ),
}  # fmt: skip
"""Objects that are fitted all the same; the message says what was repaired."""
