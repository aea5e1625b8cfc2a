"""Measure: sky, noise and point-spread functions, from arrays.

In: arrays. Out: numbers and arrays; nothing here knows of files, stamps or models. Each quantity
is measured by one function, whoever asks: readers (`autofit_ml.images`), segmenters, initialisers,
fits. The autocorrelation of noise works on tensors: `autofit_ml.measure.correlation` (not imported
here, because processes that only read images never load PyTorch).
"""

from autofit_ml.measure.background import background_map, large_objects
from autofit_ml.measure.binning import bin_images, block_sums
from autofit_ml.measure.moments import AdaptiveMoments, adaptive_moments
from autofit_ml.measure.noise import expected_source, model_sigma
from autofit_ml.measure.psf import (
    PSFImage,
    centre_distance,
    core_centroid,
    fourier_shift,
    lanczos_matrix,
    psf_fwhm,
)
from autofit_ml.measure.sky import (
    Sky,
    clipped_sky,
    measure_sky,
    mode_of_sky,
    object_mask,
    sky_at,
)
from autofit_ml.measure.stars import StarStack, find_stars, stack_stars

__all__ = [
    "AdaptiveMoments",
    "PSFImage",
    "Sky",
    "StarStack",
    "adaptive_moments",
    "background_map",
    "bin_images",
    "block_sums",
    "centre_distance",
    "clipped_sky",
    "core_centroid",
    "expected_source",
    "find_stars",
    "fourier_shift",
    "lanczos_matrix",
    "large_objects",
    "measure_sky",
    "mode_of_sky",
    "model_sigma",
    "object_mask",
    "psf_fwhm",
    "sky_at",
    "stack_stars",
]
