import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from autofit_ml.catalogue import object_fits_bytes


@pytest.fixture
def planes():
    rng = np.random.default_rng(3)
    data = rng.normal(size=(20, 30)).astype(np.float32)
    model = data * 0.5
    return {
        "data": data,
        "sigma": np.ones_like(data),
        "mask": data > 1,
        "model": model,
        "residual": data - model,
        "labels": (data > 0).astype(np.int64) * 3,
    }


def one_row(rows, i=0):
    return {name: values[i] for name, values in rows.items()}


def test_planes_header_and_checksums(planes, make_rows):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.1, 2.2], [5, 6], [-1e-4, 1e-4]
    rows = make_rows(["Δ星 \\ id", "b"])
    rows["message"][0] = "a long message " * 20
    rows["re_err"][0] = np.nan
    payload = object_fits_bytes(
        **planes, row=one_row(rows), target=3, wcs=wcs, origin=(100, 200),
        components=[planes["model"]],
    )  # fmt: skip
    with fits.open(io.BytesIO(payload), checksum=True) as hdus:
        hdus.verify("exception")
        names = ["PRIMARY", "IMAGE", "MODEL", "RESIDUAL", "SIGMA", "MASK", "SEGM", "COMPONENT_1"]
        assert [hdu.name for hdu in hdus] == names
        assert hdus[0].data is None
        for hdu in hdus:
            assert "CHECKSUM" in hdu.header and "DATASUM" in hdu.header
        np.testing.assert_array_equal(hdus["IMAGE"].data, planes["data"])
        np.testing.assert_array_equal(hdus["MASK"].data, planes["mask"])
        assert hdus["IMAGE"].data.dtype == ">f4" and hdus["MASK"].data.dtype == np.uint8
        assert hdus["SEGM"].data.dtype == ">i4" and hdus["SEGM"].header["TARGET"] == 3
        header = hdus[0].header
        assert header["ID"] == "\\u0394\\u661f \\\\ id"
        assert header["RE"] == rows["re"][0] and "[pix]" in header.comments["RE"]
        assert header["RE_ARCSEC_ERR"] == rows["re_arcsec_err"][0]
        assert "RE_ERR" in header and header["RE_ERR"] is None
        assert header["MESSAGE"] == rows["message"][0].rstrip(" ") + "\\x20"
        for name in names[1:]:
            found = WCS(hdus[name].header).pixel_to_world_values(3.0, 4.0)
            np.testing.assert_allclose(found, wcs.pixel_to_world_values(3.0, 4.0), rtol=1e-12)
            assert (hdus[name].header["LTV1"], hdus[name].header["LTV2"]) == (-100, -200)


def test_failed_object_has_no_model(planes, make_rows):
    given = {name: planes[name] for name in ("data", "sigma", "mask")}
    payload = object_fits_bytes(**given, row=one_row(make_rows(["a"], failed=("a",))))
    with fits.open(io.BytesIO(payload), checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "SIGMA", "MASK"]
        assert hdus[0].header["STATUS"] == "failed"


def test_planes_must_agree_in_shape(planes, make_rows):
    planes["model"] = planes["model"][:-1]
    with pytest.raises(ValueError, match="MODEL has shape"):
        object_fits_bytes(**planes, row=one_row(make_rows(["a"])))


def test_same_fit_gives_the_same_bytes(planes, make_rows):
    row = one_row(make_rows(["a"]))
    assert object_fits_bytes(**planes, row=row) == object_fits_bytes(**planes, row=row)


def test_numbers_are_written_as_astropy_writes_them():
    from autofit_ml.catalogue.objects import _float_card

    rng = np.random.default_rng(1)
    numbers = [0.0, -0.0, 1.0, -1e22, 1e-300, 1 / 3, -1.2345678901234567e-100]
    numbers += list(rng.normal(size=300) * 10.0 ** rng.integers(-30, 30, 300))
    for keyword in ("RE", "HIERARCH RE_ARCSEC_ERR"):
        for comment in ("[pix] half-light radius", "a" * (46 - len(keyword)), ""):
            for number in map(float, numbers):
                expected = str(fits.Card(keyword, number, comment))
                assert _float_card(keyword, number, comment) == expected
