"""Model of a run: the scene of its settings, its bands, and the columns that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autofit_ml.catalogue import (
    BandParameter,
    Column,
    ComponentColumns,
    ModelColumns,
    ShapeColumn,
    columns_for,
)
from autofit_ml.catalogue.schema import SAMPLED
from autofit_ml.errors import SettingsError

if TYPE_CHECKING:
    from autofit_ml.galfit import GalfitFile
    from autofit_ml.population import Population
    from autofit_ml.scenes import Component, Scene
    from autofit_ml.settings import FitSettings

__all__ = [
    "RunModel",
    "checked_likelihood",
    "galfit_file",
    "model_identity",
    "population_of",
    "run_model",
    "scene_of",
]


@dataclass(frozen=True)
class RunModel:
    """Scene, bands and columns that are fitted to every object of a run.

    Attributes
    ----------
    scene : Scene
    bands : tuple of str
        The reference first; ("",) for images of one band.
    wavelengths : tuple of float or None
        Of the bands.
    auto : bool
        The scene is the largest of those that an object may get.
    layout : ModelColumns
    """

    scene: Scene
    bands: tuple[str, ...]
    wavelengths: tuple[float, ...] | None
    auto: bool
    layout: ModelColumns

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the catalogue."""
        return columns_for(self.layout)


def run_model(settings: FitSettings, bands: Sequence[str] = ()) -> RunModel:
    """The model of a run, checked.

    Parameters
    ----------
    settings : FitSettings
    bands : sequence of str
        Of its objects, the reference first; empty for one band.

    Raises
    ------
    SettingsError
        The model cannot be read or makes no sense; more freedom over the bands than there are
        bands; bands whose columns would clash.
    """
    from autofit_ml.scenes.layout import make_layout

    scene = scene_of(settings)
    names = tuple(bands) or ("",)
    given = dict(settings.wavelengths)
    if settings.galfit is not None and not given:
        of_file = galfit_file(settings).bands
        given = {band.label: band.wavelength for band in of_file if band.wavelength is not None}
    wavelengths = None
    if all(name in given for name in names):
        wavelengths = tuple(given[name] for name in names)
    layout = make_layout(scene, names, wavelengths)
    varied = []
    if len(names) > 1:
        varied = [
            BandParameter(k, parameter)
            for k, span in enumerate(layout.spans)
            for parameter in span.component.profile.parameters
            if len(layout.images_of(span, parameter)) > 1
        ]
    columns = ModelColumns(
        tuple(_component_columns(component) for component in scene.components),
        names if len(names) > 1 else (),
        tuple(varied),
        scene.sky == "tilted",
        settings.model == "auto",
        _measured(settings),
    )
    return RunModel(scene, names, wavelengths, settings.model == "auto", columns)


def _measured(settings: FitSettings) -> tuple[Column, ...]:
    """Columns of what is measured besides the fit."""
    sampled = () if settings.posterior == "laplace" else SAMPLED
    if "morphology" not in settings.measure:
        return sampled
    from autofit_ml.runs.morphology import COLUMNS

    return (*sampled, *COLUMNS)


def scene_of(settings: FitSettings) -> Scene:
    """The scene that the settings name.

    Raises
    ------
    SettingsError
        It cannot be read, or makes no sense.
    """
    from autofit_ml.scenes import Scene, parse_model, with_sky

    if settings.galfit is not None:
        scene = galfit_file(settings).scene
    elif isinstance(settings.model, Scene):
        scene = settings.model.check()
    elif settings.model == "auto":
        scene = parse_model("sersic+exp")
    else:
        scene = parse_model(settings.model)
    return scene if settings.sky is None else with_sky(scene, settings.sky_value)


def galfit_file(settings: FitSettings) -> GalfitFile:
    """Read the GALFIT file of the settings."""
    from autofit_ml.galfit import read_galfit

    if settings.galfit is None:
        raise ValueError("no GALFIT file is given")
    return read_galfit(settings.galfit)


def population_of(settings: FitSettings) -> Population | None:
    """The population that is the prior; None where another prior is.

    Raises
    ------
    SettingsError
        The file cannot be read, or is not of galaxies.
    """
    kind, _, file = settings.prior.partition(":")
    if kind != "population":
        return None
    from autofit_ml.population import read_population

    population = read_population(file)
    if population.type != "galaxy":
        raise SettingsError(
            f"a population of type {population.type}", "give one of galaxies as a prior", file
        )
    return population


def checked_likelihood(settings: FitSettings) -> str:
    """The likelihood's one text.

    Raises
    ------
    SettingsError
        There is no such likelihood.
    """
    if settings.likelihood == "gaussian":  # needs no torch
        return settings.likelihood
    from autofit_ml.fitting import Likelihood

    return str(Likelihood.parse(settings.likelihood))


def model_identity(settings: FitSettings) -> dict[str, str]:
    """Record of a run's model: text, and a hash of what a file or object says."""
    out = {}
    if (population := population_of(settings)) is not None:
        content = Path(settings.prior.partition(":")[2]).read_bytes()
        out["prior"] = _hashed(f"population:{population.name}", content)
    if settings.galfit is None and settings.default_model:
        return out | {"model": "sersic", "galfit": "", "sky": str(settings.sky or "free")}
    from autofit_ml.scenes import Scene, write_model

    scene = scene_of(settings)
    out |= {"model": str(settings.model), "galfit": "", "sky": str(settings.sky or scene.sky)}
    if settings.galfit is not None:
        path, file = Path(settings.galfit), galfit_file(settings)
        constraints = file.locate(file.constraints)
        files = [path, *([constraints] if constraints and constraints.is_file() else [])]
        out["model"] = scene.name
        out["galfit"] = _hashed(path.name, *(f.read_bytes() for f in files))
    elif isinstance(settings.model, Scene):
        out["model"] = _hashed(scene.name, write_model(scene).encode())
    elif _is_file(settings.model):
        path = Path(settings.model)
        out["model"] = _hashed(path.name, path.read_bytes())
    return out


def _hashed(label: str, *contents: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(contents)).hexdigest()
    return f"{label} sha256:{digest[:16]}"


def _is_file(model: str | Path) -> bool:
    return str(model).strip().lower().endswith((".yaml", ".yml"))


def _component_columns(component: Component) -> ComponentColumns:
    shapes = []
    for shape in component.profile.shapes:
        if shape.name == "n":
            continue
        # Natural radii have the profile's own unit of length, which no table knows.
        text = shape.description + (" (natural radii)" if shape.unit == "R" else "")
        shapes.append(ShapeColumn(shape.name, "" if shape.unit == "R" else shape.unit, text))
    return ComponentColumns(component.name, component.profile.name, tuple(shapes))
