"""A GALFIT input file as a scene and the images that it is for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autofit_ml.galfit.functions import Photometry
from autofit_ml.scenes.build import shifted
from autofit_ml.scenes.model import Scene

__all__ = ["GalfitBand", "GalfitFile", "locate"]


@dataclass(frozen=True)
class GalfitBand:
    """The images of one band; names as written, "" for none.

    Attributes
    ----------
    image, sigma, psf, mask : str
    zeropoint : float
        GALFIT's: mag = zeropoint - 2.5 log10(counts / exptime).
    exptime : float
        Seconds, of the image's header; 1 where that was not found (see `GalfitFile.notes`).
    label : str
        GALFITM's name of the band; "" in a GALFIT file.
    wavelength : float or None
        In GALFITM files, any unit.
    """

    image: str = ""
    sigma: str = ""
    psf: str = ""
    mask: str = ""
    zeropoint: float = 0.0
    exptime: float = 1.0
    label: str = ""
    wavelength: float | None = None


@dataclass(frozen=True)
class GalfitFile:
    """A GALFIT or GALFITM input file.

    Attributes
    ----------
    scene : Scene
        In pixels of the whole image, 0-based (GALFIT counts from 1); `region_scene` has it in
        pixels of the fitted region. Values are those of the first band.
    bands : tuple of GalfitBand
        One in a GALFIT file.
    region : (xmin, xmax, ymin, ymax) or None
        As written: 1-based, both ends included. None: the whole image.
    output, constraints : str
        Names of the output file and of the file of constraints; "" for none.
    psf_sampling : int
        How many times finer the PSF is sampled than the image.
    convolution_box : (int, int)
    pixel_scale : (float, float)
        arcsec per pixel in x and y.
    display : str
    mode : int
        0 fit, 1 model, 2 image block, 3 subcomponents.
    values : mapping of str to tuple of float
        Parameters (``component.parameter``) whose values differ between the bands.
    skipped : tuple of str
        Components with ``Z) 1``: fitted, but left in GALFIT's residual image.
    notes : tuple of str
        What could not be taken over as it stands.
    path : Path or None
        The file itself.
    """

    scene: Scene
    bands: tuple[GalfitBand, ...] = (GalfitBand(),)
    region: tuple[int, int, int, int] | None = None
    output: str = "imgblock.fits"
    constraints: str = ""
    psf_sampling: int = 1
    convolution_box: tuple[int, int] = (100, 100)
    pixel_scale: tuple[float, float] = (1.0, 1.0)
    display: str = "regular"
    mode: int = 0
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def image(self) -> Path | None:
        """The first band's image, found from the file's folder; None if there is none."""
        return self.locate(self.bands[0].image)

    @property
    def sigma(self) -> Path | None:
        """The first band's sigma image."""
        return self.locate(self.bands[0].sigma)

    @property
    def psf(self) -> Path | None:
        """The first band's PSF."""
        return self.locate(self.bands[0].psf)

    @property
    def mask(self) -> Path | None:
        """The first band's mask: a FITS image, or a text file of bad pixels."""
        return self.locate(self.bands[0].mask)

    @property
    def zeropoint(self) -> float:
        """The first band's zero point, for counts per second."""
        return self.bands[0].zeropoint

    @property
    def exptime(self) -> float:
        """The first band's exposure time."""
        return self.bands[0].exptime

    @property
    def region_scene(self) -> Scene:
        """The scene in 0-based pixels of the fitted region."""
        if self.region is None:
            return self.scene
        return shifted(self.scene, 1 - self.region[0], 1 - self.region[2])

    def photometry(self, band: int = 0) -> Photometry:
        """Zero point and exposure that turn magnitudes of a band into counts."""
        area = self.pixel_scale[0] * self.pixel_scale[1]
        return Photometry(
            self.bands[band].zeropoint, self.bands[band].exptime, area if area > 0 else 1.0
        )

    def locate(self, name: str) -> Path | None:
        """A file of that name: beside the input file, else in the current folder."""
        return locate(name, self.path)


def locate(name: str, beside: Path | None) -> Path | None:
    """A file that an input file names: beside that file, else in the current folder."""
    if not name:
        return None
    path = Path(name.partition("[")[0])  # CFITSIO's gal.fits[1] names an extension
    if path.is_absolute() or beside is None:
        return path
    return path if path.exists() and not (beside.parent / path).exists() else beside.parent / path
