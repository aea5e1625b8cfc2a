"""Frames: told from stamps, cut into stamps that know where they come from."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fits_builders import gaussian, wcs_cards

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError
from autofit_ml.images import (
    Frame,
    ReadOptions,
    VaryingPSF,
    cut_stamps,
    discover,
    moffat_psf,
    read,
    read_frame,
    read_source,
)
from autofit_ml.images.frame import stamp_half_size


def field(shape=(600, 640), seed=1, positions=((100, 120), (400, 300), (630, 590), (3, 300))):
    """Galaxies (x, y) on a tilted sky; noise 1."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape, dtype=float)
    image = 50 + 0.005 * x + rng.normal(0, 1, shape)
    for cx, cy in positions:
        image += 80 * np.exp(-np.hypot(x - cx, (y - cy) / 0.7) / 3)
    return image.astype(np.float32)


@pytest.fixture
def frame_file(writer):
    writer.plane("field.fits", field(), wcs_cards(0.3) | {"ZP": 27.0, "GAIN": 5.0})
    writer.plane("field_psf.fits", moffat_psf(3.0).data)
    return writer.folder / "field.fits"


def test_size_tells_a_frame(frame_file, writer):
    assert isinstance(read_source(discover(frame_file)[0]).item, Frame)
    stamp = read_source(discover(frame_file)[0], ReadOptions(mode="stamp", psf="none"))
    assert stamp.stamp.shape == (600, 640)
    small = writer.object("small")
    forced = read_source(discover(small)[0], ReadOptions(mode="frame")).item
    assert isinstance(forced, Frame)
    with pytest.raises(TypeError):
        _ = read_source(discover(frame_file)[0]).stamp
    with pytest.raises(InputError, match="a frame"):
        read(frame_file)


def test_frame_values(frame_file):
    frame = read_frame(discover(frame_file)[0])
    assert frame.zeropoint == 27.0
    assert frame.pixel_scale == pytest.approx(0.3, rel=1e-6)
    assert frame.flags & Flag.SIGMA_ESTIMATED
    assert not frame.flags & Flag.PSF_ESTIMATED
    assert np.median(frame.sigma) == pytest.approx(1.0, rel=0.03)
    assert frame.sigma[300, 400] > 2  # photon noise of a galaxy's core
    assert frame.psf.data.sum() == pytest.approx(1, abs=1e-5)


def test_cut_stamps(frame_file):
    frame = read_frame(discover(frame_file)[0])
    detections = [
        {"x": 100.3, "y": 119.8, "radius": 9.0, "id": "first"},
        {"x": 400.0, "y": 300.0, "radius": 12.0, "id": "second one"},
        {"x": 630.0, "y": 590.0, "radius": 9.0},
    ]
    stamps = list(cut_stamps(frame, detections))
    assert [s.id for s in stamps] == ["first", "second one", "field_00003"]
    for stamp, detection in zip(stamps, detections, strict=True):
        x0, y0 = stamp.origin
        assert stamp.x + x0 == pytest.approx(detection["x"])
        assert stamp.y + y0 == pytest.approx(detection["y"])
        ny, nx = stamp.shape
        np.testing.assert_array_equal(stamp.data, frame.data[y0 : y0 + ny, x0 : x0 + nx])
        sky = stamp.wcs.wcs_pix2world([[stamp.x, stamp.y]], 0)
        np.testing.assert_allclose(
            sky, frame.wcs.wcs_pix2world([[detection["x"], detection["y"]]], 0), atol=1e-9
        )
        level, error = stamp.sky_prior
        assert 0 < error < 1
        assert level == pytest.approx(50 + 0.005 * detection["x"], abs=max(4 * error, 0.15))
    assert stamps[0].shape == (2 * stamp_half_size(9.0, 3.0) + 1,) * 2
    assert not stamps[0].flags & Flag.EDGE
    assert stamps[2].flags & Flag.EDGE
    stamps[0].data[0, 0] = 1e9  # a copy: the frame is left alone
    assert frame.data[stamps[0].origin[1], stamps[0].origin[0]] < 1e6


@pytest.mark.parametrize("kind", ["table", "records"])
def test_detections_of_any_kind(kind, frame_file):
    frame = read_frame(discover(frame_file)[0])
    table = Table({"x": [100.0, 400.0], "y": [120.0, 300.0], "label": [4, 5]})
    labels = np.zeros(frame.data.shape, int)
    labels[295:305, 395:405] = 5
    detections = table if kind == "table" else table.as_array()
    stamps = list(cut_stamps(frame, detections, labels=labels))
    assert [s.target_label for s in stamps] == [4, 5]
    assert (stamps[1].labels == 5).sum() == 100


def test_psf_may_vary(frame_file):
    def model(x, y):
        return np.stack([moffat_psf(2 + k / 100, half_size=20).data for k in x])

    frame = read_frame(discover(frame_file)[0]).replace(varying_psf=VaryingPSF(model))
    stamps = list(cut_stamps(frame, [{"x": 100, "y": 100}, {"x": 500, "y": 100}]))
    assert stamps[0].psf.data.max() > 2 * stamps[1].psf.data.max()


def test_detection_outside(frame_file):
    frame = read_frame(discover(frame_file)[0])
    with pytest.raises(InputError, match="outside") as caught:
        list(cut_stamps(frame, [{"x": 700.0, "y": 10.0}]))
    assert "field.fits" in str(caught.value)


def test_no_psf_in_the_frame(frame_file):
    frame = read_frame(discover(frame_file)[0]).replace(psf=None)
    with pytest.raises(InputError, match="no PSF"):
        list(cut_stamps(frame, [{"x": 100.0, "y": 100.0}]))


@pytest.mark.parametrize("columns", ["x,y", "ra,dec"])
def test_position_in_a_manifest_cuts_a_stamp(columns, frame_file, writer):
    values = "400,300"
    if columns == "ra,dec":
        frame = read_frame(discover(frame_file)[0])
        ra, dec = frame.wcs.wcs_pix2world([[400.0, 300.0]], 0)[0]
        values = f"{ra:.10f},{dec:.10f}"
    manifest = writer.folder / "list.csv"
    manifest.write_text(
        f"id,image,psf,radius,{columns}\nm1,field.fits,field_psf.fits,10,{values}\n"
    )
    stamp = read_source(discover(None, manifest=manifest)[0]).stamp
    assert stamp.id == "m1"
    assert stamp.x + stamp.origin[0] == pytest.approx(400, abs=1e-3)
    assert stamp.y + stamp.origin[1] == pytest.approx(300, abs=1e-3)
    assert stamp.sky_prior is not None


def test_frame_without_stars(writer):
    writer.plane("empty.fits", field(positions=()))
    with pytest.raises(InputError, match="stars") as caught:
        read_source(discover(writer.folder / "empty.fits")[0])
    assert "--psf FILE" in caught.value.remedy
    assert "empty.fits" in str(caught.value)


def test_compressed_frame(writer, frame_file):
    path = writer.folder / "packed.fits.fz"
    hdu = fits.CompImageHDU(field(), compression_type="RICE_1", quantize_level=16)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    writer.plane("packed_psf.fits", gaussian())
    frame = read_source(discover(path)[0]).item
    assert np.abs(frame.data - field()).max() < 0.1
