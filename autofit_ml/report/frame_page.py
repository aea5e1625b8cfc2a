"""The page of a frame: a picture to move about in, with its sources, each one press away."""

import base64
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_text
from autofit_ml.report.frame_picture import TILE, FramePlanes, frame_layers, jpeg_tiles
from autofit_ml.report.payload import (
    columns_payload,
    compact,
    flags_payload,
    rendered,
    script_json,
)

__all__ = ["EMBEDDED", "write_frame_page"]

EMBEDDED = 24e6
"""Bytes of pictures up to which the page holds them itself; more lie in a folder beside it."""


def write_frame_page(
    path: str | Path,
    table: pa.Table,
    bands: Mapping[str, FramePlanes],
    *,
    title: str,
    pixel_scale: float = math.nan,
    messages: Sequence[str] = (),
    embedded: float = EMBEDDED,
) -> Path:
    """Write a frame and its catalogue as a page that works from the disk.

    Data, model and residual can be moved and zoomed with mouse, fingers and keys. A press on a
    source shows what was measured, in words and numbers, and its cut-outs.

    Parameters
    ----------
    path : path
        Of the page, ``<id>.html``. Pictures of more than `embedded` bytes are written to the folder
        ``<id>_tiles`` beside it.
    table : pyarrow.Table
        ``id``, ``x``, ``y`` (pixels of the images), and what else there is: ``p_star``, ``type``,
        ``re``, ``q``, ``pa``, ``flux_<band>``, ``mag_<band>``, ``colour_<band>_<band>``, ``flags``,
        ``use``, with ``_err``.
    bands : mapping of str to FramePlanes
        From blue to red.
    title : str, keyword-only
    pixel_scale : float, keyword-only
        arcsec per pixel, for the scale bar.
    messages : sequence of str, keyword-only
        Shown at the top.
    embedded : float, keyword-only

    Returns
    -------
    path : Path

    Raises
    ------
    OutputError
        The page cannot be written.
    """
    path = Path(path)
    layers, colours = frame_layers(bands, _whites(table, list(bands)))
    shape = next(iter(layers.values())).shape
    tiles = {name: jpeg_tiles(image) for name, image in layers.items()}
    payload = {
        "width": shape[1],
        "height": shape[0],
        "tile": TILE,
        "scale": pixel_scale if pixel_scale > 0 else None,
        "bands": list(bands),
        "colours": list(colours),
        "rows": table.num_rows,
        "columns": [one | compact(one.pop("values")) for one in columns_payload(table)],
        "flags": flags_payload(),
        "tiles": _placed(path, tiles, embedded),
    }
    page = rendered(
        "frame.html.jinja",
        ("report.css", "frame.css"),
        ("common.js", "frame.js"),
        title=title,
        messages=messages,
        frame=script_json(payload),
    )
    atomic_write_text(path, page)
    return path


def _placed(
    path: Path, tiles: Mapping[str, list[list[list[bytes]]]], embedded: float
) -> dict[str, Any]:
    """Addresses of the tiles: in the page, or files beside it."""
    folder = path.with_name(f"{path.stem}_tiles")
    if folder.is_dir():
        shutil.rmtree(folder)
    size = sum(
        len(tile) for levels in tiles.values() for rows in levels for row in rows for tile in row
    )
    aside = size > embedded

    def address(layer: str, level: int, row: int, column: int, content: bytes) -> str:
        if not aside:
            return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
        name = f"{layer}-{level}-{row}-{column}.jpg"
        folder.mkdir(exist_ok=True)
        atomic_write_bytes(folder / name, content)
        return f"{folder.name}/{name}"

    return {
        layer: [
            [
                [address(layer, k, i, j, content) for j, content in enumerate(row)]
                for i, row in enumerate(rows)
            ]
            for k, rows in enumerate(levels)
        ]
        for layer, levels in tiles.items()
    }


def _whites(table: pa.Table, bands: Sequence[str]) -> dict[str, float]:
    """Median fluxes of the brighter sources, which shall look white."""
    names = [f"flux_{band}" for band in bands]
    if not set(names) <= set(table.column_names) or table.num_rows < 3:
        return {}
    fluxes = np.stack([table.column(name).to_numpy().astype(float) for name in names])
    brightness = np.where(np.isfinite(fluxes), fluxes, 0).sum(0)
    bright = fluxes[:, brightness >= np.median(brightness)]
    return dict(zip(bands, np.nanmedian(bright, 1).tolist(), strict=True))
