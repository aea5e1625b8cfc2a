"""Deconvolution: posterior samples of the sharp galaxy from a learned prior.

In: stamps (image, noise, PSF, mask). Out: `Sharp` for each: samples of the galaxy as it would look
with a narrow Gaussian PSF and without noise, their mean and scatter, what the data and what the
prior decide. docs/deconvolution.md has the equations and what is measured.

- `sampling`: `deconvolve`, the whole of it for stamps.
- `operator`: from the sharp image to the data: PSF ratio, sampling, edges, masks, noise maps.
- `network`: the denoiser; `spectra`, `target`: Fourier grids and the target PSF.
- `diffusion`: the reverse diffusion; `eps`, `gibbs`: the two samplers on it; `prior`: samples of
  the prior alone.
- `summary`, `files`, `preview`: what is kept, the FITS file, the picture; `uses`: Sérsic
  parameters and structure from samples.

Needs azula (the extra ``deconvolve``) for the network, nothing else for the rest.
Reads `autofit_ml.images` (stamps) and `autofit_ml.weights`; training is in ``training/``.
"""

import lazy_loader

# On first use (``__init__.pyi`` lists the names): drawing training sets needs `target` alone,
# not the samplers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
