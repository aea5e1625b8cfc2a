"""First lines of docstrings can be understood alone."""

import ast
import re
from pathlib import Path

import autofit_ml
import training

UNFINISHED = re.compile(
    r"(Of|What|Which|From|How|Whether|Where|Whose|Those|That|As|Is|Are|With|By|In|To|For|Who)\b"
)
"""Openings of a clause that lacks what it belongs to."""


def test_first_lines_stand_alone():
    found = []
    for package in (autofit_ml, training):
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
                text = ast.get_docstring(node) if isinstance(node, kinds) else None
                if text and UNFINISHED.match(text):
                    found.append(f"{path.name}: {text.splitlines()[0]}")
    assert not found
