"""The catalogue of a field: from posteriors to rows.

Positions, fluxes and colours are means over both types by their probabilities (with the scatter
between them in the errors); sizes and shapes are those of the galaxy, given where it is possible at
all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import astropy.units as u
import numpy as np
from astropy.table import QTable

from autofit_ml.catalogue.flags import Flag, usable
from autofit_ml.images.bands import blue_to_red
from autofit_ml.images.sky_coordinates import sky_angle, sky_positions
from autofit_ml.sources.field import Field
from autofit_ml.sources.priors import MAGNITUDE
from autofit_ml.sources.scan import Posterior

__all__ = ["catalogue_rows", "mask_bits", "shares_seen"]

_POSSIBLE = 0.01
"""Least probability of being a galaxy with which a source has a size and a shape."""

_LEVELS = (0.1587, 0.5, 0.8413)
"""Quantiles of the draws that values and errors of shapes are made of."""

_CROWDED = 0.05
_DETERMINED = 0.5
"""Largest error of the best magnitude."""


def catalogue_rows(
    field: Field, posterior: Posterior, radius: np.ndarray, name: str, shape: str
) -> QTable:
    """One row for each source.

    Parameters
    ----------
    field : Field
    posterior : Posterior
    radius : ndarray, (N,)
        Of the isophotes, pixels.
    name : str
        Of the frame; ids are ``<name>@<number>``.
    shape : {"exp_dev", "sersic"}

    Returns
    -------
    QTable
        See docs/catalog.md for the columns.
    """
    n, nb = len(posterior.p_star), len(field.fluxes)
    mean, covariance = _of_both(posterior, nb)
    x, y = (posterior.anchor + mean[:, :2]).T
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    width = len(str(n))
    table = QTable()
    table["id"] = np.array([f"{name}@{k:0{width}d}" for k in range(1, n + 1)], dtype=object)
    table["frame"] = np.full(n, name, dtype=object)
    table["x"], table["y"] = x * u.pix, y * u.pix
    table["x_err"], table["y_err"] = error[:, 0] * u.pix, error[:, 1] * u.pix
    wcs = field.first.frame.wcs
    if wcs is not None:
        ra, dec = sky_positions(wcs, x, y)
        table["ra"], table["dec"] = ra * u.deg, dec * u.deg
    table["p_star"] = posterior.p_star
    table["type"] = np.where(posterior.p_star > 0.5, "star", "galaxy").astype(object)
    ln_flux, ln_error = mean[:, 2:], error[:, 2:]
    for b, band in enumerate(field.fluxes):
        flux = np.exp(ln_flux[:, b]) * band.scale
        table[f"flux_{band.band.name}"] = flux
        table[f"flux_{band.band.name}_err"] = flux * np.sinh(np.minimum(ln_error[:, b], 5.0))
    for b, band in enumerate(field.fluxes):
        zeropoint = band.band.zeropoint
        table[f"mag_{band.band.name}"] = (zeropoint - MAGNITUDE * ln_flux[:, b]) * u.mag
        table[f"mag_{band.band.name}_err"] = MAGNITUDE * ln_error[:, b] * u.mag
    _add_colours(table, field, ln_flux, covariance[:, 2:, 2:])
    _add_shapes(table, field, posterior, x, y, shape)
    table["chi2_red"], table["n_pix"] = posterior.chi2, posterior.n_pix
    snr = np.sqrt((ln_error**-2.0).sum(1))
    table["snr"] = snr
    table["radius"] = radius * u.pix
    table["flags"] = _flags(field, posterior, radius, snr, ln_error.min(1) * MAGNITUDE)
    table["use"] = usable(table["flags"])
    for band_name, bits in mask_bits(field, x, y, radius).items():
        table[f"mask_bits_{band_name}"] = bits
    return table


def _of_both(posterior: Posterior, nb: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, 2 + nb) and covariance of positions and ln fluxes over both types."""
    size = 2 + nb
    share = np.stack([posterior.p_star, 1 - posterior.p_star])
    means = [one.mean[:, :size].numpy() for one in (posterior.stars, posterior.galaxies)]
    covariances = [
        one.covariance[:, :size, :size].numpy() for one in (posterior.stars, posterior.galaxies)
    ]
    mean = sum(p[:, None] * m for p, m in zip(share, means, strict=True))
    total = np.zeros((len(mean), size, size))
    for p, m, c in zip(share, means, covariances, strict=True):
        off = m - mean
        total += p[:, None, None] * (c + off[:, :, None] * off[:, None, :])
    return np.asarray(mean), total


def _add_colours(table: QTable, field: Field, ln_flux: np.ndarray, covariance: np.ndarray) -> None:
    """Colours of neighbouring bands, from blue to red, errors and covariance, mag."""
    names = [band.band.name for band in field.fluxes]
    if len(names) < 2:
        return
    pairs = list(itertools.pairwise(blue_to_red(names)))
    turn = np.zeros((len(pairs), len(names)))
    for k, (blue, red) in enumerate(pairs):
        turn[k, names.index(blue)], turn[k, names.index(red)] = 1.0, -1.0
    zero = np.array([band.band.zeropoint for band in field.fluxes])
    colour = (zero - MAGNITUDE * ln_flux) @ turn.T
    cov = MAGNITUDE**2 * turn @ covariance @ turn.T
    for k, (blue, red) in enumerate(pairs):
        table[f"colour_{blue}_{red}"] = colour[:, k] * u.mag
        table[f"colour_{blue}_{red}_err"] = np.sqrt(cov[:, k, k]) * u.mag
    table["colour_cov"] = cov.reshape(len(cov), len(turn) ** 2) * u.mag**2


def _add_shapes(
    table: QTable, field: Field, posterior: Posterior, x: np.ndarray, y: np.ndarray, shape: str
) -> None:
    """Size, axis ratio, direction and profile of the galaxies, with errors; NaN for stars."""
    galaxy = posterior.p_star < 1 - _POSSIBLE
    weights = posterior.galaxies.weights.numpy()
    ln_rc, inner, eta1, eta2 = posterior.galaxies.draws[..., 2:].permute(2, 0, 1).numpy()
    e = np.hypot(eta1, eta2)
    columns = {
        "re": (*_middle(np.exp(ln_rc + e / 2), weights), u.pix),
        "q": (*_middle(np.exp(-e), weights), None),
        "pa": (*_direction(eta1, eta2, weights), u.deg),
    }
    if shape == "sersic":
        columns["n"] = (*_middle(np.exp(inner), weights), None)
    else:
        dev = 1 / (1 + np.exp(-inner))
        columns["dev"] = (*_middle(dev, weights), None)
        columns["n"] = (*_middle(4.0**dev, weights), None)
    pa = columns["pa"][0]
    for name, (value, sigma, unit) in columns.items():
        for key, number in ((name, value), (f"{name}_err", sigma)):
            column = np.where(galaxy, number, np.nan)
            table[key] = column if unit is None else column * unit
    scale = field.first.frame.pixel_scale
    table["re_arcsec"] = table["re"].value * scale * u.arcsec
    table["re_arcsec_err"] = table["re_err"].value * scale * u.arcsec
    wcs = field.first.frame.wcs
    if wcs is not None:
        sky = [
            sky_angle(wcs, *at)[2] if known else np.nan
            for *at, known in zip(x, y, pa, galaxy, strict=True)
        ]
        table["pa_sky"] = np.array(sky) * u.deg


def _middle(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of weighted draws (N, T), and half of what 68 % of them span."""
    order = np.argsort(values, axis=1)
    values, weights = (np.take_along_axis(one, order, 1) for one in (values, weights))
    below = np.cumsum(weights, 1) - weights / 2
    rows = zip(below, values, strict=True)
    low, middle, high = np.array([np.interp(_LEVELS, *row) for row in rows]).reshape(-1, 3).T
    return middle, (high - low) / 2


def _direction(
    eta1: np.ndarray, eta2: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean direction of weighted draws of an ellipticity, and its scatter, degrees."""
    turn = (weights * np.exp(1j * np.arctan2(eta2, eta1))).sum(1)
    scatter = np.sqrt(-2 * np.log(np.clip(np.abs(turn), 1e-6, 1 - 1e-12))) / 2
    return (np.degrees(np.angle(turn)) / 2 - 90.0) % 180.0, np.degrees(scatter)


def _flags(
    field: Field, posterior: Posterior, radius: np.ndarray, snr: np.ndarray, best: np.ndarray
) -> np.ndarray:
    """Bits of `autofit_ml.catalogue.Flag` for each source."""
    ny, nx = field.shape
    x, y = posterior.anchor.T
    edge = np.minimum.reduce([x, y, nx - 1 - x, ny - 1 - y]) < radius
    scatter = np.sqrt(2 / np.maximum(posterior.n_pix, 1))
    conditions = {
        Flag.NOT_CONVERGED: ~posterior.converged,
        Flag.EDGE: edge,
        Flag.BLENDED: posterior.neighbours > _CROWDED,
        Flag.CENTRE_MASKED: posterior.seen.max(1) < 0.5,
        Flag.LOW_SNR: snr < 10,
        Flag.UNDETERMINED: ~(best < _DETERMINED),
        Flag.POOR_FIT: np.abs(posterior.chi2 - 1) > 0.1 + 5 * scatter,
        Flag.SATURATED: _saturated(field, posterior, radius),
    }
    flags = np.zeros(len(x), np.int32)
    for band in field.bands:
        flags |= np.int32(band.frame.flags)
    for flag, where in conditions.items():
        flags |= np.where(where, np.int32(flag), np.int32(0))
    return flags


def _saturated(field: Field, posterior: Posterior, radius: np.ndarray) -> np.ndarray:
    out = np.zeros(len(radius), bool)
    x, y = posterior.anchor.T.astype(float)
    for b, band in enumerate(field.bands):
        if band.frame.saturated is not None and band.frame.saturated.any():
            u_, v = field.positions(b, x, y)
            out |= _under(band.frame.saturated.astype(np.int64), u_, v, radius) > 0
    return out


def mask_bits(
    field: Field, x: np.ndarray, y: np.ndarray, radius: np.ndarray
) -> Mapping[str, np.ndarray]:
    """Bits of the survey's mask that are set under each source, for each band that has some."""
    out: dict[str, np.ndarray] = {}
    for b, band in enumerate(field.bands):
        bits = band.frame.mask_bits
        if bits is not None:
            found = _under(bits, *field.positions(b, x, y), radius)
            out[band.band.name] = out.get(band.band.name, 0) | found
    return out


def shares_seen(field: Field, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the pixels inside the seeing that are not masked, (N, bands)."""
    out = np.zeros((len(x), len(field.bands)))
    for b, band in enumerate(field.bands):
        radius = max(band.fwhm / 2, 1.0)
        good = band.root.numpy() > 0
        places = _circles(*field.positions(b, x, y), np.full(len(x), radius), good.shape)
        for k, (rows, columns, inside) in enumerate(places):
            out[k, b] = good[rows, columns][inside].sum() / (math.pi * radius**2)
    return out


def _circles(
    x: np.ndarray, y: np.ndarray, radius: np.ndarray, shape: tuple[int, ...]
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Rows and columns of the squares about circles, and which of their pixels are inside."""
    ny, nx = shape
    for a, b, r in zip(x, y, radius, strict=True):
        a, b = (a, b) if np.isfinite(a + b) else (-1e6, -1e6)
        x0, x1 = (int(np.clip(a + d, 0, nx)) for d in (-r, r + 2))
        y0, y1 = (int(np.clip(b + d, 0, ny)) for d in (-r, r + 2))
        rows, columns = np.ogrid[y0:y1, x0:x1]
        yield slice(y0, y1), slice(x0, x1), np.hypot(rows - b, columns - a) <= max(r, 0.75)


def _under(bits: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Bits that are set in any pixel inside circles, int64, (N,)."""
    out = np.zeros(len(x), np.int64)
    for k, (rows, columns, inside) in enumerate(_circles(x, y, radius, bits.shape)):
        out[k] = np.bitwise_or.reduce(bits[rows, columns][inside], initial=0)
    return out
