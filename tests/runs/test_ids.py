"""Ids are what was written, from the input to every file of the results."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from astropy.io import fits
from astropy.table import Table
from fits_inputs import write_object

from autofit_ml.catalogue import file_stem, query, read_catalogue
from autofit_ml.catalogue.fits_table import unescape_text
from autofit_ml.errors import SettingsError
from autofit_ml.runs import FitSettings, fit_run
from autofit_ml.runs.segment import segment_run
from autofit_ml.settings import SegmentSettings

LONG = "l" * 130
IDS = [
    "М51 é",
    "a;b",
    "a:b",
    "a/b",
    "../out",
    f"{LONG}1",
    f"{LONG}2",
    "x" * 300,
    "e\u0301",
    "-q",
    "\x1b[0m",
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """One image under many ids."""
    folder = tmp_path_factory.mktemp("ids")
    write_object(folder, "one", cards={"ZP": 25.0})
    table = Table({"id": IDS, "image": ["one_image.fits"] * len(IDS)})
    table.write(folder / "list.ecsv", format="ascii.ecsv")
    return folder / "list.ecsv"


def test_ids_of_a_fit(manifest, tmp_path):
    out = tmp_path / "a" / "out"
    settings = FitSettings(workers=0, segmenter="sep")
    summary = fit_run(None, out, settings, manifest=manifest)
    assert summary.n_failed == 0
    assert list(read_catalogue(out)["id"]) == IDS
    assert list(read_catalogue(out / "catalog.fits")["id"]) == IDS
    assert len(query(out, "SELECT DISTINCT id FROM catalog")) == len(IDS)
    for folder, ending in (("objects", "fits"), ("previews", "png")):
        here = out / folder
        assert {p.name for p in here.iterdir()} == {f"{file_stem(name)}.{ending}" for name in IDS}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    for name in IDS:
        header = fits.getheader(out / "objects" / f"{file_stem(name)}.fits")
        assert unescape_text(header["ID"].encode()) == name
    text = (out / "report.html").read_text("utf-8")
    (payload,) = re.findall(r'id="catalogue">(.*?)</script>', text, re.DOTALL)
    report = json.loads(payload)
    assert report["objects"] == report["previews"] == "1" * len(IDS)
    stems = [report["stems"].get(str(k), name) for k, name in enumerate(IDS)]
    assert stems == [file_stem(name) for name in IDS]
    (pictures,) = re.findall(r'id="thumbnails">(.*?)</script>', text, re.DOTALL)
    assert all(base64.b64decode(one)[:2] == b"\xff\xd8" for one in json.loads(pictures))
    assert fit_run(None, out, settings, manifest=manifest).n_new == 0
    # A new run there replaces these files, and no others.
    (out / "objects" / "mine.txt").write_text("mine")
    fit_run(None, out, settings.replace(save=()), manifest=manifest, restart=True)
    assert [path.name for path in (out / "objects").iterdir()] == ["mine.txt"]


def test_labels_beside_an_image_are_found(tmp_path):
    """Whatever the image is called, `fit` reads what `segment` wrote beside it."""
    for name in ("М51 é", "a;b"):
        write_object(tmp_path, name, cards={"ZP": 25.0})
    segment_run(tmp_path, tmp_path, SegmentSettings(workers=0, segmenter="sep"))
    settings = FitSettings(workers=0, segmenter="given", save=())
    table = fit_run(tmp_path, None, settings).table
    assert table["id"].to_pylist() == ["a;b", "М51 é"]
    assert table["segmenter"].to_pylist() == ["given", "given"]


def test_ids_that_differ_only_in_case(tmp_path):
    """Files of their own; refused where the disk would not keep them apart."""
    (tmp_path / "in").mkdir()
    write_object(tmp_path / "in", "g")
    Table({"id": ["M51", "m51"], "image": ["in/g_image.fits"] * 2}).write(tmp_path / "t.csv")
    settings = SegmentSettings(segmenter="sep", workers=0, pictures=False)
    assert segment_run(None, tmp_path / "out", settings, manifest=tmp_path / "t.csv").n_ok == 2
    assert {"M51_seg.fits", "m51_seg.fits"} <= {path.name for path in (tmp_path / "out").iterdir()}
    (tmp_path / "blind" / ".WORK" / "SEGMENT").mkdir(parents=True)  # as if it were .work/segment
    with pytest.raises(SettingsError, match="M51 and m51 would have the same files"):
        segment_run(None, tmp_path / "blind", settings, manifest=tmp_path / "t.csv")
