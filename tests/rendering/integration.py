"""Brightness of PSF-convolved profiles by plain quadrature in real space, pixel by pixel.

Shares nothing with the renderer but the formula of the brightness: the flux, the half-light radius
and the convolution with a Gaussian are integrals over ln r and the angle, done here by themselves.
"""

import numpy as np
import torch
from scipy.integrate import simpson
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

FAR = 40.0
"""ln r of the end of the integrals of profiles without an edge: a tail r^-0.5 is then 2e-9."""


def nodes(truncated, n=2000):
    """ln r and weights for integrals over ln r: trapezoids, or Gauss-Legendre nodes up to an
    edge that is approached like a power."""
    if not truncated:
        x = np.linspace(-30.0, FAR, n)
        return x, np.full(n, x[1] - x[0])
    t, w = np.polynomial.legendre.leggauss(n // 2)
    low = -15 + 14.7 * (t + 1) / 2
    high = -0.3 * ((1 - t) / 2) ** 2
    return np.concatenate([low, high]), np.concatenate([14.7 / 2 * w, 0.3 * (1 - t) / 2 * w])


class Reference:
    """A component in real space.

    Parameters
    ----------
    profile : Profile
        Elliptical, modified, or of kind "pixel".
    values : dict
        Catalogue values of all parameters.
    """

    def __init__(self, profile, values):
        self.profile, self.values = profile, values
        self.shapes = [float(values[shape.name]) for shape in profile.shapes]
        own = len(profile.own_shapes)
        self.own, self.added = self.shapes[:own], self.shapes[own:]
        # pa counts from +y, counter-clockwise; the axes here are the major and the minor one.
        self.angle = np.deg2rad(values["pa"] + 90.0)
        self.x, self.weight = nodes(profile.truncated)
        half_turn, w = np.polynomial.legendre.leggauss(24)
        octant, w = np.pi / 4 * ((half_turn + 1) / 2) ** 2, np.pi / 4 * (half_turn + 1) / 2 * w
        quarter = np.concatenate([octant, np.pi / 2 - octant])
        self.phi = np.concatenate([quarter + k * np.pi / 2 for k in range(4)])
        self.phi_weight = np.tile(np.concatenate([w, w]), 4)
        self.unmodified_half = self._half(self._radial)
        self._normalise()

    def _light(self, *arguments):
        return self.profile.light(
            *(torch.as_tensor(np.asarray(a, dtype=np.float64)) for a in arguments)
        ).numpy()

    def _radial(self, log_r):
        if self.profile.kind == "pixel" and not self.profile.modifiers:
            light = self._light(
                np.exp(log_r)[:, None] * np.cos(self.phi), np.exp(log_r)[:, None] * np.sin(self.phi)
            )
            return light @ self.phi_weight / (2 * np.pi)
        return self._light(np.exp(log_r), *self.own)

    def _half(self, radial):
        """ln of the radius that holds half of the light."""
        mass = self.weight * np.exp(2 * self.x) * radial(self.x)
        total = mass.sum()

        def within(edge):
            x = np.linspace(-30.0, edge, 1501)
            return simpson(np.exp(2 * x) * radial(x), x=x) - total / 2

        return brentq(within, -10.0, -1e-9 if self.profile.truncated else 12.0, xtol=1e-9)

    def _stretch(self, log_r, phi, radial):
        """Delta of the scaling (or of the radial) modifiers, angles from the major axis."""
        total, column = np.zeros(np.broadcast_shapes(np.shape(log_r), np.shape(phi))), 0
        for modifier in self.profile.modifiers:
            values = self.added[column : column + len(modifier.shapes)]
            column += len(modifier.shapes)
            if modifier.radial != radial:
                continue
            if not modifier.aligned:  # a pair that turns with the axes
                turn = 2 * self.angle
                values = [
                    np.cos(turn) * values[0] + np.sin(turn) * values[1],
                    np.cos(turn) * values[1] - np.sin(turn) * values[0],
                ]
            at = (log_r - self.unmodified_half,) if radial else ()
            tensors = torch.broadcast_tensors(
                *(torch.as_tensor(np.asarray(a, dtype=np.float64)) for a in (*at, phi, *values))
            )
            total = total + modifier.stretch(*tensors).numpy()
        return total

    def _normalise(self):
        """Nodes over the plane in natural units (of the base circle), with the light at each."""
        if self.profile.kind == "pixel" and not self.profile.modifiers:
            scaling = np.zeros_like(self.phi)
            light = self._light(
                np.exp(self.x)[:, None] * np.cos(self.phi),
                np.exp(self.x)[:, None] * np.sin(self.phi),
            )
        else:
            scaling = self._stretch(0.0, self.phi, radial=False)
            turned = self._stretch(self.x[:, None], self.phi, radial=True)
            light = self._light(np.exp(self.x[:, None] + turned), *self.own)
        # Along the ray phi the node x of the stretched profile lies at x - scaling.
        self.log_r = self.x[:, None] - scaling
        measure = self.weight[:, None] * self.phi_weight * np.exp(2 * self.log_r)
        mass = measure * light
        self.mass = mass / mass.sum()
        if any(m.radial for m in self.profile.modifiers):
            angular = (light * np.exp(-2 * scaling)) @ self.phi_weight
            seen = angular > 0
            spline = CubicSpline(self.x[seen], np.log(angular[seen]))
            last = self.x[seen][-1]
            self.half = self._half(
                lambda x: np.where(x < last, np.exp(spline(np.minimum(x, last))), 0.0)
            )
        else:
            self.half = self.unmodified_half

    def __call__(self, x, y, sigma):
        """Light per unit area at the points (x, y) after convolution with a Gaussian."""
        v = self.values
        scale = np.exp(self.log_r - self.half) * v["re"]
        along, across = scale * np.cos(self.phi), scale * np.sin(self.phi) * v["q"]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        px, py = cos * along - sin * across, sin * along + cos * across
        near = scale < 1e4
        px, py, mass = px[near], py[near], self.mass[near]
        result = []
        for one, two in zip(x, y, strict=True):
            square = (one - v["x"] - px) ** 2 + (two - v["y"] - py) ** 2
            result.append((mass * np.exp(-square / (2 * sigma**2))).sum())
        return v["flux"] * np.array(result) / (2 * np.pi * sigma**2)
