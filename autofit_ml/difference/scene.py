"""Scene photometry: host and point source fitted to all epochs together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from autofit_ml.difference.scene_problem import EpochScene, HostPixels
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.fitting.batch import Member, SceneBatch
from autofit_ml.fitting.first_guess import bounds_of
from autofit_ml.fitting.fit import refine
from autofit_ml.fitting.levenberg_marquardt import LMResult, LMSettings, minimise
from autofit_ml.fitting.objects import SceneObject, join_images, object_of
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.images.psf_error import with_errors
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import start_from_moments
from autofit_ml.measure import psf_fwhm
from autofit_ml.scenes import Scene, parse_model
from autofit_ml.scenes.layout import make_layout
from autofit_ml.segmentation import Segmentation, segment_sep
from autofit_ml.settings import LightCurveOptions

__all__ = ["SceneCurve", "fit_scene"]

PIXELS, NONE = "pixels", "none"
_SHARE = 0.3
"""1-sigma deviation of a host pixel from the model, as a share of the model's light there."""

_REACH = 1.5
"""Host pixels lie within so many FWHM of the source."""

_MOST = 441
_OWN = 4.0
"""Largest distance to a host, in radii of its footprint."""

_NEAR = 1.5
"""FWHM from the source within which light is never masked."""

_LM = LMSettings(1e-3, 40, relative=1e-9)
_ROUNDS = 2
"""Minimisations: after the first the errors of the model are known."""


@dataclass(frozen=True)
class SceneCurve:
    """Fluxes of a source by a scene fit.

    Attributes
    ----------
    flux : ndarray, (epochs,)
        In the unit that the stamps have in common; 0 where the source is absent.
    covariance : ndarray, (epochs, epochs)
        With everything else that was fitted: host, backgrounds, position, PSFs.
    chi2 : ndarray, (epochs,)
        Reduced, of all pixels of the stamp.
    x, y : float
        Fitted position, pixels of the image that the first stamp is of.
    position_error : tuple of float
    host : dict
        Catalogue values of the host, ``component.parameter``, in the same pixels.
    images : tuple of (data, host, source, sigma) per epoch
        In units of the stamps, without the level of the sky; the host has what is left of it.
    message : str
    """

    flux: np.ndarray
    covariance: np.ndarray
    chi2: np.ndarray
    x: float
    y: float
    position_error: tuple[float, float]
    host: dict[str, float]
    images: tuple[tuple[np.ndarray, ...], ...]
    message: str = ""


def fit_scene(
    stamps: Sequence[Stamp], absent: Sequence[bool], settings: LightCurveOptions | None = None
) -> SceneCurve:
    """Fit host and source to all epochs.

    Parameters
    ----------
    stamps : sequence of Stamp
        One an epoch, all with fluxes in one unit. The first says where the source is expected
        (`Stamp.position`), and its pixels are those of the host's parameters.
    absent : sequence of bool
        Epochs in which the source is known to be absent.
    settings : LightCurveOptions, optional

    Raises
    ------
    InputError
        The pixels of the stamps cannot be related, or nothing of the source's surroundings is good.
    SettingsError
        A model that cannot be the host's.
    """
    settings = settings or LightCurveOptions()
    if all(absent):
        raise SettingsError("the source is absent in all epochs", "leave one for its flux")
    stamps = [_prepared(stamp, settings) for stamp in stamps]
    first, found = stamps[0], segment_sep(stamps[0])
    model, with_pixels = _host_of(settings.host)
    host = _host_label(found, first)
    fwhm = psf_fwhm(first.psf) / first.psf.oversampling
    masked = _contaminants(found, host, first, fwhm)
    message = ""
    if model is not None and not host:
        model, with_pixels, message = None, False, "no host is detected"
    together = join_images(stamps, dataclasses.replace(found, target=host, contaminants=masked))
    if model is None:
        scene, theta0, start = _dark(first), None, np.array([0, 0, 1, 1, 1, 1, 0, 0.0])
    else:
        scene = model
        theta0, start = _host_alone(first, found, host, masked, scene)
    batch, theta, lower, upper = _batch(together, scene, start, masked, theta0)
    host_problem = batch.problem(RefineSettings().wide, torch.zeros(1, dtype=torch.int64))
    pixels = _host_pixels(host_problem, theta, first, fwhm, model is not None, with_pixels)
    problem = EpochScene(
        host_problem, [not gone for gone in absent], first.position, settings.position_error,
        pixels, settings.floor,
    )  # fmt: skip
    at = problem.start(theta)
    low, high, step = problem.bounds(lower, upper)
    for _ in range(_ROUNDS):
        result = minimise(problem.evaluate, at, low, high, step, _LM)
        at = result.theta
        problem.settle(at)
    result = minimise(problem.evaluate, at, low, high, step, _LM)
    if not bool(result.converged[0]):
        message = ", ".join(filter(None, [message, "the fit has not converged"]))
    return _curve(problem, result, batch, stamps, message, model is not None)


def _prepared(stamp: Stamp, settings: LightCurveOptions) -> Stamp:
    """A stamp with smooth variances (they must not go with the noise), and errors of its PSF."""
    good = ~stamp.mask
    if not good.any():
        raise InputError("no good pixel near the source", "leave this epoch out", stamp.file)
    known = ndimage.gaussian_filter(good.astype(float), 2.0)
    variance = np.where(good, stamp.sigma.astype(float) ** 2, 0.0)
    smooth = ndimage.gaussian_filter(variance, 2.0) / np.maximum(known, 1e-6)
    sigma = np.sqrt(np.where(good & (smooth > 0), smooth, 1.0)).astype(np.float32)
    psf = with_errors(stamp.psf, settings.psf_error, settings.astrometric_error)
    return stamp.replace(sigma=sigma, psf=psf, background_sigma=None, sky_prior=None)


def _host_of(text: str) -> tuple[Scene | None, bool]:
    """The host's model (None: none), and whether it has pixels beside it."""
    words = [word.strip() for word in text.split("+") if word.strip()]
    parts = [word for word in words if word not in (PIXELS, NONE)]
    if NONE in words and len(words) > 1:
        raise SettingsError(f"host {text!r}: none, and more", "give none, or a model")
    scene = parse_model("+".join(parts)) if parts else None
    if scene is not None and any(c.profile.kind == "point" for c in scene.components):
        raise SettingsError(f"host {text!r} has a point source", "leave psf out: it is the source")
    return scene, PIXELS in words


def _host_label(found: Segmentation, stamp: Stamp) -> int:
    """Label of the object whose footprint the source is nearest to, in units of its radius."""
    labels = np.asarray(found.labels)
    x, y = stamp.position
    best, label = _OWN, 0
    for candidate in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == candidate)
        covariance = (
            np.cov(np.stack([columns, rows])) + np.eye(2) / 4 if len(rows) > 2 else np.eye(2)
        )
        off = np.array([x - columns.mean(), y - rows.mean()])
        distance = math.sqrt(off @ np.linalg.solve(covariance, off)) / 2  # a disc's edge is at 2
        if distance < best:
            best, label = distance, int(candidate)
    return label


def _contaminants(found: Segmentation, host: int, stamp: Stamp, fwhm: float) -> np.ndarray:
    """Pixels of other objects, grown by half a FWHM; never those of the source itself."""
    labels = np.asarray(found.labels)
    others = (labels > 0) & (labels != host)
    x, y = stamp.position
    rows, columns = np.indices(labels.shape)
    near = np.hypot(columns - x, rows - y) < _NEAR * fwhm
    for label in np.unique(labels[others & near]):
        others &= labels != label  # it is the source, or cannot be told from it
    grown = ndimage.binary_dilation(others, iterations=max(1, round(fwhm / 2)))
    return grown & (labels != host) & ~near


def _dark(stamp: Stamp) -> Scene:
    """A scene without light: backgrounds alone."""
    scene = parse_model("psf")
    component = scene.components[0]
    x, y = stamp.position
    values = {"x": x, "y": y, "flux": 1e-30}
    fixed = {
        name: dataclasses.replace(parameter, value=values[name], fixed=True)
        for name, parameter in component.parameters.items()
    }
    held = dataclasses.replace(component, parameters=fixed)
    return dataclasses.replace(scene, components=(held,))


def _host_alone(
    stamp: Stamp, found: Segmentation, host: int, masked: np.ndarray, scene: Scene
) -> tuple[np.ndarray, np.ndarray]:
    """theta of the host, and the start, by a fit to the first epoch alone."""
    rows, columns = np.nonzero(np.asarray(found.labels) == host)
    psf = dataclasses.replace(stamp.psf, modes=None)
    one = stamp.replace(psf=psf, x=float(columns.mean()), y=float(rows.mean()))
    seen = dataclasses.replace(found, target=host, contaminants=masked)
    settings = RefineSettings(
        neighbours="mask", companions=0, point_source=False, model_error=False
    )
    starts = start_from_moments([one], [seen])
    (fit,) = refine([object_of(one, seen)], scene, starts, settings=settings)
    if not np.isfinite(fit.theta).all() or fit.layout is None:
        raise InputError(f"the host cannot be fitted: {fit.message}", "use --host none", stamp.file)
    return fit.theta[: fit.layout.n_shape], np.array(starts.values[0], float)


def _batch(
    together: SceneObject, scene: Scene, start: np.ndarray, masked: np.ndarray,
    theta0: np.ndarray | None,
) -> tuple[SceneBatch, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The host's batch of one object, with theta (1, D) and its bounds."""
    stamps = [stamp for stamp in together.stamps if stamp is not None]
    changes = [stamp.psf.modes for stamp in stamps]
    counts = [0 if change is None else len(change) for change in changes]
    layout = make_layout(scene, ("",) * len(stamps), n_psf=counts if any(counts) else ())
    member = Member(0, together, start, np.zeros((8, 8)), [], masked, tuple(changes))
    batch = SceneBatch([member], layout, RefineSettings(neighbours="mask", prior="broad"))
    values = {
        f"{component.name}.{name}": np.array([parameter.value if parameter.fixed else 1.0])
        for component in scene.components
        for name, parameter in component.parameters.items()
    }
    _, batch.base = layout.start([values] * layout.n_images)
    lower, upper = bounds_of(batch, scene, np.array([0]))
    theta = torch.zeros((1, layout.size), dtype=torch.float64)
    if theta0 is not None:
        theta[0, : layout.n_shape] = torch.as_tensor(theta0)
    return batch, theta, lower, upper


def _host_pixels(
    host: SceneProblem, theta: torch.Tensor, stamp: Stamp, fwhm: float, modelled: bool, wanted: bool
) -> HostPixels:
    """Host pixels about the source, and what is known of them."""
    none = torch.zeros(0, dtype=torch.float64)
    if not wanted:
        return HostPixels(none, none, torch.zeros((0, 0), dtype=torch.float64))
    x, y = stamp.position
    ny, nx = stamp.shape
    rows, columns = np.indices((ny, nx))
    distance = np.hypot(columns - x, rows - y)
    reach = min(_REACH * fwhm + 1 if modelled else max(ny, nx), np.sort(distance, None)[:_MOST][-1])
    near = distance <= reach
    at = torch.as_tensor(columns[near]).double(), torch.as_tensor(rows[near]).double()
    image = host.images[0]
    scale = float(image.scale[0])
    if modelled:
        light = torch.stack(host.component_images(torch.zeros(1, dtype=torch.int64), theta, 0))
        light = scale * light.sum(0)[0].double().numpy()[:ny, :nx][near]
        spread = _SHARE * np.maximum(light, 1e-3 * light.max())
        precision = np.diag(spread**-2.0)
    else:  # neighbouring pixels are alike, and none is brighter than what is seen
        data = np.where(stamp.mask, 0.0, stamp.data - np.median(stamp.data[~stamp.mask]))
        bright = max(float(np.abs(data[near]).max()), scale)
        precision = _roughness(near) / (0.5 * bright) ** 2 + np.eye(near.sum()) / (10 * bright) ** 2
    return HostPixels(*at, torch.as_tensor(precision))


def _roughness(near: np.ndarray) -> np.ndarray:
    """Sum of squared differences of neighbouring pixels, as a matrix."""
    number = np.full(near.shape, -1)
    number[near] = np.arange(near.sum())
    out = np.zeros((near.sum(),) * 2)
    for one, other in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
        both = (one >= 0) & (other >= 0)
        i, j = one[both], other[both]
        np.add.at(out, (i, i), 1.0)
        np.add.at(out, (j, j), 1.0)
        np.add.at(out, (i, j), -1.0)
        np.add.at(out, (j, i), -1.0)
    return out


def _curve(
    problem: EpochScene, result: LMResult, batch: SceneBatch, stamps: Sequence[Stamp],
    message: str, modelled: bool,
) -> SceneCurve:  # fmt: skip
    theta, n = result.theta, len(stamps)
    covariance, good = laplace(result.state.matrix, result.at_bound)
    if not bool(good[0]):
        message = ", ".join(filter(None, [message, "the data do not determine all fluxes"]))
    flux, spread = np.zeros(n), np.zeros((n, n))
    epochs = problem.epochs
    flux[epochs] = theta[0, problem.fluxes].numpy()
    spread[np.ix_(epochs, epochs)] = covariance[0, problem.fluxes, problem.fluxes].numpy()
    chi2 = np.array([np.divide(*problem.chi2(theta, e)) for e in range(n)])
    images = []
    for e, stamp in enumerate(stamps):
        ny, nx = stamp.shape
        unit, pedestal = (float(v) for v in batch.units(e, torch.zeros(1, dtype=torch.int64)))
        parts = [unit * part[:ny, :nx].numpy() for part in problem.images(theta, e)]
        images.append((stamp.data - pedestal, *parts, stamp.sigma))
    values: dict[str, float] = {}
    if modelled:
        got = batch.layout.values(theta[:, : problem.n_host], batch.base, 0)
        corner = dict(zip("xy", stamps[0].origin, strict=True))
        values = {
            name: float(value[0]) + corner.get(name.rpartition(".")[2], 0)
            for name, value in got.items()
        }
    x, y = (theta[0, problem.at] + torch.tensor(stamps[0].origin)).tolist()
    own = covariance[0].diagonal()[problem.at].clamp_min(0).sqrt().tolist()
    return SceneCurve(
        flux, spread, chi2, x, y, (own[0], own[1]), values, tuple(images), message
    )  # fmt: skip
