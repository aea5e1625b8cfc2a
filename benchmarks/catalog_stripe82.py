"""Stripe 82: what changes between epochs, ours beside Photo's.

``celeste_stripe82`` holds one spot of 51 x 51 pixels (20 arcsec) in 17 frames of each band, 14 of
them whole and of different runs, on one grid, and Photo's rows of the same frames: some four
galaxies and faint smudges in each. Every epoch is catalogued by itself; rows are paired with
Photo's of the same epoch within 1.5 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from catalog_scores import COLOURS, column, magnitude

from autofit_ml.errors import AutofitError
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.settings import SourceSettings
from autofit_ml.sources import catalogue_frames

__all__ = ["Epoch", "coadded", "compare", "epochs", "joint", "photo_rows"]

BANDS = "ugriz"
SCALE = 0.396
_SPOT = "5.0073-0.0739"
_PSF_SIDE = 31


@dataclass(frozen=True)
class Epoch:
    """One run over the spot: frames of the five bands."""

    run: int
    camcol: int
    field: int
    frames: tuple[Frame, ...]


def _psf(header: fits.Header) -> np.ndarray:
    """The three Gaussians of a header."""
    p = np.array([header[f"PSF_P{k}"] for k in range(18)])
    y, x = np.mgrid[:_PSF_SIDE, :_PSF_SIDE] - (_PSF_SIDE - 1) / 2
    out = np.zeros(x.shape)
    means, covariances = p[3:9].reshape(3, 2), p[9:].reshape(3, 3)
    for amplitude, mean, (xx, yy, xy) in zip(p[:3], means, covariances, strict=True):
        inverse = np.linalg.inv([[xx, xy], [xy, yy]])
        off = np.stack([x - mean[0], y - mean[1]], -1)
        density = np.exp(-0.5 * np.einsum("...i,ij,...j", off, inverse, off))
        out += amplitude * density * np.sqrt(np.linalg.det(inverse)) / (2 * np.pi)
    return out / out.sum()


def epochs(data: Path) -> list[Epoch]:
    """Those that see the whole spot in all bands, one a run."""
    files = {b: fits.open(data / "celeste_stripe82" / f"stamp-{b}-{_SPOT}.fits") for b in BANDS}
    out: dict[int, Epoch] = {}
    for k in range(0, 34, 2):
        frames = []
        for band, hdus in files.items():
            header, ivar = hdus[k].header, np.asarray(hdus[k + 1].data, float)
            bad = ~(ivar > 0)
            frames.append(
                Frame(
                    id=f"{header['RUN']}-{band}",
                    data=np.where(bad, 0, hdus[k].data).astype(np.float32),
                    sigma=np.where(bad, 1, 1 / np.sqrt(np.where(bad, 1, ivar))).astype(np.float32),
                    mask=bad,
                    psf=PSF(_psf(header).astype(np.float32)),
                    wcs=WCS(header),
                    pixel_scale=SCALE,
                    zeropoint=22.5,
                    filter=band,
                    gain=header["GAIN"] / header["CALIB"],
                )
            )
        header = files["r"][k].header
        if max(frame.mask.mean() for frame in frames) < 0.05 and header["RUN"] not in out:
            out[header["RUN"]] = Epoch(
                header["RUN"], header["CAMCOL"], header["FIELD"], tuple(frames)
            )
    return list(out.values())


def coadded(every: list[Epoch]) -> Epoch:
    """Epochs added with inverse variances, and their PSFs alike."""
    frames = []
    for b in range(len(BANDS)):
        some = [epoch.frames[b] for epoch in every]
        weights = np.stack([np.where(f.mask, 0, f.sigma**-2.0) for f in some])
        total = weights.sum(0)
        share = weights.mean((1, 2)) / weights.mean((1, 2)).sum()
        data = sum(w * f.data for w, f in zip(weights, some, strict=True)) / total
        psf = sum(s * f.psf.data for s, f in zip(share, some, strict=True))
        frames.append(
            some[0].replace(
                data=data.astype(np.float32),
                sigma=(total**-0.5).astype(np.float32),
                mask=np.zeros(data.shape, bool),
                psf=PSF(psf.astype(np.float32)),
            )
        )
    return Epoch(0, 0, 0, tuple(frames))


def photo_rows(data: Path, epoch: Epoch) -> Table:
    """Photo's rows of an epoch in the columns of `catalog_scores`; every row is a galaxy's fit."""
    table = Table.read(data / "celeste_stripe82" / f"cat-{_SPOT}.fits")
    rows = table[(table["run"] == epoch.run) & (table["field"] == epoch.field)]
    out = Table()
    out["x"], out["y"] = epoch.frames[0].wcs.all_world2pix(rows["ra"], rows["dec"], 0)
    star = np.asarray(rows["is_star"])
    out["p_star"] = star.astype(float)
    for band in BANDS:
        out[f"flux_{band}"] = np.where(star, rows[f"psfflux_{band}"], rows[f"cmodelflux_{band}"])
    dev = np.asarray(rows["frac_dev"]) > 0.5
    for name, theirs in (("re", "theta"), ("q", "ab"), ("pa", "phi")):
        out[name] = np.where(dev, rows[f"{theirs}_dev"], rows[f"{theirs}_exp"])
    out["re"] = out["re"] / SCALE
    out["dev"] = rows["frac_dev"]
    out["pa"] = -np.asarray(out["pa"]) % 180  # the sign that agrees with the coadd's rows
    return out


def ours(epoch: Epoch) -> QTable | None:
    """The catalogue of an epoch; None if nothing is found."""
    try:
        return catalogue_frames(epoch.frames, list(BANDS), SourceSettings()).table
    except AutofitError:
        return None


def joint(data: Path, together: int = 3) -> list[list[str]]:
    """Groups of epochs, each in one likelihood: object, quantity, groups, scatter, over error.

    Scatter is the standard deviation between the groups' catalogues.
    """
    every = epochs(data)
    tables = []
    for k in range(0, len(every) - together + 1, together):
        some = [
            (f, b)
            for one in every[k : k + together]
            for f, b in zip(one.frames, BANDS, strict=True)
        ]
        some.sort(key=lambda pair: "rgizu".index(pair[1]))
        frames, names = zip(*some, strict=True)
        tables.append(catalogue_frames(frames, names, SourceSettings()).table)
    rows = []
    names = dict(_ERRORS) | {n: "colour_" + n.replace("-", "_") + "_err" for n in COLOURS}
    for number, at in enumerate(zip(column(tables[0], "x"), column(tables[0], "y"), strict=True)):
        found = []
        for table in tables:
            gap = np.hypot(column(table, "x") - at[0], column(table, "y") - at[1])
            if gap.min() < 1.5:
                found.append((table, int(np.argmin(gap))))
        if len(found) < len(tables):
            continue
        values = [{n: v[i] for n, v in _quantities(t).items()} for t, i in found]
        for name, key in names.items():
            v = np.array([one[name] for one in values])
            if name == "pa":
                turn = np.exp(2j * np.deg2rad(v))
                v = np.rad2deg(np.angle(turn / turn.mean())) / 2
            error = np.median([column(t, key)[i] for t, i in found])
            if np.isfinite(v).all() and np.isfinite(error):
                spread = np.std(v, ddof=1)
                rows.append([f"{number + 1}, r {np.median([o['r'] for o in values]):.1f}", name,
                             str(len(v)), f"{spread:.3f}", f"{spread / error:.2f}"])  # fmt: skip
    return rows


def _quantities(table) -> dict[str, np.ndarray]:
    out = {"r": magnitude(column(table, "flux_r")), "x": column(table, "x"),
           "y": column(table, "y")}  # fmt: skip
    for name in COLOURS:
        blue, red = name.split("-")
        out[name] = magnitude(column(table, f"flux_{blue}")) - magnitude(
            column(table, f"flux_{red}")
        )
    out |= {name: column(table, name) for name in ("re", "q", "pa", "dev")}
    return out


_ERRORS = {"r": "mag_r_err", "x": "x_err", "y": "y_err", "re": "re_err", "q": "q_err",
           "pa": "pa_err", "dev": "dev_err"}  # fmt: skip


def compare(data: Path) -> list[list[str]]:
    """Rows: object, quantity, epochs, scatter of Photo's, of ours, ours over the median error."""
    every = epochs(data)
    pairs: dict[int, list[tuple[dict, dict, dict]]] = {}
    places: list[tuple[float, float]] = []
    for epoch in every:
        mine, photo = ours(epoch), photo_rows(data, epoch)
        if mine is None:
            continue
        mine_q, photo_q = _quantities(mine), _quantities(photo)
        names = dict(_ERRORS) | {n: "colour_" + n.replace("-", "_") + "_err" for n in COLOURS}
        errors = {name: column(mine, key) for name, key in names.items()}
        for j in range(len(photo)):
            gap = np.hypot(mine_q["x"] - photo_q["x"][j], mine_q["y"] - photo_q["y"][j])
            k = int(np.argmin(gap))
            if gap[k] > 1.5:
                continue
            at = (photo_q["x"][j], photo_q["y"][j])
            known = [n for n, p in enumerate(places) if np.hypot(*np.subtract(p, at)) < 3]
            if not known:
                places.append(at)
            number = known[0] if known else len(places) - 1
            pairs.setdefault(number, []).append(
                tuple({n: float(v[i]) for n, v in one.items()}
                      for one, i in ((photo_q, j), (mine_q, k), (errors, k)))  # type: ignore[arg-type]
            )  # fmt: skip
    rows = []
    for number, some in sorted(pairs.items()):
        if len(some) < 6:
            continue
        middle = np.median([m["r"] for _, m, _ in some])
        for name in ("x", "y", "r", *COLOURS, "re", "q", "pa", "dev"):
            values = np.array([[p[name], m[name], e[name]] for p, m, e in some])
            if name == "pa":  # about their own middle
                for c in (0, 1):
                    turn = np.exp(2j * np.deg2rad(values[:, c]))
                    values[:, c] = np.rad2deg(np.angle(turn / np.nanmean(turn))) / 2
            good = np.isfinite(values).all(1)
            if good.sum() < 6:
                continue
            v = values[good]
            low, high = np.percentile(v[:, :2], [15.87, 84.13], axis=0)
            photo, mine = (high - low) / 2
            rows.append([f"{number + 1}, r {middle:.1f}", name, str(len(v)), f"{photo:.3f}",
                         f"{mine:.3f}", f"{mine / np.median(v[:, 2]):.2f}"])  # fmt: skip
    return rows
