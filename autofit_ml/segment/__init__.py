"""Which pixels belong to the target, which to other objects, and where is sky.

In: a `Stamp` (or a whole frame's arrays). Out: a `Segmentation`: labels, the target's label, the
pixels to leave out of the fit, the sky's level and scatter. Neighbours: `images` before,
`initialise` and `refine` after.

- `classical`: thresholding and deblending with sep, tuned so that one galaxy stays one object.
- `sky`: robust level and scatter of the sky in small images.
- `shapes`: footprints as ellipses; growing the masks of neighbours.
- `detection`: sources of a large frame, from which stamps are cut.
"""

from __future__ import annotations

from autofit_ml.callable_module import make_callable
from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Stamp
from autofit_ml.segment.classical import SepSettings, segment_given, segment_sep
from autofit_ml.segment.detection import Detections, detect_sources
from autofit_ml.segment.segmentation import Segmentation

__all__ = [
    "Detections",
    "Segmentation",
    "SepSettings",
    "detect_sources",
    "segment",
    "segment_given",
    "segment_sep",
]


def segment(stamp: Stamp, segmenter: str = "sep") -> Segmentation:
    """Segment one stamp.

    Parameters
    ----------
    stamp : Stamp
    segmenter : {"sep", "given"}
        "sep": detect and deblend here. "given": use ``stamp.labels`` and ``stamp.target_label``.

    Returns
    -------
    Segmentation

    Raises
    ------
    SettingsError
        Unknown segmenter.
    InputError
        "given", but the stamp has no labels; or the pixels defeat the deblending.
    """
    if segmenter == "sep":
        return segment_sep(stamp)
    if segmenter == "given":
        return segment_given(stamp)
    raise SettingsError(f"unknown segmenter: {segmenter!r}", "use 'sep' or 'given'")


make_callable(__name__)
