"""The code of docs/scenes.md runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scenes.md"


def test_the_pages_code_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("galsim")
    from autofit_ml.simulation import export_fits, simulate_sersic

    objects = simulate_sersic(2, seed=3, snr=(200.0, 300.0), size=48)
    export_fits(objects, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 3
