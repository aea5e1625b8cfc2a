"""One simulated image and everything that is known about it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, Self

import numpy as np
from astropy import units as u
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.catalogue.flags import Flag
from autofit_ml.images.stamp import PSF, Frame, Stamp
from autofit_ml.simulation.psf import PSFGrid
from autofit_ml.simulation.sources import Source

__all__ = [
    "SOURCE_DTYPE",
    "Artefact",
    "SimulatedObject",
    "SourceLight",
    "source_table",
    "to_frame",
    "to_stamps",
    "truth_table",
]


class Artefact(IntFlag):
    """Bits of `SimulatedObject.artefacts`."""

    SATURATED = 1
    BLEED = 2
    BAD_COLUMN = 4
    COSMIC_RAY = 8
    MASKED = 16
    GHOST = 32


SOURCE_DTYPE = np.dtype(
    [
        ("source", "i4"),
        ("kind", "U12"),
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("mag", "f8"),
        ("re", "f8"),
        ("n", "f8"),
        ("q", "f8"),
        ("pa", "f8"),
        ("snr", "f8"),
        ("n_pixels", "i4"),
        ("blend_fraction", "f8"),
        ("detectable", "?"),
    ]
)
"""What is true of each source (conventions of docs/conventions.md).

source
    0 is a stamp's target; its pixels in `labels` have the value source + 1.
kind
    star, or a galaxy's morphology: sersic, bulge_disc, structured, irregular, real.
re, n, q, pa
    Of all components together (n is NaN unless there is one); a star has re = 0, n = NaN.
snr
    Total, of its own light: sqrt(sum(light**2 / sigma**2)) over the unmasked image.
n_pixels
    Pixels of its mask; 0: its light is nowhere above the isophote, or a brighter source covers it.
blend_fraction
    Other sources' share of the light inside the ellipse of semi-major radius max(re, 1 px).
detectable
    False for the faint sources that a recipe adds below its cut.
"""


@dataclass(frozen=True)
class SourceLight:
    """A source's own noise-free light on a box: ``data[0, 0]`` is the image's pixel (y0, x0)."""

    y0: int
    x0: int
    data: np.ndarray


@dataclass(frozen=True)
class SimulatedObject:
    """One simulated stamp or frame.

    Attributes
    ----------
    id : str
    data : ndarray, float32, shape (ny, nx)
        Light + sky (+ noise, defects), image units.
    sigma : ndarray, float32, shape (ny, nx)
        The true 1-sigma noise.
    mask : ndarray, bool, shape (ny, nx)
        True = do not use.
    psf : PSF
        At the target, or at a frame's centre.
    sources : tuple of Source
        The target first, in a stamp.
    labels : ndarray, int32, shape (ny, nx)
        0 sky; i + 1 where source i's own light is above the isophote and brighter than any
        other's.
    truth : ndarray of `SOURCE_DTYPE`, shape (len(sources),)
    model : ndarray, float32, shape (ny, nx)
        Noise-free light of the target alone, PSF-convolved, without sky (a frame: 0).
    neighbour_light : ndarray, float32, shape (ny, nx)
        The same for all other sources together.
    sky : float
        Level per pixel at the image's centre.
    sky_rms : float
        Noise of an empty pixel.
    snr : float
        Total S/N of the target, ``sqrt(sum(model**2 / sigma**2))`` over the unmasked stamp.
    flags : int
        `Flag` bits that hold by construction: BLENDED, EDGE (label 1 touches the border),
        LOW_SNR, CENTRE_MASKED, SATURATED, CORRELATED_NOISE, POINT_SOURCE (the target is a star).
    pixel_scale : float
        arcsec per pixel.
    zeropoint : float
        AB magnitude of one image unit.
    gain : float
        Electrons per image unit.
    ra, dec : float
        Degrees, of the image's centre; north is up and east left.
    kind : str
        ``stamp`` or ``frame``.
    survey, filter : str
    artefacts : ndarray, uint8, shape (ny, nx), or None
        `Artefact` bits; not all of them are masked (an unmasked cosmic ray, a ghost).
    sky_map : ndarray, float32, shape (ny, nx), or None
        The sky where it is not flat.
    light : tuple of SourceLight, or None
        Every source's own light, in the order of `sources`.
    psf_grid : PSFGrid or None
        A frame's PSF everywhere.
    correlation : ndarray or None
        Autocorrelation of the noise (odd sides, 1 at the centre); None: white.
    """

    id: str
    data: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    psf: PSF
    sources: tuple[Source, ...]
    labels: np.ndarray
    truth: np.ndarray
    model: np.ndarray
    neighbour_light: np.ndarray
    sky: float
    sky_rms: float
    snr: float
    flags: int
    pixel_scale: float
    zeropoint: float
    gain: float
    ra: float = 150.0
    dec: float = 2.0
    kind: str = "stamp"
    survey: str = "simulated"
    filter: str = "r"
    artefacts: np.ndarray | None = None
    sky_map: np.ndarray | None = None
    light: tuple[SourceLight, ...] | None = field(default=None, repr=False)
    psf_grid: PSFGrid | None = None
    correlation: np.ndarray | None = None

    @property
    def target(self) -> Source:
        """The source at a stamp's centre."""
        return self.sources[0]

    @property
    def neighbours(self) -> tuple[Source, ...]:
        """All other sources."""
        return self.sources[1:] if self.kind == "stamp" else self.sources

    @property
    def noise_free(self) -> np.ndarray:
        """Light + sky, float32, shape (ny, nx)."""
        sky = np.float32(self.sky) if self.sky_map is None else self.sky_map
        return self.model + self.neighbour_light + sky

    @property
    def wcs(self) -> WCS:
        """Tangential projection: north up, east left, `ra`, `dec` at the image's centre."""
        ny, nx = self.data.shape
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [self.ra, self.dec]
        wcs.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
        wcs.wcs.cdelt = [-self.pixel_scale / 3600, self.pixel_scale / 3600]
        return wcs

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


def to_stamps(objects: Sequence[SimulatedObject]) -> list[Stamp]:
    """The stamps that reading these objects from files would give (no given labels)."""
    return [
        Stamp(
            **_read(item),
            saturated=item.mask & (item.labels > 0) if item.flags & Flag.SATURATED else None,
        )
        for item in objects
    ]


def _read(item: SimulatedObject) -> dict[str, Any]:
    names = ("id", "mask", "psf", "wcs", "pixel_scale", "zeropoint", "filter", "gain")
    return {name: getattr(item, name) for name in names} | {
        "data": np.where(item.mask, np.float32(0), item.data),
        "sigma": np.where(item.mask, np.float32(1), item.sigma),
    }


def to_frame(item: SimulatedObject) -> Frame:
    """The frame that reading a simulated frame from files would give."""
    saturated = None
    if item.artefacts is not None:
        saturated = (item.artefacts & (Artefact.SATURATED | Artefact.BLEED)) > 0
    return Frame(**_read(item), saturated=saturated)


_UNITS = {"x": u.pix, "y": u.pix, "mag": u.mag, "re": u.pix, "pa": u.deg}


def truth_table(objects: Sequence[SimulatedObject]) -> QTable:
    """Truth of each target: columns and units as in the fitted catalogue.

    Columns: id, x, y, flux, mag, re, re_arcsec, n, q, pa, sky, snr, flags, n_neighbours, kind,
    blend_fraction; for galaxies of several components ``flux_2``, ``re_2``, ... of the second and
    further ones too. Stars have re = 0 and n = NaN.
    """
    table = QTable()
    table["id"] = [item.id for item in objects]
    for name in ("x", "y", "flux", "mag", "re", "n", "q", "pa", "kind", "blend_fraction"):
        table[name] = [item.truth[name][0] for item in objects]
    table["re_arcsec"] = [item.target.re * item.pixel_scale for item in objects] * u.arcsec
    for name, unit in _UNITS.items():
        table[name].unit = unit
    table["sky"] = [item.sky for item in objects]
    table["snr"] = [item.snr for item in objects]
    table["flags"] = np.array([item.flags for item in objects], dtype=np.int32)
    table["n_neighbours"] = [len(item.neighbours) for item in objects]
    for k in range(max((len(item.target.components) for item in objects), default=0)):
        for name in ("kind", "flux", "re", "n", "q", "pa"):
            table[f"{name}_{k + 1}"] = [_component_value(item.target, k, name) for item in objects]
    table.meta["snr"] = "sqrt(sum(model**2 / sigma**2)) over the stamp"
    table.meta["pa"] = "degrees counter-clockwise from +y"
    return table


def _component_value(source: Source, k: int, name: str):
    if k < len(source.components):
        return getattr(source.components[k], name)
    return "" if name == "kind" else np.nan


def source_table(objects: Sequence[SimulatedObject]) -> QTable:
    """Truth of every source of every image: `SOURCE_DTYPE` with the image's id first."""
    table = QTable()
    counts = [len(item.truth) for item in objects]
    table["id"] = np.repeat([item.id for item in objects], counts)
    if objects:
        truth = np.concatenate([item.truth for item in objects])
        for name in SOURCE_DTYPE.names or ():
            table[name] = truth[name]
        for name, unit in _UNITS.items():
            table[name].unit = unit
    return table
