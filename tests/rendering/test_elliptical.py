"""The Fourier renderer: invariants, GalSim, derivatives."""

import numpy as np
import pytest
import torch
from drawings import Drawing, gaussian_psf

from autofit_ml.fitting import RefineSettings
from autofit_ml.fitting.passes import needs_wide
from autofit_ml.profiles import get_profile, sersic_flux_within
from autofit_ml.rendering import Accuracy, component_jacobian, render

SERSIC = get_profile("sersic")


@pytest.fixture
def drawing():
    """The default layout, float64."""
    return Drawing()


@pytest.fixture
def one_thread():
    """PyTorch's operations on one thread, as in the refiner."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def moments(image):
    """Flux, centroid and second moments."""
    y, x = np.indices(image.shape)
    flux = image.sum()
    cx, cy = (image * x).sum() / flux, (image * y).sum() / flux
    dx, dy = x - cx, y - cy
    return (
        flux,
        cx,
        cy,
        (image * dx * dx).sum() / flux,
        (image * dy * dy).sum() / flux,
        (image * dx * dy).sum() / flux,
    )


@pytest.mark.parametrize("shape", [(64, 64), (63, 65), (51, 80), (128, 96)])
def test_flux_centroid_and_size_of_a_gaussian(shape):
    # n = 0.5 is a Gaussian: everything is analytic, and nothing lies outside the stamp.
    y, x = (shape[0] - 1) / 2 + 0.3, (shape[1] - 1) / 2 - 0.4
    image = Drawing(shape)(x=x, y=y, re=4.0, n=0.5, q=0.5, pa=0.0)
    flux, cx, cy, xx, yy, xy = moments(image)
    # What the cutoff of the splitting weights leaves (1e-5 of the flux, thinly spread) moves
    # the flux by 2e-5, the centroid by 7e-5 px and, far out as it lies, the sizes by 4e-3.
    assert flux == pytest.approx(1000.0, rel=3e-5)
    assert (cx, cy) == (pytest.approx(x, abs=1e-4), pytest.approx(y, abs=1e-4))
    sigma = 4.0 / np.sqrt(2 * np.log(2))  # half-light radius of a Gaussian
    psf = (3.0 / 2.3548) ** 2
    assert yy == pytest.approx(sigma**2 + psf, rel=5e-3)  # pa = 0: long axis along y
    assert xx == pytest.approx((0.5 * sigma) ** 2 + psf, rel=5e-3)
    assert xy == pytest.approx(0.0, abs=5e-3)


@pytest.mark.parametrize(("pa", "sign"), [(45.0, -1), (135.0, +1)])
def test_position_angle_runs_counter_clockwise_from_up(drawing, pa, sign):
    # pa = 45 leans to the left: up and left belong together, so <xy> < 0.
    assert np.sign(moments(drawing(pa=pa, q=0.3))[5]) == sign


def test_position_angle_90_is_horizontal(drawing):
    _, _, _, xx, yy, _ = moments(drawing(pa=90.0, q=0.3))
    assert xx > 2 * yy


@pytest.mark.parametrize("n", [0.3, 0.5, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("q", [0.05, 1.0])
def test_extremes_are_finite_and_positive(n, q):
    image = Drawing(dtype=torch.float32)(n=n, q=q, re=6.0)
    assert np.isfinite(image).all()
    assert image.min() > -1e-4 * image.max()


@pytest.mark.parametrize("n", [1.0, 4.0, 6.0])
@pytest.mark.parametrize("re", [3.0, 10.0, 21.0])
def test_wrap_around_stays_within_the_bar(n, re):
    # Against a 24 times larger FFT, which has no wrap-around left to speak of.
    settings = RefineSettings()
    wide = bool(needs_wide(torch.tensor(re), torch.tensor(0.5), (64, 64), settings))
    ours = Drawing(accuracy=settings.wide if wide else settings.compact, dtype=torch.float32)
    truth = Drawing(accuracy=Accuracy(24.0, refinements=()))(re=re, n=n, q=0.5)
    image = ours(re=re, n=n, q=0.5)
    assert np.abs(image - truth).max() < 5e-5 * truth.max()
    assert abs(image.sum() - truth.sum()) < 1e-3 * truth.sum()


@pytest.mark.parametrize(
    "galaxy",
    [
        {"n": 0.5, "re": 1.0, "q": 0.1},
        {"n": 1.0, "re": 8.0, "q": 1.0},
        {"n": 4.0, "re": 4.0, "q": 0.4},
        {"n": 6.0, "re": 2.0, "q": 0.8},
    ],
)
@pytest.mark.parametrize("shape", [(64, 64), (51, 51)])
def test_agrees_with_galsim(galaxy, shape):
    # The full grid is benchmarks/rendering.py; bars are those of METHODS.md section 1.
    pytest.importorskip("galsim")
    from autofit_ml.simulation import Source, moffat_psf, render_source

    psf = moffat_psf(3.5, size=25)
    y, x = (shape[0] - 1) / 2 - 0.3, (shape[1] - 1) / 2 + 0.2
    expected = render_source(
        Source(x, y, 1000.0, galaxy["re"], galaxy["n"], galaxy["q"], 30.0), psf, shape
    )
    settings = RefineSettings()
    image = Drawing(shape, psf.data.astype(float), accuracy=settings.compact, dtype=torch.float32)(
        x=x, y=y, pa=30.0, **galaxy
    )
    assert np.abs(image - expected).max() < 5e-5 * expected.max()
    assert abs(image.sum() - expected.sum()) < 1e-3 * expected.sum()


def test_oversampled_optical_psf_is_folded_and_gets_the_pixel():
    # A PSF sampled three times finer without the pixel, against galsim with the pixel added.
    pytest.importorskip("galsim")
    from autofit_ml.simulation import Source, moffat_psf, render_source

    psf = moffat_psf(1.4, size=61, oversampling=3, has_pixel=False)
    expected = render_source(Source(31.6, 32.3, 1000.0, 4.0, 2.0, 0.6, 30.0), psf, (64, 64))
    image = Drawing(psf=psf.data.astype(float), oversampling=3, has_pixel=False)(re=4.0)
    assert np.abs(image - expected).max() < 5e-5 * expected.max()


def test_binned_pixels_are_sums_of_blocks():
    fine = Drawing(accuracy=Accuracy(4.0, refinements=()))(re=6.0, n=1.0)
    coarse = Drawing((32, 32), accuracy=Accuracy(4.0, refinements=()), oversampling=2, binning=1)
    del coarse
    from autofit_ml.profiles import sersic_table
    from autofit_ml.rendering import make_plan, psf_modes

    plan = make_plan((32, 32), (13, 13), 2, Accuracy(4.0, refinements=()), dtype=torch.float64)
    modes = psf_modes(
        plan, torch.as_tensor(gaussian_psf())[None], torch.tensor([True]), 1, binning=2
    )
    theta = Drawing.parameters(x=(31.6 + 0.5) / 2 - 0.5, y=(32.3 + 0.5) / 2 - 0.5, re=3.0, n=1.0)
    binned = render(plan, sersic_table(), modes, theta)[0].numpy()
    blocks = fine.reshape(32, 2, 32, 2).sum((1, 3))
    assert np.abs(binned - blocks).max() < 2e-5 * blocks.max()


GALAXIES = [
    {"n": 0.35, "re": 5.0, "q": 0.5},
    {"n": 1.0, "re": 3.0, "q": 0.95},
    {"n": 4.0, "re": 6.0, "q": 0.3},
    {"n": 7.8, "re": 2.0, "q": 0.7},
    {"n": 2.5, "re": 4.0, "q": 1.0},
]


@pytest.mark.parametrize("galaxy", GALAXIES)
def test_jacobian_against_finite_differences(drawing, galaxy):
    # Central differences in float64, step 1e-5: truncation about 1e-10, rounding about 1e-10.
    theta = drawing.parameters(**galaxy)
    analytic = component_jacobian(drawing.plan, SERSIC, drawing.modes, theta)[0]
    for i in range(7):
        shift = torch.zeros_like(theta)
        shift[0, i] = 1e-5
        with torch.no_grad():
            above = render(drawing.plan, drawing.table, drawing.modes, theta + shift)
            below = render(drawing.plan, drawing.table, drawing.modes, theta - shift)
        numeric = (above - below)[0] / 2e-5
        scale = max(numeric.abs().max().item(), 1e-6 * analytic[2].max().item())
        assert (analytic[i] - numeric).abs().max().item() < 1e-5 * scale


@pytest.mark.parametrize("galaxy", GALAXIES)
def test_autograd_agrees_with_the_analytic_jacobian(drawing, galaxy):
    theta = drawing.parameters(**galaxy).requires_grad_()
    weights = torch.linspace(-1, 1, 64 * 64, dtype=torch.float64).reshape(64, 64).sin()
    image = render(drawing.plan, drawing.table, drawing.modes, theta)[0]
    (gradient,) = torch.autograd.grad((image * weights).sum(), theta)
    analytic = component_jacobian(drawing.plan, SERSIC, drawing.modes, theta.detach())[0]
    expected = (analytic * weights).sum((1, 2))
    assert torch.allclose(gradient[0], expected, rtol=1e-7, atol=1e-7 * expected.abs().max().item())


def test_gradient_reaches_the_psf(drawing):
    modes = drawing.modes.clone().requires_grad_()
    image = render(drawing.plan, drawing.table, modes, drawing.parameters())
    (gradient,) = torch.autograd.grad(image.square().sum(), modes)
    assert torch.isfinite(torch.view_as_real(gradient)).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("shape", [(64, 64), (51, 80)])
@pytest.mark.parametrize("layout", ["compact", "wide"])
def test_a_galaxy_is_drawn_the_same_to_the_bit_in_any_batch(layout, shape, one_thread):
    """As the refiner draws: single precision, one thread an operation."""
    drawing = Drawing(shape, dtype=torch.float32, accuracy=getattr(RefineSettings(), layout))
    rng = np.random.default_rng(3)
    theta = torch.cat(
        [
            drawing.parameters(re=r, n=n, q=q)
            for r, n, q in rng.uniform([2, 0.5, 0.2], [8, 6, 1], (13, 3))
        ]
    )
    modes = drawing.modes.expand(13, -1).clone()
    together = component_jacobian(drawing.plan, SERSIC, modes, theta)
    for i in range(13):
        alone = component_jacobian(drawing.plan, SERSIC, modes[i : i + 1], theta[i : i + 1])
        assert torch.equal(alone[0], together[i])


def test_light_within_re_is_half(drawing):
    # Without much PSF blur: re = 12 px in a large stamp.
    image = Drawing((128, 128), gaussian_psf(1.5))(x=63.5, y=63.5, re=12.0, n=1.0, q=1.0)
    y, x = np.indices(image.shape) - 63.5
    inside = image[np.hypot(x, y) <= 12.0].sum()
    # Pixels on the circle's edge and the blur cost about 1 %.
    assert inside == pytest.approx(1000.0 * sersic_flux_within(1.0, 1.0), rel=0.015)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu():
    from autofit_ml.rendering import make_plan, psf_modes

    images = []
    for device in ("cpu", "cuda"):
        plan = make_plan((64, 64), (25, 25), device=device)
        modes = psf_modes(plan, torch.as_tensor(gaussian_psf())[None], torch.tensor([True]))
        theta = Drawing.parameters().to(device)
        images.append(component_jacobian(plan, SERSIC, modes, theta).cpu())
    scale = images[0].abs().amax((0, 2, 3), keepdim=True)
    assert ((images[0] - images[1]).abs() / scale).max() < 1e-5
