"""Corner plots: what is on them."""

import io

import numpy as np
import pytest

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.corner import corner_figure, density_levels


@pytest.fixture
def draws():
    rng = np.random.default_rng(0)
    covariance = [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]]
    x = rng.multivariate_normal([0, 0, 0], covariance, size=4000)
    return x * [1.0, 1e-9, 1e6] + [30.0, 2e-8, 5e7]


def test_levels_hold_their_share():
    y, x = np.mgrid[-5:5:201j, -5:5:201j]
    density = np.exp(-(x**2 + y**2) / 2)
    levels = density_levels(density)
    # The disc of a two-dimensional Gaussian that holds a share p has the density 1 - p on its rim.
    np.testing.assert_allclose(levels, [0.05, 0.32], rtol=0.02)


def test_panels_titles_and_truths(draws):
    figure = corner_figure(draws, ["x [px]", "sky", "flux"], truths=[30.1, np.nan, 5e7])
    assert len(figure.axes) == 6
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    low, middle, high = np.quantile(draws[:, 0], [0.1587, 0.5, 0.8413])
    assert titles[0] == f"x [px]\n${middle:.2f}^{{+{high - middle:.2f}}}_{{-{middle - low:.2f}}}$"
    assert r"sky / $10^{-8}$" in titles[1]
    assert r"flux / $10^{7}$" in titles[2]
    # The truth's lines: three quantiles and the truth on the diagonal; none for NaN.
    assert [len(axes.lines) for axes in figure.axes if axes.get_title()] == [4, 3, 4]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.tell() > 10_000


def test_dots_are_the_draws_outside(draws):
    figure = corner_figure(draws, ["a", "b", "c"])
    pairs = [axes for axes in figure.axes if axes.lines and not axes.get_title()]
    assert len(pairs) == 3
    for axes in pairs:
        outside = len(axes.lines[0].get_xdata()) / len(draws)
        assert outside == pytest.approx(0.05, abs=0.02)


def test_parameters_that_do_not_vary_are_left_out(draws):
    draws[:, 1] = 3.0
    draws[5, 0] = np.nan
    figure = corner_figure(draws, ["a", "b", "c"])
    assert len(figure.axes) == 3
    assert corner_figure(draws[:, :1], ["a"]).axes


def test_wrong_use(draws):
    with pytest.raises(SettingsError, match="names"):
        corner_figure(draws, ["a", "b"])
    with pytest.raises(SettingsError, match="too few"):
        corner_figure(draws[:10], ["a", "b", "c"])
    with pytest.raises(SettingsError, match="varies"):
        corner_figure(np.ones((100, 1)), ["a"])
