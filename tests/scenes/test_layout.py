"""theta -> parameters of every image, and back."""

import dataclasses

import numpy as np
import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.scenes import fixed, parse_model, sersic
from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.layout import make_layout
from autofit_ml.scenes.model import Parameter

RNG = np.random.default_rng(3)


def values_for(layout, count=5):
    """Plausible catalogue values of every component."""
    out = {}
    for span in layout.spans:
        shapes = {shape.name: shape for shape in span.component.profile.shapes}
        for name in span.component.profile.parameters:
            ranges = {"x": (20, 25), "y": (20, 25), "flux": (50, 500), "re": (2, 8), "q": (0.2, 0.9),
                      "pa": (0, 180)}  # fmt: skip
            low, high = ranges.get(name) or (1.6, 4.0)
            if name in shapes and name != "n":
                low, high = shapes[name].bounds
                low, high = max(low, -0.5), min(high, 3.0)
            out[f"{span.component.name}.{name}"] = RNG.uniform(low, high, count)
    return out


def with_parameters(model, name, **changes):
    """A scene whose component has other parameters."""
    parts = []
    for part in model.components:
        if part.name == name:
            part = dataclasses.replace(part, parameters={**part.parameters, **changes})
        parts.append(part)
    return dataclasses.replace(model, components=tuple(parts))


MODELS = {
    "plain": lambda: sersic(),
    "two components, one centre": lambda: parse_model("sersic+exp"),
    "q fixed": lambda: with_parameters(sersic(), "sersic", q=fixed(0.7)),
    "pa fixed": lambda: with_parameters(sersic(), "sersic", pa=fixed(30.0)),
    "re bounded": lambda: with_parameters(sersic(), "sersic", re=Parameter(bounds=(1.0, 30.0))),
    "pa bounded": lambda: with_parameters(sersic(), "sersic", pa=Parameter(bounds=(0.0, 180.0))),
    "size tied": lambda: with_parameters(
        parse_model("sersic+exp"), "exponential", re=Parameter(tie="1.5 * sersic.re + 1")
    ),
    "shape linked": lambda: with_parameters(
        parse_model("sersic+exp"),
        "exponential",
        q=Parameter(tie="sersic.q"),
        pa=Parameter(tie="sersic.pa"),
    ),
    "flux tied": lambda: with_parameters(
        parse_model("sersic+exp"), "exponential", flux=Parameter(tie="3 * sersic.flux")
    ),
    "point and galaxy": lambda: parse_model("psf+sersic"),
}


@pytest.fixture(params=sorted(MODELS))
def layout(request):
    return make_layout(MODELS[request.param]())


def test_values_survive_the_way_there_and_back(layout):
    """What is neither tied nor fixed comes back as it was put in."""
    values = values_for(layout)
    theta, base = layout.start([values])
    back = layout.values(theta, base, 0)
    tied = {name for name, _ in layout.scene.ties}
    for name, value in values.items():
        if name in tied:
            continue
        got = back[name].numpy()
        if name.endswith(".pa"):
            got = value + (got - value + 90) % 180 - 90
        np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_ties_hold(layout):
    theta, base = layout.start([values_for(layout)])
    back = layout.values(theta, base, 0)
    for name, expression in layout.scene.ties:
        np.testing.assert_allclose(back[name].numpy(), expression(back).numpy(), rtol=1e-9)


def test_derivatives_equal_finite_differences(layout):
    values = values_for(layout)
    theta, base = layout.start([values])
    full, jacobian = layout.parameters(theta, base, 0)
    jacobian = jacobian.expand(len(theta), -1, -1)
    for j in range(layout.n_shape):
        step = torch.zeros_like(theta)
        step[:, j] = 1e-6
        high, _ = layout.parameters(theta + step, base, 0)
        low, _ = layout.parameters(theta - step, base, 0)
        slope = (high - low) / 2e-6
        torch.testing.assert_close(jacobian[:, :, j], slope, atol=1e-7, rtol=1e-6)
    assert full.shape == (5, layout.n_full)


def test_names_say_what_is_free():
    assert make_layout(sersic()).names == (
        "sersic.x", "sersic.y", "sersic.ln_flux", "sersic.ln_rc", "sersic.ln_n", "sersic.eta1",
        "sersic.eta2", "sky",
    )  # fmt: skip
    both = make_layout(parse_model("sersic+exp"))
    assert "exponential.x" not in both.names and "exponential.ln_flux" in both.names
    q_fixed = make_layout(with_parameters(sersic(), "sersic", q=fixed(0.7)))
    assert "sersic.pa" in q_fixed.names and "sersic.ln_q" not in q_fixed.names
    assert "sky" not in make_layout(sersic(sky="fixed")).names


def test_bands_share_what_is_shared():
    """Flux and sky in each band, everything else once."""
    layout = make_layout(sersic(), ("g", "r", "i"))
    assert layout.names[2:5] == ("sersic.ln_flux[g]", "sersic.ln_flux[r]", "sersic.ln_flux[i]")
    assert layout.names[-3:] == ("sky[g]", "sky[r]", "sky[i]")
    values = [values_for(layout) for _ in range(3)]
    theta, base = layout.start(values)
    for i in range(3):
        got = layout.values(theta, base, i)
        np.testing.assert_allclose(got["sersic.flux"], values[i]["sersic.flux"])
        np.testing.assert_allclose(got["sersic.re"], values[0]["sersic.re"])


def test_a_polynomial_in_wavelength():
    """Degree 1 over three bands: two numbers, a straight line in ln re against wavelength."""
    model = with_parameters(sersic(), "sersic", re=Parameter(bands=1))
    layout = make_layout(model, ("g", "r", "i"), (480.0, 620.0, 760.0))
    names = [name for name in layout.names if "ln_rc" in name]
    assert names == ["sersic.ln_rc[0]", "sersic.ln_rc[1]"]
    theta, base = layout.start([values_for(layout)] * 3)
    theta[:, layout.names.index(names[1])] = 0.3
    radii = [layout.values(theta, base, i)["sersic.re"].log() for i in range(3)]
    torch.testing.assert_close(radii[2] - radii[1], radii[1] - radii[0])
    torch.testing.assert_close(radii[2] - radii[0], torch.full_like(radii[0], 0.6))


def test_a_polynomial_needs_bands():
    model = with_parameters(sersic(), "sersic", re=Parameter(bands=2))
    with pytest.raises(SettingsError, match="degree 2 over 2 bands"):
        make_layout(model, ("g", "r"))


def test_bounds_are_those_of_the_model():
    model = with_parameters(
        sersic(), "sersic", re=Parameter(bounds=(1.0, 30.0)), n=Parameter(bounds=(0.5, 4.0))
    )
    layout = make_layout(model)
    lower, upper = layout.limits(np.array([[48, 64]]), torch.ones(1, dtype=torch.float64))
    at = {name: k for k, name in enumerate(layout.names)}
    assert float(upper[0, at["sersic.ln_re"]]) == pytest.approx(np.log(30))
    assert float(lower[0, at["sersic.ln_n"]]) == pytest.approx(np.log(0.5))
    assert float(upper[0, at["sersic.x"]]) == 63.5
    assert float(upper[0, at["sersic.y"]]) == 47.5


def test_row_jacobian_of_a_known_function():
    def function(theta, other):
        return torch.stack([theta[..., 0] * other[..., 0], theta.square().sum(-1)], -1)

    theta = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    other = torch.tensor([[5.0], [6.0]], dtype=torch.float64)
    expected = torch.tensor([[[5.0, 0.0], [2.0, 4.0]], [[6.0, 0.0], [6.0, 8.0]]]).double()
    torch.testing.assert_close(row_jacobian(function, theta, other), expected)
