"""One galaxy drawn and fitted from a FITS file: the check of a fresh installation."""

import platform
import tempfile
from pathlib import Path

from astropy.io import fits

import autofit_ml as afm
from autofit_ml.simulation import EndlessSersic, EndlessSettings

settings = EndlessSettings(shape=(64, 64), snr=(200, 300), re=(5, 6))
drawn = EndlessSersic(settings, 1, seed=1).batch(0)
truth = drawn["catalogue"][0, 0, 3].item()
with tempfile.TemporaryDirectory() as folder:
    planes = {"SCI": drawn["image"], "ERR": drawn["sigma"], "PSF": drawn["psf"]}
    hdus = [fits.ImageHDU(plane[0].numpy(), name=name) for name, plane in planes.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(Path(folder) / "galaxy.fits")
    (row,) = afm.fit(folder, out=f"{folder}/results")
    if not (Path(folder) / "results" / "report.html").is_file():
        raise SystemExit("no report was written")
found, error = row["re"].value, row["re_err"].value
said = f"re {found:.3f} +- {error:.3f} pixels, drawn with {truth:.3f}"
print(f"Python {platform.python_version()}: {said}")
if not (row["use"] and abs(found - truth) < 5 * error):
    raise SystemExit("that is not the galaxy that was drawn")
