"""What an installed wheel brings along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as a wheel leaves it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("autofit_ml", "conf", "checkpoints"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--wheel-dir", str(folder), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_configs_travel_inside_the_package(installed):
    """Every config of the repository, composed from the installed copy."""
    ours = {path.relative_to(REPOSITORY / "conf") for path in (REPOSITORY / "conf").rglob("*.yaml")}
    theirs = installed / "autofit_ml" / "conf"
    assert {path.relative_to(theirs) for path in theirs.rglob("*.yaml")} == ours
    code = (
        "import autofit_ml, sys\n"
        "from autofit_ml.simulation.compose import compose_recipe, config_folder, list_recipes\n"
        f"assert autofit_ml.__file__.startswith({str(installed)!r}), autofit_ml.__file__\n"
        f"assert str(config_folder()).startswith({str(installed)!r})\n"
        "from autofit_ml.presets import survey_preset\n"
        "survey_preset('sdss')\n"
        "print(compose_recipe(['data=blends', 'survey=hsc-i']).survey.name, len(list_recipes('survey')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed,
        env={"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[0] == "hsc-i"


def test_weights_travel_inside_the_package(installed):
    """Every bundle of the repository, verified and loaded offline from the installed copy."""
    ours = {
        path.relative_to(REPOSITORY / "checkpoints")
        for path in (REPOSITORY / "checkpoints").rglob("*")
        if path.is_file()
    }
    theirs = installed / "autofit_ml" / "checkpoints"
    assert {path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file()} == ours
    code = (
        "import autofit_ml as afm\n"
        "from autofit_ml.weights.manifest import installed_folder\n"
        f"assert str(installed_folder()).startswith({str(installed)!r})\n"
        "for info in afm.list_weights():\n"
        "    afm.load(info.name, offline=True)\n"
        "    print(info.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed,
        env={"PYTHONPATH": str(installed), "HOME": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "segment/" in done.stdout
