"""An object's images beside what the fit says of them: what is written, drawn and handed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from autofit_ml.catalogue import band_suffix
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import Drawn, ObjectFit
from autofit_ml.segmentation import Segmentation

__all__ = ["FittedImages", "Pictured", "fitted_images"]


@dataclass(frozen=True)
class Pictured:
    """An image of an object with what the fit says of it."""

    stamp: Stamp
    drawn: Drawn | None
    model: np.ndarray | None
    residual: np.ndarray | None
    mask: np.ndarray

    @classmethod
    def of(cls, stamp: Stamp, fit: ObjectFit, image: int) -> Pictured:
        drawn = fit.drawn[image] if fit.drawn else None
        model = residual = None
        if drawn is not None:
            model = drawn.model
            residual = stamp.data - model
        masked = fit.masked[image] if fit.masked else None
        mask = stamp.mask if masked is None else stamp.mask | masked
        return cls(stamp, drawn, model, residual, mask)

    @property
    def planes(self) -> dict[str, np.ndarray | None]:
        """Planes by HDU name, as a file of the object has them."""
        drawn = self.drawn
        out = {"IMAGE": self.stamp.data, "MODEL": self.model, "RESIDUAL": self.residual}
        out |= {"SIGMA": self.stamp.sigma, "MASK": self.mask}
        if drawn is not None:
            out |= {f"COMPONENT_{k}": image for k, image in enumerate(drawn.components, 1)}
            out["NEIGHBOURS"] = drawn.neighbours
        return out


@dataclass(frozen=True)
class FittedImages:
    """The images of one object's fit.

    Attributes
    ----------
    planes : dict of ndarray, (ny, nx)
        IMAGE, SIGMA, MASK (True = not used), SEGM, and of a fit MODEL, RESIDUAL, COMPONENT_1 ...,
        NEIGHBOURS; those of a further band with ``_<band>`` after the name.
    target : int
        Label of the target in SEGM; 0: none.
    origin : tuple of int
        (x0, y0) of the first pixel in the pixels of the catalogue.
    wcs : WCS or None
    psf : PSF or None
        Of the first band; None where it was not kept.
    draws : dict of ndarray, (draws,)
        Posterior samples by the fit's names (``sersic.re``); empty where none were asked for.
    """

    planes: dict[str, np.ndarray]
    target: int = 0
    origin: tuple[int, int] = (0, 0)
    wcs: WCS | None = None
    psf: PSF | None = None
    draws: dict[str, np.ndarray] | None = None


def fitted_images(
    images: Sequence[Stamp | None], segmentation: Segmentation, fit: ObjectFit, run: RunModel
) -> FittedImages:
    """The images of an object's fit, one for each band of the run."""
    planes: dict[str, np.ndarray | None] = {}
    for k, (band, stamp) in enumerate(zip(run.bands, images, strict=True)):
        if stamp is not None:
            extra = band_suffix(band) if k else ""
            own = Pictured.of(stamp, fit, k).planes
            planes |= {f"{name}{extra}": plane for name, plane in own.items()}
    stamp, draws = images[0], None
    if stamp is None:
        raise ValueError("an object without its reference image")
    if fit.posterior is not None:
        values = fit.posterior.draws.reshape(-1, len(fit.posterior.names))
        draws = dict(zip(fit.posterior.names, values.T, strict=True))
    found = {name: plane for name, plane in planes.items() if plane is not None}
    found["SEGM"] = segmentation.labels
    return FittedImages(found, segmentation.target, stamp.origin, stamp.wcs, stamp.psf, draws)
