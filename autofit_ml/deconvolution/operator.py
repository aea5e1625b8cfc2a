r"""Operator from the sharp image to the data: PSF ratio, sampling, edges, masks, noise maps.

In: stamps, and the sampling of the output. Out: an `Observation`, the linear operator A with the
data and their weights for a batch of objects, and the solves that the samplers need.

The sharp image x lives on a square grid of G output pixels, larger than the stamp, so that what
the periodic transform wraps round lies outside the data. With the transfer

.. math:: H(k) = P(k) / T(k)

(P: transform of the data's PSF image, pixel included; T: of the target PSF, `target`) the model of
the data is :math:`A x = M S H x`: S takes every s-th pixel of the output grid (s = 1 or 2, with
the shift between the centres of data and output pixels, and the factor s² between fluxes per data
and per output pixel in H), M leaves out what is masked or outside the stamp. With s = 2 light
beyond the data's band is folded by S exactly as the detector folds it, as far as the PSF image
knows it: a PSF given at the data's own sampling has nothing there. |H| is cut at
`TRANSFER_LIMIT` (corners of the band, PSFs hardly wider than the target).

Inside, the typical noise of an object's pixels is 1. Where the noise of neighbouring pixels is
correlated (``Stamp.noise_correlation``: resampled and drizzled images), its covariance is
:math:`N = W^{-1/2} C W^{-1/2}` with a stationary correlation C, diagonal in Fourier space with the
power S(k) of mean 1, which is not let fall below `LEAST_POWER`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.deconvolution.checks import check_stamp
from autofit_ml.deconvolution.diffusion import Draws
from autofit_ml.deconvolution.spectra import fft2, ifft2
from autofit_ml.deconvolution.target import (
    TRANSFER_LIMIT,
    target_transfer,
)
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.measure import psf_fwhm

__all__ = ["LARGEST", "Observation", "grid_side", "noise_power", "observe", "psf_transfer"]

LARGEST = 256
"""Output pixels a side."""

LEAST_POWER = 0.2
"""Of correlated noise, relative to the mean: hardly any noise in the finest waves would be trusted
too much where data and what masked pixels are filled with meet."""

_RELATIVE = 1e-5
_ITERATIONS = 60


@dataclass(frozen=True)
class Observation:
    """Data and operator of B objects; full arrays cover the periodic grid.

    Attributes
    ----------
    data, weight : Tensor, shape (B, 1, g, g)
        Data and inverse variances in units of each object's typical noise, g = G / s; weight 0
        where there are no data.
    transfer : Tensor, complex, shape (B, 1, G, G // 2 + 1)
        H with the factor s² and the shift.
    oversampling : int
        s.
    noise : ndarray, shape (B,)
        Typical noise (root of the harmonic mean variance) in image units.
    corner : ndarray of int, shape (B, 2)
        (y, x) of the stamp's first pixel on the data's grid.
    shape : tuple of int
        (ny, nx) of the stamps.
    colour : Tensor or None, shape (B, 1, g, g)
        S(k) on the whole plane of the data's grid; None: white noise.
    """

    data: torch.Tensor
    weight: torch.Tensor
    transfer: torch.Tensor
    oversampling: int
    noise: np.ndarray
    corner: np.ndarray
    shape: tuple[int, int]
    colour: torch.Tensor | None = None

    @property
    def side(self) -> int:
        """G."""
        return int(self.transfer.shape[-2])

    @property
    def known(self) -> torch.Tensor:
        """Pixels with data."""
        return self.weight > 0

    @property
    def typical(self) -> torch.Tensor:
        """Mean weight of the pixels with data, (B, 1, 1, 1)."""
        number = self.known.sum((-2, -1), keepdim=True).clamp_min(1)
        return self.weight.sum((-2, -1), keepdim=True) / number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """S H x without the mask: (B, N, G, G) to (B, N, g, g)."""
        s = self.oversampling
        return ifft2(self.transfer * fft2(x), self.side)[..., ::s, ::s]

    def adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Transpose of `forward`."""
        s = self.oversampling
        if s > 1:
            fine = r.new_zeros((*r.shape[:-2], self.side, self.side))
            fine[..., ::s, ::s] = r
            r = fine
        return ifft2(self.transfer.conj() * fft2(r), self.side)

    def spectrum(self, sigma: torch.Tensor) -> torch.Tensor:
        r"""Power of the noise that `solve` leaves, (B, N, G, G // 2 + 1).

        :math:`q = 1 / (1 / \sigma^2 + \bar w |H|^2 / s^2)`: exact for uniform noise without
        folding; the diagonal's inverse otherwise.
        """
        gain = self.transfer.abs().square() / self.oversampling**2
        if self.colour is not None:
            half = gain.shape[-1]
            tiles = (1, 1, self.oversampling, self.oversampling)
            gain = gain / self.colour.repeat(tiles)[..., :half]
        return 1 / (sigma.square().reciprocal() + self.typical * gain)

    def take(self, members: slice) -> "Observation":
        """Some of the objects."""
        return dataclasses.replace(
            self,
            data=self.data[members],
            weight=self.weight[members],
            transfer=self.transfer[members],
            noise=self.noise[members],
            corner=self.corner[members],
            colour=None if self.colour is None else self.colour[members],
        )

    def filled(self, x: torch.Tensor | None, number: int, draws: Draws) -> torch.Tensor:
        """Data (B, N, g, g) with what is missing drawn from the model of x (0 without)."""
        data = self.data.expand(-1, number, -1, -1)
        if self._is_complete:
            return data
        if x is None:
            return data * self.known
        noise = draws.normal(data)
        if self.colour is not None:
            noise = ifft2(fft2(noise) * self._half.sqrt(), noise.shape[-1])
        drawn = self.forward(x) + noise / self.typical.sqrt()
        return torch.where(self.known, data, drawn)

    def solve(self, x: torch.Tensor, sigma: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        r""":math:`(1/\sigma^2 + A^T W A)^{-1} (x/\sigma^2 + A^T W y)` with missing data filled.

        Parameters
        ----------
        x : Tensor, shape (B, N, G, G)
        sigma : Tensor, shape (B, 1, 1, 1)
        data : Tensor, shape (B, N, g, g)
            Of `filled`; filled pixels have the typical weight.
        """
        weight = torch.where(self.known, self.weight, self.typical)
        precision = sigma.square().reciprocal()
        right = x * precision + self.adjoint(self._weighed(weight, data))
        q = self.spectrum(sigma)
        start = ifft2(q * fft2(right), self.side)
        if self._is_diagonal:
            return start
        return self._conjugate_gradients(right, precision, weight, q, start)

    @property
    def _half(self) -> torch.Tensor:
        """S(k) on the half plane of the data's grid."""
        assert self.colour is not None
        return self.colour[..., : self.colour.shape[-1] // 2 + 1]

    def _weighed(self, weight: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """N^-1 r of residuals (B, N, g, g) without missing pixels."""
        if self.colour is None:
            return weight * r
        root = weight.sqrt()
        return root * ifft2(fft2(root * r) / self._half, r.shape[-1])

    # Asked at every step, and the host waits for a device that has to answer: once.

    @functools.cached_property
    def _is_complete(self) -> bool:
        """Every pixel of the grid has data."""
        return bool(self.known.all())

    @functools.cached_property
    def _is_diagonal(self) -> bool:
        """Uniform noise, and no folding."""
        if self.oversampling > 1 and _folds(self.transfer):
            return False
        return bool(((self.weight - self.typical) * self.known).abs().max() < 1e-4)

    def _conjugate_gradients(
        self,
        right: torch.Tensor,
        precision: torch.Tensor,
        weight: torch.Tensor,
        q: torch.Tensor,
        start: torch.Tensor,
    ) -> torch.Tensor:
        """Each image stops by itself; the preconditioner is the spectrum q."""

        def applied(v: torch.Tensor) -> torch.Tensor:
            return v * precision + self.adjoint(self._weighed(weight, self.forward(v)))

        def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a * b).sum((-2, -1), keepdim=True)

        found = start
        rest = right - applied(found)
        better = ifft2(q * fft2(rest), self.side)
        direction, size = better, dot(rest, better)
        enough = _RELATIVE**2 * dot(right, start).abs()
        for _ in range(_ITERATIONS):
            if bool((size <= enough).all()):
                break
            along = applied(direction)
            step = size / dot(direction, along).clamp_min(1e-30)
            found = found + step * direction
            rest = rest - step * along
            better = ifft2(q * fft2(rest), self.side)
            next_size = dot(rest, better)
            direction = better + next_size / size.clamp_min(1e-30) * direction
            size = next_size
        return found


def _folds(transfer: torch.Tensor) -> bool:
    """True where a doubled sampling has light beyond the data's band."""
    side = transfer.shape[-2]
    beyond = transfer.abs().clone()
    quarter = side // 4
    beyond[..., :quarter, :quarter] = 0
    beyond[..., -quarter + 1 :, :quarter] = 0
    return bool(beyond.max() > 1e-3 * transfer.abs().max())


def psf_transfer(psf: PSF, side: int, oversampling: int) -> np.ndarray:
    """H on the half plane of a grid, complex128 (G, G // 2 + 1); without the factor s².

    Parameters
    ----------
    psf : PSF
        Any oversampling, with or without the (data) pixel.
    side : int
        G, output pixels.
    oversampling : int
        Output pixels per data pixel.
    """
    ky = 2 * np.pi * np.fft.fftfreq(side)
    kx = 2 * np.pi * np.fft.rfftfreq(side)
    seen = _transform(psf, ky, kx, oversampling)
    target = target_transfer(torch.from_numpy(ky)[:, None], torch.from_numpy(kx)[None, :]).numpy()
    ratio = seen / target
    size = np.abs(ratio)
    ratio *= np.minimum(1.0, TRANSFER_LIMIT / np.maximum(size, 1e-30))
    if oversampling > 1:
        shift = 0.5 * (oversampling - 1)
        ratio = ratio * np.exp(1j * shift * (ky[:, None] + kx[None, :]))
        ratio[side // 2] = 0  # the border of the band cannot be shifted
        ratio[:, -1] = 0
    return ratio


def _transform(psf: PSF, ky: np.ndarray, kx: np.ndarray, oversampling: int) -> np.ndarray:
    """Fourier transform of the band-limited function through a PSF's pixels."""
    scale = oversampling / psf.oversampling
    height, width = psf.data.shape
    rows = np.exp(-1j * scale * np.outer(ky, np.arange(height) - (height - 1) / 2))
    columns = np.exp(-1j * scale * np.outer(np.arange(width) - (width - 1) / 2, kx))
    seen = rows @ psf.data.astype(np.float64) @ columns
    limit = np.pi * (1 + 1e-9)
    seen[np.abs(scale * ky) > limit] = 0
    seen[:, np.abs(scale * kx) > limit] = 0
    if not psf.has_pixel:
        pixel = oversampling / (2 * np.pi)
        seen *= np.sinc(pixel * ky)[:, None] * np.sinc(pixel * kx)[None, :]
    return seen


def grid_side(stamps: Sequence[Stamp], oversampling: int, padding: int | None = None) -> int:
    """Output pixels of a grid that holds the stamps, a multiple of 8 per data pixel.

    Parameters
    ----------
    stamps : sequence of Stamp
    oversampling : int
    padding : int, optional
        Data pixels around the stamp; None: twice the FWHM of the widest PSF, and what the
        targets are off the stamps' middle.
    """
    largest = max(max(stamp.shape) for stamp in stamps)
    if padding is None:
        padding = math.ceil(max(psf_fwhm(stamp.psf) for stamp in stamps))
    off = max(
        abs(at - (n - 1) / 2)
        for stamp in stamps
        for at, n in zip(stamp.position, stamp.shape[::-1], strict=True)
    )
    reach = largest + 2 * padding + 2 * max(0, math.ceil(off - 0.5))
    return max(32, 8 * math.ceil(reach * oversampling / 8))


def observe(
    stamps: Sequence[Stamp],
    *,
    oversampling: int = 1,
    padding: int | None = None,
    side: int | None = None,
    sky: float | Sequence[float] = 0.0,
    device: torch.device | str = "cpu",
) -> Observation:
    """The operator and the data of some stamps.

    Parameters
    ----------
    stamps : sequence of Stamp
        Of one shape.
    oversampling : {1, 2}
        Output pixels per data pixel.
    padding : int, optional
        See `grid_side`.
    side : int, optional
        Output pixels of the grid, instead.
    sky : float or sequence of float
        Level that is subtracted, image units per pixel.
    device : torch.device or str

    Raises
    ------
    InputError
        Of one stamp: NaN, no noise, a PSF that is not normalised or not centred, a stamp too small.
    SettingsError
        Of the call.
    """
    if not stamps:
        raise SettingsError("no stamps to deconvolve", "give at least one")
    if oversampling not in (1, 2):
        raise SettingsError(f"oversampling {oversampling}", "1 or 2")
    shapes = {stamp.shape for stamp in stamps}
    if len(shapes) > 1:
        raise SettingsError(f"stamps of different shapes {sorted(shapes)}", "give one shape a call")
    (shape,) = shapes
    for stamp in stamps:
        check_stamp(stamp, oversampling)
    side = grid_side(stamps, oversampling, padding) if side is None else side
    if side > LARGEST:
        raise InputError(
            f"{stamps[0].id}: {side} output pixels a side, at most {LARGEST} can be deconvolved",
            "cut the stamp out around the galaxy, or use oversampling 1",
        )
    g = side // oversampling
    if side % 8 or side % oversampling or g < max(shape):
        raise SettingsError(
            f"a grid of {side} output pixels for stamps of {shape}",
            f"a multiple of 8, at least {max(shape) * oversampling}",
        )
    levels = np.broadcast_to(np.asarray(sky, dtype=float), len(stamps))
    data = np.zeros((len(stamps), 1, g, g), np.float32)
    weight = np.zeros_like(data)
    transfer = np.zeros((len(stamps), 1, side, side // 2 + 1), np.complex64)
    noise, corner = np.zeros(len(stamps)), np.zeros((len(stamps), 2), int)
    for i, (stamp, level) in enumerate(zip(stamps, levels, strict=True)):
        usable = ~stamp.mask
        inverse = np.where(usable, 1.0 / np.square(stamp.sigma, dtype=np.float64), 0.0)
        noise[i] = 1 / math.sqrt(inverse[usable].mean())
        x, y = stamp.position
        corner[i] = [
            min(max(round((g - 1) / 2 - at), 0), g - n) for at, n in zip((y, x), shape, strict=True)
        ]
        box = (
            slice(corner[i, 0], corner[i, 0] + shape[0]),
            slice(corner[i, 1], corner[i, 1] + shape[1]),
        )
        data[i, 0][box] = np.where(usable, (stamp.data - level) / noise[i], 0)
        weight[i, 0][box] = inverse * noise[i] ** 2
        transfer[i, 0] = psf_transfer(stamp.psf, side, oversampling) * oversampling**2
    known = [stamp.noise_correlation for stamp in stamps]
    colour = None
    if any(one is not None for one in known):
        colour = torch.stack([noise_power(one, g) for one in known])[:, None].to(device)
    return Observation(
        data=torch.from_numpy(data).to(device),
        weight=torch.from_numpy(weight).to(device),
        transfer=torch.from_numpy(transfer).to(device),
        oversampling=oversampling,
        noise=noise,
        corner=corner,
        shape=shape,
        colour=colour,
    )


def noise_power(correlation: np.ndarray | None, side: int) -> torch.Tensor:
    """S(k) of a correlation (2 L + 1, 2 L + 1) on a grid, (side, side), float32, mean 1."""
    if correlation is None:
        return torch.ones(side, side)
    given = np.asarray(correlation, dtype=np.float64)
    lag = len(given) // 2
    if given.shape != (2 * lag + 1, 2 * lag + 1) or not np.isfinite(given).all() or 2 * lag >= side:
        raise InputError(
            f"a noise correlation of shape {given.shape}",
            "give finite values at lags from -L to L in both directions, 1 in the middle",
        )
    # A triangle in each direction keeps the power of a cut-off correlation from ringing.
    fall = 1 - np.abs(np.arange(-lag, lag + 1)) / (lag + 1)
    grid = np.zeros((side, side))
    index = np.arange(-lag, lag + 1) % side
    grid[np.ix_(index, index)] = given * np.sqrt(np.outer(fall, fall))
    power = np.maximum(np.fft.fft2(grid).real / given[lag, lag], LEAST_POWER)
    return torch.from_numpy((power / power.mean()).astype(np.float32))
