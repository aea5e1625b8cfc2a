"""Options of segmentation."""

from __future__ import annotations

from dataclasses import dataclass

from autofit_ml.options import option
from autofit_ml.settings.panels import OUTPUT
from autofit_ml.settings.reading import ReadOptions
from autofit_ml.settings.running import (
    SEGMENTERS,
    Networks,
    Working,
    batch_size_option,
    segmenter_option,
)


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(Working, Networks, ReadOptions):
    """Settings of segmentation without a fit."""

    segmenter: str = segmenter_option("maskrcnn", SEGMENTERS)
    batch_size: int = batch_size_option(64)
    pictures: bool = option(True, "Draw the outlines as PNG.", OUTPUT)
