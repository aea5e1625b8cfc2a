"""A scene from the text of a user: a model string, or the name of a YAML file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.registry import get_profile, profile_names
from autofit_ml.scenes.build import _sky, with_sky
from autofit_ml.scenes.files import read_model
from autofit_ml.scenes.model import Component, Parameter, Scene, named
from autofit_ml.scenes.naming import base_name, free_name
from autofit_ml.scenes.parameters import Bounds

__all__ = ["parse_model"]


def parse_model(
    model: str | Path, sky: str | float | Mapping | None = None, **bounds: Any
) -> Scene:
    """The scene of a model string, or of a YAML file.

    Parameters
    ----------
    model : str or path
        ``sersic``, ``sersic+exp``, ``psf+sersic``: profiles (or aliases) joined by ``+``, with
        modifiers in brackets, ``sersic[boxiness,f3]``. All components share one centre: x and y of
        the later ones are tied to the first's. ``sky`` and ``tilted_sky`` among them set the sky.
        A text that ends in .yaml or .yml is a file (`autofit_ml.scenes.read_model`).
    sky : "free", "fixed", "tilted", float or mapping, optional
        Overrules the model's.
    **bounds
        Fields of `autofit_ml.scenes.Bounds`.

    Raises
    ------
    SettingsError
    """
    text = str(model).strip()
    if text.lower().endswith((".yaml", ".yml")):
        read = read_model(Path(text))
        if bounds:
            read = dataclasses.replace(read, bounds=dataclasses.replace(read.bounds, **bounds))
        return read if sky is None else with_sky(read, sky)
    made: list[Component] = []
    own_sky: str | None = None
    for part in text.split("+"):
        if not re.fullmatch(r"\s*[\w-]+\s*(\[[^\]]*\]\s*)?", part):
            raise SettingsError(
                f"the model {text!r} cannot be read",
                "join profiles with +, e.g. sersic+exp, or name a .yaml file; profiles: "
                + ", ".join(profile_names()),
            )
        with named(f"model {text!r}"):
            profile = get_profile("".join(part.split()))
        if profile.kind == "background":
            if own_sky is not None:
                raise SettingsError(f"model {text!r} has two skies", "keep one")
            own_sky = "tilted" if profile.name == "tilted_sky" else "free"
            continue
        parameters = {}
        if made:
            first = made[0].name
            parameters = {axis: Parameter(tie=f"{first}.{axis}") for axis in ("x", "y")}
        name = free_name(base_name(profile), [other.name for other in made])
        made.append(Component(name, profile, parameters))
    with named(f"model {text!r}"):
        return Scene(
            tuple(made), bounds=Bounds(**bounds), **_sky(own_sky or "free" if sky is None else sky)
        ).check()
