"""Options of single stages: segmentation, deconvolution."""

from __future__ import annotations

from dataclasses import dataclass

from autofit_ml.errors import SettingsError
from autofit_ml.options import option
from autofit_ml.settings.reading import OUTPUT, SAMPLING, WORK, ReadOptions
from autofit_ml.settings.running import (
    SEGMENTERS,
    Networks,
    Seeded,
    Working,
    batch_size_option,
    segmenter_option,
)

CLASSICAL = ("wiener", "richardson-lucy", "tv")
"""Deconvolution without a learned prior: one image, no posterior."""


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(Working, Networks, ReadOptions):
    """Settings of segmentation without a fit."""

    segmenter: str = segmenter_option("maskrcnn", SEGMENTERS)
    batch_size: int = batch_size_option(64)
    pictures: bool = option(True, "Draw the outlines as PNG.", OUTPUT)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Seeded, Networks):
    """Settings of the samplers of sharp images."""

    samples: int = option(64, "Posterior samples of each object.", SAMPLING, least=2)
    sampler: str = option(
        "eps",
        "eps, or gibbs: the reference, several times as long; without a prior and without a "
        "posterior, one image each: wiener, richardson-lucy, tv.",
        SAMPLING,
        choices=("eps", "gibbs", *CLASSICAL),
    )
    oversampling: int = option(1, "Output pixels per data pixel.", SAMPLING, choices=(1, 2))
    target_fwhm: float | None = option(
        None,
        "FWHM of the Gaussian target PSF, pixel included; 2, the default, is the finest that the "
        "weights have.",
        SAMPLING,
        unit="output pixels",
        least=2,
        most=30,
    )
    precision: str = option(
        "float32",
        "Of the network; bfloat16 takes a third less time on processors that compute in it.",
        SAMPLING,
        choices=("float32", "bfloat16"),
    )
    steps: int = option(
        48, "Noise levels of the reverse diffusion.", SAMPLING, least=4, python_only=True
    )
    sweeps: int = option(
        40,
        "Sweeps of the Gibbs sampler, after as many steps of eps.",
        SAMPLING,
        least=1,
        python_only=True,
    )
    padding: int | None = option(
        None, "Data pixels around the stamp; None: as the PSF needs.", SAMPLING, python_only=True
    )
    sky: float | None = option(
        None,
        "Level that is subtracted; None: the stamp's ``sky_prior``, 0 without.",
        SAMPLING,
        unit="image units",
        python_only=True,
    )
    prior: bool = option(
        True,
        "Draw prior samples for PRIORFRAC (a third of an object's time, once for each size of "
        "grid).",
        SAMPLING,
        python_only=True,
    )
    batch: int = option(
        64,
        "Samples of an object that go through the network together.",
        WORK,
        least=1,
        python_only=True,
        changes_results=False,
    )

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.sampler in CLASSICAL and self.oversampling != 1:
            raise SettingsError(
                f"oversampling {self.oversampling} with the sampler {self.sampler}, which works at "
                "the sampling of the data",
                "use oversampling 1, or sampler eps",
            )


@dataclass(frozen=True, kw_only=True)
class DeconvolveSettings(Working, SamplingSettings, ReadOptions):
    """Settings of deconvolution, and everything that is said about its images."""

    segmenter: str = segmenter_option("auto", SEGMENTERS)
    size: int = option(
        0,
        "Side of the square around the target that is deconvolved; 0: as the target needs.",
        SAMPLING,
        unit="data pixels",
        least=0,
    )
    fit: bool = option(False, "Fit a Sérsic profile to every sample.", OUTPUT)
    pictures: bool = option(True, "Draw a PNG of each object.", OUTPUT)
    batch_size: int = batch_size_option(16)

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.fit and self.sampler in CLASSICAL:
            raise SettingsError(
                f"fit needs samples, and {self.sampler} gives one image",
                "use sampler eps, or fit the image with autofit-ml fit",
            )
