"""GALFIT and GALFITM input files as the input of a run."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

pytest.importorskip("galsim")

from scene_inputs import NEIGHBOUR, TARGET, write_bands, write_scene

from autofit_ml.errors import ResumeError, SettingsError
from autofit_ml.runs import FitSettings, fit_run

QUIET = {"workers": 0, "segmenter": "sep", "init": "moments", "save": "objects"}

FEEDME = """
A) {a}
B) out.fits
C) {c}
D) {d}
E) 1
F) none
G) none
H) {h}
I) 60 60
J) {j}
K) 0.2 0.2
O) regular
P) 0

0) sersic
1) 33.5 32.4 1 1
3) {m} 1
4) 4 1
5) 2 1
9) 0.7 1
10) 20 1
Z) 0

{more}
0) sky
1) 4 1
2) 0 0
3) 0 0
Z) 0
"""

SECOND = """
0) sersic
1) 44 39 1 1
3) 18 1
4) 3 1
5) 1 1
9) 0.8 1
10) 100 1
Z) 0
"""


def feedme(folder, **changes):
    """An input file for ``s_image.fits``."""
    parts = {
        "a": "s_image.fits", "c": "s_sigma.fits[0]", "d": "s_psf.fits", "h": "1 64 1 64",
        "j": "27", "m": "17", "more": "",
    } | changes  # fmt: skip
    (folder / "g.feedme").write_text(FEEDME.format(**parts))
    return folder / "g.feedme"


def near(row, name, truth, sigmas=4.0):
    assert 0 < row[f"{name}_err"] < np.inf, name
    assert abs(row[name] - truth) < sigmas * row[f"{name}_err"], (name, row[name], truth)


def test_image_noise_psf_and_zero_point_of_the_file(tmp_path):
    write_scene(tmp_path, "s", TARGET, labels=False)
    with fits.open(tmp_path / "s_image.fits", mode="update") as hdus:
        hdus[0].header["EXPTIME"] = 100.0
        hdus[0].header["ZP"] = 1.0  # the file's counts
    (row,) = fit_run(
        None, tmp_path / "out", FitSettings(**QUIET, galfit=feedme(tmp_path))
    ).table.to_pylist()
    assert row["id"] == "s" and row["use"], row["message"]
    for name in ("x", "y", "flux", "re", "n", "q", "pa"):
        near(row, name, getattr(TARGET, name))
    assert row["zeropoint"] == pytest.approx(27 + 5)  # of one count in 100 s
    assert row["model"] == "sersic"


def test_region(tmp_path):
    """The region is cut out; positions stay those of the file."""
    write_scene(tmp_path, "s", TARGET, labels=False)
    path = feedme(tmp_path, h="9 58 5 60")
    (row,) = fit_run(None, tmp_path / "out", FitSettings(**QUIET, galfit=path)).table.to_pylist()
    assert row["n_pix"] == 50 * 56
    near(row, "x", TARGET.x)
    near(row, "y", TARGET.y)
    with fits.open(tmp_path / "out" / "objects" / "s.fits") as hdus:
        assert hdus["IMAGE"].data.shape == (56, 50)
        assert (hdus["IMAGE"].header["LTV1"], hdus["IMAGE"].header["LTV2"]) == (-8, -4)
        whole = fits.getdata(tmp_path / "s_image.fits")
        np.testing.assert_array_equal(hdus["IMAGE"].data, whole[4:60, 8:58])
    with pytest.raises(ResumeError, match=r"galfit: 'g\.feedme sha256:"):
        fit_run(None, tmp_path / "out", FitSettings(**QUIET, galfit=feedme(tmp_path, m="16")))


def test_objects_of_the_file_are_neither_masked_nor_doubled(tmp_path):
    write_scene(tmp_path, "s", TARGET, [NEIGHBOUR], labels=False)
    path = feedme(tmp_path, more=SECOND)
    (row,) = fit_run(None, None, FitSettings(**QUIET, galfit=path)).table.to_pylist()
    assert row["model"] == "sersic+sersic" and row["n_neighbours"] == 0
    assert row["n_pix"] == 64 * 64
    near(row, "flux", TARGET.flux)
    near(row, "flux_2", NEIGHBOUR.flux)
    near(row, "x_2", NEIGHBOUR.x)


def test_only_the_model_where_paths_are_given(tmp_path):
    write_scene(tmp_path / "in", "other", TARGET, labels=False)
    path = feedme(tmp_path, a="nothing.fits")
    (row,) = fit_run(tmp_path / "in", None, FitSettings(**QUIET, galfit=path)).table.to_pylist()
    assert row["id"] == "other"
    near(row, "flux", TARGET.flux)


def test_several_bands(tmp_path):
    write_bands(tmp_path, "s", ("g", "r"))
    both = {
        "a": "s_g_image.fits,s_r_image.fits", "c": "s_g_sigma.fits,s_r_sigma.fits",
        "d": "s_g_psf.fits,s_r_psf.fits", "j": "26,27", "m": "17,16",
    }  # fmt: skip
    path = feedme(tmp_path, **both)
    text = path.read_text()
    path.write_text(text.replace("B) out", "A1) g,r\nA2) 480,620\nB) out"))
    (row,) = fit_run(None, None, FitSettings(**QUIET, galfit=path)).table.to_pylist()
    assert row["status"] == "ok", row["message"]
    near(row, "flux_g", 0.5 * TARGET.flux)
    near(row, "flux_r", TARGET.flux)
    assert row["mag_g"] == pytest.approx(26 - 2.5 * np.log10(row["flux_g"]))
    with pytest.raises(SettingsError, match="the images are those of a GALFIT file"):
        fit_run(None, None, FitSettings(**QUIET, galfit=path, bands="g,r"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": "none"}, "names no image"),
        ({"a": "gone.fits"}, "gone.fits' that it names does not exist"),
        ({"d": "psf.txt"}, "psf.txt' that it names does not exist|no FITS file"),
    ],
)
def test_files_that_are_not_there(tmp_path, changes, message):
    write_scene(tmp_path, "s", TARGET, labels=False)
    with pytest.raises(SettingsError, match=message) as caught:
        fit_run(None, None, FitSettings(**QUIET, galfit=feedme(tmp_path, **changes)))
    assert caught.value.file == tmp_path / "g.feedme"
