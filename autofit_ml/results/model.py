"""`model_image`: the image of any catalogue row or model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from astropy.table import Row, Table

from autofit_ml.catalogue import suffix
from autofit_ml.errors import SettingsError
from autofit_ml.images import PSF, centre_psf, no_psf
from autofit_ml.scenes import Scene

if TYPE_CHECKING:
    from autofit_ml.results.fit import Fit

__all__ = ["model_image"]

Drawable: TypeAlias = "Fit | Row | Table | Mapping[str, Any] | Scene"


def model_image(
    model: Drawable,
    shape: tuple[int, int],
    *,
    psf: PSF | np.ndarray | None = None,
    origin: tuple[int, int] = (0, 0),
    sky: bool = False,
) -> np.ndarray:
    """Draw a catalogue row, several rows, or a model whose parameters all have a value.

    Parameters
    ----------
    model : Fit, Row, Table, mapping or Scene
        Rows of a catalogue (a table: the sum of its rows; those without a fit add nothing), a
        mapping with their columns (``{"model": "sersic", "x": 20, ...}``), or a scene of
        `autofit_ml.parse_model`, `autofit_ml.sersic` ...
    shape : tuple of int
        (ny, nx) of the image.
    psf : PSF or ndarray, optional
        Centred; an array is normalised and contains the pixel. None: no PSF, light averaged over
        the pixels.
    origin : tuple of int, optional
        (x, y) of the image's first pixel in the pixels of the model: to draw a stamp's part of a
        frame.
    sky : bool, optional
        Add the sky level of the row (of the only one) or of the model.

    Returns
    -------
    ndarray, float64, (ny, nx)
        In the units of the fluxes.

    Raises
    ------
    SettingsError
        A parameter without a value, or a row without a model.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise SettingsError(f"the shape is {shape!r}", "give (ny, nx) in pixels")
    if isinstance(psf, np.ndarray):
        psf = centre_psf(psf, source="array")[0]
    out = np.zeros(shape)
    for one in _scenes(model, sky):
        out += _drawn(one, shape, psf or no_psf(), origin)
    return out


def _scenes(model: Drawable, sky: bool) -> Iterator[Scene]:
    """Scenes with a value for every parameter, one a row."""
    if isinstance(model, Scene):
        held = dict(model.sky_parameters["sky"].__dict__)["value"] if sky else None
        yield dataclasses.replace(model, sky=float(held or 0.0), sky_parameters={})
    elif isinstance(model, Table):
        for row in model:
            yield from _scenes(row, sky)
    else:
        names = set(model if isinstance(model, Mapping) else model.colnames)
        if "status" not in names or model["status"] == "ok":
            yield _scene_of_row(model, names, sky)


def _number(row: Any, name: str) -> float:
    value = row[name]
    return float(getattr(value, "value", value))


def _scene_of_row(row: Any, names: set[str], sky: bool) -> Scene:
    from autofit_ml.profiles import get_profile
    from autofit_ml.scenes import component, fixed, scene

    if "model" not in names:
        raise SettingsError(
            "the row has no column 'model'", "give a row of a catalogue, or add model='sersic'"
        )
    parts = []
    for k, word in enumerate(str(row["model"]).split("+")):
        profile = get_profile(word.strip())
        values: dict[str, Any] = {}
        for parameter in profile.parameters:
            column = f"{parameter}{suffix(k)}"
            value = _number(row, column) if column in names else np.nan
            if not np.isfinite(value):
                raise SettingsError(
                    f"{column} has no value, and the model {row['model']!r} needs it",
                    "give a row with a fit, or every parameter of the model",
                )
            values[parameter] = fixed(value)
        parts.append(component(word.strip(), **values))
    level = _number(row, "sky") if sky and "sky" in names else 0.0
    return scene(*parts, sky=level)


def _drawn(model: Scene, shape: tuple[int, int], psf: PSF, origin: tuple[int, int]) -> np.ndarray:
    import torch

    from autofit_ml.rendering import make_plan, psf_modes, render_component
    from autofit_ml.scenes.layout import make_layout

    values = {name: value.reshape(1).numpy() for name, value in model.start_values().items()}
    lacking = [
        name for name in model.parameters if name not in values and not name.startswith("sky.")
    ]
    if lacking:
        raise SettingsError(
            f"no value for {', '.join(lacking)}",
            "set them, e.g. sersic(x=fixed(30), y=fixed(30), flux=fixed(100), re=fixed(5), ...)",
        )
    for name in values:
        axis = name.rpartition(".")[2]
        if axis in ("x", "y"):
            values[name] = values[name] - origin["xy".index(axis)]
    layout = make_layout(model)
    theta, base = layout.start([values])
    full, _ = layout.parameters(theta, base, 0)
    kernel = torch.as_tensor(np.asarray(psf.data, np.float64))[None]
    plan = make_plan(shape, tuple(kernel.shape[1:]), psf.oversampling, dtype=torch.float64)
    modes = psf_modes(plan, kernel, torch.tensor([psf.has_pixel]), psf.oversampling)
    out = torch.zeros((1, *shape), dtype=torch.float64)
    for span in layout.spans:
        out += render_component(plan, span.component.profile, modes, full[:, span.slice])
    return out[0].numpy() + float(model.sky if isinstance(model.sky, float) else 0.0)
