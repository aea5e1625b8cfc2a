from .files import sharp_fits_bytes as sharp_fits_bytes
from .preview import sharp_preview_png as sharp_preview_png
from .sampling import SamplingSettings as SamplingSettings
from .sampling import deconvolve as deconvolve
from .sampling import deconvolve_each as deconvolve_each
from .summary import Sharp as Sharp
from .uses import SampleFits as SampleFits
from .uses import fit_samples as fit_samples
