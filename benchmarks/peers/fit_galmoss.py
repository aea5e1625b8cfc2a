"""Fit stamps with GALMOSS: Sérsic + flat sky by gradient descent, all stamps in one batch.

    python fit_galmoss.py stamps.npz answers.json FIRST LAST [THREADS]

Files: see exchange.py. As its README shows: 1 000 iterations, errors by "covar_mat". It reads FITS
files; writing them is not timed. On the processor here, though it is made for GPUs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import galmoss as gm
import numpy as np
import torch
from astropy.io import fits
from exchange import Answer, Planes, run

SETTINGS = {
    "model": "gm.lp.Sersic + gm.lp.Sky; ser_n in the logarithm",
    "solver": "gm.Fitting, DiffGrad, iteration=1000 (its README); one batch of all stamps",
    "start": "the given one",
    "errors": 'uncertainty("covar_mat", bs=1); with its default, bs=2, they come out half as large',
    "device": "cpu",
}
ZEROPOINT = 25.0


def write(folder: Path, planes: Planes) -> dict[str, list[str]]:
    """FITS files of the stamps, and their paths by plane."""
    paths: dict[str, list[str]] = {}
    for name, stack in zip(("image", "sigma", "mask", "psf"), planes[:4], strict=True):
        for i, plane in enumerate(stack):
            path = folder / f"{i}_{name}.fits"
            # In its masks 0 and the galaxy's own number are used, all others are not.
            plane = 2 * plane.astype(np.int16) if name == "mask" else plane
            fits.PrimaryHDU(plane).writeto(path)
            paths.setdefault(name, []).append(str(path))
    return paths


_WRITTEN: dict[int, dict[str, list[str]]] = {}


def prepare(planes: Planes) -> dict[str, list[str]]:
    """The files of these stamps."""
    count = len(planes[0])
    if count not in _WRITTEN:
        folder = FOLDER / str(count)
        folder.mkdir()
        _WRITTEN[count] = write(folder, planes)
    return _WRITTEN[count]


def fit(planes: Planes, threads: int) -> list[Answer]:
    """The fits of all stamps."""
    torch.set_num_threads(threads)
    paths = prepare(planes)
    x, y, flux, re, n, q, pa, sky = np.asarray(planes[4], dtype=np.float64).T
    # Pixel i covers i to i + 1 there, and angles are counter-clockwise from +y.
    galaxy = gm.lp.Sersic(
        cen_x=gm.p(x + 0.5),
        cen_y=gm.p(y + 0.5),
        pa=gm.p(pa, angle=True),
        axis_r=gm.p(q),
        eff_r=gm.p(re, pix_scale=1.0),
        ser_n=gm.p(n, log=True),
        mag=gm.p(ZEROPOINT - 2.5 * np.log10(flux), M0=ZEROPOINT),
    )
    background = gm.lp.Sky(sky_bg=gm.p(sky))
    dataset = gm.DataSet(
        [str(i) for i in range(len(x))],
        image_path=paths["image"],
        sigma_path=paths["sigma"],
        psf_path=paths["psf"],
        mask_path=paths["mask"],
        mask_index=[1] * len(x),
        device="cpu",
    )
    dataset.define_profiles(galaxy=galaxy, background=background)
    fitting = gm.Fitting(dataset=dataset, batch_size=len(x), iteration=1000)
    with (
        open(os.devnull, "w") as quiet,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        fitting.fit()
        fitting.uncertainty(method="covar_mat", bs=1)
    names = ("cen_x", "cen_y", "mag", "eff_r", "ser_n", "axis_r", "pa")
    parameters = [getattr(galaxy, name) for name in names] + [background.sky_bg]
    best = np.array([_flat(p.total_mapped_best_value) for p in parameters]).T
    error = np.array([_flat(p.uncertainty) for p in parameters]).T
    best[:, :2] -= 0.5
    best[:, 2] = 10 ** (-0.4 * best[:, 2])  # mapped: magnitude less zero point
    best[:, 6] = np.rad2deg(best[:, 6]) % 180
    error[:, 2] *= 0.4 * np.log(10) * best[:, 2]
    chi2 = _flat(fitting.total_best_chi_mu)
    return [
        Answer(list(map(float, v)), list(map(float, e)), bool(np.isfinite(v).all() and c > 0))
        for v, e, c in zip(best, error, chi2, strict=True)
    ]


def _flat(values) -> np.ndarray:
    return values.detach().cpu().numpy().reshape(-1).astype(np.float64)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        FOLDER = Path(name)
        run(gm.__version__, batch=fit, threads=(1, 2))
