"""Folders that somebody has changed: an error that says what to do, and nothing outside is touched."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from fits_inputs import write_object

from autofit_ml.errors import AutofitError, ResumeError, SettingsError
from autofit_ml.runs import FitSettings, fit_run
from autofit_ml.runs.segment import segment_run
from autofit_ml.settings import SegmentSettings

FIT = FitSettings(workers=0, segmenter="sep", save=())
SEGMENT = SegmentSettings(workers=0, segmenter="sep", pictures=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two images; a fit and a segmentation of them, finished."""
    folder = tmp_path_factory.mktemp("tampered")
    (folder / "images").mkdir()
    for k in range(2):
        write_object(folder / "images", f"g{k}", cards={"ZP": 25.0})
    fit_run(folder / "images", folder / "out", FIT)
    segment_run(folder / "images", folder / "out", SEGMENT)
    return folder


@pytest.fixture
def here(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished / "out", tmp_path / "out"))


def edited(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


NO_STATES = [b"", b"{", b"null", b"[1]", b'{"settings": {}}', b'"x"', b"\xff\xfe", b"[" * 10**5]
NO_INPUTS = [[], {"g0": 3}, {"g0": {}}, {"g0": []}, {"g0": {"image": 3}}, {"g0": {"image": [1]}}]
NO_OBJECTS = [[], {"g0": 3}, {"g0": "g0"}, {"g0": [1]}, {"g0": None}, {"g0": {"a": 1}}]


@pytest.mark.parametrize("content", NO_STATES)
@pytest.mark.parametrize("work", [".work", ".work/segment"])
def test_states_that_are_none(finished, here, content, work):
    (here / work / "state.json").write_bytes(content)
    run, settings = (fit_run, FIT) if work == ".work" else (segment_run, SEGMENT)
    with pytest.raises(ResumeError, match="cannot be read") as caught:
        run(finished / "images", here, settings)
    assert "--restart" in caught.value.remedy
    assert run(finished / "images", here, settings, restart=True).n_ok == 2


@pytest.mark.parametrize("inputs", NO_INPUTS)
def test_inputs_that_are_none(finished, here, inputs):
    edited(here / ".work" / "state.json", lambda state: state.update(inputs=inputs))
    with pytest.raises(ResumeError):
        fit_run(finished / "images", here, FIT)
    assert fit_run(finished / "images", here, FIT, restart=True).n_objects == 2


@pytest.mark.parametrize("name", ["objects", "hashes", "unfinished", "failures", "warnings"])
@pytest.mark.parametrize("value", [*NO_OBJECTS[1:], 3, "x"])
def test_journals_that_are_none(finished, here, name, value):
    journal = here / ".work" / "segment" / "shards" / "000000.json"
    edited(journal, lambda content: content.update({name: value}))
    with contextlib.suppress(ResumeError):
        segment_run(finished / "images", here, SEGMENT)
    assert segment_run(finished / "images", here, SEGMENT, restart=True).n_ok == 2


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"# %ECSV 1.0\n# ---\n# datatype: 3\nid\n", b"a b\n1\n"]
)
def test_rows_that_are_none(finished, here, content):
    (here / ".work" / "segment" / "shards" / "000000.ecsv").write_bytes(content)
    with pytest.raises(AutofitError, match="cannot be read"):
        segment_run(finished / "images", here, SEGMENT)


def test_state_of_another_version_and_of_deaths(finished, here):
    state = here / ".work" / "state.json"
    for content in (b"null", b'{"sources": 3}', b'{"sources": ["g0"], "deaths": {"g0": "many"}}'):
        (here / ".work" / "under_way.json").write_bytes(content)
        assert fit_run(finished / "images", here, FIT).n_new == 0
    edited(state, lambda content: content["settings"].update(autofit_ml="0.0.1", odd={"a": [1]}))
    with pytest.raises(ResumeError, match=r"autofit_ml: '0\.0\.1' ->"):
        fit_run(finished / "images", here, FIT)


def test_names_in_a_state_reach_no_file_elsewhere(finished, here):
    """A new run deletes only what lies in its own folders."""
    victim = here.parent / "victim.fits"
    victim.write_bytes(b"mine")
    names = ["../../victim", str(victim.with_suffix("")), "..", "g0"]
    edited(
        here / ".work" / "state.json",
        lambda state: state.update(inputs=dict.fromkeys(names), clearing=True),
    )
    fit_run(finished / "images", here, FIT)
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("part", ["objects", "previews", ".work", ".work/shards"])
def test_links_are_not_followed(finished, tmp_path, part):
    """Neither written to nor cleared."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "g0.fits").write_bytes(b"mine")
    link = tmp_path / "out" / part
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    for restart in (False, True):
        with pytest.raises(SettingsError, match="link") as caught:
            fit_run(finished / "images", tmp_path / "out", FIT, restart=restart)
        assert caught.value.file == link
    assert [path.name for path in mine.iterdir()] == ["g0.fits"]
    assert (mine / "g0.fits").read_bytes() == b"mine"


def test_the_folder_itself_may_be_a_link(finished, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert fit_run(finished / "images", tmp_path / "out", FIT).n_ok == 2
