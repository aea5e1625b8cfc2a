r"""Values and priors of an object's parameters from elsewhere: an earlier fit, a cell of a grid.

Values are where a fit begins (and stays, where the model holds a parameter without saying at what);
centres and widths make Gaussian priors, in the fit's coordinates:

.. math:: (x, y), \ln f, \ln r, \ln n, \ldots \sim N(\text{centre}, \text{width});

those of q and pa lie along and across the direction of :math:`(\eta_1, \eta_2)`, whose length is
-ln q and which turns by twice the angle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.scenes.layout import Layout, Span

if TYPE_CHECKING:
    from autofit_ml.fitting.batch import Member

__all__ = ["Known", "given_values", "put_known"]


@dataclass(frozen=True)
class Known:
    """Values of one object's parameters, and how well they are known.

    Attributes
    ----------
    values : mapping of str to ndarray, (images,)
        "component.parameter" -> catalogue value in each image, stamp pixels; NaN: not known.
    widths : mapping of str to float
        One standard deviation: of the logarithm where the fit varies that (flux, re, n, q), pixels,
        degrees (pa). Parameters without one have no prior from here.
    centres : mapping of str to ndarray, (images,)
        Of the priors, where they are not at the values.
    """

    values: Mapping[str, np.ndarray]
    widths: Mapping[str, float] = field(default_factory=dict)
    centres: Mapping[str, np.ndarray] = field(default_factory=dict)


def given_values(members: Sequence[Member], image: int) -> dict[str, np.ndarray]:
    """Known values in an image, "component.parameter" -> (B,); NaN where they are not."""
    every = [member.object.known for member in members]
    names = dict.fromkeys(name for known in every if known is not None for name in known.values)
    return {
        name: np.array(
            [
                math.nan if known is None or name not in known.values else known.values[name][image]
                for known in every
            ]
        )
        for name in names
    }


def put_known(known: Known, layout: Layout, mean: np.ndarray, precision: np.ndarray) -> bool:
    """Put an object's own Gaussians in the place of what is known of any galaxy.

    Parameters
    ----------
    known : Known
    layout : Layout
    mean, precision : ndarray, (D,), (D, D)
        Changed in place.

    Returns
    -------
    bool
        Whether there was anything to put.
    """
    places: dict[tuple[int, int | None], int] = {
        (item.coordinate, item.image): j for j, item in enumerate(layout.free) if not item.order
    }
    done = False
    for (coordinate, image), j in places.items():
        span = next(span for span in layout.spans if coordinate < span.slice.stop)
        parameter = span.parameters[coordinate - span.slice.start]
        if parameter in ("q", "pa") and span.shape == "eta":
            continue
        width = known.widths.get(span.full(parameter))
        at = _coordinates(known, span, image or 0)
        if width is None or not math.isfinite(at[parameter]):
            continue
        width = math.radians(width) if parameter == "pa" else width
        precision[j, :] = precision[:, j] = 0.0
        mean[j], precision[j, j] = at[parameter], width**-2
        done = True
    for span in layout.spans:
        done |= _put_ellipticity(known, span, places, mean, precision)
    return done


def _put_ellipticity(
    known: Known,
    span: Span,
    places: Mapping[tuple[int, int | None], int],
    mean: np.ndarray,
    precision: np.ndarray,
) -> bool:
    """The Gaussian of (eta1, eta2), in place."""
    widths = [known.widths.get(span.full(name)) for name in ("q", "pa")]
    if not span.extended or span.shape != "eta" or widths == [None, None]:
        return False
    pair = [places.get((span.index(name), None)) for name in ("q", "pa")]
    at = _coordinates(known, span, 0)
    eta = np.array([at["q"], at["pa"]])
    if None in pair or not np.isfinite(eta).all():
        return False
    length = max(float(np.hypot(*eta)), 1e-3)
    along, across = eta / length, np.array([-eta[1], eta[0]]) / length
    inverse = np.zeros((2, 2))
    if widths[0] is not None:
        inverse += np.outer(along, along) / widths[0] ** 2
    if widths[1] is not None:
        inverse += np.outer(across, across) / (2 * length * math.radians(widths[1])) ** 2
    rows = np.array(pair)
    precision[rows, :] = precision[:, rows] = 0.0
    mean[rows], precision[np.ix_(rows, rows)] = eta, inverse
    return True


def _coordinates(known: Known, span: Span, image: int) -> dict[str, float]:
    """Coordinates of a component's centres; NaN where they need what is not known."""
    blank, at = np.full(image + 1, math.nan), {**known.values, **known.centres}
    values = {
        span.full(name): np.array([at.get(span.full(name), blank)[image]])
        for name in span.parameters
    }
    found = (float(one) for one in span.coordinates(values))
    return dict(zip(span.parameters, found, strict=True))
