"""Light of the sources of endless stamps, and who owns which pixel."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from autofit_ml.errors import InputError
from autofit_ml.profiles import N_MAX, N_MIN, sersic_table
from autofit_ml.rendering import Accuracy, FourierPlan, make_plan, psf_modes, render
from autofit_ml.scenes import to_fit_space
from training.endless.psfs import band_edge
from training.endless.scenes import CATALOGUE
from training.endless.settings import EndlessSettings

__all__ = ["LADDER", "full_precision", "instance_labels", "render_scene", "unit_lights"]

LADDER = (
    Accuracy(1.5, refinements=(2.0, 3.0), split=2.0),
    Accuracy(2.0, refinements=(2.0, 2.0), split=2.5),
    Accuracy(2.5, refinements=(2.0, 2.0, 2.0)),
    Accuracy(4.0, margin=224.0, refinements=(2.0, 2.0, 2.0)),
    Accuracy(4.0, margin=352.0, refinements=(2.0, 2.0, 2.0)),
)
"""Layouts of Fourier space, by growing padding."""

_MODES_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Fourier modes that are worked on together: near the cache; or enough to fill a GPU in 2 GB."""


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
    with torch.no_grad(), full_precision(psf.device):
        lights = unit_lights(values, psf, settings)
        return lights * values[..., 2, None, None].to(lights.dtype)


def unit_lights(
    catalogue: torch.Tensor, psf: torch.Tensor, settings: EndlessSettings
) -> torch.Tensor:
    """Images of the sources with flux 1 (empty slots: 0), float32, (B, K, ny, nx)."""
    b, k, _ = catalogue.shape
    (ny, nx), device = settings.shape, psf.device
    s, has_pixel = settings.psf_oversampling, settings.psf_has_pixel
    flat = catalogue.reshape(b * k, len(CATALOGUE))
    psf = psf.to(torch.float32)
    sharpness = band_edge(psf).repeat_interleave(k)
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
    """Index in `LADDER` of each source; len(LADDER) for stars, the next for empty slots.

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


def instance_labels(lights: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Instance labels by the rule of `labels.instance_labels`.

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


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
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
