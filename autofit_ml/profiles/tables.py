"""Choice of the table that serves a profile.

Without shape parameter: one transform, made once. With one: a Chebyshev series in it, made once
(`autofit_ml.profiles.hankel`). With several: transforms made for each object
(`autofit_ml.profiles.live`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from autofit_ml.profiles.fftlog import LogGrid, smooth_grid, truncated_grid
from autofit_ml.profiles.hankel import HankelTable, Table, chebyshev_nodes, chebyshev_series
from autofit_ml.profiles.live import LiveTable, cubic_coefficients
from autofit_ml.profiles.polar import polar_table
from autofit_ml.profiles.profile import Profile

__all__ = ["half_light_radius", "live_table", "log_grid", "profile_radii", "profile_table"]

_BEYOND = 0.02
"""A table reaches beyond the bounds by this share of them, so that none is evaluated at its end."""


@lru_cache(maxsize=256)
def profile_table(profile: Profile) -> Table:
    """The table of an elliptical profile; made on first use."""
    if profile.make_table is not None:
        return profile.make_table()
    live = live_table(profile)
    if live.n_shapes > 1:
        return live
    low = high = 0.0
    shapes = np.zeros((1, 0))
    if live.n_shapes:
        low, high = profile.shapes[0].fit_bounds
        low, high = low - _BEYOND * (high - low), high + _BEYOND * (high - low)
        shapes = chebyshev_nodes(low, high)[:, None]
    value, slope = live.node_values(torch.as_tensor(shapes, dtype=torch.float64))
    cubic = cubic_coefficients(value[:, 0], slope[:, 0] * live.log_kappa_step).numpy()
    series = chebyshev_series(cubic)
    return HankelTable(live.log_kappa_min, live.log_kappa_step, (low, high), series)


@lru_cache(maxsize=256)
def live_table(profile: Profile) -> LiveTable:
    """The same as a live table, whatever the number of shape parameters."""
    assert profile.light is not None
    log = tuple(shape.log for shape in profile.shapes)
    return LiveTable(profile.light, log, log_grid(profile))


def log_grid(profile: Profile) -> LogGrid:
    """Grid on which the profile is sampled."""
    return truncated_grid() if profile.truncated else smooth_grid()


def half_light_radius(profile: Profile, shapes: Sequence[Any]) -> np.ndarray:
    """Half-light radius in the profile's natural unit of length.

    Parameters
    ----------
    profile : Profile
        Modifiers do not matter.
    shapes : sequence of array_like
        The profile's own shape parameters, catalogue units.
    """
    own = profile.own_shapes
    columns = np.broadcast_arrays(*(np.asarray(shape, dtype=np.float64) for shape in shapes))
    size = columns[0].shape if columns else ()
    fit = [np.log(c) if shape.log else c for c, shape in zip(columns, own, strict=True)]
    values = np.stack([c.ravel() for c in fit], axis=1) if fit else np.zeros((1, 0))
    if profile.kind == "pixel" and not profile.modifiers:
        half, _ = polar_table(profile).half_light(torch.as_tensor(values))
    else:
        plain = replace(profile, kind="elliptical", shapes=own, modifiers=())
        half = live_table(plain).half_light(torch.as_tensor(values))
    return half.log_radius.exp().numpy().reshape(size)


def profile_radii(profile: Profile, shapes: Sequence[Any] = ()) -> dict[str, np.ndarray]:
    """Other radii of a profile, in units of its half-light radius.

    Parameters
    ----------
    profile : Profile
    shapes : sequence of array_like
        The profile's own shape parameters (without modifiers), catalogue units, of one shape.

    Returns
    -------
    dict
        "fwhm", "scale_length", "core", "break", "truncation": those that the profile has.
        Along the minor axis ("scale_height") in units of re q.
    """
    if profile.natural_radii is None:
        return {}
    half = half_light_radius(profile, shapes)
    natural = profile.natural_radii(*(np.asarray(shape, dtype=np.float64) for shape in shapes))
    return {name: np.asarray(radius / half) for name, radius in natural.items()}
