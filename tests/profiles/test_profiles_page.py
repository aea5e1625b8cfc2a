"""docs/profiles.md: its examples run, and its tables say what the registry says."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autofit_ml.profiles import get_profile, profile_names, registry
from autofit_ml.profiles.tables import half_light_radius, profile_radii
from autofit_ml.rendering import component_jacobian, make_plan, psf_modes, render_component

PAGE = Path(__file__).parents[2] / "docs" / "profiles.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture
def broken_exponential(tmp_path, monkeypatch):
    """The page's own file, imported as a user would."""
    profile_names()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    (source,) = (block for block in BLOCKS if "register(" in block)
    file = tmp_path / "broken_exponential.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("broken_exponential", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "broken_exponential", module)
    spec.loader.exec_module(module)
    return get_profile("broken_exp")


def test_the_short_examples_run():
    for block in BLOCKS:
        if "register(" not in block:
            exec(block, {})
    assert profile_radii(get_profile("moffat"), [3.0])["fwhm"] == pytest.approx(1.5843, abs=1e-4)


def test_the_table_lists_every_profile_with_its_names_and_ranges():
    rows = [
        line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `")
    ]
    rows = {cells[0].strip().strip("`"): cells for cells in rows if len(cells) == 4}
    assert set(rows) == set(profile_names())
    for name, (_, aliases, shapes, fitted) in rows.items():
        profile = get_profile(name)
        assert tuple(re.findall(r"`(\w+)`", aliases)) == profile.aliases
        found = re.findall(r"`(\w+)`(?: (-?[\d.]+) to (-?[\d.]+))?", shapes)
        assert [shape[0] for shape in found] == [shape.name for shape in profile.shapes]
        how = [word.strip() for word in fitted.split(",") if word.strip()]
        how = how * len(found) if len(how) == 1 else how
        for (_, low, high), shape, way in zip(found, profile.shapes, how, strict=True):
            if profile.kind != "background":
                assert (float(low), float(high)) == shape.bounds
            assert shape.log == (way == "ln")


def test_a_new_profile_is_one_short_file(broken_exponential):
    profile = broken_exponential
    assert profile.parameters == ("x", "y", "flux", "re", "rb", "bend", "q", "pa")
    # Without a bend it is the exponential disc.
    assert half_light_radius(profile, [3.0, 1.0]) == pytest.approx(1.678347, rel=1e-6)
    assert profile_radii(profile, [3.0, 1.0])["break"] == pytest.approx(3.0 / 1.678347, rel=1e-6)
    plan = make_plan((48, 40), (1, 1), dtype=torch.float64)
    psf = psf_modes(plan, torch.ones((1, 1, 1)), torch.tensor([False]))
    theta = torch.tensor([[20.0, 24.0, 3.0, 1.5, np.log(2.0), 0.0, 0.2, 0.1]], dtype=torch.float64)
    image = render_component(plan, profile, psf, theta)
    plain = render_component(plan, get_profile("exponential"), psf, theta[:, [0, 1, 2, 3, 6, 7]])
    assert torch.allclose(image, plain, atol=1e-6 * plain.max().item())
    theta[0, 5] = -0.7
    jacobian = component_jacobian(plan, profile, psf, theta)
    step = torch.zeros_like(theta)
    step[0, 5] = 1e-5
    above, below = (render_component(plan, profile, psf, t) for t in (theta + step, theta - step))
    numeric = (above - below)[0] / 2e-5
    assert (jacobian[0, 5] - numeric).abs().max() < 1e-6 * numeric.abs().max()


def test_a_new_profile_can_be_modified_by_name(broken_exponential):
    profile = get_profile("broken_exp[boxiness,f1]")
    assert profile.parameters[-3:] == ("boxiness", "f1_a", "f1_b")
