"""Truth of simulated galaxies, for tests of fits."""

import numpy as np

from autofit_ml.segmentation import Segmentation


def truth_of(objects):
    """True parameters, (N, 8)."""
    return np.array(
        [
            [o.target.x, o.target.y, o.target.flux, o.target.re]
            + [o.target.n, o.target.q, o.target.pa, o.sky]
            for o in objects
        ]
    )


def known_segmentations(objects):
    """Segmentations from the truth: target 1, neighbours as contaminants."""
    return [Segmentation(o.labels * (o.labels == 1), 1, o.labels > 1, o.sky, 1.0) for o in objects]
