"""Defects of detectors and pipelines: what a real frame has besides light and noise.

Pure functions on images in image units (the sky included), called with what a recipe has checked.
Rates are means of Poisson numbers that
scale with the area (columns: with the width). Ghosts are light: they are added before the noise.
Everything else happens to the observed image (`apply_artefacts`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from autofit_ml.simulation.objects import Artefact

if TYPE_CHECKING:
    from autofit_ml.simulation.survey import Artefacts

__all__ = [
    "apply_artefacts",
    "bad_columns",
    "coarsened",
    "cosmic_rays",
    "ghosts",
    "masked_regions",
    "saturate",
]

ELECTRONS_PER_MICRON = 80.0
"""Charge that a minimum-ionising particle leaves in silicon (Janesick 2001, Scientific
Charge-Coupled Devices)."""

THICKNESS = 50.0
"""Sensitive depth, micron: between thinned (15) and fully depleted (200 to 300) CCDs."""

PIXEL = 15.0
"""Side of a pixel, micron."""

TRACK_LENGTH = 4.0
"""Mean length of a cosmic ray's track on the detector, pixels."""

STRAGGLING = 0.35
"""Scatter of ln(charge) about the mean for a path in silicon."""

FEWEST_ELECTRONS = 5.0
"""A pixel belongs to a cosmic ray's hit when it got at least this charge."""


def apply_artefacts(
    data: np.ndarray,
    settings: "Artefacts",
    *,
    gain: float,
    rng: np.random.Generator,
    psf_fwhm: float = 3.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosmic rays, then saturation and bleeding, then bad columns, then masked regions.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        The observed image with all of its sky, image units; left as it is.
    settings : Artefacts
        `ghosts` is not used here: see the function of that name.
    gain : float
        Electrons per image unit.
    rng : numpy.random.Generator
        Not used for what the settings leave out.
    psf_fwhm : float
        Pixels; sets the size of the regions cut out round stars.

    Returns
    -------
    data : ndarray, float64, shape (ny, nx)
        Masked regions keep their values.
    mask : ndarray, bool, shape (ny, nx)
        True = do not use: SATURATED, BLEED, BAD_COLUMN, MASKED, and the cosmic rays that were
        found (`Artefacts.cosmic_rays_masked`).
    bits : ndarray, uint8, shape (ny, nx)
        `Artefact` bits.
    """
    data = np.array(data, dtype=float)
    mask, bits = np.zeros(data.shape, dtype=bool), np.zeros(data.shape, np.uint8)
    if settings.cosmic_rays > 0:
        light, hit, found = cosmic_rays(
            data.shape, settings.cosmic_rays, rng, gain, settings.cosmic_rays_masked
        )
        data += light
        bits |= hit
        mask |= found
    if np.isfinite(settings.saturation):
        data, full = saturate(data, settings.saturation, settings.bleed)
        bits |= full
    if settings.bad_columns > 0:
        response, columns = bad_columns(data.shape, settings.bad_columns, rng)
        data *= response
        bits |= columns
    if settings.masked_regions > 0:
        bits |= masked_regions(data.shape, settings.masked_regions, rng, psf_fwhm)
    unusable = Artefact.SATURATED | Artefact.BLEED | Artefact.BAD_COLUMN | Artefact.MASKED
    return data, mask | ((bits & unusable) > 0), bits


def coarsened(
    data: np.ndarray, sky: float, rms: float, settings: "Artefacts", rng: np.random.Generator
) -> np.ndarray:
    """Values of some images cut off below a level, or in steps (`Artefacts`).

    Parameters
    ----------
    data : ndarray
        Without the sky that a pipeline subtracts.
    sky, rms : float
        Of what is left of it: level, and scatter.
    settings : Artefacts
    rng : numpy.random.Generator
        Not used for what the settings leave out.
    """
    if settings.clipped and rng.uniform() < settings.clipped:
        data = np.maximum(data, sky + rms * rng.uniform(-1.5, 0))
    if settings.quantised and rng.uniform() < settings.quantised:
        step = rms * rng.uniform(0.3, 1.5)
        data = step * np.round(data / step)
    return data


def saturate(data: np.ndarray, level: float, bleed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Full wells, and the charge that runs out of them along columns.

    Half of the excess of each run of full pixels flows up, half down, and fills every pixel it
    passes to `level` until it is used up. Where the charge of two runs meets, the pixels between
    them are shared in proportion to the two streams; what does not fit flows on through the other
    run. The answer does not depend on any order of stars or pixels. Charge is conserved but for
    what leaves the image.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        With sky, image units.
    level : float
        Of a full pixel; inf: nothing happens.
    bleed : bool
        False: the excess is lost.

    Returns
    -------
    data : ndarray, float64, shape (ny, nx)
    bits : ndarray, uint8, shape (ny, nx)
        SATURATED where the image was above `level`; BLEED on pixels that received charge.
    """
    data = np.array(data, dtype=float)
    full = data > level
    bits = full * np.uint8(Artefact.SATURATED)
    if bleed:
        for x in np.flatnonzero(full.any(axis=0)):
            filled = _bled_charge(data[:, x], full[:, x], level)
            bits[filled > 1e-9 * level, x] |= np.uint8(Artefact.BLEED)
            data[:, x] += filled
    return np.minimum(data, level), bits


def _bled_charge(column: np.ndarray, full: np.ndarray, level: float) -> np.ndarray:
    """Charge that bleeding adds to each pixel of one column; 0 where it was full before."""
    excess = np.where(full, column - level, 0)
    room = np.where(full, 0, level - column)
    edges = np.flatnonzero(np.diff(full, prepend=False, append=False))
    starts = edges[::2]
    charge = np.add.reduceat(excess, starts)
    # Room below each pixel's lower edge. Runs of full pixels separate gaps: gap k lies below run
    # k, gap k + 1 above it, and both ends are known by the room below them.
    below = np.concatenate([[0.0], np.cumsum(room)])
    ends = np.concatenate([[0.0], below[starts], [below[-1]]])
    size = np.diff(ends)
    up, down = np.zeros((2, len(size)))
    # Streams into the gaps from below (up) and from above (down): a monotone, bounded iteration.
    while True:
        total = up + down
        left = 1 - np.minimum(1, np.divide(size, total, out=np.ones_like(size), where=total > 0))
        new_up = np.concatenate([[0.0], charge / 2 + (left * up)[:-1]])
        new_down = np.concatenate([charge / 2 + (left * down)[1:], [0.0]])
        change = np.abs(new_up - up).max() + np.abs(new_down - down).max()
        up, down = new_up, new_down
        if change <= 1e-9 * charge.sum():
            break
    total = up + down
    share = np.minimum(1, np.divide(size, total, out=np.ones_like(size), where=total > 0))
    filled = np.zeros_like(column)
    for first, last in (
        (ends[:-1], ends[:-1] + share * up),
        (ends[1:] - share * down, ends[1:]),
    ):
        for low, high in zip(first, last, strict=True):
            if high > low:
                i, j = np.searchsorted(below, (low, high), side="right")
                part = slice(max(i - 1, 0), j)
                inside = np.minimum(below[1:][part], high) - np.maximum(below[:-1][part], low)
                filled[part] += np.maximum(inside, 0)
    return np.minimum(filled, room)


def bad_columns(
    shape: tuple[int, int], rate: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Columns that are dead, or pass too little or too much charge.

    Half of them are bad over their whole height, half from a random row on to the top or the
    bottom: everything read out through a trap.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    rate : float
        Mean number per 1000 columns.
    rng : numpy.random.Generator

    Returns
    -------
    response : ndarray, float64, shape (ny, nx)
        To multiply the image (with sky) by: 1; in bad columns 0 (40 %), 0.3 to 0.95 (30 %) or 1.05
        to 2 (30 %).
    bits : ndarray, uint8, shape (ny, nx)
        BAD_COLUMN.
    """
    ny, nx = shape
    response, bits = np.ones(shape), np.zeros(shape, np.uint8)
    number = min(int(rng.poisson(rate * nx / 1000)), nx)
    for x in rng.choice(nx, number, replace=False):
        row, kind, partial = int(rng.integers(1, max(ny, 2))), rng.uniform(), rng.uniform()
        low, high = rng.uniform(0.3, 0.95), rng.uniform(1.05, 2.0)
        rows = slice(0, ny) if partial < 0.5 else slice(row, ny) if partial < 0.75 else slice(row)
        response[rows, x] = 0.0 if kind < 0.4 else low if kind < 0.7 else high
        bits[rows, x] = Artefact.BAD_COLUMN
    return response, bits


def cosmic_rays(
    shape: tuple[int, int],
    rate: float,
    rng: np.random.Generator,
    gain: float,
    masked_fraction: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Straight tracks of charged particles.

    Directions are isotropic, lengths on the detector exponential (mean `TRACK_LENGTH`). The
    charge is `ELECTRONS_PER_MICRON` times the path through the silicon,
    ``hypot(THICKNESS, length * PIXEL)``, times a log-normal factor (median 1, scatter
    `STRAGGLING`): 4000 electrons for a perpendicular hit. It varies along the track by as much
    again from pixel to pixel and is spread by a Gaussian of 0.3 to 0.5 pixels, integrated over
    pixels. Muons look like that; the wandering tracks of Compton electrons (Groom 2002,
    Experimental Astronomy 14, 45) are not made.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    rate : float
        Mean number of hits, by their middle, per 10**6 pixels.
    rng : numpy.random.Generator
    gain : float
        Electrons per image unit.
    masked_fraction : float
        Probability that a hit was found.

    Returns
    -------
    light : ndarray, float64, shape (ny, nx)
        To be added to the image, image units.
    bits : ndarray, uint8, shape (ny, nx)
        COSMIC_RAY on pixels that got at least `FEWEST_ELECTRONS`.
    found : ndarray, bool, shape (ny, nx)
        The same for the hits that were found.
    """
    electrons, hit, found = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    ny, nx = shape
    for _ in range(rng.poisson(rate * ny * nx / 1e6)):
        y, x = rng.uniform(-0.5, ny - 0.5), rng.uniform(-0.5, nx - 0.5)
        angle, length = rng.uniform(0, np.pi), rng.exponential(TRACK_LENGTH)
        path = np.hypot(THICKNESS, length * PIXEL)
        charge = ELECTRONS_PER_MICRON * path * np.exp(STRAGGLING * rng.standard_normal())
        width, seen = rng.uniform(0.3, 0.5), rng.uniform() < masked_fraction
        along = np.linspace(-0.5, 0.5, 1 + int(np.ceil(2 * length))) * length
        weight = np.exp(STRAGGLING * rng.standard_normal(along.size))
        step = weight * charge / weight.sum()
        rows = _within(y, 0.5 * length + 5 * width, ny)
        columns = _within(x, 0.5 * length + 5 * width, nx)
        along_y = _pixel_shares(y + along * np.sin(angle), width, rows)
        along_x = _pixel_shares(x + along * np.cos(angle), width, columns)
        track = (along_y * step[:, None]).T @ along_x
        electrons[rows, columns] += track
        hit[rows, columns] |= track >= FEWEST_ELECTRONS
        if seen:
            found[rows, columns] |= track >= FEWEST_ELECTRONS
    return electrons / gain, hit * np.uint8(Artefact.COSMIC_RAY), found


def _within(centre: float, radius: float, side: int) -> slice:
    """Pixels of an axis within `radius` of `centre`."""
    return slice(max(int(centre - radius), 0), min(int(np.ceil(centre + radius)) + 1, side))


def _pixel_shares(centres: np.ndarray, width: float, pixels: slice) -> np.ndarray:
    """Part of a Gaussian about each centre in each pixel, shape (centres, pixels)."""
    edges = np.arange(pixels.start, pixels.stop + 1) - 0.5
    return np.diff(ndtr((edges - centres[:, None]) / width), axis=1)


def masked_regions(
    shape: tuple[int, int], rate: float, rng: np.random.Generator, psf_fwhm: float = 3.0
) -> np.ndarray:
    """Regions that a pipeline has cut out.

    Circles about bright stars (half of them; radius 2 to 8 FWHM), blocks (30 %; sides log-uniform
    from 3 pixels) and satellite trails across the whole image (20 %; 3 to 12 pixels wide). A
    circle's radius and a block's sides are at most a quarter, a trail's width an eighth of the
    image's shorter side.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    rate : float
        Mean number per 10**6 pixels.
    rng : numpy.random.Generator
    psf_fwhm : float
        Pixels.

    Returns
    -------
    ndarray, uint8, shape (ny, nx)
        MASKED.
    """
    ny, nx = shape
    masked = np.zeros(shape, dtype=bool)
    largest = min(shape) / 4
    for _ in range(rng.poisson(rate * ny * nx / 1e6)):
        y, x, kind = rng.uniform(0, ny - 1), rng.uniform(0, nx - 1), rng.uniform()
        one, two = rng.uniform(size=2)
        if kind < 0.5:
            radius = min((2 + 6 * one) * psf_fwhm, largest)
            rows, columns = _within(y, radius, ny), _within(x, radius, nx)
            dy, dx = np.ogrid[rows, columns]
            masked[rows, columns] |= np.hypot(dy - y, dx - x) <= radius
        elif kind < 0.8:
            height, width = (3 * max(largest / 3, 1) ** share for share in (one, two))
            masked[_within(y, height / 2, ny), _within(x, width / 2, nx)] = True
        else:
            angle = np.pi * one
            half_width = min(1.5 + 4.5 * two, min(shape) / 16)
            dy, dx = np.ogrid[:ny, :nx]
            across = (dx - x) * np.sin(angle) - (dy - y) * np.cos(angle)
            masked |= np.abs(across) <= max(half_width, 0.5)
    return masked * np.uint8(Artefact.MASKED)


def ghosts(
    stars: Sequence[tuple[float, float, float]],
    shape: tuple[int, int],
    fraction: float,
    psf_fwhm: float,
    *,
    radius: float = 30.0,
    hole: float = 0.35,
    displacement: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-focus reflections of bright stars: images of the obscured pupil.

    Each is a disc with a central hole, of even brightness with edges one FWHM wide. It lies on
    the line from the image's centre through its star.

    Parameters
    ----------
    stars : sequence of (x, y, flux)
        The stars that are bright enough; pixels and image units.
    shape : tuple of int
        (ny, nx).
    fraction : float
        Of the star's flux that is in the ghost, 0 to 1; the part outside the image included.
    psf_fwhm : float
        Pixels.
    radius : float
        Of the disc, in FWHM; over 1.
    hole : float
        Radius of the hole in units of the disc's, 0 to 0.9.
    displacement : float
        The ghost's distance from its star, in units of the star's distance from the centre:
        positive away from the centre, negative towards it.

    Returns
    -------
    light : ndarray, float64, shape (ny, nx)
        To be added before the noise, image units.
    bits : ndarray, uint8, shape (ny, nx)
        GHOST.
    """
    ny, nx = shape
    light, bits = np.zeros(shape), np.zeros(shape, np.uint8)
    if fraction == 0:
        return light, bits
    outer = radius * psf_fwhm
    for star_x, star_y, flux in stars:
        x = star_x + displacement * (star_x - (nx - 1) / 2)
        y = star_y + displacement * (star_y - (ny - 1) / 2)
        rows, columns = _within(y, outer + psf_fwhm, ny), _within(x, outer + psf_fwhm, nx)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        dy, dx = np.ogrid[rows, columns]
        distance = np.hypot(dy - y, dx - x)
        ring = np.clip(0.5 + (outer - distance) / psf_fwhm, 0, 1)
        area = np.pi * (outer**2 + psf_fwhm**2 / 12)
        if hole > 0:
            inner, edge = hole * outer, min(psf_fwhm, 2 * hole * outer)
            ring -= np.clip(0.5 + (inner - distance) / edge, 0, 1)
            area -= np.pi * (inner**2 + edge**2 / 12)
        light[rows, columns] += fraction * flux / area * ring
        bits[rows, columns] |= (ring > 0) * np.uint8(Artefact.GHOST)
    return light, bits
