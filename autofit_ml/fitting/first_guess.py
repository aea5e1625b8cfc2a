"""Starts and bounds of a batch in fit space, from catalogue starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.geometry import target_box
from autofit_ml.fitting.known import given_values
from autofit_ml.fitting.starts import component_starts, neighbour_values
from autofit_ml.profiles import get_profile
from autofit_ml.scenes import Component, Scene

__all__ = ["bounds_of", "starts_of", "with_neighbours"]


def with_neighbours(scene: Scene, kinds: Sequence[str]) -> Scene:
    """The scene with free components ``neighbour_1`` ... of some profiles."""
    if not kinds:
        return scene
    added = tuple(
        Component(f"neighbour_{k}", get_profile(kind)) for k, kind in enumerate(kinds, start=1)
    )
    return dataclasses.replace(scene, components=(*scene.components, *added))


def starts_of(
    batch: SceneBatch, scene: Scene, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Starts (B, K, D), which of them to try (B, K), and bounds (B, D) of the usable rows.

    Sets the batch's base.
    """
    layout, settings, members = batch.layout, batch.settings, [batch.members[k] for k in rows]
    start = np.array([member.start for member in members])
    sigma = np.array([member.ln_n_sigma for member in members])
    names = [c.name for c in layout.scene.components[len(scene.components) :]]
    around = neighbour_values([member.neighbours for member in members], names)
    variants = []
    base = None
    images = range(layout.n_images if any(one.object.known for one in members) else 1)
    guesses = [component_starts(scene, start, sigma, given_values(members, i)) for i in images]
    for of_images in zip(*guesses, strict=True):
        every = [values | around for values in of_images]
        theta, base_of = layout.start(every if len(images) > 1 else every * layout.n_images)
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
    theta = torch.cat([theta, theta.new_zeros((b, k, layout.size - layout.n_shape))], 2)
    lower, upper = bounds_of(batch, scene, rows)
    theta = torch.maximum(torch.minimum(theta, upper[:, None]), lower[:, None])
    for number, row in enumerate(rows):  # nothing is known of what only a missing image would tell
        for i in batch.missing(int(row)):
            for j in layout.only_in(i):
                lower[number, j] = upper[number, j] = theta[number, 0, j]
    wanted = torch.ones(theta.shape[:2], dtype=torch.bool, device=theta.device)
    sure = (sigma > 0) & (sigma < settings.certain)
    for j in range(1, k):  # what is known in full leaves nothing to vary
        wanted[:, j] = (theta[:, j, None] != theta[:, :j]).any(-1).all(-1)
    if scene.single_sersic:
        wanted[:, 1:] &= torch.as_tensor(~sure, device=theta.device)[:, None]
    return theta, wanted, lower, upper


def bounds_of(
    batch: SceneBatch, scene: Scene, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of theta, (B, D) each, of some rows of a batch."""
    layout = batch.layout
    shapes = np.array([batch.members[k].object.reference.shape for k in rows])
    index = torch.as_tensor(rows, device=batch.device)
    low, high = layout.limits(shapes, batch.scale[index].cpu())
    rest = layout.size - layout.n_shape
    free = torch.full((len(rows), rest), math.inf, dtype=torch.float64)
    lower = torch.cat([low, -free], 1).to(batch.device)
    upper = torch.cat([high, free], 1).to(batch.device)
    _limit_skies(batch, scene, index, lower, upper)
    if not scene.has_positions:
        _limit_positions(batch, scene, rows, lower, upper)
    _limit_companions(batch, rows, lower, upper)
    return lower, upper


def _limit_positions(
    batch: SceneBatch, scene: Scene, rows: np.ndarray, lower: torch.Tensor, upper: torch.Tensor
) -> None:
    """Bounds of the target's position, in place: its footprint, or where it was expected.

    A fit must not walk to another object's light because its own is too faint.
    """
    own = {component.name for component in scene.components}
    boxes = [
        target_box(batch.members[row].object.reference, batch.members[row].object.segmentation)
        for row in rows
    ]
    limits = torch.as_tensor(np.array(boxes), device=lower.device)
    for j, item in enumerate(batch.layout.free):
        component, _, name = item.name.partition("[")[0].rpartition(".")
        if component in own and name in ("x", "y") and not item.order:
            axis = "xy".index(name)
            lower[:, j] = torch.maximum(lower[:, j], limits[:, axis, 0])
            upper[:, j] = torch.minimum(upper[:, j], limits[:, axis, 1])


def _limit_companions(
    batch: SceneBatch, rows: np.ndarray, lower: torch.Tensor, upper: torch.Tensor
) -> None:
    """Bounds of what was found in residuals, in place: compact, and where it was found."""
    places = {name: j for j, name in enumerate(batch.layout.names)}
    for k, row in enumerate(rows):
        member = batch.members[row]
        for number, item in enumerate(member.neighbours, start=1):
            if item.label >= 0:
                continue
            fwhm, name = member.fwhm[0], f"neighbour_{number}"
            for axis, at in zip("xy", item.start, strict=False):
                j = places[f"{name}.{axis}"]
                lower[k, j], upper[k, j] = at - fwhm, at + fwhm
            if item.profile == "sersic":
                j = places[f"{name}.ln_rc"]
                upper[k, j] = torch.minimum(upper[k, j], upper.new_tensor(math.log(3 * fwhm)))


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
