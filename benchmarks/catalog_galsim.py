"""The same sources drawn by GalSim alone: python benchmarks/catalog_galsim.py TRUTH OUT NY NX

Reads ``truth.ecsv`` (0-based pixels, fluxes in nanomaggies, position angles counter-clockwise from
+y) and writes ``field_<band>_{image,sigma,psf}.fits``. It shares no code with the package: sums of
exponential and de Vaucouleurs profiles, a PSF of two Moffat profiles, photons and read-out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

SCALE, ZEROPOINT = 0.396, 22.5
# band: sky (mag / arcsec2), electrons per nanomaggy, read noise, seeing (arcsec)
BANDS = {
    "u": (21.99, 160, 5.7, 1.13), "g": (21.80, 1085, 5.6, 1.09), "r": (20.73, 936, 5.5, 1.00),
    "i": (20.14, 768, 13.4, 0.95), "z": (19.03, 128, 17.0, 0.98),
}  # fmt: skip
PSF_SIDE = 51
_ACCURACY = galsim.GSParams(maximum_fft_size=16384, folding_threshold=1e-3)


def psf_of(fwhm: float) -> galsim.GSObject:
    """A core and a wider part, in pixels."""
    core = galsim.Moffat(beta=3.5, fwhm=0.96 * fwhm / SCALE, flux=0.9, gsparams=_ACCURACY)
    wide = galsim.Moffat(beta=2.8, fwhm=1.5 * fwhm / SCALE, flux=0.1, gsparams=_ACCURACY)
    return (core + wide).shear(g1=0.015, g2=-0.01)


def profile_of(row) -> galsim.GSObject:
    """A galaxy of flux 1, in pixels; half-light radii along the major axis."""
    radius = row["re"] * np.sqrt(row["q"])
    share = row["dev"]
    if np.isfinite(share):
        disc = galsim.Exponential(half_light_radius=radius, flux=1 - share, gsparams=_ACCURACY)
        bulge = galsim.DeVaucouleurs(half_light_radius=radius, flux=share, gsparams=_ACCURACY)
        galaxy = disc + bulge if 0 < share < 1 else disc if share == 0 else bulge
    else:
        galaxy = galsim.Sersic(round(float(row["n"]), 1), half_light_radius=radius,
                               gsparams=_ACCURACY)  # fmt: skip
    return galaxy.shear(q=row["q"], beta=(row["pa"] + 90) * galsim.degrees)


def draw(truth: Table, shape: tuple[int, int], folder: Path, seed: int) -> None:
    """Write the frames of all bands."""
    folder.mkdir(parents=True, exist_ok=True)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [1.0, 1.0]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    for k, (band, (brightness, gain, read_noise, fwhm)) in enumerate(BANDS.items()):
        psf = psf_of(fwhm)
        image = galsim.ImageD(shape[1], shape[0], xmin=0, ymin=0, scale=1.0)
        for row in truth:
            one = psf if row["is_star"] else galsim.Convolve(profile_of(row), psf)
            one = one.withFlux(float(row[f"flux_{band}"]))
            place = galsim.PositionD(row["x"], row["y"])
            stamp = one.drawImage(scale=1.0, center=place, dtype=float)
            both = stamp.bounds & image.bounds
            if both.isDefined():
                image[both] += stamp[both]
        level = 10 ** (0.4 * (ZEROPOINT - brightness)) * SCALE**2
        rng = np.random.default_rng([seed, k, 7])
        mean = np.clip(image.array + level, 0, None) * gain
        counts = rng.poisson(mean) + read_noise * rng.standard_normal(shape)
        sigma = np.sqrt(mean + read_noise**2) / gain
        header = wcs.to_header()
        header.update(FILTER=band, ZP=ZEROPOINT, GAIN=gain, PIXSCALE=SCALE, OBJECT=f"field_{band}")
        planes = {
            "image": (counts / gain - level, header),
            "sigma": (sigma, fits.Header()),
            "psf": (psf.drawImage(nx=PSF_SIDE, ny=PSF_SIDE, scale=1.0).array, fits.Header()),
        }
        planes["psf"][1]["PSFPIX"] = True
        for name, (array, cards) in planes.items():
            path = folder / f"field_{band}_{name}.fits"
            fits.PrimaryHDU(array.astype(np.float32), cards).writeto(path, overwrite=True)
    truth.write(folder / "truth.ecsv", overwrite=True)


def main() -> None:
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    truth, out, ny, nx = sys.argv[1:]
    draw(Table.read(truth), (int(ny), int(nx)), Path(out), seed=0)


if __name__ == "__main__":
    main()
