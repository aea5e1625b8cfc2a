"""Models of several components and fitted neighbours, from files to catalogue and pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from table_checks import assert_failed_row

pytest.importorskip("galsim")

from scene_inputs import (
    BULGE,
    DISC,
    NEIGHBOUR,
    SKY,
    STAR,
    TARGET,
    bulge_and_disc,
    write_scene,
)

import autofit_ml as afm
from autofit_ml.catalogue import Flag, covariance_matrix
from autofit_ml.errors import ResumeError, SettingsError
from autofit_ml.runs import FitSettings, fit_run

QUIET = {"workers": 0, "segmenter": "given", "init": "moments"}


def fitted(folder, out=None, **options):
    """One run; its rows by id."""
    summary = fit_run(folder, out, FitSettings(**{**QUIET, "save": "objects", **options}))
    return {row["id"]: row for row in summary.table.to_pylist()}


def near(row, name, truth, sigmas=4.0):
    """Within some errors of the truth (4 sigma: one in 16 000 by chance)."""
    assert 0 < row[f"{name}_err"] < np.inf, name
    assert abs(row[name] - truth) < sigmas * row[f"{name}_err"], (name, row[name], truth)


# --- several components ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def bulge_run(tmp_path_factory):
    """A bulge and disc, and something broken, through the whole pipeline."""
    folder = tmp_path_factory.mktemp("bulge")
    write_scene(folder / "in", "bd", bulge_and_disc())
    (folder / "in" / "broken.fits").write_bytes(b"nothing of use")
    rows = fitted(folder / "in", folder / "out", model="sersic+exp", save="objects,previews,report")
    return folder / "out", rows


def test_bulge_and_disc(bulge_run):
    _, rows = bulge_run
    row = rows["bd"]
    assert row["status"] == "ok" and row["use"] and row["model"] == "sersic+exp"
    for extra, part in (("", BULGE), ("_2", DISC)):
        for name in ("flux", "re", "q", "pa"):
            near(row, f"{name}{extra}", getattr(part, name))
    near(row, "x", 31.7)
    near(row, "n", BULGE.n)
    assert row["n_2"] == 1.0 and np.isnan(row["n_2_err"])  # an exponential's index is known
    assert row["x_2"] == row["x"] and row["x_2_err"] == row["x_err"]  # tied
    near(row, "flux_total", BULGE.flux + DISC.flux)
    near(row, "fraction", 0.4)
    assert row["fraction"] == pytest.approx(row["flux"] / row["flux_total"], rel=1e-9)
    for name in ("", "_2", "_total"):
        assert row[f"mag{name}"] == pytest.approx(27 - 2.5 * np.log10(row[f"flux{name}"]))
        relative = row[f"flux{name}_err"] / row[f"flux{name}"]
        assert row[f"mag{name}_err"] == pytest.approx(1.0857 * relative, rel=1e-3)
    assert BULGE.re < row["re_total"] < DISC.re
    assert min(BULGE.q, DISC.q) < row["q_total"] < max(BULGE.q, DISC.q)
    # The parts are known worse than the whole: they trade light.
    assert row["re_total_err"] / row["re_total"] < row["re_err"] / row["re"]
    assert row["flux_total_err"] < row["flux_err"]
    assert row["re_arcsec_2"] == pytest.approx(0.2 * row["re_2"])
    assert row["re_circ_2"] == pytest.approx(row["re_2"] * np.sqrt(row["q_2"]))
    assert 0 < row["flux_stamp_2"] < row["flux_2"] and row["flux_stamp_2_err"] > 0
    assert np.isfinite([row["ra_2"], row["pa_sky_2"], row["re_2_init"], row["sky_init"]]).all()
    assert row["n_neighbours"] == 0 and row["ndof"] == row["n_pix"] - 12


def test_covariance_of_two_components(bulge_run):
    """The order of the first component, then the second's; 0 for what is not fitted."""
    _, rows = bulge_run
    cov = covariance_matrix(np.array(rows["bd"]["cov"]))
    assert cov.shape == (15, 15)
    names = [
        "x",
        "y",
        "flux",
        "re",
        "n",
        "q",
        "pa",
        "sky",
        "x_2",
        "y_2",
        "flux_2",
        "re_2",
        "n_2",
        "q_2",
        "pa_2",
    ]
    assert np.isfinite(cov).all()
    assert not cov[names.index("n_2")].any()
    for i, name in enumerate(names):
        if name not in ("q", "pa", "q_2", "pa_2", "n_2"):  # these errors are not Gaussian
            assert np.sqrt(cov[i, i]) == pytest.approx(rows["bd"][f"{name}_err"], rel=1e-6), name
    for k in ("", "_2"):  # ln re_circ = ln re + ln q / 2
        i, j = names.index(f"re{k}"), names.index(f"q{k}")
        re, q = rows["bd"][f"re{k}"], rows["bd"][f"q{k}"]
        variance = cov[i, i] / re**2 + cov[j, j] / (2 * q) ** 2 + cov[i, j] / (re * q)
        assert rows["bd"][f"re_circ{k}_err"] == pytest.approx(
            re * np.sqrt(q) * np.sqrt(variance), rel=1e-3
        )
    assert cov[names.index("flux"), names.index("flux_2")] < 0
    assert np.linalg.eigvalsh(cov).min() > -1e-6 * np.diag(cov).max()


def test_files_of_two_components(bulge_run):
    out, rows = bulge_run
    with fits.open(out / "objects" / "bd.fits", checksum=True) as hdus:
        names = [hdu.name for hdu in hdus]
        assert names == [
            "PRIMARY", "IMAGE", "MODEL", "RESIDUAL", "SIGMA", "MASK", "SEGM", "COMPONENT_1",
            "COMPONENT_2",
        ]  # fmt: skip
        whole = hdus["COMPONENT_1"].data + hdus["COMPONENT_2"].data + rows["bd"]["sky"]
        np.testing.assert_allclose(hdus["MODEL"].data, whole, rtol=1e-5)
        np.testing.assert_allclose(
            hdus["RESIDUAL"].data, hdus["IMAGE"].data - hdus["MODEL"].data, atol=1e-5
        )
        assert hdus["COMPONENT_2"].data.sum() == pytest.approx(rows["bd"]["flux_stamp_2"], rel=1e-4)
        assert hdus[0].header["FRACTION"] == rows["bd"]["fraction"]
        assert hdus[0].header["FLUX_STAMP_2_ERR"] == rows["bd"]["flux_stamp_2_err"]
    assert (out / "previews" / "bd.png").stat().st_size > 1000
    page = (out / "report.html").read_text()
    assert '"name":"fraction"' in page and '"name":"mag_total"' in page
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["model"] == "sersic+exp" and run["settings"]["neighbours"] == "fit"


def test_failed_object_has_no_stale_number_in_any_column(bulge_run):
    out, rows = bulge_run
    assert_failed_row(rows["broken"])
    assert rows["broken"]["n_neighbours"] == 0
    table = afm.read_catalogue(out)
    assert table.colnames == afm.read_catalogue(out / "catalog.fits").colnames
    assert table["fraction"].info.description


def test_point_source_and_further_shapes(tmp_path):
    """Columns of what a profile has not are NaN; those of its own parameters are there."""
    write_scene(tmp_path, "s", TARGET)
    row = fitted(tmp_path, model="moffat+psf", sky="tilted")["s"]
    assert row["status"] == "ok"
    assert np.isfinite([row["beta"], row["re"], row["flux_2"], row["mag_2"], row["ra_2"]]).all()
    assert np.isnan([row["n"], row["re_2"], row["n_2"], row["q_2"], row["pa_2"]]).all()
    assert np.isfinite([row["beta_init"], row["sky_dx"], row["sky_dy_err"]]).all()
    assert abs(row["sky_dx"]) < 4 * row["sky_dx_err"] + 1e-3
    assert "beta_2" not in row
    cov = covariance_matrix(np.array(row["cov"]))
    assert cov.shape == (16, 16) and np.sqrt(cov[15, 15]) == pytest.approx(row["beta_err"])


def test_known_indices_of_profiles(tmp_path):
    write_scene(tmp_path, "s", TARGET)
    for model, index in (("dev", 4.0), ("exp", 1.0), ("gaussian", 0.5)):
        row = fitted(tmp_path, model=model)["s"]
        assert (row["n"], row["n_init"]) == (index, index) and np.isnan(row["n_err"])
    boxy = fitted(tmp_path, model="sersic[boxiness]")["s"]
    near(boxy, "boxiness", 0.0)
    assert boxy["model"] == "sersic[boxiness]"


# --- neighbours -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blends(tmp_path_factory):
    """Blends, and one galaxy alone."""
    folder = tmp_path_factory.mktemp("blends")
    for seed in range(6):
        write_scene(folder, f"pair{seed}", TARGET, [NEIGHBOUR], seed=seed)
    write_scene(folder, "alone", TARGET, seed=9)
    return folder


def test_neighbours_are_fitted(blends, tmp_path):
    fit = fitted(blends, tmp_path / "fit")
    masked = fitted(blends, tmp_path / "mask", neighbours="mask")
    pairs = [f"pair{seed}" for seed in range(6)]
    off = {}
    for way, rows in (("fit", fit), ("mask", masked)):
        off[way] = np.array([rows[name]["flux"] / TARGET.flux - 1 for name in pairs])
    assert abs(off["fit"].mean()) < 0.01
    assert abs(off["mask"].mean()) > 2 * abs(off["fit"].mean())
    for name in pairs:
        row = fit[name]
        assert row["use"] and row["n_neighbours"] == 1 and masked[name]["n_neighbours"] == 0
        assert 0 < row["blend_fraction"] < 0.3
        assert bool(row["flags"] & Flag.BLENDED) == (row["blend_fraction"] > 0.05)
        near(row, "re", TARGET.re)
        near(row, "sky", SKY)
        assert row["n_pix"] > masked[name]["n_pix"]
    with fits.open(tmp_path / "fit" / "objects" / "pair0.fits") as hdus:
        assert hdus[-1].name == "NEIGHBOURS"
        light = hdus["NEIGHBOURS"].data.sum()
        assert light == pytest.approx(NEIGHBOUR.flux, rel=0.05)
        whole = hdus["COMPONENT_1"].data + hdus["NEIGHBOURS"].data + fit["pair0"]["sky"]
        np.testing.assert_allclose(hdus["MODEL"].data, whole, rtol=1e-5)
        assert not hdus["MASK"].data.any()
    with fits.open(tmp_path / "mask" / "objects" / "pair0.fits") as hdus:
        assert "NEIGHBOURS" not in hdus and hdus["MASK"].data.any()


def test_objects_without_neighbours_are_fitted_as_ever(blends):
    """To the last bit by `refine`, whatever lies beside them in the batch."""
    row = fitted(blends)["alone"]
    alone = afm.read(blends / "alone_image.fits")
    segmentation = afm.segment(alone, "given")
    start = afm.initialise(alone, segmentation, "moments")
    fit = afm.refine(alone, starts=start, segmentations=segmentation)
    for k, name in enumerate(("x", "y", "flux", "re", "n", "q", "pa", "sky")):
        assert row[name] == fit.values[0, k]
        assert row[f"{name}_err"] == fit.errors[0, k]
    assert row["n_neighbours"] == 0 and row["blend_fraction"] == 0


def test_star_with_a_neighbour_is_still_told(tmp_path):
    write_scene(tmp_path, "star", STAR, [NEIGHBOUR])
    write_scene(tmp_path, "galaxy", TARGET, [NEIGHBOUR])
    rows = fitted(tmp_path)
    assert rows["star"]["n_neighbours"] == rows["galaxy"]["n_neighbours"] == 1
    assert rows["star"]["flags"] & Flag.POINT_SOURCE
    assert rows["star"]["bic_point_source"] <= rows["star"]["bic"]
    assert not rows["galaxy"]["flags"] & Flag.POINT_SOURCE


def test_a_fragment_of_the_target_is_no_neighbour(tmp_path):
    """Labels that cut a galaxy in two: the piece has no light of its own, its pixels are used."""
    write_scene(tmp_path, "cut", TARGET)
    path = tmp_path / "cut_seg.fits"
    with fits.open(path, mode="update") as hdus:
        labels = hdus[0].data
        y, x = np.indices(labels.shape)
        labels[(labels == 1) & (x - y > 5)] = 2
    row = fitted(tmp_path)["cut"]
    assert row["n_neighbours"] == 0 and row["use"]
    assert row["n_pix"] == 64 * 64
    near(row, "flux", TARGET.flux)


def test_one_object_that_breaks_the_scene_fit_fails_alone(blends, monkeypatch):
    from autofit_ml.runs import scenes

    whole = scenes.refine

    def breaking(objects, *arguments, **options):
        if any(one.reference.id == "pair3" for one in objects):
            raise RuntimeError("no such thing")
        return whole(objects, *arguments, **options)

    expected = fitted(blends)
    monkeypatch.setattr(scenes, "refine", breaking)
    rows = fitted(blends)
    assert_failed_row(rows["pair3"])
    assert "unexpected RuntimeError in the fit: no such thing" in rows["pair3"]["message"]
    for name in set(rows) - {"pair3"}:
        assert rows[name]["flux"] == pytest.approx(expected[name]["flux"], rel=1e-9)


# --- model files, likelihoods ---------------------------------------------------------------


MODEL = """
components:
  bulge: {profile: sersic, n: {fixed: 2.5}, x: {start: 31.5}, y: {start: 32}}
  disk: {profile: exponential, x: bulge.x, y: bulge.y, re: {bounds: [4, 20]}}
constraints: [disk.re > bulge.re]
sky: 5
"""


def test_model_file(tmp_path):
    write_scene(tmp_path / "in", "bd", bulge_and_disc())
    (tmp_path / "model.yaml").write_text(MODEL)
    row = fitted(tmp_path / "in", model=str(tmp_path / "model.yaml"))["bd"]
    assert row["model"] == "sersic+exp" and row["use"]
    assert row["n"] == 2.5 and np.isnan(row["n_err"])
    assert row["sky"] == 5.0 and np.isnan(row["sky_err"])
    near(row, "fraction", 0.4)
    cov = covariance_matrix(np.array(row["cov"]))
    assert not cov[4].any() and not cov[7].any()  # n and sky are held
    free = fitted(tmp_path / "in", model=str(tmp_path / "model.yaml"), sky="free")["bd"]
    assert np.isfinite(free["sky_err"])  # the option wins
    scene = afm.read_model(tmp_path / "model.yaml")
    again = fitted(tmp_path / "in", model=scene)["bd"]
    assert again["flux"] == pytest.approx(row["flux"], rel=1e-9)


def test_a_component_at_a_neighbour_is_its_model(tmp_path):
    """Pixels of an object that the model has a component for are not masked."""
    write_scene(tmp_path / "in", "pair", TARGET, [NEIGHBOUR])
    (tmp_path / "two.yaml").write_text(
        "components:\n  target: {profile: sersic}\n"
        "  other: {profile: sersic, x: {start: 43}, y: {start: 38}}\n"
    )
    row = fitted(tmp_path / "in", model=tmp_path / "two.yaml")["pair"]
    assert row["n_neighbours"] == 0 and row["n_pix"] == 64 * 64
    near(row, "flux", TARGET.flux)
    near(row, "flux_2", NEIGHBOUR.flux)


def test_changed_model_file_is_another_run(tmp_path):
    write_scene(tmp_path / "in", "s", TARGET)
    model = tmp_path / "model.yaml"
    model.write_text("components: {galaxy: {profile: sersic, n: {fixed: 1}}}\n")
    settings = {**QUIET, "model": str(model), "save": "none"}
    fit_run(tmp_path / "in", tmp_path / "out", FitSettings(**settings))
    assert fit_run(tmp_path / "in", tmp_path / "out", FitSettings(**settings)).n_new == 0
    model.write_text("components: {galaxy: {profile: sersic, n: {fixed: 4}}}\n")
    with pytest.raises(ResumeError, match=r"model: 'model\.yaml sha256:"):
        fit_run(tmp_path / "in", tmp_path / "out", FitSettings(**settings))
    for changed in ({"neighbours": "mask"}, {"likelihood": "huber"}, {"error_floor": 0.01}):
        with pytest.raises(ResumeError, match=next(iter(changed))):
            fit_run(tmp_path / "in", tmp_path / "out", FitSettings(**settings, **changed))


def test_likelihoods_and_error_floor(tmp_path):
    """Bad pixels spoil a gaussian fit and not a robust one; poisson needs the gain."""
    write_scene(tmp_path, "s", TARGET, seed=3)
    with fits.open(tmp_path / "s_image.fits", mode="update") as hdus:
        hdus[0].data[10:50:4, 12:52:5] += 60.0
    plain = fitted(tmp_path)["s"]
    robust = fitted(tmp_path, likelihood="student-t:3")["s"]
    assert abs(robust["flux"] / TARGET.flux - 1) < 0.05 < abs(plain["flux"] / TARGET.flux - 1)
    floored = fitted(tmp_path, error_floor=0.2)["s"]
    assert floored["chi2"] < plain["chi2"]
    assert fitted(tmp_path, likelihood="poisson")["s"]["status"] == "ok"
    with fits.open(tmp_path / "s_image.fits", mode="update") as hdus:
        del hdus[0].header["GAIN"]
    row = fitted(tmp_path, likelihood="poisson")["s"]
    assert row["status"] == "failed" and "--gain" in row["message"]


WRONG = {
    "profile": {"model": "sersic+dragon"},
    "text": {"model": "sersic+"},
    "no file": {"model": "nothing.yaml"},
    "not YAML": {"model": "broken.yaml"},
    "no component": {"model": "empty.yaml"},
    "a link to nothing": {"model": "link.yaml"},
    "circular links": {"model": "circle.yaml"},
    "start outside bounds": {"model": "start.yaml"},
    "prior outside bounds": {"model": "prior.yaml"},
    "constraints that contradict": {"model": "order.yaml"},
    "neighbours": {"neighbours": "ignore"},
    "likelihood": {"likelihood": "perhaps"},
    "likelihood's parameter": {"likelihood": "huber:-1"},
    "likelihood without a parameter": {"likelihood": "gaussian:2"},
    "error floor": {"error_floor": -0.1},
    "error floor text": {"error_floor": "much"},
    "bands twice": {"bands": "g,r,g"},
    "bands without a name": {"bands": "g,,r"},
    "wavelength": {"bands": "g:blue,r:623"},
    "wavelengths for some": {"bands": "g:477,r"},
    "no such band": {"bands": "g,r"},
    "galfit and model": {"model": "exp", "galfit": "a.feedme"},
    "galfit": {"galfit": "nothing.feedme"},
    "network's prior of two components": {"model": "sersic+exp", "prior": "network"},
    "population that is not there": {"prior": "population:nothing.yaml"},
    "population of stars": {"prior": "population:stars.yaml"},
    "population of two components": {"model": "sersic+exp", "prior": "population:galaxies.yaml"},
    "no such prior": {"prior": "population"},
}
FILES = {
    "broken": "components: [",
    "empty": "sky: free",
    "link": "components: {a: {profile: sersic, x: b.x}}",
    "circle": "components: {a: {profile: sersic, re: 2 * b.re}, b: {profile: exp, re: a.re}}",
    "start": "components: {a: {profile: sersic, n: {start: 9}}}",
    "prior": "components: {a: {profile: sersic, n: {bounds: [1, 2], uniform: [3, 4]}}}",
    "stars": "{type: star, parameters: {mag: {unit: mag, band: r, normal: [20, 1]}}}",
    "galaxies": "{type: galaxy, parameters: {n: {log-normal: [2, 0.5]}}}",
    "order": "components: {a: {profile: sersic}, b: {profile: exp}}\n"
    "constraints: [a.re > b.re, b.re > a.re]",
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_models_are_told_before_anything_is_fitted(kind, tmp_path, monkeypatch):
    from autofit_ml.runs import frames

    def never(*_):
        raise AssertionError("something was read")

    monkeypatch.setattr(frames, "read_source", never)
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "in", "s_r", TARGET)
    for name, text in FILES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    options = {key: value for key, value in QUIET.items() if key != "init"}
    with pytest.raises(SettingsError) as caught:
        fit_run(tmp_path / "in", tmp_path / "out", FitSettings(**options, **WRONG[kind]))
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_rows_of_a_table_in_memory_have_the_models_columns(tmp_path):
    write_scene(tmp_path, "bd", bulge_and_disc())
    table = afm.fit(tmp_path, model="sersic+exp", workers=0, segmenter="given")
    assert {"re_2", "fraction", "mag_total"} <= set(table.colnames)
    assert table["re_2"].unit == "pix"


def test_a_population_is_the_prior_of_a_run_by_its_content(tmp_path):
    """Its name is in the catalogue, and another content is another run."""
    write_scene(tmp_path / "in", "s_r", TARGET)
    file = tmp_path / "narrow.yaml"
    file.write_text("name: discs\ntype: galaxy\nparameters: {n: {log-normal: [0.8, 0.0003]}}")
    options = {"prior": f"population:{file}"}
    (row,) = fitted(tmp_path / "in", tmp_path / "out", **options).values()
    assert row["prior"] == "population:discs"
    assert row["n"] == pytest.approx(0.8, abs=0.02)
    file.write_text(file.read_text().replace("0.8", "3"))
    with pytest.raises(ResumeError, match="prior"):
        fitted(tmp_path / "in", tmp_path / "out", **options)
