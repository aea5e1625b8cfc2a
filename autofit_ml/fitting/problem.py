r"""The objective of a batch of objects with scenes over one or several images.

.. math:: \chi^2 = \sum_i \sum_p \rho\Big(\frac{d_{ip} - m_{ip}(\theta)}{\sigma_{ip}}\Big)
          + \sum_e r_e(\theta)^2

with the images i, their pixels p, and residuals :math:`r_e` of the model's own priors and smooth
constraints; and :math:`(\theta - \mu)^T P (\theta - \mu)` of a Gaussian prior.
The model of an image is the sum of its components (`autofit_ml.rendering`), its background,
and, where the PSF is fitted along, a linear combination of derivatives of the PSF.

A component's parameters are those of the object in the frame of its first image; a local affine map
carries positions, sizes and directions to the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from autofit_ml.fitting.extras import Extras
from autofit_ml.fitting.levenberg_marquardt import Evaluate, Evaluation
from autofit_ml.fitting.likelihoods import Likelihood, PixelTerms
from autofit_ml.fitting.pixels import ImageData, normal_equations, pixel_sum, placed
from autofit_ml.fitting.priors import GaussianPrior
from autofit_ml.profiles import Profile
from autofit_ml.rendering import FourierPlan, Shared, component_channels, render_component
from autofit_ml.scenes.layout import Layout

__all__ = ["SceneProblem", "chunk_of"]

_CHUNK_ELEMENTS = 16 * 6656 * 14
"""Complex numbers of one chunk's spectra: enough to hide the cost of a call, few enough to stay
near the cache (docs/performance.md)."""


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
        The scene's own priors and constraints.
    prior : GaussianPrior
        Of theta, beside these.
    chunk : int
        Objects per evaluation.
    only : int or None
        The one image that `evaluate` looks at; None: all.
    """

    layout: Layout
    images: tuple[ImageData, ...]
    base: torch.Tensor
    likelihood: Likelihood
    extras: Extras
    prior: GaussianPrior
    chunk: int
    only: int | None = None

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
            self.prior.select(index),
            self.chunk,
            self.only,
        )

    @classmethod
    def join(cls, parts: Sequence[SceneProblem]) -> SceneProblem:
        """Problems of one layout as one, in order."""
        first = parts[0]
        images = tuple(
            ImageData.join([part.images[i] for part in parts]) for i in range(len(first.images))
        )
        base = torch.cat([part.base for part in parts])
        prior = GaussianPrior.join([part.prior for part in parts])
        return dataclasses.replace(first, images=images, base=base, prior=prior)

    def evaluator(self, owner: torch.Tensor) -> Evaluate:
        """`evaluate` for problems that share objects: problem i is object ``owner[i]``."""
        return lambda index, theta: self.evaluate(owner[index], theta)

    def evaluate(self, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
        """chi2, gradient and matrix of the objects `index` (A,) at `theta` (A, D).

        `light`: derivatives of each component's light in the first image by theta, (A, C D).
        """
        parts = []
        for first in range(0, len(index), self.chunk):
            some = slice(first, first + self.chunk)
            parts.append(self._evaluate_chunk(index[some], theta[some]))
        return Evaluation.join(parts)

    def measure(self, index: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """chi2 alone of the objects `index` (A,) at `theta` (A, D), float64, (A,).

        A fifth of the cost of `evaluate`.
        """
        parts = []
        for first in range(0, len(index), 2 * self.chunk):
            some = slice(first, first + 2 * self.chunk)
            chi2 = self.beyond_pixels(index[some], theta[some])[0]
            shared = self.shared()
            for i in range(len(self.images)):
                parts_of = self.component_images(index[some], theta[some], i, shared=shared)
                model = sum(parts_of)
                model = model + self.sky_image(index[some], theta[some], i)
                terms = self.pixel_terms(index[some], i, model)
                chi2 = chi2 + pixel_sum(terms.rho.to(torch.float64))
            parts.append(chi2)
        return torch.cat(parts)

    def log_density(
        self, index: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ln posterior up to a constant (A,) and its gradient (A, D), for samplers."""
        state = self.evaluate(index, theta)
        prior, slope = self.extras.measure(self.layout, theta, self.base[index])
        prior = prior + self.prior.select(index).log_normaliser
        return -0.5 * state.chi2 + prior, state.gradient + slope

    def component_images(
        self,
        index: torch.Tensor,
        theta: torch.Tensor,
        image: int,
        psf: torch.Tensor | None = None,
        shared: Shared | None = None,
    ) -> list[torch.Tensor]:
        """Each component's light in an image, (A, ny, nx), units of `scale`.

        Seen through the image's own PSF, or through other modes (A, n_modes). `shared`: what the
        images of these objects have in common.
        """
        local, _ = self._local(index, theta, image)
        psf = self.psf_of(index, theta, image) if psf is None else psf
        out: list[torch.Tensor] = [psf] * len(self.layout.spans)
        with torch.no_grad():
            for profile, members in self.layout.profiles:
                images, _ = self._drawn(index, local, psf, image, profile, members, False, shared)
                for k, member in enumerate(members):
                    out[member] = images[k :: len(members), 0]
        return out

    def sky_image(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        """Background beyond the pedestal, (A, ny, nx), units of `scale`."""
        data = self.images[image]
        terms = self._sky(index, theta, image)
        return _summed(terms.to(data.data.dtype), data.background)

    def design(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        """Derivatives of an image by theta, (A, D, ny, nx)."""
        blocks, jacobian = self.channels(index, theta, image)
        channels = torch.cat(blocks, 1)
        return torch.einsum("apyx,apd->adyx", channels, jacobian.to(channels.dtype))

    def pixel_terms(self, index: torch.Tensor, image: int, model: torch.Tensor) -> PixelTerms:
        """Likelihood terms of a model (A, ny, nx) of an image, background included."""
        data = self.images[image]
        return self.likelihood.terms(
            data.data[index], model, data.root_weight[index], self._electrons(image, index)
        )

    def brightest(self, theta: torch.Tensor) -> torch.Tensor:
        """Image in which the first component is brightest beside its noise, at theta (B, D)."""
        columns = [self.layout.own_fluxes(i)[0][1] for i in range(len(self.images))]
        noise = torch.stack([image.scale.log() for image in self.images], 1)
        empty = torch.stack([~image.root_weight.any(2).any(1) for image in self.images], 1)
        return (theta[:, columns] - noise).masked_fill(empty, -torch.inf).argmax(1)

    def light_of(self, blocks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each component's light, (A, ny, nx), from the `channels` of an image."""
        return [
            block[:, span.component.profile.parameters.index("flux")]
            for block, span in zip(blocks, self.layout.spans, strict=False)
        ]

    # ------------------------------------------------------------------ pieces

    def _local(
        self, index: torch.Tensor, theta: torch.Tensor, image: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters as the renderer takes them, scaled, and their derivatives by theta."""
        full, jacobian = self.layout.parameters(theta, self.base[index], image)
        data, maps = self.images[image], self._maps[image]
        if maps is None:
            full = full.clone()
        else:
            turn, shift = (part[index] for part in maps)
            full, jacobian = placed(full, turn, shift), turn @ jacobian
        for span in self.layout.spans:
            full[:, span.index("flux")] -= data.scale[index].log()
        return full, jacobian

    @cached_property
    def _maps(self) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """`Placement.linear` of all components in each image."""
        every = [(span.first, span.parameters) for span in self.layout.spans]
        maps = [image.placement for image in self.images]
        return [None if one is None else one.linear(every, self.layout.n_full) for one in maps]

    def psf_of(self, index: torch.Tensor, theta: torch.Tensor, image: int) -> torch.Tensor:
        """Modes of the PSF of an image, with its fitted changes, (A, n_modes)."""
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

    def _electrons(self, image: int, index: torch.Tensor) -> torch.Tensor | None:
        data = self.images[image]
        return None if data.electrons is None else data.electrons[index].to(data.data.dtype)

    def shared(self) -> Shared | None:
        """A fresh place for what the images have in common, where there are several.

        On a GPU there is none: to compare geometries the host would have to wait.
        """
        return {} if len(self.images) > 1 and self.base.device.type == "cpu" else None

    def channels(
        self,
        index: torch.Tensor,
        theta: torch.Tensor,
        image: int,
        shared: Shared | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Images that span the derivatives, P in all, and what combines them, (A, P, D).

        One block (A, p, ny, nx) for each component (`component_channels`), then the background's
        terms and the PSF's parameters. The derivative of the image by theta_d is the sum of the P
        images times ``jacobian[:, :, d]``.
        """
        data, layout = self.images[image], self.layout
        local, by_theta = self._local(index, theta, image)
        psf = self.psf_of(index, theta, image)
        a, f, sky = len(theta), layout.n_full, layout.sky_terms
        n_psf = layout.n_psf[image] if layout.n_psf else 0
        whole = theta.new_zeros((a, f + sky + n_psf, theta.shape[1]))
        whole[:, :f, : layout.n_shape] = by_theta
        blocks: list[torch.Tensor] = [data.data] * len(layout.spans)
        for profile, members in layout.profiles:
            spans = [layout.spans[k] for k in members]
            images, mixing = self._drawn(index, local, psf, image, profile, members, True, shared)
            for k, (member, span) in enumerate(zip(members, spans, strict=True)):
                blocks[member] = images[k :: len(members)]
                if mixing is not None:
                    part = whole[:, span.slice, : layout.n_shape]
                    whole[:, span.slice, : layout.n_shape] = mixing[k :: len(members)] @ part
        if sky:
            background = data.background[:sky]
            blocks.append(background.expand(a, *background.shape))
            terms = torch.arange(sky, device=theta.device)
            whole[:, f + terms, layout.sky_slice(image).start + terms] = 1.0
        if n_psf and data.psf_basis is not None:
            basis = data.psf_basis[index]
            for k in range(n_psf):
                change = torch.stack(self.component_images(index, theta, image, basis[:, k])).sum(0)
                blocks.append(change[:, None])
                whole[:, f + sky + k, layout.psf_slice(image).start + k] = 1.0
        return blocks, whole

    def _drawn(
        self,
        index: torch.Tensor,
        local: torch.Tensor,
        psf: torch.Tensor,
        image: int,
        profile: Profile,
        members: Sequence[int],
        derivatives: bool,
        shared: Shared | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Components of one profile: a row for each object (A) and each of the k members.

        Channels (A k, P, ny, nx) and mixing (A k, P, P) as of `component_channels`; without
        derivatives the image alone.
        """
        data, k = self.images[image], len(members)
        parameters = torch.stack([local[:, self.layout.spans[m].slice] for m in members], 1)
        parameters = parameters.flatten(0, 1)
        draw = component_channels if derivatives else _component_alone
        if data.patches is None:
            several = psf.repeat_interleave(k, 0) if k > 1 else psf
            return draw(data.plan, profile, several, parameters, shared)
        owner = index.repeat_interleave(k)
        chosen = list(members)
        side = data.patches.size[index][:, chosen].flatten()
        corner = data.patches.corner[index][:, chosen].flatten(0, 1)
        out: list[torch.Tensor] = []
        for size, (plan, modes) in [(0, (data.plan, data.psf)), *data.patches.plans.items()]:
            rows = (side == size).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            some = parameters[rows]
            some[:, :2] -= corner[rows]
            images, mixing = draw(plan, profile, modes[owner[rows]], some)
            if not out:
                shape = (len(owner), images.shape[1], *data.plan.shape)
                out = [images.new_zeros(shape)]
                if mixing is not None:
                    out.append(mixing.new_empty((len(owner), *mixing.shape[1:])))
            if mixing is not None:
                out[1][rows] = mixing
            if size == 0:
                out[0][rows] = images
                continue
            pixels = torch.arange(size, device=rows.device)
            x, y = corner[rows, 0, None] + pixels, corner[rows, 1, None] + pixels
            channel = torch.arange(images.shape[1], device=rows.device)
            row = rows[:, None, None, None]
            out[0][row, channel[:, None, None], y[:, None, :, None], x[:, None, None, :]] = images
        return out[0], out[1] if len(out) > 1 else None

    def beyond_pixels(
        self, index: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """chi2 (A,), gradient (A, D) and matrix (A, D, D) of priors and constraints."""
        residual, by_theta = self.extras.evaluate(self.layout, theta, self.base[index])
        chi2 = residual.square().sum(1)
        gradient = -(by_theta.transpose(1, 2) @ residual[..., None])[..., 0]
        matrix = by_theta.transpose(1, 2) @ by_theta
        prior = self.prior.select(index)
        share, pull = prior.pull(theta)
        return chi2 + share.sum(1), gradient + pull, matrix + prior.precision

    def _evaluate_chunk(self, index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chi2, gradient, matrix = self.beyond_pixels(index, theta)
        shared = self.shared()
        light = theta.new_zeros((len(theta), 0))
        layout = self.layout
        for i in range(len(self.images)) if self.only is None else (self.only,):
            blocks, jacobian = self.channels(index, theta, i, shared)
            model, *others = self.light_of(blocks)
            for one in others:
                model = model + one
            if layout.sky_terms:
                model = model + self.sky_image(index, theta, i)
            terms = self.pixel_terms(index, i, model)
            if i == 0:
                sums = [pixel_sum(block).to(torch.float64) for block in blocks]
                light = torch.cat(
                    [
                        (part[..., None] * jacobian[:, span.slice]).sum(1)
                        for part, span in zip(sums, layout.spans, strict=False)
                    ],
                    1,
                )
            share, slope, curvature = normal_equations(blocks, terms, jacobian)
            chi2, gradient, matrix = chi2 + share, gradient + slope, matrix + curvature
        return chi2, gradient, matrix, light


def _component_alone(
    plan: FourierPlan,
    profile: Profile,
    psf: torch.Tensor,
    parameters: torch.Tensor,
    shared: Shared | None = None,
) -> tuple[torch.Tensor, None]:
    return render_component(plan, profile, psf, parameters, shared)[:, None], None


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
