"""Detection of point sources on a difference, with features that tell real ones from artefacts."""

import warnings

import numpy as np
import torch
from astropy.table import QTable
from photutils.detection import find_peaks
from photutils.utils.exceptions import NoDetectionsWarning

from autofit_ml.difference.photometry import Whitened, fluxes
from autofit_ml.difference.subtract import Difference
from autofit_ml.measure import centre_distance

__all__ = ["detect_changes"]

CHI2, DIPOLE, MASKED, FAINT = 2.0, 0.5, 0.2, 3.0
"""A detection is called an artefact above the first three (reduced chi2 of the PSF, share of the
light of the other sign, share of masked pixels), and with a flux of less S/N than the last: at
bright stars, whose subtraction is never exact, that is much less than the score."""


def detect_changes(
    result: Difference, white: Whitened, psf: np.ndarray, threshold: float = 5.0,
    *, oversampling: int = 1,
) -> QTable:  # fmt: skip
    """Find point sources of either sign.

    Parameters
    ----------
    result : Difference
    white : Whitened
    psf : ndarray, (h, w)
        Of the science image.
    threshold : float
        Least S/N of the score.
    oversampling : int
        Of the PSF, as of `fluxes`.

    Returns
    -------
    QTable
        ``x y flux flux_err snr`` (of the forced PSF flux), ``score``, ``chi2`` (reduced, of the PSF
        on the whitened difference), ``dipole`` (light of the other sign over that of the source's),
        ``width`` (second moment over the PSF's), ``masked`` (share of the PSF's footprint),
        ``reference_share`` (flux over the reference's light in the same filter), ``real``.
    """
    score = white.score.numpy()
    half = psf.shape[0] // (2 * oversampling)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        found = find_peaks(np.abs(score), threshold, box_size=5, mask=~result.good.numpy())
    names = ("x", "y", "flux", "flux_err", "snr", "score")
    features = ("chi2", "dipole", "width", "masked", "reference_share")
    if found is None:
        empty = {name: np.zeros(0) for name in (*names, *features)}
        return QTable(empty | {"real": np.zeros(0, bool)})
    column, row = np.asarray(found["x_peak"]), np.asarray(found["y_peak"])
    x = column + _vertex(np.abs(score), row, column, 0, 1)
    y = row + _vertex(np.abs(score), row, column, 1, 0)
    at = torch.as_tensor(x), torch.as_tensor(y)
    shape = torch.as_tensor(psf, dtype=torch.float64)
    flux, error = (
        v.numpy()
        for v in fluxes(result, *at, shape, oversampling=oversampling, excess=white.excess)
    )
    peaks = score[row, column]
    table = QTable({"x": x, "y": y, "flux": flux, "flux_err": error, "snr": flux / error})
    table["score"] = peaks
    told = [
        _features(result, white, round(a), round(b), f, half)
        for a, b, f in zip(x, y, flux, strict=True)
    ]
    for k, name in enumerate(features):
        table[name] = np.array([one[k] for one in told])
    table["real"] = (
        np.isfinite(flux)
        & (table["chi2"] < CHI2)
        & (table["dipole"] < DIPOLE)
        & (table["masked"] < MASKED)
        & (np.abs(table["snr"]) > FAINT)
    )
    return table


def _vertex(
    score: np.ndarray, row: np.ndarray, column: np.ndarray, down: int, right: int
) -> np.ndarray:
    """Vertex of the parabola through a peak and its two neighbours along an axis."""
    high = np.pad(score, 1)
    before, here = high[row + 1 - down, column + 1 - right], score[row, column]
    after = high[row + 1 + down, column + 1 + right]
    bend = 2 * here - before - after
    return np.clip(np.divide(after - before, 2 * bend, out=0 * here, where=bend > 0), -0.5, 0.5)


def _features(
    result: Difference, white: Whitened, x: int, y: int, flux: float, half: int
) -> tuple[float, float, float, float, float]:
    """Chi2, dipole, width, masked share and share of the reference's light of one detection."""
    reach = min(half, 7)
    seen = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    good = result.good[seen].numpy()
    image, variance = white.difference[seen].numpy(), white.variance[seen].numpy()
    shape = white.psf.shape
    top, left = shape[0] // 2 - (y - seen[0].start), shape[1] // 2 - (x - seen[1].start)
    profile = white.psf[top : top + image.shape[0], left : left + image.shape[1]].numpy()
    light = result.light[seen].numpy()
    # The model's own error counts here: no kernel is exact on a bright core.
    spread = variance + (result.kernel.design.floor * light) ** 2
    height = (good * image * profile / spread).sum() / max(
        (good * profile**2 / spread).sum(), 1e-300
    )
    left_over = (image - height * profile) ** 2 / spread
    chi2 = left_over[good].mean() if good.any() else np.nan
    radius = centre_distance(image.shape)
    inner = good & (radius < 5)
    signed = np.sign(height) * image * (np.abs(image) > np.sqrt(spread)) * inner
    same, other = signed[signed > 0].sum(), -signed[signed < 0].sum()
    dipole = other / same if same > 0 else np.inf
    weight = np.exp(-0.5 * (radius / 2.5) ** 2) * good

    def moment(plane: np.ndarray) -> float:
        total = (weight * plane).sum()
        return float((weight * plane * radius**2).sum() / total) if total else np.nan

    width = moment(image) / moment(profile)
    below = (profile * light).sum() / max((profile**2).sum(), 1e-300)
    share = abs(flux) / below if below > 0 else np.inf
    return float(chi2), float(dipole), float(width), float(1 - good.mean()), float(share)
