r"""The objective of a batch of objects with scenes over one or several images.

.. math:: \chi^2 = \sum_i \sum_p \rho\Big(\frac{d_{ip} - m_{ip}(\theta)}{\sigma_{ip}}\Big)
          + \sum_e r_e(\theta)^2

with the images i, their pixels p, and residuals :math:`r_e` of the priors and smooth constraints.
The model of an image is the sum of its components (`autofit_ml.rendering`), its background,
and, where the PSF is fitted along, a linear combination of derivatives of the PSF.

A component's parameters are those of the object in the frame of its first image; a local affine map
carries positions, sizes and directions to the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluate, Evaluation
from autofit_ml.fitting.problem import pixel_sum
from autofit_ml.fitting.scenes.extras import Extras
from autofit_ml.fitting.scenes.likelihoods import Likelihood
from autofit_ml.rendering import FourierPlan, component_jacobian, render_component
from autofit_ml.scenes.layout import Layout, Span

__all__ = ["ImageData", "Placement", "SceneProblem", "chunk_of"]

_CHUNK_ELEMENTS = 16 * 6656 * 7
"""Complex numbers of one chunk's spectra, as in `autofit_ml.fitting.problem`."""


@dataclass(frozen=True)
class Placement:
    """Local affine map from the first image's pixels to another's, of B objects.

    Attributes
    ----------
    matrix : Tensor, float64, (B, 2, 2)
        d (x, y) here / d (x, y) there.
    offset : Tensor, float64, (B, 2)
        Position here of the first image's (0, 0).
    """

    matrix: torch.Tensor
    offset: torch.Tensor

    def select(self, index: torch.Tensor) -> Placement:
        """Of some objects."""
        return Placement(self.matrix[index], self.offset[index])

    def apply(self, full: torch.Tensor, spans: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters (A, F) here, and their derivatives by those there, (A, F, F).

        The map is taken as a similarity (rotation, mirror, one scale): shear of a few per cent is
        what the position takes, not the shape.
        """
        a, f = full.shape
        out = full.clone()
        turn = torch.eye(f, dtype=full.dtype, device=full.device).expand(a, f, f).clone()
        m = self.matrix
        determinant = m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]
        parity = torch.where(determinant < 0, -1.0, 1.0).to(m)
        # Direction of the first image's x axis here; a mirrored second axis changes eta2's sign.
        angle = torch.atan2(m[:, 1, 0] - parity * m[:, 0, 1], m[:, 0, 0] + parity * m[:, 1, 1])
        cos, sin = (2 * angle).cos(), (2 * angle).sin()
        for span in spans:
            names = span.component.profile.parameters
            if "x" not in names:
                continue
            i, j = span.index("x"), span.index("y")
            position = torch.stack([full[:, i], full[:, j]], 1)
            moved = (m @ position[..., None])[..., 0] + self.offset
            out[:, i], out[:, j] = moved[:, 0], moved[:, 1]
            turn[:, [[i], [j]], [[i, j]]] = m
            if "q" not in names:
                continue
            out[:, span.index("re")] = full[:, span.index("re")] + determinant.abs().log() / 2
            i, j = span.index("q"), span.index("pa")
            eta1, eta2 = full[:, i], parity * full[:, j]
            out[:, i], out[:, j] = cos * eta1 - sin * eta2, sin * eta1 + cos * eta2
            block = torch.stack([cos, -sin * parity, sin, cos * parity], 1).view(-1, 2, 2)
            turn[:, [[i], [j]], [[i, j]]] = block
        return out, turn


@dataclass(frozen=True)
class ImageData:
    """One image of each of B objects, all of one shape.

    Attributes
    ----------
    plan : FourierPlan
    psf : Tensor, complex, (B, n_modes)
    data, root_weight : Tensor, (B, ny, nx)
        Without the pedestal and in units of `scale`; 1/sigma, 0 where masked.
    scale, pedestal : Tensor, float64, (B,)
        Image units.
    sky_prior : Tensor, float64, (B, 2)
        Mean and precision (0: none) of the sky level, units of `scale`.
    placement : Placement or None
        None for the first image.
    psf_basis : Tensor, complex, (B, K, n_modes), or None
        Changes of the PSF by one standard deviation of each of its fitted parameters.
    electrons : Tensor, float64, (B,)
        Electrons per scaled unit; NaN if unknown.
    block : int
        Pixels are blocks of block x block image pixels, averaged; `scale` is then block^2 larger.
    """

    plan: FourierPlan
    psf: torch.Tensor
    data: torch.Tensor
    root_weight: torch.Tensor
    scale: torch.Tensor
    pedestal: torch.Tensor
    sky_prior: torch.Tensor
    placement: Placement | None = None
    psf_basis: torch.Tensor | None = None
    electrons: torch.Tensor | None = None
    block: int = 1

    def select(self, index: torch.Tensor) -> ImageData:
        """Of some objects."""
        return ImageData(
            self.plan,
            self.psf[index],
            self.data[index],
            self.root_weight[index],
            self.scale[index],
            self.pedestal[index],
            self.sky_prior[index],
            None if self.placement is None else self.placement.select(index),
            None if self.psf_basis is None else self.psf_basis[index],
            None if self.electrons is None else self.electrons[index],
            self.block,
        )

    @classmethod
    def join(cls, parts: Sequence[ImageData]) -> ImageData:
        """Images of one plan as one batch, in order."""

        def joined(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], Placement):
                matrices = torch.cat([value.matrix for value in values])
                return Placement(matrices, torch.cat([value.offset for value in values]))
            return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]

        names = [item.name for item in dataclasses.fields(cls)]
        return cls(**{name: joined(name) for name in names})

    def background(self) -> torch.Tensor:
        """1, x - xc, y - yc, (3, ny, nx), in image pixels about the stamp's centre."""
        ny, nx = self.plan.shape
        dtype, device = self.data.dtype, self.data.device
        x = (torch.arange(nx, dtype=dtype, device=device) - (nx - 1) / 2) * self.block
        y = (torch.arange(ny, dtype=dtype, device=device) - (ny - 1) / 2) * self.block
        one = torch.ones((ny, nx), dtype=dtype, device=device)
        return torch.stack([one, one * x, one * y[:, None]])


@dataclass(frozen=True)
class SceneProblem:
    """B objects with one layout.

    Attributes
    ----------
    layout : Layout
    images : tuple of ImageData
    base : Tensor, float64, (B, images, F)
        Starting coordinates; what is fixed keeps them.
    likelihood : Likelihood
    extras : Extras
        Priors and constraints.
    chunk : int
        Objects per evaluation.
    """

    layout: Layout
    images: tuple[ImageData, ...]
    base: torch.Tensor
    likelihood: Likelihood
    extras: Extras
    chunk: int

    def __len__(self) -> int:
        return len(self.base)

    def select(self, index: torch.Tensor) -> SceneProblem:
        """Some of the objects."""
        return SceneProblem(
            self.layout,
            tuple(image.select(index) for image in self.images),
            self.base[index],
            self.likelihood,
            self.extras,
            self.chunk,
        )

    @classmethod
    def join(cls, parts: Sequence[SceneProblem]) -> SceneProblem:
        """Problems of one layout as one, in order."""
        first = parts[0]
        images = tuple(
            ImageData.join([part.images[i] for part in parts]) for i in range(len(first.images))
        )
        base = torch.cat([part.base for part in parts])
        return dataclasses.replace(first, images=images, base=base)

    def evaluator(self, owner: torch.Tensor) -> Evaluate:
        """`evaluate` for problems that share objects: problem i is object ``owner[i]``."""
        return lambda index, theta: self.evaluate(owner[index], theta)

    def evaluate(self, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
        """The objects `index` (A,) at `theta` (A, D).

        `light`: derivatives of the first image's light by theta, (A, D).
        """
        parts = []
        for first in range(0, len(index), self.chunk):
            some = slice(first, first + self.chunk)
            parts.append(self._evaluate_chunk(index[some], theta[some]))
        return Evaluation.join(parts)

    def log_density(
        self, index: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ln posterior up to a constant (A,) and its gradient (A, D), for samplers."""
        state = self.evaluate(index, theta)
        prior, slope = self.extras.measure(self.layout, theta, self.base[index])
        return -0.5 * state.chi2 + prior, state.gradient + slope

    def component_images(
        self, index: torch.Tensor, theta: torch.Tensor, image: int
    ) -> list[torch.Tensor]:
        """Each component's light in an image, (A, ny, nx), units of `scale`."""
        with torch.no_grad():
            data = self.images[image]
            local, _ = self._local(index, theta, image)
            psf = self._psf(index, theta, image)
            return [
                render_component(data.plan, span.component.profile, psf, local[:, span.slice])
                for span in self.layout.spans
            ]

    def sky_image(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        """Background beyond the pedestal, (A, ny, nx), units of `scale`."""
        data = self.images[image]
        terms = self._sky(index, theta, image)
        return _summed(terms.to(data.data.dtype), data.background())

    def design(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        """Derivatives of an image by theta, (A, D, ny, nx)."""
        channels, jacobian, _ = self._channels(index, theta, image)
        return torch.einsum("apyx,apd->adyx", channels, jacobian.to(channels.dtype))

    def component_light(
        self, index: torch.Tensor, theta: torch.Tensor, image: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each component's light inside an image, (A, C), and its derivatives by theta, (A, C, D).

        In units of `scale`, float64.
        """
        channels, jacobian, _ = self._channels(index, theta, image)
        sums = pixel_sum(channels[:, : self.layout.n_full]).to(torch.float64)
        light = [sums[:, span.index("flux")] for span in self.layout.spans]
        slopes = [
            (sums[:, span.slice, None] * jacobian[:, span.slice]).sum(1)
            for span in self.layout.spans
        ]
        return torch.stack(light, 1), torch.stack(slopes, 1)

    # ------------------------------------------------------------------ pieces

    def _local(
        self, index: torch.Tensor, theta: torch.Tensor, image: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters as the renderer takes them, scaled, and their derivatives by theta."""
        full, jacobian = self.layout.parameters(theta, self.base[index], image)
        data = self.images[image]
        if data.placement is not None:
            full, turn = data.placement.select(index).apply(full, self.layout.spans)
            jacobian = turn @ jacobian
        full = full.clone()
        for span in self.layout.spans:
            full[:, span.index("flux")] -= data.scale[index].log()
        return full, jacobian

    def _psf(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        data = self.images[image]
        psf = data.psf[index]
        if data.psf_basis is None:
            return psf
        part = theta[:, self.layout.psf_slice(image)].to(psf.real.dtype)
        return psf + torch.einsum("ak,akm->am", part.to(psf.dtype), data.psf_basis[index])

    def _sky(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        """Background terms (A, 3), units of `scale`."""
        terms = theta.new_zeros((len(theta), 3))
        count = self.layout.sky_terms
        if count:
            terms[:, :count] = theta[:, self.layout.sky_slice(image)]
        return terms

    def _channels(
        self, index: torch.Tensor, theta: torch.Tensor, image: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Derivative images (A, P, ny, nx), theirs by theta (A, P, D), and the model (A, ny, nx).

        P: the components' parameters, the background's terms, the PSF's parameters.
        """
        data, layout = self.images[image], self.layout
        local, jacobian = self._local(index, theta, image)
        psf = self._psf(index, theta, image)
        parts, flux = [], []
        for span in layout.spans:
            profile = span.component.profile
            flux.append(span.index("flux"))
            parts.append(component_jacobian(data.plan, profile, psf, local[:, span.slice]))
        a, sky = len(theta), layout.sky_terms
        background = data.background()[:sky]
        parts.append(background.expand(a, *background.shape))
        n_psf = layout.n_psf[image] if layout.n_psf else 0
        if n_psf and data.psf_basis is not None:
            basis = data.psf_basis[index]
            with torch.no_grad():
                changes = [
                    sum(
                        render_component(
                            data.plan, span.component.profile, basis[:, k], local[:, span.slice]
                        )
                        for span in layout.spans
                    )
                    for k in range(n_psf)
                ]
            parts.append(torch.stack([torch.as_tensor(change) for change in changes], 1))
        channels = torch.cat(parts, 1)
        f = layout.n_full
        whole = theta.new_zeros((a, channels.shape[1], theta.shape[1]))
        whole[:, :f, : layout.n_shape] = jacobian
        eye = torch.eye(max(sky, n_psf, 1), dtype=theta.dtype, device=theta.device)
        whole[:, f : f + sky, layout.sky_slice(image)] = eye[:sky, :sky]
        whole[:, f + sky :, layout.psf_slice(image)] = eye[:n_psf, :n_psf]
        model = channels[:, flux].sum(1)
        if sky:
            terms = theta[:, layout.sky_slice(image)].to(model.dtype)
            model = model + _summed(terms, background)
        return channels, whole, model

    def _evaluate_chunk(self, index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        residual, by_theta = self.extras.evaluate(self.layout, theta, self.base[index])
        chi2 = residual.square().sum(1)
        gradient = -(by_theta.transpose(1, 2) @ residual[..., None])[..., 0]
        matrix = by_theta.transpose(1, 2) @ by_theta
        light = torch.zeros_like(theta)
        for i, data in enumerate(self.images):
            channels, jacobian, model = self._channels(index, theta, i)
            terms = self.likelihood.terms(
                data.data[index],
                model,
                data.root_weight[index],
                None if data.electrons is None else data.electrons[index].to(model.dtype),
            )
            root = terms.curvature.sqrt()
            a, p, ny, nx = channels.shape
            rows = torch.empty((a, p + 1, ny * nx), dtype=channels.dtype, device=channels.device)
            torch.mul(channels, root[:, None], out=rows[:, :p].view(a, p, ny, nx))
            rows[:, p] = (terms.score / root.clamp_min(1e-20)).flatten(1)
            gram = torch.bmm(rows, rows.transpose(1, 2)).to(torch.float64)
            chi2 = chi2 + pixel_sum(terms.rho.to(torch.float64))
            across = jacobian.transpose(1, 2)
            gradient = gradient + (across @ gram[:, :p, p:])[..., 0]
            matrix = matrix + across @ gram[:, :p, :p] @ jacobian
            sky = self.layout.sky_terms
            if sky:
                where = self.layout.sky_slice(i).start
                mean, precision = data.sky_prior[index].unbind(1)
                offset = mean - theta[:, where]
                chi2 = chi2 + precision * offset.square()
                gradient[:, where] += precision * offset
                matrix[:, where, where] += precision
            psf = self.layout.psf_slice(i)
            if psf.stop > psf.start:
                # Unit Gaussians: the basis is in standard deviations of the stars' own fit.
                part = theta[:, psf]
                chi2 = chi2 + part.square().sum(1)
                gradient[:, psf] -= part
                places = torch.arange(psf.start, psf.stop, device=theta.device)
                matrix[:, places, places] += 1.0
            if i == 0:
                f = self.layout.n_full
                sums = pixel_sum(channels[:, :f]).to(torch.float64)
                light = (across[:, :, :f] @ sums[..., None])[..., 0]
        return chi2, gradient, matrix, light


def _summed(terms: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Sums (A, ny, nx) of images (K, ny, nx) times terms (A, K).

    Term by term: a matrix product's last digits would depend on how many objects share it.
    """
    out = terms[:, 0, None, None] * images[0]
    for k in range(1, len(images)):
        out = out + terms[:, k, None, None] * images[k]
    return out


def chunk_of(layout: Layout, plans: Sequence[FourierPlan]) -> int:
    """Objects that are evaluated together."""
    largest = max(plan.n_modes for plan in plans)
    return max(1, min(128, _CHUNK_ELEMENTS // (max(7, layout.n_full) * largest)))
