"""Images that a bundle of weights was trained for: its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.survey import Survey
from training.settings import Entry

__all__ = ["Coverage", "coverage_of"]

Range = tuple[float, float]


@dataclass(frozen=True)
class Coverage:
    """Ranges of the images that weights were trained on.

    Attributes
    ----------
    several : bool
        Images of more than one survey.
    pixel_scale : (low, high)
        arcsec.
    psf_fwhm : (low, high)
        pixels.
    snr : (low, high)
        Total S/N.
    """

    several: bool
    pixel_scale: Range
    psf_fwhm: Range
    snr: Range


def coverage_of(
    entries: Iterable[Entry],
    measured: Callable[[Entry], Mapping[str, list[float]]] | None = None,
) -> Coverage:
    """Coverage of sets of simulated, endless and real images.

    Parameters
    ----------
    entries : iterable of mapping
        Of ``sets.train``.
    measured : callable, optional
        ``pixel_scale`` and ``psf_fwhm`` of an entry of real images, where there may be such.

    Raises
    ------
    SettingsError
        The entries name no survey and no images.
    """
    from autofit_ml.simulation import compose_recipe

    scales: list[float] = []
    widths: list[float] = []
    snr: list[float] = []
    surveys: set[str] = set()
    for entry in entries:
        for name in entry.get("surveys", []):
            recipe = compose_recipe(
                [f"data={entry['data']}", f"survey={name}", *entry.get("set", [])]
            )
            surveys.add(name)
            scales.append(recipe.survey.pixel_scale)
            widths += _widths(recipe.survey)
            target = recipe.data.target
            if target is not None and target.snr is not None:
                snr += list(target.snr)
        if "endless" in entry:
            widths += entry["endless"].get("psf_fwhm", [])
            snr += entry["endless"].get("snr", [])
        if "images" in entry and measured is not None:
            real = measured(entry)
            scales += real["pixel_scale"]
            widths += real["psf_fwhm"]
            surveys.add(entry["images"])
    if not scales or not widths:
        raise SettingsError(
            "the training sets do not say which pixel scales and PSFs they cover",
            "give at least one entry of a survey or of images",
        )
    return Coverage(
        several=len(surveys) > 1,
        pixel_scale=(min(scales), max(scales)),
        psf_fwhm=(round(min(widths), 2), round(max(widths), 2)),
        snr=(min(snr), max(snr)) if snr else (0.0, 1e9),
    )


def _widths(survey: Survey) -> list[float]:
    """FWHM of some of a survey's PSFs as they are on its pixels: 5 and 95 % points."""
    from autofit_ml.measure import psf_fwhm
    from autofit_ml.simulation import draw_psf

    rng = np.random.default_rng(1)
    drawn = [psf_fwhm(draw_psf(survey.psf, survey.pixel_scale, rng)) for _ in range(60)]
    return [float(value) for value in np.percentile(drawn, [5, 95])]
