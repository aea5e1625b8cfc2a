"""Galaxies and PSFs drawn by the tests of the renderer."""

import numpy as np
import torch

from autofit_ml.profiles import sersic_table
from autofit_ml.rendering import Accuracy, make_plan, psf_modes, render
from autofit_ml.scenes import to_fit_space


def gaussian_psf(fwhm=3.0, size=25, oversampling=1):
    """A Gaussian sampled at the pixel centres, (size, size), sum 1."""
    sigma = fwhm * oversampling / 2.3548
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    return image / image.sum()


class Drawing:
    """Draws one galaxy with chosen layout settings."""

    def __init__(self, shape=(64, 64), psf=None, accuracy=None, dtype=torch.float64, **layout):
        psf = gaussian_psf() if psf is None else psf
        self.table = sersic_table()
        oversampling = layout.pop("oversampling", 1)
        has_pixel = layout.pop("has_pixel", True)
        self.plan = make_plan(shape, psf.shape, oversampling, accuracy or Accuracy(), dtype=dtype)
        self.modes = psf_modes(
            self.plan, torch.as_tensor(psf)[None], torch.tensor([has_pixel]), **layout
        )

    @staticmethod
    def parameters(x=31.6, y=32.3, flux=1000.0, re=5.0, n=2.0, q=0.6, pa=30.0):
        """Fit-space parameters (1, 7)."""
        values = torch.tensor([[x, y, flux, re, n, q, pa, 0.0]], dtype=torch.float64)
        return to_fit_space(values)[:, :7]

    def __call__(self, **galaxy):
        with torch.no_grad():
            return render(self.plan, self.table, self.modes, self.parameters(**galaxy))[0].numpy()
