"""Light profiles: what there is, their parameters, and their transforms.

In: a profile's name (`get_profile`) and its shape parameters. Out: its parameters for the scene
language and the fit, and its two-dimensional Fourier transform with derivatives, for thousands of
galaxies at once. Used by `autofit_ml.scenes` (parameters), `autofit_ml.rendering` (transforms) and
`autofit_ml.fitting`; depends on nothing else here.

registry    which profiles there are; `library/` has one file for each
hankel      tables made once: no shape parameter, or one
live        tables made for each object: several shape parameters (`fftlog` does the transforms)
modifiers   boxiness, Fourier modes, twist; `polar` has the transforms of what is not elliptical

A profile is circular here, of unit flux and unit half-light radius: ellipticity, size, position
and flux are the renderer's business.
"""

import lazy_loader

# On first use (``__init__.pyi`` lists the names): tables hold tensors; processes that only
# simulate or read images never load PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
