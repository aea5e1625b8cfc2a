"""Channels that the Mask R-CNN sees, made from images."""

from dataclasses import dataclass

import torch

__all__ = ["CHANNELS", "Preprocessing", "prepare"]

CHANNELS = 4
"""Of the input: three of the signal, one for the width of the PSF (`prepare`)."""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image into the network's channels.

    Attributes
    ----------
    soft, hard : float
        Softening of the two asinh channels, units of the sky noise.
    clip : (low, high)
        Of the linear channel, units of the sky noise.
    psf_fwhm : (low, high)
        pixels; images with a PSF outside are resampled so that it becomes `resampled_fwhm`.
    resampled_fwhm : float
    """

    soft: float = 1.0
    hard: float = 20.0
    clip: tuple[float, float] = (-3.0, 6.0)
    psf_fwhm: tuple[float, float] = (1.5, 6.0)
    resampled_fwhm: float = 3.0

    def zoom(self, psf_fwhm: float) -> float:
        """Factor by which an image of this seeing is resampled; 1 where that is not needed."""
        low, high = self.psf_fwhm
        if not psf_fwhm > 0 or low <= psf_fwhm <= high:
            return 1.0
        return self.resampled_fwhm / psf_fwhm


def prepare(
    image: torch.Tensor,
    sky: torch.Tensor | float,
    rms: torch.Tensor | float,
    fwhm: torch.Tensor | float,
    mask: torch.Tensor | None = None,
    preprocessing: Preprocessing | None = None,
) -> torch.Tensor:
    """The network's channels.

    Parameters
    ----------
    image : Tensor, shape (..., ny, nx)
        Image units.
    sky, rms : float or Tensor that broadcasts
        Robust level and scatter of the sky.
    fwhm : float or Tensor that broadcasts
        Of the PSF, pixels.
    mask : Tensor, bool, shape (..., ny, nx), optional
        True = do not use: set to the sky.
    preprocessing : Preprocessing, optional

    Returns
    -------
    Tensor, float32, shape (..., 4, ny, nx)
        ``asinh(s / soft) / 3``, ``asinh(s / hard)`` and the clipped ``s / 3`` of the signal s in
        units of the sky noise; ``ln(fwhm / 3)`` everywhere: how large a star is.
    """
    settings = preprocessing or Preprocessing()
    signal = (image - sky) / rms
    if mask is not None:
        signal = torch.where(mask, torch.zeros_like(signal), signal)
    return torch.stack(
        [
            torch.asinh(signal / settings.soft) / 3,
            torch.asinh(signal / settings.hard),
            signal.clamp(*settings.clip) / 3,
            torch.as_tensor(fwhm).to(signal).clamp_min(0.5).div(3).log().expand_as(signal),
        ],
        dim=-3,
    ).float()
