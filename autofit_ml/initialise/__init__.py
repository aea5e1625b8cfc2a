"""Starting parameters for the refiner, without anybody typing a guess.

In: stamps (`autofit_ml.images`) and their segmentations (`autofit_ml.segment`). Out: `Starts`,
one row of finite parameters per stamp, read by `autofit_ml.refine`.

- `adaptive`: Gaussian-weighted moments: position, shape, orientation.
- `gaussians`: Sérsic profiles and PSFs as sums of Gaussians.
- `moments`: the classical start: adaptive moments, then a light profile in elliptical annuli.
"""

from __future__ import annotations

from collections.abc import Sequence

from autofit_ml.callable_module import make_callable
from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialise.moments import start_from_moments
from autofit_ml.initialise.starts import PARAMETERS, Starts
from autofit_ml.segment.segmentation import Segmentation

__all__ = ["PARAMETERS", "Starts", "initialise", "start_from_moments"]


def initialise(
    stamps: Sequence[Stamp],
    segmentations: Sequence[Segmentation] | None = None,
    method: str = "moments",
) -> Starts:
    """Starting parameters for each stamp.

    Parameters
    ----------
    stamps : sequence of Stamp
    segmentations : sequence of Segmentation, optional
        One per stamp, in the same order; by default those of `autofit_ml.segment`.
    method : {"moments"}

    Returns
    -------
    Starts
        Conventions and guarantees as stated there: finite, flux > 0, re > 0, 0.3 <= n <= 8,
        0.1 <= q <= 1, 0 <= pa < 180.

    Raises
    ------
    SettingsError
        Unknown method, or the two sequences differ in length.
    """
    if method != "moments":
        raise SettingsError(f"unknown way to initialise: {method!r}", "use 'moments'")
    if segmentations is None:
        from autofit_ml.segment import segment

        segmentations = segment(stamps)
    if len(stamps) != len(segmentations):
        raise SettingsError(
            f"{len(stamps)} stamps but {len(segmentations)} segmentations",
            "give one segmentation per stamp",
        )
    return start_from_moments(stamps, segmentations)


make_callable(__name__)
