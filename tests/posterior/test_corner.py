"""Corner plots: what is on them."""

import io

import numpy as np
import pytest
from matplotlib.path import Path

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.corner import corner_figure

pytest.importorskip("corner")


@pytest.fixture
def draws():
    rng = np.random.default_rng(0)
    covariance = [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]]
    x = rng.multivariate_normal([0, 0, 0], covariance, size=4000)
    return x * [1.0, 1e-9, 1e6] + [30.0, 2e-8, 5e7]


def panels(figure):
    return [axes for axes in figure.axes if axes.get_frame_on()]


def test_panels_titles_and_truths(draws):
    figure = corner_figure(draws, ["x [px]", "sky", "flux"], truths=[30.1, np.nan, 5e7])
    assert len(panels(figure)) == 6
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    low, middle, high = np.quantile(draws[:, 0], [0.1587, 0.5, 0.8413])
    assert titles[0] == f"x [px]\n${middle:.2f}^{{+{high - middle:.2f}}}_{{-{middle - low:.2f}}}$"
    assert r"sky / $10^{-8}$" in titles[1]
    assert r"flux / $10^{7}$" in titles[2]
    # Three quantiles and the truth on the diagonal; no truth for NaN.
    lines = [axes.lines for axes in figure.axes if axes.get_title()]
    assert [len(some) for some in lines] == [4, 3, 4]
    assert lines[2][3].get_xdata()[0] == pytest.approx(5.0)  # in units of 10^7
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.tell() > 10_000


def test_contours_hold_their_share(draws):
    figure = corner_figure(draws, ["a", "b", "c"])
    pairs = [axes for axes in panels(figure) if not axes.get_title()]
    assert len(pairs) == 3
    for axes in pairs:
        points = axes.lines[0].get_xydata()
        lines = next(c for c in axes.collections if not c.get_fill())
        inside = [
            np.mean(sum(loop.contains_points(points) for loop in _loops(path)) % 2)
            for path in lines.get_paths()
        ]
        assert inside == pytest.approx([0.95, 0.68], abs=0.03)


def _loops(path):
    return [Path(vertices) for vertices in path.to_polygons()]


def test_parameters_that_do_not_vary_are_left_out(draws):
    draws[:, 1] = 3.0
    draws[5, 0] = np.nan
    figure = corner_figure(draws, ["a", "b", "c"])
    assert len(panels(figure)) == 3
    assert corner_figure(draws[:, :1], ["a"]).axes


def test_wrong_use(draws):
    with pytest.raises(SettingsError, match="names"):
        corner_figure(draws, ["a", "b"])
    with pytest.raises(SettingsError, match="too few"):
        corner_figure(draws[:10], ["a", "b", "c"])
    with pytest.raises(SettingsError, match="varies"):
        corner_figure(np.ones((100, 1)), ["a"])
