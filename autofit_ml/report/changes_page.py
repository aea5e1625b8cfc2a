"""The page of a run of image subtraction: each image, and what has changed in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from astropy.table import Row, Table

from autofit_ml.catalogue import atomic_write_text, file_stem
from autofit_ml.report.measurement import format_measurement
from autofit_ml.report.payload import rendered
from autofit_ml.report.triplet import SHOWN, brightest

__all__ = ["Subtracted", "write_changes_page"]


@dataclass(frozen=True)
class Subtracted:
    """An image that was subtracted.

    Attributes
    ----------
    id : str
    scale, scale_err : float
        Flux in the image of a source with flux 1 in the reference.
    convolved : str
        "reference" or "science".
    messages : tuple of str
    """

    id: str
    scale: float
    scale_err: float
    convolved: str
    messages: tuple[str, ...] = ()


def write_changes_page(
    path: Path,
    images: Sequence[Subtracted],
    changes: Table,
    failures: Mapping[str, str],
    *,
    title: str,
) -> None:
    """Write the images and their changes as a page that works from the disk.

    Parameters
    ----------
    path : Path
        Of the page; ``<id>_diff.png`` and ``<id>_changes.png`` (`triplet_png`, `cutouts_png`) lie
        beside it.
    images : sequence of Subtracted
    changes : Table
        Of all images, as `autofit_ml.difference.detect_changes` makes it, with ``id``.
    failures : mapping of str to str
        Image -> why it could not be subtracted.
    title : str, keyword-only

    Raises
    ------
    OutputError
        The page cannot be written.
    """
    owners = np.asarray(changes["id"]).astype(str)
    shown = []
    for image in images:
        mine = changes[owners == image.id]
        order = brightest(mine)
        last = max(1, len(order) - 1)
        cards = [_card(mine[int(row)], place / last) for place, row in enumerate(order)]
        stem = quote(file_stem(image.id))
        shown.append(
            {
                "id": image.id,
                "whole": f"{stem}_diff.png",
                "cuts": f"{stem}_changes.png",
                "about": (
                    f"scale {image.scale:.4f} ± {image.scale_err:.4f}; {image.convolved} convolved"
                ),
                "messages": image.messages,
                "real": [card for card in cards if card["real"]],
                "artefacts": [card for card in cards if not card["real"]],
                "more": max(0, len(mine) - SHOWN),
            }
        )
    page = rendered(
        "changes.html.jinja", ("report.css", "changes.css"), (), title=title, images=shown,
        failures=failures, total=len(changes), real=int(np.sum(changes["real"])),
    )  # fmt: skip
    atomic_write_text(path, page)


def _card(row: Row, share: float) -> dict[str, object]:
    """Entry of one change in the page; `share`: how far down its cut-outs are."""

    def numbers(*names: str, digits: int) -> str:
        return ", ".join(f"{float(row[name]):.{digits}f}" for name in names)

    flux, error = float(row["flux"]), float(row["flux_err"])
    measured = math.isfinite(flux)
    lines = [f"x, y {numbers('x', 'y', digits=1)}"]
    if "ra" in row.colnames:
        lines.append(f"ra, dec {numbers('ra', 'dec', digits=5)}")
    lines.append(f"flux {format_measurement(flux, error)}" if measured else "too many bad pixels")
    shape = ("chi2", "dipole", "width", "masked", "reference_share")
    return {
        "at": f"{100 * share:.5f}",
        "real": bool(row["real"]),
        "heading": f"S/N {float(row['snr' if measured else 'score']):+.1f}",
        "lines": lines,
        "features": "; ".join(f"{name.replace('_', ' ')} {float(row[name]):.2f}" for name in shape),
    }
