"""Small images of scenes, drawn by the pixel-exact simulator."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS

from autofit_ml.fitting import SceneObject, object_of
from autofit_ml.initialisation import Starts
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import observe_scene, to_stamps
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Component, Source, composite

PSF = moffat_psf(3.0, beta=3.0, size=25)


def stamp_of(target, neighbours=(), seed=1, shape=(48, 48), sky=5.0, noise=True, psf=PSF):
    """A stamp and the simulator's labels as its segmentation."""
    item = observe_scene(
        f"s{seed}", target, neighbours, psf, shape, rng=np.random.default_rng(seed), sky=sky,
        noise=noise,
    )  # fmt: skip
    (stamp,) = to_stamps([item])
    labels = item.labels
    contaminants = (labels != 0) & (labels != 1)
    return stamp, Segmentation(labels, 1, contaminants, sky, 1.0, method="given")


def single(flux=4000.0, re=4.0, n=1.5, q=0.6, pa=30.0, x=23.7, y=24.2) -> Source:
    """One Sérsic profile."""
    return Source(x, y, flux, re, n, q, pa)


def bulge_and_disc(share=0.4, flux=20000.0, x=23.7, y=24.2) -> Source:
    """A Sérsic bulge and an exponential disc."""
    parts = (
        Component("sersic", share * flux, 1.8, 2.5, 0.85, 30.0),
        Component("sersic", (1 - share) * flux, 6.0, 1.0, 0.5, 60.0),
    )
    return composite(x, y, parts, "bulge_disc")


def starts_of(*sources: Source, sky=5.0, wrong=1.1) -> Starts:
    """Starts near the truth (sizes and fluxes off by a factor)."""
    rows = [
        [s.x + 0.2, s.y - 0.2, s.flux * wrong, max(s.re, 0.8) * wrong,
         1.5 if np.isnan(s.n) else s.n * wrong, min(s.q * wrong, 0.95), s.pa + 5, sky]
        for s in sources
    ]  # fmt: skip
    return Starts(np.array(rows), None, np.zeros(len(rows), np.int32))


def scene_object(target, neighbours=(), **settings) -> SceneObject:
    """An object with one image."""
    return object_of(*stamp_of(target, neighbours, **settings))


def wcs_of(scale=0.2, angle=0.0, centre=(23.5, 23.5), mirrored=False) -> WCS:
    """A tangential WCS, rotated by `angle` degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [centre[0] + 1, centre[1] + 1]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    sign = 1.0 if mirrored else -1.0
    matrix = np.array([[sign, 0.0], [0.0, 1.0]]) @ np.array([[cos, -sin], [sin, cos]])
    wcs.wcs.cd = matrix * scale / 3600
    return wcs
