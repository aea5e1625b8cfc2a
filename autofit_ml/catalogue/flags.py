"""Quality flags of a catalogue row (bit numbers are fixed by docs/flags)."""

import enum
from collections.abc import Iterable

import numpy as np

__all__ = [
    "FATAL",
    "FLAG_MEANINGS",
    "QUALITY",
    "Flag",
    "bound_names",
    "flag_names",
    "flagged",
    "usable",
]


class Flag(enum.IntFlag):
    """Bits of the ``flags`` column (int32)."""

    FAILED = 1 << 0
    NOT_CONVERGED = 1 << 1
    AT_BOUND = 1 << 2
    BAD_COVARIANCE = 1 << 3
    CENTRE_MASKED = 1 << 4
    EDGE = 1 << 5
    BLENDED = 1 << 6
    SATURATED = 1 << 7
    SIGMA_ESTIMATED = 1 << 8
    PSF_ESTIMATED = 1 << 9
    POOR_FIT = 1 << 10
    INIT_FALLBACK = 1 << 11
    OUT_OF_DOMAIN = 1 << 12
    POINT_SOURCE = 1 << 13
    CORRELATED_NOISE = 1 << 14
    LOW_SNR = 1 << 15
    NO_TARGET = 1 << 16
    EXTRAPOLATED = 1 << 17
    UNDETERMINED = 1 << 18
    BAD_SIGMA = 1 << 19
    BAD_PSF = 1 << 20


FLAG_MEANINGS: dict[Flag, str] = {
    Flag.FAILED: "no fit; see message",
    Flag.NOT_CONVERGED: "stopped by the iteration limit",
    Flag.AT_BOUND: "a parameter sits on its bound (at_bound lists which)",
    Flag.BAD_COVARIANCE: "errors are not to be used",
    Flag.CENTRE_MASKED: "over half of the pixels inside re masked",
    Flag.EDGE: "object touches the image border",
    Flag.BLENDED: "a neighbour adds over 5 % of the light inside re",
    Flag.SATURATED: "saturated pixels masked inside 2 re",
    Flag.SIGMA_ESTIMATED: "the noise map was built, not given",
    Flag.PSF_ESTIMATED: "the PSF was built, not given",
    Flag.POOR_FIT: "reduced chi2 outside what its own noise allows",
    Flag.INIT_FALLBACK: "the network start was refused; moments were used",
    Flag.OUT_OF_DOMAIN: "the input is outside what the weights were trained on",
    Flag.POINT_SOURCE: "a point source explains the data as well (BIC)",
    Flag.CORRELATED_NOISE: "neighbouring pixels' noise is correlated; errors were widened",
    Flag.LOW_SNR: "total S/N below 10",
    Flag.NO_TARGET: "nothing was detected where the target should be (message: nearest source)",
    Flag.EXTRAPOLATED: "over half of the flux, or re, lies outside the stamp",
    Flag.UNDETERMINED: "the data do not say: re_err > re / 2 or mag_err > 0.5",
    Flag.BAD_SIGMA: "the sky's scatter is not what the noise plane says (outside 0.8 to 1.25)",
    Flag.BAD_PSF: "the PSF image has a plateau, a second source, cut wings or another pixel scale",
}

FATAL = (
    Flag.FAILED
    | Flag.NOT_CONVERGED
    | Flag.AT_BOUND
    | Flag.BAD_COVARIANCE
    | Flag.CENTRE_MASKED
    | Flag.NO_TARGET
    | Flag.UNDETERMINED
)
"""An object with any of these bits has ``use == False``."""


QUALITY = ~(Flag.CORRELATED_NOISE | Flag.SIGMA_ESTIMATED | Flag.PSF_ESTIMATED)
"""Bits of quality: an object with any of them is "flagged". The others say how the data are."""


def usable(flags):
    """True where no fatal bit is set; `flags` is an int or an integer array."""
    return (np.asarray(flags) & int(FATAL)) == 0


def flagged(flags):
    """True where there is a fit with a bit of quality; `flags` is an int or an integer array."""
    flags = np.asarray(flags)
    return ((flags & int(QUALITY)) != 0) & ((flags & int(Flag.FAILED)) == 0)


def flag_names(flags: int) -> list[str]:
    """Names of the bits set in `flags`, lowest bit first."""
    return [flag.name for flag in Flag if int(flags) & flag]  # type: ignore[misc]


def bound_names(fitted: Iterable[str]) -> list[str]:
    """The catalogue's names of coordinates of the fit: ``bulge.ln_rc`` -> ``re``, each once."""
    names = (name.rpartition(".")[2].removeprefix("ln_") for name in fitted)
    known = {"rc": "re", "eta1": "q", "eta2": "q"}
    return list(dict.fromkeys(known.get(name, name) for name in names))
