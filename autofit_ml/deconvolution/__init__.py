"""Deconvolution: posterior samples of the sharp galaxy from a learned prior.

In: stamps (image, noise, PSF, mask). Out: `Sharp` for each: samples of the galaxy as it would look
with a narrow Gaussian PSF and without noise, their mean and scatter, what the data and what the
prior decide. docs/deconvolution.md has the equations and what is measured.

- `sampling`: `deconvolve`, the whole of it for stamps.
- `operator`: from the sharp image to the data: PSF ratio, sampling, edges, masks, noise maps.
- `network`: the denoiser; `spectra`, `target`: Fourier grids and the target PSF.
- `diffusion`: the reverse diffusion; `eps`, `gibbs`: the two samplers on it; `prior`: samples of
  the prior alone.
- `analytic`: priors with exact posteriors, for tests and examples.
- `summary`, `files`, `preview`: what is kept, the FITS file, the picture; `uses`: Sérsic
  parameters and structure from samples.

Needs azula (``pip install 'autofit-ml[deconvolve]'``) for the network, nothing else for the rest.
Reads `autofit_ml.images` (stamps) and `autofit_ml.weights`; training is in ``training/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autofit_ml.deconvolution.files import sharp_fits_bytes
    from autofit_ml.deconvolution.preview import sharp_preview_png
    from autofit_ml.deconvolution.sampling import SamplingSettings, deconvolve, deconvolve_each
    from autofit_ml.deconvolution.summary import Sharp
    from autofit_ml.deconvolution.uses import SampleFits, fit_samples

_HOME = {
    "SampleFits": "uses",
    "SamplingSettings": "sampling",
    "Sharp": "summary",
    "deconvolve": "sampling",
    "deconvolve_each": "sampling",
    "fit_samples": "uses",
    "sharp_fits_bytes": "files",
    "sharp_preview_png": "preview",
}

__all__ = [
    "SampleFits",
    "SamplingSettings",
    "Sharp",
    "deconvolve",
    "deconvolve_each",
    "fit_samples",
    "sharp_fits_bytes",
    "sharp_preview_png",
]


def __getattr__(name: str) -> Any:
    # On first use: drawing training sets needs `target` alone, not the samplers.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
