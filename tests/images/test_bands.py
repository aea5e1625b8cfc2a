"""Images of one object in several bands: by file names, FILTER cards, folders and manifests."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from fits_builders import wcs_cards

from autofit_ml.errors import SettingsError
from autofit_ml.images import discover


def write(folder, *names, card=None):
    """Small images; `card`: their FILTER."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = fits.Header({"FILTER": card} if card else {})
        fits.PrimaryHDU(np.arange(36.0).reshape(6, 6), header).writeto(path)


def images(source):
    """Band -> name of its image, None where there is none."""
    others = {o.band: o for o in source.others if o is not None}
    return {b: s.planes["image"][0].name for b, s in ({source.band: source} | others).items()}


def test_names_tell_the_bands(tmp_path):
    write(tmp_path, *(f"{o}_{b}_image.fits" for o in ("m51", "ngc_1") for b in "gri"))
    write(tmp_path, "m51_g_psf.fits", "m51_u_image.fits", card="u")
    found = discover(tmp_path, bands=("r", "g", "i"))
    assert found.bands == ("r", "g", "i")
    assert [source.id for source in found] == ["m51", "ngc_1"]
    assert [source.band for source in found] == ["r", "r"]
    assert images(found[0]) == {b: f"m51_{b}_image.fits" for b in "rgi"}
    assert found[0].others[0].planes["psf"][0].name == "m51_g_psf.fits"
    assert {"image", "g:image", "g:psf", "i:image"} == set(found[0].every_plane)
    assert [(p.name, why) for p, why in found.ignored] == [
        ("m51_u_image.fits", "of band u, not r,g,i")
    ]


@pytest.mark.parametrize(
    ("bands", "names"),
    [
        (("r", "F814W"), ("a_hsc-r.fits", "a_hst-F814W.fits")),  # surveys are left out
        (("hsc-r", "hst-F814W"), ("a_hsc-r.fits", "a_hst-F814W.fits")),
        (("R", "f814w"), ("a_r.fits", "a_F814W.fits")),  # case is, if that tells them apart
        (("g", "G"), ("a_g.fits", "a_G.fits")),
        (("j0660", "g"), ("a_j0660.fits", "a_g.fits")),
    ],
)
def test_kinds_of_names(tmp_path, bands, names):
    write(tmp_path, *names)
    found = discover(tmp_path, bands=bands)
    assert [source.id for source in found] == ["a"]
    assert images(found[0]) == dict(zip(bands, names, strict=True))


def test_folders_of_bands_and_filter_cards(tmp_path):
    for band, card in (("green", "HSC-G"), ("red", "HSC-R")):
        write(tmp_path, f"{band}/a.fits", f"{band}/b.fits", card=card)
    found = discover([tmp_path / "green", tmp_path / "red"], bands=("g", "r"))
    assert [source.id for source in found] == ["a", "b"]
    assert {o.planes["image"][0].parent.name for o in found[0].others} == {"red"}


def test_two_folders_with_the_same_objects(tmp_path):
    write(tmp_path, *(f"{f}/a_{b}.fits" for f in ("one", "two") for b in "gr"))
    found = discover([tmp_path / "one", tmp_path / "two"], bands=("g", "r"))
    assert [source.id for source in found] == ["one_a", "two_a"]
    assert all(source.problem is None for source in found)


def test_missing_bands_and_the_reference(tmp_path):
    write(tmp_path, "a_g.fits", "a_r.fits", "a_i.fits", "b_r.fits", "b_i.fits", "c_r.fits")
    found = discover(tmp_path, bands=("g", "r", "i"))
    assert found.bands == ("r", "g", "i")  # the first that all have
    assert [source.others[0] is None for source in found] == [False, True, True]
    assert images(found[2]) == {"r": "c_r.fits"}
    found = discover(tmp_path, bands=("g", "i"))
    assert found.bands == ("i", "g")
    assert [source.id for source in found] == ["a", "b"]


def test_object_without_the_reference_says_which_band_to_name(tmp_path):
    write(tmp_path, "a_g.fits", "a_r.fits", "b_g.fits", "b_r.fits", "c_i.fits", "d_i.fits")
    write(tmp_path, "a_i.fits", "c_r.fits")
    found = discover(tmp_path, bands=("g", "r", "i"))
    assert found.bands[0] == "r"
    problems = {source.id: source.problem for source in found if source.problem is not None}
    assert set(problems) == {"d"}
    assert "no image in the reference band r (it has i)" in str(problems["d"])


def test_two_images_of_a_band_are_a_problem_of_that_object(tmp_path):
    write(tmp_path, "a_kids-r.fits", "a_sdss-r.fits", "a_g.fits", "b_r.fits", "b_g.fits")
    found = discover(tmp_path, bands=("g", "r"))
    assert [source.problem is None for source in found] == [False, True]
    assert "several images of band r: a_kids-r.fits, a_sdss-r.fits" in str(found[0].problem)


def test_a_file_named_outright_whose_band_is_not_told_gets_a_row(tmp_path):
    write(tmp_path, "a_g.fits", "a_r.fits", "other.fits")
    found = discover(sorted(tmp_path.glob("*.fits")), bands=("g", "r"))
    assert [source.id for source in found] == ["a", "other"]
    assert "do not tell its band" in str(found[1].problem)
    found = discover(tmp_path, bands=("g", "r"))
    assert [source.id for source in found] == ["a"] and len(found.ignored) == 1


@pytest.mark.parametrize(
    ("names", "bands", "message"),
    [
        (("a_g.fits", "b_g.fits"), ("g", "r"), r"no file of band r \(the files have g"),
        (("a_g.fits", "b_r.fits"), ("g", "r"), "no object has images in more than one of g,r"),
        (("a_x.fits",), ("g", "r"), "no file of band g, r"),
    ],
)
def test_bands_that_nothing_has(tmp_path, names, bands, message):
    write(tmp_path, *names)
    with pytest.raises(SettingsError, match=message):
        discover(tmp_path, bands=bands)


# --- manifests ------------------------------------------------------------------------------


def manifest(folder, text):
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


def test_manifest_rows_of_one_id_are_one_object(tmp_path):
    write(tmp_path, "1.fits", "2.fits", "3.fits")
    path = manifest(
        tmp_path,
        "id,band,image,zeropoint,x,y\na,g,1.fits,25,2,3\na,r,2.fits,26,2,3\nb,r,3.fits,26,1,1\n",
    )
    found = discover(None, manifest=path)
    assert found.bands == ("r", "g")  # the first that all have
    assert [source.id for source in found] == ["a", "b"]
    assert images(found[0]) == {"r": "2.fits", "g": "1.fits"}
    assert found[0].overrides["zeropoint"] == 26 and found[0].others[0].overrides["zeropoint"] == 25
    assert found[0].overrides["filter"] == "r"
    found = discover(None, manifest=path, bands=("g",))  # only what is wanted
    assert found.bands == ("g",)
    assert [source.id for source in found] == ["a"]


def test_manifest_with_bands_of_different_ids_stays_as_it_was(tmp_path):
    write(tmp_path, "1.fits", "2.fits")
    path = manifest(tmp_path, "id,band,image\na_g,g,1.fits\na_r,r,2.fits\n")
    found = discover(None, manifest=path)
    assert [source.id for source in found] == ["a_g", "a_r"] and found.bands == ()
    assert [source.overrides["filter"] for source in found] == ["g", "r"]
    found = discover(None, manifest=path, bands=("g", "r"))
    assert [source.id for source in found] == ["a"]


def test_manifest_with_an_id_and_band_twice(tmp_path):
    write(tmp_path, "1.fits", "2.fits")
    path = manifest(tmp_path, "id,band,image\na,g,1.fits\na,g,2.fits\n")
    with pytest.raises(SettingsError, match="same id 'a' and band 'g'"):
        discover(None, manifest=path)
    path = manifest(tmp_path, "id,band,image\na,g,1.fits\na,r,2.fits\n")
    with pytest.raises(SettingsError, match="no file of band z") as caught:
        discover(None, manifest=path, bands=("g", "z"))
    assert caught.value.file == path


def test_bad_row_of_a_band_is_a_problem_of_its_object(tmp_path):
    write(tmp_path, "1.fits", "2.fits", "3.fits", "4.fits")
    path = manifest(
        tmp_path,
        "id,band,image,gain\na,g,1.fits,2\na,r,2.fits,-1\nb,g,3.fits,2\nb,r,gone.fits,2\n",
    )
    found = discover(None, manifest=path)
    assert "gain" in str(found[0].problem) and "no such file" in str(found[1].problem)


def test_epochs_of_a_band(tmp_path):
    """Names with the number of an epoch: the first of each band; another by its own name."""
    write(tmp_path, *(f"m51_{b}_image.fits" for b in ("g1", "g2", "r2", "r3")))
    found = discover(tmp_path, bands=("g", "r"))
    assert [source.id for source in found] == ["m51"]
    assert images(found[0]) == {"g": "m51_g1_image.fits", "r": "m51_r2_image.fits"}
    assert [(p.name, why.split(" (")[0]) for p, why in found.ignored] == [
        ("m51_g2_image.fits", "another epoch: g1 is used"),
        ("m51_r3_image.fits", "another epoch: r2 is used"),
    ]
    found = discover(tmp_path, bands=("g", "r"), epochs=True)
    assert images(found[0]) == {"g": "m51_g2_image.fits", "r": "m51_r3_image.fits"}
    planes = {name: path.name for name, (path, _) in found[0].every_plane.items()}
    assert planes == {
        "image": "m51_g1_image.fits", "r:image": "m51_r2_image.fits",
        "g+1:image": "m51_g2_image.fits", "r+1:image": "m51_r3_image.fits",
    }  # fmt: skip
    found = discover(tmp_path, bands=("g2", "r3"))
    assert images(found[0]) == {"g2": "m51_g2_image.fits", "r3": "m51_r3_image.fits"}


def test_epochs_in_a_manifest(tmp_path):
    """Rows of one id and band; without epochs they are refused."""
    write(tmp_path, "a.fits", "b.fits", "c.fits")
    path = tmp_path / "list.csv"
    path.write_text("image,id,band\na.fits,m51,r\nb.fits,m51,r\nc.fits,m51,g\n")
    (one,) = discover(None, manifest=path, epochs=True)
    assert [(o.band, o.file.rsplit("/")[-1]) for o in (one, *one.others)] == [
        ("r", "a.fits"), ("g", "c.fits"), ("r", "b.fits"),
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="same id"):
        discover(None, manifest=path)


def test_bands_with_a_number_of_their_own(tmp_path):
    write(tmp_path, "a_i.fits", "a_i1.fits")
    found = discover(tmp_path, bands=("i", "i1"))
    assert images(found[0]) == {"i": "a_i.fits", "i1": "a_i1.fits"}


def placed(folder, name, ra, dec, card, **cards):
    header = fits.Header(wcs_cards(0.2, (3.5, 3.5)) | {"CRVAL1": ra, "CRVAL2": dec, "FILTER": card})
    header.update(cards)
    fits.writeto(folder / name, np.arange(36.0).reshape(6, 6), header)


def test_positions_tell_the_objects(tmp_path):
    """Names that share nothing; the same places of the sky within a second of arc."""
    arcsec = 1 / 3600
    placed(tmp_path, "first.fits", 150.0, 2.0, "g")
    placed(tmp_path, "zz-17.fits", 150.0 + 0.5 * arcsec, 2.0, "r")
    placed(tmp_path, "second.fits", 150.01, 2.0, "g")
    placed(tmp_path, "x99.fits", 150.01, 2.0 - 0.6 * arcsec, "r")
    placed(tmp_path, "lonely.fits", 150.02, 2.0, "g")
    placed(tmp_path, "far.fits", 150.02 + 4 * arcsec, 2.0, "r")
    found = discover(tmp_path, bands=("g", "r"))
    grouped = {source.id: images(source) for source in found if source.problem is None}
    assert grouped == {
        "first": {"g": "first.fits", "r": "zz-17.fits"},
        "second": {"g": "second.fits", "r": "x99.fits"},
        "lonely": {"g": "lonely.fits"},
    }


def test_positions_in_other_systems(tmp_path):
    """An equatorial and a galactic image of one place."""
    placed(tmp_path, "one.fits", 150.0, 2.0, "g")
    there = SkyCoord(150.0, 2.0, unit="deg").galactic
    placed(
        tmp_path, "other.fits", there.l.deg, there.b.deg, "r",
        CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN",
    )  # fmt: skip
    (source,) = discover(tmp_path, bands=("g", "r"))
    assert images(source) == {"g": "one.fits", "r": "other.fits"}
