"""Files that unpack to far more than they hold, or have far more behind their image."""

from __future__ import annotations

import bz2
import gzip
import resource
import time

import numpy as np
import pytest
from astropy.io import fits

from autofit_ml.errors import InputError
from autofit_ml.images import discover, read_item
from autofit_ml.images.fitsfile import image_array, list_hdus, open_fits

MIB = 2**20


def plain(shape=(64, 64), name="plain.fits", folder=None) -> bytes:
    path = folder / name
    fits.writeto(path, np.random.default_rng(1).normal(0, 1, shape).astype("f4"))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)]
)
def test_only_what_headers_claim_is_unpacked(tmp_path, ending, pack):
    """An image with 200 MB of zeros behind it is the image, at once."""
    raw = plain(folder=tmp_path)
    path = tmp_path / f"padded.fits{ending}"
    path.write_bytes(pack(raw + bytes(200 * MIB)))
    began = time.process_time()
    assert [info.shape for info in list_hdus(path)] == [(64, 64)]
    file = open_fits(path)
    assert file.length < 2 * MIB
    data, _ = image_array(file, file.infos[0], "image")
    assert time.process_time() - began < 1.0
    wanted, _ = image_array(open_fits(tmp_path / "plain.fits"), file.infos[0], "image")
    np.testing.assert_array_equal(data, wanted)


def test_what_a_small_file_may_claim_is_bounded(tmp_path):
    """1 MB of gzip whose header claims 4 GB."""
    header = fits.PrimaryHDU(np.zeros((2, 2), "f4")).header
    header["NAXIS1"] = header["NAXIS2"] = 32768
    path = tmp_path / "claims.fits.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header.tostring().encode())
        for _ in range(300):
            stream.write(bytes(MIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="unpacks to over 256 MiB") as caught:
        open_fits(path)
    assert "gzip" in caught.value.remedy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024  # kB


def test_what_tiles_may_unpack_to_is_bounded(tmp_path):
    path = tmp_path / "tiles.fits.fz"
    zeros = fits.CompImageHDU(np.zeros((256, 256), "f4"), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), zeros]).writeto(path)
    raw = path.read_bytes()
    for axis in (1, 2):
        small, large = (f"ZNAXIS{axis} ={side:>21}".encode() for side in (256, 32768))
        assert small in raw
        raw = raw.replace(small, large)
    path.write_bytes(raw)
    file = open_fits(path)
    assert file.infos[1].shape == (32768, 32768)
    with pytest.raises(InputError, match="unpacks to 4096 MiB") as caught:
        image_array(file, file.infos[1], "image")
    assert "funpack" in caught.value.remedy


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
def test_damage_is_still_seen(tmp_path, ending):
    raw = plain(folder=tmp_path)
    packed = bytearray((gzip.compress if ending == ".gz" else bz2.compress)(raw))
    packed[len(packed) // 2] ^= 255
    path = tmp_path / f"damaged.fits{ending}"
    path.write_bytes(packed)
    with pytest.raises(InputError, match="damaged"):
        open_fits(path)


def test_several_hdus_tables_and_groups_are_within_what_headers_claim(tmp_path):
    """Every HDU of a compressed file is read, heaps of tables and odd lengths among them."""
    path = tmp_path / "many.fits"
    lines = [np.arange(k) for k in range(1, 40)]
    table = fits.BinTableHDU.from_columns([fits.Column("a", "PJ()", array=np.array(lines, object))])
    groups = fits.GroupsHDU(
        fits.GroupData(np.ones((3, 5, 7), "f4"), bitpix=-32, parnames=["p"], pardata=[np.zeros(3)])
    )
    image = fits.ImageHDU(np.ones((31, 17), "i2"), name="LAST")
    fits.HDUList([groups, table, image]).writeto(path)
    packed = tmp_path / "many.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert open_fits(packed).length == path.stat().st_size
    assert [info.name for info in open_fits(packed).infos][-1] == "LAST"


def test_rows_of_bombs_name_file_and_remedy(tmp_path):
    plain(folder=tmp_path)
    header = fits.PrimaryHDU(np.zeros((2, 2), "f4")).header
    header["NAXIS1"] = header["NAXIS2"] = 32768
    bomb = header.tostring().encode() + bytes(300 * MIB)
    (tmp_path / "bomb.fits.gz").write_bytes(gzip.compress(bomb, 1))
    found = {source.id: source for source in discover(tmp_path)}
    assert set(found) == {"bomb", "plain"}
    with pytest.raises(InputError, match="bomb.fits.gz"):
        read_item(found["bomb"])
