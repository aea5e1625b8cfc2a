"""`Subtraction`: a difference with its images, as arrays and tables."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import ArrayLike

from autofit_ml.difference.align import aligned
from autofit_ml.difference.detection import detect_changes
from autofit_ml.difference.photometry import Whitened, fluxes, point_image, whitened, with_pixel
from autofit_ml.difference.subtract import Difference, subtract_images
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.memory import images_in_memory
from autofit_ml.images.reader import read_frame
from autofit_ml.images.sky_coordinates import sky_positions
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.images.star_psf import psf_from_stars
from autofit_ml.options import called_with
from autofit_ml.settings import InMemory, ReadOptions, SubtractCall, SubtractSettings

__all__ = ["MASK_BITS", "Subtraction", "subtract", "subtract_frames"]

MASK_BITS = {"SCIENCE": 1, "REFERENCE": 2, "REACHED": 4, "SATURATED": 8, "NOT_FITTED": 16}
"""Bad in the science image; in the reference (where it does not reach, too); good, with bad pixels
under the kernel; saturated; not among the pixels that the kernel was fitted to."""


@dataclass(frozen=True)
class Subtraction:
    """Science minus reference on the pixels of the science image.

    Attributes
    ----------
    result : Difference
        Tensors, kernel and covariances.
    science, reference : Frame
        The reference is brought onto the science image's pixels.
    messages : tuple of str
        What was built or assumed.
    """

    result: Difference
    science: Frame
    reference: Frame
    messages: tuple[str, ...] = ()

    @property
    def difference(self) -> np.ndarray:
        """Difference in units of the image that was not convolved, (ny, nx); 0 where masked."""
        return self.result.difference.numpy()

    @property
    def variance(self) -> np.ndarray:
        """Variance of each pixel: noise of both images, kernel, background and model, (ny, nx)."""
        return self.result.variance.numpy()

    @property
    def mask(self) -> np.ndarray:
        """True where there is no difference, (ny, nx)."""
        return ~self.result.good.numpy()

    @property
    def bits(self) -> np.ndarray:
        """Why there is no difference, (ny, nx), uint8: the sum of `MASK_BITS`."""
        fixed, moved = self.result.fixed.good, self.result.moved.good
        science, reference = (fixed, moved) if self.convolved == "reference" else (moved, fixed)
        saturated = [one.saturated for one in (self.science, self.reference)]
        planes = {
            "SCIENCE": ~science.numpy(),
            "REFERENCE": ~reference.numpy(),
            "REACHED": self.mask & (fixed & moved).numpy(),
            "SATURATED": functools.reduce(
                np.logical_or, (s for s in saturated if s is not None), np.zeros_like(self.mask)
            ),
            "NOT_FITTED": self.result.kernel.fitted.numpy() <= 0,
        }
        return sum(
            (MASK_BITS[name] * plane.astype(np.uint8) for name, plane in planes.items()),
            np.zeros(self.mask.shape, np.uint8),
        )

    @property
    def kernel(self) -> np.ndarray:
        """Kernel at the centre of the image, (size, size)."""
        return self.result.kernel.planes[0].numpy()

    @property
    def convolved(self) -> str:
        """Image that was convolved: "reference" or "science"."""
        return self.result.convolved

    @property
    def choice(self) -> str:
        """The image that was convolved, and the reason."""
        tried = ", ".join(f"{name} {value:.3f}" for name, value in self.result.amplified.items())
        return f"{self.convolved} is convolved; noise amplified by a kernel: {tried}"

    @property
    def scale(self) -> float:
        """Flux in the science image of a source with flux 1 in the reference."""
        return self.result.scale[0]

    @property
    def scale_err(self) -> float:
        """1-sigma error of `scale`."""
        return self.result.scale[1]

    @functools.cached_property
    def whitened(self) -> Whitened:
        """Difference with white noise, its PSF, and the S/N of a point source at each pixel."""
        return whitened(self.result, torch.as_tensor(point_image(self._own_psf)))

    def photometry(self, x: ArrayLike, y: ArrayLike, psf: ArrayLike | None = None) -> QTable:
        """Measure fluxes of point sources at given places.

        Parameters
        ----------
        x, y : array_like, (n,)
            0-based pixels of the science image.
        psf : array_like, (h, w), optional
            Of the science image; that of the images by default.

        Returns
        -------
        QTable
            ``x y flux flux_err``, in units of the science image; NaN where over half of the PSF is
            masked or outside.

        Raises
        ------
        InputError
            There is no PSF, and too few stars to build one.
        """
        x, y = (np.atleast_1d(np.asarray(v, float)) for v in (x, y))
        shape, step = self._psf(psf)
        at = torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(shape)
        flux, error = fluxes(self.result, *at, oversampling=step, excess=self.whitened.excess)
        return QTable({"x": x, "y": y, "flux": flux.numpy(), "flux_err": error.numpy()})

    def changes(self, threshold: float = 5.0) -> QTable:
        """Find what has changed; see `autofit_ml.difference.detect_changes`.

        With a WCS the table has ``ra`` and ``dec`` (ICRS, degrees) too.
        """
        shape, step = self._psf(None)
        table = detect_changes(self.result, self.whitened, shape, threshold, oversampling=step)
        if self.science.wcs is not None:
            ra, dec = sky_positions(self.science.wcs, table["x"], table["y"])
            table.add_columns([ra, dec], names=["ra", "dec"], indexes=[2, 2])
        return table

    @functools.cached_property
    def _own_psf(self) -> PSF:
        """PSF of the science image, as given or from its stars."""
        return self.science.psf or psf_from_stars(self.science)[0]

    def _psf(self, given: ArrayLike | None) -> tuple[np.ndarray, int]:
        """A PSF, that of the science image by default, and its oversampling."""
        if given is None:
            return with_pixel(self._own_psf), self._own_psf.oversampling
        psf = np.asarray(given, float)
        if psf.ndim != 2 or not all(side % 2 for side in psf.shape):
            raise InputError(
                f"the PSF has the shape {psf.shape}", "give two odd sides, the source in the middle"
            )
        return psf / psf.sum(), 1


def subtract_frames(
    science: Frame,
    reference: Frame,
    settings: SubtractSettings | None = None,
    *,
    leave_out: np.ndarray | None = None,
) -> Subtraction:
    """Subtract a reference, brought onto the science image's pixels where need be.

    Parameters
    ----------
    science, reference : Frame
    settings : SubtractSettings, optional
    leave_out : ndarray, (ny, nx), bool, optional, keyword-only
        As of `subtract_images`, on the pixels of the science image.

    Raises
    ------
    InputError
        As of `aligned` and `subtract_images`; no PSF and too few stars to build one.
    """
    said: tuple[str, ...] = ()
    if science.psf is None:
        psf, said = psf_from_stars(science)
        science = science.replace(psf=psf)
    placed, note = aligned(reference, science)
    result = subtract_images(science, placed, settings, leave_out=leave_out)
    return Subtraction(result, science, placed, (*said, *filter(None, [note])))


@called_with(SubtractCall)
def subtract(call: SubtractCall) -> Subtraction:
    """Subtract a reference image from a science image, and keep what their noise makes of it.

    Parameters
    ----------
    science, reference : Frame, or an image as `autofit_ml.fit` takes them
        Array, NDData, CCDData, Cutout2D or HDUList; with a WCS each they need not share pixels.

    Returns
    -------
    Subtraction

    Raises
    ------
    SettingsError
        An image is missing.
    InputError
        The images cannot be read, aligned or subtracted.
    """
    if call.science is None or call.reference is None:
        raise SettingsError("an image is missing", "give a science image and a reference")
    beside = {"sigma": call.sigma, "mask": call.mask, "wcs": call.wcs, "psf": call.psf}
    science = _frame("science", call.science, beside)
    given = (call.reference_sigma, call.reference_mask, call.reference_wcs)
    planes = dict(zip(("sigma", "mask", "wcs"), given, strict=True))
    return subtract_frames(
        science, _frame("reference", call.reference, planes), call.part(SubtractSettings),
        leave_out=call.leave_out,
    )  # fmt: skip


def _frame(name: str, image: Any, planes: dict[str, Any]) -> Frame:
    """An image with what was given beside it."""
    if isinstance(image, Frame):
        return image
    given = {key: value for key, value in planes.items() if value is not None}
    (source,) = images_in_memory(image, InMemory(ids=name, **given))
    return read_frame(source, ReadOptions(mode="frame"))
