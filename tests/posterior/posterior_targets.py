"""Densities with known answers, in the form that the samplers take."""

import math

import torch

INF = math.inf


def open_box(b, d):
    """No bounds, (B, D) each."""
    return torch.full((b, d), -INF, dtype=torch.float64), torch.full(
        (b, d), INF, dtype=torch.float64
    )


def equal_correlation(d, rho):
    """Correlation matrix (D, D) with rho everywhere off the diagonal."""
    return rho * torch.ones(d, d, dtype=torch.float64) + (1 - rho) * torch.eye(
        d, dtype=torch.float64
    )


def gaussian(mean, covariance):
    """Density of B Gaussians; every row's arithmetic is its own."""
    precision = torch.linalg.inv(covariance)

    def density(index, theta):
        pull = (precision[index] * (theta - mean[index])[:, None]).sum(-1)
        return -0.5 * (pull * (theta - mean[index])).sum(1), -pull

    return density


def by_autograd(log_density):
    """Density and gradient of a differentiable ln p(index, theta)."""

    def density(index, theta):
        theta = theta.detach().requires_grad_(True)
        value = log_density(index, theta)
        (gradient,) = torch.autograd.grad(value.sum(), theta)
        return value.detach(), gradient

    return density


def banana(bend, width):
    """x0 ~ N(0, 1); x1 given x0 ~ N(bend (x0^2 - 1), width^2); the others N(0, 1)."""

    def log_density(index, theta):
        x, y = theta[:, 0], theta[:, 1] - bend * (theta[:, 0] ** 2 - 1)
        return -0.5 * (x**2 + (y / width) ** 2 + theta[:, 2:].square().sum(1))

    return by_autograd(log_density)


class RadialProfile:
    """A Sérsic profile on a flat sky, measured in rings: ln F, ln re, ln n, sky.

    Small, faint, and with a sky that must be found in the outermost rings, its posterior is
    curved and runs into the bounds of n.
    """

    names = ("ln_flux", "ln_re", "ln_n", "sky")

    def __init__(self, snr, n, seed, re=3.0, rings=14):
        edges = torch.linspace(0, 14, rings + 1, dtype=torch.float64)
        self.radius = (edges[1:] + edges[:-1]) / 2
        self.sigma = (math.pi * (edges[1:] ** 2 - edges[:-1] ** 2)).rsqrt()
        shape = torch.tensor([0.0, math.log(re), math.log(n), 0.0], dtype=torch.float64)
        self.truth = shape.clone()
        unit = self.model(shape[None])[0]
        self.truth[0] = math.log(snr) - (unit / self.sigma).square().sum().sqrt().log()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(rings, generator=generator, dtype=torch.float64)
        self.data = self.model(self.truth[None])[0] + noise * self.sigma
        spread = torch.tensor([2.0, 1.5, 0.0, 0.3], dtype=torch.float64)
        self.lower, self.upper = self.truth - spread, self.truth + spread
        self.lower[2], self.upper[2] = math.log(0.3), math.log(8.0)

    def model(self, theta):
        ln_flux, ln_re, ln_n, sky = theta[:, :, None].unbind(1)
        n = ln_n.exp()
        b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)
        total = math.log(2 * math.pi) + ln_n + torch.lgamma(2 * n) - 2 * n * b.log() + 2 * ln_re
        ratio = (self.radius.square() + 0.25).sqrt() * (-ln_re).exp()
        return (ln_flux - total - b * ratio ** (1 / n)).exp() + sky

    def log_likelihood(self, theta):
        return -0.5 * ((self.data - self.model(theta)) / self.sigma).square().sum(1)

    def fit(self, steps=100):
        """Maximum inside the box, and the Laplace covariance there."""
        theta = ((self.lower + self.upper) / 2)[None]
        best, damping = self.log_likelihood(theta), 1.0
        for _ in range(steps):
            jacobian = torch.func.jacrev(lambda t: self.model(t[None])[0])(theta[0])
            weighted = jacobian / self.sigma[:, None]
            matrix = weighted.T @ weighted
            pull = weighted.T @ ((self.data - self.model(theta)[0]) / self.sigma)
            step = torch.linalg.solve(
                matrix + damping * torch.diag(matrix.diagonal() + 1e-6), pull
            ).clamp(-0.5, 0.5)
            trial = torch.maximum(torch.minimum(theta + step, self.upper), self.lower)
            value = self.log_likelihood(trial)
            if value > best:
                theta, best, damping = trial, value, damping / 3
            else:
                damping *= 4
        return theta[0], torch.linalg.pinv(matrix, rtol=1e-10)
