"""Images as readers return them: one object (`Stamp`) or one large image (`Frame`)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from astropy.wcs import WCS
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.sky_coordinates import packed_wcs, unpacked_wcs
from autofit_ml.measure import large_objects

__all__ = ["PSF", "Frame", "Stamp", "VaryingPSF"]


CENTROID_TOLERANCE = 0.05
"""A PSF off its array's centre by more than this (PSF pixels) along an axis is recentred."""

_EXTRAPOLATED = 0.25
"""How far beyond its region a varying PSF is believed, in the region's sides."""


@dataclass(frozen=True)
class PSF:
    """A point-spread function image, normalised and centred.

    Attributes
    ----------
    data : ndarray, float32, shape (h, w)
        Sums to 1. The source sits at ``((h - 1) / 2, (w - 1) / 2)`` exactly.
    has_pixel : bool
        True (empirical PSFs): the PSF contains the detector pixel. False (optical PSF): the
        renderer convolves with the pixel.
    oversampling : int
        PSF pixels per image pixel along each axis (>= 1).
    shift : tuple of float
        (dx, dy) in PSF pixels by which the given PSF was recentred.
    source : str
        Where it comes from: a file, "analytic", "stars", "none".
    modes : ndarray, float32, shape (k, h, w), or None
        How uncertain it is: changes of `data` by one standard deviation of each of k independent
        parameters. A fit then has these k numbers as parameters with a unit Gaussian prior.
    """

    data: np.ndarray
    has_pixel: bool = True
    oversampling: int = 1
    shift: tuple[float, float] = (0.0, 0.0)
    source: str = ""
    modes: np.ndarray | None = None


@dataclass(frozen=True)
class VaryingPSF:
    """A point-spread function that depends on the position in an image.

    Attributes
    ----------
    model : callable
        ``model(x, y)`` with arrays of n positions gives n images, shape (n, h, w), of any positive
        sum, the source at ``((h - 1) / 2, (w - 1) / 2)``. The shape is the same everywhere.
    has_pixel, oversampling, source
        As in `PSF`, the same everywhere.
    region : tuple of float
        (x0, x1, y0, y1) from where the model is known: of the stars that made it. Beyond it, by up
        to a quarter of its size, the model is extrapolated.
    changes : callable, optional
        ``changes(x, y)`` for one position: `PSF.modes` there, relative to a sum of 1.

    Positions are 0-based pixels of the image that the PSF is for.
    """

    model: Callable[[np.ndarray, np.ndarray], np.ndarray]
    has_pixel: bool = True
    oversampling: int = 1
    source: str = ""
    region: tuple[float, float, float, float] = (-math.inf, math.inf, -math.inf, math.inf)
    changes: Callable[[float, float], np.ndarray] | None = None

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """PSF images at positions.

        Parameters
        ----------
        x, y : array_like, shape (n,)
            0-based pixels.

        Returns
        -------
        ndarray, float32, shape (n, h, w)
            Each sums to 1; with the detector pixel if `has_pixel`, `oversampling` PSF pixels per
            image pixel.

        Raises
        ------
        InputError
            A position is not finite, or over a quarter of the region's side outside of it.
        """
        x, y = (np.atleast_1d(np.asarray(value, np.float64)) for value in (x, y))
        x0, x1, y0, y1 = self.region
        dx, dy = _EXTRAPOLATED * (x1 - x0), _EXTRAPOLATED * (y1 - y0)
        inside = (x >= x0 - dx) & (x <= x1 + dx) & (y >= y0 - dy) & (y <= y1 + dy)
        wrong = ~(inside & np.isfinite(x + y))
        if wrong.any():
            k = int(np.argmax(wrong))
            raise InputError(
                f"the PSF model is not known at pixel ({x[k]:g}, {y[k]:g}): it was made from x = "
                f"{x0:.0f} to {x1:.0f} and y = {y0:.0f} to {y1:.0f}",
                "check that it belongs to this image (a stamp that was cut out of a larger image "
                "says where by LTV1 and LTV2)",
                self.source,
            )
        images = self.model(x, y)
        total = images.sum(axis=(1, 2), keepdims=True)
        if not np.all(np.isfinite(total) & (total > 0)):
            k = int(np.argmin(np.isfinite(total) & (total > 0)))
            raise InputError(
                f"the PSF model has a sum of {total[k, 0, 0]:.3g} at pixel ({x[k]:g}, {y[k]:g})",
                "check that it belongs to this image",
                self.source,
            )
        return (images / total).astype(np.float32)

    def shifted(self, x0: float, y0: float) -> Self:
        """The same for an image that begins at a pixel (x0, y0) of this one."""
        changes, (a, b, c, d) = self.changes, self.region
        return dataclasses.replace(
            self,
            model=lambda x, y: self.model(x + x0, y + y0),
            region=(a - x0, b - x0, c - y0, d - y0),
            changes=None if changes is None else lambda x, y: changes(x + x0, y + y0),
        )

    def psf(self, x: float, y: float) -> PSF:
        """The PSF at one position, with its uncertainty where that is known."""
        image = self.at(np.array([x]), np.array([y]))[0]
        modes = None if self.changes is None else self.changes(x, y).astype(np.float32)
        return PSF(image, self.has_pixel, self.oversampling, source=self.source, modes=modes)


@dataclass(frozen=True)
class _Image:
    """Attributes that stamps and frames have in common; see `Stamp`."""

    id: str
    data: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    saturated: np.ndarray | None = field(default=None, kw_only=True)
    wcs: WCS | None = field(default=None, kw_only=True)
    pixel_scale: float = field(default=math.nan, kw_only=True)
    zeropoint: float = field(default=math.nan, kw_only=True)
    filter: str = field(default="", kw_only=True)
    gain: float = field(default=math.nan, kw_only=True)
    flags: int = field(default=0, kw_only=True)
    messages: tuple[str, ...] = field(default=(), kw_only=True)
    file: str = field(default="", kw_only=True)
    unit: str = field(default="", kw_only=True)
    background_sigma: np.ndarray | None = field(default=None, kw_only=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Stamp(_Image):
    """One object to fit. All arrays are ``[y, x]`` and native-endian.

    Attributes
    ----------
    id : str
        Unique within a run, a safe file name.
    data : ndarray, float32, shape (ny, nx)
        Image units; finite everywhere (bad pixels are set to 0 and masked).
    sigma : ndarray, float32, shape (ny, nx)
        1-sigma noise per pixel, image units; finite and > 0 (1 where masked as unusable).
    mask : ndarray, bool, shape (ny, nx)
        True = do not use.
    psf : PSF
    x, y : float or None
        Expected position of the target, 0-based **stamp** pixels; None: the centre.
    origin : tuple of int
        (x0, y0) of the stamp's first pixel in the file's image; catalogue positions are in the
        file's pixels (stamp position + origin).
    labels : ndarray, int32, or None
        Segmentation given with the image (0 = sky).
    target_label : int or None
        Label of the target in `labels`.
    label_classes : mapping of int to str
        label -> "galaxy" or "star", where known.
    saturated : ndarray, bool, or None
        True where the detector saturated (these pixels are in `mask` too).
    wcs : astropy.wcs.WCS or None
        Of the stamp's pixels (already shifted by `origin`).
    pixel_scale : float
        arcsec per pixel; NaN if unknown.
    zeropoint : float
        AB magnitude of one image unit; NaN if unknown.
    filter : str
    gain : float
        Electrons per image unit; NaN if unknown.
    sky_prior : tuple of float or None
        (level, error) of the sky measured *outside* this stamp, image units per pixel.
    flags : int
        Bits of `autofit_ml.catalogue.Flag` known at reading (SIGMA_ESTIMATED, ...).
    messages : tuple of str
        Repairs and assumptions, for the ``message`` column.
    file : str
        The image's file as given by the user.
    unit : str
        Of the image, as its header says; "" if it does not.
    noise_correlation : ndarray or None
        Correlation of the noise of pixels up to some lags apart, shape (2 L + 1, 2 L + 1), 1 in the
        middle; None: not known, or none. Read by `autofit_ml.deconvolution`; fits measure theirs.
    background_sigma : ndarray, float32, shape (ny, nx), or None
        `sigma` without the photons of the objects, where it was built with a gain: the fit puts
        those of its model there.
    """

    psf: PSF
    x: float | None = None
    y: float | None = None
    origin: tuple[int, int] = (0, 0)
    labels: np.ndarray | None = None
    target_label: int | None = None
    label_classes: Mapping[int, str] = field(default_factory=dict)
    sky_prior: tuple[float, float] | None = None
    noise_correlation: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"wcs": packed_wcs(self.wcs)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, wcs=unpacked_wcs(state["wcs"]))

    @property
    def of_frame(self) -> bool:
        """True of objects of a frame: ``<frame>@<number>`` (no other id holds an ``@``)."""
        return "@" in self.id

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.data.shape

    @property
    def position(self) -> tuple[float, float]:
        """Expected (x, y) of the target in stamp pixels."""
        ny, nx = self.data.shape
        x = (nx - 1) / 2 if self.x is None else self.x
        y = (ny - 1) / 2 if self.y is None else self.y
        return x, y


@dataclass(frozen=True)
class Frame(_Image):
    """A large image with many objects; attributes as in `Stamp`.

    Attributes
    ----------
    psf : PSF or None
        In the middle of the frame; None until one is built from the frame's own stars.
    varying_psf : VaryingPSF or None
        Everywhere in the frame; None: `psf` is.
    mask_bits : ndarray, int64, shape (ny, nx), or None
        The mask as its file has it, where its bits mean something.
    """

    psf: PSF | None = None
    varying_psf: VaryingPSF | None = None
    mask_bits: np.ndarray | None = None

    def psf_at(self, x: float, y: float) -> PSF:
        """The PSF at one position (0-based pixels), with its uncertainty where that is known.

        Raises
        ------
        InputError
            The frame has no PSF, or none there.
        """
        if self.varying_psf is not None:
            return self.varying_psf.psf(x, y)
        if self.psf is None:
            raise InputError(
                "the frame has no PSF", "give --psf FILE or --psf-fwhm ARCSEC", self.file
            )
        return self.psf

    def psfs_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """PSF images at positions, each with a sum of 1: `VaryingPSF.at`.

        Whether they contain the pixel and how they are sampled says `psf`.

        Parameters
        ----------
        x, y : array_like, shape (n,)
            0-based pixels.

        Returns
        -------
        ndarray, float32, shape (n, h, w)

        Raises
        ------
        InputError
            As `psf_at`.
        """
        if self.varying_psf is not None:
            return self.varying_psf.at(x, y)
        image = self.psf_at(0.0, 0.0).data
        return np.broadcast_to(image, (np.size(x), *image.shape))

    def cropped(self, x0: int, x1: int, y0: int, y1: int) -> Self:
        """Columns x0 to x1 and rows y0 to y1 (exclusive), with their own WCS and PSF."""
        part = (slice(y0, y1), slice(x0, x1))
        names = ("data", "sigma", "mask", "saturated", "background_sigma", "mask_bits")
        planes = {name: getattr(self, name) for name in names}
        psf, varying = self.psf, self.varying_psf
        if varying is not None:
            psf, varying = (
                varying.psf((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2),
                varying.shifted(x0, y0),
            )
        return self.replace(
            wcs=None if self.wcs is None else self.wcs[part],
            psf=psf,
            varying_psf=varying,
            **{k: np.ascontiguousarray(one[part]) for k, one in planes.items() if one is not None},
        )

    @functools.cached_property
    def large(self) -> np.ndarray | None:
        """Regions, numbered from 1, of objects larger than a background's mesh; None: no such."""
        covered, _ = large_objects(np.where(self.mask, 0.0, self.data), self.mask)
        return np.asarray(ndimage.label(covered)[0]) if covered.any() else None
