"""Options of image subtraction and light curves."""

from __future__ import annotations

from dataclasses import dataclass

from autofit_ml.errors import SettingsError
from autofit_ml.options import Settings, option
from autofit_ml.settings.reading import MODEL, NOISE, OUTPUT, ReadOptions
from autofit_ml.settings.running import Working, batch_size_option


@dataclass(frozen=True, kw_only=True)
class SubtractSettings(Settings):
    """Settings of the subtraction of one image from another."""

    kernel_size: int = option(
        13,
        "Side of the convolution kernel (an odd number).",
        MODEL,
        unit="pixels",
        least=3,
        most=31,
    )
    background: int = option(
        0, "Order of the polynomial for the background difference.", MODEL, least=0, most=6
    )
    variation: int = option(
        0,
        "Order of the polynomial by which the kernel varies over the image.",
        MODEL,
        least=0,
        most=3,
    )
    convolve: str = option(
        "auto",
        "Image that is convolved; auto: the one whose kernel amplifies noise less.",
        MODEL,
        choices=("auto", "reference", "science"),
    )
    known_scale: float | None = option(
        None,
        "Flux in the science image of a source with flux 1 in the reference, if zero points "
        "determine it better than the few stars of a small image; default: from the kernel.",
        NOISE,
        above=0,
    )
    robust: str = option(
        "huber",
        "Robust weighting of outliers in the fit of the kernel.",
        MODEL,
        choices=("huber", "student-t", "none"),
    )
    floor: float = option(
        0.01,
        "Model error of the convolved image, as a fraction of its flux in each pixel.",
        MODEL,
        least=0,
        below=1,
    )
    smoothness: float = option(
        1e-5,
        "Weight of the penalty on the squared Laplacian of the kernel.",
        MODEL,
        least=0,
        below=1,
    )
    solver: str = option(
        "auto",
        "How the kernel's normal equations are solved: dense, or by conjugate gradients with FFTs; "
        "auto: the faster.",
        MODEL,
        choices=("auto", "dense", "conjugate"),
        python_only=True,
    )
    most_pixels: int = option(
        60_000,
        "Largest number of pixels to which the kernel is fitted; the brightest are used.",
        MODEL,
        least=1000,
        python_only=True,
    )

    def check(self) -> None:
        """The kernel has a central pixel."""
        super().check()
        if self.kernel_size % 2 == 0:
            raise SettingsError(f"kernel_size is {self.kernel_size}", "give an odd number")


def threshold_option() -> float:
    """Declare the least S/N of what is detected in a difference."""
    return option(5.0, "Detection threshold for changes between images (S/N).", MODEL, above=0)


@dataclass(frozen=True, kw_only=True)
class DiffSettings(SubtractSettings, Working, ReadOptions):
    """Settings of image subtraction over epochs, and of the detection of changes."""

    batch_size: int = batch_size_option(4)
    threshold: float = threshold_option()
    pictures: bool = option(
        True, "Draw the reference, science and difference images as PNG.", OUTPUT
    )


def date_ranges(text: str) -> list[tuple[float, float]]:
    """Ranges of dates in a text like ``:58000,58100:58200``.

    Raises
    ------
    SettingsError
        Other text.
    """
    out = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, colon, last = part.partition(":")
        try:
            low, high = float(first or "-inf"), float(last or "inf")
        except ValueError as error:
            raise SettingsError(f"{part!r} is no range of dates", "write MJD:MJD") from error
        if not colon or low > high:
            raise SettingsError(f"{part!r} is no range of dates", "write MJD:MJD, smaller first")
        out.append((low, high))
    return out


@dataclass(frozen=True, kw_only=True)
class LightCurveOptions(SubtractSettings):
    """Settings of the photometry of a source over epochs."""

    method: str = option(
        "difference",
        "Method: difference (forced photometry on difference images), scene (host and source are "
        "fitted to all epochs together), or both.",
        MODEL,
        choices=("difference", "scene", "both"),
    )
    host: str = option(
        "sersic+pixels",
        "Host galaxy in the scene: a model (sersic, sersic+exp ...), pixels (free pixels around "
        "the source), both joined by +, or none.",
        MODEL,
    )
    absent: str = option(
        "",
        "Dates at which the source was absent, as ranges of MJD: :58000,58100:58200. A "
        "--reference image is assumed to be without the source too.",
        MODEL,
    )
    scale: str = option(
        "auto",
        "How the flux scale of an epoch is determined: from stars in common with the reference, "
        "zeropoints in the headers, or the sum of the kernel; auto: the first that is available.",
        NOISE,
        choices=("auto", "stars", "zeropoints", "kernel"),
    )
    psf_error: float = option(
        0.01,
        "Relative error of the width and shape of the PSFs in the scene.",
        NOISE,
        least=0,
        below=1,
    )
    astrometric_error: float = option(
        0.02,
        "Error of the alignment of an epoch with the reference in the scene.",
        NOISE,
        unit="pixels",
        least=0,
    )
    position_error: float = option(
        0.1,
        "Error of the given position in the scene; 0: it is exact.",
        MODEL,
        unit="pixels",
        least=0,
    )
    stamp_half: int = option(
        20,
        "Half the side of the part of the image that the scene covers.",
        MODEL,
        unit="pixels",
        least=8,
    )

    def check(self) -> None:
        """The dates are ranges."""
        super().check()
        date_ranges(self.absent)


@dataclass(frozen=True, kw_only=True)
class LightCurveSettings(LightCurveOptions, Working, ReadOptions):
    """Settings of light curves, and everything that is said about the images."""

    batch_size: int = batch_size_option(1)
    pictures: bool = option(True, "Draw light curves and scenes as PNG.", OUTPUT)
