"""Empty stamps of the user's own data, and galaxies like those of a catalogue added to them.

A frame has empty regions: stamps are cut where no footprint comes near their middle, and keep
whatever else is in them. A stamp is filled by its galaxy: its fitted light is subtracted, and every
footprint is covered with square tiles copied from sky pixels of the same stamp (noise map
included), so that the noise and its correlations up to the tile's side survive.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from autofit_ml.images import Frame, ReadOptions, Stamp, cut_stamps
from autofit_ml.segmentation import Segmentation

__all__ = ["GRID", "PARAMETERS", "Population", "emptied", "empty_regions", "inject", "light_of"]

PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa")

_SPREAD = 0.15
"""Galaxies differ from the row they are like by this scatter of ln flux, ln re and ln n: a few
rows make a smooth distribution."""

TILE = 8
"""Pixels of a tile's side."""

_LEAST_SKY = 0.25
"""Share of a stamp's pixels that must be sky for the rest to be made of it."""

_GROWN = 3
"""Pixels by which footprints are grown: faint wings are not sky."""


def emptied(
    stamp: Stamp,
    segmentation: Segmentation,
    rng: np.random.Generator,
    light: np.ndarray | float = 0.0,
    *,
    keep_mask: bool = False,
) -> Stamp | None:
    """The stamp with all objects replaced by sky of its own.

    Parameters
    ----------
    stamp : Stamp
    segmentation : Segmentation
    rng : numpy.random.Generator
    light : ndarray, shape (ny, nx)
        Of the fitted galaxy: is subtracted first, as its wings reach beyond its footprint.
    keep_mask : bool
        Keep the mask, though there is sky below it.

    Returns
    -------
    Stamp or None
        Without a position, labels or mask; None where there is too little sky.
    """
    objects = (segmentation.labels > 0) | segmentation.contaminants
    objects = ndimage.binary_dilation(objects, iterations=_GROWN) | stamp.mask
    sky = ~objects
    if sky.mean() < _LEAST_SKY:
        return None
    corners = _clean_corners(sky)
    if len(corners) < 8:
        return None
    before = (stamp.data - light).astype(np.float32)
    data, sigma = before.copy(), stamp.sigma.copy()
    ny, nx = data.shape
    for y in range(0, ny, TILE):
        for x in range(0, nx, TILE):
            box = (slice(y, min(y + TILE, ny)), slice(x, min(x + TILE, nx)))
            covered = objects[box]
            if not covered.any():
                continue
            v, u = corners[rng.integers(len(corners))]
            height, width = covered.shape
            source = (slice(v, v + height), slice(u, u + width))
            # A tile is moved and turned over, never scaled.
            new, noise = before[source], stamp.sigma[source]
            if rng.random() < 0.5:
                new, noise = new[::-1], noise[::-1]
            if rng.random() < 0.5:
                new, noise = new[:, ::-1], noise[:, ::-1]
            data[box][covered] = new[covered]
            sigma[box][covered] = noise[covered]
    return stamp.replace(
        data=data,
        sigma=sigma,
        mask=stamp.mask if keep_mask else np.zeros_like(stamp.mask),
        x=None,
        y=None,
        labels=None,
        target_label=None,
        saturated=None,
    )


def _clean_corners(sky: np.ndarray) -> np.ndarray:
    """(y, x) of the tiles that hold nothing but sky, shape (n, 2)."""
    if min(sky.shape) < TILE:
        return np.zeros((0, 2), int)
    return np.argwhere(sliding_window_view(sky, (TILE, TILE)).all((2, 3)))


def empty_regions(
    frame: Frame,
    labels: np.ndarray,
    number: int,
    radius: float,
    rng: np.random.Generator,
    options: ReadOptions | None = None,
) -> list[Stamp]:
    """Stamps of a frame whose middle is empty.

    Parameters
    ----------
    frame : Frame
    labels : ndarray, int, shape (ny, nx)
        Footprints, 0 = sky.
    number : int
        At most so many.
    radius : float
        Pixels around the middle without any footprint; also the size that the stamps are cut for.
    rng : numpy.random.Generator
    options : ReadOptions, optional
    """
    taken = (labels > 0) | frame.mask
    far = ndimage.distance_transform_edt(~np.pad(taken, 1, constant_values=True))[1:-1, 1:-1]
    places = np.argwhere(far > radius)
    if len(places) == 0:
        return []
    chosen: list[np.ndarray] = []
    for place in places[rng.permutation(len(places))]:
        if all(np.hypot(*(place - other)) > 2 * radius for other in chosen):
            chosen.append(place)
            if len(chosen) == number:
                break
    detections: Sequence[dict] = [
        {"id": f"{frame.id}-{k}", "x": float(x), "y": float(y), "radius": radius}
        for k, (y, x) in enumerate(chosen)
    ]
    return [
        stamp.replace(labels=None, target_label=None)
        for stamp in cut_stamps(frame, detections, options or ReadOptions())
    ]


@dataclasses.dataclass(frozen=True)
class Population:
    """Draws galaxies like the rows of a catalogue.

    Attributes
    ----------
    mag, flux, re, n, q : ndarray, shape (B,)
        Of usable rows; mag is NaN without a zero point. Sizes in pixels.
    """

    mag: np.ndarray
    flux: np.ndarray
    re: np.ndarray
    n: np.ndarray
    q: np.ndarray

    @property
    def digest(self) -> str:
        """Tells one population from another."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return hashlib.sha256(np.stack(values).astype("<f8").tobytes()).hexdigest()[:12]

    def draw(self, rng: np.random.Generator, stamp: Stamp) -> dict[str, float]:
        """Parameters of one galaxy near the middle of a stamp, in its units and pixels."""
        k = int(rng.integers(len(self.flux)))
        bright, large, shape = np.exp(rng.normal(0, _SPREAD, 3))
        flux = self.flux[k]
        if np.isfinite(self.mag[k]) and np.isfinite(stamp.zeropoint):
            flux = 10 ** (-0.4 * (self.mag[k] - stamp.zeropoint))
        ny, nx = stamp.shape
        x, y = rng.uniform(-0.5, 0.5, 2) + ((nx - 1) / 2, (ny - 1) / 2)
        return {
            "x": float(x),
            "y": float(y),
            "flux": float(flux * bright),
            "re": float(max(self.re[k] * large, 0.3)),
            "n": float(GRID[np.abs(np.log(GRID / (self.n[k] * shape))).argmin()]),
            "q": float(np.clip(self.q[k] + rng.normal(0, 0.05), 0.1, 1.0)),
            "pa": float(rng.uniform(0, 180)),
        }


GRID = np.round(np.geomspace(0.4, 6.2, 40), 3)


def light_of(galaxy: Mapping[str, float], stamp: Stamp) -> np.ndarray:
    """A galaxy's noise-free image in a stamp's pixels and PSF, by GalSim."""
    from autofit_ml.simulation import Source, render_source

    x, y, flux, re, n, q, pa = (galaxy[name] for name in PARAMETERS)
    # GalSim keeps a table for each index: a grid keeps them few.
    n = float(GRID[np.abs(np.log(GRID / n)).argmin()])
    return render_source(Source(x, y, flux, re, n, q, pa), stamp.psf, stamp.shape)


def inject(stamp: Stamp, light: np.ndarray, rng: np.random.Generator) -> Stamp:
    """The stamp with a galaxy's light, its photon noise included where the gain is known."""
    sigma = stamp.sigma.astype(np.float64)
    if stamp.gain > 0:
        variance = np.clip(light, 0, None) / stamp.gain
        light = light + rng.normal(0, 1, light.shape) * np.sqrt(variance)
        sigma = np.sqrt(sigma**2 + variance)
    data, sigma = (stamp.data + light).astype(np.float32), sigma.astype(np.float32)
    return stamp.replace(data=data, sigma=sigma, x=None, y=None)
