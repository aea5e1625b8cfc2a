"""Objects that share a file or a frame: it is read once, and memory stays bounded."""

from __future__ import annotations

import os

import numpy as np
import pytest
from astropy.io import fits
from fits_builders import galaxy, gaussian, wcs_cards

from autofit_ml.errors import InputError
from autofit_ml.images import ReadOptions, discover, fitsfile, read_source, reader


@pytest.fixture(autouse=True)
def nothing_kept():
    fitsfile._kept.__dict__.clear()
    reader._last.__dict__.clear()


@pytest.fixture
def parsed(monkeypatch):
    """Names of the files that are parsed, in order."""
    names = []
    real = fitsfile.parsed_fits

    def parse(raw, path):
        names.append(path.name)
        return real(raw, path)

    monkeypatch.setattr(fitsfile, "parsed_fits", parse)
    return names


@pytest.fixture
def frame(tmp_path):
    """A manifest of nine positions in one frame of 600 pixels."""
    image = np.random.default_rng(1).normal(5, 1, (600, 600)).astype("f4")
    rows = ["id,image,x,y"]
    for number, (x, y) in enumerate((a, b) for a in (100, 300, 500) for b in (100, 300, 500)):
        image[y - 20 : y + 20, x - 22 : x + 22] += galaxy(noise=0, sky=0)
        rows.append(f"g{number},frame.fits,{x},{y}")
    fits.writeto(tmp_path / "frame.fits", image, fits.Header(wcs_cards()))
    fits.writeto(tmp_path / "psf.fits", gaussian())
    (tmp_path / "list.csv").write_text("\n".join(rows))
    return tmp_path / "list.csv"


def test_a_frame_is_read_once_for_all_rows(frame, parsed):
    found = discover(None, manifest=frame)
    results = [read_source(source) for source in found]
    assert sorted(parsed) == ["frame.fits", "psf.fits"]
    assert [result.stamp.id for result in results] == [f"g{n}" for n in range(9)]
    for result, source in zip(results, found, strict=True):
        stamp = result.stamp
        assert stamp.origin[0] + stamp.x == source.overrides["x"]
        assert {os.path.basename(path) for path in result.hashes} == {"frame.fits", "psf.fits"}


def test_rows_do_not_depend_on_those_before(frame):
    found = discover(None, manifest=frame)
    together = [read_source(source).stamp for source in found]
    reader._last.__dict__.clear()
    alone = read_source(found[7]).stamp
    for name in ("data", "sigma", "mask"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together[7], name))
    assert alone.messages == together[7].messages
    assert alone.sky_prior == together[7].sky_prior


def test_other_options_and_other_content_are_read_anew(frame):
    found = discover(None, manifest=frame)
    first = read_source(found[0]).stamp
    assert read_source(found[1], ReadOptions(sigma=9.0)).stamp.sigma[0, 0] == 9
    path = frame.parent / "frame.fits"
    data = fits.getdata(path) + 100
    fits.writeto(path, data, fits.getheader(path), overwrite=True)
    assert np.median(read_source(found[0]).stamp.data) > np.median(first.data) + 50


def test_a_broken_frame_is_broken_once(frame, parsed):
    (frame.parent / "psf.fits").write_bytes(b"SIMPLE  = nonsense")
    for source in discover(None, manifest=frame):
        with pytest.raises(InputError, match=r"psf\.fits"):
            read_source(source)
    assert parsed.count("frame.fits") == 1


def test_a_wrong_position_is_that_rows_alone(frame, writer):
    """In frames, and in stamps that several rows share."""
    writer.object("small")
    rows = ["a,frame.fits,900,5", "b,frame.fits,300,300"]
    rows += ["c,small_image.fits,400,3", "d,small_image.fits,20,20"]
    frame.write_text("id,image,x,y\n" + "\n".join(rows))
    problems = []
    for source in discover(None, manifest=frame):
        try:
            read_source(source)
        except InputError as error:
            problems.append((source.id, "outside" in error.problem))
    assert problems == [("a", True), ("c", True)]


def test_extensions_of_one_file(tmp_path, parsed):
    hdus = [fits.ImageHDU(galaxy(seed=k), name=f"G{k:03d}") for k in range(20)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "many.fits")
    for number, source in enumerate(discover(tmp_path)):
        stamp = read_source(source, ReadOptions(psf="none")).stamp
        np.testing.assert_array_equal(stamp.data, galaxy(seed=number))
    assert parsed == ["many.fits"]


def test_scaled_pixels_are_the_same_each_time(tmp_path):
    """BSCALE and BZERO are applied at every reading, not only at the first."""
    hdu = fits.ImageHDU(np.arange(100, dtype="i2").reshape(10, 10), name="A")
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 7.0
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    file = fitsfile.open_fits(path)
    for _ in range(3):
        data, _ = fitsfile.image_array(file, file.find("A"), "image")
        np.testing.assert_array_equal(data, 7 + 0.5 * np.arange(100).reshape(10, 10))


def test_kept_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(fitsfile, "KEPT_BYTES", 40_000)
    for number in range(10):
        fits.writeto(tmp_path / f"{number}.fits", np.zeros((50, 50), "f4"))
        fitsfile.open_fits(tmp_path / f"{number}.fits")
        kept = fitsfile._kept.files
        assert sum(file.length for file in kept.values()) <= 40_000
    assert len(kept) == 2  # of 14 400 bytes each


def test_few_small_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fitsfile, "KEPT_FILES", 3)
    for number in range(5):
        fits.writeto(tmp_path / f"{number}.fits", np.zeros((50, 50), "f4"))
        fitsfile.open_fits(tmp_path / f"{number}.fits")
    assert [file.path.name for file in fitsfile._kept.files.values()] == [
        "2.fits", "3.fits", "4.fits",
    ]  # fmt: skip


def test_a_shared_psf_is_checked_once(tmp_path):
    """Objects of a folder with one PSF have the same array, which nobody can change."""
    for name in "ab":
        fits.writeto(tmp_path / f"{name}_image.fits", galaxy())
        fits.writeto(tmp_path / f"{name}_sigma.fits", np.full((40, 44), 0.5, "f4"))
    fits.writeto(tmp_path / "psf.fits", gaussian())
    first, second = (read_source(source).stamp.psf.data for source in discover(tmp_path))
    assert first is second and not first.flags.writeable


@pytest.mark.parametrize("kind", [fits.ImageHDU, fits.CompImageHDU])
def test_signalling_nans_become_nan_without_a_warning(kind, tmp_path):
    """The float32 0x7f800001, whose cast to float64 is "invalid" (pytest makes warnings errors)."""
    image = galaxy((40, 44))
    image.view(np.uint32)[3, 4] = 0x7F800001
    options = {"compression_type": "NOCOMPRESS"} if kind is fits.CompImageHDU else {}
    hdus = [fits.PrimaryHDU(), kind(image, name="SCI", **options)]
    path = tmp_path / "a.fits"
    fits.HDUList(hdus).writeto(path)
    stamp = read_source(discover(path)[0], ReadOptions(psf="none")).stamp
    assert stamp.mask[3, 4]
    assert stamp.mask.sum() == 1
    assert np.isfinite(stamp.data).all()
    assert not any("invalid value" in text for text in stamp.messages)
