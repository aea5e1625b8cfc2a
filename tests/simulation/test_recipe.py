"""Recipes: every config composes, and wrong values are named before any work starts."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("hydra")

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.compose import compose_recipe, config_folder, list_recipes
from autofit_ml.simulation.recipe import DataRecipe, Recipe


@pytest.mark.parametrize("data", [name for name in list_recipes("data") if name != "real"])
def test_every_data_recipe_composes(data):
    recipe = compose_recipe([f"data={data}"])
    assert recipe.data.title
    assert Recipe.from_mapping(recipe.as_mapping()).digest == recipe.digest
    json.dumps(recipe.as_mapping(), allow_nan=True)


@pytest.mark.parametrize("survey", list_recipes("survey"))
def test_every_survey_composes_and_says_where_its_numbers_come_from(survey):
    recipe = compose_recipe([f"survey={survey}", "data.shape=[200,200]"])
    assert recipe.survey.name == survey
    assert all(len(reference) > 5 for reference in recipe.survey.references)
    assert math.isfinite(recipe.survey.depth)


def test_validation_sets_are_fixed():
    """The recipes that benchmarks rely on: survey, seed, number and version are spelled out."""
    names = [name for name in list_recipes("data") if name.startswith("validation/")]
    assert {name.partition("/")[2] for name in names} == {
        "single",
        "blends",
        "bulge_disc",
        "realistic",
        "frame",
    }
    seeds = set()
    for name in names:
        text = (config_folder() / "data" / f"{name}.yaml").read_text()
        for key in ("version:", "seed:", "count:", "survey:"):
            assert key in text
        recipe = compose_recipe([f"data={name}"])
        assert recipe.survey.name == recipe.data.survey
        seeds.add(recipe.data.seed)
    assert len(seeds) == len(names)
    other = compose_recipe(["data=validation/single", "survey=kids-r"])
    assert other.survey.name == "kids-r"


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (["data.galaxies.re=[-1,3]"], "data.galaxies.re", "positive"),
        (["data.galaxies.re=[5,3]"], "data.galaxies.re", "lower limit"),
        (["data.galaxies.n=[0.1,4]"], "data.galaxies.n", "0.3 to 6.2"),
        (["data.galaxies.n=[1,9]"], "data.galaxies.n", "0.3 to 6.2"),
        (["data.galaxies.q=[0.5,1.2]"], "data.galaxies.q", "between"),
        (["data.target.snr=[0,10]"], "data.target.snr", "positive"),
        (["data.target.magnitude=[18,20]"], "data.target", "one of the two"),
        (["data.galaxies.morphology={sersic: 0}"], "data.galaxies", "weight"),
        (["data.galaxies.morphology={spiral: 1}"], "data.galaxies.morphology", "structured"),
        (["data.shape=[4,64]"], "data", "9 x 9"),
        (["survey.psf.size=81"], "survey.psf.size", "larger than the images"),
        (["survey.psf.size=40"], "survey.psf", "odd"),
        (["survey.psf.kind=airy"], "survey.psf.kind", "moffat"),
        (["survey.psf.kind=folder"], "survey.psf", "folder of PSF images"),
        (["survey.psf.kind=folder", "survey.psf.folder=/no/such"], "survey.psf", "/no/such"),
        (["survey.psf.beta=[0.5,3]"], "survey.psf", "beta"),
        (["survey.noise.gain=0"], "survey.noise.gain", "greater than 0"),
        (["survey.noise.correlation=1.5"], "survey.noise", "0 and 0.9"),
        (["survey.noise.correlation=[[1,0.2],[0.2,1]]"], "survey.noise", "odd sides"),
        (["survey.noise.correlation=[0.2,0.95]"], "survey.noise", "between 0 and 0.9"),
        (["survey.noise.correlation=/no/such.fits"], "survey.noise", "/no/such.fits"),
        (["survey.artefacts.saturation=-1"], "survey.artefacts.saturation", "greater than 0"),
        (["survey.artefacts.cosmic_rays_masked=2"], "survey.artefacts.cosmic_rays_masked", "1"),
        (["data.neighbours.number=null"], "data.neighbours", "magnitude for the counts"),
        (["data.neighbours.faint_magnitude=25"], "data.neighbours", "needs magnitude"),
        (["data=frame", "data.neighbours.number=3"], "data", "counts"),
        (["data.kind=frame"], "data", "frame has none"),
        (["data=real"], "data.galaxies", "real_folder"),
        (["data=real", "data.galaxies.real_folder=/no/such"], "data.galaxies", "/no/such"),
        (["data.galaxies.colour=3"], "data.galaxies.colour", "not permitted"),
        (["data=nothing"], "data/nothing", "single"),
        (["survey=palomar"], "survey/palomar", "sdss-r"),
        (["nonsense"], "nonsense", "data is one of"),
        (["data.count=0"], "data.count", "greater than 0"),
    ],
)
def test_wrong_values_are_named(overrides, where, what):
    with pytest.raises(SettingsError) as caught:
        compose_recipe(overrides)
    assert where in str(caught.value)
    assert what in str(caught.value)


def test_several_wrong_values_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        compose_recipe(["data.galaxies.re=[-1,3]", "survey.noise.gain=-2"])
    assert "data.galaxies.re" in str(caught.value)
    assert "survey.noise.gain" in str(caught.value)


def test_own_configs_are_found_first(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "name: mine\nkind: stamp\nshape: [32, 32]\ntarget: {snr: [10, 20]}\n"
    )
    recipe = compose_recipe(["data=mine", "survey.psf.size=21"], config_dir=tmp_path)
    assert recipe.data.shape == (32, 32)
    with pytest.raises(SettingsError, match="does not exist"):
        compose_recipe([], config_dir=tmp_path / "absent")


def test_digest_tells_recipes_apart():
    one, two = compose_recipe([]), compose_recipe(["data.target.snr=[10,999]"])
    assert one.digest != two.digest
    assert one.digest == compose_recipe([]).digest


def test_nan_and_infinity_survive_the_round_trip():
    recipe = compose_recipe([])
    again = Recipe.from_mapping(recipe.as_mapping())
    assert again.survey.artefacts.saturation == recipe.survey.artefacts.saturation
    assert DataRecipe.model_validate(recipe.data.model_dump()) == recipe.data


def test_package_imports_without_the_optional_libraries():
    """Importing the package (and its device-side path) needs neither GalSim, Hydra nor pydantic."""
    code = (
        "import sys\n"
        "for name in ('galsim', 'hydra', 'omegaconf', 'pydantic', 'lightning'):\n"
        "    sys.modules[name] = None\n"
        "import autofit_ml.simulation\n"
        "from autofit_ml.simulation import Source, total_snr\n"
        "try:\n"
        "    autofit_ml.simulation.simulate_sersic(1, seed=0)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert 'pip install "galsim' in done.stdout
