"""Known answers of reading: every form of a plane gives the same stamp."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os

import numpy as np
import pytest
from astropy.io import fits
from fits_builders import galaxy, gaussian, wcs_cards
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError
from autofit_ml.images import (
    PSF,
    ReadOptions,
    Source,
    discover,
    moffat_psf,
    read,
    read_source,
)


def only(path, **options):
    return read_source(discover(path)[0], ReadOptions(**options)).stamp


def outcome(source, **options):
    """(stamp, None) or (None, the InputError)."""
    try:
        return read_source(source, ReadOptions(mode="stamp", **options)).stamp, None
    except InputError as error:
        return None, error


def test_simple_object(writer):
    good = galaxy()
    path = writer.object(image=good, sigma=2.0, cards={"FILTER": "r", "ZP": 25.0, "GAIN": 4.0})
    stamp = only(path)
    np.testing.assert_array_equal(stamp.data, good)
    assert stamp.data.dtype == stamp.sigma.dtype == stamp.psf.data.dtype == np.float32
    assert stamp.data.dtype.isnative
    assert stamp.mask.dtype == bool
    assert not stamp.mask.any()
    assert np.all(stamp.sigma == 2)
    assert (stamp.id, stamp.filter, stamp.zeropoint, stamp.gain) == ("g1", "r", 25.0, 4.0)
    assert stamp.position == (21.5, 19.5)
    assert stamp.flags == 0
    assert stamp.messages == ()
    assert stamp.file == str(path)
    assert stamp.psf.source.endswith("g1_psf.fits")


@pytest.mark.parametrize("form", ["plain", "gz", "bz2", "fz", "gz called fits", "fz gzip"])
def test_compressions_give_the_same_stamp(form, writer):
    good = galaxy()
    reference = only(writer.object("ref", image=good))
    plain = writer.plane("tmp.fits", good)
    content = plain.read_bytes()
    plain.unlink()
    folder = writer.folder
    if form == "plain":
        (folder / "g1_image.fits").write_bytes(content)
    elif form == "gz":
        (folder / "g1_image.fits.gz").write_bytes(gzip.compress(content))
    elif form == "gz called fits":
        (folder / "g1_image.fits").write_bytes(gzip.compress(content))
    elif form == "bz2":
        (folder / "g1_image.fits.bz2").write_bytes(bz2.compress(content))
    else:
        tiles = fits.CompImageHDU(good, compression_type="GZIP_1", quantize_level=0.0)
        fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(folder / "g1_image.fits.fz")
        if form == "fz gzip":
            packed = gzip.compress((folder / "g1_image.fits.fz").read_bytes())
            (folder / "g1_image.fits.fz").write_bytes(packed)
    os.rename(folder / "ref_sigma.fits", folder / "g1_sigma.fits")
    os.rename(folder / "ref_psf.fits", folder / "g1_psf.fits")
    stamp = read_source(next(s for s in discover(folder) if s.id == "g1")).stamp
    np.testing.assert_array_equal(stamp.data, reference.data)
    np.testing.assert_array_equal(stamp.sigma, reference.sigma)


@pytest.mark.parametrize(
    ("suffix", "convert"),
    [
        ("sigma", lambda s: s),
        ("err", lambda s: s),
        ("rms", lambda s: s),
        ("var", np.square),
        ("ivar", lambda s: s**-2.0),
        ("invvar", lambda s: s**-2.0),
        ("wht", lambda s: s**-2.0),
    ],
)
@pytest.mark.parametrize("unit", [1.0, 1e-13])
def test_noise_forms(suffix, convert, unit, writer):
    """sigma 1e-13 has variance 1e-26 and inverse variance 1e26: converted in double precision."""
    sigma = np.linspace(0.8, 1.6, 40 * 44).reshape(40, 44)
    writer.object(image=galaxy().astype(float) * unit, sigma=False)
    writer.plane(f"g1_{suffix}.fits", convert(sigma * unit))
    stamp = only(writer.folder)
    np.testing.assert_allclose(stamp.sigma, sigma * unit, rtol=1e-6)
    assert not stamp.flags & Flag.SIGMA_ESTIMATED


@pytest.mark.parametrize(
    ("suffix", "bad"),
    [
        ("sigma", [0.0, -1.0, np.nan, np.inf, 1e10, 1e31]),
        ("var", [0.0, -4.0, np.nan, np.inf, 1e20]),
        ("ivar", [0.0, -1.0, np.nan, np.inf, 1e-20]),
    ],
)
def test_pixels_without_noise_are_masked(suffix, bad, writer):
    plane = np.ones((40, 44))
    plane[3, : len(bad)] = bad
    writer.object(sigma=False)
    writer.plane(f"g1_{suffix}.fits", plane)
    stamp = only(writer.folder)
    assert stamp.mask.sum() == len(bad)
    assert stamp.mask[3, : len(bad)].all()
    assert np.all(stamp.sigma == 1)
    assert any(f"{len(bad)} pixels without valid" in m for m in stamp.messages)


def test_large_units_are_no_sentinel(writer):
    """An image in units of 1e-12 maggies has honest sigmas above 1e10."""
    stamp = only(writer.object(image=galaxy() * 1e12, sigma=1e12))
    assert not stamp.mask.any()


def test_weight_that_is_an_exposure_map(writer):
    image = galaxy(shape=(80, 80), flux=5000, noise=1.0)
    exposure = np.full((80, 80), 1200.0)
    exposure[:, :40] = 2400.0
    writer.object(image=image, sigma=False)
    writer.plane("g1_wht.fits", exposure)
    stamp = only(writer.folder)
    assert stamp.flags & Flag.SIGMA_ESTIMATED
    assert any("not an inverse variance" in m for m in stamp.messages)
    assert stamp.sigma[5, 70] / stamp.sigma[5, 5] == pytest.approx(np.sqrt(2), rel=1e-5)
    assert np.median(stamp.sigma) == pytest.approx(1.0, rel=0.25)


def test_several_noise_planes(writer):
    writer.object(sigma=3.0)
    writer.plane("g1_ivar.fits", np.ones((40, 44)))
    stamp = only(writer.folder)
    assert np.all(stamp.sigma == 3)
    assert any("several noise planes" in m for m in stamp.messages)


def test_unnamed_inverse_variance_is_recognised(tmp_path):
    cards = fits.Header({"CRVAL1": 10.0, "CTYPE1": "X"})
    image = fits.ImageHDU(galaxy((60, 60), noise=0.1, flux=300), cards)
    plane = fits.ImageHDU(np.full((60, 60), 100.0))
    fits.HDUList([fits.PrimaryHDU(), image, plane]).writeto(tmp_path / "a.fits")
    stamp = only(tmp_path, psf="none")
    assert np.all(stamp.sigma == np.float32(0.1))
    assert any("taken as ivar" in m for m in stamp.messages)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8", "u2", ">f4"])
def test_pixel_types(dtype, writer):
    values = np.clip(np.rint(galaxy() * 2), 1, 250).astype(dtype)
    stamp = only(writer.object(image=values))
    np.testing.assert_array_equal(stamp.data, values.astype(np.float32))


def test_bscale_bzero_blank(writer):
    path = writer.object()
    header = fits.Header({"BSCALE": 0.5, "BZERO": 100.0, "BLANK": -99})
    raw = np.arange(40 * 44).reshape(40, 44).astype(np.int32)
    raw[2, 2] = -99
    hdu = fits.PrimaryHDU(raw)
    hdu.header.update(header)
    hdu.data = raw
    hdu.writeto(path, overwrite=True)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        for key, value in header.items():
            hdus[0].header[key] = value
    stamp = only(path)
    assert stamp.data[1, 1] == pytest.approx(100 + 0.5 * 45)
    assert stamp.mask[2, 2]
    assert stamp.data[2, 2] == 0
    assert stamp.mask.sum() == 1


def test_bad_pixels(writer):
    image = galaxy()
    image[4, 5] = np.nan
    image[6, 7] = np.inf
    image[8, 9] = -np.inf
    image[9, 9] = -1e32
    stamp = only(writer.object(image=image))
    assert sorted(zip(*np.nonzero(stamp.mask), strict=True)) == [(4, 5), (6, 7), (8, 9), (9, 9)]
    assert np.all(stamp.data[stamp.mask] == 0)
    assert np.isfinite(stamp.data).all()
    assert any("4 NaN" in m for m in stamp.messages)


def test_huge_and_tiny_values_survive(writer):
    for unit in (1e-25, 1e25):
        stamp = only(writer.object(image=galaxy().astype(float) * unit, sigma=unit))
        np.testing.assert_allclose(stamp.data, galaxy() * unit, rtol=1e-5)
        assert not stamp.mask.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.int64])
def test_masks(dtype, writer):
    mask = np.zeros((40, 44), dtype)
    mask[3, 4] = 1
    mask[5, 6] = 64
    stamp = only(writer.object(mask=mask))
    assert stamp.mask.sum() == 2
    assert stamp.mask[3, 4]
    stamp = only(writer.folder, mask_ignore_bits=64)
    assert stamp.mask.sum() == 1


def test_nan_in_a_mask_is_bad(writer):
    mask = np.zeros((40, 44), np.float32)
    mask[0, 0] = np.nan
    assert only(writer.object(mask=mask)).mask[0, 0]


def test_segmentation_and_target(writer):
    labels = np.zeros((40, 44), np.int16)
    labels[10:30, 12:32] = 3
    labels[0:4, 0:4] = 7
    writer.object()
    writer.plane("g1_seg.fits", labels, {"TARGET": 3})
    stamp = only(writer.folder)
    np.testing.assert_array_equal(stamp.labels, labels)
    assert stamp.labels.dtype == np.int32
    assert stamp.target_label == 3
    writer.plane("g1_seg.fits", labels, {"TARGET": 9})
    stamp = only(writer.folder)
    assert stamp.target_label is None
    assert any("TARGET=9" in m for m in stamp.messages)
    writer.plane("g1_seg.fits", labels, {"TARGET": "NGC 1"})
    assert only(writer.folder).target_label is None


def test_saturation(writer):
    image = galaxy()
    image[20, 20:23] = 5000
    stamp = only(writer.object(image=image, cards={"SATURATE": 5000.0}))
    assert stamp.saturated.sum() == 3
    assert stamp.mask[20, 20:23].all()
    stamp = only(writer.object(image=image, cards={"SATURATE": 6000.0, "SKYSUB": 1000.0}))
    assert stamp.saturated.sum() == 3
    stamp = only(writer.object(image=image, cards={"SATURATE": 1e-3}))
    assert stamp.saturated is None
    assert any("SATURATE" in m for m in stamp.messages)


@pytest.mark.parametrize("shape", [(1, 40, 44), (1, 1, 40, 44)])
def test_unit_axes_are_squeezed(shape, writer):
    stamp = only(writer.object(image=galaxy().reshape(shape), sigma=False))
    np.testing.assert_array_equal(stamp.data, galaxy())
    assert any("squeezed" in m for m in stamp.messages)


def test_padding_may_be_missing(writer):
    """The last block of a file cut short after the data: nothing is lost."""
    path = writer.object()
    content = path.read_bytes()
    end = len(fits.getheader(path).tostring()) + 4 * 40 * 44
    assert end < len(content)
    path.write_bytes(content[:end])
    np.testing.assert_array_equal(only(path).data, galaxy())


def test_hashes_are_those_of_the_files(writer):
    path = writer.object(mask=np.zeros((40, 44), np.uint8))
    result = read_source(discover(path)[0])
    assert len(result.hashes) == 4
    for name, digest in result.hashes.items():
        with open(name, "rb") as stream:
            assert hashlib.sha256(stream.read()).hexdigest() == digest


def test_each_file_is_read_once(writer, monkeypatch):
    from pathlib import Path

    path = writer.folder / "one.fits"
    good = galaxy()
    fits.HDUList(
        [
            fits.PrimaryHDU(good),
            fits.ImageHDU(good * 0 + 1, name="SIGMA"),
            fits.ImageHDU(gaussian(), name="PSF"),
        ]
    ).writeto(path)
    source = discover(path)[0]
    reads = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or original(self))
    read_source(source)
    assert reads == [path]


class TestPsfPrecedence:
    def test_option_file_wins(self, writer):
        path = writer.object()
        wide = writer.plane("wide.fits", gaussian(fwhm=6.0))
        assert only(path, psf=wide).psf.data.max() < 0.5 * only(path).psf.data.max()
        assert only(path, psf=wide).psf.source == str(wide)

    def test_plane_wins_over_fwhm(self, writer):
        path = writer.object(cards={"PIXSCALE": 0.2})
        stamp = only(path, psf_fwhm=2.0)
        assert stamp.psf.source.endswith("g1_psf.fits")
        assert not stamp.flags & Flag.PSF_ESTIMATED

    def test_fwhm(self, writer):
        path = writer.object(psf=False, cards={"PIXSCALE": 0.2})
        stamp = only(path, psf_fwhm=0.8)
        assert stamp.flags & Flag.PSF_ESTIMATED
        assert stamp.psf.source == "analytic"
        np.testing.assert_allclose(stamp.psf.data.max(), moffat_psf(4.0).data.max(), rtol=1e-5)

    def test_none(self, writer):
        stamp = only(writer.object(), psf="none")
        assert stamp.psf.data.shape == (1, 1)
        assert not stamp.psf.has_pixel
        assert stamp.psf.source == "none"

    def test_array_and_psf(self, writer):
        path = writer.object()
        assert only(path, psf=gaussian() * 7).psf.data.sum() == pytest.approx(1)
        ready = PSF(np.ones((1, 1), np.float32), source="mine")
        assert only(path, psf=ready).psf is ready


def test_psf_cards(writer):
    path = writer.object(cards={"PIXSCALE": 0.2})
    writer.plane("g1_psf.fits", gaussian(), {"PSFPIX": False, "OVERSAMP": 3})
    stamp = only(path)
    assert not stamp.psf.has_pixel
    assert stamp.psf.oversampling == 3
    writer.plane("g1_psf.fits", gaussian(), {"PIXSCALE": 0.05})
    stamp = only(path)
    assert stamp.psf.has_pixel
    assert stamp.psf.oversampling == 4
    assert any("4 times oversampled" in m for m in stamp.messages)
    writer.plane("g1_psf.fits", gaussian(), {"PIXSCALE": 0.3})
    stamp = only(path)
    assert stamp.psf.oversampling == 1
    assert stamp.flags & Flag.BAD_PSF
    assert any("PSF resampled" in m for m in stamp.messages)
    assert only(path, psf_oversampling=2, psf_has_pixel=False).psf.oversampling == 2


def test_psf_larger_than_the_stamp(writer):
    stamp = only(writer.object(psf=gaussian((301, 301), 4.0)))
    assert stamp.psf.data.shape[0] <= 2 * 40 + 1
    assert stamp.psf.data.sum() == pytest.approx(1, abs=1e-5)


def test_manifest_over_options_over_header(writer):
    writer.object(cards={"ZP": 20.0, "GAIN": 1.0})
    manifest = writer.folder / "list.csv"
    manifest.write_text("image,sigma,psf,zeropoint\ng1_image.fits,g1_sigma.fits,g1_psf.fits,22\n")
    source = discover(None, manifest=manifest)[0]
    stamp = read_source(source, ReadOptions(zeropoint=21.0, gain=9.0)).stamp
    assert stamp.zeropoint == 22.0
    assert stamp.gain == 9.0
    assert only(writer.folder / "g1_image.fits", zeropoint=21.0).zeropoint == 21.0


def test_sky_position_in_a_manifest(writer):
    writer.object(cards=wcs_cards(0.2, (21.0, 16.0)))
    manifest = writer.folder / "list.csv"
    manifest.write_text(
        "image,sigma,psf,ra,dec\ng1_image.fits,g1_sigma.fits,g1_psf.fits,150.0,2.0\n"
    )
    stamp = read_source(discover(None, manifest=manifest)[0]).stamp
    assert stamp.position == pytest.approx((20.0, 15.0), abs=1e-6)  # CRPIX is 1-based


def test_read_by_hand_made_source(writer):
    path = writer.object()
    source = Source("mine", {"image": (path, 0)})
    with pytest.raises(InputError, match="no PSF"):
        read_source(source)
    stamp = read_source(source, ReadOptions(psf="none", sigma=2.5)).stamp
    assert np.all(stamp.sigma == 2.5)


def test_read_many(writer):
    for name in ("b", "a", "c"):
        writer.object(name)
    assert [s.id for s in read(writer.folder)] == ["a", "b", "c"]


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    sigma=st.lists(st.integers(0, 40), min_size=2, max_size=2),
    psf=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    same=st.booleans(),
)
def test_any_shapes(image, sigma, psf, same, writer):
    """Any shapes give a consistent stamp or an InputError, never anything else."""
    rng = np.random.default_rng(0)
    path = writer.folder / "g1_image.fits"
    fits.writeto(path, rng.normal(size=image), overwrite=True)
    if same and len(image) == 2:
        sigma = image
    fits.writeto(writer.folder / "g1_sigma.fits", np.ones(sigma), overwrite=True)
    kernel = np.zeros(psf)
    kernel[tuple(n // 2 for n in psf)] = 1
    fits.writeto(writer.folder / "g1_psf.fits", kernel, overwrite=True)
    stamp, error = outcome(discover(path)[0])
    if stamp is None:
        assert error.remedy
        assert "g1_" in str(error)
        return
    assert stamp.data.shape == stamp.sigma.shape == stamp.mask.shape
    assert min(stamp.shape) >= 5
    assert stamp.psf.data.sum() == pytest.approx(1, abs=1e-5)


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 11000), value=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_any_damage(position, value, cut, writer):
    """Bytes overwritten or cut anywhere: a stamp or an InputError that names the file."""
    path = writer.object()
    content = bytearray(path.read_bytes())
    if cut:
        del content[position:]
    else:
        content[position : position + len(value)] = value
    path.write_bytes(bytes(content))
    stamp, error = outcome(discover(path)[0])
    if stamp is None:
        assert error.remedy
        assert "g1_" in str(error)
        return
    assert np.isfinite(stamp.data).all()
    assert (stamp.sigma > 0).all()
