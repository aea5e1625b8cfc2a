"""Every registered profile, and profiles with modifiers, by the same tests."""

import numpy as np
import pytest
import torch
from components import EXTENDED, MODIFIED, SIGMA, drawn_values, fit_space, layout, values_of
from drawings import gaussian_psf
from integration import Reference
from pixel_renderer import profile_brightness, render_pixels

from autofit_ml.profiles import (
    Profile,
    ShapeParameter,
    get_profile,
    modified,
    profile_names,
    profile_radii,
)
from autofit_ml.rendering import (
    Accuracy,
    component_jacobian,
    make_plan,
    psf_modes,
    render_component,
)

DRAWN = [(name, drawn_values(get_profile(name), seed)) for seed, name in enumerate(EXTENDED)]
CASES = [*((name, {}) for name in EXTENDED), *(case for case in DRAWN if case[1]), *MODIFIED]
NAMES = sorted({*profile_names(), *(name for name, _ in MODIFIED)})


def name_of(value):
    return value if isinstance(value, str) else ""


def draw(name, given=None, shape=(64, 64), accuracy=None, **values):
    profile = get_profile(name)
    plan, psf = layout(shape, accuracy)
    values = values_of(profile, **(given or {}), **values)
    return render_component(plan, profile, psf, fit_space(profile, values))[0].numpy()


def sky_values(profile):
    """Values for `values_of` that a background understands too."""
    return {"sky": 2.0, "sky_dx": 0.1, "sky_dy": -0.2} if profile.kind == "background" else {}


def parameters_of(name):
    profile = get_profile(name)
    given = next((values for case, values in MODIFIED if case == name), {})
    return profile, fit_space(profile, values_of(profile, **given, **sky_values(profile)))


@pytest.fixture
def one_thread():
    """PyTorch's operations on one thread, as in the refiner."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "given"), CASES, ids=name_of)
def test_agrees_with_quadrature_in_real_space(name, given):
    # The bar is 5e-5 of the peak; the layout's own cutoff leaves 4e-6.
    profile = get_profile(name)
    values = values_of(profile, **given)
    x = np.array([31, 32, 31, 30, 33, 28, 36, 24, 44, 31, 4, 60], dtype=float)
    y = np.array([32, 32, 33, 31, 34, 36, 30, 20, 45, 50, 60, 5], dtype=float)
    expected = Reference(profile, values)(x, y, SIGMA)
    image = draw(name, given)[y.astype(int), x.astype(int)]
    assert np.abs(image - expected).max() < 3e-5 * expected.max()


@pytest.mark.parametrize(
    ("name", "given"), [*((name, {}) for name in EXTENDED), MODIFIED[1], MODIFIED[5]], ids=name_of
)
def test_wrap_around_keeps_the_flux_of_the_stamp(name, given):
    image = draw(name, given)
    truth = draw(name, given, accuracy=Accuracy(24.0, refinements=()))
    assert image.sum() == pytest.approx(truth.sum(), rel=1e-3)
    assert np.abs(image - truth).max() < 5e-5 * truth.max()


@pytest.mark.parametrize("name", EXTENDED)
def test_half_of_the_light_lies_in_the_ellipse_of_re(name):
    # Blurred by little for its size: what the PSF and the pixels move is about 1 %.
    profile = get_profile(name)
    image = draw(name, shape=(160, 160), x=79.0, y=80.0, re=16.0, q=0.7, pa=90.0, flux=1.0)
    y, x = np.indices(image.shape)
    inside = np.hypot(x - 79.0, (y - 80.0) / 0.7) <= 16.0
    assert image[inside].sum() == pytest.approx(0.5, abs=0.012), profile.name


@pytest.mark.parametrize("name", EXTENDED)
def test_centre(name):
    # Half a turn about the centre changes nothing.
    image = draw(name, shape=(65, 65), x=32.0, y=32.0)
    assert np.abs(image - image[::-1, ::-1]).max() < 1e-5 * image.max()
    assert np.unravel_index(image.argmax(), image.shape) == (32, 32)


@pytest.mark.parametrize("name", EXTENDED)
def test_ellipticity(name):
    # Second moments within a matched ellipse give q exactly but for the PSF (1 % at this size);
    # the edge-on disc has no elliptical isophotes: its q is that of the whole light.
    q, pa = 0.5, 60.0
    image = draw(name, shape=(160, 160), x=80.0, y=79.0, re=14.0, q=q, pa=pa)
    dy, dx = np.indices(image.shape) - np.array([79.0, 80.0])[:, None, None]
    angle = np.deg2rad(pa + 90)
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    inside = np.hypot(along, across / q) < (75 if name == "edge_on_disc" else 20)
    light = image * inside
    xx, yy, xy = ((light * m).sum() / light.sum() for m in (along**2, across**2, along * across))
    assert np.sqrt((yy - SIGMA**2) / (xx - SIGMA**2)) == pytest.approx(q, rel=0.03)
    assert abs(xy) < 5e-3 * xx


@pytest.mark.parametrize("name", NAMES)
def test_jacobian_against_finite_differences(name):
    # Central differences in float64, step 1e-5: truncation and rounding of about 1e-8.
    profile, theta = parameters_of(name)
    plan, psf = layout((48, 40), Accuracy(1.5, refinements=(2.0,)))
    analytic = component_jacobian(plan, profile, psf, theta)[0]
    assert len(analytic) == len(profile.fit_parameters) == theta.shape[1]
    for i in range(theta.shape[1]):
        shift = torch.zeros_like(theta)
        shift[0, i] = 1e-5
        above, below = (
            render_component(plan, profile, psf, t) for t in (theta + shift, theta - shift)
        )
        numeric = (above - below)[0] / 2e-5
        assert (analytic[i] - numeric).abs().max() < 1e-6 * numeric.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_autograd_agrees_with_the_jacobian(name):
    profile, theta = parameters_of(name)
    plan, psf = layout((48, 40), Accuracy(1.5, refinements=(2.0,)))
    weights = torch.linspace(-1, 1, 48 * 40, dtype=torch.float64).reshape(48, 40).sin()
    theta.requires_grad_()
    image = render_component(plan, profile, psf, theta)[0]
    (gradient,) = torch.autograd.grad((image * weights).sum(), theta)
    expected = (component_jacobian(plan, profile, psf, theta.detach())[0] * weights).sum((1, 2))
    assert torch.allclose(gradient[0], expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_image_is_the_channel_of_the_flux_and_linear_in_the_psf(name):
    profile, theta = parameters_of(name)
    plan, psf = layout((48, 40))
    image = render_component(plan, profile, psf, theta)
    if profile.kind == "background":
        terms = component_jacobian(plan, profile, psf, theta)
        assert torch.allclose((terms * theta[:, :, None, None]).sum(1), image)
        return
    channel = component_jacobian(plan, profile, psf, theta)[:, 2]
    assert torch.allclose(channel, image, rtol=0, atol=1e-13 * image.max().item())
    other = psf * torch.polar(torch.ones(plan.n_modes, dtype=torch.float64), plan.frequencies[0])
    both = render_component(plan, profile, psf + 2 * other, theta)
    parts = image + 2 * render_component(plan, profile, other, theta)
    assert torch.allclose(both, parts, atol=1e-10 * image.max().item())


@pytest.mark.parametrize("name", NAMES)
def test_drawn_the_same_to_the_bit_in_any_batch(name, one_thread):
    profile, theta = parameters_of(name)
    plan, psf = layout((51, 44), Accuracy(1.5, refinements=(2.0, 3.0)), torch.float32, batch=5)
    several = theta + 0.02 * torch.arange(5, dtype=torch.float64)[:, None]
    together = component_jacobian(plan, profile, psf, several)
    for i in range(5):
        alone = component_jacobian(plan, profile, psf[i : i + 1], several[i : i + 1])
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_is_enough(name):
    profile, theta = parameters_of(name)
    images = []
    for dtype in (torch.float32, torch.float64):
        plan, psf = layout((48, 40), Accuracy(1.5, refinements=(2.0,)), dtype)
        images.append(component_jacobian(plan, profile, psf, theta)[0].double())
    scale = images[1].abs().amax((1, 2), keepdim=True)
    assert ((images[0] - images[1]).abs() / scale).max() < 1e-4


@pytest.mark.parametrize("name", EXTENDED)
def test_extremes_of_the_shapes_are_finite(name):
    profile = get_profile(name)
    plan, psf = layout((48, 40), Accuracy(1.5, refinements=(2.0,)), torch.float32)
    for i in range(2 ** len(profile.shapes)):
        given = {shape.name: shape.bounds[(i >> k) & 1] for k, shape in enumerate(profile.shapes)}
        theta = fit_space(profile, values_of(profile, **given, x=20.0, y=24.0))
        images = component_jacobian(plan, profile, psf, theta)[0]
        assert torch.isfinite(images).all()
        assert images[2].min() > -1e-3 * images[2].max()


@pytest.mark.parametrize("base", ["sersic", "ferrer", "core_sersic"])
@pytest.mark.parametrize("changes", [{"boxiness": True}, {"fourier": (1, 4)}, {"twist": True}])
def test_modifiers_at_zero_change_nothing(base, changes):
    plain = get_profile(base)
    if changes.get("twist") and plain.truncated:
        pytest.skip("not available")
    profile = modified(plain, **changes)
    plan, psf = layout((48, 40))
    values = values_of(profile, x=20.0, y=24.0)
    image = component_jacobian(plan, profile, psf, fit_space(profile, values))[0]
    values = values_of(plain, x=20.0, y=24.0)
    expected = component_jacobian(plan, plain, psf, fit_space(plain, values))[0]
    # Steps of ln kappa are larger (docs/profiles.md).
    scale = expected.abs().amax((1, 2), keepdim=True)
    assert (image[2] - expected[2]).abs().max() < 5e-6 * scale[2].item()
    assert ((image[: len(expected)] - expected).abs() / scale).max() < 3e-5


def test_a_twist_is_the_same_for_a_round_galaxy_whatever_its_angle():
    profile = get_profile("exponential[twist]")
    plan, psf = layout((48, 40))
    images = [
        render_component(
            plan,
            profile,
            psf,
            fit_space(profile, values_of(profile, x=20.0, y=24.0, q=1.0, pa=pa, twist_eta1=0.4)),
        )
        for pa in (0.0, 70.0)
    ]
    assert torch.allclose(images[0], images[1], atol=1e-12)


def test_a_twist_turns_the_isophotes_about_the_half_light_radius():
    # On ellipses of (q, pa): brighter one way inside re, the other way outside, neither at re.
    values = {"x": 64.0, "y": 64.0, "re": 14.0, "q": 0.6, "pa": 90.0, "twist_eta2": 0.3}
    image = draw("exponential[twist]", values, shape=(129, 129))
    dy, dx = np.indices(image.shape) - 64.0
    u, phi = np.hypot(dx, dy / 0.6), np.arctan2(dy / 0.6, dx)
    uneven = []
    for radius in (7.0, 14.0, 28.0):
        ring = np.exp(-0.5 * ((u - radius) / 1.5) ** 2)
        uneven.append((ring * image * np.sin(2 * phi)).sum() / (ring * image).sum())
    assert uneven[0] < -0.02 and uneven[2] > 0.05
    assert abs(uneven[1]) < 0.01


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("exponential[boxiness]", {"boxiness": 0.7}),
        ("sersic[f3]", {"n": 1.0, "f3_a": 0.1, "f3_b": 0.05}),
        ("exponential[twist]", {"twist_eta1": 0.3, "twist_eta2": 0.3}),
        ("ferrer[boxiness]", {"alpha": 3.0, "boxiness": 0.7}),
        ("edge_on_disc", {}),
    ],
    ids=name_of,
)
def test_agrees_with_the_pixel_renderer(name, given):
    # Profiles without a cusp; the rest is light beyond the padded field and the midpoint rule.
    profile = get_profile(name)
    plan, psf = layout((48, 48), Accuracy(2.5, refinements=()))
    theta = fit_space(profile, values_of(profile, x=23.6, y=24.3, re=4.0, q=0.7, **given))
    image = render_component(plan, profile, psf, theta)[0]
    pixels = render_pixels(plan, psf, theta[:, :2], profile_brightness(profile, theta))[0]
    assert (image - pixels).abs().max() < 1e-4 * image.max()


def test_any_brightness_in_the_plane_can_be_a_profile():
    # Two Gaussians side by side, one of them fainter: nothing symmetric about it.
    def light(x, y, distance, ratio):
        first = (-(x.square() + y.square()) / 2).exp()
        return first + ratio * (-((x - distance).square() + (y - 0.3).square()) / 2).exp()

    shapes = (
        ShapeParameter("distance", 1.5, (0.0, 3.0)),
        ShapeParameter("ratio", 0.4, (0.01, 1.0), True),
    )
    profile = Profile("pair", "pixel", "a pair", shapes=shapes, light=light)
    plan, psf = layout((48, 48), Accuracy(2.5, refinements=()))
    theta = fit_space(profile, values_of(profile, x=23.6, y=24.3, re=5.0, q=0.7))
    images = component_jacobian(plan, profile, psf, theta)[0]
    pixels = render_pixels(plan, psf, theta[:, :2], profile_brightness(profile, theta))[0]
    assert (images[2] - pixels).abs().max() < 1e-4 * pixels.max()
    assert images[2].sum().item() == pytest.approx(1000.0, rel=1e-3)
    for i in range(3, theta.shape[1]):
        shift = torch.zeros_like(theta)
        shift[0, i] = 1e-5
        numeric = (
            render_component(plan, profile, psf, theta + shift)
            - render_component(plan, profile, psf, theta - shift)
        )[0] / 2e-5
        assert (images[i] - numeric).abs().max() < 1e-6 * numeric.abs().max()


@pytest.mark.parametrize("name", ["sersic[boxiness]", "sersic[f3]", "sersic[twist]"])
def test_undersampled_psfs_are_folded(name):
    # With all modifiers at zero it is the elliptical profile, on a plan of several aliases.
    profile, plain = get_profile(name), get_profile("sersic")
    image = torch.as_tensor(gaussian_psf(fwhm=4.0, size=41, oversampling=1))
    plan = make_plan((40, 48), image.shape, 3, dtype=torch.float64)
    psf = psf_modes(plan, image[None], torch.tensor([False]))
    expected = render_component(
        plan, plain, psf, fit_space(plain, values_of(plain, x=23.0, y=19.0))
    )
    theta = fit_space(profile, values_of(profile, x=23.0, y=19.0))
    difference = render_component(plan, profile, psf, theta) - expected
    assert difference.abs().max() < 5e-6 * expected.max()


GALSIM = [
    ("exponential", {}),
    ("devaucouleurs", {}),
    ("exp_dev", {"dev": 0.3}),
    ("gaussian", {}),
    ("moffat", {"beta": 2.2}),
    ("moffat", {"beta": 4.5}),
    ("truncated_sersic", {"n": 1.0, "truncation": 3.0}),
    ("truncated_sersic", {"n": 4.0, "truncation": 1.5}),
]


@pytest.mark.parametrize(("name", "given"), GALSIM, ids=name_of)
@pytest.mark.parametrize("re", [2.0, 8.0])
def test_agrees_with_galsim(name, given, re):
    galsim = pytest.importorskip("galsim")
    profile = get_profile(name)
    values = values_of(profile, re=re, **given)
    params = galsim.GSParams(maximum_fft_size=16384, kvalue_accuracy=1e-6, folding_threshold=1e-4)
    circular = re * np.sqrt(values["q"])
    make = {
        "exponential": lambda: galsim.Exponential(half_light_radius=circular),
        "devaucouleurs": lambda: galsim.DeVaucouleurs(half_light_radius=circular),
        "exp_dev": lambda: (
            (1 - values["dev"]) * galsim.Exponential(half_light_radius=circular)
            + values["dev"] * galsim.DeVaucouleurs(half_light_radius=circular)
        ),
        "gaussian": lambda: galsim.Gaussian(half_light_radius=circular),
        "moffat": lambda: galsim.Moffat(values["beta"], half_light_radius=circular),
        "truncated_sersic": lambda: galsim.Sersic(
            values["n"],
            half_light_radius=circular,
            trunc=float(profile_radii(profile, [values["n"], values["truncation"]])["truncation"])
            * circular,
        ),
    }[name]
    angle = (values["pa"] + 90) * galsim.degrees
    galaxy = make().withGSParams(params).withFlux(values["flux"]).shear(q=values["q"], beta=angle)
    blurred = galsim.Convolve(galaxy, galsim.Gaussian(sigma=SIGMA), gsparams=params)
    stamp = galsim.ImageD(64, 64)
    offset = galsim.PositionD(values["x"] - 31.5, values["y"] - 31.5)
    blurred.drawImage(stamp, scale=1.0, method="no_pixel", offset=offset)
    image = draw(name, given, re=re)
    assert np.abs(image - stamp.array).max() < 5e-5 * stamp.array.max()
    assert image.sum() == pytest.approx(stamp.array.sum(), rel=1e-3)


def test_a_point_source_is_the_psf():
    galsim = pytest.importorskip("galsim")
    profile = get_profile("point")
    plan, psf = layout((40, 48))
    theta = fit_space(profile, {"x": 23.3, "y": 19.6, "flux": 50.0})
    image = render_component(plan, profile, psf, theta)[0].numpy()
    stamp = galsim.ImageD(48, 40)
    galsim.Gaussian(sigma=SIGMA, flux=50.0).drawImage(
        stamp, scale=1.0, method="no_pixel", offset=(23.3 - 23.5, 19.6 - 19.5)
    )
    # The PSF image ends 11 sigma from its centre; the layout's cutoff leaves the rest.
    assert np.abs(image - stamp.array).max() < 2e-5 * stamp.array.max()


def test_skies_are_flat_and_tilted_about_the_centre_of_the_stamp():
    plan, psf = layout((40, 49))
    flat = render_component(plan, get_profile("sky"), psf, torch.tensor([[3.0]]))[0]
    assert torch.equal(flat, torch.full((40, 49), 3.0, dtype=flat.dtype))
    theta = torch.tensor([[3.0, 0.1, -0.2]], dtype=torch.float64)
    tilted = render_component(plan, get_profile("tilted_sky"), psf, theta)[0]
    assert tilted.mean().item() == pytest.approx(3.0, rel=1e-12)
    assert tilted[7, 30].item() == pytest.approx(3.0 + 0.1 * (30 - 24) - 0.2 * (7 - 19.5))


@pytest.mark.parametrize("c0", [-0.6, 0.8])
@pytest.mark.parametrize("n", [1.0, 4.0])
def test_boxiness_keeps_flux_and_centre_and_fills_the_corners(c0, n):
    galaxy = {"x": 24.0, "y": 23.0, "re": 3.0, "n": n, "q": 0.8, "pa": 0.0}
    image = draw("sersic[boxiness]", galaxy | {"boxiness": c0}, shape=(48, 48))
    plain = draw("sersic", galaxy, shape=(48, 48))
    # n = 4 has 4 % of its light beyond the stamp; boxiness moves a seventh of that about.
    assert image.sum() == pytest.approx(plain.sum(), rel=1e-3 if n == 1.0 else 6e-3)
    corner = image[23 + 5, 24 + 4] / plain[23 + 5, 24 + 4]
    assert corner > 1.01 if c0 > 0 else corner < 0.99
    assert image[23 + 5, 24 + 4] == pytest.approx(image[23 - 5, 24 - 4], rel=1e-3)


def test_fourier_phases_count_from_the_end_that_pa_points_to():
    # pa = 90 is to the left; f1_a > 0 stretches the radius there, so that less light is left.
    values = {"x": 32.0, "y": 32.0, "q": 0.8, "pa": 90.0, "f1_a": 0.2}
    image = draw("exponential[f1]", values, shape=(65, 65))
    assert image[32, 32 - 8] < 0.9 * image[32, 32 + 8]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_agrees_with_the_processor(name):
    profile, theta = parameters_of(name)
    images = []
    for device in ("cpu", "cuda"):
        plan = make_plan((48, 40), (25, 25), device=device)
        psf = torch.zeros((1, 25, 25))
        psf[:, 11:14, 11:14] = 1 / 9
        modes = psf_modes(plan, psf, torch.tensor([True]))
        images.append(component_jacobian(plan, profile, modes, theta.to(device)).cpu())
    scale = images[0].abs().amax((0, 2, 3), keepdim=True)
    assert ((images[0] - images[1]).abs() / scale).max() < 2e-5
