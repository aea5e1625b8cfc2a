"""Forced photometry: fluxes of the sources of a catalogue in other images, where and as they are.

Positions and shapes are held, so that fluxes are a linear problem, solved for all sources of an
image together (`fluxes`). Pixel scale, orientation and PSF are the image's own; fluxes may be
negative. The sky is measured without the sources, then again on what is left of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import QTable, Table
from astropy.wcs import WCS

from autofit_ml.catalogue.flags import Flag, usable
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.sky_coordinates import pixel_positions, sky_angle
from autofit_ml.images.stamp import Frame
from autofit_ml.settings import SourceSettings
from autofit_ml.sources.detection import patch_sides, sky_of
from autofit_ml.sources.field import Field, make_field
from autofit_ml.sources.fluxes import LinearFluxes, Templates, solve_fluxes, templates
from autofit_ml.sources.infer import SourceCatalogue, make_priors
from autofit_ml.sources.priors import MAGNITUDE
from autofit_ml.sources.rows import mask_bits, shares_seen

__all__ = ["ForcedSources", "forced_frames", "read_forced"]

_LIMIT = 1.645
"""Standard deviations of a one-sided limit of 95 %."""

_WINGS = 4.0
"""Half side of a patch in half-light radii of a galaxy."""


@dataclass(frozen=True)
class ForcedSources:
    """Positions and shapes of N sources, which are held.

    Attributes
    ----------
    id : ndarray of str, (N,)
    ra, dec : ndarray, (N,)
        ICRS degrees; NaN where only pixels are known.
    x, y : ndarray, (N,)
        Pixels, for images without a WCS.
    star : ndarray of bool, (N,)
    re : ndarray, (N,)
        arcsec; pixels without a WCS.
    q, pa : ndarray, (N,)
        Axis ratio; degrees east of north, without a WCS counter-clockwise from +y.
    profile : ndarray, (N,)
        de Vaucouleurs share ("exp_dev") or Sérsic index ("sersic").
    shape : {"exp_dev", "sersic"}
    """

    id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    star: np.ndarray
    re: np.ndarray
    q: np.ndarray
    pa: np.ndarray
    profile: np.ndarray
    shape: str

    def __len__(self) -> int:
        return len(self.id)


def read_forced(path: str | Path) -> ForcedSources:
    """Read a catalogue for forced photometry.

    Parameters
    ----------
    path : path
        Parquet, FITS, ECSV or CSV. ``ra`` and ``dec`` (degrees), or ``x`` and ``y``; ``id``; for
        galaxies ``re_arcsec`` (or ``re``), ``q``, ``pa_sky`` (or ``pa``), and ``dev`` or ``n``.
        Stars are those of ``type`` star, or of a ``p_star`` over 0.5; without these two, rows
        without a size.

    Raises
    ------
    SettingsError
        It cannot be read, or lacks positions.
    """
    try:
        table = Table.read(path)
    except Exception as error:  # whatever astropy's readers raise
        raise SettingsError(
            f"the catalogue cannot be read: {error}", "give Parquet, FITS, ECSV or CSV", path
        ) from None
    n = len(table)

    def column(*names: str) -> np.ndarray:
        name = next((name for name in names if name in table.colnames), None)
        if name is None:
            return np.full(n, np.nan)
        return np.ma.MaskedArray(table[name], dtype=float).filled(np.nan)

    ra, dec, x, y = (column(name) for name in ("ra", "dec", "x", "y"))
    lacking = ~(np.isfinite(ra + dec) | np.isfinite(x + y))
    if n == 0 or lacking.any():
        raise SettingsError(
            f"{int(lacking.sum()) or 'all'} rows have no position",
            "give ra and dec in degrees, or x and y",
            path,
        )
    re = column("re_arcsec", "re")
    if "type" in table.colnames:
        star = np.array([str(text).strip() == "star" for text in table["type"]])
    elif "p_star" in table.colnames:
        star = column("p_star") > 0.5
    else:
        star = ~np.isfinite(re)
    star = star | ~(re > 0)
    names = table["id"] if "id" in table.colnames else range(1, n + 1)
    shape = "exp_dev" if "dev" in table.colnames or "n" not in table.colnames else "sersic"
    return ForcedSources(
        np.array([str(name) for name in names], dtype=object),
        ra, dec, x, y, star,
        np.where(star, 1.0, re),
        np.clip(np.nan_to_num(column("q"), nan=1.0), 0.05, 1.0),
        np.nan_to_num(column("pa_sky", "pa")),
        np.nan_to_num(column("dev") if shape == "exp_dev" else column("n"), nan=0.5),
        shape,
    )  # fmt: skip


def forced_frames(
    frames: Sequence[Frame],
    bands: Sequence[str],
    sources: ForcedSources,
    settings: SourceSettings | None = None,
) -> SourceCatalogue:
    """Fluxes of known sources in frames.

    Parameters
    ----------
    frames : sequence of Frame
        One for each band.
    bands : sequence of str
        Their names.
    sources : ForcedSources
        Those outside of the first frame get no row.
    settings : SourceSettings, optional

    Returns
    -------
    SourceCatalogue
        Rows ``id frame x y type``, and for each band ``flux flux_err flux_limit`` (95 %) and
        magnitudes; `SourceCatalogue.covariance` has the fluxes' covariances.

    Raises
    ------
    InputError
        No source inside; a frame without a PSF, or without the WCS that is needed.
    """
    settings = (settings or SourceSettings()).replace(galaxy=sources.shape)
    x, y, shape = _placed(frames[0], sources)
    ny, nx = frames[0].data.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    some = np.flatnonzero(inside)
    if len(some) == 0:
        raise InputError(
            "no source of the catalogue lies in this image", "check its WCS", frames[0].file
        )
    x, y, shape, star = x[some], y[some], shape[some], sources.star[some]
    anchor = np.rint(np.stack([x, y], 1)).astype(np.int64)
    shape = np.hstack([np.stack([x, y], 1) - anchor, shape])
    sky = tuple(sky_of(frame) for frame in frames)
    for _ in range(2):
        field = make_field(frames, bands, sky)
        fwhm = max(band.fwhm for band in field.bands)
        extent = np.where(star, 0.0, np.exp(shape[:, 2]))
        side = patch_sides(2 * np.hypot(_WINGS * extent, 3 * fwhm))
        drawn = templates(field, make_priors(field, settings), anchor, side, star, shape)
        found = [solve_fluxes(one) for one in drawn]
        for b, (one, fluxes) in enumerate(zip(drawn, found, strict=True)):
            _show(field, b, one, fluxes.flux)
        sky = tuple(
            level + sky_of(frame.replace(data=frame.data - level - _light(field, b)))
            for b, (frame, level) in enumerate(zip(frames, sky, strict=True))
        )
    rows = _rows(field, sources.id[some], x, y, star, found)
    covariance = _covariances(field, sources.id[some], found)
    return SourceCatalogue(rows, field, sky, (), covariance)


def _light(field: Field, b: int) -> np.ndarray:
    band = field.bands[b]
    return band.model.numpy() * np.float32(band.scale)


def _show(field: Field, b: int, one: Templates, flux: np.ndarray) -> None:
    """Put the sources' light into the model."""
    import torch

    for image, corner, value in zip(one.images, one.corners, np.nan_to_num(flux), strict=True):
        field.add(b, torch.as_tensor(corner[None]), (image * float(value))[None])


def _placed(frame: Frame, sources: ForcedSources) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in a frame's pixels; ln rc, profile and eta there, (N, 4)."""
    known = np.isfinite(sources.ra + sources.dec)
    x, y = sources.x.copy(), sources.y.copy()
    scale, turn, parity = 1.0, 0.0, 1.0
    if frame.wcs is not None and known.any():
        x[known], y[known] = pixel_positions(frame.wcs, sources.ra[known], sources.dec[known])
        turn, parity = _direction(frame.wcs, frame.data.shape)
        scale = frame.pixel_scale
    elif not np.isfinite(x + y).all():
        raise InputError(
            "without a WCS it cannot be told where the sources are", "give x and y", frame.file
        )
    pa = np.radians(parity * (sources.pa - turn))
    e = -np.log(sources.q)
    ln_rc = np.log(sources.re / scale) - e / 2
    if sources.shape == "exp_dev":
        share = np.clip(sources.profile, 1e-4, 1 - 1e-4)
        inner = np.log(share / (1 - share))
    else:
        inner = np.log(np.clip(sources.profile, 0.35, 7.5))
    twice = 2 * pa + math.pi
    return x, y, np.column_stack([ln_rc, inner, e * np.cos(twice), e * np.sin(twice)])


def _direction(wcs: WCS, shape: tuple[int, ...]) -> tuple[float, float]:
    """Sky angle of +y in the middle, degrees, and whether angles run the same way (1) or not."""
    ny, nx = shape
    first, second = (sky_angle(wcs, (nx - 1) / 2, (ny - 1) / 2, pa)[2] for pa in (0.0, 45.0))
    return first, 1.0 if (second - first) % 180.0 < 90.0 else -1.0


def _rows(
    field: Field,
    names: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    star: np.ndarray,
    found: Sequence[LinearFluxes],
) -> QTable:
    table = QTable()
    table["id"] = names
    table["frame"] = np.full(len(names), field.first.frame.id, dtype=object)
    table["x"], table["y"] = x * u.pix, y * u.pix
    table["type"] = np.where(star, "star", "galaxy").astype(object)
    for band, one in zip(field.bands, found, strict=True):
        name, scale = band.band.name, band.scale
        flux, error = one.flux * scale, one.error * scale
        table[f"flux_{name}"], table[f"flux_{name}_err"] = flux, error
        table[f"flux_{name}_limit"] = np.maximum(flux, 0.0) + _LIMIT * error
        positive = np.where(flux > 0, flux, np.nan)
        zeropoint = band.frame.zeropoint
        table[f"mag_{name}"] = (zeropoint - MAGNITUDE * np.log(positive)) * u.mag
        table[f"mag_{name}_err"] = MAGNITUDE * error / positive * u.mag
        table[f"blend_{name}"] = one.group.astype(np.int64)
    seen = shares_seen(field, x, y)
    flags = np.where(seen.max(1) < 0.5, np.int32(Flag.CENTRE_MASKED), np.int32(0))
    flags |= np.where(~np.isfinite(found[0].flux), np.int32(Flag.FAILED), np.int32(0))
    table["flags"] = flags.astype(np.int32)
    table["use"] = usable(table["flags"])
    radius = np.full(len(x), max(field.first.fwhm, 1.0))
    for name, bits in mask_bits(field, x, y, radius).items():
        table[f"mask_bits_{name}"] = bits
    return table


def _covariances(field: Field, names: np.ndarray, found: Sequence[LinearFluxes]) -> Table:
    """Covariances of different sources' fluxes: ``frame band id_1 id_2 covariance``."""
    rows: list[tuple[str, str, str, str, float]] = []
    for band, one in zip(field.bands, found, strict=True):
        pairs = one.covariance.tocoo()
        for i, j, value in zip(pairs.row, pairs.col, pairs.data, strict=True):
            if i < j:
                covariance = float(value) * band.scale**2
                rows.append((band.frame.id, band.band.name, names[i], names[j], covariance))
    columns = ("frame", "band", "id_1", "id_2", "covariance")
    if not rows:
        return Table(names=columns, dtype=(object, object, object, object, float))
    return Table(rows=rows, names=columns)
