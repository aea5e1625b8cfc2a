"""Fit scenes: bucket the objects, search from several starts, fit, describe.

The work is done coarse to fine. All starts are taken towards their minima on binned images; the
best goes on with an accurate renderer, on these and then on finer pixels; and the fit on all pixels
begins so near its minimum that one or two evaluations end it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.fitting.batch import Member, SceneBatch, bucket_key, search_blocks
from autofit_ml.fitting.companions import with_companions
from autofit_ml.fitting.describe import describe, failed
from autofit_ml.fitting.first_guess import starts_of, with_neighbours
from autofit_ml.fitting.levenberg_marquardt import LMResult
from autofit_ml.fitting.linear_fluxes import with_best_fluxes
from autofit_ml.fitting.minima import Minima
from autofit_ml.fitting.neighbours import Neighbour, significant
from autofit_ml.fitting.objects import SceneObject, object_of
from autofit_ml.fitting.parallel import object_threads
from autofit_ml.fitting.passes import best_of, fit_from, problems_of, raise_floor
from autofit_ml.fitting.point_source import compare_with_points
from autofit_ml.fitting.results import Fits, SceneFit
from autofit_ml.fitting.search import search, search_brightest
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.starts import Starts
from autofit_ml.scenes import Scene, sersic
from autofit_ml.scenes.layout import make_layout
from autofit_ml.segmentation.result import Segmentation

__all__ = ["refine"]

_SMALLEST_TASK = 8
_FLOOR_ROUNDS = 2
_RIVALS, _CLOSE_RIVALS = 25.0, 4.0
"""Excess of chi2 over the best start's up to which a start goes on, after the coarse search and
after the fit on binned pixels."""


def refine(
    objects: Sequence[Stamp] | Sequence[SceneObject],
    scene: Scene | None = None,
    starts: Starts | None = None,
    segmentations: Sequence[Segmentation] | None = None,
    settings: RefineSettings | None = None,
    *,
    bands: Sequence[str] = ("",),
    wavelengths: Sequence[float] | None = None,
    components: bool = False,
) -> Fits:
    """Fit a scene to each object, simultaneously in all of its images.

    Contaminants that overlap with a target are fitted along (``settings.neighbours``). Where a PSF
    knows how uncertain it is (`PSF.modes`), its parameters are fitted too.

    Parameters
    ----------
    objects : sequence of Stamp, or of SceneObject
        Stamps of any mixture of shapes; objects with several images come from `join_images`, all
        with as many, in the order of `bands`.
    scene : Scene, optional
        What to fit; one Sérsic profile with a free sky by default.
    starts : Starts, optional
        One Sérsic start for each object, in its first image; those of `autofit_ml.initialise` by
        default.
    segmentations : sequence of Segmentation, optional
        Of stamps; those of `autofit_ml.segment` by default.
    settings : RefineSettings, optional
    bands : sequence of str
        Band of each image of an object.
    wavelengths : sequence of float, optional
        Of each image, for parameters that are polynomials in wavelength.
    components : bool
        Keep the images of the components.

    Returns
    -------
    Fits
        In order. An object that cannot be fitted (fewer good pixels than parameters) has NaN and
        the FAILED bit.

    Raises
    ------
    SettingsError
        Different numbers of objects, starts, segmentations and images.
    """
    settings, scene = settings or RefineSettings(), scene or sersic()
    whole, starts = _completed(objects, starts, segmentations)
    if len(whole) != len(starts) or any(len(one.stamps) != len(bands) for one in whole):
        raise SettingsError(
            f"{len(whole)} objects with {sorted({len(one.stamps) for one in whole})} images, "
            f"{len(starts)} starts, {len(bands)} bands",
            "give one start for each object, and one image for each band",
        )
    _check_sky(scene)
    members = [_member(k, one, starts, settings) for k, one in enumerate(whole)]

    def fit(some: Sequence[Member]) -> list[SceneFit]:
        results: dict[int, SceneFit] = {}
        left = list(some)
        while left:
            made = _fit_members(left, scene, settings, bands, wavelengths, components)
            results |= {member.number: fit for member, fit in zip(left, made, strict=True)}
            left = _without_insignificant(left, made) if settings.drop_neighbours else []
        return [results[member.number] for member in some]

    fits = fit(members)
    if settings.neighbours == "fit" and not scene.has_positions:
        fits = with_companions(members, fits, settings.companions, fit)
    return Fits(tuple(fits))


def _fit_members(
    members: Sequence[Member],
    scene: Scene,
    settings: RefineSettings,
    bands: Sequence[str],
    wavelengths: Sequence[float] | None,
    components: bool,
) -> list[SceneFit]:
    """Fits of objects, in order: in batches that share a layout, on several threads."""
    buckets: dict[tuple, list[Member]] = {}
    for member in members:
        buckets.setdefault(bucket_key(member), []).append(member)
    results: dict[int, SceneFit] = {}

    def task(some: list[Member]) -> list[SceneFit]:
        kinds = [item.profile for item in some[0].neighbours]
        changes = [0 if c is None else len(c) for c in some[0].psf_changes]
        layout = make_layout(
            with_neighbours(scene, kinds), bands, wavelengths, changes if any(changes) else ()
        )
        return _fit_batch(SceneBatch(some, layout, settings), scene, components)

    with object_threads(torch.device(settings.device)) as run:
        tasks = []
        for key in sorted(buckets):
            every = buckets[key]
            rounds = -(-len(every) // (run.threads * settings.batch_size))
            size = max(_SMALLEST_TASK, -(-len(every) // (run.threads * rounds)))
            tasks += [every[i : i + size] for i in range(0, len(every), size)]
        for some, fits in zip(tasks, run(task, tasks), strict=True):
            results |= {member.number: fit for member, fit in zip(some, fits, strict=True)}
    return [results[member.number] for member in members]


def _without_insignificant(members: Sequence[Member], fits: Sequence[SceneFit]) -> list[Member]:
    """Members that had neighbours without significant light, without these; their pixels stay."""
    out = []
    for member, fit in zip(members, fits, strict=True):
        if not member.neighbours or fit.flags & int(Flag.FAILED):
            continue
        kept = significant(member.neighbours, fit.names, fit.values, fit.errors)
        if len(kept) < len(member.neighbours):
            out.append(dataclasses.replace(member, neighbours=list(kept)))
    return out


def _completed(
    objects: Sequence[Stamp] | Sequence[SceneObject],
    starts: Starts | None,
    segmentations: Sequence[Segmentation] | None,
) -> tuple[list[SceneObject], Starts]:
    """Objects and starts; what was not given is segmented and measured."""
    several = list[Stamp | SceneObject](objects)
    stamps = [one.reference if isinstance(one, SceneObject) else one for one in several]
    given = [one.segmentation for one in several if isinstance(one, SceneObject)]
    if len(given) != len(stamps):
        if segmentations is None:
            from autofit_ml.segmentation import segment

            segmentations = segment(stamps)
        if len(segmentations) != len(stamps):
            raise SettingsError(
                f"{len(stamps)} stamps, {len(segmentations)} segmentations",
                "give one of each per object",
            )
        given = list(segmentations)
    if starts is None:
        from autofit_ml.initialisation import initialise

        starts = initialise(stamps, given)
    whole = [
        one if isinstance(one, SceneObject) else object_of(one, found)
        for one, found in zip(several, given, strict=True)
    ]
    return whole, starts


def _check_sky(scene: Scene) -> None:
    """Check the sky's options: bounds and a Gaussian prior of its level."""
    for name, parameter in scene.sky_parameters.items():
        gaussian = parameter.prior is None or parameter.prior.gaussian is not None
        held = parameter.fixed and name != "sky"
        if held or parameter.tie or not gaussian:
            raise SettingsError(
                f"{name} of the background can be free, bounded, or have a normal prior",
                "for a flat sky leave tilted out",
            )


def _member(k: int, one: SceneObject, starts: Starts, settings: RefineSettings) -> Member:
    if settings.neighbours not in ("fit", "mask"):
        raise SettingsError(f"neighbours is {settings.neighbours!r}", "use fit or mask")
    neighbours: list[Neighbour] = []
    masked = np.asarray(one.segmentation.contaminants, dtype=bool)
    if settings.neighbours == "fit":
        if one.neighbours is None:
            one = one.with_neighbours(settings.max_neighbours)
        # In one order of profiles: batches share a layout, and should be large.
        neighbours, masked = sorted(one.neighbours or (), key=lambda n: n.profile), one.masked
    cov = np.zeros((8, 8)) if starts.cov is None else starts.cov[k]
    changes = tuple((stamp or one.reference).psf.modes for stamp in one.stamps)
    start = np.array(starts.values[k], dtype=np.float64)
    return Member(k, one, start, cov, neighbours, masked, changes)


def _fit_batch(batch: SceneBatch, scene: Scene, components: bool) -> list[SceneFit]:
    """Fits of one bucket."""
    layout, settings = batch.layout, batch.settings
    lacking = _what_lacks(batch)
    rows = np.flatnonzero([not text for text in lacking])
    out = {k: failed(layout, scene, text) for k, text in enumerate(lacking) if text}
    if len(rows) == 0:
        return list(out.values())
    everyone = torch.as_tensor(rows, device=batch.device)
    theta, wanted, lower, upper = starts_of(batch, scene, rows)
    max_step = layout.max_step.to(batch.device)

    # 1. Search from all starts on binned images.
    blocks = search_blocks(batch.members[0])
    coarse = batch.problem(settings.coarse, everyone, blocks, theta)
    theta = with_best_fluxes(coarse, theta, lower, upper, wanted)
    searched = search_brightest if layout.alike else search
    found, chi2, n_iter = searched(coarse, theta, lower, upper, max_step, settings.search, wanted)
    n_starts = wanted.sum(1)
    started = found[:, 0]

    # 2. The fit on these and on ever finer blocks of pixels, from the best start and from rivals
    # that are nearly as good.
    owner, at = _rivals(found, chi2, _RIVALS)
    spent = n_iter
    while (block := max(blocks)) > 1:  # a step on coarse pixels costs little: as many as it takes
        most = settings.polish.max_iterations * max(1, block // 2) ** 2
        polish = dataclasses.replace(settings.polish, max_iterations=most)
        fits = fit_from(batch, everyone[owner], at, lower[owner], upper[owner], polish, blocks)
        spent = spent.index_add(0, owner, fits.n_iter)
        owner, at = _rivals_of(fits, owner, len(rows))
        blocks = tuple(max(1, block // 2) for block in blocks)

    # 3. The fit on all pixels.
    fits = fit_from(batch, everyone[owner], at, lower[owner], upper[owner], settings.final)
    spent = spent.index_add(0, owner, fits.n_iter)
    fit = fits.select(best_of(fits, owner, len(rows)))
    # Noise that depends on the model: the model's variance decides, not the data's.
    some = batch.follows_model[everyone].nonzero()[:, 0]
    for _ in range(_FLOOR_ROUNDS if len(some) else 0):
        raise_floor(batch, everyone[some], fit.theta[some])
        again = fit_from(
            batch, everyone[some], fit.theta[some], lower[some], upper[some], settings.final
        )
        fit.put(some, again)
        spent = spent.index_add(0, some, again.n_iter)
    minima = Minima(rows, fit, lower, upper, started, spent, n_starts)
    described = describe(
        batch, scene, minima, components, lambda members, at: problems_of(batch, members, at)
    )
    if scene.single_sersic and settings.point_source:
        described = compare_with_points(batch, scene, rows, described)
    out |= dict(zip(rows.tolist(), described, strict=True))
    return [out[k] for k in range(len(batch.members))]


def _what_lacks(batch: SceneBatch) -> list[str]:
    """Why each member cannot be fitted; "" where it can."""
    counts = batch.settings.likelihood.name == "poisson"
    out = []
    for member, pixels in zip(batch.members, batch.total("n_pix").tolist(), strict=True):
        gains = [stamp.gain for stamp in member.object.stamps if stamp is not None]
        if pixels <= batch.layout.size:
            out.append("too few usable pixels for a fit (check the mask and noise planes)")
        elif counts and not all(gain > 0 for gain in gains):
            out.append("likelihood poisson needs the gain: give --gain")
        else:
            out.append("")
    return out


def _rivals(
    found: torch.Tensor, chi2: torch.Tensor, excess: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Starts (B, K, D), best first, that go on: whose they are (N,), and where they are (N, D)."""
    keep = (chi2 < chi2[:, :1] + excess) & torch.isfinite(chi2)
    keep[:, 0] = True
    owner, which = keep.nonzero(as_tuple=True)
    return owner, found[owner, which]


def _rivals_of(fits: LMResult, owner: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fits that go on from binned to all pixels."""
    chi2 = torch.nan_to_num(fits.state.chi2, nan=torch.inf)
    least = torch.full((n,), torch.inf, dtype=chi2.dtype, device=chi2.device)
    least = least.scatter_reduce(0, owner, chi2, "amin")
    best = torch.zeros_like(owner, dtype=torch.bool)
    best[best_of(fits, owner, n)] = True
    keep = (best | (chi2 < least[owner] + _CLOSE_RIVALS)).nonzero()[:, 0]
    return owner[keep], fits.theta[keep]
