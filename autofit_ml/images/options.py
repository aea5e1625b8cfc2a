"""Limits of images; what a user may say about them is declared in `autofit_ml.settings`."""

from autofit_ml.settings import FITTED_PSFS, ReadOptions

__all__ = ["FITTED_PSFS", "FRAME_SIDE", "MAX_STAMP_SIDE", "MIN_SIDE", "ReadOptions"]

FRAME_SIDE = 512
"""An image larger than this along either axis is a frame in mode "auto" (pixels)."""

MAX_STAMP_SIDE = 4096
"""A stamp larger than this is refused: one galaxy is not fitted on that many pixels."""

MIN_SIDE = 5
"""Smallest side of an image (pixels)."""
