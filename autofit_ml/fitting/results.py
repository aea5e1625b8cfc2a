"""What the refiner hands on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

__all__ = ["FitResults"]


@dataclass(frozen=True)
class FitResults:
    """Fits of B objects; row i belongs to stamp i.

    Attributes
    ----------
    values, errors : ndarray, float64, (B, 8)
        Catalogue parameters (order of `autofit_ml.scenes.CATALOGUE_PARAMETERS`; positions in stamp
        pixels) and their 1-sigma errors. NaN where the fit failed; the error of a parameter that
        is fixed or sits on its bound is NaN.
    cov : ndarray, float64, (B, 8, 8)
        Covariance of `values`.
    theta, theta_cov : ndarray, float64, (B, 8), (B, 8, 8)
        The same in fit space.
    start : ndarray, float64, (B, 8)
        The initialiser's values.
    chi2, logl, bic, bic_point_source : ndarray, float64, (B,)
        bic_point_source is NaN where a point source was out of the question.
    ndof, n_pix, n_iter, n_starts : ndarray, int32, (B,)
    snr : ndarray, float64, (B,)
        Total signal to noise, sqrt(sum(model^2 / sigma^2)) over the pixels used.
    flux_stamp, flux_stamp_err : ndarray, float64, (B,)
        Model light inside the stamp.
    noise_correlation : ndarray, float64, (B,)
        Mean correlation of the noise of adjacent pixels; NaN where it could not be measured.
    flags : ndarray, int32, (B,)
    at_bound : list of str
        Comma-separated names of the parameters on their bounds.
    models : list of ndarray or None
        Model images without sky, float32, one per stamp, when asked for.
    """

    values: np.ndarray
    errors: np.ndarray
    cov: np.ndarray
    theta: np.ndarray
    theta_cov: np.ndarray
    start: np.ndarray
    chi2: np.ndarray
    logl: np.ndarray
    bic: np.ndarray
    bic_point_source: np.ndarray
    ndof: np.ndarray
    n_pix: np.ndarray
    n_iter: np.ndarray
    n_starts: np.ndarray
    snr: np.ndarray
    flux_stamp: np.ndarray
    flux_stamp_err: np.ndarray
    noise_correlation: np.ndarray
    flags: np.ndarray
    at_bound: list[str]
    models: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def empty(cls, n: int, start: np.ndarray, models: bool) -> FitResults:
        """n rows of NaN, to be filled."""
        nan = np.full(n, np.nan)
        return cls(
            values=np.full((n, 8), np.nan),
            errors=np.full((n, 8), np.nan),
            cov=np.full((n, 8, 8), np.nan),
            theta=np.full((n, 8), np.nan),
            theta_cov=np.full((n, 8, 8), np.nan),
            start=start,
            chi2=nan.copy(),
            logl=nan.copy(),
            bic=nan.copy(),
            bic_point_source=nan.copy(),
            ndof=np.zeros(n, np.int32),
            n_pix=np.zeros(n, np.int32),
            n_iter=np.zeros(n, np.int32),
            n_starts=np.zeros(n, np.int32),
            snr=nan.copy(),
            flux_stamp=nan.copy(),
            flux_stamp_err=nan.copy(),
            noise_correlation=nan.copy(),
            flags=np.zeros(n, np.int32),
            at_bound=[""] * n,
            models=[np.zeros((0, 0), np.float32)] * n if models else None,
        )

    def put(self, index: np.ndarray, other: FitResults) -> None:
        """Write the rows of `other` to the rows `index`."""
        for item in dataclasses.fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if isinstance(mine, np.ndarray):
                mine[index] = theirs
            elif mine is not None:
                for i, value in zip(index, theirs, strict=True):
                    mine[int(i)] = value
