"""Simulated scenes as FITS files: bulges and discs, blends, several bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from autofit_ml.simulation import export_fits, observe_scene
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Component, Source, composite

PSF = moffat_psf(3.0, beta=3.0, size=25)
SKY = 5.0

TARGET = Source(31.7, 32.2, 8000.0, 5.0, 1.5, 0.6, 30.0)
NEIGHBOUR = Source(43.5, 38.0, 5000.0, 3.0, 1.2, 0.8, 100.0)
STAR = Source(31.7, 32.2, 6000.0, 0.0, float("nan"))
BULGE, DISC = (
    Component("sersic", 8000.0, 2.0, 2.5, 0.85, 30.0),
    Component("sersic", 12000.0, 8.0, 1.0, 0.5, 60.0),
)


def bulge_and_disc() -> Source:
    """B/T 0.4."""
    return composite(31.7, 32.2, (BULGE, DISC), "bulge_disc")


def write_scene(
    folder: Path,
    name: str,
    target: Source,
    neighbours: Sequence[Source] = (),
    *,
    seed: int = 1,
    shape: tuple[int, int] = (64, 64),
    zeropoint: float = 27.0,
    labels: bool = True,
    psf=PSF,
    **options,
) -> None:
    """``<name>_image.fits`` and its planes, with the true labels."""
    rng = np.random.default_rng(seed)
    item = observe_scene(
        name, target, neighbours, psf, shape, rng=rng, sky=SKY, zeropoint=zeropoint, **options
    )
    export_fits([item], folder, labels=labels)


BANDS = {"g": (0.5, 26.0, 2.6), "r": (1.0, 27.0, 3.0), "i": (1.6, 26.5, 3.4)}
"""Flux in units of the r band's, zero point, FWHM of the PSF in pixels."""


def write_bands(
    folder: Path, name: str, bands: Sequence[str] = tuple(BANDS), neighbours: Sequence[Source] = ()
) -> None:
    """The same galaxy in some bands: ``<name>_<band>_image.fits``."""
    for seed, band in enumerate(BANDS):
        if band not in bands:
            continue
        share, zeropoint, fwhm = BANDS[band]
        write_scene(
            folder,
            f"{name}_{band}",
            TARGET.with_flux(TARGET.flux * share),
            [source.with_flux(source.flux * share) for source in neighbours],
            seed=seed,
            zeropoint=zeropoint,
            psf=moffat_psf(fwhm, beta=3.0, size=25),
        )
        with fits.open(folder / f"{name}_{band}_image.fits", mode="update") as hdus:
            hdus[0].header["FILTER"] = band
