"""Several images of each object, fitted together: from files to catalogue and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from table_checks import assert_failed_row

pytest.importorskip("galsim")

from scene_inputs import BANDS, NEIGHBOUR, STAR, TARGET, write_bands, write_scene

import autofit_ml as afm
from autofit_ml.catalogue import Flag
from autofit_ml.errors import ResumeError, SettingsError
from autofit_ml.runs import FitSettings, fit_run
from autofit_ml.runs.summary import Progress

QUIET = {"workers": 0, "segmenter": "given", "init": "moments", "save": "none"}
STARS = ((30, 110, 6000.0), (120, 40, 30000.0), (75, 75, 15000.0))
"""x, y, flux."""


def fitted(folder, out=None, manifest=None, **options):
    """One run; its rows by id."""
    settings = FitSettings(**{**QUIET, **options})
    summary = fit_run(folder, out, settings, manifest=manifest)
    return {row["id"]: row for row in summary.table.to_pylist()}


def near(row, name, truth, sigmas=4.0):
    """Within some errors of the truth (4 sigma: one in 16 000 by chance)."""
    assert 0 < row[f"{name}_err"] < np.inf, name
    assert abs(row[name] - truth) < sigmas * row[f"{name}_err"], (name, row[name], truth)


@pytest.fixture(scope="module")
def three_bands(tmp_path_factory):
    """Two galaxies in g, r, i and one that lacks g."""
    folder = tmp_path_factory.mktemp("bands") / "in"
    write_bands(folder, "a")
    write_bands(folder, "b", neighbours=[NEIGHBOUR])
    write_bands(folder, "c", ("r", "i"))
    return folder


@pytest.fixture(scope="module")
def joint(three_bands, tmp_path_factory):
    """A joint fit of all of them."""
    out = tmp_path_factory.mktemp("joint") / "out"
    rows = fitted(three_bands, out, bands="r,g,i", save="objects,previews,report,votable")
    return out, rows


def test_a_row_for_each_object_and_columns_for_each_band(joint):
    _, rows = joint
    assert list(rows) == ["a", "b", "c"]
    for name, row in rows.items():
        assert row["status"] == "ok" and row["use"], row["message"]
        assert row["filter"] == "r"
        for band, (share, zeropoint, _) in BANDS.items():
            if (name, band) == ("c", "g"):
                continue
            near(row, f"flux_{band}", TARGET.flux * share)
            near(row, f"sky_{band}", 5.0)
            magnitude = zeropoint - 2.5 * np.log10(row[f"flux_{band}"])
            assert row[f"mag_{band}"] == pytest.approx(magnitude)
            assert row[f"mag_{band}_err"] > 0
        for parameter in ("re", "n", "q", "pa"):
            near(row, parameter, getattr(TARGET, parameter))
        # Without a band: the reference's.
        for parameter in ("flux", "flux_err", "mag", "sky"):
            assert row[parameter] == row[f"{parameter.replace('_err', '')}_r" + (
                "_err" if parameter.endswith("_err") else ""
            )]  # fmt: skip
        assert row["zeropoint"] == BANDS["r"][1]
        assert "re_g" not in row and "flux_total" not in row


def test_the_votable_of_a_run_has_its_rows_and_ucds(joint):
    out, rows = joint
    table = QTable.read(out / "catalog.vot", format="votable")
    assert list(table["id"]) == list(rows)
    assert list(table["mag_r"].value) == [row["mag_r"] for row in rows.values()]
    assert table["mag_g_err"].info.meta["ucd"] == "stat.error;phot.mag"
    assert rows["a"]["n_pix"] == 3 * 64 * 64 and rows["c"]["n_pix"] == 2 * 64 * 64


def test_missing_band_is_nan(joint):
    _, rows = joint
    for name in ("flux", "mag", "sky"):
        assert np.isnan([rows["c"][f"{name}_g"], rows["c"][f"{name}_g_err"]]).all()
    assert np.isfinite(rows["c"]["cov"]).all()


def test_neighbours_are_fitted_in_every_band(joint):
    _, rows = joint
    assert rows["b"]["n_neighbours"] == 1
    assert rows["b"]["blend_fraction"] < 0.2


def test_a_joint_fit_knows_more_than_one_band(joint, three_bands):
    _, rows = joint
    single = fitted(sorted(three_bands.glob("a_r_*")))["a_r"]
    assert rows["a"]["re_err"] < 0.85 * single["re_err"]
    assert rows["a"]["snr"] > single["snr"]


def test_files_of_several_bands(joint):
    out, rows = joint
    with fits.open(out / "objects" / "c.fits", checksum=True) as hdus:
        names = [hdu.name for hdu in hdus]
        assert names[:8] == [
            "PRIMARY", "IMAGE", "MODEL", "RESIDUAL", "SIGMA", "MASK", "SEGM", "COMPONENT_1"
        ]  # fmt: skip
        assert names[8:] == [
            "IMAGE_I", "MODEL_I", "RESIDUAL_I", "SIGMA_I", "MASK_I", "COMPONENT_1_I"
        ]  # fmt: skip
        light = hdus["COMPONENT_1_I"].data.sum()
        assert light == pytest.approx(rows["c"]["flux_i"], rel=0.05)
        assert hdus["MASK_I"].data.dtype == np.uint8
    with fits.open(out / "objects" / "b.fits") as hdus:
        assert {"NEIGHBOURS", "NEIGHBOURS_G", "NEIGHBOURS_I"} <= {hdu.name for hdu in hdus}
    table = afm.read_catalogue(out)
    assert table["mag_g"].unit == "mag" and "Band g" in table["mag_g"].info.description
    assert (out / "previews" / "a.png").stat().st_size > (out / "previews" / "c.png").stat().st_size


def test_parameters_that_vary_with_wavelength(three_bands, tmp_path):
    model = tmp_path / "model.yaml"
    model.write_text("components: {galaxy: {profile: sersic, re: {bands: 1}, n: {bands: free}}}\n")
    row = fitted(sorted(three_bands.glob("a_*")), model=model, bands="r:620,g:480,i:770")["a"]
    values = [row[f"re_{band}"] for band in "gri"]
    for band in "gri":
        near(row, f"re_{band}", TARGET.re)
        near(row, f"n_{band}", TARGET.n)
    assert row["re"] == row["re_r"] and row["re_r_err"] < row["re_g_err"]
    # A straight line in wavelength (of ln rc; q is shared).
    slopes = np.diff(np.log(values)) / np.diff([480, 620, 770])
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)
    model.write_text("components: {galaxy: {profile: sersic, re: {bands: 2}}}\n")
    with pytest.raises(SettingsError, match="polynomial of degree 2 over 2 bands"):
        fitted(three_bands, model=model, bands="r,i")


def test_two_components_in_several_bands(tmp_path):
    write_bands(tmp_path, "a", ("g", "r"))
    row = fitted(tmp_path, model="sersic+exp", bands="r,g")["a"]
    names = (
        "flux",
        "flux_2",
        "mag_2",
        "flux_total",
        "mag_total",
        "re_total",
        "q_total",
        "fraction",
    )
    for name in (f"{name}_g" for name in names):
        assert np.isfinite(row[name]) and f"{name}_err" in row, name
    assert row["flux_total_g"] == pytest.approx(row["flux_g"] + row["flux_2_g"])
    assert row["fraction_g"] == pytest.approx(row["flux_g"] / row["flux_total_g"])
    assert row["fraction_r"] == pytest.approx(row["fraction"])
    assert row["re_total_r"] == row["re_total"] and row["q_total_r_err"] == row["q_total_err"]
    if np.isfinite(row["fraction_r_err"]):
        assert row["fraction_r_err"] == pytest.approx(row["fraction_err"], rel=1e-6)


# --- which images belong together ------------------------------------------------------------


class Notes(Progress):
    """What a run says."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_the_reference_is_a_band_that_all_have(three_bands):
    notes = Notes()
    settings = FitSettings(**QUIET, bands="g,r,i")
    table = fit_run(three_bands, None, settings, progress=notes).table
    assert "the reference band is r: not every object has an image in g" in notes.notes[0]
    assert set(table.column("status").to_pylist()) == {"ok"}
    names = table.column_names
    assert names.index("flux_r") < names.index("flux_g") < names.index("flux_i")


def test_an_object_that_lacks_the_reference_fails_alone(tmp_path):
    write_bands(tmp_path, "a", ("g", "r"))
    write_bands(tmp_path, "b", ("g", "r"))
    write_bands(tmp_path, "c", ("g", "i"))
    write_bands(tmp_path, "d", ("r", "i"))
    rows = fitted(tmp_path, bands="g,r,i")
    assert [name for name, row in rows.items() if row["status"] == "failed"] == ["d"]
    assert "no image in the reference band g (it has i, r)" in rows["d"]["message"]


def test_images_that_cannot_be_related_fail_with_a_message(tmp_path):
    write_bands(tmp_path, "far", ("g", "r"))
    with fits.open(tmp_path / "far_g_image.fits", mode="update") as hdus:
        hdus[0].header["CRVAL1"] += 1.0
    write_bands(tmp_path, "lost", ("r",))
    write_scene(tmp_path, "lost_g", TARGET, shape=(48, 48))
    for band in "gr":
        with fits.open(tmp_path / f"lost_{band}_image.fits", mode="update") as hdus:
            for card in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2"):
                del hdus[0].header[card]
    write_bands(tmp_path, "broken", ("g", "r"))
    (tmp_path / "broken_g_sigma.fits").write_bytes(b"nothing of use")
    rows = fitted(tmp_path, bands="r,g")
    for name in rows:
        assert_failed_row(rows[name])
    assert "far_g_image.fits does not overlap with" in rows["far"]["message"]
    assert "without a WCS its pixels cannot be related" in rows["lost"]["message"]
    assert "broken_g_sigma.fits" in rows["broken"]["message"]
    assert "leave band g out" in rows["broken"]["message"]


def test_images_on_other_pixels_are_related_by_wcs(tmp_path):
    """The second band has larger pixels, and its stamp is another part of the sky."""
    write_scene(tmp_path, "a_r", TARGET)
    coarse = TARGET.replace(x=20.6, y=18.9, re=TARGET.re / 1.5)
    write_scene(tmp_path, "a_g", coarse, shape=(40, 44), pixel_scale=0.3, seed=5)
    for band, x, y in (("r", 31.7, 32.2), ("g", 20.6, 18.9)):
        with fits.open(tmp_path / f"a_{band}_image.fits", mode="update") as hdus:
            hdus[0].header["CRPIX1"], hdus[0].header["CRPIX2"] = x + 1, y + 1
    row = fitted(tmp_path, bands="r,g")["a"]
    assert row["use"], row["message"]
    for name in ("re", "n", "q", "pa"):
        near(row, name, getattr(TARGET, name))
    near(row, "flux_g", TARGET.flux)
    near(row, "flux_r", TARGET.flux)


def test_manifest_of_bands(three_bands, tmp_path):
    lines = ["id,band,image,sigma,psf,seg,zeropoint"]
    for name, bands in (("a", "gr"), ("c", "r")):
        lines += [
            f"{name},{band}," + ",".join(
                str(three_bands / f"{name}_{band}_{plane}.fits")
                for plane in ("image", "sigma", "psf", "seg")
            ) + ",30"
            for band in bands
        ]  # fmt: skip
    table = tmp_path / "list.csv"
    table.write_text("\n".join(lines) + "\n")
    rows = fitted(None, manifest=table)
    assert list(rows) == ["a", "c"]
    assert rows["a"]["mag_g"] == pytest.approx(30 - 2.5 * np.log10(rows["a"]["flux_g"]))
    assert np.isnan(rows["c"]["flux_g"]) and np.isfinite(rows["c"]["flux_r"])


def test_a_run_of_bands_is_continued(three_bands, tmp_path):
    import shutil

    folder = shutil.copytree(three_bands, tmp_path / "in")
    out = tmp_path / "out"
    settings = FitSettings(**QUIET, bands="r,g")
    assert fit_run(folder, out, settings).n_new == 3
    assert fit_run(folder, out, settings).n_new == 0
    write_bands(folder, "new", ("g", "r"))
    assert fit_run(folder, out, settings).n_new == 1
    with pytest.raises(ResumeError, match="bands: 'r,g' -> 'r,g,i'"):
        fit_run(folder, out, FitSettings(**QUIET, bands="r,g,i"))
    with fits.open(folder / "a_g_image.fits", mode="update") as hdus:
        hdus[0].data += 1.0
    with pytest.raises(ResumeError, match=r"a \(g:image: content\)"):
        fit_run(folder, out, settings)


def test_workers_read_bands_too(three_bands):
    one = fitted(three_bands, bands="r,g,i")
    other = fitted(three_bands, bands="r,g,i", workers=1, batch_size=2)
    for name, row in one.items():
        assert other[name]["flux_i"] == pytest.approx(row["flux_i"], rel=1e-6)


# --- frames ---------------------------------------------------------------------------------


def test_frames_of_several_bands(tmp_path):
    """Objects are detected in the reference frame and cut from the others by WCS."""
    others = [TARGET.replace(x=110.0, y=100.0), TARGET.replace(x=35.0, y=115.0)]
    for k, (band, (share, zeropoint, _)) in enumerate(BANDS.items()):
        moved = 0.0 if band == "r" else 6.0  # this frame begins elsewhere on the sky
        sources = [TARGET, *others]
        first, *rest = [
            s.replace(x=s.x + moved, y=s.y + moved, flux=s.flux * share) for s in sources
        ]
        write_scene(
            tmp_path, f"f_{band}", first, rest, shape=(160, 160), zeropoint=zeropoint, seed=k,
            labels=False,
        )  # fmt: skip
        with fits.open(tmp_path / f"f_{band}_image.fits", mode="update") as hdus:
            hdus[0].header["CRPIX1"] += moved
            hdus[0].header["CRPIX2"] += moved

    settings = FitSettings(**{**QUIET, "segmenter": "sep"}, bands="r,g,i", mode="frame")
    rows = fit_run(tmp_path, None, settings).table.to_pylist()
    assert len(rows) == 3
    for row in rows:
        assert row["status"] == "ok" and "@" in row["id"]
        for band, (share, _, _) in BANDS.items():
            near(row, f"flux_{band}", TARGET.flux * share)
        near(row, "re", TARGET.re)
    assert sorted(round(row["x"]) for row in rows) == [32, 35, 110]


def test_frames_are_searched_in_all_bands_and_their_stars_are_points(tmp_path):
    """A galaxy that the reference does not show; stars, which would be Sérsic fits at a bound."""
    shares = {"r": (1.0, 0.02), "g": (0.5, 1.0)}
    for seed, (band, (red, blue)) in enumerate(shares.items()):
        first, *rest = [
            TARGET.with_flux(TARGET.flux * red),
            TARGET.replace(x=110.0, y=100.0).with_flux(TARGET.flux / 3 * blue),
            *(STAR.replace(x=x, y=y).with_flux(f * red) for x, y, f in STARS),
        ]
        write_scene(
            tmp_path, f"f_{band}", first, rest, shape=(160, 160), zeropoint=27.0, seed=seed,
            labels=False,
        )  # fmt: skip
    settings = FitSettings(**{**QUIET, "segmenter": "sep"}, bands="r,g", mode="frame")
    rows = fit_run(tmp_path, None, settings).table.to_pylist()
    place = {(round(row["x"]), round(row["y"])): row for row in rows}
    blue = place[110, 100]
    near(blue, "flux_g", TARGET.flux / 3)
    stars = [place[x, y] for x, y, _ in STARS]
    for row, (_, _, flux) in zip(stars, STARS, strict=True):
        near(row, "flux_r", flux)
        assert row["flags"] & Flag.POINT_SOURCE and not row["flags"] & Flag.AT_BOUND
    points = [row for row in stars if row["model"] == "psf"]
    assert points and all(np.isnan([row["re"], row["n"]]).all() for row in points)
    assert all(row["use"] for row in points)
