"""Images brought onto one grid, with their noise and masks."""

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_scales

from autofit_ml.errors import InputError
from autofit_ml.extras import needs
from autofit_ml.images.stamp import Frame

__all__ = ["aligned"]

SAME = 0.02
"""Pixels by which two grids may differ and be the same."""

SCALES = 0.02
"""Share by which pixel scales may differ where stars alone say how images lie."""


def aligned(image: Frame, like: Frame) -> tuple[Frame, str]:
    """Resample an image to the pixels of another one.

    Interpolation correlates the noise of neighbouring pixels and makes that of each smaller; summed
    over a few pixels, which is what fluxes are, noise stays what it was. So variances are carried
    along as they are (times the ratio of pixel areas, squared where pixels get larger), not as
    those of the interpolated pixels.

    Parameters
    ----------
    image, like : Frame

    Returns
    -------
    Frame
        The image itself where the grids are the same; masked where it does not reach, or where
        interpolation used a masked pixel.
    str
        What was done; "" for nothing.

    Raises
    ------
    InputError
        The images have no WCS and no stars in common, or do not overlap.
    """
    if image.wcs is None or like.wcs is None:
        if image.data.shape == like.data.shape and _moves_by(image, like) < 0.5:
            return image, ""
        return _by_stars(image, like)
    x, y = _corners(like)
    ra, dec = like.wcs.pixel_to_world_values(x, y)
    there = np.stack(image.wcs.world_to_pixel_values(ra, dec))
    if image.data.shape == like.data.shape and np.abs(there - [x, y]).max() < SAME:
        return image, ""
    ny, nx = image.data.shape
    inside = (there[0] > -0.5) & (there[0] < nx - 0.5) & (there[1] > -0.5) & (there[1] < ny - 0.5)
    if not np.isfinite(there).all() or not (inside.any() or _covers(there, x, y)):
        raise InputError("the images do not overlap on the sky", "look at their WCS", image.file)
    with needs("difference", "aligning images"):
        from reproject import reproject_interp
    ratio = np.prod(proj_plane_pixel_scales(like.wcs) / proj_plane_pixel_scales(image.wcs))

    def onto(plane: np.ndarray, order: str) -> np.ndarray:
        return reproject_interp(
            (plane, image.wcs), like.wcs, shape_out=like.data.shape, order=order,
            return_footprint=False,
        )  # fmt: skip

    data = onto(np.where(image.mask, 0, image.data).astype(float), "bicubic") * ratio
    # Samples of larger pixels than the image's own are as noisy as these, and independent.
    larger = ratio * max(ratio, 1.0)
    variance = onto(image.sigma.astype(float) ** 2, "nearest-neighbor") * larger
    bits = (
        None if image.mask_bits is None else onto(image.mask_bits.astype(float), "nearest-neighbor")
    )
    bad = onto(image.mask.astype(float), "bilinear")
    text = f"resampled to the pixels of {like.id}"
    return _placed(image, like, data, variance, ~(bad < 0.01), bits), text


def _covers(there: np.ndarray, x: np.ndarray, y: np.ndarray) -> bool:
    """True if an image lies within the footprint of the other, whose points are all outside."""
    spans = zip(there, (x, y), strict=True)
    return all(seen.min() < 0 and seen.max() > given.min() for seen, given in spans)


def _corners(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    ny, nx = frame.data.shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5))
    return x.ravel(), y.ravel()


def _placed(
    image: Frame, like: Frame, data: np.ndarray, variance: np.ndarray, bad: np.ndarray,
    bits: np.ndarray | None,
) -> Frame:  # fmt: skip
    bad = bad | ~np.isfinite(data) | ~(variance > 0)
    return image.replace(
        data=np.where(bad, 0, data).astype(np.float32),
        sigma=np.sqrt(np.where(bad, 1, variance)).astype(np.float32),
        mask=bad,
        mask_bits=None if bits is None else np.nan_to_num(bits).astype(np.int64),
        wcs=like.wcs,
        pixel_scale=like.pixel_scale,
        saturated=None,
        background_sigma=None,
    )


def _moves_by(image: Frame, like: Frame) -> float:
    """Pixels between the two images' light, by phase correlation."""
    from skimage.registration import phase_cross_correlation

    def light(frame: Frame) -> np.ndarray:
        quiet = np.where(frame.mask, 0, frame.data - np.median(frame.data[~frame.mask]))
        return np.clip(quiet / frame.sigma, 0, 50)

    shift, _, _ = phase_cross_correlation(light(like), light(image), normalization=None)
    return float(np.abs(shift).max())


def _by_stars(image: Frame, like: Frame) -> tuple[Frame, str]:
    """Alignment by the triangles that stars make, for images without a WCS."""
    with needs("difference", "aligning images without a WCS"):
        import astroalign
    from skimage.transform import warp

    quiet = [np.where(one.mask, np.median(one.data), one.data) for one in (image, like)]
    try:
        found, _ = astroalign.find_transform(*quiet)
    except (astroalign.MaxIterError, TypeError, ValueError) as error:
        raise InputError(
            f"the stars of the images do not match ({error})", "give images with a WCS", image.file
        ) from error
    if abs(found.scale - 1) > SCALES:
        raise InputError(
            f"the images have pixels of other sizes (by {found.scale:.3f})",
            "give images with a WCS", image.file,
        )  # fmt: skip

    def onto(plane: np.ndarray, order: int, outside: float) -> np.ndarray:
        return warp(
            plane.astype(float), found.inverse, output_shape=like.data.shape, order=order,
            cval=outside, preserve_range=True,
        )  # fmt: skip

    data = onto(np.where(image.mask, 0, image.data), 3, 0.0)
    variance = onto(image.sigma**2, 0, 0.0)
    bad = onto(image.mask, 1, 1.0) > 0.01
    bits = None if image.mask_bits is None else onto(image.mask_bits, 0, 0.0)
    return _placed(image, like, data, variance, bad, bits), f"aligned to {like.id} by its stars"
