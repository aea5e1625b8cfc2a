"""Every kind of bad input gives a typed error that names the file and a remedy."""

from __future__ import annotations

import bz2
import gzip
import os

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fits_builders import Writer, galaxy, gaussian

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import ReadOptions, discover, read, read_source

OPTIONS = ReadOptions()


def bytes_of(data, cards=None) -> bytes:
    import io

    stream = io.BytesIO()
    header = fits.Header(cards or {})
    fits.writeto(stream, np.asarray(data), header)
    return stream.getvalue()


def text(name):
    def make(w):
        path = w.folder / name
        path.write_text("this is no image\n")
        return path

    return make


def raw(content, name="bad.fits"):
    def make(w):
        path = w.folder / name
        path.write_bytes(content() if callable(content) else content)
        return path

    return make


def image(data, **cards):
    """An object whose image is bad; sigma and PSF are good where shapes allow."""

    def make(w):
        values = np.asarray(data() if callable(data) else data)
        return w.object(image=values, cards=cards, sigma=False)

    return make


def planes(**changes):
    def make(w):
        return w.object(**{k: v() if callable(v) else v for k, v in changes.items()})

    return make


def psf(data):
    return planes(psf=data)


def extra(name, data):
    """A good object with one more plane, which is bad."""

    def make(w):
        w.object(sigma=False)
        w.plane(name, data() if callable(data) else data)
        return w.folder / "g1_image.fits"

    return make


def directory(w):
    path = w.folder / "folder.fits"
    path.mkdir()
    return path


def unreadable(w):
    path = w.object()
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("running as a user who can read everything")
    return path


def truncated_companion(w):
    path = w.object()
    sigma = w.folder / "g1_sigma.fits"
    sigma.write_bytes(sigma.read_bytes()[:4000])
    return path


def table_only(w):
    path = w.folder / "catalogue.fits"
    Table({"a": [1, 2]}).write(path)
    return path


def duplicate_planes(w):
    path = w.folder / "twice.fits"
    good = galaxy()
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(good, name="SCI")]
    hdus += [fits.ImageHDU(np.ones_like(good), name="SIGMA") for _ in range(2)]
    fits.HDUList(hdus).writeto(path)
    return path


def only_psf(w):
    return w.plane("lonely_psf.fits", gaussian())


def damaged_header(w):
    path = w.object()
    content = bytearray(path.read_bytes())
    content[160:240] = b"NAXIS   = 'two'".ljust(80)
    path.write_bytes(bytes(content))
    return path


def huge_axes(w):
    path = w.object()
    content = path.read_bytes()
    old = b"NAXIS1  =" + b"44".rjust(21)
    assert old in content
    path.write_bytes(content.replace(old, b"NAXIS1  =" + b"9999999999".rjust(21)))
    return path


def damaged_tiles(w):
    path = w.folder / "tiles.fits.fz"
    fits.HDUList(
        [fits.PrimaryHDU(), fits.CompImageHDU(galaxy(), compression_type="RICE_1")]
    ).writeto(path)
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content[: len(content) - 2880]))
    return path


def cut(content, keep):
    return content[: int(keep * len(content))]


BAD_OBJECTS = {
    # not FITS
    "text file": text("notes.txt"),
    "text called fits": text("notes.fits"),
    "empty file": raw(b""),
    "html page": raw(b"<!DOCTYPE html><html><body>404</body></html>"),
    "git lfs pointer": raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    "zip archive": raw(b"PK\x03\x04" + bytes(100)),
    "random bytes": raw(lambda: np.random.default_rng(1).bytes(5000)),
    "png called fits": raw(b"\x89PNG\r\n\x1a\n" + bytes(50)),
    "directory called fits": directory,
    "unreadable file": unreadable,
    # damaged FITS
    "truncated data": raw(lambda: cut(bytes_of(galaxy()), 0.5)),
    "truncated header": raw(lambda: bytes_of(galaxy())[:400]),
    "truncated gzip": raw(lambda: cut(gzip.compress(bytes_of(galaxy())), 0.6), "bad.fits.gz"),
    "gzip of nothing": raw(gzip.compress(b""), "bad.fits.gz"),
    "gzip of text": raw(gzip.compress(b"hello"), "bad.fits.gz"),
    "damaged gzip": raw(b"\x1f\x8b" + bytes(60), "bad.fits.gz"),
    "truncated bzip2": raw(lambda: cut(bz2.compress(bytes_of(galaxy())), 0.6), "bad.fits.bz2"),
    "truncated tile compression": damaged_tiles,
    "damaged header": damaged_header,
    "absurd axes": huge_axes,
    "truncated sigma": truncated_companion,
    # no image in it
    "table only": table_only,
    "header only": raw(lambda: fits.PrimaryHDU().header.tostring().encode(), "bad.fits"),
    "one-dimensional": image(np.arange(100.0)),
    "cube": image(np.zeros((3, 20, 20)) + np.arange(20.0)),
    "four dimensions": image(np.zeros((2, 2, 20, 20)) + np.arange(20.0)),
    "too small": image(np.arange(12.0).reshape(3, 4)),
    "one row": image(np.arange(50.0).reshape(1, 50)),
    "too large for a stamp": None,  # see test_too_large
    # bad pixels
    "all NaN": image(np.full((20, 20), np.nan)),
    "all infinite": image(np.full((20, 20), np.inf)),
    "all beyond 1e30": image(np.full((20, 20), 3e32) * np.arange(1.0, 21.0)),
    "constant": image(np.full((20, 20), 7.0)),
    "all zero": image(np.zeros((20, 20), np.int16)),
    "below single precision": image(galaxy().astype(float) * 1e-40),
    "no noise to measure": image(np.pad(np.full((2, 2), 5.0), 14)),
    # masks
    "all masked": planes(mask=np.ones((40, 44), np.uint8)),
    "mask of another shape": planes(mask=np.zeros((40, 40), np.uint8)),
    # noise planes
    "sigma of another shape": planes(sigma=np.ones((39, 44), np.float32)),
    "sigma transposed": planes(sigma=np.ones((44, 40), np.float32)),
    "sigma zero": planes(sigma=0.0),
    "sigma negative": planes(sigma=-1.0),
    "sigma NaN": planes(sigma=np.nan),
    "sigma infinite": planes(sigma=np.inf),
    "sigma is a table": None,  # see test_sigma_table
    "inverse variance zero": extra("g1_ivar.fits", np.zeros((40, 44))),
    "inverse variance negative": extra("g1_invvar.fits", np.full((40, 44), -2.0)),
    "variance negative": extra("g1_var.fits", np.full((40, 44), -2.0)),
    "weight zero": extra("g1_wht.fits", np.zeros((40, 44))),
    # PSF
    "no PSF": planes(psf=False),
    "PSF NaN": psf(np.where(gaussian() > 0.05, np.nan, gaussian())),
    "PSF infinite": psf(gaussian() + np.inf),
    "PSF zero": psf(np.zeros((15, 15))),
    "PSF negative": psf(-gaussian()),
    "PSF flat": psf(np.ones((15, 15))),
    "PSF in the corner": psf(lambda: np.fft.ifftshift(gaussian())),
    "PSF far off centre": psf(gaussian(dx=7.0)),
    "PSF one-dimensional": psf(np.ones(9)),
    "PSF cube": psf(np.ones((3, 9, 9))),
    # segmentation
    "segmentation of another shape": extra("g1_seg.fits", np.zeros((5, 5), np.int16)),
    "segmentation with fractions": extra("g1_seg.fits", np.full((40, 44), 0.5)),
    # grouping
    "plane without image": only_psf,
    "two planes of a kind": duplicate_planes,
}


@pytest.mark.parametrize("kind", [k for k, make in BAD_OBJECTS.items() if make is not None])
def test_bad_object_names_file_and_remedy(kind, writer):
    path = BAD_OBJECTS[kind](writer)
    try:
        source = discover(path)[0]
        with pytest.raises(InputError) as caught:
            read_source(source, OPTIONS)
    finally:
        if path.is_file():
            os.chmod(path, 0o644)
    error = caught.value
    assert error.remedy
    assert error.file is not None
    # The message names the culprit: a file of this object.
    assert path.name.split("_")[0].split(".")[0] in str(error)
    assert source.id


def test_at_least_forty_kinds():
    assert len(BAD_OBJECTS) >= 40


@pytest.mark.parametrize("kind", ["truncated data", "PSF NaN", "sigma zero", "all NaN"])
def test_good_neighbour_is_untouched(kind, tmp_path, writer):
    writer.object("good")
    alone = read(tmp_path)[0]
    other = tmp_path / "with"
    other.mkdir()
    second = Writer(other)
    second.object("good")
    BAD_OBJECTS[kind](second)
    with pytest.warns(match=r"\w"):
        stamps = read(other, errors="skip")
    assert [s.id for s in stamps] == ["good"]
    for name in ("data", "sigma", "mask"):
        assert np.array_equal(getattr(alone, name), getattr(stamps[0], name))
    assert np.array_equal(alone.psf.data, stamps[0].psf.data)
    with pytest.raises(InputError):
        read(other)


def test_too_large(writer):
    path = writer.object(image=np.arange(4100.0 * 6).reshape(6, 4100), sigma=1.0)
    with pytest.raises(InputError, match="too many"):
        read_source(discover(path, mode="stamp")[0], ReadOptions(mode="stamp"))


def test_sigma_table(writer):
    path = writer.object(sigma=False)
    Table({"a": [1.0]}).write(writer.folder / "g1_sigma.fits")
    with pytest.raises(InputError, match="no image HDU") as caught:
        read_source(discover(path)[0])
    assert "g1_sigma.fits" in str(caught.value)


def test_position_outside(writer):
    writer.object()
    manifest = writer.folder / "list.csv"
    manifest.write_text("id,image,sigma,psf,x,y\na,g1_image.fits,g1_sigma.fits,g1_psf.fits,90,3\n")
    with pytest.raises(InputError, match="outside") as caught:
        read_source(discover(None, manifest=manifest)[0])
    assert "g1_image.fits" in str(caught.value)


def test_ra_dec_without_wcs(writer):
    writer.object()
    manifest = writer.folder / "list.csv"
    manifest.write_text(
        "id,image,sigma,psf,ra,dec\na,g1_image.fits,g1_sigma.fits,g1_psf.fits,150,2\n"
    )
    with pytest.raises(InputError, match="no WCS"):
        read_source(discover(None, manifest=manifest)[0])


def test_fwhm_without_pixel_scale(writer):
    path = writer.object(psf=False)
    with pytest.raises(InputError, match="pixel scale is unknown"):
        read_source(discover(path)[0], ReadOptions(psf_fwhm=0.8))


def test_no_psf_names_three_ways(writer):
    path = writer.object(psf=False)
    with pytest.raises(InputError) as caught:
        read_source(discover(path)[0])
    for way in ("_psf.fits", "--psf FILE", "--psf-fwhm"):
        assert way in caught.value.remedy


WRONG_CALLS = {
    "missing path": lambda f: discover(f / "nothing.fits"),
    "missing folder": lambda f: discover(f / "nothing"),
    "empty folder": lambda f: discover(f),
    "empty pattern": lambda f: discover(f / "*.fits"),
    "no input": lambda f: discover([]),
    "no input at all": lambda f: discover(None),
    "unknown mode": lambda f: discover(f, mode="mosaic"),
    "unknown survey": lambda f: discover(f, survey="2mass"),
    "missing manifest": lambda f: discover(None, manifest=f / "list.csv"),
    "manifest and paths": lambda f: discover(f, manifest=f / "list.csv"),
    "option psf_fwhm zero": lambda f: ReadOptions(psf_fwhm=0.0),
    "option psf_fwhm NaN": lambda f: ReadOptions(psf_fwhm=float("nan")),
    "option psf_fwhm text": lambda f: ReadOptions(psf_fwhm="wide"),  # type: ignore[arg-type]
    "option gain negative": lambda f: ReadOptions(gain=-1.0),
    "option psf missing": lambda f: ReadOptions(psf=f / "psf.fits"),
    "option oversampling": lambda f: ReadOptions(psf_oversampling=0),
    "option mode": lambda f: ReadOptions(mode="x"),
    "option noise": lambda f: ReadOptions(noise="x"),
    "option survey": lambda f: ReadOptions(survey="x"),
    "option unknown": lambda f: read(f, seeing=3),
    "errors value": lambda f: read(f, errors="ignore"),
}


@pytest.mark.parametrize("kind", WRONG_CALLS)
def test_wrong_call(kind, tmp_path):
    with pytest.raises(SettingsError) as caught:
        WRONG_CALLS[kind](tmp_path)
    assert caught.value.remedy


BAD_MANIFESTS = {
    "empty file": ("list.csv", ""),
    "no rows": ("list.csv", "id,image\n"),
    "no image column": ("list.csv", "id,x\na,3\n"),
    "same id twice": ("list.csv", "id,image\na,g1_image.fits\na,g1_image.fits\n"),
    "unknown format": ("list.txt", "id,image\na,b\n"),
    "two names for one column": ("list.csv", "image,zp,zeropoint\ng1_image.fits,1,2\n"),
    "not parquet": ("list.parquet", "nonsense"),
    "not ecsv": ("list.ecsv", "nonsense"),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_bad_manifest(kind, writer):
    writer.object()
    name, content = BAD_MANIFESTS[kind]
    (writer.folder / name).write_text(content)
    with pytest.raises(SettingsError) as caught:
        discover(None, manifest=writer.folder / name)
    assert name in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("a,missing.fits,,", "no such file"),
        ("a,,,", "names no image"),
        ("a,g1_image.fits,two,3", "x is"),
        ("a,g1_image.fits,1,inf", "y is"),
    ],
)
def test_bad_manifest_row_leaves_the_others(row, word, writer):
    writer.object()
    manifest = writer.folder / "list.csv"
    manifest.write_text(
        f"id,image,x,y,sigma,psf\n{row},,\nb,g1_image.fits,20,20,g1_sigma.fits,g1_psf.fits\n"
    )
    found = discover(None, manifest=manifest)
    assert [s.id for s in found] == ["a", "b"]
    assert found[1].problem is None
    with pytest.raises(InputError, match=word) as caught:
        read_source(found[0])
    assert caught.value.remedy
    assert read_source(found[1]).stamp.position == (20.0, 20.0)


@pytest.mark.parametrize("place", [0, 80 + 10, 160 + 25, 240 + 29])
def test_damaged_header_of_the_image_has_its_row(place, tmp_path):
    """Bits of XTENSION, BITPIX, NAXIS or NAXIS1: the file was meant as an image, a table not."""
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(galaxy(), name="SCI")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    content = bytearray((tmp_path / "a.fits").read_bytes())
    content[2880 + place] ^= 1 << 6
    (tmp_path / "b.fits").write_bytes(content)
    table = fits.BinTableHDU.from_columns([fits.Column("X", "E", array=[1.0])])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "c.fits")
    found = discover(tmp_path)
    assert [source.id for source in found] == ["a", "b"]
    assert found[0].problem is None
    with pytest.raises(InputError):
        read_source(found[1], ReadOptions(psf="none"))
    assert [path.name for path, _ in found.ignored] == ["c.fits"]


def test_a_damaged_plane_after_the_image_is_said(tmp_path):
    """A header cut short: the image is read, what is missing is named."""
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(galaxy(), name="SCI")]
    hdus.append(fits.ImageHDU(np.ones((40, 44)), name="ERR"))
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    content = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(content[: content.index(b"XTENSION", 6000) + 500])
    stamp = read_source(discover(tmp_path)[0], ReadOptions(psf="none")).stamp
    assert any("what follows HDU 1 SCI cannot be read" in text for text in stamp.messages)
    assert stamp.flags & Flag.SIGMA_ESTIMATED
