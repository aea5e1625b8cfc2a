"""Kinds of survey: what is found in a cell, and what is measured of the objects of a tile.

A kind takes the objects that a tile owns, cell by cell, and returns one row for each, with at least
the columns ``id``, ``status`` and ``flags``. A new one is a `TileKind` in a module of its own and
one more entry here. Fits are made tile by tile; catalogues of stars and galaxies (whose sources are
inferred together) and changes come from the cells, and tiles list them.
"""

from __future__ import annotations

from importlib import import_module

from autofit_ml.survey.tile_kind import TileKind

__all__ = ["kind_of"]

_PLACES = {
    "fit": ("fits", "FIT"),
    "detect": ("fits", "DETECT"),
    "catalog": ("catalogues", "CATALOG"),
    "diff": ("changes", "DIFF"),
}


def kind_of(name: str) -> TileKind:
    """The kind of survey with a name; only what it needs is loaded."""
    module, attribute = _PLACES[name]
    kind: TileKind = getattr(import_module(f"autofit_ml.survey.{module}"), attribute)
    return kind
