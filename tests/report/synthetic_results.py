"""A results folder as a finished run leaves it, of synthetic galaxies."""

from __future__ import annotations

import json
import math

import numpy as np
from astropy.modeling.models import Sersic2D

from autofit_ml.catalogue import Flag, empty_rows, merge_shards, pack_covariance, write_shard
from autofit_ml.report import preview_png, thumbnail


def galaxy(rng, size, re, n, q, pa, flux, *, contaminants=0, sky=5.0, noise=1.0):
    """Image, model, noise, mask and labels of one galaxy; 'fit' and truth are the same."""
    y, x = np.mgrid[:size, :size].astype(float)
    x0, y0 = (size - 1) / 2 + rng.uniform(-1, 1, 2)
    b = 2 * n - 1 / 3
    amplitude = flux / (2 * np.pi * re**2 * q * n * math.exp(b) * b ** (-2 * n) * math.gamma(2 * n))
    theta = math.radians(pa + 90)  # astropy counts from +x
    model = Sersic2D(amplitude, re, n, x0, y0, 1 - q, theta)(x, y) + sky
    labels = ((model - sky) > 1.5 * noise).astype(np.int32)
    mask = np.zeros((size, size), bool)
    scene = model.copy()
    for k in range(contaminants):
        cx, cy = rng.uniform(0, size, 2)
        star = 60 * noise * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.8**2))
        scene += star
        mask |= star > 0.7 * noise
        labels[star > 1.5 * noise] = 2 + k
    sigma = np.sqrt(noise**2 + np.clip(scene - sky, 0, None) / 50)
    data = scene + sigma * rng.normal(size=scene.shape)
    return (
        {
            "data": data.astype("f4"), "model": model.astype("f4"),
            "residual": (data - model).astype("f4"), "sigma": sigma.astype("f4"),
            "mask": mask, "labels": labels,
        },
        {"x": x0, "y": y0, "re": re, "n": n, "q": q, "pa": pa, "flux": flux, "sky": sky},
    )  # fmt: skip


def write_results(folder, n=200, *, ids=None, seed=1, images=True, previews=True):
    """Write catalogue, thumbnails, previews and run.json of `n` objects into `folder`."""
    rng = np.random.default_rng(seed)
    rows = empty_rows(n)
    rows["id"][:] = ids if ids is not None else [f"kids_{i:04d}" for i in range(n)]
    rows["file"][:] = [f"images/{name}_image.fits" for name in rows["id"]]
    rows["pixel_scale"][:], rows["zeropoint"][:], rows["psf_fwhm"][:] = 0.2, 30.0, 3.4
    rows["noise_correlation"][:] = 1.0
    rows["time_ms"][:] = rng.gamma(9, 0.6, n)
    size = 64
    values = {
        "re": np.exp(rng.normal(1.6, 0.5, n)).clip(0.6, 20),
        "n": np.exp(rng.normal(0.6, 0.55, n)).clip(0.3, 8),
        "q": rng.beta(4, 2, n).clip(0.15, 1),
        "pa": rng.uniform(0, 180, n),
        "flux": 10 ** rng.normal(3.6, 0.5, n),
    }
    failed = rng.random(n) < 0.03
    for i in range(n):
        planes = None
        if images:
            one = {name: float(column[i]) for name, column in values.items()}
            planes, fit = galaxy(rng, size, contaminants=int(rng.integers(0, 3)), **one)
        else:
            fit = {name: float(column[i]) for name, column in values.items()}
            fit |= {"x": 31.5, "y": 31.5, "sky": 5.0}
        if failed[i]:
            rows["message"][i] = (
                "no PSF (give one with --psf FILE or --psf-fwhm ARCSEC, or put a _psf file beside "
                "the image)"
            )
        else:
            _fill(rows, i, fit, rng)
        if planes is not None:
            row = {name: column[i] for name, column in rows.items()}
            if failed[i]:
                planes |= {"model": None, "residual": None}
            thumbs = folder / ".work" / "thumbs"
            thumbs.mkdir(parents=True, exist_ok=True)
            strip = [planes[name] for name in ("data", "model", "residual", "sigma", "mask")]
            (thumbs / f"{rows['id'][i]}.jpg").write_bytes(thumbnail(*strip, sky=5.0))
            if previews:
                (folder / "previews").mkdir(exist_ok=True)
                png = preview_png(**planes, target=1, row=row, pixel_scale=0.2)
                (folder / "previews" / f"{rows['id'][i]}.png").write_bytes(png)
    write_shard(folder / ".work" / "shards" / "0.parquet", rows, {"settings_hash": "1f"})
    merge_shards([folder / ".work" / "shards" / "0.parquet"], folder)
    run = {
        "versions": {"autofit-ml": "0.1.0", "python": "3.11.4", "torch": "2.5.1", "numpy": "2.1"},
        "settings": {"model": "sersic", "segmenter": "sep", "init": "moments", "sky": "free"},
        "timings": {"total_s": 3.2, "refine_s": 1.1},
        "weights": {},
        "inputs": {f"images/{i}.fits": "ab" * 32 for i in range(3)},
        "started": "2025-03-02T10:11:12+00:00",
    }
    (folder / "run.json").write_text(json.dumps(run))
    return rows


def _fill(rows, i, fit, rng):
    """Numbers, errors and flags of one successful fit."""
    for name, value in fit.items():
        rows[name][i] = value
        rows[f"{name}_init"][i] = value * rng.normal(1, 0.2)
    snr = fit["flux"] / (3.5 * fit["re"] * math.sqrt(fit["q"]))
    error = 1 / snr
    rows["snr"][i] = snr
    rows["mag"][i] = 30 - 2.5 * math.log10(fit["flux"])
    rows["mag_err"][i] = 1.086 * error
    rows["flux_err"][i] = fit["flux"] * error
    rows["flux_stamp"][i], rows["flux_stamp_err"][i] = fit["flux"] * 0.95, fit["flux"] * error
    rows["x_err"][i] = rows["y_err"][i] = fit["re"] * error
    rows["re_err"][i], rows["n_err"][i] = fit["re"] * 2 * error, fit["n"] * 3 * error
    rows["re_arcsec"][i], rows["re_arcsec_err"][i] = 0.2 * fit["re"], 0.4 * fit["re"] * error
    rows["re_circ"][i] = fit["re"] * math.sqrt(fit["q"])
    rows["re_circ_err"][i] = fit["re"] * 2 * error
    rows["q_err"][i], rows["pa_err"][i], rows["sky_err"][i] = error, 60 * error, 0.02
    rows["ra"][i], rows["dec"][i] = 150.1 + i * 1e-3, 2.2
    rows["pa_sky"][i], rows["pa_sky_err"][i] = (180 - fit["pa"]) % 180, 60 * error
    rows["cov"][i] = pack_covariance(np.eye(8) * error**2)
    rows["ndof"][i], rows["n_pix"][i], rows["n_starts"][i] = 4000, 4008, 3
    rows["n_iter"][i] = rng.integers(6, 25)
    rows["chi2_red"][i] = rng.normal(1, 0.03)
    rows["chi2"][i] = rows["chi2_red"][i] * 4000
    rows["logl"][i], rows["bic"][i], rows["bic_point_source"][i] = -2000, 4066, 9000
    for name, text in (("model", "sersic"), ("segmenter", "sep"), ("init", "moments")):
        rows[name][i] = text
    rows["filter"][i], rows["survey"][i], rows["status"][i] = "r", "kids", "ok"
    flags = 0
    for flag, chance in (
        (Flag.EDGE, 0.1), (Flag.BLENDED, 0.12), (Flag.SIGMA_ESTIMATED, 0.2),
        (Flag.NOT_CONVERGED, 0.02), (Flag.POOR_FIT, 0.03), (Flag.LOW_SNR, float(snr < 10)),
    ):  # fmt: skip
        flags |= int(flag) if rng.random() < chance else 0
    if fit["n"] >= 8 or fit["n"] <= 0.3:
        flags |= int(Flag.AT_BOUND)
        rows["at_bound"][i] = "n"
    rows["flags"][i] = flags
