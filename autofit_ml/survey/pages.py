"""The report of a survey: a page with map, progress and failures, and pages of its tiles."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from autofit_ml.catalogue import atomic_write_text
from autofit_ml.runs.summary import duration
from autofit_ml.survey.plan import TILES, read_table
from autofit_ml.survey.sky import tiling
from autofit_ml.survey.sky_map import TileState, legend, sky_map
from autofit_ml.survey.status import finished_tiles, read_survey, survey_status

__all__ = ["INDEX", "write_pages"]

INDEX = "index.html"
_ROWS = 500
"""Tiles in a page."""

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title><style>
:root { --fatal: #c0392b; --pending: #d6dae1; --empty: #eceef2; --text: #1b1f27; --page: #fff;
  --faint: #5a6372; --line: #d6dae1 }
@media (prefers-color-scheme: dark) { :root { --pending: #3a404b; --empty: #262a32;
  --text: #e6e9ee; --page: #14161a; --faint: #9aa4b4; --line: #363c47 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page) }
svg { width: 100%; max-height: 60vh } polygon { stroke: var(--page); stroke-width: .6 }
polygon:hover { stroke: var(--text); stroke-width: 1.5 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child, .text { text-align: left }
td:first-child { white-space: nowrap } .wide { overflow-x: auto }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.faint { color: var(--faint) } nav a { margin-right: .5rem } a { color: inherit }
</style></head><body>
<h1>{{ title }}</h1>
{% if nav %}<nav>{% for text, link in nav %}<a href="{{ link }}">{{ text }}</a>{% endfor %}</nav>{% endif %}
{% for text in said %}<p>{{ text }}</p>
{% endfor %}
{% if map %}{{ map }}
<p class="faint">North is up, east to the left. Colours are objects per square arcmin, logarithmic{{ scale }};
tiles without objects are light grey, those to be done grey, failed ones red. Tiles say their
numbers under the mouse and lead to their page.</p>{% endif %}
{% for heading, header, rows in tables %}<h2>{{ heading }}</h2>
<div class="wide"><table><tr>{% for cell in header %}<th{{ kind[cell] }}>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td{{ kind[header[loop.index0]] }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endfor %}</body></html>
"""  # noqa: E501


def write_pages(out: str | Path) -> Path:
    """Write the report of a survey, finished or not.

    Returns
    -------
    Path
        ``index.html`` in its folder; the tiles are in ``pages/``.

    Raises
    ------
    InputError
        There is no survey.
    OutputError
        The pages cannot be written.
    """
    out = Path(out)
    record, status = read_survey(out), survey_status(out)
    sky = tiling(record["tiling"])
    planned = read_table(out, TILES)
    done = finished_tiles(out, sky)
    place = {name: k for k, name in enumerate(done["name"])}
    states, rows = [], []
    for number, row in enumerate(planned):
        name = str(row["tile"])
        page = f"pages/{number // _ROWS + 1}.html"
        k = place.get(name)
        pictures = (out / "pictures" / name).is_dir()
        link = f"{page}#{name}"
        objects = 0 if k is None else int(done["objects"][k])
        tile = int(name.rpartition("-")[2])
        states.append(TileState(tile, objects, k is not None, name in status.tile_failures, link))
        rows.append(_row(name, row, done, k, status.tile_failures, pictures))
    pages = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
    header = ("tile", "ra", "dec", "images", "state", "objects", "usable", "flagged", "failed",
              "seconds")  # fmt: skip
    nav = [(str(k + 1), f"{k + 1}.html") for k in range(len(pages))]
    for k, part in enumerate(pages):
        text = _page(
            title=f"Tiles of {out.resolve().name}, page {k + 1} of {len(pages)}",
            nav=[("map", f"../{INDEX}"), *nav],
            said=(),
            map="",
            scale="",
            tables=[("", header, part)],
        )
        atomic_write_text(out / "pages" / f"{k + 1}.html", text, fsync=False)
    failures = [
        (f"{what} that could not be done: {len(told)}", ("name", "why"), list(told.items())[:_ROWS])
        for what, told in (("Tiles", status.tile_failures), ("Images", status.image_failures))
        if told
    ]
    counts = ", ".join(f"{number} {state}" for state, number in legend(states).items())
    said = [
        f"{len(states)} tiles ({status.tiling}) of {status.images} images: {counts}.",
        f"{status.objects} objects in {status.detected} detections: {status.usable} usable, "
        f"{status.flagged} flagged, {status.failed} failed.",
        f"{duration(3600 * status.processor_hours)} of a processor; at most "
        f"{status.memory / 1024:.1f} GB in a process.",
    ]
    drawn, (least, most) = sky_map(states, sky)
    text = _page(
        title=f"Survey {out.resolve().name}",
        nav=[("tiles:", "pages/1.html"), *((one, f"pages/{link}") for one, link in nav)],
        said=said,
        map=Markup(drawn),
        scale=f" (blue {least:.2g}, yellow {most:.2g})" if least < most else "",
        tables=failures,
    )
    atomic_write_text(out / INDEX, text)
    return out / INDEX


def _row(
    name: str,
    planned: Any,
    done: dict[str, np.ndarray],
    k: int | None,
    failed: Any,
    pictures: bool,
) -> tuple[Any, ...]:
    """A tile's line in its page."""
    shown = Markup('<span id="{0}">{0}</span>').format(name)
    if pictures:
        shown = Markup('<a id="{0}" href="../pictures/{0}/">{0}</a>').format(name)
    first = (
        shown,
        f"{float(planned['ra']):.4f}",
        f"{float(planned['dec']):+.4f}",
        int(planned["images"]),
    )
    if k is None:
        return (*first, "failed" if name in failed else "to do", "", "", "", "", "")
    counts = (int(done[one][k]) for one in ("objects", "usable", "flagged", "failed"))
    return (*first, "done", *counts, f"{float(done['seconds'][k]):.1f}")


def _page(**values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    left = Markup(' class="text"')
    kind = defaultdict(Markup, state=left, why=left)
    return environment.from_string(_TEMPLATE).render(kind=kind, **values)
