r"""Endless training data: batches of simulated stamps made by our own renderer, on CPU or GPU.

Everything happens in PyTorch on one device: PSFs, scenes, light (`autofit_ml.render`), sky, noise,
labels. A batch is a pure function of (settings, seed, step, device), so that steps can be spread
over processes in any way, and no file is needed. GalSim, Hydra and pydantic are not; with the same
parameters and the same PSF image the light equals `draw.render_source` to 1e-4 of the scene's peak
(``benchmarks/simulation_speed.py``).

    settings = EndlessSettings(shape=(64, 64), snr=(10, 1000))
    loader = DataLoader(EndlessSersic(settings, 64, seed=1), batch_size=None, num_workers=4)

**Layouts.** The FFT repeats a source with the period of the padded stamp. How far its light
reaches, and how near it stands to a border, decides which padding (`LADDER`) draws it; a
batch is split by that, and this split is the only place where the host waits for the device. Stars
need no transform: the band-limited function through the PSF's pixels is summed where it is wanted.

Check on a GPU: ``python benchmarks/simulation_speed.py --device cuda --only-device``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch.utils.data import IterableDataset, get_worker_info

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.profiles import N_MAX, N_MIN, sersic_table
from autofit_ml.render import Accuracy, FourierPlan, make_plan, psf_modes, render
from autofit_ml.scene import to_fit_space

if TYPE_CHECKING:
    from autofit_ml.simulate.recipe import Recipe

__all__ = [
    "CATALOGUE",
    "EMPTY",
    "GALAXY",
    "LADDER",
    "STAR",
    "EndlessSersic",
    "EndlessSettings",
    "instance_labels",
    "moffat_images",
    "render_scene",
]

CATALOGUE = ("x", "y", "flux", "re", "n", "q", "pa")
"""Parameters of one source, in the conventions of `autofit_ml.scene`; a star has re = 0."""

EMPTY, GALAXY, STAR = 0, 1, 2
"""Kinds of source slots."""

LADDER = (
    Accuracy(1.5, refinements=(2.0, 3.0), split=2.0),
    Accuracy(2.0, refinements=(2.0, 2.0), split=2.5),
    Accuracy(2.5, refinements=(2.0, 2.0, 2.0)),
    Accuracy(4.0, margin=224.0, refinements=(2.0, 2.0, 2.0)),
    Accuracy(4.0, margin=352.0, refinements=(2.0, 2.0, 2.0)),
)
"""Layouts of Fourier space, by growing padding."""

_TRIES = 16
"""Places that are tried for a neighbour before it is left out."""

_NEWTON_STEPS = 6
"""Steps that solve flux for S/N: 1e-6 after five over all ratios of light to sky."""

_MODES_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Fourier modes that are worked on together: near the cache; or enough to fill a GPU in 2 GB."""


@dataclass(frozen=True)
class EndlessSettings:
    """What the stamps show. Ranges are (low, high); lengths are in pixels.

    Attributes
    ----------
    shape : (ny, nx)
    max_sources : int
        Sources per stamp at most, the target included: the length of the source axis.
    snr : (low, high)
        Total S/N of the target's own light, log-uniform.
    star_probability : float
        The target is a star.
    max_shift : float
        The target's centre is uniform within this many pixels of the stamp's, per axis.
    re : (low, high)
        Semi-major half-light radius of a target, log-uniform. Layouts are checked up to a quarter
        of the stamp.
    n, q : (low, high)
        Sérsic index, log-uniform in [0.3, 8] (checked 0.5 to 6); axis ratio, uniform in
        [0.05, 1] (checked from 0.1).
    neighbours : float
        Mean number of other sources inside the stamp (Poisson, cut at ``max_sources - 1``).
    margin : float or None
        Neighbours stand up to this far beyond the borders too; None: a tenth of the shorter side.
    flux_ratio : (low, high)
        A neighbour's flux over the target's, log-uniform.
    neighbour_re : (low, high) or None
        None: from half the smallest target to the geometric mean of `re`.
    star_fraction : float
        Part of the neighbours that are stars.
    min_separation : float
        No two sources are closer than this, in PSF FWHM; a neighbour that finds no place is left
        out.
    clustered : float
        Part of the neighbouring galaxies that are companions of the target, with surface density
        ~ separation ** -`clustering_slope` out to `clustering_scale`.
    clustering_slope, clustering_scale : float
    sky_rms : (low, high)
        Noise of an empty pixel, image units, log-normal with these as its 5 and 95 % points.
    gain : (low, high)
        Electrons per image unit, log-uniform. The noise of a pixel is Gaussian with variance
        ``sky_rms**2 + (light + gradient) / gain``, and no less than a quarter of ``sky_rms**2``.
    pedestal, gradient : (low, high)
        Sky per pixel, and its change across the stamp, in units of `sky_rms`; uniform.
    correlation : float or tuple of tuples
        Correlation of adjacent pixels' noise in [0, 0.9] (``rho ** (dx**2 + dy**2)``), or an
        autocorrelation with odd sides and centre 1; 0: white.
    psf_fwhm : (low, high)
        Moffat PSFs before the pixel; log-normal with these as its 5 and 95 % points.
    psf_beta : (low, high)
        Moffat exponent, uniform, above 1.
    psf_ellipticity : float
        Scatter of each component of the reduced shear; |g| is at most 0.3.
    psf_size : int
        Side of drawn PSFs in **image** pixels.
    psf_oversampling : int
        PSF pixels per image pixel, of drawn and of given PSFs.
    psf_has_pixel : bool
        The PSFs contain the detector pixel.
    isophote : float
        A pixel belongs to a source where its own light exceeds this many `sky_rms` and every
        other's.
    lights : bool
        Batches carry the light of every source by itself.
    pixel_scale : float or None
        arcsec per pixel; for the record, nothing depends on it.
    chunk : int or None
        Sources drawn together; None: by the device and the layout.
    """

    shape: tuple[int, int] = (64, 64)
    max_sources: int = 1
    snr: tuple[float, float] = (10.0, 1000.0)
    star_probability: float = 0.0
    max_shift: float = 0.5
    re: tuple[float, float] = (1.5, 10.0)
    n: tuple[float, float] = (0.5, 6.0)
    q: tuple[float, float] = (0.1, 1.0)
    neighbours: float = 0.0
    margin: float | None = None
    flux_ratio: tuple[float, float] = (0.025, 2.5)
    neighbour_re: tuple[float, float] | None = None
    star_fraction: float = 0.25
    min_separation: float = 0.7
    clustered: float = 0.0
    clustering_slope: float = 0.8
    clustering_scale: float = 40.0
    sky_rms: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (10.0, 10.0)
    pedestal: tuple[float, float] = (0.0, 0.0)
    gradient: tuple[float, float] = (0.0, 0.0)
    correlation: float | tuple[tuple[float, ...], ...] = 0.0
    psf_fwhm: tuple[float, float] = (2.5, 4.0)
    psf_beta: tuple[float, float] = (2.5, 4.5)
    psf_ellipticity: float = 0.02
    psf_size: int = 41
    psf_oversampling: int = 1
    psf_has_pixel: bool = True
    isophote: float = 1.0
    lights: bool = False
    pixel_scale: float | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "snr": (1e-3, math.inf),
            "re": (0.05, math.inf),
            "neighbour_re": (0.05, math.inf),
            "n": (N_MIN, N_MAX),
            "q": (0.05, 1.0),
            "flux_ratio": (1e-12, math.inf),
            "sky_rms": (1e-300, math.inf),
            "gain": (1e-300, math.inf),
            "pedestal": (-math.inf, math.inf),
            "gradient": (-math.inf, math.inf),
            "psf_fwhm": (0.3, math.inf),
            "psf_beta": (1.01, math.inf),
        }
        for name, (low, high) in limits.items():
            given = getattr(self, name)
            if name == "neighbour_re" and given is None:
                continue
            finite = all(map(math.isfinite, given))
            if not (finite and low <= given[0] <= given[1] <= high):
                raise SettingsError(
                    f"{name} = {given}", f"give (low, high) with {low:g} <= low <= high <= {high:g}"
                )
        for name, (low, high) in {
            "star_probability": (0, 1),
            "star_fraction": (0, 1),
            "clustered": (0, 1),
            "max_shift": (0, math.inf),
            "neighbours": (0, math.inf),
            "min_separation": (0, math.inf),
            "clustering_slope": (0, 1.99),
            "clustering_scale": (0, math.inf),
            "psf_ellipticity": (0, 0.2),
            "psf_size": (3, math.inf),
            "psf_oversampling": (1, 8),
            "isophote": (0, math.inf),
            "max_sources": (1, 10000),
        }.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{name} = {value}", f"must lie between {low:g} and {high:g}")
        if min(self.shape) < 9:
            raise SettingsError(f"shape = {self.shape}", "at least 9 x 9 pixels")
        if self.neighbours > 0 and self.max_sources == 1:
            raise SettingsError(
                f"neighbours = {self.neighbours} with max_sources = 1", "raise max_sources"
            )
        if self.chunk is not None and self.chunk < 1:
            raise SettingsError(f"chunk = {self.chunk}", "must be positive, or None")
        tilt = max(map(abs, self.gradient)) / 2
        if tilt > 0.5 * self.sky_rms[0] * self.gain[0]:
            raise SettingsError(
                f"gradient = {self.gradient}: as large as the sky itself, whose noise is "
                f"{self.sky_rms[0]:g} at {self.gain[0]:g} electrons per unit",
                "lower it",
            )
        _autocorrelation(self.correlation)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, *, psfs_given: bool = False, without: Collection[str] = ()
    ) -> EndlessSettings:
        """What a recipe means, in these settings.

        Parameters
        ----------
        recipe : Recipe
            Stamps of Sérsic galaxies and stars, brightness by S/N and relative magnitudes.
        psfs_given : bool
            PSF images will be given to `EndlessSersic`: ``survey.psf.kind`` may be any.
        without : collection of str
            Parts of the recipe to leave out knowingly: bulge_disc, structured, real (the Sérsic
            galaxies take their share), n_distribution, q_distribution (drawn log-uniform, uniform
            over their ranges), artefacts.

        Returns
        -------
        EndlessSettings
            The light, the sky and the noise have the recipe's distributions, but for three: n is
            continuous, Poisson noise is Gaussian, and with ``survey.noise.scatter`` the sky's
            noise is log-normal with the right 5 and 95 % points. The number of sources is cut
            where the Poisson distribution has 1e-4 left.

        Raises
        ------
        SettingsError
            Names everything that cannot be expressed.
        """
        optional = {
            "bulge_disc",
            "structured",
            "real",
            "n_distribution",
            "q_distribution",
            "artefacts",
        }
        unknown = set(without) - optional
        if unknown:
            raise SettingsError(
                f"without = {sorted(unknown)}", f"can be left out: {', '.join(sorted(optional))}"
            )
        data, survey = recipe.data, recipe.survey
        galaxies, neighbours, noise = data.galaxies, data.neighbours, survey.noise
        target = data.target
        never: list[str] = []
        parts: list[str] = []
        if data.kind != "stamp" or target is None:
            never.append("data.kind: frames")
        elif target.snr is None:
            never.append("data.target.magnitude (give snr)")
        if galaxies.re is None:
            never.append("data.galaxies.re: sizes by magnitude (give a range)")
        if neighbours.number is None or neighbours.faint_magnitude is not None:
            never.append("data.neighbours: counts by magnitude (give number)")
        if survey.psf.kind != "moffat" and not psfs_given:
            never.append(f"survey.psf.kind {survey.psf.kind} (psfs_given=True, and PSF images)")
        parts += [kind for kind, w in galaxies.morphology.items() if kind != "sersic" and w > 0]
        if galaxies.n_distribution != "log_uniform":
            parts.append("n_distribution")
        if galaxies.q_distribution != "uniform":
            parts.append("q_distribution")
        if survey.artefacts != type(survey.artefacts)():
            parts.append("artefacts")
        parts = [part for part in parts if part not in without]
        if never or parts:
            raise SettingsError(
                f"endless data cannot express {'; '.join(never + parts)} of recipe {data.name!r}",
                "change the recipe"
                + (f", or leave out knowingly: without={parts}" if parts and not never else ""),
            )
        assert target is not None and target.snr is not None  # both checked above
        assert galaxies.re is not None and neighbours.number is not None

        def rms(deviates: float) -> float:
            brightness = noise.sky_brightness - deviates * noise.scatter
            level = 10 ** (-0.4 * (brightness - survey.zeropoint)) * survey.pixel_scale**2
            return math.sqrt(level * noise.gain + noise.read_noise**2) / noise.gain

        margin = 0.1 * min(data.shape)
        mean = neighbours.number * math.prod(1 + 2 * margin / side for side in data.shape)
        faintest, brightest = neighbours.relative_magnitude[1], neighbours.relative_magnitude[0]
        scale = survey.pixel_scale
        return cls(
            shape=data.shape,
            max_sources=1 + _poisson_quantile(mean, 1 - 1e-4),
            snr=target.snr,
            star_probability=target.star_probability,
            max_shift=target.max_shift,
            re=galaxies.re,
            n=galaxies.n,
            q=galaxies.q,
            neighbours=neighbours.number,
            flux_ratio=(10 ** (-0.4 * faintest), 10 ** (-0.4 * brightest)),
            star_fraction=neighbours.star_fraction,
            min_separation=neighbours.min_separation,
            clustered=neighbours.clustering.fraction,
            clustering_slope=neighbours.clustering.slope,
            clustering_scale=neighbours.clustering.scale / scale,
            sky_rms=(rms(-_SPREAD), rms(_SPREAD)),
            gain=(noise.gain, noise.gain),
            pedestal=noise.pedestal,
            gradient=noise.gradient,
            correlation=_explicit(noise.correlation, data.shape),
            psf_fwhm=(survey.psf.fwhm[0] / scale, survey.psf.fwhm[1] / scale),
            psf_beta=survey.psf.beta,
            psf_ellipticity=survey.psf.ellipticity,
            psf_size=survey.psf.size,
            psf_oversampling=survey.psf.oversampling,
            psf_has_pixel=survey.psf.has_pixel,
            isophote=data.labels.isophote,
            lights=data.labels.light,
            pixel_scale=scale,
        )


_SPREAD = 1.6448536
"""Standard deviations of the 5 and 95 % points of a normal distribution."""


class EndlessSersic(IterableDataset):
    """Batches of simulated stamps, as many as wanted.

    Iterating yields the batches of steps ``first_step + rank + world_size * j``, j = 0, 1, ...
    Worker processes of a `DataLoader` (``batch_size=None``) share the j in turn, so the order does
    not depend on their number. Iterating again yields the same batches: move `first_step` on.

    Parameters
    ----------
    settings : EndlessSettings
    batch_size : int
    seed : int
    device : torch.device or str
        Where everything happens. On "cuda" use no worker processes.
    psfs : Tensor, shape (P, h, w), optional
        PSF images that sum to 1, centred at ((h - 1) / 2, (w - 1) / 2), drawn from at random.
        None: Moffat PSFs by the settings, another for each stamp.
    first_step : int
    steps : int, optional
        Batches per rank; None: without end.
    rank, world_size : int
        Of this process in distributed training.

    Raises
    ------
    SettingsError, InputError
    """

    def __init__(
        self,
        settings: EndlessSettings,
        batch_size: int = 64,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        psfs: torch.Tensor | None = None,
        first_step: int = 0,
        steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or seed < 0 or first_step < 0 or not 0 <= rank < world_size:
            raise SettingsError(
                f"batch_size {batch_size}, seed {seed}, first_step {first_step}, "
                f"rank {rank} of {world_size}",
                "batch_size >= 1, seed and first_step >= 0, 0 <= rank < world_size",
            )
        self.settings = settings
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.first_step, self.steps = first_step, steps
        self.rank, self.world_size = rank, world_size
        self.psfs = None if psfs is None else _checked_psfs(psfs).to(self.device, torch.float32)
        self._pool_fwhm = (
            None if self.psfs is None else _core_width(self.psfs, settings.psf_oversampling)
        )
        correlation = _autocorrelation(settings.correlation)
        self._field, self._filter = settings.shape, None
        if correlation is not None:
            self._field, amplitude = _noise_filter(correlation, settings.shape)
            self._filter = torch.as_tensor(amplitude, dtype=torch.float32, device=self.device)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        turns = itertools.count() if self.steps is None else range(self.steps)
        for j in itertools.islice(turns, worker, None, workers):
            yield self.batch(self.first_step + self.rank + self.world_size * j)

    @torch.no_grad()
    def batch(self, step: int, batch_size: int | None = None) -> dict[str, torch.Tensor]:
        """The stamps of one step.

        Parameters
        ----------
        step : int
            Non-negative. Steps are independent of each other.
        batch_size : int, optional
            Another size than the data set's (and other stamps).

        Returns
        -------
        dict of Tensor
            On the device, float32 where nothing else is said; B stamps, K source slots, the
            target in slot 0 and empty slots last:

            image, sigma (B, ny, nx): light + sky + noise, and the true 1-sigma noise;
            mask bool (B, ny, nx): False everywhere;
            psf (B, h, w);
            light, target_light (B, ny, nx): noise-free, without sky, of all and of the target;
            labels int32 (B, ny, nx): 0, or slot + 1 of the source that owns the pixel;
            lights (B, K, ny, nx): with ``settings.lights``;
            kind int8 (B, K): `EMPTY`, `GALAXY`, `STAR`;
            number int64 (B,): sources;
            catalogue (B, K, 7): columns `CATALOGUE` (a star has re = 0, n = NaN, q = 1);
            fit (B, K, 7): the same in fit space (`autofit_ml.render.PARAMETERS`), with 0 for what
            a star does not have; empty slots are 0 in both;
            snr (B, K): sqrt(sum(own light**2 / sigma**2));
            n_pixels int64 (B, K): pixels with the source's label;
            sky, sky_rms, gain, psf_fwhm (B,): level at the centre, and see the settings.
        """
        if step < 0:
            raise SettingsError(f"step {step}", "must not be negative")
        settings, b = self.settings, batch_size or self.batch_size
        random = _Random(_generator(self.seed, step, self.device))
        with _full_precision(self.device):
            psf, fwhm = self._draw_psfs(random, b)
            catalogue, snr = _draw_scenes(random, settings, b, fwhm)
            lights = _unit_lights(catalogue, psf, settings)
            sky_rms = random.log_normal((b,), settings.sky_rms)
            gain = random.log_uniform((b,), settings.gain)
            flux = _flux_for_snr(lights[:, 0], snr, sky_rms, gain)
            catalogue[..., 2] *= flux[:, None]
            lights *= catalogue[..., 2, None, None].to(lights.dtype)
            return self._observe(random, psf, fwhm, catalogue, lights, sky_rms, gain)

    def _draw_psfs(self, random: _Random, b: int) -> tuple[torch.Tensor, torch.Tensor]:
        """PSF images (B, h, w) and their FWHM (B,)."""
        settings = self.settings
        if self.psfs is not None and self._pool_fwhm is not None:
            which = torch.randint(
                len(self.psfs), (b,), generator=random.generator, device=self.device
            )
            return self.psfs[which], self._pool_fwhm[which]
        fwhm = random.log_normal((b,), settings.psf_fwhm)
        shear = random.normal((b, 2)) * settings.psf_ellipticity
        length = shear.norm(dim=1, keepdim=True)
        shear = shear * (0.3 / length.clamp_min(0.3))
        side = settings.psf_size * settings.psf_oversampling
        images = moffat_images(
            fwhm,
            random.uniform((b,), settings.psf_beta),
            shear,
            side + 1 - side % 2,
            oversampling=settings.psf_oversampling,
            has_pixel=settings.psf_has_pixel,
            smallest_fwhm=0.8 * settings.psf_fwhm[0],
        )
        return images, fwhm

    def _observe(
        self,
        random: _Random,
        psf: torch.Tensor,
        fwhm: torch.Tensor,
        catalogue: torch.Tensor,
        lights: torch.Tensor,
        sky_rms: torch.Tensor,
        gain: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Sky, noise and labels; a dictionary of everything."""
        settings, (b, k) = self.settings, lights.shape[:2]
        light = lights.sum(1) if k > 1 else lights[:, 0].clone()
        pedestal = sky_rms * random.uniform((b,), settings.pedestal)
        tilt = self._gradient(random, sky_rms)
        # In units of the sky's noise: image units may be as small as 1e-10.
        unit = sky_rms.to(light.dtype)[:, None, None]
        per_unit = (1 / (gain * sky_rms)).to(light.dtype)[:, None, None]
        excess = (light / unit).clamp_min(0)
        sky = pedestal.to(light.dtype)[:, None, None]
        if tilt is not None:
            excess = excess + tilt / unit
            sky = sky + tilt
        sigma = unit * (1 + excess * per_unit).clamp_min(0.25).sqrt()
        image = light + sky + sigma * self._deviates(random, b)
        labels = instance_labels(lights, (settings.isophote * sky_rms).to(light.dtype))
        counts = torch.zeros((b, k + 1), dtype=torch.int64, device=self.device)
        flat = labels.flatten(1).to(torch.int64)
        counts.scatter_add_(1, flat, torch.ones_like(flat))
        kind, fit, catalogue = _tables(catalogue)
        batch = {
            "image": image,
            "sigma": sigma,
            "mask": torch.zeros_like(image, dtype=torch.bool),
            "psf": psf,
            "light": light,
            "target_light": lights[:, 0].clone(),
            "labels": labels,
            "kind": kind,
            "number": (kind != EMPTY).sum(1),
            "catalogue": catalogue,
            "fit": fit,
            "snr": (lights * (1 / sigma)[:, None]).flatten(2).norm(dim=2),
            "n_pixels": counts[:, 1:],
            "sky": pedestal.to(light.dtype),
            "sky_rms": sky_rms.to(light.dtype),
            "gain": gain.to(light.dtype),
            "psf_fwhm": fwhm.to(light.dtype),
        }
        if settings.lights:
            batch["lights"] = lights
        return batch

    def _gradient(self, random: _Random, sky_rms: torch.Tensor) -> torch.Tensor | None:
        """Sky relative to the centre's, (B, ny, nx), or None where it is flat."""
        (ny, nx), b = self.settings.shape, len(sky_rms)
        if self.settings.gradient == (0, 0):
            return None
        slope = sky_rms * random.uniform((b,), self.settings.gradient) / max(ny, nx)
        angle = random.uniform((b,), (0, 2 * math.pi))
        y = torch.arange(ny, device=self.device) - (ny - 1) / 2
        x = torch.arange(nx, device=self.device) - (nx - 1) / 2
        along_y, along_x = (slope * angle.sin())[:, None] * y, (slope * angle.cos())[:, None] * x
        return (along_y[:, :, None] + along_x[:, None, :]).to(torch.float32)

    def _deviates(self, random: _Random, b: int) -> torch.Tensor:
        """Noise of unit variance, (B, ny, nx); correlated as the settings say."""
        ny, nx = self.settings.shape
        white = random.normal((b, *self._field), torch.float32)
        if self._filter is None:
            return white
        field = torch.fft.irfft2(torch.fft.rfft2(white) * self._filter, s=self._field)
        return field[:, :ny, :nx]


def render_scene(
    catalogue: torch.Tensor,
    psf: torch.Tensor,
    shape: tuple[int, int],
    *,
    oversampling: int = 1,
    has_pixel: bool = True,
    chunk: int | None = None,
) -> torch.Tensor:
    """Noise-free light of given sources, each by itself.

    Parameters
    ----------
    catalogue : Tensor, shape (B, K, 7)
        Columns `CATALOGUE`. re = 0: a star. flux = 0: an empty slot.
    psf : Tensor, shape (B, h, w)
        On the same device; sums to 1, centred at ((h - 1) / 2, (w - 1) / 2).
    shape : (ny, nx)
    oversampling : int
        PSF pixels per image pixel.
    has_pixel : bool
        The PSFs contain the detector pixel.
    chunk : int, optional
        Sources drawn together.

    Returns
    -------
    Tensor, float32, shape (B, K, ny, nx)
        Image units, without sky.

    Raises
    ------
    InputError
        Shapes that do not belong together, or a galaxy with re < 0, q outside (0, 1] or n outside
        [0.3, 8].
    """
    if psf.ndim != 3 or catalogue.ndim != 3 or catalogue.shape[::2] != (len(psf), len(CATALOGUE)):
        raise InputError(
            f"sources of shape {tuple(catalogue.shape)} with PSFs of shape {tuple(psf.shape)}",
            "give (B, K, 7) and (B, h, w)",
        )
    values = catalogue.to(torch.float64)
    _, _, flux, re, n, q, _ = values.unbind(-1)
    sound = (re > 0) & (q > 0) & (q <= 1) & (n >= N_MIN - 1e-6) & (n <= N_MAX + 1e-6)
    if not bool(((flux == 0) | (re == 0) | sound).all()):
        raise InputError("sources out of range", "re >= 0, 0 < q <= 1, 0.3 <= n <= 8")
    settings = EndlessSettings(
        shape=shape, psf_oversampling=oversampling, psf_has_pixel=has_pixel, chunk=chunk
    )
    with torch.no_grad(), _full_precision(psf.device):
        lights = _unit_lights(values, psf, settings)
        return lights * values[..., 2, None, None].to(lights.dtype)


def _unit_lights(
    catalogue: torch.Tensor, psf: torch.Tensor, settings: EndlessSettings
) -> torch.Tensor:
    """Images of the sources with flux 1 (empty slots: 0), float32, (B, K, ny, nx)."""
    b, k, _ = catalogue.shape
    (ny, nx), device = settings.shape, psf.device
    s, has_pixel = settings.psf_oversampling, settings.psf_has_pixel
    flat = catalogue.reshape(b * k, len(CATALOGUE))
    psf = psf.to(torch.float32)
    sharpness = _band_edge(psf).repeat_interleave(k)
    codes = _layout_codes(flat, settings.shape, sharpness)
    order = torch.argsort(codes, stable=True)
    every = torch.arange(len(LADDER) + 2, device=device)
    counts = (codes[:, None] == every).sum(0).tolist()  # the only wait for the device
    groups = order.split(counts)
    out = torch.zeros((b * k, ny, nx), dtype=torch.float32, device=device)
    budget = _MODES_AT_ONCE.get(device.type, _MODES_AT_ONCE["cpu"])
    for accuracy, members in zip(LADDER, groups, strict=False):
        if not len(members):
            continue
        plan = make_plan(settings.shape, tuple(psf.shape[1:]), s, accuracy, device)
        size = settings.chunk or max(1, budget // plan.n_modes)
        shared = None
        if len(members) >= b:  # cheaper once a stamp than once a source
            shared = torch.cat([_modes(plan, some, has_pixel) for some in psf.split(size)])
        for some in members.split(size):
            owner = some // k
            modes = _modes(plan, psf[owner], has_pixel) if shared is None else shared[owner]
            rows = torch.nn.functional.pad(flat[some], (0, 1))  # no sky
            rows[:, 2] = 1.0
            images = render(plan, sersic_table(), modes, to_fit_space(rows)[:, :7])
            out.index_copy_(0, some, images)
    size = settings.chunk or max(1, budget // (ny * nx))
    for some in groups[len(LADDER)].split(size):
        if len(some):
            x, y = flat[some, 0], flat[some, 1]
            images = _star_images(psf[some // k], x, y, settings.shape, s, has_pixel)
            out.index_copy_(0, some, images)
    return out.view(b, k, ny, nx)


def _modes(plan: FourierPlan, psf: torch.Tensor, has_pixel: bool) -> torch.Tensor:
    """Transforms of PSFs that agree in `has_pixel`, complex, (B, n_modes)."""
    return psf_modes(plan, psf, torch.full((1,), has_pixel, device=psf.device))


def _layout_codes(
    flat: torch.Tensor, shape: tuple[int, int], sharpness: torch.Tensor
) -> torch.Tensor:
    """Which of `LADDER` draws each source; len(LADDER) for stars, the next for empty slots.

    The padding is what keeps the nearest periodic image's light off the stamp's far border. Its
    least distance was measured over n 0.5 to 6, q 0.1 to 1 and re up to a quarter of the stamp,
    for errors under 1e-4 of the source's peak. In stamps: 0.75 for the smallest source; more with
    re, with needles (whose high-n wings reach further), and for sources beyond the border (of which
    only the wings are seen). In pixels: the ringing of a PSF that is still bright at the border of
    its band (`sharpness`, (B * K,)) falls as distance^-1.6 only; the last layout is good enough
    down to a FWHM of 1.7 PSF pixels (of a source beyond the border the ringing is what is seen).
    """
    x, y, flux, re, _, q, _ = flat.unbind(1)
    (ny, nx), side = shape, max(shape)
    spread = re / side * (0.4 / q.clamp_min(1e-3)).clamp_min(1.0)
    distance = side * torch.minimum(0.75 + 2.2 * spread, 1.0 + 1.5 * spread)
    outside = torch.maximum((x - (nx - 1) / 2).abs() - nx / 2, (y - (ny - 1) / 2).abs() - ny / 2)
    beyond = outside.clamp_min(0.0)
    distance = torch.maximum(distance, 1100.0 * sharpness**0.55 * (1.0 + beyond / 3.0))
    margin = distance + outside + 2.0 * beyond
    codes = torch.zeros_like(re, dtype=torch.int64)
    for accuracy in LADDER[:-1]:
        codes += margin > max((accuracy.padding - 1.0) * side, accuracy.margin)
    codes = torch.where(re > 0, codes, len(LADDER))
    return torch.where(flux > 0, codes, len(LADDER) + 1)


def _band_edge(psf: torch.Tensor) -> torch.Tensor:
    """Largest |transform| of PSF images (B, h, w) at the two axes' Nyquist frequencies, (B,)."""
    edges = []
    for axis in (1, 2):
        along = psf.sum(3 - axis)
        sign = 1 - 2 * (torch.arange(along.shape[1], device=psf.device) % 2)
        edges.append((along * sign).sum(1).abs())
    return torch.maximum(*edges)


def _star_images(
    psf: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    shape: tuple[int, int],
    oversampling: int,
    has_pixel: bool,
) -> torch.Tensor:
    """Point sources of flux 1: the band-limited function through the PSF's pixels, (B, ny, nx)."""
    _, h, w = psf.shape
    along_y = _interpolation(y, shape[0], h, oversampling, has_pixel)
    along_x = _interpolation(x, shape[1], w, oversampling, has_pixel)
    return along_y @ psf @ along_x.transpose(1, 2)


def _interpolation(
    centre: torch.Tensor, n: int, n_psf: int, oversampling: int, has_pixel: bool
) -> torch.Tensor:
    """Weights of the PSF's pixels in each image pixel along one axis, float32, (B, n, n_psf).

    sinc interpolation times PSF pixels per image pixel; without the pixel in the PSF its mean over
    one image pixel (Gauss-Legendre; eight nodes per PSF pixel are exact to 1e-8).
    """
    pixel = torch.arange(n, device=centre.device, dtype=torch.float64)
    sample = torch.arange(n_psf, device=centre.device, dtype=torch.float64) - (n_psf - 1) / 2
    offset = (pixel - centre[:, None])[:, :, None] * oversampling - sample
    if has_pixel:
        return torch.sinc(offset.to(torch.float32)) * oversampling
    nodes, weights = np.polynomial.legendre.leggauss(8 * oversampling)
    total = torch.zeros_like(offset, dtype=torch.float32)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        shifted = (offset + 0.5 * oversampling * node).to(torch.float32)
        total += (0.5 * weight * oversampling) * torch.sinc(shifted)
    return total


def moffat_images(
    fwhm: torch.Tensor,
    beta: torch.Tensor,
    shear: torch.Tensor,
    side: int,
    *,
    oversampling: int = 1,
    has_pixel: bool = True,
    smallest_fwhm: float | None = None,
) -> torch.Tensor:
    """Elliptical Moffat PSFs.

    ``I ~ (1 + (r / alpha)^2)^-beta``, ``alpha = fwhm / (2 sqrt(2^(1/beta) - 1))`` (Moffat 1969,
    A&A 3, 455), with r measured after an area-preserving shear.

    Parameters
    ----------
    fwhm : Tensor, shape (B,)
        Before the pixel and the shear, **image** pixels.
    beta : Tensor, shape (B,)
        Above 1.
    shear : Tensor, shape (B, 2)
        Reduced shear (g1, g2), of length below 1.
    side : int
        PSF pixels, odd.
    oversampling : int
        PSF pixels per image pixel.
    has_pixel : bool
        Average over the image pixel by Gauss-Legendre quadrature, else sample at the centres.
    smallest_fwhm : float, optional
        Sets the number of nodes (errors under 5e-5 of the peak); without it `fwhm` is looked at,
        which waits for the device.

    Returns
    -------
    Tensor, float32, shape (B, side, side)
        Each sums to 1.
    """
    if side % 2 == 0:
        raise SettingsError(f"PSF of {side} pixels a side", "give an odd side")
    if smallest_fwhm is None:
        smallest_fwhm = float(fwhm.min())
    order = 2 + math.ceil(4 / smallest_fwhm) if has_pixel else 1
    nodes, weights = np.polynomial.legendre.leggauss(order)
    offset = (np.arange(side) - side // 2)[:, None] / oversampling + 0.5 * nodes
    across = torch.as_tensor(offset.ravel(), dtype=torch.float32, device=fwhm.device)
    half = across[: (side // 2 + 1) * order]  # the rest by point symmetry
    weight = torch.as_tensor(weights / 2, dtype=torch.float32, device=fwhm.device)
    g1, g2 = shear.to(torch.float64).unbind(1)
    alpha = fwhm / (2 * (2 ** (1 / beta.to(torch.float64)) - 1).sqrt())
    scale = 1 / ((1 - g1 * g1 - g2 * g2) * alpha**2)
    size2 = 1 + g1 * g1 + g2 * g2
    xx, yy, xy = (
        (value * scale).to(torch.float32)[:, None, None]
        for value in (size2 - 2 * g1, size2 + 2 * g1, -4 * g2)
    )
    y, x = half[:, None], across[None, :]
    r2 = torch.addcmul(xx * (x * x) + yy * (y * y), xy, x * y)
    light = r2.add_(1.0).log_().mul_(-beta.to(torch.float32)[:, None, None]).exp_()
    light = light.view(len(light), -1, order, side, order) @ weight
    upper = torch.einsum("bioj,o->bij", light, weight)
    image = torch.cat([upper, upper[:, :-1].flip(1, 2)], dim=1)
    return image / image.sum((1, 2), keepdim=True)


def instance_labels(lights: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Who owns which pixel, by the rule of `labels.instance_labels`.

    Parameters
    ----------
    lights : Tensor, shape (B, K, ny, nx)
        Noise-free light of every source.
    level : Tensor, shape (B,)
        Isophote, image units per pixel.

    Returns
    -------
    Tensor, int32, shape (B, ny, nx)
        0, or i + 1 where source i is above the level and the brightest.
    """
    brightest = level[:, None, None].expand(-1, *lights.shape[2:])
    labels = torch.zeros(brightest.shape, dtype=torch.int32, device=lights.device)
    for i, light in enumerate(lights.unbind(1)):  # half the time of max(dim=1)
        labels = torch.where(light > brightest, i + 1, labels)
        brightest = torch.maximum(brightest, light)
    return labels


def _flux_for_snr(
    unit: torch.Tensor, snr: torch.Tensor, sky_rms: torch.Tensor, gain: torch.Tensor
) -> torch.Tensor:
    """Flux that gives images of unit flux (B, ny, nx) the total S/N `snr` by their own noise.

    Newton's method in ln flux on ``ln sum(f^2 u^2 / (1 + c f u))`` with f = flux / sky_rms and
    c = 1 / (gain sky_rms), whose slope lies between 1 and 2. Float64, (B,).
    """
    unit = unit.flatten(1)
    square, positive = unit * unit, unit.clamp_min(0)
    c = 1 / (gain * sky_rms)
    wanted = 2 * snr.log()
    log_f = 0.5 * (wanted - square.sum(1).to(torch.float64).log())  # if there were only sky
    for _ in range(_NEWTON_STEPS):
        light = positive * (c * log_f.exp()).to(unit.dtype)[:, None]
        share = 1 / (1 + light)
        terms = square * share
        total = terms.sum(1).to(torch.float64)
        slope = 1 + (terms * share).sum(1).to(torch.float64) / total
        log_f = log_f + (wanted - 2 * log_f - total.log()) / slope
    return log_f.exp() * sky_rms


def _draw_scenes(
    random: _Random, settings: EndlessSettings, b: int, fwhm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Catalogues (B, K, 7), with fluxes relative to the target's, and the target's S/N (B,)."""
    (ny, nx), k = settings.shape, settings.max_sources
    shift = random.uniform((b, 2), (-settings.max_shift, settings.max_shift))
    centre = torch.stack([shift[:, 0] + (nx - 1) / 2, shift[:, 1] + (ny - 1) / 2], dim=1)
    chance = random.uniform((b, k), (0, 1))
    star = chance < settings.star_fraction
    star[:, 0] = chance[:, 0] < settings.star_probability
    low, high = settings.re
    re = random.log_uniform((b, k), settings.neighbour_re or (0.5 * low, math.sqrt(low * high)))
    re[:, 0] = random.log_uniform((b,), settings.re)
    flux = random.log_uniform((b, k), settings.flux_ratio)
    flux[:, 0] = 1.0
    shapes = [
        random.log_uniform((b, k), settings.n),
        random.uniform((b, k), settings.q),
        random.uniform((b, k), (0, 180)),
    ]
    snr = random.log_uniform((b,), settings.snr)
    place, placed = centre[:, None], torch.ones((b, 1), dtype=torch.bool, device=random.device)
    if k > 1:
        place, placed = _place_neighbours(random, settings, centre, star, fwhm)
    flux = torch.where(placed, flux, 0.0)
    re = torch.where(star, 0.0, re)
    catalogue = torch.stack([place[..., 0], place[..., 1], flux, re, *shapes], dim=2)
    if k > 1:  # empty slots last
        order = torch.argsort((~placed).to(torch.int8), dim=1, stable=True)
        catalogue = catalogue.gather(1, order[:, :, None].expand_as(catalogue))
    return catalogue, snr


def _place_neighbours(
    random: _Random,
    settings: EndlessSettings,
    centre: torch.Tensor,
    star: torch.Tensor,
    fwhm: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (B, K, 2) of all sources, the target's first, and which of them exist (B, K)."""
    (ny, nx), (b, k) = settings.shape, star.shape
    margin = 0.1 * min(ny, nx) if settings.margin is None else settings.margin
    mean = settings.neighbours * (1 + 2 * margin / ny) * (1 + 2 * margin / nx)
    number = random.poisson((b,), mean)
    companion = (random.uniform((b, k), (0, 1)) < settings.clustered) & ~star
    anywhere = torch.stack(
        [
            random.uniform((b, k, _TRIES), (-margin, nx - 1 + margin)),
            random.uniform((b, k, _TRIES), (-margin, ny - 1 + margin)),
        ],
        dim=-1,
    )
    # Surface density ~ r^-slope: the cumulative number grows as r^(2 - slope).
    radius = random.uniform((b, k, _TRIES), (0, 1)) ** (1 / (2 - settings.clustering_slope))
    angle = random.uniform((b, k, _TRIES), (0, 2 * math.pi))
    around = torch.stack([angle.cos(), angle.sin()], dim=-1) * radius[..., None]
    around = centre[:, None, None] + settings.clustering_scale * around
    tries = torch.where(companion[:, :, None, None], around, anywhere)
    x, y = tries.unbind(-1)
    inside = (x >= -margin) & (x <= nx - 1 + margin) & (y >= -margin) & (y <= ny - 1 + margin)
    closest2 = (settings.min_separation * fwhm).square()[:, None, None]
    place = centre[:, None].repeat(1, k, 1)
    exists = torch.zeros((b, k), dtype=torch.bool, device=random.device)
    exists[:, 0] = True
    for i in range(1, k):
        apart = (tries[:, i, :, None] - place[:, None, :i]).square().sum(-1)  # (B, tries, i)
        free = inside[:, i] & ((apart >= closest2) | ~exists[:, None, :i]).all(-1)
        first = free.to(torch.int8).argmax(1)
        place[:, i] = tries[:, i].gather(1, first[:, None, None].expand(-1, 1, 2))[:, 0]
        exists[:, i] = free.any(1) & (number >= i)
    return place, exists


def _tables(catalogue: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kinds, fit space and catalogue as a batch shows them."""
    flux, re = catalogue[..., 2], catalogue[..., 3]
    full, star = flux > 0, (flux > 0) & (re == 0)
    kind = (full.to(torch.int8) + star.to(torch.int8)).to(torch.int8)
    x, y, _, _, n, q, pa = catalogue.unbind(-1)
    one = torch.ones_like(flux)
    usual = torch.stack(
        [
            x,
            y,
            torch.where(full, flux, one),
            torch.where(kind == GALAXY, re, one),
            torch.where(kind == GALAXY, n, one),
            torch.where(kind == GALAXY, q, one),
            pa,
            torch.zeros_like(one),
        ],
        dim=-1,
    )
    fit = torch.where(full[..., None], to_fit_space(usual)[..., :7], 0.0)
    shown = catalogue.clone()
    shown[..., 4] = torch.where(star, torch.nan, n)
    shown[..., 5] = torch.where(star, 1.0, q)
    shown[..., 6] = torch.where(star, 0.0, pa)
    shown = torch.where(full[..., None], shown, 0.0)
    return kind, fit.to(torch.float32), shown.to(torch.float32)


class _Random:
    """Random tensors of one generator, float64 on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, size: tuple[int, ...], limits: tuple[float, float]) -> torch.Tensor:
        value = torch.rand(size, generator=self.generator, device=self.device, dtype=torch.float64)
        return limits[0] + (limits[1] - limits[0]) * value

    def log_uniform(self, size: tuple[int, ...], limits: tuple[float, float]) -> torch.Tensor:
        return self.uniform(size, (math.log(limits[0]), math.log(limits[1]))).exp()

    def normal(self, size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.randn(size, generator=self.generator, device=self.device, dtype=dtype)

    def log_normal(self, size: tuple[int, ...], limits: tuple[float, float]) -> torch.Tensor:
        """With `limits` as the 5 and 95 % points."""
        low, high = math.log(limits[0]), math.log(limits[1])
        return ((low + high) / 2 + (high - low) / (2 * _SPREAD) * self.normal(size)).exp()

    def poisson(self, size: tuple[int, ...], mean: float) -> torch.Tensor:
        rate = torch.full(size, mean, device=self.device, dtype=torch.float64)
        return torch.poisson(rate, generator=self.generator)


def _generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The generator of one step. CPU generators use 32 bits of a seed: no two steps share them."""
    high, low = np.random.SeedSequence(seed).generate_state(2).tolist()
    low = (low + step * 0x9E3779B1) % (1 << 32)
    return torch.Generator(device=device).manual_seed((high >> 1) << 32 | low)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """float32 products stay float32: TF32, bfloat16 and autocast would cost three digits."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _checked_psfs(psfs: torch.Tensor) -> torch.Tensor:
    if psfs.ndim != 3 or not len(psfs):
        raise InputError(f"PSFs of shape {tuple(psfs.shape)}", "give (P, h, w)")
    total = psfs.double().sum((1, 2))
    if not bool(torch.isfinite(total).all()) or float((total - 1).abs().max()) > 1e-3:
        raise InputError("PSF images that do not sum to 1", "normalise them")
    return psfs


def _core_width(psfs: torch.Tensor, oversampling: int) -> torch.Tensor:
    """FWHM of PSF images from the area above half of the maximum, image pixels, float64, (P,)."""
    above = (psfs > 0.5 * psfs.amax((1, 2), keepdim=True)).sum((1, 2)).to(torch.float64)
    return 2 * (above / math.pi).sqrt() / oversampling


def _poisson_quantile(mean: float, share: float) -> int:
    """Smallest number that a Poisson variable does not exceed with probability `share`."""
    number, term = 0, math.exp(-mean)
    total = term
    while total < share:
        number += 1
        term *= mean / number
        total += term
    return number


def _explicit(correlation, shape: tuple[int, int]) -> float | tuple[tuple[float, ...], ...]:
    """A recipe's noise correlation as numbers."""
    if isinstance(correlation, float | int):
        return float(correlation)
    from autofit_ml.simulate.noise import autocorrelation

    array = autocorrelation(correlation, shape)
    return 0.0 if array is None else tuple(map(tuple, array.tolist()))


@functools.lru_cache(maxsize=8)
def _autocorrelation(setting: float | tuple[tuple[float, ...], ...]) -> np.ndarray | None:
    """Autocorrelation of the noise, odd sides and centre 1; None: white."""
    if isinstance(setting, float | int):
        if not 0 <= setting <= 0.9:
            raise SettingsError(f"correlation = {setting}", "must lie between 0 and 0.9")
        if setting <= 1e-4:
            return None
        radius = math.floor(math.sqrt(math.log(1e-4) / math.log(setting)))
        lag = np.arange(-radius, radius + 1.0)
        return setting ** (lag[:, None] ** 2 + lag[None, :] ** 2)
    widths = {len(row) for row in setting}
    if len(setting) % 2 == 0 or len(widths) != 1 or widths.pop() % 2 == 0:
        raise SettingsError("correlation: not a rectangle with odd sides", "correct it")
    array = np.array(setting, dtype=float)
    if array[array.shape[0] // 2, array.shape[1] // 2] != 1 or np.abs(array).max() > 1:
        raise SettingsError("correlation: the centre is not 1", "divide by the central value")
    return array


def _noise_filter(
    correlation: np.ndarray, shape: tuple[int, int]
) -> tuple[tuple[int, int], np.ndarray]:
    """Shape of the white field, and the filter on its half plane of frequencies.

    The field is filtered as if it were periodic; it is larger than the stamp by the reach of the
    correlation, so that no two pixels of the stamp are correlated round the edge.
    """
    reach = [side // 2 for side in correlation.shape]
    ny, nx = (next_fast_len(n + r, real=True) for n, r in zip(shape, reach, strict=True))
    grid = np.zeros((ny, nx))
    grid[: correlation.shape[0], : correlation.shape[1]] = correlation
    power = np.maximum(np.fft.fft2(np.roll(grid, (-reach[0], -reach[1]), axis=(0, 1))).real, 0)
    # Unit variance also where negative power was cut off.
    return (ny, nx), np.sqrt(power / power.mean())[:, : nx // 2 + 1]
