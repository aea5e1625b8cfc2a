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
        13, "Side of the convolution kernel, odd.", MODEL, unit="pixels", least=3, most=31
    )
    background: int = option(
        0, "Order of the differential background's polynomial.", MODEL, least=0, most=6
    )
    variation: int = option(
        0, "Order of the kernel's variation over the image.", MODEL, least=0, most=3
    )
    convolve: str = option(
        "auto",
        "Which image is convolved; auto: the one whose kernel amplifies noise less.",
        MODEL,
        choices=("auto", "reference", "science"),
    )
    known_scale: float | None = option(
        None,
        "Flux in the science image of a source with flux 1 in the reference, where zero points say "
        "it better than the few stars of a small image; by default by the kernel.",
        NOISE,
        above=0,
    )
    robust: str = option(
        "huber",
        "Weights of outliers in the solution for the kernel.",
        MODEL,
        choices=("huber", "student-t", "none"),
    )
    floor: float = option(
        0.01, "Error of the convolved image, as a share of its light.", MODEL, least=0, below=1
    )
    smoothness: float = option(
        1e-5, "Weight of the kernel's squared Laplacian.", MODEL, least=0, below=1
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
        "The kernel is fitted to at most so many pixels, the brightest.",
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
    return option(5.0, "Least S/N of a change between images.", MODEL, above=0)


@dataclass(frozen=True, kw_only=True)
class DiffSettings(SubtractSettings, Working, ReadOptions):
    """Settings of image subtraction over epochs, and of the detection of changes."""

    batch_size: int = batch_size_option(4)
    threshold: float = threshold_option()
    pictures: bool = option(True, "Draw reference, science and difference as PNG.", OUTPUT)


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
        "difference: forced photometry on differences from the reference; scene: host and source "
        "fitted to all epochs together; both.",
        MODEL,
        choices=("difference", "scene", "both"),
    )
    host: str = option(
        "sersic+pixels",
        "Host of the scene: sersic, sersic+exp ..., pixels about the source, both (joined by +), "
        "or none.",
        MODEL,
    )
    absent: str = option(
        "",
        "Dates without the source, as ranges of MJD: :58000,58100:58200; a reference of its own "
        "is without it, too.",
        MODEL,
    )
    scale: str = option(
        "auto",
        "How fluxes of epochs are brought to the reference's: stars in common, zeropoints of the "
        "headers, the sum of the kernel; auto: the first that there is.",
        NOISE,
        choices=("auto", "stars", "zeropoints", "kernel"),
    )
    psf_error: float = option(
        0.01, "Relative error of a PSF's width and shape in the scene.", NOISE, least=0, below=1
    )
    astrometric_error: float = option(
        0.02,
        "Error of an epoch's position against the reference's in the scene.",
        NOISE,
        unit="pixels",
        least=0,
    )
    position_error: float = option(
        0.1, "Error of the given position in the scene; 0: exact.", MODEL, unit="pixels", least=0
    )
    stamp_half: int = option(
        20, "Half side of the part of the image that the scene has.", MODEL, unit="pixels", least=8
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
