r"""Hankel transforms on logarithmic grids (FFTLog), in PyTorch, for batches.

With :math:`x = \ln r`, :math:`y = \ln k` and :math:`a(x) = r^2 I(r)` the transform of order m is a
convolution,

.. math:: H_m(y) = \int I(r)\, J_m(k r)\, r\, dr = \int a(x)\, J_m(e^{x+y})\, dx,

which a Fourier transform in x turns into a product with the Mellin transform of the Bessel function
(Talman 1978, J. Comput. Phys. 29, 35; Hamilton 2000, MNRAS 312, 257, appendix B):

.. math:: M_m(s) = \int e^{s z} J_m(e^z)\, dz = 2^{s-1}\,
          \frac{\Gamma[(m+s)/2]}{\Gamma[1+(m-s)/2]}, \qquad s = \sigma + i\omega .

The bias :math:`\sigma` makes both factors decay towards the ends of their grids. Shifting the
result along y (a change of the unit of length) and differentiating it are products too.

**Sharp edges.** A profile that ends at r = 1 is not band-limited in x. It is cut by a smooth weight
into an inner part, sampled on the grid, and an outer part, which is integrated by Gauss-Legendre
nodes that crowd at the edge and enter the same spectrum through their exact phases.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy import special

from autofit_ml.profiles.products import row_products

__all__ = ["LogGrid", "smooth_grid", "truncated_grid"]

_EDGE, _EDGE_NODES = 0.25, 80
"""Width of the outer part of a truncated profile in ln r, and its nodes. The half-light radius of
anything that does not brighten outwards lies inside it: at most ln(1/sqrt(2)) = -0.35."""


_KEPT = 0.75
"""Share of the frequencies in ln kappa that is kept (half of them at this one)."""


@dataclass(frozen=True)
class LogGrid:
    """Logarithmic grids on which profiles are sampled and their transforms wanted.

    Attributes
    ----------
    n : int
        Length of the FFT.
    sampled : int
        Points in ln r at which profiles are sampled; beyond them they count as zero.
    step : float
        Of ln r and of ln kappa.
    x0 : float
        First ln r.
    y0 : float
        First ln kappa.
    n_kappa : int
        Intervals of ln kappa that are kept.
    truncated : bool
        The profile ends at r = 1.
    bias : float
        sigma above.
    """

    n: int
    sampled: int
    step: float
    x0: float
    y0: float
    n_kappa: int
    truncated: bool = False
    bias: float = 0.6

    @cached_property
    def log_r(self) -> np.ndarray:
        """Sampling points in ln r: the grid, then (for truncated profiles) the edge's nodes."""
        grid = self.x0 + self.step * np.arange(self.sampled)
        return np.concatenate([grid, self._edge_nodes[0]])

    @cached_property
    def weight(self) -> np.ndarray:
        """Weights of the integral over ln r at the same points."""
        grid = np.full(self.sampled, self.step)
        if self.truncated:
            grid *= _inner_weight(self.log_r[: self.sampled])
        return np.concatenate([grid, self._edge_nodes[1]])

    @cached_property
    def omega(self) -> np.ndarray:
        """Angular frequencies of the spectra, (n / 2 + 1,)."""
        return 2 * np.pi * np.arange(self.n // 2 + 1) / (self.n * self.step)

    @cached_property
    def _edge_nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights of the outer part; its brightness may go like (1 - r)^alpha."""
        if not self.truncated:
            return np.empty(0), np.empty(0)
        t, w = np.polynomial.legendre.leggauss(_EDGE_NODES)
        t, w = (t + 1) / 2, w / 2
        x = -_EDGE * t**2
        return x, w * 2 * _EDGE * t * (1 - _inner_weight(x))

    def on(self, device: torch.device) -> "_Constants":
        """The grid's constants as tensors."""
        return _constants(self, torch.device(device))

    def integral(self, a: torch.Tensor) -> torch.Tensor:
        """Integral of a(x) (..., points of `log_r`) over ln r.

        Beyond the grid a(x) goes on as the power law of its last two points.
        """
        total = (a * self.on(a.device).weight).sum(-1)
        for last, before in self._ends:
            total = total + self.step * _geometric(a[..., last], a[..., before])[0]
        return total

    def integral_derivative(self, a: torch.Tensor, da: torch.Tensor) -> torch.Tensor:
        """Change of `integral` at a(x) with a change `da` of it."""
        total = (da * self.on(a.device).weight).sum(-1)
        for last, before in self._ends:
            _, by_last, by_before = _geometric(a[..., last], a[..., before])
            total = total + self.step * (by_last * da[..., last] + by_before * da[..., before])
        return total

    @property
    def _ends(self) -> tuple[tuple[int, int], ...]:
        """Last and last but one point at each open end of the grid."""
        return ((0, 1),) if self.truncated else ((0, 1), (self.sampled - 1, self.sampled - 2))

    def spectrum(self, a: torch.Tensor) -> torch.Tensor:
        """Fourier transform of the biased samples a(x) (..., points): complex (..., n / 2 + 1)."""
        constants = self.on(a.device)
        if not a.numel():  # of no shape parameters
            return a.new_empty((*a.shape[:-1], len(constants.omega)), dtype=torch.complex128)
        biased = a * constants.biased_weight
        result = torch.fft.rfft(biased[..., : self.sampled], n=self.n)
        if self.truncated:
            outer = biased[..., self.sampled :].reshape(-1, _EDGE_NODES)
            sums = row_products(outer, constants.edge_phase).view(*result.shape, 2)
            result = result + torch.view_as_complex(sums)
        return result

    def transform(
        self, spectra: torch.Tensor, log_scale: torch.Tensor, orders: tuple[int, ...] = (0,)
    ) -> torch.Tensor:
        """H_m at ln k = ln kappa - log_scale, on the grid of ln kappa.

        Parameters
        ----------
        spectra : Tensor, complex, (..., n / 2 + 1)
            Of `spectrum`, or products of it with powers of ``bias + i omega`` (each is one
            derivative with respect to `log_scale`).
        log_scale : Tensor, (...)
            Logarithm of the unit of length in which kappa is meant; 1 along axes that share it.
        orders : tuple of int
            m, along the last but one axis of `spectra`; one serves all.

        Returns
        -------
        Tensor, (..., n_kappa + 1)
        """
        constants = self.on(spectra.device)
        turn = torch.polar(
            torch.ones((), dtype=log_scale.dtype, device=log_scale.device),
            log_scale[..., None] * constants.omega,
        )
        product = spectra * (_kernels(self, spectra.device, orders) * turn)
        g = torch.fft.irfft(product.conj(), n=self.n)[..., : self.n_kappa + 1]
        return g * constants.unbias * (self.bias * log_scale)[..., None].exp()


@dataclass(frozen=True)
class _Constants:
    """A grid's constants on one device, float64."""

    r: torch.Tensor
    weight: torch.Tensor
    biased_weight: torch.Tensor
    edge_phase: torch.Tensor
    omega: torch.Tensor
    unbias: torch.Tensor


@lru_cache(maxsize=64)
def _constants(grid: LogGrid, device: torch.device) -> _Constants:
    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=device)

    weight = grid.weight
    x, y = grid.log_r, grid.y0 + grid.step * np.arange(grid.n_kappa + 1)
    phase = np.exp(-1j * np.outer(x[grid.sampled :] - grid.x0, grid.omega))
    both = np.stack([phase.real, phase.imag], axis=-1).reshape(-1, 2 * len(grid.omega))
    return _Constants(
        tensor(np.exp(x)),
        tensor(weight),
        tensor(weight * np.exp(-grid.bias * x)),
        tensor(both),
        tensor(grid.omega),
        tensor(np.exp(-grid.bias * y) / grid.step),
    )


@lru_cache(maxsize=64)
def _kernels(grid: LogGrid, device: torch.device, orders: tuple[int, ...]) -> torch.Tensor:
    """M_m times the phase of the grids' origins, complex (orders, n / 2 + 1)."""
    s = grid.bias + 1j * grid.omega
    order = np.array(orders)[:, None]
    log_m = (
        (s - 1) * np.log(2.0)
        + special.loggamma((order + s) / 2)
        - special.loggamma(1 + (order - s) / 2)
        - 1j * grid.omega * (grid.x0 + grid.y0)
    )
    # A smooth end: what oscillates faster than the grid can show would ring everywhere.
    share = grid.omega / grid.omega[-1]
    end = 0.5 * special.erfc((share - _KEPT) / (1 - _KEPT) * 5.8)
    return torch.as_tensor(np.exp(log_m) * end, device=device)


def smooth_grid() -> LogGrid:
    """Grid for profiles without an edge: r from 4e-11 to 6e5, kappa from 1e-4 to 1e5.

    Between the far ends of ln r + ln kappa lies more than the FFT's period only where the kernel
    has been cut off (`_KEPT`); a lower kappa would see light that comes round from the other end.
    """
    return LogGrid(640, 600, 0.0625, -24.0, float(np.log(1e-4)), 332)


def truncated_grid() -> LogGrid:
    """Grid for profiles that end at r = 1; its finer step resolves the transform's oscillations."""
    return LogGrid(4096, 1800, 0.01, -18.0, -7.0, 1500, truncated=True)


def _inner_weight(x: np.ndarray) -> np.ndarray:
    """Smooth weight in ln r: 1 well inside, 0 at the edge (to 1e-16 at both ends of the outer
    part)."""
    return 0.5 * special.erfc((x + _EDGE / 2) / (_EDGE / 2) * 5.8)


def _geometric(
    last: torch.Tensor, before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of all further terms of the geometric series ..., before, last; and its derivatives by
    both."""
    falls = (last > 0) & (last < before)
    zero = torch.zeros_like(last)
    ratio = torch.where(falls, last / torch.where(falls, before, torch.ones_like(before)), zero)
    rest = ratio / (1 - ratio)  # of last / (before - last)
    return last * rest, rest * (2 + rest), -rest * rest
