"""Options of the catalogue of stars and galaxies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autofit_ml.options import Settings, any_of, option
from autofit_ml.settings.fit import bands_and_wavelengths
from autofit_ml.settings.reading import MODEL, OUTPUT, STARTS, WORK, ReadOptions
from autofit_ml.settings.running import Working, batch_size_option, segmenter_option


@dataclass(frozen=True, kw_only=True)
class SourceSettings(Settings):
    """Settings of the inference of stars and galaxies."""

    prior: str | Path = option(
        "celeste",
        "Population file of stars and galaxies, or celeste (SDSS sources).",
        MODEL,
        shell=str,
    )
    galaxy: str = option(
        "exp_dev",
        "Profile of galaxies: exp_dev (a sum of exponential and de Vaucouleurs profiles of the "
        "same size) or sersic.",
        MODEL,
        choices=("exp_dev", "sersic"),
    )
    likelihood: str = option(
        "gaussian", "Likelihood of the pixels: gaussian, or poisson (requires the gain).", MODEL
    )
    inference: str = option(
        "laplace",
        "Posterior: laplace (importance sampling around the maximum), or vi (variational "
        "inference; takes three times as long).",
        MODEL,
        choices=("laplace", "vi"),
    )
    detection: str = option(
        "white",
        "Image on which sources are detected: white (optimally weighted sum of the bands), chi2 "
        "(quadratic sum of their S/N), or first (the first band).",
        STARTS,
        choices=("white", "chi2", "first"),
    )
    segmenter: str = segmenter_option("sep", ("sep", "auto", "maskrcnn"))
    weights: str = option(
        "",
        "Names or folders of weights, separated by commas; empty: the installed ones that match "
        "the images.",
        STARTS,
    )
    sweeps: int = option(
        10, "Largest number of sweeps over overlapping sources.", WORK, least=1, python_only=True
    )


@dataclass(frozen=True, kw_only=True)
class CatalogSettings(SourceSettings, Working, ReadOptions):
    """Settings of the catalogue of frames, and everything that is said about its images."""

    bands: str | Sequence[str] = option(
        (),
        "Bands that are fitted together, the reference band first: r,u,g,i,z. Images of the same "
        "band are epochs, which share a flux.",
        MODEL,
    )
    forced: str | Path | None = option(
        None,
        "Forced photometry: catalogue with the positions and shapes of the sources, which are "
        "held fixed.",
        MODEL,
        shell=Path,
    )
    batch_size: int = batch_size_option(1)
    save: str | Sequence[str] = option(
        ("page", "images", "regions"),
        "Files to write besides the catalogue: any of page (zoomable HTML page of the frame and "
        "its sources), images (model and residual) and regions (for DS9 and Aladin); or none.",
        OUTPUT,
        normalise=any_of(("page", "images", "regions")),
    )

    def check(self) -> None:
        """Check the names of the bands."""
        super().check()
        object.__setattr__(self, "bands", bands_and_wavelengths(self.bands, {})[0])
