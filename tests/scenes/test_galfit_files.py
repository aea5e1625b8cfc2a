"""GALFIT files: numbers against published fits and GALFIT's own formulae, forms, and the way back."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from astropy.io import fits
from scipy import integrate, optimize, special

from autofit_ml.errors import SettingsError
from autofit_ml.galfit import GalfitBand, GalfitFile, galfit_constraints, read_galfit, write_galfit
from autofit_ml.galfit.functions import FUNCTIONS, Photometry, function_of
from autofit_ml.scenes import (
    Parameter,
    exponential,
    fixed,
    free,
    normal,
    parse_model,
    sersic,
    with_values,
)
from autofit_ml.scenes import scene as make_scene

HEAD = """
================================================================================
# IMAGE and GALFIT CONTROL PARAMETERS
A) gal.fits            # Input data image (FITS file)
B) out.fits
C) none                # Sigma image name
D) psf.fits   #        # PSF and (optional) diffusion kernel
E) 1
F) mask.fits
G) {constraints}
H) 11   100  21   120
I) 60  70
J) {zeropoint}
K) 0.396  0.396
O) regular
P) 0
# INITIAL FITTING PARAMETERS
"""


def read(tmp_path, objects, constraints="", zeropoint="25.256", **kwargs):
    name = "none"
    if constraints:
        name = "limits.txt"
        (tmp_path / name).write_text(constraints)
    file = tmp_path / "galfit.feedme"
    file.write_text(HEAD.format(constraints=name, zeropoint=zeropoint) + objects)
    return read_galfit(file, **kwargs)


SERSIC = """
 0) sersic                 #  Component type
 1) 108.6404  107.4888 1 1 #  Position x, y
 3) 18.9360     1          #  Integrated magnitude
 4) 7.7082      1          #  R_e
 5) 1.6529      1          #  Sersic index n
 6) 0.0000      0          #     -----
 9) 0.3366      1          #  Axis ratio (b/a)
10) -86.0915    1          #  Position angle (PA) [deg: Up=0, Left=90]
 Z) 0                      #  Skip this model in output image?
"""


def test_a_published_fit(tmp_path):
    # A fit of an SDSS galaxy by PyMorph (GALFIT 3), as converted in the reference table.
    file = read(tmp_path, SERSIC, exptime=1.0)
    got = {name.partition(".")[2]: p.value for name, p in file.scene.parameters.items()}
    wanted = {"x": 107.6404, "y": 106.4888, "flux": 337.28731, "re": 7.7082, "n": 1.6529}
    wanted |= {"q": 0.3366, "pa": 93.9085, "sky": 0.0}
    assert got == pytest.approx(wanted, abs=1e-5)
    assert all(p.free for name, p in file.scene.parameters.items() if name != "sky.sky")
    assert file.scene.sky == "fixed"
    assert file.region == (11, 100, 21, 120)
    assert file.convolution_box == (60, 70)
    assert file.pixel_scale == (0.396, 0.396)
    assert (file.image, file.psf) == (tmp_path / "gal.fits", tmp_path / "psf.fits")
    assert (file.sigma, file.mask) == (None, tmp_path / "mask.fits")
    assert file.zeropoint == 25.256
    moved = file.region_scene.parameters
    assert moved["sersic.x"].value == pytest.approx(97.6404)
    assert moved["sersic.y"].value == pytest.approx(86.4888)


def test_exposure_time_comes_from_the_image(tmp_path):
    assert read(tmp_path, SERSIC).notes == ("gal.fits: not found: EXPTIME is taken as 1",)
    header = fits.Header({"EXPTIME": 100.0})
    fits.writeto(tmp_path / "gal.fits", np.zeros((4, 4)), header)
    file = read(tmp_path, SERSIC)
    assert file.notes == ()
    assert file.exptime == 100.0
    assert file.scene.parameters["sersic.flux"].value == pytest.approx(33728.731, rel=1e-6)
    fits.writeto(tmp_path / "gal.fits", np.zeros((4, 4)), overwrite=True)
    assert "no EXPTIME" in read(tmp_path, SERSIC).notes[0]


def test_version_2_numbers_axis_ratio_and_angle_differently(tmp_path):
    old = """
    0)     expdisk         #    Object type
    1) 51.8587 52.8485 1 1  #   position x, y
    3) 22.2360    1       #  total magnitude
    4) 3.0173     1       #      Rs
    5) 0.0000     0       #     -----
    8) 0.4333     1       #  axis ratio (b/a)
    9) -6.5233    0       #  position angle (PA)
    10) 0.0000     0       #  diskiness(-)/boxiness(+)
    Z) 0                  #  Output option (0 = residual, 1 = Don't subtract)
    """
    parameters = read(tmp_path, old).scene.component("exponential").parameters
    assert parameters["q"] == Parameter(0.4333)
    assert parameters["pa"].value == pytest.approx(173.4767)
    assert parameters["pa"].fixed
    assert parameters["re"].value == pytest.approx(3.0173 * 1.67835, rel=1e-5)
    boxy = read(tmp_path, old.replace("10) 0.0000     0", "10) 0.3     1")).scene
    assert boxy.parameters["exponential.boxiness"] == Parameter(0.3)


# --- Every function --------------------------------------------------------------------------


def _plane(light, q, edge=np.inf):
    """Total light of elliptical isophotes, and the semi-major radius that holds half of it."""

    def within(radius):
        pieces = [p for p in (0.0, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4) if p < radius]
        ends = [*pieces, radius]
        return sum(
            integrate.quad(lambda r: 2 * math.pi * q * r * light(r), a, b, epsabs=1e-12)[0]
            for a, b in itertools.pairwise(ends)
        )

    total = within(min(edge, 1e6))
    half = optimize.brentq(lambda r: within(r) - total / 2, 1e-3, min(edge, 1e5), xtol=1e-10)
    return total, half


def _moffat(lines):
    radius = lines[4] / (2 * math.sqrt(2 ** (1 / lines[5]) - 1))
    return lambda r: (1 + (r / radius) ** 2) ** -lines[5]


def _nuker(lines):
    rb, alpha, beta, gamma = (lines[i] for i in (4, 5, 6, 7))
    return lambda r: (
        2 ** ((beta - gamma) / alpha)
        * (r / rb) ** -gamma
        * (1 + (r / rb) ** alpha) ** ((gamma - beta) / alpha)
    )


def _king(lines):
    rc, rt, alpha = (lines[i] for i in (4, 5, 6))
    edge = 1 / (1 + (rt / rc) ** 2) ** (1 / alpha)
    return lambda r: (
        (1 - edge) ** -alpha * (max(1 / (1 + (r / rc) ** 2) ** (1 / alpha) - edge, 0)) ** alpha
    )


def _ferrer(lines):
    edge, alpha, beta = (lines[i] for i in (4, 5, 6))
    return lambda r: max(1 - (r / edge) ** (2 - beta), 0) ** alpha


@pytest.mark.parametrize(
    ("name", "lines", "light", "edge"),
    [
        ("moffat", {4: 6.0, 5: 2.7}, _moffat, np.inf),
        ("gaussian", {4: 6.0}, lambda lines: lambda r: 2 ** (-4 * (r / 6.0) ** 2), np.inf),
        ("expdisk", {4: 6.0}, lambda lines: lambda r: math.exp(-r / 6.0), np.inf),
        ("nuker", {4: 4.0, 5: 1.5, 6: 3.6, 7: 0.4}, _nuker, np.inf),
        ("king", {4: 3.0, 5: 40.0, 6: 2.0}, _king, 40.0),
        ("king", {4: 3.0, 5: 40.0, 6: 1.3}, _king, 40.0),
        ("ferrer", {4: 20.0, 5: 1.7, 6: 0.3}, _ferrer, 20.0),
    ],
)
def test_sizes_and_brightnesses_follow_galfits_formulae(name, lines, light, edge):
    function = function_of(name)
    photometry = Photometry(24.0, 50.0, 0.25)
    q = 0.6
    values = function.values({3: 20.0, 9: q, 10: 30.0, **lines}, photometry)
    total, half = _plane(light(lines), q, edge)
    assert values["re"] == pytest.approx(half, rel=1e-6)
    counts = 50 * 10 ** (0.4 * (24 - 20))
    wanted = counts if function.surface is None else counts * 0.25 * total
    assert values["flux"] == pytest.approx(wanted, rel=1e-6)
    back = function.numbers(values, photometry)
    assert back == pytest.approx({3: 20.0, 9: q, 10: 30.0, **lines}, rel=1e-9)


def test_edge_on_disc():
    function = function_of("edgedisk")
    photometry = Photometry(24.0, 1.0, 0.25)
    height, length = 2.5, 9.0
    values = function.values({3: 20.0, 4: height, 5: length, 10: 30.0}, photometry)
    along = integrate.quad(lambda x: x * special.k1(x), 0, 60)[0] * 2 * length
    across = integrate.quad(lambda z: np.cosh(z) ** -2.0, 0, 30)[0] * 2 * height
    assert values["flux"] == pytest.approx(10 ** (0.4 * 4) * 0.25 * along * across, rel=1e-8)
    # re is the semi-major axis of the ellipse of axis ratio q that holds half of the light.
    x = np.linspace(-12 * length, 12 * length, 2401)
    y = np.linspace(-12 * height, 12 * height, 2401)
    far = np.maximum(np.abs(x), 1e-9) / length
    light = np.outer(np.cosh(y / height) ** -2.0, far * special.k1(far))
    inside = x[None, :] ** 2 + (y[:, None] / values["q"]) ** 2 < values["re"] ** 2
    assert light[inside].sum() / light.sum() == pytest.approx(0.5, abs=2e-3)
    back = function.numbers(values, photometry)
    assert back == pytest.approx({3: 20.0, 4: height, 5: length, 10: 30.0}, rel=1e-9)


def test_core_sersic_of_galfitm():
    function = function_of("corser")
    lines = {3: 15.0, 4: 0.9, 5: 4.0, 6: 0.15, 7: 20.0, 8: 3.5, 9: 0.8, 10: 10.0}
    photometry = Photometry(25.0)
    values = function.values(lines, photometry)
    b = special.gammaincinv(7.0, 0.5)

    def light(r):
        rb, alpha, gamma, re, n = 0.9, 4.0, 0.15, 20.0, 3.5
        bulk = np.exp(-b * ((r**alpha + rb**alpha) / re**alpha) ** (1 / (alpha * n)))
        return (1 + (rb / r) ** alpha) ** (gamma / alpha) * bulk

    total, half = _plane(light, 0.8)
    assert values["re"] == pytest.approx(half, rel=1e-5)
    assert values["flux"] == pytest.approx(10**4 * total / light(0.9), rel=1e-5)
    assert function.numbers(values, photometry) == pytest.approx(lines, rel=1e-9)


# --- The way back ----------------------------------------------------------------------------


def everything(rng):
    """One scene with every function that GALFIT knows, at random."""
    names = "sersic[boxiness,f1,f3]+exp+dev+gaussian+moffat+psf+nuker+ferrer+king+edge_on_disc"
    scene = parse_model(names + "+sersic", sky="tilted")
    values = {"sky.sky": 3.0, "sky.sky_dx": 0.01, "sky.sky_dy": -0.02}
    for part in scene.components:
        for name, parameter in part.parameters.items():
            full = f"{part.name}.{name}"
            shapes = {shape.name: shape for shape in part.profile.shapes}
            if parameter.tie:
                continue
            if name in shapes:
                low, high = shapes[name].bounds
                values[full] = low + (high - low) * rng.uniform(0.2, 0.6)
            else:
                values[full] = {
                    "x": rng.uniform(10, 50),
                    "y": rng.uniform(10, 50),
                    "flux": 10 ** rng.uniform(1, 4),
                    "re": rng.uniform(2, 9),
                    "q": rng.uniform(0.3, 0.9),
                    "pa": rng.uniform(0, 180),
                }[name]
    return with_values(scene, values)


def same(first, second):
    """Scenes equal up to the rounding of numbers."""
    assert first.parameters.keys() == second.parameters.keys()
    for name, one in first.parameters.items():
        other = second.parameters[name]
        plain = {"value": None, "bounds": (None, None), "tie": ""}
        assert dataclasses.replace(one, **plain) == dataclasses.replace(other, **plain), name
        assert one.tie == other.tie
        if not one.tie:
            assert other.value == pytest.approx(one.value, rel=1e-7, abs=1e-8), name
        for a, b in zip(one.bounds, other.bounds, strict=True):
            assert (a is None) == (b is None), name
            assert a is None or b == pytest.approx(a, rel=1e-7, abs=1e-8), name
    assert first.constraints == second.constraints
    assert first.sky == second.sky or isinstance(first.sky, float)


@pytest.mark.parametrize("seed", range(4))
def test_written_and_read_is_the_same(seed, tmp_path):
    file = GalfitFile(
        everything(np.random.default_rng(seed)),
        (GalfitBand("a.fits", "s.fits", "p.fits", "m.fits", 26.5, 30.0),),
        (3, 90, 5, 80),
        "out.fits",
        psf_sampling=2,
        convolution_box=(50, 60),
        pixel_scale=(0.2, 0.25),
        mode=1,
        skipped=("exponential", "sky"),
    )
    write_galfit(file, tmp_path / "a.feedme")
    back = read_galfit(tmp_path / "a.feedme", exptime=30.0)
    same(file.scene, back.scene)
    assert back.constraints == "a.constraints"
    assert back.notes == ()
    for name in ("bands", "region", "output", "psf_sampling", "convolution_box", "pixel_scale"):
        assert getattr(back, name) == getattr(file, name)
    assert (back.mode, back.skipped) == (1, ("exponential", "sky"))
    write_galfit(back, tmp_path / "b.feedme")
    same(back.scene, read_galfit(tmp_path / "b.feedme", exptime=30.0).scene)


def test_every_function_is_written():
    names = {profile.profile for profile in FUNCTIONS}
    assert names == {
        "sersic",
        "devaucouleurs",
        "exponential",
        "gaussian",
        "moffat",
        "point",
        "nuker",
        "ferrer",
        "king",
        "edge_on_disc",
        "core_sersic",
    }


def test_bounds_links_and_constraints_come_back(tmp_path):
    scene = make_scene(
        bulge=sersic(
            x=free(30, bounds=(25, 35)),
            y=free(31),
            flux=free(100, bounds=(10, None)),
            re=free(2, bounds=(0.5, 9)),
            n=free(3, bounds=(None, 6)),
            q=free(0.8, bounds=(0.2, None)),
            pa=free(20, bounds=(-30, 60)),
        ),
        disk=exponential(
            x="bulge.x + 1.5",
            y="bulge.y",
            flux="2 * bulge.flux",
            re=free(6),
            q="bulge.q",
            pa="bulge.pa",
        ),
        exponential=exponential(
            x=free(10), y=free(11), flux=fixed(5), re="0.5 * disk.re", q=free(1), pa=fixed(0)
        ),
        constraints=[
            "disk.re > bulge.re",
            "disk.re < 4 * bulge.re",
            "exponential.x - bulge.x > -25",
            "bulge.flux > 0.1 * exponential.flux",
        ],
        sky={"sky": free(1.0, bounds=(0, 2))},
    )
    text = galfit_constraints(scene)
    for line in (
        "1  x  26 to 36",
        "1  n  -1000000 to 6",
        "1_2  x  offset",
        "1_2  mag  offset",
        "1_2  q  ratio",
        "2_3  rs  ratio",
        "4  sky  0 to 2",
    ):
        assert line in text, text
    write_galfit(scene, tmp_path / "a.feedme")
    back = read_galfit(tmp_path / "a.feedme").scene
    renamed = {"bulge": "sersic", "disk": "exponential", "exponential": "exponential_2"}
    for full, one in scene.parameters.items():
        component, _, name = full.rpartition(".")
        other = back.parameters[f"{renamed.get(component, component)}.{name}"]
        assert bool(one.tie) == bool(other.tie), full
        assert one.fixed == other.fixed, full
        for a, b in zip(one.bounds, other.bounds, strict=True):
            assert (a is None) == (b is None), full
            assert a is None or b == pytest.approx(a, rel=1e-8), full
    assert back.parameters["exponential.x"].tie == "sersic.x + 1.5"
    assert back.parameters["exponential.flux"].tie == "2 * sersic.flux"
    assert back.parameters["exponential_2.re"].tie == "0.5 * exponential.re"
    wanted = {
        "exponential.re > sersic.re",
        "4 * sersic.re > exponential.re",
        "exponential_2.x - sersic.x > -25",
        "10 * sersic.flux > exponential_2.flux",
    }
    assert set(back.constraints) == wanted


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (parse_model("sersic"), r"sersic\.x has no start"),
        (make_scene("mge"), "no mge profile"),
        (make_scene("truncated_sersic"), "no truncated_sersic profile"),
        (parse_model("sersic[twist]"), "no twist"),
        (sersic(n=normal(4, 1)), r"sersic\.n has a prior"),
        (make_scene(a=sersic(), b=sersic(re="a.re ** 2")), "cannot be written"),
        (make_scene(a=sersic(), b=sersic(re="a.x")), "cannot be written"),
        (make_scene(a=sersic(), b=sersic(x="2 * a.x")), "cannot be written"),
        (make_scene("sersic", constraints="sersic.re > sersic.n"), "cannot be written"),
    ],
)
def test_what_galfit_does_not_know(scene, message):
    with pytest.raises(SettingsError, match=message):
        write_galfit(scene)


# --- Constraints -----------------------------------------------------------------------------

TWO = (
    SERSIC
    + """
0) expdisk
1) 110.6404 107.4888 1 1
3) 18.0 1
4) 10.0 1
9) 0.5 1
10) 10.0 1

0) sky
1) 5.0 1
2) 0 0
3) 0 0
"""
)


@pytest.mark.parametrize(
    ("line", "name", "bounds"),
    [
        ("1 n 0.7 to 5  # comment", "sersic.n", (0.7, 5)),
        ("1 5 0.7 to 5", "sersic.n", (0.7, 5)),
        ("1 n 0.1 to 20", "sersic.n", (None, None)),
        ("1 n -0.5 0.5", "sersic.n", (1.1529, 2.1529)),
        ("1 re factor 2", "sersic.re", (3.8541, 15.4164)),
        ("1 x -2.0 2.0", "sersic.x", (105.6404, 109.6404)),
        ("1 x -2.0 in 2.0", "sersic.x", (105.6404, 109.6404)),
        ("1 x 100 to 120", "sersic.x", (99, 119)),
        ("1 mag 17 to 20", "sersic.flux", (10 ** (0.4 * 5.256), 10 ** (0.4 * 8.256))),
        ("1 mag -1 0.5", "sersic.flux", (337.28731 * 10**-0.2, 337.28731 * 10**0.4)),
        ("1 q 0.1 to 1.0", "sersic.q", (0.1, None)),
        ("1 pa -100 to -80", "sersic.pa", (80, 100)),
        ("1 pa -360 to 360", "sersic.pa", (None, None)),
        ("2 rs 1 to 20", "exponential.re", (1.67835, 33.567)),
        ("2 re 1 to 20", "exponential.re", (1.67835, 33.567)),
        ("3 sky -1 1", "sky.sky", (4, 6)),
    ],
)
def test_limits(line, name, bounds, tmp_path):
    file = read(tmp_path, TWO, line + "\n", exptime=1.0)
    low, high = file.scene.parameters[name].bounds
    for got, wanted in ((low, bounds[0]), (high, bounds[1])):
        assert (got is None) == (wanted is None)
        assert got is None or got == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("line", "name", "tie"),
    [
        ("1_2 x offset", "exponential.x", "sersic.x + 2"),
        ("2_1 x offset", "sersic.x", "exponential.x - 2"),
        ("1_2 y offset", "exponential.y", "sersic.y"),
        ("1_2 q ratio", "exponential.q", "1.485442662 * sersic.q"),
        ("1_2 x_0 offset", "exponential.x", "sersic.x + 2"),
    ],
)
def test_links(line, name, tie, tmp_path):
    assert read(tmp_path, TWO, line, exptime=1.0).scene.parameters[name].tie == tie


def test_link_of_magnitudes_is_a_ratio_of_fluxes(tmp_path):
    scene = read(tmp_path, TWO, "1_2 mag offset", exptime=1.0).scene
    ((_, expression),) = scene.ties
    assert expression.node[1][1] == pytest.approx(10 ** (0.4 * 0.936), rel=1e-8)


@pytest.mark.parametrize(
    ("line", "constraints"),
    [
        # object 2 is between 0.5 mag brighter and 3 mag fainter than object 1
        (
            "1-2 mag -0.5 3",
            ("1.584893192 * sersic.flux > exponential.flux",
             "exponential.flux > 0.06309573445 * sersic.flux"),
        ),
        ("1-2 x -1 1", ("exponential.x - sersic.x > -1", "1 > exponential.x - sersic.x")),
        (
            "1/2 q 0.5 2",
            ("sersic.q > 0.5 * exponential.q", "2 * exponential.q > sersic.q"),
        ),
    ],
)  # fmt: skip
def test_couplings(line, constraints, tmp_path):
    assert read(tmp_path, TWO, line, exptime=1.0).scene.constraints == constraints


def test_what_is_left_out_is_noted(tmp_path):
    lines = "1 n_1 -1 to 1\n1 x -1 ref 1\n1 f1a 0 to 1\n1_2 x offset\n2 x -1 1\n"
    notes = read(tmp_path, TWO, lines, exptime=1.0).notes
    assert len(notes) == 4
    assert all("not applied" in note for note in notes)
    wide = read(tmp_path, TWO, "1 n 0.1 to 20", exptime=1.0).notes
    assert wide == (
        "sersic.n: the lower limit 0.1 is 0.3 here",
        "sersic.n: the upper limit 20 is 8 here",
    )
    file = tmp_path / "gone.feedme"
    file.write_text(HEAD.format(constraints="gone.txt", zeropoint="25") + SERSIC)
    assert "gone.txt was not found" in read_galfit(file, exptime=1.0).notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 n", "not understood"),
        ("1 n some", "'low to high'"),
        ("4 n 1 to 2", "no object 4"),
        ("1 m 1 to 2", "no parameter 'm'"),
        ("1 n 5 to 1", "smaller first"),
        ("1 re factor 0.5", "above 1"),
        ("1_2 mag ratio", "use offset for magnitudes"),
        ("1/2 mag 1 2", "use 3-7"),
        ("1_2 x offset\n1_2 x offset", "line 2: exponential.x is tied already"),
        ("1_2 x offset\n2_1 x offset", "circle"),
    ],
)
def test_bad_constraints_name_file_and_line(line, message, tmp_path):
    with pytest.raises(SettingsError, match=message) as caught:
        read(tmp_path, TWO, line, exptime=1.0)
    assert str(tmp_path / "limits.txt") in str(caught.value)


# --- What is refused, and what is repaired ---------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("", "no object in it"),
        ("0) sky\n1) 1 1", "nothing but sky"),
        ("0)\n", "without a name"),
        (SERSIC.replace("sersic  ", "sersic3 "), r"object 1 \(sersic3, line \d+\).*not understood"),
        (SERSIC.replace(" 4) 7.7082      1", "#"), r"4\) is missing"),
        (SERSIC.replace(" 1) 108", "#1) 108"), r"1\) is missing"),
        (SERSIC.replace("18.9360     1 ", "18.9360"), r"3\) has no toggle"),
        (SERSIC.replace("18.9360", "bright"), "'bright' is not a number"),
        (SERSIC.replace("108.6404  107.4888 1 1", "108.6404  107.4888"), r"1\) has 2 numbers"),
        (SERSIC.replace("7.7082 ", "-7.7082"), "radius is -7.7082"),
        (SERSIC + "B1) 0.07 1", r"B1\) bending modes"),
        (SERSIC + "R0) powerlaw", r"R0\) coordinate rotation"),
        (SERSIC + "To) 3", r"To\) truncation"),
        (SERSIC + "F2) 0.1 3 1 1", "Fourier modes"),
        (SERSIC + "F3) 0.1 1", r"F3\) amplitude phase 1 1"),
        (SERSIC + "X3) 0.1 1", "not understood"),
        (SERSIC + " 3) 0.1 1", r"3\) is given twice"),
        (SERSIC + "0) sky\n1) 1 1\n0) sky\n1) 1 1\n", "second sky"),
        (SERSIC.replace("1.6529      1", "12.0      0"), r"n: held at 12, but"),
        ("0) psf\n1) 3 3 1 1\n3) 20 1\nC0) 0.1 1", "point source"),
        ("0) edgedisk\n1) 3 3 1 1\n3) 20 1\n4) 9 1\n5) 1 1\n10) 1 1", "edge-on disc"),
        ("0) king\n1) 3 3 1 1\n3) 20 1\n4) 9 1\n5) 1 1\n6) 2 1\n9) 1 1\n10) 1 1", "core 9"),
    ],
)
def test_bad_files(objects, message, tmp_path):
    with pytest.raises(SettingsError, match=message) as caught:
        read(tmp_path, objects, exptime=1.0)
    assert str(tmp_path / "galfit.feedme") in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_galfit(tmp_path / "none.feedme")


def test_repairs_are_noted(tmp_path):
    wide = SERSIC.replace("0.3366", "2.0000").replace("1.6529", "12.00")
    file = read(tmp_path, wide, exptime=1.0)
    parameters = file.scene.component("sersic").parameters
    assert parameters["q"].value == 0.5
    assert parameters["re"].value == pytest.approx(15.4164)
    assert parameters["pa"].value == pytest.approx(3.9085)
    assert parameters["n"].value == 8.0
    assert len(file.notes) == 2
    starred = read(tmp_path, SERSIC.replace("7.7082 ", "*7.7082*"), exptime=1.0)
    assert starred.scene.parameters["sersic.re"].value == 7.7082


def test_sky_becomes_the_scenes_sky(tmp_path):
    def sky(lines):
        return read(tmp_path, SERSIC + "0) sky\n" + lines, exptime=1.0).scene

    assert sky("1) 1.3 1\n2) 0 0\n3) 0 0").sky == "free"
    assert sky("1) 1.3 1\n2) 0 0\n3) 0 0").sky_parameters["sky"] == Parameter(1.3)
    assert sky("1) 1.3 0\n2) 0 0\n3) 0 0").sky == 1.3
    assert sky("1) 1.3 0").sky_parameters["sky"] == fixed(1.3)
    tilted = sky("1) 1.3 1\n2) 1e-3 1\n3) -2e-3 0")
    assert tilted.sky == "tilted"
    assert tilted.sky_parameters["sky_dx"] == Parameter(1e-3)
    assert tilted.sky_parameters["sky_dy"] == Parameter(-2e-3, fixed=True)


def test_fourier_modes_and_boxiness(tmp_path):
    scene = read(
        tmp_path, SERSIC + "C0) -0.2 0\nF1) 0.1 30 1 1\nF3) 0.2 90 0 0\n", exptime=1.0
    ).scene
    parameters = scene.component("sersic").parameters
    assert scene.name == "sersic[boxiness,f1,f3]"
    assert parameters["boxiness"] == Parameter(-0.2, fixed=True)
    angle = np.linspace(0, 2 * np.pi, 50)
    for mode, amplitude, phase in ((1, 0.1, 30.0), (3, 0.2, 90.0)):
        a, b = parameters[f"f{mode}_a"].value, parameters[f"f{mode}_b"].value
        ours = a * np.cos(mode * angle) + b * np.sin(mode * angle)
        galfits = amplitude * np.cos(
            mode * (angle + np.radians(phase))
        )  # Peng et al. (2010) eq. 24
        assert np.allclose(ours, galfits)
    assert parameters["f1_a"].free
    assert parameters["f3_a"].fixed


# --- Several bands ---------------------------------------------------------------------------

GALFITM = """
A) r.fits,u.fits,z.fits
A1) r, u, z
A2) 6000,4000,8000
B) out.fits
C) sr.fits,none,sz.fits
D) pr.fits,pu.fits,pz.fits
F) none
G) none
H) 1 65 1 73
J) 30.0,29.0,28.0
K) 0.339 0.339

 0) sky
 1) 10,20,30  0,0,0 band
 2) 0,0,0 0 band
 3) 0 0
 Z) 0

 0) sersic
 1) 32.01 1
 2) 35.93,35.93,35.93 1 band
 3) 20.5,22.0,19.8 3 band
 4) 3.0,1.0,0.0 1,1 cheb
 5) 2.5,2.6,2.7 1
 9) 0.5 1
10) -33 0
"""


def test_galfitm(tmp_path):
    file = tmp_path / "multi.feedme"
    file.write_text(GALFITM)
    read_ = read_galfit(file, exptime=1.0)
    assert [band.label for band in read_.bands] == ["r", "u", "z"]
    assert [band.wavelength for band in read_.bands] == [6000, 4000, 8000]
    assert [band.sigma for band in read_.bands] == ["sr.fits", "", "sz.fits"]
    assert [band.zeropoint for band in read_.bands] == [30, 29, 28]
    scene = read_.scene
    p = scene.component("sersic").parameters
    assert p["flux"].bands == ""
    assert scene.bands("sersic.flux") == "free"
    assert p["re"] == Parameter(3.0, bands=1)
    assert p["n"] == Parameter(2.5, bands="free")  # offset only: noted
    assert p["x"] == Parameter(31.01)
    assert p["pa"].fixed
    assert scene.sky == 10.0
    # Chebyshev series over -1 to 1: r lies in the middle.
    assert read_.values["sersic.re"] == pytest.approx((3.0, 2.0, 4.0))
    assert read_.values["sky.sky"] == (10.0, 20.0, 30.0)
    flux = [10 ** (0.4 * (30 - 20.5)), 10 ** (0.4 * (29 - 22)), 10 ** (0.4 * (28 - 19.8))]
    assert read_.values["sersic.flux"] == pytest.approx(flux)
    assert len(read_.notes) == 2
    write_galfit(read_, tmp_path / "again.feedme")
    back = read_galfit(tmp_path / "again.feedme", exptime=1.0)
    same(scene, back.scene)
    assert back.bands == read_.bands
    for name, values in read_.values.items():
        assert back.values[name] == pytest.approx(values)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A1) r, u, z", "A1) r, u", r"A1\) has 2 entries for 3 bands"),
        ("A1) r, u, z", "A1) r, u, r", "twice"),
        ("J) 30.0,29.0,28.0", "J) 30.0,29.0", r"J\) has 2 entries"),
        ("20.5,22.0,19.8 3", "20.5,22.0 3", r"3\) has 2 values for 3 bands"),
    ],
)
def test_bad_galfitm(old, new, message, tmp_path):
    file = tmp_path / "multi.feedme"
    assert old in GALFITM
    file.write_text(GALFITM.replace(old, new))
    with pytest.raises(SettingsError, match=message):
        read_galfit(file, exptime=1.0)
