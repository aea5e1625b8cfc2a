"""Batches of endless stamps: PSF, scene, light, sky, noise and labels of one step."""

import itertools
import math
from collections.abc import Iterator

import torch
from scipy.fft import next_fast_len
from torch.utils.data import IterableDataset, get_worker_info

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.noise import autocorrelation, noise_amplitude
from training.endless.psfs import checked_psfs, core_width, moffat_images
from training.endless.render import full_precision, instance_labels, unit_lights
from training.endless.scenes import (
    EMPTY,
    Random,
    draw_scenes,
    flux_for_snr,
    generator,
    tables,
)
from training.endless.settings import EndlessSettings

__all__ = ["EndlessSersic"]


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
        self.psfs = None if psfs is None else checked_psfs(psfs).to(self.device, torch.float32)
        self._pool_fwhm = (
            None if self.psfs is None else core_width(self.psfs, settings.psf_oversampling)
        )
        correlation = autocorrelation(settings.correlation, settings.shape)
        self._field, self._filter = settings.shape, None
        if correlation is not None:
            # Filtered as if it were periodic: larger than the stamp by the correlation's reach.
            self._field = tuple(
                next_fast_len(n + side // 2, real=True)
                for n, side in zip(settings.shape, correlation.shape, strict=True)
            )
            amplitude = noise_amplitude(self._field, correlation)
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
            fit (B, K, 7): the same in fit space (`autofit_ml.rendering.PARAMETERS`), with 0 for
            what a star does not have; empty slots are 0 in both;
            snr (B, K): sqrt(sum(own light**2 / sigma**2));
            n_pixels int64 (B, K): pixels with the source's label;
            sky, sky_rms, gain, psf_fwhm (B,): level at the centre, and see the settings.
        """
        if step < 0:
            raise SettingsError(f"step {step}", "must not be negative")
        settings, b = self.settings, batch_size or self.batch_size
        random = Random(generator(self.seed, step, self.device))
        with full_precision(self.device):
            psf, fwhm = self._draw_psfs(random, b)
            catalogue, snr = draw_scenes(random, settings, b, fwhm)
            lights = unit_lights(catalogue, psf, settings)
            sky_rms = random.log_normal((b,), settings.sky_rms)
            gain = random.log_uniform((b,), settings.gain)
            flux = flux_for_snr(lights[:, 0], snr, sky_rms, gain)
            catalogue[..., 2] *= flux[:, None]
            lights *= catalogue[..., 2, None, None].to(lights.dtype)
            return self._observe(random, psf, fwhm, catalogue, lights, sky_rms, gain)

    def _draw_psfs(self, random: Random, b: int) -> tuple[torch.Tensor, torch.Tensor]:
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
        random: Random,
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
        kind, fit, catalogue = tables(catalogue)
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

    def _gradient(self, random: Random, sky_rms: torch.Tensor) -> torch.Tensor | None:
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

    def _deviates(self, random: Random, b: int) -> torch.Tensor:
        """Noise of unit variance, (B, ny, nx); correlated as the settings say."""
        ny, nx = self.settings.shape
        white = random.normal((b, *self._field), torch.float32)
        if self._filter is None:
            return white
        field = torch.fft.irfft2(torch.fft.rfft2(white) * self._filter, s=self._field)
        return field[:, :ny, :nx]
