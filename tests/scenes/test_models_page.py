"""docs/models.md: its code runs, prints what it says, and its YAML is read."""

import contextlib
import io
import re
from pathlib import Path

from autofit_ml.scenes import read_model, scene, write_model
from autofit_ml.scenes.priors import PRIORS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_code_runs_and_prints_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = ""
    kinds = []
    for kind, text in BLOCKS:
        kinds.append(kind)
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(text, str(PAGE), "exec"), names)
            shown = printed.getvalue()
        elif kind == "text":
            assert shown.strip() == text.strip()
    assert kinds.count("python") >= 4
    assert kinds.count("text") == 3


def test_yaml_of_the_page_is_the_python_of_the_page():
    (text,) = [text for kind, text in BLOCKS if kind == "yaml"]
    model = read_model(text)
    assert model.name == "sersic+exp[boxiness]"
    assert read_model(write_model(model)) == model


def test_every_specification_of_the_table_is_understood():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    rows = [row for line in lines for row in re.findall(r"`((?:x|n|q|re): [^`]+)`", line)]
    assert len(rows) >= 7
    for row in rows:
        read_model(f"components:\n  bulge: sersic\n  disk:\n    profile: sersic\n    {row}\n")


def test_every_prior_is_in_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in PRIORS)
    assert scene("sersic").name == "sersic"
