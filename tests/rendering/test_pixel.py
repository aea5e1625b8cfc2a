"""The pixel renderer: what Fourier draws, convergence, gradients."""

import math

import pytest
import torch
from drawings import Drawing
from pixel_renderer import PixelAccuracy, profile_brightness, render_pixels

from autofit_ml.profiles import get_profile
from autofit_ml.rendering import Accuracy, render, render_component


def flat_plan(**layout):
    return Drawing((48, 48), accuracy=Accuracy(2.0, refinements=()), **layout)


@pytest.mark.parametrize("n", [0.5, 1.0])
def test_pixels_draw_what_fourier_draws(n):
    # The rest is light beyond the padded field and the midpoint rule.
    drawing = flat_plan()
    theta = drawing.parameters(x=23.6, y=24.3, re=4.0, n=n)
    brightness = profile_brightness(get_profile("sersic"), theta)
    image = render_pixels(drawing.plan, drawing.modes, theta[:, :2], brightness)[0]
    expected = render(drawing.plan, drawing.table, drawing.modes, theta)[0]
    assert (image - expected).abs().max() < 1e-4 * expected.max()


def test_sub_pixels_converge_on_a_cusp():
    # The cells near the centre carry the cusp of n = 4: 4 % without them.
    drawing = flat_plan()
    theta = drawing.parameters(x=23.6, y=24.3, re=6.0, n=4.0)
    brightness = profile_brightness(get_profile("sersic"), theta)
    expected = render_component(drawing.plan, get_profile("sersic"), drawing.modes, theta)[0]
    errors = []
    for rings in ((), ((6.0, 2), (2.0, 8)), ((6.0, 2), (2.0, 8), (0.3, 64))):
        accuracy = PixelAccuracy(4, rings)
        image = render_pixels(drawing.plan, drawing.modes, theta[:, :2], brightness, accuracy)[0]
        errors.append((image - expected)[18:31, 18:31].abs().max() / expected.max())
    assert errors[0] > 3 * errors[1] > 3 * errors[2]
    assert errors[2] < 2e-3


def test_gradient_against_finite_differences():
    drawing = flat_plan()
    centre = torch.tensor([[23.6, 24.3]], dtype=torch.float64)
    weights = torch.linspace(0, 3, 48 * 48, dtype=torch.float64).reshape(48, 48).cos()

    def value(width):
        def brightness(dx, dy):
            return torch.exp(-(dx**2 + dy**2) / (2 * width**2)) / (2 * math.pi * width**2)

        image = render_pixels(drawing.plan, drawing.modes, centre, brightness)
        return (image[0] * weights).sum()

    width = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(width), width)
    with torch.no_grad():
        numeric = (value(width + 1e-5) - value(width - 1e-5)) / 2e-5
    assert gradient.item() == pytest.approx(numeric.item(), rel=1e-6)


def test_refined_plans_are_refused():
    drawing = Drawing((48, 48))
    theta = drawing.parameters()
    brightness = profile_brightness(get_profile("sersic"), theta)
    with pytest.raises(ValueError, match="refinements"):
        render_pixels(drawing.plan, drawing.modes, theta[:, :2], brightness)
