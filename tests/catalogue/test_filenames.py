"""File names of ids: every id has one, no two ids have the same."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from autofit_ml.catalogue import file_stem


@pytest.mark.parametrize(
    "name", ["m51", "NGC 4660 (r)", "М51", "étoile", "a;b", "f@0012", "a" * 200]
)
def test_ordinary_names_are_kept(name):
    assert file_stem(name) == name


@pytest.mark.parametrize(
    "name",
    ["a/b", "../../x", "..", ".", "", ".hidden", "a:b", "a?", "a" * 201, "М" * 150, "a\nb", "a\0b",
     "e\u0301toile", "end.", "end ", "~user", "\ud800", "\x1b[31m", "m51~0123456789ab"],
)  # fmt: skip
def test_others_are_cleaned_and_told_apart(name, tmp_path):
    stem = file_stem(name)
    assert stem != name
    assert len(os.fsencode(stem)) < 220
    (tmp_path / f"{stem}_seg.fits").write_bytes(b"")
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}_seg.fits"]
    assert file_stem(stem) != stem  # an id that looks like a name made here has another


names = st.text(st.characters(codec=None), max_size=40)


@examples(200)
@given(names, names)
def test_different_ids_have_different_files(one, other):
    assert (file_stem(one) == file_stem(other)) == (one == other)
