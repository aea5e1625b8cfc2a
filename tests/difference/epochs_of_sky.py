"""Epochs of a field with a galaxy in which something flares up."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from sky_pairs import gaussian, stars

SEEING = (3.0, 3.6, 3.3, 4.0, 3.1)
SCALES = (1.0, 0.8, 1.2, 0.9, 1.1)
FLUXES = (0.0, 0.0, 4000.0, 2500.0, 900.0)
PLACE = (73.4, 77.2)


def grid(angle, x, y, scale=0.2):
    """Pixels of `scale` arcsec, turned by degrees, ra 150 and dec 2 at a pixel."""
    out, turn = WCS(naxis=2), np.deg2rad(angle)
    out.wcs.ctype, out.wcs.crval, out.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150, 2], [x + 1, y + 1]
    out.wcs.cdelt = [-scale / 3600, scale / 3600]
    out.wcs.pc = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    return out


def write_epochs(folder, seed=1, size=150, *, turned=True, host=25000.0):
    """Files ``e0.fits`` ...; the sky position of the source."""
    rng, folder = np.random.default_rng(seed), Path(folder)
    first = grid(0, size / 2, size / 2)
    places = np.random.default_rng(5).uniform(12, size - 12, (30, 2))
    bright = 10 ** np.random.default_rng(6).uniform(3.3, 4.8, 30)
    keep = np.hypot(*(places - PLACE).T) > 18
    for e, (fwhm, scale, flux) in enumerate(zip(SEEING, SCALES, FLUXES, strict=True)):
        wcs = first
        if turned and e:
            wcs = grid(rng.uniform(-2, 2), *(size / 2 + rng.uniform(-3, 3, 2)))

        def there(at, wcs=wcs):
            sky = first.pixel_to_world_values(*np.transpose(at))
            return np.array(wcs.world_to_pixel_values(*sky)).T

        light = stars(there(places[keep]), bright[keep], fwhm, (size, size))
        light += stars(there([PLACE]), [flux], fwhm, (size, size))
        for width, share in ((5.0, 0.4), (9.0, 0.35), (14.0, 0.25)):
            galaxy = there([(70.0, 75.0)])
            light += stars(galaxy, [share * host], np.hypot(fwhm, width), (size, size))
        light *= scale
        variance = 100 + light
        data = light + rng.normal(size=light.shape) * np.sqrt(variance) + 20
        header = wcs.to_header()
        header["MJD-OBS"], header["FILTER"] = 58000.0 + 3 * e, "r"
        header["ZP"] = 27.0 + 2.5 * np.log10(scale)
        bad = np.zeros((size, size), np.int32)
        bad[20:23, 30:60] = 5
        planes = {"ERR": np.sqrt(variance), "PSF": gaussian(fwhm, 15), "MASK": bad}
        hdus = [fits.PrimaryHDU(data.astype("f4"), header)]
        hdus += [
            fits.ImageHDU(plane.astype("i4" if name == "MASK" else "f4"), name=name)
            for name, plane in planes.items()
        ]
        fits.HDUList(hdus).writeto(folder / f"e{e}.fits", overwrite=True)
    ra, dec = first.pixel_to_world_values(*PLACE)
    return float(ra), float(dec)
