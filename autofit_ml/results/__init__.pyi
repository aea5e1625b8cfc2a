from .fit import Fit as Fit
from .model import model_image as model_image
from .profile import radial_profile as radial_profile
from .run import Results as Results
from .run import open_results as open_results
from .run import results_in_memory as results_in_memory
from .tables import with_formats as with_formats
