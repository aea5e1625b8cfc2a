"""Sérsic parameters with the uncertainty of the deconvolution, from samples of sharp images.

In: a `Sharp`. Out: `SampleFits`: one Sérsic profile fitted to each sample, and what the profile
leaves, averaged over the samples (arms, bars, knots, companions).
"""

from dataclasses import dataclass

import numpy as np

from autofit_ml.deconvolution.summary import Sharp
from autofit_ml.deconvolution.target import target_psf
from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import start_from_moments
from autofit_ml.initialisation.starts import Starts
from autofit_ml.scenes import sersic
from autofit_ml.segmentation import Segmentation

__all__ = ["NAMES", "SampleFits", "fit_samples"]

NAMES = ("x", "y", "flux", "re", "n", "q", "pa")


@dataclass(frozen=True)
class SampleFits:
    """Sérsic parameters of every sample.

    Attributes
    ----------
    values : ndarray, shape (N, 7)
        Columns `NAMES`, in **data** pixels and the input's units; NaN where a fit failed.
    structure : ndarray, float32, shape (y, x)
        Samples minus their own Sérsic profiles, mean; flux per output pixel.
    significance : ndarray, float32, shape (y, x)
        That over its scatter from sample to sample.
    """

    values: np.ndarray
    structure: np.ndarray
    significance: np.ndarray

    def interval(self, name: str) -> tuple[float, float]:
        """Median, and half of the central 68.3 % interval; angles about their mean direction."""
        column = self.values[:, NAMES.index(name)]
        column = column[np.isfinite(column)]
        if len(column) < 2:
            return float("nan"), float("nan")
        if name == "pa":
            mean = 0.5 * np.angle(np.exp(2j * np.radians(column)).mean(), deg=True)
            column = mean + (column - mean + 90.0) % 180.0 - 90.0
        low, middle, high = np.quantile(column, [0.15865, 0.5, 0.84135])
        return float(middle % 180.0 if name == "pa" else middle), float((high - low) / 2)


def fit_samples(sharp: Sharp, position: tuple[float, float]) -> SampleFits:
    """Fit one Sérsic profile to each sample of an object.

    All pixels count alike, those that were masked in the data do not; the PSF is the target's. The
    spread of the results is the uncertainty of the parameters under the learned prior: noise, PSF
    and what the deconvolution does not know together.

    Parameters
    ----------
    sharp : Sharp
    position : tuple of float
        (x, y) of the target in data pixels.

    Returns
    -------
    SampleFits
    """
    s = sharp.oversampling
    mask = np.repeat(np.repeat(sharp.mask, s, axis=0), s, axis=1)
    finite = sharp.residual[np.isfinite(sharp.residual)]
    low, high = np.quantile(finite, [0.15865, 0.84135])
    sigma = max(float(high - low) / 2, 1e-30) / s**2
    psf = target_psf(sharp.target_fwhm)
    ny, nx = sharp.mean.shape
    x, y = (s * at + (s - 1) / 2 for at in position)  # output pixels
    whole = Segmentation(
        np.ones((ny, nx), np.int32), 1, np.zeros((ny, nx), bool), 0.0, sigma, method="given"
    )

    def stamp(name: str, image: np.ndarray) -> Stamp:
        noise = np.full(image.shape, sigma, np.float32)
        return Stamp(name, image.astype(np.float32), noise, mask, psf, x, y)

    mean = stamp(sharp.id, sharp.mean)
    moments = start_from_moments([mean], [whole])
    settings = RefineSettings(prior="none")  # the samples have the learned one already
    best = refine([mean], sersic(sky="fixed"), moments, [whole], settings)
    first = best.values[0] if np.isfinite(best.values[0]).all() else moments.values[0]
    number = len(sharp.samples)
    starts = Starts(np.repeat(first[None], number, axis=0), None, np.zeros(number, np.int32))
    stamps = [stamp(f"{sharp.id}-{k}", image) for k, image in enumerate(sharp.samples)]
    whole_of = [whole] * number
    fits = refine(stamps, sersic(sky="fixed"), starts, whole_of, settings, components=True)
    values = fits.values[:, : len(NAMES)].astype(np.float64)
    values[:, :2] = (values[:, :2] - (s - 1) / 2) / s
    values[:, NAMES.index("re")] /= s
    left = np.array(
        [
            image - model
            for image, model, row in zip(sharp.samples, fits.models, values, strict=True)
            if np.isfinite(row).all()
        ]
    )
    if len(left) < 2:
        nothing = np.full((ny, nx), np.nan, np.float32)
        return SampleFits(values, nothing, nothing)
    structure, spread = left.mean(0), left.std(0, ddof=1)
    significance = structure / np.maximum(spread, 1e-6 * sigma)
    return SampleFits(values, structure.astype(np.float32), significance.astype(np.float32))
