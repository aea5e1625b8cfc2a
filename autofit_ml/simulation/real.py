"""Cut-outs of real galaxies as sources: deconvolved, turned, and observed anew.

GalSim's `RealGalaxy` divides the transform of the image by that of its PSF; the new, wider PSF
removes what that amplified (Bernstein & Gruen 2014, PASP 126, 287; Rowe et al. 2015, A&C 10, 121).
The cut-out's own noise stays in the image: take galaxies with little.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits

from autofit_ml.errors import InputError, SettingsError, errors_as
from autofit_ml.images import PSF, centre_psf
from autofit_ml.measure import measure_sky, psf_fwhm
from autofit_ml.simulation.recipe import Galaxies
from autofit_ml.simulation.sources import Component, Source, require_galsim

__all__ = ["check_real_galaxies", "draw_real_galaxy"]

_ENDINGS = ("_image.fits", "_image.fits.gz", "_image.fits.fz")


@dataclass(frozen=True)
class _CutOut:
    """One real galaxy.

    Attributes
    ----------
    name : str
    real : tuple
        What `galsim.RealGalaxy` takes: image (sky-free), PSF, and their noise.
    shift : (dx, dy)
        From the galaxy's centre to the middle of its image, arcsec.
    part : Component
        Its measured shape; lengths in arcsec, without light.
    psf_fwhm : float
        arcsec.
    """

    name: str
    real: tuple[Any, ...]
    shift: tuple[float, float]
    part: Component
    psf_fwhm: float


def check_real_galaxies(galaxies: Galaxies, pixel_scale: float, psf: PSF) -> None:
    """Read the folder, and compare the PSFs' widths.

    Raises
    ------
    SettingsError
        No usable galaxies, or a PSF wider than that of the survey to be simulated.
    """
    target = psf_fwhm(psf) * pixel_scale
    for item in _cutouts(galaxies.real_folder):
        if item.psf_fwhm > 0.9 * target:
            raise SettingsError(
                f"{item.name}: its PSF of {item.psf_fwhm:.3f} arcsec is not narrower than the "
                f"{target:.3f} arcsec to be simulated",
                "use sharper images, or a survey with a wider PSF",
                galaxies.real_folder,
            )


def draw_real_galaxy(
    rng: np.random.Generator,
    galaxies: Galaxies,
    pixel_scale: float,
    *,
    x: float,
    y: float,
    flux: float,
) -> Source:
    """A real galaxy, turned by a random angle and perhaps mirrored, of its own angular size.

    `re`, `q` and `pa` are measured on the original image (so they contain its PSF); n is NaN.
    """
    galsim = require_galsim()
    pool = _cutouts(galaxies.real_folder)
    item = pool[int(rng.integers(len(pool)))]
    mirrored = rng.uniform() < 0.5
    angle = float(rng.uniform(0, 360))
    profile = galsim.RealGalaxy(item.real, flux=flux).shift(*item.shift)
    pa = item.part.pa
    if mirrored:
        profile = profile.transform(-1, 0, 0, 1)
        pa = -pa
    part = dataclasses.replace(
        item.part,
        flux=flux,
        re=item.part.re / pixel_scale,
        pa=(pa + angle) % 180,
        # arcsec to pixels of the new image; GalSim turns counter-clockwise as we do
        profile=profile.rotate(angle * galsim.degrees).dilate(1 / pixel_scale),
        reach=item.part.reach / pixel_scale,
    )
    return Source(x, y, flux, part.re, part.n, part.q, part.pa, (part,), "real")


@functools.lru_cache(maxsize=4)
def _cutouts(folder: Path | None) -> tuple[_CutOut, ...]:
    folder = Path(str(folder))
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDINGS))
    if not paths:
        raise SettingsError(
            "no real galaxies", "it needs <name>_image.fits with <name>_psf.fits", folder
        )
    return tuple(_read(path) for path in paths)


def _read(path: Path) -> _CutOut:
    stem, _, ending = path.name.rpartition("_image")
    psf_path = path.with_name(f"{stem}_psf{ending}")
    with errors_as(
        InputError,
        "cannot be read",
        f"needs {psf_path.name} beside it",
        path,
        of=(OSError, TypeError, ValueError),
    ):
        with fits.open(path) as hdus:
            header = hdus[0].header
            image = np.array(hdus[0].data, dtype=np.float64)
        psf_image = np.asarray(fits.getdata(psf_path), dtype=np.float64)
    scale = header.get("PIXSCALE")
    if not scale or scale <= 0:
        raise InputError("has no PIXSCALE card (arcsec per pixel)", "add one", path)
    if image.ndim != 2 or not np.isfinite(image).all():
        raise InputError("is not a finite 2-d image", "remove it or repair it", path)
    psf, _ = centre_psf(psf_image, file=psf_path)
    sky = measure_sky(image)
    image = image - sky.level
    found = sep.extract(image, 2.0, err=sky.rms)
    if not len(found):
        raise InputError("shows no source", "remove it from the folder of real galaxies", path)
    ny, nx = image.shape
    centre = np.hypot(found["x"] - (nx - 1) / 2, found["y"] - (ny - 1) / 2)
    main = found[int(np.argmin(centre))]
    radius, _ = sep.flux_radius(image, [main["x"]], [main["y"]], [min(ny, nx) / 2], 0.5)
    q = float(np.clip(main["b"] / main["a"], 0.05, 1))
    scale, galsim = float(scale), require_galsim()
    planes = [galsim.Image(plane, scale=scale) for plane in (image, psf.data.astype(np.float64))]
    return _CutOut(
        name=stem,
        real=(*planes, None, scale, sky.rms**2),
        shift=(
            -(float(main["x"]) - (nx - 1) / 2) * scale,
            -(float(main["y"]) - (ny - 1) / 2) * scale,
        ),
        part=Component(
            "image",
            flux=0.0,
            re=float(max(radius[0], 0.5) / np.sqrt(q)) * scale,
            n=float("nan"),
            q=q,
            pa=float((np.rad2deg(main["theta"]) - 90) % 180),
            reach=0.75 * max(ny, nx) * scale,
        ),
        psf_fwhm=psf_fwhm(psf) * scale,
    )
