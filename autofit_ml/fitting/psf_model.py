r"""A Moffat PSF fitted to the stars of a frame, with its covariance.

One elliptical Moffat profile for all stars, each with its own position, flux and sky,
by Gauss-Newton steps in which every star's own parameters are eliminated (Schur complement):

.. math:: S = \sum_i A^i_{pp} - A^i_{pn} (A^i_{nn})^{-1} A^i_{np}, \qquad
          b = \sum_i g^i_p - A^i_{pn} (A^i_{nn})^{-1} g^i_n, \qquad \delta_p = S^{-1} b .

The PSF carries its uncertainty as `PSF.modes`: changes by one standard deviation of each
of some independent parameters, which a fit of galaxies then has as parameters with unit Gaussian
priors. The stars' data enter through these priors, the galaxies' own through their pixels.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from autofit_ml.errors import InputError
from autofit_ml.fitting.batch import Member, SceneBatch
from autofit_ml.fitting.fit import refine
from autofit_ml.fitting.objects import SceneObject, object_of
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.images.psf import no_psf
from autofit_ml.images.stamp import PSF, Frame, Stamp
from autofit_ml.initialisation.starts import Starts
from autofit_ml.measure import find_stars
from autofit_ml.profiles import get_profile
from autofit_ml.rendering import make_plan, psf_modes, render_component
from autofit_ml.scenes.parse import parse_model
from autofit_ml.segmentation.result import Segmentation

__all__ = ["fit_moffat_psf"]

_MAX_STARS = 40
_LEAST_STARS = 3
_SHARED = (3, 4, 5, 6)
"""ln rc, ln beta, eta1, eta2 among the parameters of a Moffat component."""

_ROUNDS = 8


def fit_moffat_psf(frame: Frame) -> tuple[PSF, tuple[str, ...]]:
    """The PSF of a frame as a Moffat profile fitted to its stars, with its uncertainty.

    Parameters
    ----------
    frame : Frame
        ``psf`` is not used. The PSF is assumed not to vary over the frame.

    Returns
    -------
    psf : PSF
        With four `PSF.modes`.
    messages : tuple of str

    Raises
    ------
    InputError
        Too few good stars.
    """
    stars = find_stars(frame.data, frame.sigma, frame.mask)[:_MAX_STARS]
    fwhm = 2.0 * float(np.median(stars[:, 2])) if len(stars) else 0.0
    half = max(8, math.ceil(3.5 * fwhm))
    members = [
        one
        for one in (_star(frame, star[0], star[1], star[2], half) for star in stars.tolist())
        if one is not None
    ]
    if len(members) < _LEAST_STARS:
        raise InputError(
            f"only {len(members)} usable stars to fit a PSF to",
            "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC",
            frame.file,
        )
    members, fits = _alike(members)
    mean, covariance = _joint(members, fits)
    psf = _with_modes(mean, covariance, half)
    beta = math.exp(mean[1])
    width = _fwhm(mean)
    return psf, (
        f"Moffat PSF fitted to {len(members)} stars: FWHM {width:.2f} px, beta {beta:.2f}",
    )


def _star(frame: Frame, x: float, y: float, r50: float, half: int) -> Member | None:
    """A star's stamp, with its light as the target and everything else masked."""
    ny, nx = frame.data.shape
    column, row = round(x), round(y)
    if not (half <= column < nx - half and half <= row < ny - half):
        return None
    window = (slice(row - half, row + half + 1), slice(column - half, column + half + 1))
    mask = frame.mask[window].copy()
    core = mask[half - 1 : half + 2, half - 1 : half + 2]
    if core.any():
        return None
    data = frame.data[window].astype(np.float64)
    grid = np.arange(-half, half + 1)
    radius = np.hypot(grid[:, None] - (y - row), grid[None, :] - (x - column))
    ring = (~mask) & (radius > 0.8 * half)
    if ring.sum() < 20:
        return None
    sky = float(np.median(data[ring]))
    flux = float((data - sky)[(radius < 2.5 * r50) & ~mask].sum()) * 1.2
    if not flux > 0:
        return None
    # Another source in the wings: pixels that stand out of the ring at their own radius.
    sigma = frame.sigma[window]
    expected = sky + np.clip(data - sky, 0, None)[::-1, ::-1]
    others = (radius > 2.0 * r50) & (data - expected > 5 * np.sqrt(2) * sigma)
    stamp = Stamp(
        "star", frame.data[window].copy(), sigma.copy(), mask | others, no_psf(),
        x=x - column + half, y=y - row + half,
    )  # fmt: skip
    labels = (radius < 3 * r50).astype(np.int32)
    segmentation = Segmentation(labels, 1, np.zeros(labels.shape, bool), sky, 1.0)
    start = np.array([stamp.x, stamp.y, flux, max(0.8 * r50, 0.4), 3.0, 0.97, 0.0, sky])
    return Member(
        0, object_of(stamp, segmentation), start, np.zeros((8, 8)), [], stamp.mask & False, (None,)
    )


def _alike(members: list[Member]) -> tuple[list[Member], list[SceneFit]]:
    """Stars whose own Moffat fits agree (galaxies and blends dropped), and these fits."""
    scene = parse_model("moffat")
    starts = Starts(
        np.array([member.start for member in members]), None, np.zeros(len(members), np.int32)
    )
    objects: list[SceneObject] = [member.object for member in members]
    fits = refine(objects, scene, starts, settings=RefineSettings(neighbours="mask", prior="none"))
    known = [k for k, fit in enumerate(fits) if fit.layout is not None and np.isfinite(fit.chi2)]
    sizes = np.array([math.log(fits[k]["moffat.re"]) for k in known])
    shapes = np.array([fits[k].theta[list(_SHARED[2:])] for k in known])
    reduced = np.array([fits[k].chi2 / max(fits[k].ndof, 1) for k in known])
    good = np.ones(len(known), dtype=bool)
    for _ in range(3):
        middle = np.median(sizes[good])
        spread = max(1.4826 * float(np.median(np.abs(sizes[good] - middle))), 0.01)
        round_ = np.hypot(*(shapes - np.median(shapes[good], axis=0)).T)
        good = (np.abs(sizes - middle) < 4 * spread) & (round_ < 0.15)
        good &= reduced < 3 * max(1.0, float(np.median(reduced[good])) if good.any() else 1.0)
        if good.sum() < _LEAST_STARS:
            raise InputError(
                f"only {int(good.sum())} stars look alike: no PSF can be fitted",
                "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC",
            )
    chosen = [k for k, use in zip(known, good, strict=True) if use]
    return [members[k] for k in chosen], [fits[k] for k in chosen]


def _joint(members: list[Member], fits: list[SceneFit]) -> tuple[np.ndarray, np.ndarray]:
    """Shared (ln rc, ln beta, eta1, eta2) of all stars and their covariance."""
    layout = fits[0].layout
    if layout is None:
        raise ValueError("a star without a fit")
    settings = RefineSettings(neighbours="mask", prior="none")
    batch = SceneBatch(members, layout, settings)
    everyone = torch.arange(len(members))
    batch.base = torch.zeros((len(members), 1, layout.n_full), dtype=torch.float64)
    problem = batch.problem(settings.wide, everyone)
    theta = torch.as_tensor(np.array([fit.theta for fit in fits]))
    shared = torch.tensor(_SHARED)
    own = torch.tensor([k for k in range(layout.size) if k not in _SHARED])
    theta[:, shared] = theta[:, shared].median(0).values
    chi2 = torch.tensor(torch.inf, dtype=torch.float64)
    damping, best = 0.0, theta.clone()
    inverse = torch.eye(len(_SHARED), dtype=torch.float64)
    for _ in range(_ROUNDS):
        state = problem.evaluate(everyone, theta)
        total = state.chi2.sum()
        if bool(total > chi2 * (1 + 1e-12)):
            theta = (theta + best) / 2
            damping += 1
            continue
        chi2, best = total, theta.clone()
        a_nn = state.matrix[:, own[:, None], own]
        a_np = state.matrix[:, own[:, None], shared]
        eliminated = torch.linalg.solve(a_nn, torch.cat([a_np, state.gradient[:, own, None]], 2))
        by_shared, by_gradient = eliminated[..., :-1], eliminated[..., -1]
        across = a_np.transpose(1, 2)
        matrix = (state.matrix[:, shared[:, None], shared] - across @ by_shared).sum(0)
        vector = (state.gradient[:, shared] - (across @ by_gradient[..., None])[..., 0]).sum(0)
        inverse = torch.linalg.inv(matrix)
        step = inverse @ vector
        step = step / (step.abs() / 0.3).max().clamp_min(1.0)
        theta = theta.clone()
        theta[:, own] += by_gradient - (by_shared @ step)
        theta[:, shared] += step
    ndof = sum(fit.ndof for fit in fits)
    # Stars that scatter more than their noise says (PSF variation, pixel response) know less.
    inflation = max(1.0, float(chi2) / max(ndof, 1))
    return best[0, shared].numpy(), inverse.numpy() * inflation


def _image(shape: np.ndarray, half: int, oversampling: int) -> np.ndarray:
    """A Moffat PSF's image on (2 half + 1) pixels a side."""
    n = (2 * half + 1) * oversampling + (1 - oversampling % 2)
    plan = make_plan((n, n), dtype=torch.float64)
    contains = torch.tensor([oversampling > 1])  # fine samples are without the detector pixel
    modes = psf_modes(plan, torch.ones((1, 1, 1)), contains)
    ln_rc, ln_beta, eta1, eta2 = shape
    middle = (n - 1) / 2
    row = [middle, middle, 0.0, ln_rc + math.log(oversampling), ln_beta, eta1, eta2]
    parameters = torch.tensor([row], dtype=torch.float64)
    return render_component(plan, get_profile("moffat"), modes, parameters)[0].numpy()


def _fwhm(shape: np.ndarray) -> float:
    """Circularised FWHM, pixels (without the detector pixel)."""
    rc, beta = math.exp(shape[0]), math.exp(shape[1])
    core = rc / math.sqrt(2 ** (1 / (beta - 1)) - 1)
    return 2 * core * math.sqrt(2 ** (1 / beta) - 1)


def _with_modes(mean: np.ndarray, covariance: np.ndarray, half: int) -> PSF:
    """The PSF image and its changes along the axes of the covariance."""
    oversampling = 1 if _fwhm(mean) > 2.5 else 3
    half = min(max(half, math.ceil(5 * _fwhm(mean))), 40)
    image = _image(mean, half, oversampling)
    total = image.sum()
    values, vectors = np.linalg.eigh(covariance)
    modes = []
    for k in range(len(mean)):
        step = np.sqrt(max(values[k], 0.0)) * vectors[:, k]
        high, low = (_image(mean + sign * step, half, oversampling) for sign in (1, -1))
        modes.append((high / high.sum() - low / low.sum()) / 2)
    return dataclasses.replace(
        no_psf(),
        data=(image / total).astype(np.float32),
        has_pixel=oversampling == 1,
        oversampling=oversampling,
        source="stars",
        modes=np.stack(modes).astype(np.float32),
    )
