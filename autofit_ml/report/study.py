"""The page of a study of a run's images: verdict, a figure, tables."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import jinja2

__all__ = ["TableText", "study_page"]

TableText = tuple[str, list[str], list[list[str]]]
"""Title, header and cells of a table."""

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px;
  font-variant-numeric: tabular-nums }
th { font-weight: 600 } td { white-space: nowrap }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #ddd }
img { max-width: 100% } h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #16181d }
  th, td { border-color: #333 } img { background: #fff } }
</style></head><body>
<h1>{{ heading }}</h1>
<p>{{ about }}</p>
{% for line in verdict %}<p><strong>{{ line }}</strong></p>{% endfor %}
{% for line in notes %}<p>{{ line }}</p>{% endfor %}
<img alt="{{ alt }}" src="data:image/png;base64,{{ picture }}">
<p>{{ caption }}</p>
{% for title, header, rows in tables %}<h2>{{ title }}</h2>
<table><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}</body></html>
"""


def study_page(
    title: str,
    heading: str,
    about: str,
    figure: Any,
    tables: Sequence[TableText],
    *,
    alt: str,
    caption: str,
    verdict: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page as HTML, self-contained.

    Parameters
    ----------
    title, heading, about : str
        Of the page; `about` says what was done.
    figure : matplotlib.figure.Figure
    tables : sequence of TableText
    alt, caption : str
        Of the figure.
    verdict, notes : sequence of str
        Sentences; those of the verdict are bold.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return template.render(
        title=title, heading=heading, about=about, verdict=verdict, notes=notes, alt=alt,
        picture=picture, caption=caption, tables=tables,
    )  # fmt: skip
