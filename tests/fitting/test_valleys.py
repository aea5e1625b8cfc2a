"""Errors along the valley in which two components trade their light."""

import numpy as np
import pytest
import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluation, LMResult
from autofit_ml.fitting.valleys import stretched
from autofit_ml.scenes import parse_model
from autofit_ml.scenes.layout import make_layout

LAYOUT = make_layout(parse_model("sersic+exp"))
D = LAYOUT.size
BULGE, DISC = (LAYOUT.names.index(f"{name}.ln_flux") for name in ("sersic", "exponential"))
BENDS = 0.7


def problem(bent):
    """chi2 of two objects at (rows, theta): white in all but u, the difference of the fluxes, by
    which it rises as 4 u^2, but on one side of the second object as the square of a logarithm."""

    def evaluate(rows, theta):
        rows = torch.as_tensor(rows)
        u = theta[:, BULGE] - theta[:, DISC]
        side = (rows == 1) & (u > 0) & bent
        residual = 2 * torch.where(side, BENDS * (1 + u.clamp_min(0) / BENDS).log(), u)
        slope = 2 * torch.where(side, 1 / (1 + u.clamp_min(0) / BENDS), 1.0)
        jacobian = torch.eye(D, dtype=torch.float64).repeat(len(theta), 1, 1)
        jacobian[:, BULGE, :] = 0.0
        jacobian[:, BULGE, BULGE], jacobian[:, BULGE, DISC] = slope, -slope
        values = theta.clone()
        values[:, BULGE] = residual
        return Evaluation(
            values.square().sum(1),
            -(values[:, None] @ jacobian)[:, 0],
            jacobian.transpose(1, 2) @ jacobian,
            theta.new_zeros((len(theta), 0)),
        )

    return evaluate


@pytest.mark.parametrize("bent", [False, True])
def test_errors_reach_where_chi2_has_risen_by_one(bent):
    theta = torch.zeros((2, D), dtype=torch.float64)
    evaluate = problem(bent)
    fit = LMResult.empty(theta, 0)
    fit.state = evaluate(torch.arange(2), theta)
    before = torch.linalg.inv(fit.state.matrix)
    bounds = torch.full_like(theta, -9), torch.full_like(theta, 9)
    base = torch.zeros((2, 1, LAYOUT.n_full), dtype=torch.float64)
    linear = np.zeros((2, D), dtype=bool)
    after = stretched(
        LAYOUT, ["sersic", "exponential"], base, fit, before, before, bounds, linear, evaluate
    )
    u = torch.zeros(D, dtype=torch.float64)
    u[BULGE], u[DISC] = 1.0, -1.0
    true = BENDS * np.expm1(0.5 / BENDS) if bent else 0.5
    for k, expected in ((0, 0.5), (1, true)):
        assert (u @ after[k] @ u).sqrt().item() == pytest.approx(expected, rel=0.03)
    # What has nothing to do with the shares is as it was.
    place = LAYOUT.names.index("exponential.ln_rc")
    torch.testing.assert_close(after[:, place, place], before[:, place, place])
    # Where a flux is not fitted as its logarithm nothing is.
    linear[:, BULGE] = True
    same = stretched(
        LAYOUT, ["sersic", "exponential"], base, fit, before, before, bounds, linear, evaluate
    )
    torch.testing.assert_close(same, before)
