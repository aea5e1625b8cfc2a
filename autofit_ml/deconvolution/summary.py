r"""Summary of an object's samples: images, fractions, warnings.

Prior fraction
    PRIORFRAC is the ratio of posterior to prior variance, pixel by pixel. The prior has no scale
    of flux of its own, and an unconditional variance would mean little; so it is the variance of
    prior samples **of the object's own total flux** (`prior.sample_prior`), whatever their size
    and shape, averaged over turns and mirror images and over 3 x 3 pixels. 1: the data say
    nothing; 0: they say all. Where neither data nor prior have light (variance below 1e-3 of the
    noise), it is 1 at most.

Detail
    The share of the finest visible structure that differs from sample to sample:
    :math:`\sum_{k} \mathrm{Var}\,x_k / \sum_k E|x_k|^2` over waves shorter than the FWHM of the
    data's PSF. 0: all samples show the same detail; 1: it is not determined at all, and what a
    single sample shows is the prior's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from astropy.wcs import WCS

from autofit_ml.deconvolution.spectra import fft2, grid_of
from autofit_ml.settings import CLASSICAL

__all__ = [
    "DETAIL_WARNING",
    "Sharp",
    "detail_share",
    "half_light_radius",
    "output_wcs",
    "prior_fraction",
    "statistics",
]

DETAIL_WARNING = 0.5
"""Above this share of undetermined detail, a warning says so."""


@dataclass(frozen=True)
class Sharp:
    """A deconvolved object. Images are flux per **output** pixel, in the units of the input.

    Attributes
    ----------
    id : str
    samples : ndarray, float32, shape (N, y, x)
    mean, std, q16, median, q84 : ndarray, float32, shape (y, x)
    residual : ndarray, float32, shape (ny, nx)
        Data minus sky minus the mean seen through the data's PSF, at the data's sampling; NaN
        where masked.
    prior_fraction : ndarray, float32, shape (y, x)
    data, sigma, mask : ndarray, shape (ny, nx)
        What was deconvolved.
    target_fwhm : float
        FWHM of the Gaussian target PSF, pixel included, output pixels.
    oversampling : int
        Output pixels per data pixel.
    wcs : astropy.wcs.WCS or None
        Of the output's pixels.
    detail : float
        Share of the fine detail that the data do not determine (`detail_share`).
    chi2 : float
        Mean square of the residual over the noise.
    distance : float
        Misfit of the data from what the prior can look like, in units of the largest usual one.
    sampler : str
    calls : int
        Network calls per sample; of a classical method its iterations.
    seed : int
    psf_sha256, weights, weights_sha256 : str
    unit : str
        Of the input, where known.
    rhat : float
        Largest split R-hat of the Gibbs chains; NaN for EPS.
    warnings : tuple of str
    origin : tuple of int
        (x0, y0) of the data's first pixel in the image's file.
    """

    id: str
    samples: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    q16: np.ndarray
    median: np.ndarray
    q84: np.ndarray
    residual: np.ndarray
    prior_fraction: np.ndarray
    data: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    target_fwhm: float
    oversampling: int
    wcs: WCS | None
    detail: float
    chi2: float
    distance: float
    sampler: str
    calls: int
    seed: int
    psf_sha256: str
    weights: str
    weights_sha256: str
    unit: str = ""
    rhat: float = float("nan")
    warnings: tuple[str, ...] = ()
    origin: tuple[int, int] = (0, 0)

    @property
    def is_posterior(self) -> bool:
        """True if `samples` are draws of a posterior; False: one image without errors."""
        return self.sampler not in CLASSICAL


def statistics(samples: np.ndarray) -> Mapping[str, np.ndarray]:
    """mean, std, q16, median, q84 over the first axis, float32."""
    q16, median, q84 = np.quantile(samples, [0.15865, 0.5, 0.84135], axis=0)
    spread = samples.std(axis=0, ddof=1) if len(samples) > 1 else np.zeros_like(samples[0])
    parts = {
        "mean": samples.mean(axis=0, dtype=np.float64),
        "std": spread,
        "q16": q16,
        "median": median,
        "q84": q84,
    }
    return {name: np.asarray(value, dtype=np.float32) for name, value in parts.items()}


def prior_fraction(samples: torch.Tensor, prior: torch.Tensor, floor: float) -> torch.Tensor:
    """Posterior over prior variance of each pixel, (G, G).

    Parameters
    ----------
    samples : Tensor, shape (N, G, G)
        Of the posterior.
    prior : Tensor, shape (M, G, G)
        Of the prior, the same units.
    floor : float
        Standard deviation that means nothing.
    """
    before = prior.var(0)
    turns = [before, before.T]
    turns += [image.flip(0) for image in turns]
    turns += [image.flip(1) for image in turns]
    before = torch.stack(turns).mean(0)
    after = samples.var(0)
    pooled = torch.nn.functional.avg_pool2d(
        torch.stack([before, after])[:, None], 3, stride=1, padding=1, count_include_pad=False
    )[:, 0]
    return (pooled[1] + floor**2) / (pooled[0] + floor**2)


def detail_share(samples: torch.Tensor, fwhm: float) -> float:
    """Share of the power at waves shorter than `fwhm` pixels that differs between samples."""
    grid = grid_of(samples.shape[-1], str(samples.device))
    transforms = fft2(samples.double()).flatten(1)
    fine = torch.hypot(grid.ky, grid.kx) > 2 * np.pi / max(fwhm, 2.0)
    weight = grid.count * fine
    mean = transforms.mean(0).abs().square() @ weight.double()
    power = transforms.abs().square().mean(0) @ weight.double()
    number = len(samples)
    if number < 2 or power <= 0:
        return float("nan")
    return float(((power - mean) * number / (number - 1) / power).clamp(0, 1))


def half_light_radius(image: torch.Tensor) -> float:
    """Circularised half-light radius of an image: sqrt(area / pi) of its brightest half.

    The area is that of the brightest pixels that hold half of the light; for a Sérsic profile the
    radius is re times the square root of q. Objects beside each other count by their own areas,
    wherever they are.

    Parameters
    ----------
    image : Tensor, shape (G, G)
        Sky subtracted; negative pixels have no light.

    Returns
    -------
    float
        Pixels; NaN without any light.
    """
    light = image.double().clamp_min(0).flatten().sort(descending=True).values.cumsum(0)
    if not light[-1] > 0:
        return float("nan")
    return math.sqrt((1 + int((light < 0.5 * light[-1]).sum())) / math.pi)


def output_wcs(wcs: WCS | None, oversampling: int) -> WCS | None:
    """WCS of the output pixels.

    Parameters
    ----------
    wcs : WCS or None
        Of the stamp's pixels.
    oversampling : int
        Output pixel (0, 0) has its outer corner on that of stamp pixel (0, 0).
    """
    if wcs is None:
        return None
    out = wcs.deepcopy()
    # FITS pixel p (1-based) spans p - 0.5 to p + 0.5.
    out.wcs.crpix = (np.asarray(wcs.wcs.crpix) - 0.5) * oversampling + 0.5
    if oversampling > 1:
        if wcs.wcs.has_cd():
            out.wcs.cd = np.asarray(wcs.wcs.cd) / oversampling
        else:
            out.wcs.cdelt = np.asarray(wcs.wcs.cdelt) / oversampling
        if out.sip is not None:
            out.sip = None  # of other pixels; small over a stamp
            out.wcs.ctype = [name.replace("-SIP", "") for name in out.wcs.ctype]
    return out
