"""Fit scenes: bucket the objects, search from several starts, fit, describe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.fitting.levenberg_marquardt import LMResult, minimise
from autofit_ml.fitting.parallel import object_threads
from autofit_ml.fitting.scenes.batch import Member, SceneBatch, bucket_key, search_blocks
from autofit_ml.fitting.scenes.describe import describe, failed
from autofit_ml.fitting.scenes.neighbours import Neighbour
from autofit_ml.fitting.scenes.objects import SceneObject
from autofit_ml.fitting.scenes.problem import SceneProblem
from autofit_ml.fitting.scenes.results import SceneFit, SceneSettings
from autofit_ml.fitting.scenes.starts import component_starts, neighbour_values
from autofit_ml.fitting.search import search
from autofit_ml.initialisation.starts import Starts
from autofit_ml.scenes.layout import make_layout
from autofit_ml.scenes.model import Component, Scene

__all__ = ["fit_scenes"]

_LARGEST_TASK = 256
_FLOOR_ROUNDS = 2
_LARGEST_GAIN = math.log(30.0)
"""Largest change of ln flux by the linear solution at a start."""


def fit_scenes(
    objects: Sequence[SceneObject],
    scene: Scene,
    starts: Starts,
    *,
    bands: Sequence[str] = ("",),
    wavelengths: Sequence[float] | None = None,
    settings: SceneSettings | None = None,
    components: bool = False,
) -> list[SceneFit]:
    """Fit a scene to each object, simultaneously in all of its images.

    Where a PSF knows how uncertain it is (`PSF.modes`), its parameters are fitted along.

    Parameters
    ----------
    objects : sequence of SceneObject
        All with as many images, in the order of `bands`.
    scene : Scene
    starts : Starts
        One Sérsic start for each object, in the first image.
    bands : sequence of str
        Band of each image.
    wavelengths : sequence of float, optional
        Of each image, for parameters that are polynomials in wavelength.
    settings : SceneSettings, optional
    components : bool
        Keep the images of the components.

    Returns
    -------
    list of SceneFit
        In order. An object that cannot be fitted (fewer good pixels than parameters) has NaN and
        the FAILED bit.

    Raises
    ------
    SettingsError
        Different numbers of objects, starts and images; poisson without gains.
    """
    settings = settings or SceneSettings()
    if len(objects) != len(starts) or any(len(o.stamps) != len(bands) for o in objects):
        raise SettingsError(
            f"{len(objects)} objects with {sorted({len(o.stamps) for o in objects})} images, "
            f"{len(starts)} starts, {len(bands)} bands",
            "give one start for each object, and one image for each band",
        )
    _check_sky(scene)
    members = [_member(k, one, starts, settings) for k, one in enumerate(objects)]
    buckets: dict[tuple, list[Member]] = {}
    for member in members:
        buckets.setdefault(bucket_key(member), []).append(member)
    results: list[SceneFit | None] = [None] * len(objects)

    def task(some: list[Member]) -> list[SceneFit]:
        kinds = [item.profile for item in some[0].neighbours]
        changes = [0 if c is None else len(c) for c in some[0].psf_changes]
        layout = make_layout(
            with_neighbours(scene, kinds), bands, wavelengths, changes if any(changes) else ()
        )
        return _fit_batch(SceneBatch(some, layout, settings), scene, components)

    with object_threads(torch.device(settings.refine.device)) as run:
        tasks = []
        for key in sorted(buckets):
            every = buckets[key]
            share = -(-len(every) // run.threads)
            size = max(4, min(_LARGEST_TASK, share))
            tasks += [every[i : i + size] for i in range(0, len(every), size)]
        for some, fits in zip(tasks, run(task, tasks), strict=True):
            for member, fit in zip(some, fits, strict=True):
                results[member.number] = fit
    return [fit for fit in results if fit is not None]


def _check_sky(scene: Scene) -> None:
    """What a sky can be told: bounds and a Gaussian prior of its level."""
    for name, parameter in scene.sky_parameters.items():
        gaussian = parameter.prior is None or parameter.prior.gaussian is not None
        held = parameter.fixed and name != "sky"
        if held or parameter.tie or not gaussian:
            raise SettingsError(
                f"{name} of the background can be free, bounded, or have a normal prior",
                "for a flat sky leave tilted out",
            )


def with_neighbours(scene: Scene, kinds: Sequence[str]) -> Scene:
    """The scene with free components ``neighbour_1`` ... of some profiles."""
    if not kinds:
        return scene
    from autofit_ml.profiles import get_profile

    added = tuple(
        Component(f"neighbour_{k}", get_profile(kind)) for k, kind in enumerate(kinds, start=1)
    )
    return dataclasses.replace(scene, components=(*scene.components, *added))


def _member(
    k: int,
    one: SceneObject,
    starts: Starts,
    settings: SceneSettings,
) -> Member:
    if settings.neighbours not in ("fit", "mask"):
        raise SettingsError(f"neighbours is {settings.neighbours!r}", "use fit or mask")
    neighbours: list[Neighbour] = []
    masked = np.asarray(one.segmentation.contaminants, dtype=bool)
    if settings.neighbours == "fit":
        if one.neighbours is None:
            one = one.with_neighbours(settings.max_neighbours)
        neighbours, masked = list(one.neighbours or ()), one.masked
    sigma = 0.0 if starts.cov is None else math.sqrt(max(float(starts.cov[k, 4, 4]), 0.0))
    changes = tuple((stamp or one.reference).psf.modes for stamp in one.stamps)
    return Member(
        k, one, np.array(starts.values[k], dtype=np.float64), sigma, neighbours, masked, changes
    )


def _fit_batch(batch: SceneBatch, scene: Scene, components: bool) -> list[SceneFit]:
    """Fits of one bucket."""
    layout, settings = batch.layout, batch.settings
    enough = batch.total("n_pix") > layout.size
    few = "too few usable pixels for a fit (check the mask and noise planes)"
    out = [failed(layout, scene, few) for _ in batch.members]
    if settings.likelihood.name == "poisson":
        for k, member in enumerate(batch.members):
            stamps = [stamp for stamp in member.object.stamps if stamp is not None]
            if not all(stamp.gain > 0 for stamp in stamps):
                enough[k] = False
                out[k] = failed(layout, scene, "likelihood poisson needs the gain: give --gain")
    rows = np.flatnonzero(enough)
    if len(rows) == 0:
        return out
    everyone = torch.as_tensor(rows, device=batch.device)
    theta, lower, upper = _starts(batch, scene, rows)
    max_step = layout.max_step.to(batch.device)

    # 1. Search from all starts on binned images.
    blocks = search_blocks(batch.members[0])
    coarse = batch.problem(settings.refine.coarse, everyone, blocks)
    theta = _with_best_fluxes(coarse, theta, lower, upper)
    found, chi2, n_iter = search(coarse, theta, lower, upper, max_step, settings.refine.search)

    # 2. The fit, from the best start and from rivals that are nearly as good.
    rivals = (chi2 < chi2[:, :1] + 25.0) & torch.isfinite(chi2)
    rivals[:, 0] = True
    owner, which = rivals.nonzero(as_tuple=True)
    fits = _fit_from(batch, everyone[owner], found[owner, which], lower[owner], upper[owner])
    best = _best_of(fits, owner, len(rows))
    fit = fits.select(best)
    spent = torch.zeros(len(rows), dtype=torch.int32, device=batch.device)
    spent.index_add_(0, owner, fits.n_iter)
    spent += n_iter
    if settings.error_floor > 0:
        for _ in range(_FLOOR_ROUNDS):
            _raise_floor(batch, everyone, fit.theta)
            again = _fit_from(batch, everyone, fit.theta, lower, upper)
            spent += again.n_iter
            fit = again
    started = found[torch.arange(len(rows)), 0]
    described = describe(
        batch, scene, rows, fit, lower, upper, started, spent, theta.shape[1], components,
        lambda members, at: _problems(batch, members, at),
    )  # fmt: skip
    for row, one in zip(rows, described, strict=True):
        out[row] = one
    return out


def _starts(
    batch: SceneBatch, scene: Scene, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Starts (B, K, D) and bounds (B, D) of the batch's usable rows; sets the batch's base."""
    layout, members = batch.layout, [batch.members[k] for k in rows]
    start = np.array([member.start for member in members])
    sigma = np.array([member.ln_n_sigma for member in members])
    names = [c.name for c in layout.scene.components[len(scene.components) :]]
    around = neighbour_values([member.neighbours for member in members], names)
    variants = []
    base = None
    for values in component_starts(scene, start, sigma):
        theta, base_of = layout.start([values | around] * layout.n_images)
        variants.append(theta)
        base = base_of if base is None else base
    if base is None:
        raise ValueError("a scene without starts")
    # What is fixed keeps the first variant's values (they are the same in all, or given).
    whole = torch.zeros((len(batch.members), *base.shape[1:]), dtype=torch.float64)
    whole[torch.as_tensor(rows)] = base
    batch.base = whole
    theta = torch.stack(variants, 1).to(batch.device)
    b, k, _ = theta.shape
    rest = layout.size - layout.n_shape
    theta = torch.cat([theta, theta.new_zeros((b, k, rest))], 2)
    shapes = np.array([member.object.reference.shape for member in members])
    index = torch.as_tensor(rows, device=batch.device)
    low, high = layout.limits(shapes, batch.scale[index].cpu())
    free = torch.full((b, rest), math.inf, dtype=torch.float64)
    lower = torch.cat([low, -free], 1).to(batch.device)
    upper = torch.cat([high, free], 1).to(batch.device)
    _limit_skies(batch, scene, index, lower, upper)
    theta = torch.maximum(torch.minimum(theta, upper[:, None]), lower[:, None])
    for k, row in enumerate(rows):  # nothing is known of what only a missing image would tell
        for i in batch.missing(int(row)):
            for j in layout.only_in(i):
                lower[k, j] = upper[k, j] = theta[k, 0, j]
    return theta, lower, upper


def _limit_skies(
    batch: SceneBatch,
    scene: Scene,
    index: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
) -> None:
    """Bounds of the background in the model, in place."""
    layout = batch.layout
    for i in range(layout.n_images):
        scale, pedestal = batch.units(i, index)
        where = layout.sky_slice(i)
        for k, name in enumerate(("sky", "sky_dx", "sky_dy")[: layout.sky_terms]):
            low, high = scene.sky_parameters[name].bounds
            level = pedestal if k == 0 else torch.zeros_like(pedestal)
            if low is not None:
                lower[:, where.start + k] = (low - level) / scale
            if high is not None:
                upper[:, where.start + k] = (high - level) / scale


def _with_best_fluxes(
    problem: SceneProblem, theta: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> torch.Tensor:
    """Starts whose fluxes (and skies) fit best at their shapes: a linear problem."""
    out = theta.clone()
    for k in range(theta.shape[1]):
        for first in range(0, len(problem), problem.chunk):
            index = torch.arange(
                first, min(first + problem.chunk, len(problem)), device=theta.device
            )
            out[index, k] = _solved(problem, index, theta[index, k])
    return torch.maximum(torch.minimum(out, upper[:, None]), lower[:, None])


def _solved(problem: SceneProblem, index: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    layout, out = problem.layout, theta.clone()
    for i in range(layout.n_images):
        mine = layout.own_fluxes(i)
        if not mine:
            continue
        images = problem.component_images(index, theta, i)
        data = problem.images[i]
        root = data.root_weight[index]
        background = data.background()[: layout.sky_terms]
        columns = [images[span] for span, _ in mine]
        held = [image for span, image in enumerate(images) if span not in {s for s, _ in mine}]
        a = len(index)
        rows = torch.stack([*columns, *background.expand(a, *background.shape).unbind(1)], 1)
        rest = data.data[index] - sum(held) if held else data.data[index]
        weighted = (rows * root[:, None]).flatten(2).double()
        target = (rest * root).flatten(1).double()
        normal = weighted @ weighted.transpose(1, 2)
        # Not a product of matrices: its last digits would depend on the number of objects.
        right = (weighted * target[:, None]).sum(-1)
        gain = _positive(normal, right, len(mine))
        for j, (_, column) in enumerate(mine):
            change = gain[:, j].clamp_min(1e-30).log().clamp(-_LARGEST_GAIN, _LARGEST_GAIN)
            out[:, column] += change
        where = layout.sky_slice(i)
        out[:, where] = gain[:, len(mine) :]
    return out


def _positive(normal: torch.Tensor, right: torch.Tensor, n: int) -> torch.Tensor:
    """Least squares in which the first n numbers are at least 0.02.

    Those that come out below are held there and the others are solved again, twice: a start need
    not be better than that.
    """
    b, d = right.shape
    held = torch.zeros((b, d), dtype=torch.bool, device=right.device)
    value = torch.zeros_like(right)
    for _ in range(3):
        free = (~held).to(right.dtype)
        fixed = torch.where(held, torch.full_like(right, 0.02), torch.zeros_like(right))
        matrix = normal * free[:, :, None] * free[:, None, :]
        diagonal = normal.diagonal(dim1=1, dim2=2)
        matrix = matrix + torch.diag_embed(torch.where(held, 1.0, 1e-9 * diagonal + 1e-30))
        vector = (right - (normal @ fixed[..., None])[..., 0]) * free
        solution = torch.linalg.solve_ex(matrix, vector[..., None])[0][..., 0]
        value = torch.where(held, fixed, torch.nan_to_num(solution))
        low = value < 0.02
        low[:, n:] = False
        if not bool((low & ~held).any()):
            break
        held = held | low
    value[:, :n] = value[:, :n].clamp_min(0.02)
    return value


def _wide(batch: SceneBatch, members: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Objects with a component whose light reaches too far for the compact renderer."""
    settings, layout = batch.settings.refine, batch.layout
    values = layout.values(theta, batch.base[members.cpu()].to(theta), 0)
    wide = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    for span in layout.spans:
        name = span.component.name
        if f"{name}.re" not in values:
            continue
        re, q = values[f"{name}.re"], values[f"{name}.q"]
        limit = settings.compact_re * min(batch.shapes[0]) * (q / 0.4).clamp_max(1.0)
        wide |= re > limit
    return wide


def _problems(
    batch: SceneBatch, members: torch.Tensor, theta: torch.Tensor
) -> list[tuple[torch.Tensor, SceneProblem]]:
    """(places in `members`, problem) for those that the compact renderer serves, and the others."""
    wide = _wide(batch, members, theta)
    out = []
    for accuracy, where in (
        (batch.settings.refine.compact, ~wide),
        (batch.settings.refine.wide, wide),
    ):
        places = where.nonzero()[:, 0]
        if len(places):
            out.append((places, batch.problem(accuracy, members[places])))
    return out


def _fit_from(
    batch: SceneBatch,
    members: torch.Tensor,
    theta: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
) -> LMResult:
    """Fit every start; objects that turn out to be large go on with the wide renderer."""
    layout, settings = batch.layout, batch.settings.refine
    max_step = layout.max_step.to(theta.device)
    result = LMResult.empty(theta, layout.size)
    wide = _wide(batch, members, theta)
    for accuracy, serve_wide in ((settings.compact, False), (settings.wide, True)):
        some = (wide if serve_wide else ~wide).nonzero()[:, 0]
        if len(some) == 0:
            continue
        needed, slot = torch.unique(members[some], return_inverse=True)
        problem = batch.problem(accuracy, needed)
        out = minimise(
            problem.evaluator(slot),
            result.theta[some],
            lower[some],
            upper[some],
            max_step,
            settings.final,
        )
        result.put(some, out)
        if not serve_wide:
            wide = wide.clone()
            wide[some] = _wide(batch, members[some], out.theta)
    return result


def _best_of(fits: LMResult, owner: torch.Tensor, n: int) -> torch.Tensor:
    """For each object, the index of its fit with the smallest chi2."""
    chi2 = torch.nan_to_num(fits.state.chi2, nan=torch.inf)
    best = torch.zeros(n, dtype=torch.int64, device=owner.device)
    for k in range(n):
        mine = (owner == k).nonzero()[:, 0]
        best[k] = mine[chi2[mine].argmin()]
    return best


def _raise_floor(batch: SceneBatch, members: torch.Tensor, theta: torch.Tensor) -> None:
    """sigma with the model's own error in it, from the model as it is now."""
    floor, layout = batch.settings.error_floor, batch.layout
    for i in range(layout.n_images):
        root = batch.root(i).clone()
        for places, problem in _problems(batch, members, theta):
            for first in range(0, len(places), problem.chunk):
                index = torch.arange(first, min(first + problem.chunk, len(places)))
                at = places[index]
                light = sum(problem.component_images(index, theta[at], i))
                given = batch.given_root(i)[members[at]]
                variance = torch.where(given > 0, given, 1.0) ** -2 + (floor * light) ** 2
                root[members[at]] = torch.where(given > 0, variance.rsqrt(), 0.0)
        batch.replace_weights(i, root)
