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
        "Population file of stars and galaxies, or celeste: those of SDSS.",
        MODEL,
        shell=str,
    )
    galaxy: str = option(
        "exp_dev",
        "Profile of galaxies: exp_dev (exponential and de Vaucouleurs light of one size), sersic.",
        MODEL,
        choices=("exp_dev", "sersic"),
    )
    likelihood: str = option("gaussian", "gaussian, or poisson (needs the gain).", MODEL)
    inference: str = option(
        "laplace",
        "laplace, or vi: the Gaussians of the largest variational bound (three times as long).",
        MODEL,
        choices=("laplace", "vi"),
    )
    detection: str = option(
        "white",
        "Image on which sources are detected: white (bands added with the best weights), chi2, or "
        "first (the first band).",
        STARTS,
        choices=("white", "chi2", "first"),
    )
    segmenter: str = segmenter_option("sep", ("sep", "auto", "maskrcnn"))
    weights: str = option(
        "",
        "Names or folders of weights, separated by commas; empty: the installed ones that suit.",
        STARTS,
    )
    sweeps: int = option(
        10, "Sweeps over sources that overlap, at most.", WORK, least=1, python_only=True
    )


@dataclass(frozen=True, kw_only=True)
class CatalogSettings(SourceSettings, Working, ReadOptions):
    """Settings of the catalogue of frames, and everything that is said about its images."""

    bands: str | Sequence[str] = option(
        (), "Bands fitted together, the reference first: r,u,g,i,z. Epochs share a flux.", MODEL
    )
    forced: str | Path | None = option(
        None,
        "Catalogue whose positions and shapes are held: its sources' fluxes in these images.",
        MODEL,
        shell=Path,
    )
    batch_size: int = batch_size_option(1)
    save: str | Sequence[str] = option(
        ("page", "images", "regions"),
        "Any of page (the frame to zoom into, with its sources), images (model and residual), "
        "regions (for DS9 and Aladin); or none.",
        OUTPUT,
        normalise=any_of(("page", "images", "regions")),
    )

    def check(self) -> None:
        """Check the names of the bands."""
        super().check()
        object.__setattr__(self, "bands", bands_and_wavelengths(self.bands, {})[0])
