"""Presets: every file is sound; SDSS frames and psField files by their data model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fits_builders import galaxy, gaussian, wcs_cards

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import ReadOptions, cut_stamps, discover, read_source
from autofit_ml.images.sdss import amplifier, reconstruct_psf, sky_image
from autofit_ml.presets import list_surveys, survey_preset


@pytest.mark.parametrize("name", list_surveys())
def test_every_preset_loads(name):
    preset = survey_preset(name)
    assert preset.title
    assert preset.references
    assert all(url.startswith(("https://", "http://")) for url in preset.references)
    for pattern in preset.files:
        values = dict.fromkeys(re.compile(pattern.image).groupindex, "1")
        assert pattern.id.format(**values)
        assert all(text.format(**values) for names in pattern.planes.values() for text in names)
        assert "image" in pattern.example


def test_the_guide_names_every_preset():
    guide = (Path(__file__).parents[2] / "docs/howto/survey.md").read_text()
    rows = re.findall(r"^\| `([a-z]+)` \|", guide, flags=re.MULTILINE)
    assert sorted(rows) == list_surveys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("title: a\nfancy: 1\n", "fancy"),
        ("title: a\nreading: {noise: {model: magic}}\n", "magic"),
        ("title: a\nseeing: {r: -1}\n", "seeing"),
        ("title: a\nreading: {files: [{image: x}]}\n", "id"),
    ],
)
def test_broken_preset(wrong, message, tmp_path, monkeypatch):
    (tmp_path / "broken.yaml").write_text(wrong)
    monkeypatch.setattr("autofit_ml.presets.preset.resources.files", lambda _: tmp_path)
    with pytest.raises(SettingsError, match=message):
        survey_preset("broken")


def test_unknown_preset():
    with pytest.raises(SettingsError) as caught:
        survey_preset("nonsense")
    assert "sdss" in caught.value.remedy


EXAMPLES = [
    (name, number, pattern.example)
    for name in list_surveys()
    for number, pattern in enumerate(survey_preset(name).files)
]


@pytest.mark.parametrize(("survey", "number", "example"), EXAMPLES)
def test_file_names_of_the_survey(survey, number, example, tmp_path):
    for name in example.values():
        (tmp_path / name).write_bytes(b"")
    (found,) = discover(tmp_path, survey=survey)
    files = {role: path.name for role, (path, _) in found.planes.items()}
    assert files == dict.fromkeys(
        survey_preset(survey).files[number].hdus, example["image"]
    ) | dict(example)
    assert found.survey == survey
    assert found.kind == survey_preset(survey).kind


@pytest.mark.parametrize(
    ("survey", "name"),
    [
        ("sdss", "sdss-003366-3-0110-r"),
        ("legacysurvey", "ls-1498p020-r"),
        ("hsc", "hsc-9813-4,5-I"),
        ("kids", "KiDS_DR4.0_140.0_0.5_r"),
        ("euclid", "euclid-102018211-VIS"),
    ],
)
def test_ids(survey, name, tmp_path):
    (tmp_path / survey_preset(survey).files[0].example["image"]).write_bytes(b"")
    assert [source.id for source in discover(tmp_path, survey=survey)] == [name]


@pytest.mark.parametrize("survey", list_surveys())
@pytest.mark.parametrize("naming", ["own", "common"])
def test_every_preset_reads_both_namings(survey, naming, tmp_path):
    """The survey's own file names, and those of the README, with its PSF found."""
    filters = {"hst": "F814W", "jwst": "F200W", "euclid": "VIS"}
    band = filters.get(survey, "r")
    cards = fits.Header({"FILTER": band, "BUNIT": "count"} | wcs_cards(0.2))
    example = survey_preset(survey).files[0].example
    names = (
        dict(example)
        if naming == "own"
        else {"image": "m51_image.fits", "sigma": "m51_sigma.fits", "psf": "m51_psf.fits"}
    )
    planes = {"psf": gaussian((25, 25), 3.0).astype("f4"), "mask": np.zeros((40, 44), np.int32)}
    for role, name in names.items():
        if name.startswith("psField"):
            psfield(tmp_path, name)
            continue
        plane = galaxy() if role == "image" else planes.get(role, np.full((40, 44), 2.0, "f4"))
        hdus = [fits.PrimaryHDU(plane, cards if role == "image" else None)]
        if survey == "jwst" and naming == "own" and role == "image":
            hdus = [
                fits.PrimaryHDU(header=cards[:1]),
                fits.ImageHDU(plane, cards, name="SCI"),
                fits.ImageHDU(np.full((40, 44), 2.0), name="ERR"),
            ]
        fits.HDUList(hdus).writeto(tmp_path / name.removesuffix(".fz").removesuffix(".bz2"))
    (source,) = discover(tmp_path, survey=survey)
    stamp = read_source(source, ReadOptions(survey=survey, mode="stamp")).stamp
    assert not stamp.flags & Flag.PSF_ESTIMATED
    own = naming == "own" and survey == "sdss"  # a psField file has the wider PSF of its test
    peak = gaussian((25, 25), 4.0 if own else 3.0).max()
    assert stamp.psf.data.max() == pytest.approx(peak, rel=0.01)
    if "sigma" in source.planes:
        assert stamp.sigma[3, 3] == 2


@pytest.mark.parametrize(
    ("run", "camcol", "band", "gain", "dark"),
    [
        # As stored with real SDSS images (17 frames of one spot, u g r i z).
        (4247, 4, "u", 1.6, 12.6025),
        (125, 4, "i", 4.885, 6.25),
        (4247, 4, "i", 4.885, 7.5625),
        (125, 4, "z", 4.775, 9.61),
        (7674, 5, "z", 3.48, 2.1025),
        (7674, 5, "r", 4.725, 0.81),
        (1000, 2, "u", 1.595, 12.6025),
        (2000, 2, "u", 1.825, 12.6025),
    ],
)
def test_sdss_amplifiers(run, camcol, band, gain, dark):
    assert amplifier(survey_preset("sdss").noise, run, camcol, band) == (gain, dark)


def test_sdss_amplifiers_of_real_images(real_data):
    """Gain and dark variance stored upstream with each of the 85 images."""
    table = survey_preset("sdss").noise
    for band in "ugriz":
        with fits.open(real_data / f"celeste_stripe82/stamp-{band}-5.0073-0.0739.fits") as hdus:
            for hdu in hdus[::2]:
                header = hdu.header
                gain, dark = amplifier(table, header["RUN"], header["CAMCOL"], band)
                assert gain == pytest.approx(header["GAIN"], rel=1e-6)
                assert dark == pytest.approx(header["DARKVAR"], rel=1e-6)


def sdss_frame(folder, ny=120, nx=160, seed=0):
    """A frame by the data model, from known electrons; returns (path, true sigma)."""
    rng = np.random.default_rng(seed)
    gain, dark = 4.76, 1.3225  # camcol 4, r
    calib = 0.005 * (1 + 0.05 * np.linspace(-1, 1, nx))
    coarse = 140 + 3.0 * np.arange(6)[:, None] + 2.0 * np.arange(8)[None, :]
    xinterp = np.linspace(0, 7, nx)
    yinterp = np.linspace(0, 5, ny)
    sky = 140 + 3.0 * yinterp[:, None] + 2.0 * xinterp[None, :]
    y, x = np.indices((ny, nx), dtype=float)
    source = 4000 * np.exp(-np.hypot(x - 80, y - 60) / 5)
    dn = rng.poisson((source + sky) * gain) / gain + rng.normal(0, np.sqrt(dark), (ny, nx))
    truth = np.sqrt((source + sky) / gain + dark) * calib
    header = fits.Header({"RUN": 4247, "CAMCOL": 4, "FIELD": 60, "FILTER": "r",
                          "BUNIT": "nanomaggy"} | wcs_cards(0.396))  # fmt: skip
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("ALLSKY", "48E", dim="(8,6)", array=coarse[None].astype("f4")),
            fits.Column("XINTERP", f"{nx}E", array=xinterp[None].astype("f4")),
            fits.Column("YINTERP", f"{ny}E", array=yinterp[None].astype("f4")),
        ]
    )
    path = folder / "frame-r-004247-4-0060.fits"
    fits.HDUList(
        [
            fits.PrimaryHDU(((dn - sky) * calib).astype("f4"), header),
            fits.ImageHDU(calib.astype("f4")),
            table,
            fits.BinTableHDU.from_columns([fits.Column("X", "E", array=[1.0])]),
        ]
    ).writeto(path)
    return path, truth


def eigenimages():
    """Three eigenimages, coefficients of a 3 x 2 polynomial each."""
    wide = gaussian((51, 51), 4.0)
    images = [wide, np.gradient(wide, axis=1), np.gradient(wide, axis=0)]
    coefficients = np.zeros((3, 5, 5))
    coefficients[0, 0, 0] = 1.0
    coefficients[1, 0, 1] = 0.3  # grows with column
    coefficients[2, 2, 0] = -0.2  # grows with row squared
    return images, coefficients


def psfield(folder, name="psField-004247-4-0060.fit"):
    images, coefficients = eigenimages()
    hdus = [fits.PrimaryHDU()]
    for band in range(5):
        scale = 1.0 + band
        hdus.append(
            fits.BinTableHDU.from_columns(
                [
                    fits.Column("nrow_b", "J", array=[3, 3, 3]),
                    fits.Column("ncol_b", "J", array=[2, 2, 2]),
                    fits.Column("c", "25E", dim="(5,5)", array=coefficients * scale),
                    fits.Column("RNROW", "J", array=[51] * 3),
                    fits.Column("RNCOL", "J", array=[51] * 3),
                    fits.Column("RROWS", "2601E", array=[i.ravel() for i in images]),
                ]
            )
        )
    path = folder / name
    fits.HDUList(hdus).writeto(path)
    return path


def test_sdss_sky_is_bilinear():
    row = {"ALLSKY": np.array([[0.0, 1.0], [10.0, 11.0]]), "XINTERP": np.array([0.0, 0.25, 1.0]),
           "YINTERP": np.array([0.0, 0.5])}  # fmt: skip
    np.testing.assert_allclose(sky_image(row, (2, 3)), [[0, 0.25, 1], [5, 5.25, 6]])


def test_sdss_psf_by_hand(tmp_path):
    images, _ = eigenimages()
    with fits.open(psfield(tmp_path)) as hdus:
        psf = reconstruct_psf(hdus[3].data, np.array([700.0]), np.array([1200.0]))[0]
    expected = 3 * (images[0] + 0.3 * 1.2 * images[1] - 0.2 * 0.7**2 * images[2])
    np.testing.assert_allclose(psf, expected, atol=1e-7)


def test_sdss_frame(tmp_path):
    path, truth = sdss_frame(tmp_path)
    psfield(tmp_path)
    result = read_source(discover(path, survey="sdss")[0])
    frame = result.item
    assert frame.zeropoint == 22.5
    assert frame.filter == "r"
    assert frame.pixel_scale == pytest.approx(0.396, rel=1e-6)
    assert not frame.flags & Flag.SIGMA_ESTIMATED
    ratio = frame.sigma / truth
    assert np.median(ratio) == pytest.approx(1, abs=2e-3)
    assert np.std(ratio) < 0.02
    assert frame.psf.data.sum() == pytest.approx(1, abs=1e-5)
    assert any("psField" in name for name in result.hashes)
    stamps = list(cut_stamps(frame, [{"x": 20, "y": 60}, {"x": 140, "y": 60}]))
    assert stamps[0].psf.data.shape == (51, 51)
    assert np.abs(stamps[0].psf.data - stamps[1].psf.data).max() > 1e-6


def test_sdss_frame_as_given_by_name(tmp_path):
    """Without the preset an SDSS frame is still an image in nanomaggies."""
    path, _ = sdss_frame(tmp_path)
    stamp = read_source(discover(path)[0], ReadOptions(psf="none")).stamp
    assert stamp.zeropoint == 22.5
    assert stamp.flags & Flag.SIGMA_ESTIMATED


def test_sdss_cutout_without_its_tables(tmp_path):
    path, _ = sdss_frame(tmp_path)
    with fits.open(path) as hdus:
        fits.writeto(tmp_path / "cut.fits", hdus[0].data[:80, :80], hdus[0].header)
    stamp = read_source(
        discover(tmp_path / "cut.fits")[0],
        ReadOptions(survey="sdss", mode="stamp", psf="none"),
    ).stamp
    assert any("SDSS noise model not used" in m for m in stamp.messages)
    assert stamp.flags & Flag.SIGMA_ESTIMATED


def test_broken_psfield(tmp_path):
    path, _ = sdss_frame(tmp_path)
    fits.writeto(tmp_path / "psField-004247-4-0060.fit", np.ones((5, 5)))
    with pytest.raises(InputError, match="not a psField") as caught:
        read_source(discover(path, survey="sdss")[0])
    assert "psField" in str(caught.value)


def test_legacy_survey_bits(tmp_path):
    """BRIGHT (1) and NPRIMARY (0) leave a pixel usable; SATUR_r (3) does not."""
    bits = np.zeros((40, 44), np.int32)
    bits[0, 0], bits[0, 1], bits[0, 2] = 2, 1, 8
    name = "legacysurvey-1498p020-{}.fits"
    fits.writeto(tmp_path / name.format("image-r"), galaxy())
    fits.writeto(tmp_path / name.format("invvar-r"), np.ones((40, 44)))
    fits.writeto(tmp_path / name.format("maskbits"), bits)
    source = discover(tmp_path, survey="legacysurvey")[0]
    stamp = read_source(source, ReadOptions(psf="none")).stamp
    assert list(stamp.mask[0, :4]) == [False, False, True, False]
    assert stamp.zeropoint == 22.5
    assert stamp.pixel_scale == 0.262


def test_hsc_bits_from_the_header(tmp_path):
    mask = np.zeros((40, 44), np.int32)
    mask[0, 0], mask[0, 1] = 1 << 5, 1 << 9  # DETECTED, then SAT where this header has it
    cards = fits.Header({"HIERARCH MP_DETECTED": 5, "MP_SAT": 9, "MP_BAD": 0})
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(galaxy(), name="IMAGE"),
            fits.ImageHDU(mask, cards, name="MASK"),
            fits.ImageHDU(np.full((40, 44), 4.0), name="VARIANCE"),
        ]
    ).writeto(tmp_path / "calexp-HSC-I-9813-4,5.fits")
    source = discover(tmp_path, survey="hsc")[0]
    stamp = read_source(source, ReadOptions(psf="none")).stamp
    assert list(stamp.mask[0, :3]) == [False, True, False]
    assert stamp.sigma[5, 5] == 2
    assert stamp.zeropoint == 27.0


def test_jwst_image(tmp_path):
    hdus = [fits.PrimaryHDU(header=fits.Header({"FILTER": "F200W"}))]
    cards = fits.Header({"BUNIT": "MJy/sr", "PIXAR_SR": 2.29e-14} | wcs_cards(0.031))
    hdus.append(fits.ImageHDU(galaxy(), cards, name="SCI"))
    hdus.append(fits.ImageHDU(np.full((40, 44), 0.5), name="ERR"))
    hdus += [fits.ImageHDU(np.ones((40, 44)), name=n) for n in ("WHT", "VAR_POISSON")]
    hdus.append(fits.ImageHDU(np.ones((2, 40, 44), np.int32), name="CON"))
    fits.HDUList(hdus).writeto(tmp_path / "jw01345-o001_nircam_f200w_i2d.fits")
    stamp = read_source(
        discover(tmp_path, survey="jwst")[0], ReadOptions(survey="jwst", psf="none")
    ).stamp
    assert stamp.sigma[0, 0] == 0.5
    assert stamp.filter == "F200W"
    assert stamp.zeropoint == pytest.approx(28.0, abs=0.02)


def test_no_psf_error_tells_the_usual_seeing(tmp_path):
    name = "legacysurvey-1498p020-image-r.fits"
    fits.writeto(tmp_path / name, galaxy(), fits.Header({"FILTER": "r"}))
    with pytest.raises(InputError) as caught:
        read_source(discover(tmp_path, survey="legacysurvey")[0])
    assert "1.4 arcsec" in caught.value.remedy
