"""`deconvolve`: stamps in, posterior samples of the sharp galaxies out."""

import dataclasses
import functools
import hashlib
import math
import warnings as python_warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.deconvolution.diffusion import Draws
from autofit_ml.deconvolution.eps import highest_level, sample_eps
from autofit_ml.deconvolution.gibbs import GIBBS_STEPS, sample_gibbs
from autofit_ml.deconvolution.operator import Observation, observe
from autofit_ml.deconvolution.prior import sample_prior
from autofit_ml.deconvolution.spectra import fft2, grid_of, ifft2
from autofit_ml.deconvolution.summary import (
    DETAIL_WARNING,
    Sharp,
    detail_share,
    half_light_radius,
    output_wcs,
    prior_fraction,
    statistics,
)
from autofit_ml.deconvolution.target import LARGEST_RADIUS, TARGET_FWHM, WIDEST_PSF, target_transfer
from autofit_ml.errors import AutofitError, AutofitWarning, SettingsError
from autofit_ml.images.psf_error import drawn_psfs, with_errors
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.options import called_with, option
from autofit_ml.posterior.diagnostics import split_rhat
from autofit_ml.settings import CLASSICAL, SamplingSettings
from autofit_ml.weights.choice import network as kept_network
from autofit_ml.weights.choice import usable_device
from autofit_ml.weights.manifest import list_weights

__all__ = ["DeconvolveOptions", "SamplingSettings", "deconvolve", "deconvolve_each"]

_PRIOR_SAMPLES = 32
_RHAT_WARNING = 1.05


@dataclass(frozen=True, kw_only=True)
class DeconvolveOptions(SamplingSettings):
    """Keywords of `deconvolve`."""

    stamps: Stamp | Sequence[Stamp] = field(kw_only=False)
    weights: Any = option(  # noqa: RUF009
        None,
        "Name or folder of a bundle, or anything with ``denoise(u, spectrum)``; None: the newest "
        "that is installed.",
    )


@called_with(
    DeconvolveOptions,
    positional=("samples", "sampler", "oversampling", "target_fwhm", "weights", "seed", "device"),
)
def deconvolve(call: DeconvolveOptions) -> Sharp | list[Sharp]:
    """Posterior samples of galaxies as they would look with a narrower PSF and without noise.

    The samplers wiener, richardson-lucy and tv give one image each, without a prior and without a
    posterior: `Sharp.is_posterior` is False, errors are NaN.

    ``deconvolve(stamps, *, samples, sampler, ...)``; the keywords are those of
    `autofit_ml.settings.SamplingSettings`.

    Parameters
    ----------
    stamps : Stamp or sequence of Stamp
        With PSF, noise and mask; the sky subtracted, or given as `sky`.
    weights : str, path or network, optional
        Name or folder of a bundle, or anything with ``denoise(u, spectrum)``; None: the newest
        installed.

    Returns
    -------
    Sharp or list of Sharp
        One for each stamp; a single one for a single stamp. An object's samples depend on the seed
        and on its id, not on the other objects.

    Raises
    ------
    InputError
        A stamp cannot be deconvolved (see `operator.observe`).
    SettingsError, WeightsError
    """
    alone, weights = isinstance(call.stamps, Stamp), call.weights
    named = weights is None or isinstance(weights, str | Path)
    settings = call.part(SamplingSettings, weights=str(weights or "") if named else "")
    stamps = [call.stamps] if isinstance(call.stamps, Stamp) else call.stamps
    found = []
    for _, result in deconvolve_each(stamps, settings, denoiser=None if named else weights):
        if isinstance(result, Exception):
            raise result
        for text in result.warnings:
            python_warnings.warn(f"{result.id}: {text}", AutofitWarning, stacklevel=3)
        found.append(result)
    return found[0] if alone else found


def deconvolve_each(
    stamps: Iterable[Stamp],
    settings: SamplingSettings,
    *,
    denoiser: Any = None,
    told: Callable[[float], object] = lambda share: None,
) -> Iterator[tuple[Stamp, Sharp | AutofitError]]:
    """Each stamp with its result, or with what is wrong with it; in order.

    Objects are sampled one by one: each is the same, to the last bit, whatever comes with it.

    Parameters
    ----------
    stamps : iterable of Stamp
    settings : SamplingSettings
    denoiser : optional
        Instead of the weights.
    told : callable
        Told after each call of the network what share of an object is done.

    Raises
    ------
    SettingsError, WeightsError
        Nothing can be deconvolved with these.
    """
    if settings.sampler in CLASSICAL:
        yield from ((stamp, _restored(stamp, settings)) for stamp in stamps)
        return
    device = usable_device(settings.device)
    name, digest = "given", ""
    if denoiser is None:
        name, digest, denoiser = _network(settings.weights)
    if isinstance(denoiser, torch.nn.Module):
        denoiser = denoiser.to(device)
    if settings.precision == "bfloat16":
        denoiser = _in_bfloat16(denoiser)
    for stamp in stamps:
        try:
            yield stamp, _sampled(stamp, settings, denoiser, (name, digest), device, told)
        except AutofitError as error:
            yield stamp, error


def _restored(stamp: Stamp, settings: SamplingSettings) -> Sharp | AutofitError:
    """A stamp deconvolved without a prior: one image in the place of samples."""
    from autofit_ml.deconvolution.classical import restore

    sky = settings.sky if settings.sky is not None else (stamp.sky_prior or (0.0,))[0]
    try:
        image, observation, iterations = restore(stamp, settings.sampler, sky=sky)
    except AutofitError as error:
        return error
    drawn = torch.from_numpy(image)[None].float()
    sharp = _summed_up(
        stamp,
        observation,
        drawn,
        None,
        settings,
        sky=sky,
        weights=("", ""),
        calls=iterations,
        rhat=math.nan,
        distance=math.nan,
    )
    unknown = np.full_like(sharp.mean, np.nan)
    about_fit = tuple(text for text in sharp.warnings if "chi2" in text)  # others: of the prior
    return dataclasses.replace(sharp, std=unknown, q16=unknown, q84=unknown, warnings=about_fit)


def _network(weights: str) -> tuple[str, str, Any]:
    """Name, sha256 and network of a bundle."""
    if not weights:
        known = list_weights(task="deconvolve")
        if not known:
            raise SettingsError(
                "no weights for the task 'deconvolve' are installed",
                "give weights: the name or the folder of a bundle",
            )
        weights = known[0].name
    network: Any = kept_network(weights)
    if not hasattr(network, "denoise"):
        raise SettingsError(
            f"{weights} is no prior for deconvolution", "give weights deconvolve/..."
        )
    info = getattr(network, "info", None)
    return weights if info is None else info.name, file_sha256(network.bundle.weights), network


@functools.lru_cache(maxsize=2)
def _in_bfloat16(denoiser: Any) -> Any:
    """The same one for the same network: prior samples are kept by it."""
    from autofit_ml.deconvolution.network import DeconvolveNetwork, InBfloat16

    if not isinstance(denoiser, DeconvolveNetwork):
        raise SettingsError('precision "bfloat16" with a denoiser of your own', '"float32"')
    return InBfloat16(denoiser)


def _key(text: str) -> int:
    """63 bits of an object's id."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass
class _Counted:
    """A denoiser that tells what share of an object's images it has done."""

    denoiser: Any
    images: int
    told: Callable[[float], object]
    done: int = 0

    def denoise(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.denoiser.denoise(u, spectrum)
        self.done += len(u)
        self.told(min(self.done / self.images, 1.0))
        return found


def _sampled(
    stamp: Stamp,
    settings: SamplingSettings,
    denoiser: Any,
    weights: tuple[str, str],
    device: str,
    told: Callable[[float], object],
) -> Sharp:
    """The result of one stamp."""
    sky = settings.sky if settings.sky is not None else (stamp.sky_prior or (0.0,))[0]
    observation = observe(
        [stamp],
        oversampling=settings.oversampling,
        padding=settings.padding,
        sky=sky,
        device=device,
    )
    # One observation of all samples, or one of each: the same data with another PSF.
    seen, keys = observation, [_key(stamp.id)]
    psf = with_errors(stamp.psf, settings.psf_error, 0.0)
    if psf.modes is not None:
        keys = [_key(f"{stamp.id}/{k}") for k in range(settings.samples)]
        others = [
            stamp.replace(psf=other)
            for other in drawn_psfs(psf, settings.samples, settings.seed + _key(stamp.id))
        ]
        seen = observe(
            others,
            oversampling=settings.oversampling,
            side=observation.side,
            sky=sky,
            device=device,
        )
    draws = Draws(settings.seed, torch.tensor(keys, device=device))
    number = settings.samples // len(keys)
    steps = settings.steps + 1
    keep = max(10, settings.sweeps // 2)
    sweeps = max(settings.sweeps, keep) if settings.sampler == "gibbs" else 0
    counted = _Counted(denoiser, settings.samples * (steps + GIBBS_STEPS * sweeps), told)
    drawn, calls = sample_eps(
        counted, seen, number, draws, steps=settings.steps, batch=settings.batch
    )
    rhat = math.nan
    if sweeps:
        chain, more = sample_gibbs(
            counted, seen, drawn, draws, sweeps=sweeps, batch=settings.batch, keep=keep
        )
        calls += more
        rhat = float(split_rhat(_followed(chain)).nan_to_num(1.0).max())
        drawn = chain[:, :, -1]
    prior = None
    if settings.prior:
        prior = _prior(denoiser, observation.side, settings.batch, device)
    return _summed_up(
        stamp,
        observation,
        drawn.flatten(0, 1),
        prior,
        settings,
        sky=sky,
        weights=weights,
        calls=calls,
        rhat=rhat,
        distance=_distance(denoiser, seen, drawn[:, :1], draws),
    )


def _followed(chain: torch.Tensor) -> torch.Tensor:
    """Flux, mean square radius, peak and fine structure of chains (B, N, keep, G, G)."""
    side = chain.shape[-1]
    along = torch.arange(side, device=chain.device) - (side - 1) / 2
    radius2 = along[:, None] ** 2 + along[None, :] ** 2
    near = (radius2 < (side / 4) ** 2).to(chain)
    flux = (chain * near).sum((-2, -1))
    fine = (chain.diff(dim=-1)[..., 1:, :] ** 2).sum((-2, -1))
    return torch.stack(
        [flux, (chain * near * radius2).sum((-2, -1)), chain.amax((-2, -1)), fine], dim=-1
    )


@functools.lru_cache(maxsize=8)
def _prior(denoiser: Any, side: int, batch: int, device: str) -> torch.Tensor:
    """Prior samples of unit flux; the same for all objects."""
    draws = Draws(0, torch.tensor([_key("prior")], device=device))
    return sample_prior(denoiser, _PRIOR_SAMPLES, side, draws, steps=32, batch=batch, device=device)


@torch.no_grad()
def _distance(
    denoiser: Any, observation: Observation, samples: torch.Tensor, draws: Draws
) -> float:
    """Misfit over the largest usual one, where the denoiser knows it; the mean of observations.

    What is masked is filled from `samples` (B, 1, G, G).
    """
    if not hasattr(denoiser, "misfit"):
        return math.nan
    high = highest_level(observation)
    shape = (len(high), 1, observation.side, observation.side)
    x = high * draws.normal(high.new_zeros(shape))
    data = observation.filled(samples, 1, draws)
    u = observation.solve(x, high, data)[:, 0]
    value = denoiser.misfit(u, observation.spectrum(high)[:, 0])
    return float(value.mean() / denoiser.get_buffer("usual_misfit"))


def _summed_up(
    stamp: Stamp,
    observation: Observation,
    drawn: torch.Tensor,
    prior: torch.Tensor | None,
    settings: SamplingSettings,
    *,
    sky: float,
    weights: tuple[str, str],
    calls: int,
    rhat: float,
    distance: float,
) -> Sharp:
    """One object's result from samples (N, G, G) in units of its noise."""
    s = settings.oversampling
    noise = float(observation.noise[0])
    wanted = settings.target_fwhm or TARGET_FWHM
    width = psf_fwhm(stamp.psf) * s
    seen = observation.forward(drawn.double().mean(0).float()[None, None])[0, 0]
    y0, x0 = (int(at) for at in observation.corner[0])
    box = (slice(y0, y0 + stamp.shape[0]), slice(x0, x0 + stamp.shape[1]))
    expected = seen[box].cpu().numpy() * noise
    usable = ~stamp.mask
    residual = np.where(usable, stamp.data - sky - expected, np.nan).astype(np.float32)
    chi2 = float(np.mean(np.square(residual[usable] / stamp.sigma[usable], dtype=np.float64)))

    detail = detail_share(drawn, width)
    radius = half_light_radius(drawn.mean(0))
    drawn = _broadened(drawn, wanted)
    region = (
        slice(s * y0, s * (y0 + stamp.shape[0])),
        slice(s * x0, s * (x0 + stamp.shape[1])),
    )
    images = (drawn[(slice(None), *region)] * noise).cpu().numpy().astype(np.float32)
    if prior is None:
        fraction = np.full(images.shape[1:], np.nan, np.float32)
    else:
        flux = drawn.sum((-2, -1)).mean()
        ratio = prior_fraction(drawn, _broadened(prior, wanted) * flux, 1e-3)
        fraction = ratio[region].cpu().numpy().astype(np.float32)
    poor = chi2 > 1 + 6 * math.sqrt(2 / max(usable.sum(), 1)) and chi2 > 1.1
    warnings = [
        (
            distance > 1,
            f"unlike the galaxies that the prior was trained on ({distance:.1f} times the usual "
            "misfit): the samples may look like galaxies that it is not",
        ),
        (
            poor and not distance > 1,
            f"the mean leaves a residual of chi2 {chi2:.2f} per pixel: noise, PSF, sky or "
            "neighbours are not as given",
        ),
        (
            width > WIDEST_PSF,
            f"the PSF's FWHM of {width:.1f} output pixels is beyond the {WIDEST_PSF:g} that the "
            "prior was trained for" + (": use oversampling 1" if s > 1 else ""),
        ),
        (
            radius > LARGEST_RADIUS,
            f"a half-light radius of {radius:.0f} output pixels is beyond the {LARGEST_RADIUS:g} "
            "that the prior was trained for, and outskirts may be missing: "
            + ("use oversampling 1" if s > 1 else "bin the image"),
        ),
        (
            detail > DETAIL_WARNING,
            f"{100 * detail:.0f} % of the detail finer than the PSF differs from sample to "
            "sample: what one sample shows there is the prior's",
        ),
        (
            rhat > _RHAT_WARNING,
            f"the Gibbs chains have not mixed (R-hat {rhat:.2f}): raise sweeps",
        ),
    ]
    return Sharp(
        id=stamp.id,
        samples=images,
        **statistics(images),
        residual=residual,
        prior_fraction=fraction,
        data=stamp.data,
        sigma=stamp.sigma,
        mask=stamp.mask,
        target_fwhm=wanted,
        oversampling=s,
        wcs=output_wcs(stamp.wcs, s),
        detail=detail,
        chi2=chi2,
        distance=distance,
        sampler=settings.sampler,
        calls=calls,
        seed=settings.seed,
        psf_sha256=hashlib.sha256(
            np.ascontiguousarray(stamp.psf.data, dtype="<f4").tobytes()
        ).hexdigest(),
        weights=weights[0],
        weights_sha256=weights[1],
        rhat=rhat,
        unit=stamp.unit,
        warnings=tuple(text for holds, text in warnings if holds),
        origin=stamp.origin,
    )


def _broadened(images: torch.Tensor, fwhm: float) -> torch.Tensor:
    """Images (N, G, G) of the finest target PSF as of a wider one."""
    if fwhm <= TARGET_FWHM:
        return images
    grid = grid_of(images.shape[-1], str(images.device))
    ratio = target_transfer(grid.ky, grid.kx, fwhm) / target_transfer(grid.ky, grid.kx)
    ratio = ratio.clamp(-1, 1).reshape(grid.shape).to(images)
    return ifft2(fft2(images) * ratio, images.shape[-1])
