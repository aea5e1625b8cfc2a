"""Plan of a survey: its images, the tiles they touch, and tables of both that can be edited.

``images.ecsv`` is a manifest (one row an image and band) with the columns ``use``, ``priority`` and
the image's place; ``tiles.ecsv`` has one row a tile, with ``use``. A folder with both is a plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from autofit_ml.catalogue.atomic import atomic_file, atomic_write_ecsv
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Source
from autofit_ml.images.fitsfile import READ_FAILURES
from autofit_ml.images.manifest import MANIFEST_COLUMNS
from autofit_ml.images.roles import is_fits_name
from autofit_ml.runs.sources import inputs_of
from autofit_ml.settings import Paths
from autofit_ml.survey.images import Cell, Footprint, cells_of, covering, footprint, tiles_near
from autofit_ml.survey.sky import Tiling, tiling

__all__ = [
    "IMAGES",
    "TILES",
    "Plan",
    "PlannedImage",
    "TileJob",
    "make_plan",
    "read_table",
    "write_plan",
]

IMAGES, TILES = "images.ecsv", "tiles.ecsv"
_MOST_ROWS = 50_000
"""Tables of more rows are Parquet: ECSV is text, and takes a second for some thousand rows."""

_BEYOND = 8
"""Pixels beyond an image's border where an object may be said to lie."""

_TABLES = (".csv", ".ecsv", ".parquet")


@dataclass(frozen=True)
class PlannedImage:
    """An image, its cells and the tiles near each of them.

    Attributes
    ----------
    source : Source
    shape : tuple of int
        (ny, nx).
    ra, dec : float
        Of the middle, degrees.
    corners : tuple of float
        ra, dec of the corners in turn, degrees.
    pixel_scale : float
        Arcsec.
    band : str
    priority : float
    over : ndarray
        Tiles that its objects may lie in.
    near : tuple of ndarray
        For each cell the tiles within the halo of it.
    references : tuple of Source
        Images that are subtracted from it.
    """

    source: Source
    shape: tuple[int, int]
    ra: float
    dec: float
    corners: tuple[float, ...]
    pixel_scale: float
    band: str
    priority: float
    over: np.ndarray
    near: tuple[np.ndarray, ...]
    references: tuple[Source, ...] = ()

    @property
    def joined(self) -> Source:
        """The source, with its references as further bands."""
        if not self.references:
            return self.source
        others = tuple(replace(one, band=f"reference {one.id}") for one in self.references)
        return replace(self.source, others=others)


@dataclass(frozen=True)
class TileJob:
    """A tile, and the cells that hold or may hold its objects."""

    tile: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """Images, and the tiles to be done.

    Attributes
    ----------
    tiling : Tiling
    core : int
        Of cells, pixels.
    halo : float
        Degrees around a tile in which duplicates are looked for.
    images : tuple of PlannedImage
    tiles : ndarray of int64
        Sorted.
    problems : dict
        Image -> why it has no part in the survey.
    bands : tuple of str
        Fitted together.
    """

    tiling: Tiling
    core: int
    halo: float
    images: tuple[PlannedImage, ...]
    tiles: np.ndarray
    problems: Mapping[str, str] = field(default_factory=dict)
    bands: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """Sources of the images, with their references."""
        return tuple(image.joined for image in self.images)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return sum(len(image.near) for image in self.images)

    @property
    def pixels(self) -> float:
        """Number of pixels of the images."""
        return float(sum(math.prod(image.shape) for image in self.images))

    def jobs(self, tiles: Sequence[int] | np.ndarray | None = None) -> Iterator[TileJob]:
        """The jobs of some tiles, or all, in their order."""
        number = np.concatenate(
            [np.full(len(near), i) for i, one in enumerate(self.images) for near in one.near]
            or [np.zeros(0, int)]
        )
        cell = np.concatenate(
            [np.full(len(near), k) for one in self.images for k, near in enumerate(one.near)]
            or [np.zeros(0, int)]
        )
        tile = np.concatenate(
            [near for one in self.images for near in one.near] or [np.zeros(0, int)]
        )
        order = np.argsort(tile, kind="stable")
        number, cell, tile = number[order], cell[order], tile[order]
        known: dict[int, list[Cell]] = {}
        for one in self.tiles if tiles is None else tiles:
            a, b = np.searchsorted(tile, [one, one + 1])
            parts = []
            for i, k in zip(number[a:b], cell[a:b], strict=True):
                if i not in known:
                    known[int(i)] = list(self.cells_of(self.images[i]))
                    if len(known) > 1000:
                        known.pop(next(iter(known)))
                parts.append(known[int(i)][k])
            yield TileJob(int(one), tuple(parts))

    def cells_of(self, image: PlannedImage) -> Iterator[Cell]:
        """The cells of an image."""
        return cells_of(image.joined, image.shape, self.core, image.priority, image.band)


def make_plan(
    paths: Paths,
    *,
    tiles: str | Path | None = None,
    tiling_text: str | None = None,
    core: int | None = None,
    halo: float | None = None,
    survey: str | None = None,
    bands: Sequence[str] = (),
    reference: str | Path | None = None,
) -> Plan:
    """Plan a survey.

    Parameters
    ----------
    paths : path or iterable of paths
        Images, folders of them, globs; one table of images (a manifest, or ``images.ecsv`` of a
        plan); or a plan's folder.
    tiles : path, optional
        Table whose column ``tile`` names the tiles to be done; rows with ``use`` false are not.
    tiling_text : str, optional
        See `autofit_ml.survey.sky.tiling`; by default that of the plan, else ``healpix:8``.
    core : int, optional
        Longest side of a cell, pixels; by default the plan's, else 4096.
    halo : float, optional
        Around a tile, arcsec; by default the plan's, else 120.
    survey : str, optional
    bands : sequence of str
        See `autofit_ml.images.discover`.
    reference : path, optional
        Image, or folder of images, that are subtracted from those they cover.

    Raises
    ------
    SettingsError
        No images, or none with a place on the sky; tiles of another tiling.
    """
    paths, manifest, tiles = _given(paths, tiles)
    kept = {} if manifest is None else _read(manifest).meta
    sky = tiling(str(tiling_text or kept.get("tiling", "healpix:8")))
    core, halo = int(core or kept.get("cell", 4096)), float(halo or kept.get("halo", 120.0))
    found = inputs_of(paths, manifest, survey=survey, mode="frame", bands=bands)
    known: list[tuple[Footprint, Source]] | None = None
    if reference is not None:
        given = inputs_of([reference], None, survey=survey, mode="frame").sources
        known = [(footprint(source), source) for source in given]
    wishes = {} if manifest is None else _wishes(manifest)
    images: list[PlannedImage] = []
    problems: dict[str, str] = {}
    for source in found.sources:
        use, priority = wishes.get(source.id, (True, 0.0))
        if not use:
            continue
        try:
            images.append(_planned(source, sky, core, halo / 3600.0, priority, known))
        except InputError as error:
            problems[source.id] = str(error)
    if not images:
        why = next(iter(problems.values()), "all of them are left out")
        raise SettingsError(f"no image can be placed on the sky: {why}", "see autofit-ml doctor")
    every = np.unique(np.concatenate([image.over for image in images]))
    if tiles is not None:
        every = _chosen_tiles(Path(tiles), sky, every)
    return Plan(sky, core, halo / 3600.0, tuple(images), every, problems, found.bands)


def _planned(
    source: Source,
    sky: Tiling,
    core: int,
    reach: float,
    priority: float,
    known: Sequence[tuple[Footprint, Source]] | None,
) -> PlannedImage:
    place = footprint(source)
    references = () if known is None else covering(place, known)
    if known is not None and not references:
        raise InputError("no reference covers it", "leave it out, or give more", source.file)
    ny, nx = place.shape
    over = tiles_near(place, (0, nx, 0, ny), sky, _BEYOND * place.pixel_scale / 3600.0)
    near = tuple(
        tiles_near(place, cell.core, sky, reach) for cell in cells_of(source, place.shape, core)
    )
    ra, dec = place.centre
    corners = tuple(float(value) for pair in zip(*place.corners, strict=True) for value in pair)
    return PlannedImage(
        source, place.shape, ra, dec, corners, place.pixel_scale, place.band, priority, over, near,
        references,
    )  # fmt: skip


def _given(paths: Paths, tiles: str | Path | None) -> tuple[Paths, Path | None, str | Path | None]:
    """Images, or a table of them; the table of tiles."""
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths or ())
    if len(listed) != 1:
        return listed, None, tiles
    path = Path(listed[0])
    if path.suffix.lower() in _TABLES and not is_fits_name(path):
        return None, path, tiles
    for suffix in (".ecsv", ".parquet"):
        table = (path / IMAGES).with_suffix(suffix)
        if table.is_file():
            others = (path / TILES).with_suffix(suffix)
            return None, table, tiles or (others if others.is_file() else None)
    return listed, None, tiles


def _wishes(path: Path) -> dict[str, tuple[bool, float]]:
    """Id -> whether an image is used, and its priority, where a manifest says so."""
    table = _read(path)
    if "id" not in table.colnames or not {"use", "priority"} & set(table.colnames):
        return {}
    out: dict[str, tuple[bool, float]] = {}
    for row in table:
        use = str(row["use"]).strip().lower() if "use" in table.colnames else "true"
        priority = row["priority"] if "priority" in table.colnames else 0.0
        try:
            wish = use in ("true", "t", "1", "yes", "--", ""), float(priority)
        except (TypeError, ValueError):
            wish = True, math.nan
        if not math.isfinite(wish[1]):
            raise SettingsError(
                f"the priority of {row['id']} is {priority!r}", "give a number", path
            )
        out.setdefault(str(row["id"]), wish)
    return out


def read_table(folder: Path, name: str) -> Table:
    """A table of a plan, whichever form it has.

    Raises
    ------
    SettingsError
        It cannot be read.
    """
    large = (folder / name).with_suffix(".parquet")
    return _read(large if large.is_file() else folder / name)


def _read(path: Path) -> Table:
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet

            arrow = pyarrow.parquet.read_table(path)
            about = {
                key.decode(): text.decode() for key, text in (arrow.schema.metadata or {}).items()
            }
            columns = {name: arrow[name].to_pylist() for name in arrow.column_names}
            return Table(columns, meta=about)
        kind = "ascii.ecsv" if path.suffix.lower() == ".ecsv" else "ascii.csv"
        return Table.read(path, format=kind)
    except READ_FAILURES as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"the table cannot be read: {reason}", "check it", path) from error


def _chosen_tiles(path: Path, sky: Tiling, every: np.ndarray) -> np.ndarray:
    """The tiles that a table names."""
    table = _read(path)
    if "tile" not in table.colnames:
        raise SettingsError("the table of tiles has no column 'tile'", "see survey plan", path)
    known = {sky.name(int(one)): int(one) for one in every}
    chosen = []
    for row in table:
        if "use" in table.colnames and str(row["use"]).strip().lower() in ("false", "f", "0", "no"):
            continue
        if str(row["tile"]) not in known:
            raise SettingsError(
                f"the tile {row['tile']} is none of this survey's ({sky.text})",
                "make the plan anew, or give its --tiling",
                path,
            )
        chosen.append(known[str(row["tile"])])
    if not chosen:
        raise SettingsError("no tile is left", "leave 'use' true for some", path)
    return np.unique(np.array(chosen, dtype=np.int64))


# --- tables -----------------------------------------------------------------------------------


def write_plan(plan: Plan, folder: str | Path, more: Mapping[str, Any] | None = None) -> None:
    """Write ``images.ecsv`` and ``tiles.ecsv`` (Parquet where they are large).

    Parameters
    ----------
    plan : Plan
    folder : path
        Made if absent.
    more : dict, optional
        Entries of the tables' metadata.
    """
    folder = Path(folder)
    about = {"tiling": plan.tiling.text, "cell": plan.core, "halo": plan.halo * 3600.0}
    for name, table in ((IMAGES, image_table(plan)), (TILES, tile_table(plan))):
        table.meta.update(about | dict(more or {}))
        if len(table) <= _MOST_ROWS:
            atomic_write_ecsv(folder / name, table)
            continue
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {column: table[column].tolist() for column in table.colnames}
        with atomic_file((folder / name).with_suffix(".parquet")) as file:
            about_it = {key: str(value) for key, value in table.meta.items()}
            pq.write_table(pa.table(columns, metadata=about_it), file, compression="zstd")


def image_table(plan: Plan) -> Table:
    """The images as a manifest, one row for each band."""
    rows: list[dict[str, Any]] = []
    for image in plan.images:
        for one in filter(None, (image.source, *image.source.others)):
            planes = {
                role: str(path.resolve()) + ("" if key is None else f"[{key}]")
                for role, (path, key) in one.planes.items()
                if role in MANIFEST_COLUMNS
            }
            values = {k: v for k, v in one.overrides.items() if k in MANIFEST_COLUMNS}
            rows.append(
                {
                    "id": image.source.id,
                    "use": True,
                    "priority": image.priority,
                    "band": one.band or image.band,
                    **planes,
                    **values,
                    "nx": image.shape[1],
                    "ny": image.shape[0],
                    "ra_centre": image.ra,
                    "dec_centre": image.dec,
                    "scale": image.pixel_scale,
                    "corners": " ".join(f"{value:.6f}" for value in image.corners),
                    "cells": len(image.near),
                    **({"references": used} if (used := _names(image.references)) else {}),
                }
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name, "") for row in rows] for name in names})


def _names(sources: Sequence[Source]) -> str:
    return " ".join(source.id for source in sources)


def tile_table(plan: Plan) -> Table:
    """The tiles, with the number of images near each."""
    near = [np.unique(np.concatenate(image.near)) for image in plan.images]
    places, counts = np.unique(np.concatenate(near), return_counts=True)
    centres = [plan.tiling.centre(int(one)) for one in plan.tiles]
    table = Table()
    table["tile"] = [plan.tiling.name(int(one)) for one in plan.tiles]
    table["use"] = np.ones(len(plan.tiles), dtype=bool)
    table["ra"] = [ra for ra, _ in centres]
    table["dec"] = [dec for _, dec in centres]
    table["area"] = [plan.tiling.area(int(one)) for one in plan.tiles]
    table["images"] = counts[np.searchsorted(places, plan.tiles)]
    for name, unit in (("ra", "deg"), ("dec", "deg"), ("area", "deg2")):
        table[name].unit = unit
    return table
