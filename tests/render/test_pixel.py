"""The pixel renderer: the elliptical case, symmetry, flux, convergence, gradients."""

import numpy as np
import pytest
import torch
from drawings import Drawing

from autofit_ml.render import (
    Accuracy,
    PixelAccuracy,
    boxy_sersic,
    render,
    render_boxy_sersic,
    render_pixels,
)


def flat_plan(**layout):
    return Drawing((48, 48), accuracy=Accuracy(2.0, refinements=()), **layout)


def boxy(drawing, c0, accuracy=None, **galaxy):
    theta = drawing.parameters(**galaxy)
    c0 = torch.tensor([c0], dtype=torch.float64)
    return render_boxy_sersic(drawing.plan, drawing.table, drawing.modes, theta, c0, accuracy)[0]


@pytest.mark.parametrize("n", [0.5, 1.0])
def test_pixels_alone_draw_what_fourier_draws(n):
    # Profiles without a cusp need no help from the Fourier path; the rest is light beyond the
    # padded field and the midpoint rule.
    drawing = flat_plan()
    theta = drawing.parameters(x=23.6, y=24.3, re=4.0, n=n)
    image = render_pixels(
        drawing.plan,
        drawing.modes,
        theta[:, :2],
        boxy_sersic(theta, torch.zeros(1, dtype=torch.float64)),
    )[0]
    expected = render(drawing.plan, drawing.table, drawing.modes, theta)[0]
    assert (image - expected).abs().max() < 1e-4 * expected.max()


def test_without_boxiness_it_is_the_elliptical_image():
    drawing = flat_plan()
    galaxy = {"x": 23.6, "y": 24.3, "n": 4.0}
    image = boxy(drawing, 0.0, **galaxy)
    expected = render(drawing.plan, drawing.table, drawing.modes, drawing.parameters(**galaxy))[0]
    assert torch.allclose(image, expected, atol=1e-12)


@pytest.mark.parametrize("c0", [-0.6, 0.8])
@pytest.mark.parametrize("n", [1.0, 4.0])
def test_boxiness_keeps_flux_and_centre_and_fills_the_corners(c0, n):
    drawing = flat_plan()
    galaxy = {"x": 24.0, "y": 23.0, "re": 3.0, "n": n, "q": 0.8, "pa": 0.0}
    image, plain = boxy(drawing, c0, **galaxy).numpy(), boxy(drawing, 0.0, **galaxy).numpy()
    # n = 4 has 4 % of its light beyond the stamp; boxiness moves a seventh of that about.
    assert image.sum() == pytest.approx(plain.sum(), rel=1e-3 if n == 1.0 else 6e-3)
    y, x = np.indices(image.shape)
    assert (image * x).sum() / image.sum() == pytest.approx(24.0, abs=0.02)
    corner = image[23 + 5, 24 + 4] / plain[23 + 5, 24 + 4]
    assert corner > 1.01 if c0 > 0 else corner < 0.99
    assert image[23 + 5, 24 + 4] == pytest.approx(image[23 - 5, 24 - 4], rel=1e-3)


@pytest.mark.parametrize("c0", [-0.5, 0.6])
def test_sub_pixels_have_converged(c0):
    # Against four times as many; the stated accuracy is 5e-4 of the peak for n = 6, re = 2 px.
    drawing = flat_plan()
    galaxy = {"x": 23.6, "y": 24.3, "re": 2.0, "n": 4.0}
    image = boxy(drawing, c0, **galaxy)
    fine = boxy(drawing, c0, PixelAccuracy(12, ((6.0, 2), (2.0, 4), (0.3, 32))), **galaxy)
    assert (image - fine).abs().max() < 2e-4 * fine.max()


def test_gradient_against_finite_differences():
    drawing = flat_plan()
    theta = drawing.parameters(x=23.6, y=24.3, re=4.0, n=1.5).requires_grad_()
    c0 = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    weights = torch.linspace(0, 3, 48 * 48, dtype=torch.float64).reshape(48, 48).cos()

    def value(theta, c0):
        image = render_boxy_sersic(drawing.plan, drawing.table, drawing.modes, theta, c0)
        return (image[0] * weights).sum()

    by_theta, by_c0 = torch.autograd.grad(value(theta, c0), (theta, c0))
    step = 1e-5
    with torch.no_grad():
        numeric = (value(theta, c0 + step) - value(theta, c0 - step)) / (2 * step)
        assert by_c0.item() == pytest.approx(numeric.item(), rel=1e-3)
        for i in (2, 3, 4, 5, 6):  # the grid moves with x and y, their quadrature does not
            shift = torch.zeros_like(theta)
            shift[0, i] = step
            numeric = (value(theta + shift, c0) - value(theta - shift, c0)) / (2 * step)
            assert by_theta[0, i].item() == pytest.approx(numeric.item(), rel=1e-3, abs=1e-3)


def test_refined_plans_are_refused():
    drawing = Drawing((48, 48))
    with pytest.raises(ValueError, match="refinements"):
        boxy(drawing, 0.1)
