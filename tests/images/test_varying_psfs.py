"""PSFEx, Piff and grids: the images that their own software makes, at every object's place."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import NDData
from astropy.wcs.utils import fit_wcs_from_points
from photutils.psf import GriddedPSFModel
from piff_files import (
    POINTING,
    SHAPE,
    chip_tables,
    chip_wcs,
    polynomial_solution,
    table,
    write_piff,
)

from autofit_ml.errors import InputError
from autofit_ml.images import ReadOptions, cut_stamps, discover, read_source
from autofit_ml.images.fitsfile import open_fits
from autofit_ml.images.piff import piff_psf
from autofit_ml.images.psf_grid import gridded_psf, read_psf_grid
from autofit_ml.images.psfex import psfex_psf
from autofit_ml.images.sky_psf import on_the_sky
from autofit_ml.images.stamp import VaryingPSF
from autofit_ml.measure import core_centroid, psf_fwhm


def beside(image, reference):
    """Largest difference over the peak, on common pixels, both with the light of the reference."""
    n = min(image.shape[0], reference.shape[0])
    cuts = []
    for one in (image, reference):
        edge = (one.shape[0] - n) // 2
        cuts.append(one[edge : edge + n, edge : edge + n].astype(float))
    image, reference = cuts
    return np.abs(image * reference.sum() / image.sum() - reference).max() / reference.max()


# --- PSFEx ------------------------------------------------------------------------------------


def psfex_table(degree=1, name="PSF_MASK", rows=1, **cards):
    """A table as PSFEx writes it: a wide and a narrow Gaussian by position."""
    y, x = np.mgrid[-12:13, -12:13]
    wide, narrow = (np.exp(-(x**2 + y**2) / (2 * s**2)) / s**2 for s in (2.5, 2.0))
    planes = [wide, 0.2 * (wide - narrow), 0.1 * (x * wide), wide * 0, wide * 0, wide * 0]
    planes = np.stack(planes[: (degree + 1) * (degree + 2) // 2]).astype("f4")
    column = fits.Column(
        name, f"{planes.size}E", dim=f"(25, 25, {len(planes)})", array=np.stack([planes] * rows)
    )
    columns = [column]
    if rows > 1:
        columns.append(fits.Column("ccdname", "4A", array=[f"N{k + 1}" for k in range(rows)]))
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update(
        {"POLNAXIS": 2, "POLNAME1": "X_IMAGE", "POLNAME2": "Y_IMAGE", "POLGRP1": 1, "POLGRP2": 1,
         "POLNGRP": 1, "POLDEG1": degree, "POLZERO1": 301.0, "POLZERO2": 301.0, "POLSCAL1": 600.0,
         "POLSCAL2": 600.0, "PSF_SAMP": 1.0} | cards
    )  # fmt: skip
    return hdu


def write(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return open_fits(path)


def test_psfex_own_images(real_data):
    folder = real_data / "psf_models"
    psf = psfex_psf(open_fits(folder / "psfex321_simfield.psf"))
    with fits.open(folder / "psfex321_simfield_images.fits") as hdus:
        references = [hdu for hdu in hdus if hdu.name.startswith("IMRES")]
        x, y = (np.array([hdu.header[card] for hdu in references]) for card in ("XPOS", "YPOS"))
        images = psf.at(x - 1, y - 1)
        assert len(images) == 3
        for image, hdu in zip(images, references, strict=True):
            assert image.sum() == pytest.approx(1, abs=1e-6)
            assert beside(image, hdu.data) < 1e-5


def test_psfex_samples_where_they_are_needed(real_data):
    """At its own sampling, the model's samples themselves."""
    folder = real_data / "psf_models"
    file = open_fits(folder / "psfex321_simfield.psf")
    psf = psfex_psf(file, oversampling=2)
    assert psf.oversampling == 2
    with fits.open(folder / "psfex321_simfield_images.fits") as hdus:
        hdu = hdus["IMRES_11"]
        fine = psf.at([hdu.header["XPOS"] - 1], [hdu.header["YPOS"] - 1])[0]
        middle = fine.shape[0] // 2
        assert beside(fine[middle % 2 :: 2, middle % 2 :: 2], hdu.data) < 1e-5


@pytest.mark.parametrize(
    ("name", "fwhm"), [("bok_deep2g_ra352_1-ccd1.psf", 4.7), ("bok_ksb_170430_ccd4_psfex.fits", 3)]
)
def test_psfex_of_legacypipe(name, fwhm, real_data):
    psf = psfex_psf(open_fits(real_data / "psf_models" / name))
    assert psf.oversampling == 1
    one = psf.psf(300.0, 200.0)
    assert psf_fwhm(one) == pytest.approx(fwhm, abs=0.8)
    centre = core_centroid(one.data.astype(float))[:2]
    np.testing.assert_allclose(centre, (np.array(one.data.shape) - 1) / 2, atol=0.05)


def test_psfex_by_hand(tmp_path):
    """1-based positions, u first."""
    hdu = psfex_table()
    psf = psfex_psf(write(tmp_path / "a.psf", hdu))
    terms = np.asarray(hdu.data["PSF_MASK"][0], float)
    truth = terms[0] + 0.25 * terms[1] - 0.5 * terms[2]
    assert beside(psf.at([450.0], [0.0])[0], truth) < 1e-6


def test_psfex_variants(tmp_path):
    """Another case of the column, no POLNAXIS, sampling 0, a row for each detector."""
    plain = psfex_psf(write(tmp_path / "a.psf", psfex_table())).at([10.0], [500.0])
    bare = psfex_table(name="psf_mask", PSF_SAMP=0.0)
    del bare.header["POLNAXIS"], bare.header["POLGRP1"]
    same = psfex_psf(write(tmp_path / "b.psf", bare)).at([10.0], [500.0])
    np.testing.assert_array_equal(same, plain)
    merged = psfex_table(rows=3)
    merged.data["PSF_MASK"][1] *= -1.0
    file = write(tmp_path / "c.psf", merged)
    np.testing.assert_array_equal(psfex_psf(file, detector="N3").at([10.0], [500.0]), plain)
    with pytest.raises(InputError, match="3 detectors"):
        psfex_psf(file, detector="S1")
    files = write(tmp_path / "d.psf", psfex_table(POLZERO1=901.0), psfex_table())
    np.testing.assert_array_equal(psfex_psf(files, number=1).at([10.0], [500.0]), plain)
    with pytest.raises(InputError, match="2 images"):
        psfex_psf(files, number=2)
    constant = psfex_psf(write(tmp_path / "e.psf", psfex_table(degree=0, POLNAXIS=0, POLNGRP=0)))
    assert constant.at([-1e6], [1e6]).shape == (1, *plain.shape[1:])


@pytest.mark.parametrize(
    ("cards", "text"),
    [
        ({"POLNAME2": "MAG_AUTO"}, "MAG_AUTO"),
        ({"POLNGRP": 2}, "2 groups"),
        ({"POLDEG1": 2}, "degree 2 needs 6"),
        ({"POLSCAL1": 0.0}, "POLSCAL1"),
    ],
)
def test_psfex_refused(cards, text, tmp_path):
    with pytest.raises(InputError, match=text) as caught:
        psfex_psf(write(tmp_path / "a.psf", psfex_table(**cards)))
    assert caught.value.remedy
    assert "a.psf" in str(caught.value)


def test_psfex_without_its_table(tmp_path):
    with pytest.raises(InputError, match="PSF_MASK"):
        psfex_psf(write(tmp_path / "a.psf", table("x", y=[1.0])))


# --- Piff -------------------------------------------------------------------------------------


def test_piff_own_images(real_data):
    """The file's own stars stand in for the image's WCS; each reference tells its Jacobian.

    The stars' positions give the place on the sky to 0.03 arcsec near the edge of the chip, where
    0.03 arcsec change the PSF by 2e-5 of its peak.
    """
    folder = real_data / "psf_models"
    file = open_fits(folder / "des_D00240560_r_c01.piff")
    stars = file.hdus[2].data
    sky = SkyCoord(15.0 * stars["ra"], stars["dec"], unit="deg")
    wcs = fit_wcs_from_points((stars["x"] - 1, stars["y"] - 1), sky, sip_degree=3)
    psf = piff_psf(file, wcs, (4096, 2048))
    assert psf.model.offset == pytest.approx((1.0, 1.0), abs=0.01)
    assert psf.at([1000.0], [2000.0])[0].sum() == pytest.approx(1, abs=1e-6)
    with fits.open(folder / "des_D00240560_r_c01_piff_images.fits") as hdus:
        for k, tolerance in ((0, 2e-5), (1, 1e-5), (2, 1e-5)):
            hdu = hdus[f"TRUEPOS{k}"]
            card = hdu.header
            x, y = np.array([card["XPOS"]]), np.array([card["YPOS"]])
            u, v, near = on_the_sky(wcs, x - 1, y - 1, psf.model.pointing)
            jacobian = np.array([[card["DUDX"], card["DUDY"]], [card["DVDX"], card["DVDY"]]])
            np.testing.assert_allclose(near[0], jacobian, atol=2e-3)
            parameters = psf.model.parameters(np.stack([u, v, x, y]))
            columns = np.arange(31) + card["X0PIX"] - x, np.arange(31) + card["Y0PIX"] - y
            place = jacobian @ np.stack(np.meshgrid(*columns)).reshape(2, -1)
            drawn = psf.model.profile(parameters, *place[:, None]).reshape(31, 31)
            assert beside(drawn, hdu.data) < tolerance
            assert beside(psf.at(x - 1, y - 1)[0], hdus[f"CENTRED{k}"].data) < 1e-2


def galsim_at(profile, jacobian, side, method):
    galsim = pytest.importorskip("galsim", reason="GalSim draws what Piff draws")
    image = galsim.Image(side, side, wcs=galsim.JacobianWCS(*jacobian.ravel()), dtype=float)
    profile = profile.withGSParams(maxk_threshold=1e-5, kvalue_accuracy=1e-7)
    return profile.drawImage(image, method=method).array


PLACES = np.array([100.0, 640.0]), np.array([500.0, 333.0])


@pytest.mark.parametrize("kind", ["Gaussian", "Moffat"])
def test_piff_profiles(kind, tmp_path):
    """With the pixel for the Gaussian, without (and shifted) for the Moffat profile.

    GalSim's own convolution of a Moffat profile with the pixel is right to 5e-4 only.
    """
    galsim = pytest.importorskip("galsim", reason="GalSim draws what Piff draws")
    coefficients = np.zeros((3, 2, 2))
    coefficients[:, 0, 0] = 0.45, 0.05, -0.08
    coefficients[:, 1, 0] = 1e-4, 5e-5, 0.0
    coefficients[:, 0, 1] = -5e-5, 0.0, 8e-5
    model = {"type": "Gaussian", "include_pixel": 1, "force_model_center": 1}
    if kind == "Moffat":
        coefficients = np.concatenate([np.zeros((2, 2, 2)), coefficients])
        coefficients[:2, 0, 0] = 0.02, -0.05
        model = {"type": "Moffat", "beta": 2.5, "trunc": 4.0, "include_pixel": 0, "centered": 0}
    path = write_piff(
        tmp_path / "a.piff", model, {"type": "Polynomial", "order": 1, "poly_type": "poly"},
        polynomial_solution(coefficients),
    )  # fmt: skip
    psf = piff_psf(open_fits(path), chip_wcs(), SHAPE)
    images = psf.at(*PLACES)
    u, v, jacobian = on_the_sky(chip_wcs(), *PLACES, POINTING)
    for k in range(2):
        *shift, size, g1, g2 = (c[0, 0] + u[k] * c[1, 0] + v[k] * c[0, 1] for c in coefficients)
        profile = galsim.Gaussian(sigma=1.0)
        if kind == "Moffat":
            profile = galsim.Moffat(beta=2.5, half_light_radius=1.0, trunc=4.0)
        profile = profile.dilate(size).shear(g1=g1, g2=g2).shift(*(shift or (0, 0)))
        method = "auto" if kind == "Gaussian" else "no_pixel"
        assert beside(images[k], galsim_at(profile, jacobian[k], 31, method)) < 1e-5
    assert not (tmp_path / "a.loaded").exists()


@pytest.mark.parametrize("size", [12, 15])
def test_piff_pixel_grids(size, tmp_path):
    """A grid on the sky, odd or even, by a polynomial of the pixel position."""
    galsim = pytest.importorskip("galsim", reason="GalSim draws what Piff draws")
    v, u = np.mgrid[:size, :size] - size // 2
    first = np.exp(-(u**2 + v**2 + 0.3 * u * v) / 8.0).ravel()
    second = (1e-3 * u.ravel()) * first
    third = np.zeros_like(first)
    interpolation = {"type": "BasisPolynomial", "order": 1, "keys": np.array([["x", "y"]])}
    path = write_piff(
        tmp_path / "a.piff",
        {"type": "PixelGrid", "scale": 0.25, "size": size, "interp": "Lanczos(5)"},
        interpolation, table("x", q=np.stack([first, second, third], 1)[None]),
    )  # fmt: skip
    psf = piff_psf(open_fits(path), chip_wcs(), SHAPE)
    _, _, jacobian = on_the_sky(chip_wcs(), *PLACES, POINTING)
    for k, image in enumerate(psf.at(*PLACES)):
        samples = (first + second * (PLACES[1][k] + 1)).reshape(size, size)
        profile = galsim.InterpolatedImage(
            galsim.Image(samples, scale=0.25), x_interpolant=galsim.Lanczos(5),
            use_true_center=False, flux=1.0,
        )  # fmt: skip
        assert beside(image, galsim_at(profile, jacobian[k], 41, "no_pixel")) < 1e-5


def test_piff_chip_by_its_stars(tmp_path):
    """A file of two chips: each image has its own, and a stamp cut out of it, too."""
    hdus = [table("psf", type="SingleChip"), table("psf_chipnums", chipnums=[0, 1])]
    for chip, size in ((0, 0.4), (1, 0.6)):
        solution = table("x", mean=[size, 0.0, 0.0])
        model = {"type": "Gaussian", "include_pixel": 1}
        trap = tmp_path / "loaded"
        hdus += chip_tables(f"psf_{chip}", chip, model, {"type": "Mean"}, solution, trap)
    file = write(tmp_path / "a.piff", *hdus)
    widths = [psf_fwhm(piff_psf(file, chip_wcs(k), SHAPE).psf(400.0, 400.0)) for k in (0, 1)]
    assert widths[1] > 1.3 * widths[0]
    stamp = chip_wcs(1)[300:380, 500:580]
    one = piff_psf(file, stamp, (80, 80))
    assert one.model.offset == pytest.approx((501.0, 301.0), abs=1e-3)
    assert psf_fwhm(one.psf(40.0, 40.0)) == pytest.approx(widths[1], rel=0.01)
    elsewhere = chip_wcs(0)
    elsewhere.wcs.cd = elsewhere.wcs.cd @ [[0, 1], [-1, 0]]
    with pytest.raises(InputError, match="stars of this Piff file"):
        piff_psf(file, elsewhere, SHAPE)


def test_piff_of_old_pythons(real_data):
    """Two chips, Moffat profiles with a pixel; the WCS is that of the file's own stars."""
    file = open_fits(real_data / "psf_models" / "test_single_py27.piff")
    widths = []
    for chip in (1, 2):
        stars = file.hdus[file.find(f"psf_{chip}_stars").index].data
        sky = SkyCoord(15.0 * stars["ra"], stars["dec"], unit="deg")
        wcs = fit_wcs_from_points((stars["x"] - 1, stars["y"] - 1), sky)
        psf = piff_psf(file, wcs, (2048, 2048))
        widths.append(psf_fwhm(psf.psf(float(stars["x"][0]) - 1, float(stars["y"][0]) - 1)))
    assert all(1.5 < width < 6 for width in widths)


@pytest.mark.parametrize(
    ("model", "interpolation", "text"),
    [
        ({"type": "Optical"}, {"type": "Mean"}, "model of type 'Optical'"),
        ({"type": "Gaussian"}, {"type": "GPInterp"}, "interpolation of type 'GPInterp'"),
        (
            {"type": "Gaussian"},
            {"type": "BasisPolynomial", "order": 1, "keys": np.array([["u", "color"]])},
            "dependence on u, color",
        ),
        ({"type": "PixelGrid", "scale": 0.2, "size": 9}, {"type": "Mean"}, "grid 9 x 9"),
    ],
)
def test_piff_refused(model, interpolation, text, tmp_path):
    path = write_piff(
        tmp_path / "a.piff", model, interpolation, table("x", mean=[0.5, 0.0, 0.0])
    )  # fmt: skip
    with pytest.raises(InputError, match=text) as caught:
        piff_psf(open_fits(path), chip_wcs(), SHAPE)
    assert "a.piff" in str(caught.value)
    with pytest.raises(InputError, match="no WCS"):
        piff_psf(open_fits(path), None, SHAPE)


# --- grids ------------------------------------------------------------------------------------


def grid_images(number):
    y, x = np.mgrid[-14:15, -14:15] / 2.0
    return np.stack([np.exp(-(x**2 + y**2) / (3.0 + k)) for k in range(number)])


def test_grid_of_stpsf(tmp_path):
    """Cards hold (y, x): a grid of 3 columns and 2 rows, as photutils interpolates it."""
    x, y = np.tile([0.0, 300.0, 600.0], 2), np.repeat([50.0, 450.0], 3)
    images = grid_images(6)
    order = [3, 0, 5, 2, 1, 4]
    hdu = fits.PrimaryHDU(images[order])
    hdu.header["OVERSAMP"] = 2
    for k, node in enumerate(order):
        hdu.header[f"DET_YX{k}"] = f"({y[node]}, {x[node]})"
    hdu.writeto(tmp_path / "grid.fits")
    psf = read_psf_grid(open_fits(tmp_path / "grid.fits"))
    assert (psf.oversampling, psf.has_pixel) == (2, True)
    images = images / images.sum((1, 2), keepdims=True)
    meta = {"grid_xypos": list(zip(x, y, strict=True)), "oversampling": 2}
    model = GriddedPSFModel(NDData(images, meta=meta))
    ys, xs = np.mgrid[-14:15, -14:15] / 2.0
    places = [(150.0, 130.0), (600.0, 450.0), (410.0, 77.0), (-20.0, 600.0)]
    for found in (psf, gridded_psf(model)):
        for (px, py), image in zip(places, found.at(*np.transpose(places)), strict=True):
            truth = model.evaluate(xs + px, ys + py, 1.0, px, py)
            assert beside(image, truth) < 1e-6


def test_grid_of_stdpsf(tmp_path):
    hdu = fits.PrimaryHDU(grid_images(4))
    hdu.header.update(
        {"NXPSFS": 2, "NYPSFS": 2, "IPSFX01": 1, "IPSFX02": 101, "JPSFY01": 1, "JPSFY02": 201}
    )
    hdu.writeto(tmp_path / "grid.fits")
    psf = read_psf_grid(open_fits(tmp_path / "grid.fits"))
    assert psf.oversampling == 4
    for k, place in enumerate([(0, 0), (100, 0), (0, 200), (100, 200)]):
        assert beside(psf.at(*place)[0], grid_images(4)[k]) < 1e-6


def test_grids_refused(tmp_path):
    hdu = fits.PrimaryHDU(grid_images(3))
    hdu.header["OVERSAMP"] = 2
    for k, place in enumerate(["(0, 0)", "(0, 10)", "(10, 0)"]):
        hdu.header[f"DET_YX{k}"] = place
    hdu.writeto(tmp_path / "corner.fits")
    with pytest.raises(InputError, match="no rectangular grid"):
        read_psf_grid(open_fits(tmp_path / "corner.fits"))
    del hdu.header["DET_YX2"]
    hdu.writeto(tmp_path / "cards.fits")
    with pytest.raises(InputError, match="cannot be read"):
        read_psf_grid(open_fits(tmp_path / "cards.fits"))
    two = fits.PrimaryHDU(np.ones((90, 3, 3)))
    two.header.update({"NXPSFS": 9, "NYPSFS": 10})
    two.writeto(tmp_path / "two.fits")
    with pytest.raises(InputError, match="several detectors"):
        read_psf_grid(open_fits(tmp_path / "two.fits"))


# --- in frames and stamps ---------------------------------------------------------------------


@pytest.fixture
def frame_file(tmp_path):
    rng = np.random.default_rng(0)
    fits.writeto(tmp_path / "f.fits", rng.normal(size=(600, 600)).astype("f4"))
    fits.writeto(tmp_path / "f_sigma.fits", np.ones((600, 600), "f4"))
    write(tmp_path / "model.psf", psfex_table())
    return tmp_path / "f.fits"


def test_each_object_of_a_frame_has_its_psf(frame_file):
    options = ReadOptions(psf=frame_file.with_name("model.psf"))
    frame = read_source(discover(frame_file)[0], options).frame
    places = [{"x": 60.0, "y": 500.0}, {"x": 540.0, "y": 70.0}]
    truth = frame.psfs_at([60.0, 540.0], [500.0, 70.0])
    for stamp, image in zip(cut_stamps(frame, places), truth, strict=True):
        np.testing.assert_array_equal(stamp.psf.data, image)
    assert np.abs(truth[0] - truth[1]).max() > 0.01 * truth.max()
    np.testing.assert_array_equal(frame.psf.data, frame.psf_at(299.5, 299.5).data)


def test_a_stamp_says_where_it_was_cut(frame_file, tmp_path):
    model = frame_file.with_name("model.psf")
    frame = read_source(discover(frame_file)[0], ReadOptions(psf=model)).frame
    header = fits.Header({"LTV1": -400.0, "LTV2": -100.0})
    with fits.open(frame_file) as hdus:
        fits.writeto(tmp_path / "s.fits", hdus[0].data[100:165, 400:465], header)
    fits.writeto(tmp_path / "s_sigma.fits", np.ones((65, 65), "f4"))
    stamp = read_source(discover(tmp_path / "s.fits")[0], ReadOptions(psf=model)).stamp
    np.testing.assert_allclose(stamp.psf.data, frame.psf_at(432.0, 132.0).data, atol=1e-7)
    assert any("(32, 32)" in text for text in stamp.messages)


def test_a_psf_of_another_image(frame_file):
    write(frame_file.with_name("other.psf"), psfex_table(POLZERO1=9000.0))
    with pytest.raises(InputError, match="not known at pixel") as caught:
        read_source(discover(frame_file)[0], ReadOptions(psf=frame_file.with_name("other.psf")))
    assert "8699" in str(caught.value)
    psf = psfex_psf(open_fits(frame_file.with_name("model.psf")))
    for place in (760.0, np.nan):
        with pytest.raises(InputError, match="not known"):
            psf.at([100.0, place], [100.0, 100.0])


def test_a_varying_psf_in_memory(frame_file):
    psf = VaryingPSF(lambda x, y: grid_images(3)[np.digitize(x, [200.0, 400.0])], oversampling=2)
    frame = read_source(discover(frame_file)[0], ReadOptions(psf=psf)).frame
    images = [next(iter(cut_stamps(frame, [{"x": x, "y": 300.0}]))).psf.data for x in (100, 500)]
    assert beside(images[0], grid_images(3)[0]) < 1e-6
    assert beside(images[1], grid_images(3)[2]) < 1e-6
