"""One galaxy drawn and fitted from a FITS file: the check of a fresh installation."""

import platform
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.modeling.models import Sersic2D
from scipy.ndimage import gaussian_filter

import autofit_ml as afm

RE, FINE = 5.0, 8
place = (np.arange(64 * FINE) + 0.5) / FINE - 0.5
galaxy = Sersic2D(50.0, RE, 1.0, 31.3, 32.1, 0.3, 0.5)(*np.meshgrid(place, place))
seen = gaussian_filter(galaxy, 1.3 * FINE).reshape(64, FINE, 64, FINE).mean((1, 3))
point = np.exp(-0.5 * (np.hypot(*np.mgrid[-10:11, -10:11]) / 1.3) ** 2)
image = seen + np.random.default_rng(1).normal(0, 2, seen.shape)
planes = {"SCI": image, "ERR": np.full_like(seen, 2.0), "PSF": point / point.sum()}
with tempfile.TemporaryDirectory() as folder:
    hdus = [fits.ImageHDU(plane.astype("f4"), name=name) for name, plane in planes.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(Path(folder) / "galaxy.fits")
    (row,) = afm.fit(folder, out=f"{folder}/results")
    if not (Path(folder) / "results" / "report.html").is_file():
        raise SystemExit("no report was written")
found, error = row["re"].value, row["re_err"].value
print(f"Python {platform.python_version()}: re {found:.3f} +- {error:.3f} pixels, drawn with {RE}")
if not (row["use"] and abs(found - RE) < 5 * error):
    raise SystemExit("that is not the galaxy that was drawn")
