"""Scenes from functions, strings and YAML: what they hold, that they agree, and what is refused."""

import dataclasses
import math
import pickle

import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.scenes import (
    Bounds,
    Component,
    Parameter,
    Scene,
    as_parameter,
    component,
    exponential,
    fixed,
    free,
    log_normal,
    normal,
    parse_model,
    point,
    read_model,
    sersic,
    shifted,
    uniform,
    with_sky,
    with_values,
    write_model,
)
from autofit_ml.scenes import scene as make_scene
from autofit_ml.scenes.naming import profile_of

YAML = """
# A bulge and a disc.
components:
  bulge:
    profile: sersic
    n: {log-normal: [3, 0.3 dex], bounds: [0.5, 8]}
    q: {fixed: 0.9}
  disk:
    profile: exponential
    x: bulge.x
    y: bulge.y
    re: {start: 6, bounds: [1, 40]}
    modifiers: [boxiness]
sky: tilted
constraints: [disk.re > bulge.re]
"""


def in_python():
    return make_scene(
        bulge=sersic(
            n=free(prior=log_normal(3, 0.3 * math.log(10)), bounds=(0.5, 8)), q=fixed(0.9)
        ),
        disk=exponential(
            x="bulge.x", y="bulge.y", re=free(6, bounds=(1, 40)), modifiers=["boxiness"]
        ),
        sky="tilted",
        constraints=["disk.re > bulge.re"],
    )


# --- One component ---------------------------------------------------------------------------


def test_the_calls_of_before_go_on_working():
    scene = sersic()
    assert scene.name == "sersic"
    assert scene.sky_parameters["sky"].plain
    assert scene.bounds == Bounds()
    assert scene.single_sersic
    narrow = sersic(n=(0.5, 6), re_min=0.1, q_min=0.1)
    assert narrow.bounds == Bounds(n=(0.5, 6), re_min=0.1, q_min=0.1)
    assert narrow.single_sersic
    assert sersic("fixed").sky_parameters["sky"] == fixed(0.0)
    assert sersic(2.5).sky_parameters["sky"] == fixed(2.5)
    assert sersic(2.5).single_sersic
    with pytest.raises(SettingsError, match="sky is 'floating'"):
        sersic("floating")


@pytest.mark.parametrize(
    "scene",
    [
        sersic(sky="tilted"),
        sersic(q=fixed(1.0)),
        sersic(n=normal(4, 1)),
        sersic(re=(1, 10)),
        sersic(n=free(2.0)),
        sersic(modifiers=["boxiness"]),
        exponential(),
        parse_model("sersic+exp"),
    ],
)
def test_what_is_not_a_plain_sersic(scene):
    assert not scene.single_sersic


@pytest.mark.parametrize(
    ("specification", "parameter"),
    [
        (None, Parameter()),
        ((1, 5), Parameter(bounds=(1.0, 5.0))),
        ([None, 5], Parameter(bounds=(None, 5.0))),
        ("bulge.x", Parameter(tie="bulge.x")),
        (normal(4, 1), Parameter(prior=normal(4, 1))),
        ({"fixed": 0.9}, Parameter(0.9, fixed=True)),
        ({"fixed": True}, Parameter(fixed=True)),
        ({"fixed": True, "start": 2}, Parameter(2.0, fixed=True)),
        ({"fixed": False, "start": 2}, Parameter(2.0)),
        ({"start": 6, "bounds": [1, 40]}, Parameter(6.0, bounds=(1.0, 40.0))),
        ({"normal": [4, 1]}, Parameter(prior=normal(4, 1))),
        ({"normal": {"mean": 4, "sd": 1}}, Parameter(prior=normal(4, 1))),
        ({"prior": {"normal": {"mean": 4, "sigma": 1}}}, Parameter(prior=normal(4, 1))),
        ({"prior": "normal", "mean": 4, "sigma": 1}, Parameter(prior=normal(4, 1))),
        ({"prior": normal(4, 1)}, Parameter(prior=normal(4, 1))),
        (
            {"prior": "log-normal", "mean": 3, "sigma": "0.3 dex", "bounds": [0.5, 8]},
            Parameter(prior=log_normal(3, 0.3 * math.log(10)), bounds=(0.5, 8)),
        ),
        ({"tie": "2 * bulge.re"}, Parameter(tie="2 * bulge.re")),
        ({"bands": "free"}, Parameter(bands="free")),
        ({"bands": 2}, Parameter(bands=2)),
    ],
)
def test_specifications(specification, parameter):
    assert as_parameter(specification) == parameter


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        (4, r"start or a fixed value.*\{start: 4\} or \{fixed: 4\}"),
        (True, "says nothing"),
        ((1, 2, 3), "give two numbers"),
        ((5, 1), "smaller one first"),
        ({"fixed": 1, "start": 2}, "one of the two"),
        ({"fixed": None}, "no value"),
        ({"fixed": "often"}, "finite number"),
        ({"strat": 1}, "'strat' is not understood"),
        ({"normal": [4]}, r"write \{normal: \[mean, sd\]\}"),
        ({"normal": [4, 1, 2]}, "3 numbers"),
        ({"normal": {"mean": 4}}, "lacks sd"),
        ({"normal": {"mean": 4, "sd": 1, "sigma": 1}}, "'sigma'"),
        ({"normal": 4}, r"write \{normal"),
        ({"normal": [4, 1], "uniform": [0, 1]}, "more than one prior"),
        ({"prior": "gaussian", "mean": 4}, "there is no prior 'gaussian'"),
        ({"prior": "normal", "mean": 4}, "lacks sd"),
        ({"prior": 3}, "the prior is 3"),
        ({"normal": [4, "a"]}, "sd of a normal prior is 'a'"),
        ({"tie": 3}, "write an expression"),
        ({"bands": "some"}, "free, shared, epochs"),
        ({"bands": 99}, "degree"),
        ({"bounds": "1 5"}, "give two numbers"),
        ({"fixed": 4, "normal": [4, 1]}, "fixed and has a prior"),
        ({"tie": "bulge.x", "start": 4, "bounds": [1, 9]}, "nothing of its own"),
        (object(), "does not describe"),
    ],
)
def test_specifications_that_say_what_to_do(specification, message):
    with pytest.raises(SettingsError, match=message):
        as_parameter(specification)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"m": (1, 2)}, r"sersic has no parameter 'm' .*n"),
        ({"n": (0.1, 4)}, r"sersic\.n: the bound 0\.1 lies outside 0\.3 to 8"),
        ({"n": fixed(9)}, r"sersic\.n: the fixed value 9 lies outside"),
        ({"re": free(9, bounds=(1, 5))}, r"sersic\.re: the start 9 lies outside the bounds 1 to 5"),
        ({"re": free(0)}, "above 0"),
        ({"q": fixed(1.2)}, r"sersic\.q: .*0 to 1"),
        ({"n": free(prior=uniform(5, 7), bounds=(1, 4))}, r"sersic\.n: the prior .* outside"),
        ({"n": normal(40, 1)}, r"sersic\.n: the prior normal\(40, 1\) lies outside the bounds"),
        ({"re": free(9, prior=uniform(1, 5))}, r"sersic\.re: the start 9 lies where the prior"),
        ({"n": 4}, r"sersic\.n: 4 could be a start or a fixed value"),
    ],
)
def test_impossible_parameters_name_themselves(parameters, message):
    with pytest.raises(SettingsError, match=message):
        sersic(**parameters)


# --- Several components ----------------------------------------------------------------------


def test_functions_and_yaml_make_the_same_scene():
    scene = in_python()
    assert scene == read_model(YAML)
    assert scene.name == "sersic+exp[boxiness]"
    assert [c.name for c in scene.components] == ["bulge", "disk"]
    assert scene.component("disk").parameters["re"] == Parameter(6.0, bounds=(1.0, 40.0))
    assert scene.background.profile.name == "tilted_sky"
    assert [(name, e.text) for name, e in scene.ties] == [
        ("disk.x", "bulge.x"),
        ("disk.y", "bulge.y"),
    ]
    assert [(c.text, c.log) for c in scene.conditions] == [("disk.re > bulge.re", True)]


def test_the_package_can_be_called():
    import autofit_ml as afm

    assert afm.scene(bulge=sersic(), disk="exp").name == "sersic+exp"


def test_model_strings_share_a_centre():
    scene = parse_model("psf + sersic+exp")
    assert [c.name for c in scene.components] == ["point", "sersic", "exponential"]
    assert scene.name == "psf+sersic+exp"
    assert {name: e.text for name, e in scene.ties} == {
        "sersic.x": "point.x",
        "sersic.y": "point.y",
        "exponential.x": "point.x",
        "exponential.y": "point.y",
    }
    assert parse_model(scene.name) == scene
    repeated = parse_model("sersic+sersic+Sersic", n=(0.5, 6))
    assert [c.name for c in repeated.components] == ["sersic", "sersic_2", "sersic_3"]
    assert repeated.bounds.n == (0.5, 6)
    assert parse_model("sersic") == sersic()
    assert parse_model("sersic", "fixed") == sersic("fixed")


def test_model_strings_with_modifiers_and_skies():
    scene = parse_model("sersic[f3, boxiness]+tilted_sky")
    assert scene.name == "sersic[boxiness,f3]"
    assert scene.sky == "tilted"
    assert parse_model(scene.name, sky="tilted") == scene
    assert parse_model("exp+sky").sky == "free"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("sersic+", "cannot be read"),
        ("", "cannot be read"),
        ("sersic exp", "cannot be read"),
        ("sersic+expo", "no profile 'expo'.*exponential"),
        ("sersic[round]", r"'sersic\[round\]' is not a profile with modifiers"),
        ("psf[boxiness]", "cannot be modified"),
        ("sky", "no component"),
        ("sersic+sky+sky", "two skies"),
        ("nothing.yaml", "nothing.yaml: there is no such model file"),
    ],
)
def test_bad_model_strings(model, message):
    with pytest.raises(SettingsError, match=message):
        parse_model(model)


def test_names_of_repeated_parts():
    scene = make_scene(sersic(), "sersic", "psf", sersic=exponential())
    assert [c.name for c in scene.components] == ["sersic_2", "sersic_3", "point", "sersic"]
    with pytest.raises(SettingsError, match="two components are called 'a'"):
        Scene((Component("a", profile_of("psf")), Component("a", profile_of("psf"))))
    with pytest.raises(SettingsError, match="background's name"):
        Scene((Component("sky", profile_of("psf")),))
    for name in ("a b", "2nd", "lambda", "log", ""):
        with pytest.raises(SettingsError, match="name"):
            Component(name, profile_of("psf"))


def test_bounds_of_parts():
    assert make_scene(a=sersic(re_min=0.2), b=exponential()).bounds.re_min == 0.2
    assert make_scene(a=sersic(n=(1, 4)), b=sersic()).bounds == Bounds()
    with pytest.raises(SettingsError, match="different re_min"):
        make_scene(a=sersic(re_min=0.2), b=exponential(re_min=0.3))


@pytest.mark.parametrize(
    ("disk", "constraints", "message"),
    [
        ({"x": "bulge.z"}, [], r"disk\.x: .*no parameter 'bulge\.z'"),
        ({"x": "disk.x"}, [], r"circle: disk\.x -> disk\.x"),
        ({"x": "disk.y", "y": "disk.x"}, [], "circle"),
        ({"x": "3 * 2"}, [], r"disk\.x: .*names no parameter"),
        ({"x": "bulge.x +"}, [], r"disk\.x: .*cannot be read"),
        ({"q": "bulge.q + 1.5"}, [], r"disk\.q: the tie .* gives 1\.5 to 2\.5, but q"),
        ({"re": "2 * sky.sky"}, [], "no parameter 'sky.sky'"),
        ({"flux": "-bulge.flux"}, [], r"disk\.flux: the tie"),
        ({}, ["disk.re >> 3"], "constraints"),
        ({}, ["disk.n > 3"], r"constraints: .*disk\.n"),
        ({"re": (1, 3)}, ["disk.re > 4"], "cannot hold"),
        ({}, ["disk.re > bulge.re", "bulge.re > disk.re"], "contradict each other"),
        ({"re": "0.5 * bulge.re"}, ["3 > 4 * disk.q + 10"], "cannot hold"),
        ({}, [3], "not text"),
    ],
)
def test_impossible_links_and_constraints(disk, constraints, message):
    with pytest.raises(SettingsError, match=message):
        make_scene(bulge=sersic(), disk=exponential(**disk), constraints=constraints)


def test_a_fixed_source_that_leads_out_of_range():
    with pytest.raises(SettingsError, match=r"disk\.q: the tie '2 \* bulge\.q' gives 1\.8"):
        make_scene(bulge=sersic(q=fixed(0.9)), disk=exponential(q="2 * bulge.q"))
    with pytest.raises(SettingsError, match="cannot hold"):
        make_scene(
            bulge=sersic(re=fixed(5)), disk=exponential(re=(1, 3)), constraints="disk.re > bulge.re"
        )


def test_a_part_may_name_components_that_come_later():
    disk = exponential(x="bulge.x")
    with pytest.raises(SettingsError, match="no parameter"):
        disk.check()
    assert make_scene(bulge=sersic(), disk=disk).ties[0][0] == "disk.x"


def test_ties_in_order_and_start_values():
    scene = make_scene(
        a=sersic(x="b.x + 1", re=free(3)),
        b=sersic(x="x_c", re="2 * a.re"),
        c=point(x=free(10)),
    )
    assert [name for name, _ in scene.ties] == ["b.re", "b.x", "a.x"] or [
        name for name, _ in scene.ties
    ].index("b.x") < [name for name, _ in scene.ties].index("a.x")
    start = scene.start_values()
    assert float(start["a.x"]) == 11.0
    assert float(start["b.re"]) == 6.0
    assert scene.parameters["b.x"].tie == "c.x"


def test_ranges_and_bands():
    scene = make_scene(
        a=sersic(n=normal(3, 1), re=(1, None), q=free(bands="free"), flux=free(bands=1)),
        b=sersic(n=uniform(1, 2), q=fixed(0.5)),
        bounds=Bounds(n=(0.5, 6)),
    )
    assert scene.range("a.n") == (0.3, 8.0)
    assert scene.range("a.re") == (1.0, math.inf)
    assert scene.range("b.n") == (1.0, 2.0)
    assert scene.range("b.q") == (0.5, 0.5)
    assert sersic(n=(0.5, 6)).range("sersic.n") == (0.5, 6.0)
    assert make_scene("sersic", bounds=Bounds(n=(0.5, 6))).range("sersic.n") == (0.5, 6.0)
    assert scene.bands("a.q") == "free"
    assert scene.bands("a.flux") == 1
    assert scene.bands("b.flux") == "free"
    assert scene.bands("b.re") == "shared"
    assert scene.bands("sky.sky") == "free"


def test_skies():
    level = make_scene("sersic", sky={"sky": {"start": 3, "bounds": [0, 10]}})
    assert level.sky == "free"
    assert level.sky_parameters["sky"] == Parameter(3.0, bounds=(0.0, 10.0))
    assert not level.single_sersic
    tilted = make_scene("sersic", sky={"sky": free(3), "sky_dy": fixed(0)})
    assert tilted.sky == "tilted"
    assert tilted.sky_parameters["sky_dy"].fixed
    assert make_scene("sersic", sky={"sky": fixed(3)}).sky == 3.0
    assert with_sky(tilted, "fixed").sky_parameters["sky"] == fixed(0.0)
    with pytest.raises(SettingsError, match="sky has no parameter|flat_sky has no parameter"):
        make_scene("sersic", sky={"level": free(3)})
    with pytest.raises(SettingsError, match=r"sky\.sky: bands is 'shared'"):
        make_scene("sersic", sky={"sky": free(bands="shared")})
    with pytest.raises(SettingsError, match="says otherwise"):
        Scene(sersic().components, 3.0, sky_parameters={"sky": Parameter(4.0)})


def test_changes():
    scene = in_python()
    started = with_values(scene, {"bulge.re": 2.5, "sky.sky": 1.0})
    assert started.parameters["bulge.re"].value == 2.5
    assert started.sky_parameters["sky"].value == 1.0
    assert started.constraints == scene.constraints
    with pytest.raises(SettingsError, match="no parameter"):
        with_values(scene, {"bulge.rr": 2.5})
    with pytest.raises(SettingsError, match="nothing of its own"):
        with_values(scene, {"disk.x": 2.5})
    moved = shifted(make_scene(a=sersic(x=free(5, bounds=(3, None)), y=(1, 9))), 10, -1)
    assert moved.parameters["a.x"] == Parameter(15.0, bounds=(13.0, None))
    assert moved.parameters["a.y"] == Parameter(bounds=(0.0, 8.0))
    with pytest.raises(SettingsError, match="prior"):
        shifted(make_scene(a=sersic(x=normal(5, 1))), 10, -1)


def test_scenes_are_values():
    scene = in_python()
    assert pickle.loads(pickle.dumps(scene)) == scene
    assert hash(scene) == hash(in_python())
    assert scene != with_sky(scene, "free")
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.sky = "free"
    with pytest.raises(TypeError):
        scene.components[0].parameters["n"] = Parameter()


def test_printed():
    text = str(in_python())
    for word in (
        "model sersic+exp[boxiness]",
        "bulge (sersic",
        "= bulge.x",
        "log-normal(3, 0.690776)",
        "0.5..8",
        "1..40",
        "disk.re > bulge.re",
        "px",
        "deg",
        "fixed",
        "2 tied, 1 fixed",
    ):
        assert word in text, word
    assert len({line.rstrip() == line for line in text.splitlines()}) == 1


def test_ties_are_differentiable():
    scene = make_scene(a=sersic(), b=exponential(re="1.5 * a.re"))
    ((name, expression),) = scene.ties
    re = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(expression({"a.re": re}), re)
    assert name == "b.re"
    assert float(slope) == 1.5


# --- YAML ------------------------------------------------------------------------------------

SCENES = [
    sersic(),
    sersic(sky=-0.25, n=(0.5, 6), re_min=0.1),
    sersic(sky="fixed"),
    in_python(),
    parse_model("psf+sersic[twist,f1,f4]+exp", sky="tilted"),
    make_scene("mge", "moffat", king=component("king"), sky={"sky": free(3, bounds=(0, None))}),
    make_scene("sersic", sky={"sky_dx": fixed(0.0)}),
    make_scene(
        a=sersic(
            x=normal(31.5, 0.1),
            n=uniform(1, 4),
            re=log_normal(5, 0.2),
            q=free(0.5, bounds=(0.2, None), bands=2),
            flux=free(1e-9, bands="shared"),
            pa=fixed(),
        ),
        b=exponential(re="max(a.re, 2) * 1.678", flux={"bands": "epochs"}),
        y=point(x="a.x", y="a.y"),
        n=point(x="y.x - 0.5"),
        constraints=["b.q > 0.1 + a.q / 2", "n.flux < y.flux"],
        sky="free",
    ),
]


@pytest.mark.parametrize("scene", SCENES, ids=range(len(SCENES)))
def test_yaml_reads_back_to_an_equal_scene(scene, tmp_path):
    text = write_model(scene, tmp_path / "model.yaml")
    assert read_model(text) == scene
    assert read_model(tmp_path / "model.yaml") == scene
    assert read_model(str(tmp_path / "model.yaml")) == scene
    assert parse_model(str(tmp_path / "model.yaml")) == scene


def test_yaml_traps():
    scene = read_model(
        """
        components:
          on: {profile: sersic, y: {start: 1e1}, n: [1, 4.], x: {bounds: [-.inf, 1e2]}}
          no: psf
          y: {profile: psf, y: on.y, flux: {start: 010}}
        sky: +1.5E-2
        """
    )
    assert [c.name for c in scene.components] == ["on", "no", "y"]
    assert scene.parameters["on.y"].value == 10.0
    assert scene.parameters["on.x"].bounds == (None, 100.0)
    assert scene.parameters["on.n"].bounds == (1.0, 4.0)
    assert scene.parameters["y.flux"].value == 10.0
    assert scene.sky == 0.015


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("components: {a: {profile: sersic, n: {uniform: [5, 1]}}}", r"a\.n: the uniform prior"),
        ("components: {a: {profile: sersic, n: 4}}", r"a\.n: 4 could be"),
        ("components: {a: {profile: sersc}}", "a: there is no profile 'sersc'"),
        ("components: {a: {n: [1, 2]}}", "a: profile is missing"),
        ("components: {a: 3}", "a: 3 is not a component"),
        ("components: {a: {profile: sersic, modifiers: 3}}", "a: modifiers"),
        (
            "components: {a: {profile: sersic, modifiers: [3]}}",
            r"a: 'sersic\[3\]' is not a profile with modifiers",
        ),
        ("components: {a: {profile: sersic, r: [1, 2]}}", "a: sersic has no parameter 'r'"),
        ("components: {a-b: sersic}", "'a-b' cannot be the name"),
        ("components: {a: sersic, a: psf}", "line 1: 'a' is given twice"),
        ("components: {a: &x sersic, b: *x}", "line 1, column 31: an alias"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "line 2, column 8: an alias"),
        ("components: []", "components: there is none"),
        ("components: {a: sersic}\nskies: free", "'skies' is not understood"),
        ("components: {a: sersic}\nsky: [1]", r"sky: \[1\]"),
        ("components: {a: sersic}\nsky: open", "sky is 'open'"),
        ("components: {a: sersic}\nsky: {sky: 4}", r"sky\.sky: 4 could be"),
        ("components: {a: sersic}\nconstraints: {a: 1}", "write a list"),
        ("components: {a: sersic}\nconstraints: [a.re > b.re]", r"there is no parameter 'b\.re'"),
        ("components: {a: sersic}\nbounds: {m: 1}", "bounds"),
        ("components: {a: sersic}\nbounds: {n: [0.1, 4]}", "between 0.3 and 8"),
        ("components: {a: sersic}\nbounds: {n: 4}", r"bounds\.n"),
        ("components: {a: sersic}\nbounds: {re_min: small}", r"bounds\.re_min"),
        ("components: {a: sersic}\nbounds: {q_min: 3}", "q_min"),
        ("components: {a: [sersic\n", "line 2, column 1: not YAML"),
        ("a: {{}: 3}:", "not YAML"),
        ("just words: ", "'just words' is not understood"),
        ("- 1\n- 2", "no model in it"),
        ("components: !!python/object/apply:os.system [true]\n", "not YAML"),
    ],
)
def test_bad_files_name_file_component_and_parameter(text, message, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_model(file)
    assert str(caught.value).startswith(str(file))
    assert caught.value.remedy


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SettingsError, match="no such model file"):
        read_model(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_model(tmp_path / "binary.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_model(tmp_path)
