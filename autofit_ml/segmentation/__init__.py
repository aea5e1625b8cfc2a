"""Segmentation: pixels of the target, of other objects, and of sky.

In: a `Stamp` (or a whole frame's arrays). Out: a `Segmentation`: labels, the target's label, the
pixels to leave out of the fit, the sky's level and scatter. Neighbours: `images` before,
`initialise` and `refine` after.

- `dispatch`: the chosen segmenter, over many stamps or a frame.
- `classical`: thresholding and deblending with sep, tuned so that one galaxy stays one object;
  `detection`: the same for the sources of a large frame, from which stamps are cut, and tables of
  instances.
- `network`, `maskrcnn`: the Mask R-CNN, and from its detections to a `Segmentation`; `regions`: its
  boxes.
- `fragments`, `pieces`, `tiles`: parts that join their galaxy, and objects from binned images and
  from the tiles of a frame, each once.
- `repair`: holes, nuclei and cut-up targets of any segmenter's labels, and labels that are refused.
- `shapes`: footprints as ellipses, growing, symmetry.
- `result`: what is handed on, what all segmenters measure, and labels that came with a stamp.
"""

from collections.abc import Sequence
from typing import overload

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Stamp
from autofit_ml.segmentation.classical import SepSettings, segment_sep
from autofit_ml.segmentation.detection import Detections, detect_sources
from autofit_ml.segmentation.result import Segmentation, segment_given

__all__ = [
    "Detections",
    "Segmentation",
    "SepSettings",
    "detect_sources",
    "segment",
    "segment_given",
    "segment_sep",
]


@overload
def segment(stamps: Stamp, segmenter: str = ..., *, weights: str = ...) -> Segmentation: ...
@overload
def segment(
    stamps: Sequence[Stamp], segmenter: str = ..., *, weights: str = ...
) -> list[Segmentation]: ...
def segment(
    stamps: Stamp | Sequence[Stamp], segmenter: str = "auto", *, weights: str = ""
) -> Segmentation | list[Segmentation]:
    """Find the target and its neighbours.

    Parameters
    ----------
    stamps : Stamp or sequence of Stamp
        Many at once are faster.
    segmenter : {"auto", "maskrcnn", "sep", "given"}
        "auto": the labels of a stamp that has some, else the network. "maskrcnn": the network; sep
        for images unlike those it was trained on (``method`` says so). "sep": detect and deblend
        with SExtractor's algorithms. "given": use ``stamp.labels`` and ``stamp.target_label``.
    weights : str, keyword-only
        Names or folders of weights, separated by commas; empty: the installed ones that suit.

    Returns
    -------
    Segmentation or list of Segmentation
        As the input.

    Raises
    ------
    SettingsError
        Unknown segmenter, or no weights.
    WeightsError
        Weights that cannot be used.
    InputError
        "given", but the stamp has no labels; or the pixels defeat the deblending.
    """
    from autofit_ml.segmentation.dispatch import SEGMENTERS, check_segmenter, segment_all

    if segmenter not in SEGMENTERS:
        raise SettingsError(
            f"unknown segmenter: {segmenter!r}", f"use one of: {', '.join(SEGMENTERS)}"
        )
    check_segmenter(segmenter, weights)
    results = []
    for _, result in segment_all(
        [stamps] if isinstance(stamps, Stamp) else stamps, segmenter, weights
    ):
        if isinstance(result, Exception):
            raise result
        results.append(result)
    return results[0] if isinstance(stamps, Stamp) else results
