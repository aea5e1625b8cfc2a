"""PSFs from the stars of a frame: one for all of it, or one that varies."""

import dataclasses
import functools

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import errors_of_file
from autofit_ml.images.psf import centre_psf
from autofit_ml.images.stamp import PSF, Frame, VaryingPSF
from autofit_ml.measure import (
    StarField,
    StarStack,
    fit_star_field,
    psf_fwhm,
    stack_candidates,
    star_candidates,
)

__all__ = ["psf_from_stars", "with_star_psf"]

MODES = 6
"""Independent parameters in which a PSF's uncertainty is described."""

RESAMPLES = 48
"""Samples of the stars that tell it."""

UNDERSAMPLED = 2.0
"""FWHM, pixels, below which stars moved by parts of a pixel are no good PSF."""


def psf_from_stars(
    frame: Frame, modes: int = 0, resamples: int = 48
) -> tuple[PSF, tuple[str, ...]]:
    """Build one PSF for a frame from its stars (`autofit_ml.measure.stack_stars`).

    Parameters
    ----------
    frame : Frame
        At least three good stars; the PSF is assumed not to vary over the frame.
    modes, resamples : int
        As for `stack_stars`: with `modes`, the PSF's uncertainty is measured too.

    Returns
    -------
    psf : PSF
        Contains the pixel; ``source`` is "stars".
    messages : tuple of str

    Raises
    ------
    InputError
        Fewer than three good stars (five with `modes`).
    """
    with errors_of_file(frame.file):
        candidates = star_candidates(frame.data, frame.sigma, frame.mask)
        stack = stack_candidates(candidates, modes=modes, resamples=resamples)
    return _of_stack(stack, frame.file)


def with_star_psf(frame: Frame, model: str | None = None) -> Frame:
    """A frame with the PSF that its stars show.

    Parameters
    ----------
    frame : Frame
        At least three good stars. Its own PSF is not used.
    model : {None, "pixels", "stack"}
        None: a PSF that varies if the stars say so (`autofit_ml.measure.fit_star_field`); "pixels":
        with its uncertainty; "stack": the same everywhere.

    Raises
    ------
    InputError
        Fewer than three good stars (five for "pixels").
    """
    resamples, modes = (RESAMPLES, MODES) if model == "pixels" else (0, 0)
    with errors_of_file(frame.file):
        candidates = star_candidates(frame.data, frame.sigma, frame.mask)
        field = None if model == "stack" else fit_star_field(candidates, resamples=resamples)
        stack = stack_candidates(candidates, modes=modes) if field is None else None
    varying = None
    if stack is not None:
        psf, messages = _of_stack(stack, frame.file)
    elif field is not None:
        varying, psf, messages = _of_field(field, frame.data.shape)
    return frame.replace(
        psf=psf,
        varying_psf=varying,
        flags=frame.flags | int(Flag.PSF_ESTIMATED),
        messages=(*frame.messages, *messages),
    )


def _of_stack(stack: StarStack, file: str) -> tuple[PSF, tuple[str, ...]]:
    psf, _ = centre_psf(stack.image, source="stars", file=file)
    width = psf_fwhm(psf)
    messages = [f"PSF built from {stack.number} stars, FWHM {width:.2f} px, the same everywhere"]
    return PSF(psf.data, source="stars", modes=stack.modes), (*messages, *_sampling(width))


def _of_field(field: StarField, shape: tuple[int, ...]) -> tuple[VaryingPSF, PSF, tuple[str, ...]]:
    changes = None if field.draws is None else functools.partial(field.changes, number=MODES)
    varying = VaryingPSF(field, source="stars", changes=changes)
    ny, nx = shape
    psf = varying.psf((nx - 1) / 2, (ny - 1) / 2)
    x, y = (np.ravel(place) for place in np.meshgrid((0, nx / 2, nx - 1), (0, ny / 2, ny - 1)))
    widths = [psf_fwhm(dataclasses.replace(psf, data=image)) for image in varying.at(x, y)]
    width = psf_fwhm(psf)
    message = (
        f"PSF built from {field.number} stars, FWHM {width:.2f} px in the middle and "
        f"{min(widths):.2f} to {max(widths):.2f} over the frame (degree {field.degree})"
    )
    return varying, psf, (message, *_sampling(width))


def _sampling(width: float) -> tuple[str, ...]:
    if width >= UNDERSAMPLED:
        return ()
    return ("the PSF is undersampled: give an oversampled one for good results",)
