__version__: str

from .api import fit as fit
from .api import simulate as simulate
from .catalogue import read_catalogue as read_catalogue
from .deconvolution import deconvolve as deconvolve
from .fitting import join_images as join_images
from .fitting import object_of as object_of
from .galfit import read_galfit as read_galfit
from .galfit import write_galfit as write_galfit
from .images import read as read
from .initialisation import initialise as initialise
from .posterior.refining import fit_scenes as fit_scenes
from .posterior.refining import refine as refine
from .posterior.refining import sample_scenes as sample_scenes
from .scenes import parse_model as parse_model
from .scenes import read_model as read_model
from .scenes import scene as scene
from .scenes import sersic as sersic
from .scenes import write_model as write_model
from .segmentation import segment as segment
from .weights import list_weights as list_weights
from .weights import load as load
from .weights import weight_info as weight_info
