"""Pretrained weights: find, check, load.

In: a bundle's name (``task/survey-band@version``) or a folder. Out: a network in evaluation mode
with its preprocessing, on the device asked for. Neighbours: `segment`, `initialise` and
`deconvolve` define the networks; ``training/export.py`` writes bundles.

- `manifest`: what bundles there are, and what each was trained on.
- `bundle`: reading, checking and writing one bundle.
- `loading`: from a name to a bundle's files (path, ``$AUTOFIT_ML_WEIGHTS``, the installed
  ``checkpoints/``, the user's cache, download), and to a network.
- `choice`: which bundle of a task suits an image.

Nothing is read at import, and nothing goes to the network unless a bundle has to be fetched.
"""

from autofit_ml.weights.bundle import Bundle, read_bundle, verify_bundle, write_bundle
from autofit_ml.weights.loading import cache_folder, find_bundle, load, pull, trained_state
from autofit_ml.weights.manifest import WeightInfo, installed_folder, list_weights, weight_info

__all__ = [
    "Bundle",
    "WeightInfo",
    "cache_folder",
    "find_bundle",
    "installed_folder",
    "list_weights",
    "load",
    "pull",
    "read_bundle",
    "trained_state",
    "verify_bundle",
    "weight_info",
    "write_bundle",
]
