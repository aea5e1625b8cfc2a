"""One pass of the fit over a batch, with the renderer that suits each object."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.levenberg_marquardt import Evaluation, LMResult, LMSettings, minimise
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.settings import RefineSettings

__all__ = ["best_of", "evaluate_each", "fit_from", "needs_wide", "problems_of", "raise_floor"]


def needs_wide(
    re: torch.Tensor, q: torch.Tensor, shape: tuple[int, int], settings: RefineSettings
) -> torch.Tensor:
    """Components whose light reaches too far for the compact renderer (needles reach further)."""
    return re > settings.compact_re * min(shape) * (q / 0.4).clamp_max(1.0)


def _wide(batch: SceneBatch, members: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Objects with a component whose light reaches too far for the compact renderer."""
    settings, layout = batch.settings, batch.layout
    values = layout.values(theta, batch.base[members.cpu()].to(theta), 0)
    wide = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    for span in layout.spans:
        name = span.component.name
        if f"{name}.re" not in values:
            continue
        re, q = values[f"{name}.re"], values[f"{name}.q"]
        wide |= needs_wide(re, q, batch.shapes[0], settings)
    return wide


def problems_of(
    batch: SceneBatch,
    members: torch.Tensor,
    theta: torch.Tensor,
    blocks: Sequence[int] | None = None,
) -> list[tuple[torch.Tensor, SceneProblem]]:
    """(places in `members`, problem) for those that the compact renderer serves, and the others."""
    wide = _wide(batch, members, theta)
    out = []
    for accuracy, where in (
        (batch.settings.compact, ~wide),
        (batch.settings.wide, wide),
    ):
        places = where.nonzero()[:, 0]
        if len(places):
            out.append((places, batch.problem(accuracy, members[places], blocks)))
    return out


def evaluate_each(
    drawn: list[tuple[torch.Tensor, SceneProblem]], some: torch.Tensor, theta: torch.Tensor
) -> Evaluation:
    """Evaluation of the rows `some` at theta (A, D), each by its own of `problems_of`."""
    n, d = theta.shape
    out = Evaluation.empty(n, d, 0, theta.device)
    for places, problem in drawn:
        mine, at = (some[:, None] == places).nonzero(as_tuple=True)
        if len(mine):
            there = problem.evaluate(at, theta[mine])
            there.light = out.light[mine]
            out.put(mine, there)
    return out


def fit_from(
    batch: SceneBatch,
    members: torch.Tensor,
    theta: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    settings: LMSettings,
    blocks: Sequence[int] | None = None,
) -> LMResult:
    """Fit every start; objects that turn out to be large go on with the wide renderer.

    Neighbours that have outgrown their patches are fitted on with the whole stamp.
    """
    layout = batch.layout
    max_step = layout.max_step.to(theta.device)
    result = LMResult.empty(theta, layout.size * len(layout.spans))
    pixels = torch.as_tensor(batch.total("n_pix"), device=theta.device)[members]
    if blocks is not None:
        pixels = pixels / max(blocks) ** 2
    wide = _wide(batch, members, theta)
    for accuracy, serve_wide in ((batch.settings.compact, False), (batch.settings.wide, True)):
        some = (wide if serve_wide else ~wide).nonzero()[:, 0]
        if len(some) == 0:
            continue
        for starts in (result.theta[some, None], None):  # on patches; then those that outgrew them
            problem = batch.problem(accuracy, members[some], blocks, starts)
            out = minimise(
                problem.evaluate, result.theta[some], lower[some], upper[some], max_step, settings,
                problem.measure, batch.own, pixels[some],
            )  # fmt: skip
            result.put(some, out)
            grown = batch.outgrown(problem, members[some], out.theta)
            if not bool(grown.any()):
                break
            some = some[grown]
        if not serve_wide and blocks is None:
            wide = wide.clone()
            some = (~wide).nonzero()[:, 0]
            wide[some] = _wide(batch, members[some], result.theta[some])
    return result


def best_of(fits: LMResult, owner: torch.Tensor, n: int) -> torch.Tensor:
    """Index of the fit with the smallest chi2 for each of n objects."""
    chi2 = torch.nan_to_num(fits.state.chi2, nan=torch.inf)
    order = torch.argsort(chi2, stable=True)
    by_owner = order[torch.argsort(owner[order], stable=True)]
    first = torch.ones_like(by_owner, dtype=torch.bool)
    first[1:] = owner[by_owner[1:]] != owner[by_owner[:-1]]
    return by_owner[first]


def raise_floor(batch: SceneBatch, members: torch.Tensor, theta: torch.Tensor) -> None:
    """sigma with the model's own photons and error in it, from the model as it is now."""
    floor, layout = batch.settings.error_floor, batch.layout
    for i in range(layout.n_images):
        root = batch.root(i).clone()
        for places, problem in problems_of(batch, members, theta):
            for first in range(0, len(places), problem.chunk):
                index = torch.arange(first, min(first + problem.chunk, len(places)))
                at = places[index]
                light = torch.stack(problem.component_images(index, theta[at], i)).sum(0)
                given = batch.given_root(i)[members[at]]
                photons = batch.photons(i)[members[at], None, None].to(root.dtype)
                shot = light.clamp_min(0) / photons
                variance = torch.where(given > 0, given, 1.0) ** -2 + (floor * light) ** 2 + shot
                root[members[at]] = torch.where(given > 0, variance.rsqrt(), 0.0)
        batch.replace_weights(i, root)
