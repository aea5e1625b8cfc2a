"""autofit-ml: structural parameters of galaxies from folders of images, with honest errors.

The stages, each usable alone: `read`, `segment`, `initialise`, `refine`; all of them at once:
`fit`. Models of several components: `parse_model`, `read_model`, `scene`.
`deconvolve` draws what galaxies look like without the seeing.
See docs/ and `autofit-ml --help`.
"""

import lazy_loader

# Names are imported on first use (``__init__.pyi`` lists them): `import autofit_ml` stays fast,
# and worker processes that only read images never load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
