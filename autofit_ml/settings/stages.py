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
    pictures: bool = option(True, "Draw the outlines of the objects as PNG.", OUTPUT)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Seeded, Networks):
    """Settings of the samplers of sharp images."""

    samples: int = option(64, "Posterior samples of each object.", SAMPLING, least=2)
    sampler: str = option(
        "eps",
        "Method: eps, or gibbs (the reference method, several times slower); wiener, "
        "richardson-lucy and tv are classical methods, which give one image without a posterior.",
        SAMPLING,
        choices=("eps", "gibbs", *CLASSICAL),
    )
    oversampling: int = option(1, "Output pixels per data pixel.", SAMPLING, choices=(1, 2))
    target_fwhm: float | None = option(
        None,
        "FWHM of the Gaussian target PSF, including the pixel; the default, 2, is the smallest "
        "that the weights support.",
        SAMPLING,
        unit="output pixels",
        least=2,
        most=30,
    )
    psf_error: float = option(
        0.0,
        "1-sigma relative error of the PSF's width and ellipticity: each sample has a PSF of its "
        "own. A PSF measured on stars brings its errors.",
        SAMPLING,
        least=0,
        below=0.3,
    )
    precision: str = option(
        "float32",
        "Numerical precision of the network; bfloat16 takes a third less time on processors that "
        "support it.",
        SAMPLING,
        choices=("float32", "bfloat16"),
    )
    steps: int = option(
        48, "Noise levels of the reverse diffusion.", SAMPLING, least=4, python_only=True
    )
    sweeps: int = option(
        40,
        "Number of sweeps of the Gibbs sampler, after as many steps of eps.",
        SAMPLING,
        least=1,
        python_only=True,
    )
    padding: int | None = option(
        None,
        "Margin around the stamp in data pixels; None: as the PSF requires.",
        SAMPLING,
        python_only=True,
    )
    sky: float | None = option(
        None,
        "Sky level that is subtracted; None: the stamp's ``sky_prior``, or 0.",
        SAMPLING,
        unit="image units",
        python_only=True,
    )
    prior: bool = option(
        True,
        "Draw prior samples for PRIORFRAC (takes a third of the time of an object, once for each "
        "grid size).",
        SAMPLING,
        python_only=True,
    )
    batch: int = option(
        64,
        "Number of samples of an object that are computed together.",
        WORK,
        least=1,
        python_only=True,
        changes_results=False,
    )

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.sampler in CLASSICAL and self.psf_error:
            raise SettingsError(
                f"psf_error {self.psf_error:g} with the sampler {self.sampler}, which takes "
                "the PSF as known",
                "use sampler eps or gibbs",
            )
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
        "Side of the square around the target that is deconvolved; 0: as large as the target "
        "requires.",
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
