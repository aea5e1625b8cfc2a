r"""True if a point source explains the data as well as a Sérsic profile.

The target is replaced by a point source, with its neighbours, and fitted from where the Sérsic fit
ended. POINT_SOURCE is raised where the Bayesian information criterion is not the larger for it.
Where :math:`r_e` is known to one part in 16 or better the answer is known without a fit: of all
galaxies with :math:`(r_e / \sigma)^2 > 250` that were tried the point source's BIC was larger by
over 250.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.first_guess import bounds_of, with_neighbours
from autofit_ml.fitting.levenberg_marquardt import solve_damped
from autofit_ml.fitting.linear_fluxes import with_best_fluxes
from autofit_ml.fitting.passes import fit_from
from autofit_ml.fitting.results import SceneFit
from autofit_ml.scenes import Scene, parse_model
from autofit_ml.scenes.layout import Layout, make_layout

__all__ = ["compare_with_points"]

_CLEARLY_EXTENDED = 250.0
"""(re / error)^2 above which no point source is tried."""

_HOPELESS = 200.0
"""A point source that is expected to stay this far above its BIC limit is given up."""


def compare_with_points(
    batch: SceneBatch, scene: Scene, rows: np.ndarray, fits: Sequence[SceneFit]
) -> list[SceneFit]:
    """Fits of one Sérsic profile with the BIC of a point source and the flag POINT_SOURCE.

    Parameters
    ----------
    batch : SceneBatch
    scene : Scene
        The target's: one plain Sérsic profile.
    rows : ndarray, (B,)
        Members of the batch that were fitted.
    fits : sequence of SceneFit, (B,)
    """
    name = f"{scene.components[0].name}.re"
    tried = [k for k, fit in enumerate(fits) if _may_be_point(fit, name)]
    if not tried:
        return list(fits)
    point = dataclasses.replace(scene, components=parse_model("point").components)
    kinds = [item.profile for item in batch.members[0].neighbours]
    layout = make_layout(
        with_neighbours(point, kinds), batch.layout.bands, None, batch.layout.n_psf
    )
    some = batch.with_layout(rows[tried].tolist(), layout)
    loudness = 2 * (some.total("log_sigma") - some.total("given_log_sigma"))
    chi2, n_free = _best_point(some, point, [fits[k] for k in tried], scene)
    out = list(fits)
    chi2 = chi2 + torch.as_tensor(loudness, device=chi2.device)
    for k, value, free in zip(tried, chi2.tolist(), n_free.tolist(), strict=True):
        if not math.isfinite(value):
            continue
        bic = value + free * math.log(max(fits[k].n_eff, 2))
        flag = int(Flag.POINT_SOURCE) if bic <= fits[k].bic else 0
        out[k] = dataclasses.replace(fits[k], bic_point_source=bic, flags=fits[k].flags | flag)
    return out


def _may_be_point(fit: SceneFit, name: str) -> bool:
    if fit.flags & int(Flag.FAILED) or name not in fit.names:
        return False
    value, error = fit[name], fit.error_stat(name)
    return not (error > 0 and (value / error) ** 2 > _CLEARLY_EXTENDED)


def _best_point(
    batch: SceneBatch, point: Scene, fits: Sequence[SceneFit], scene: Scene
) -> tuple[torch.Tensor, torch.Tensor]:
    """chi2 of the best point source, infinite where it is hopeless, and its free parameters."""
    layout, settings = batch.layout, batch.settings
    values = [_values(layout, image, fits, point, scene) for image in range(layout.n_images)]
    shape, batch.base = layout.start(values)
    theta = torch.cat([shape, shape.new_zeros((len(fits), layout.size - layout.n_shape))], 1)
    theta = theta.to(batch.device)
    everyone = np.arange(len(fits))
    lower, upper = bounds_of(batch, point, everyone)
    for k in everyone:
        for i in batch.missing(int(k)):
            for j in layout.only_in(i):
                lower[k, j] = upper[k, j] = theta[k, j]
    theta = torch.maximum(torch.minimum(theta, upper), lower)
    members = torch.as_tensor(everyone, device=batch.device)
    problem = batch.problem(settings.compact, members)
    theta = with_best_fluxes(problem, theta[:, None], lower, upper)[:, 0]
    state = problem.evaluate(members, theta)
    n_free = (lower < upper).sum(1)
    expected = solve_damped(state, torch.zeros_like(state.chi2), lower == upper).expected
    limit = torch.tensor([fit.chi2 + 10 * math.log(max(fit.n_eff, 2)) for fit in fits])
    left = state.chi2 - expected < limit.to(state.chi2) + _HOPELESS
    chi2 = torch.full_like(state.chi2, torch.inf)
    some = left.nonzero()[:, 0]
    if len(some):
        made = fit_from(batch, some, theta[some], lower[some], upper[some], settings.final)
        known, _ = batch.prior.select(some).pull(made.theta)
        chi2[some] = made.state.chi2 - known[:, : layout.n_shape].sum(1)
    return chi2, n_free


def _values(
    layout: Layout, image: int, fits: Sequence[SceneFit], point: Scene, scene: Scene
) -> dict[str, np.ndarray]:
    """Starting values in an image: the Sérsic fits' own."""
    sersic, target = scene.components[0].name, point.components[0].name
    out = {}
    for span in layout.spans:
        name = span.component.name
        source = sersic if name == target else name
        for parameter in span.component.profile.parameters:
            got = [fit.value_in(f"{source}.{parameter}", image) for fit in fits]
            out[f"{name}.{parameter}"] = np.nan_to_num(np.array(got), nan=1.0)
    return out
