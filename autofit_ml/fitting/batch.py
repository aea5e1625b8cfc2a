"""Batches of objects that share a layout, and their data as tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from autofit_ml.fitting.extras import make_extras
from autofit_ml.fitting.geometry import padded_shape
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.fitting.objects import IDENTITY, SceneObject, scale_of
from autofit_ml.fitting.patches import light_beyond, patch_corners, patch_sizes, worth_patches
from autofit_ml.fitting.pixels import ImageData, PatchPlans, Placement
from autofit_ml.fitting.priors import make_prior
from autofit_ml.fitting.problem import SceneProblem, chunk_of
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import bin_images, psf_fwhm
from autofit_ml.rendering import Accuracy, FourierPlan, make_plan, psf_modes
from autofit_ml.scenes.layout import Layout

__all__ = ["Member", "SceneBatch", "bucket_key", "search_blocks"]


@dataclass(frozen=True)
class Member:
    """One object of a batch.

    Attributes
    ----------
    number : int
        Place in the caller's list.
    object : SceneObject
    start : ndarray, (8,)
    start_cov : ndarray, (8, 8)
        Covariance of the start in fit space; zeros where it is not known.
    neighbours : list of Neighbour
    masked : ndarray, bool
        Contaminants that stay masked, in the first image.
    psf_changes : tuple of (ndarray (K, h, w) or None), one for each image
        Changes of the PSF by one standard deviation of each of its parameters.
    """

    number: int
    object: SceneObject
    start: np.ndarray
    start_cov: np.ndarray
    neighbours: list[Neighbour]
    masked: np.ndarray
    psf_changes: tuple[np.ndarray | None, ...]

    @property
    def ln_n_sigma(self) -> float:
        """Error of the start's ln n; 0 if unknown."""
        return math.sqrt(max(float(self.start_cov[4, 4]), 0.0))

    @cached_property
    def fwhm(self) -> tuple[float, ...]:
        """FWHM of the PSF of each image, pixels."""
        return tuple(psf_fwhm(self.stamp(i).psf) for i in range(len(self.object.stamps)))

    @cached_property
    def psf_wings(self) -> tuple[np.ndarray, ...]:
        """`light_beyond` of the PSF of each image."""
        psfs = [self.stamp(i).psf for i in range(len(self.object.stamps))]
        return tuple(light_beyond(psf.data, psf.oversampling, max(psf.data.shape)) for psf in psfs)

    def stamp(self, image: int) -> Stamp:
        """An image, or the first in place of a missing one (which is masked as a whole)."""
        return self.object.stamps[image] or self.object.reference


def bucket_key(member: Member) -> tuple:
    """Key that all members of one batch share; depends on the member alone."""
    images = tuple(
        (padded_shape(stamp.shape), stamp.psf.data.shape, stamp.psf.oversampling)
        for stamp in (member.stamp(i) for i in range(len(member.object.stamps)))
    )
    kinds = tuple(item.profile for item in member.neighbours)
    basis = tuple(0 if c is None else len(c) for c in member.psf_changes)
    return images, kinds, basis, search_blocks(member)


def search_blocks(member: Member) -> tuple[int, ...]:
    """Block size of the search in each image: as coarse as all PSFs and the object allow."""
    finest = []
    for i, affine in enumerate(member.object.maps):
        stamp = member.stamp(i)
        re, q = member.start[3] * scale_of(affine), member.start[5]
        small = min(padded_shape(stamp.shape))
        largest = max(member.fwhm[i] / 1.4, 0.5 * re * math.sqrt(q))
        finest.append(next((f for f in (8, 4, 2) if f <= largest and small // f >= 16), 1))
    # One for all: objects of a batch have all of them in common, and batches should be large.
    return (min(finest),) * len(finest)


class SceneBatch:
    """The data of some members, and the problems that are made of them."""

    def __init__(
        self,
        members: Sequence[Member],
        layout: Layout,
        settings: RefineSettings,
        dtype: torch.dtype = torch.float32,
        images: Sequence[dict[str, torch.Tensor]] = (),
    ) -> None:
        self.members, self.layout, self.settings = list(members), layout, settings
        self.device, self.dtype = torch.device(settings.device), dtype
        self.base = torch.zeros((len(members), layout.n_images, layout.n_full))
        self._spectra: dict[tuple, tuple[FourierPlan, torch.Tensor, torch.Tensor]] = {}
        self.extras = make_extras(layout)
        self.shapes = [padded_shape(members[0].stamp(i).shape) for i in range(layout.n_images)]
        self._images = list(images) or [self._image(i) for i in range(layout.n_images)]
        self.prior, self.prior_names = make_prior(self)

    def with_layout(self, rows: Sequence[int], layout: Layout) -> SceneBatch:
        """Some of the members under another layout, with the weights in force here."""
        index = torch.as_tensor(rows, device=self.device)
        images = [{name: got[index] for name, got in image.items()} for image in self._images]
        members = [self.members[k] for k in rows]
        out = SceneBatch(members, layout, self.settings, self.dtype, images)
        out._spectra = {
            key: (plan, spectra[index], known[index])
            for key, (plan, spectra, known) in self._spectra.items()
        }
        return out

    def _image(self, i: int) -> dict[str, torch.Tensor]:
        """Pixels of image i: data, root_weight (scaled), scale, pedestal, psf, ..."""
        b, shape = len(self.members), self.shapes[i]
        data = np.zeros((b, *shape), dtype=np.float32)
        root = np.zeros((b, *shape), dtype=np.float32)
        empty = np.zeros((b, *shape), dtype=bool)
        scale, pedestal, electrons = np.ones(b), np.zeros(b), np.full(b, np.nan)
        background, photons = {}, np.full(b, np.inf)
        sky = np.zeros((b, 2))
        n_pix, log_sigma = np.zeros(b, dtype=np.int64), np.zeros(b)
        for k, member in enumerate(self.members):
            stamp = member.object.stamps[i]
            if stamp is None:
                continue
            good = ~(stamp.mask | member.object.contaminants(i, member.masked))
            sigma = stamp.sigma.astype(np.float64)
            if good.any():
                scale[k] = np.median(stamp.sigma[good])
            pedestal[k] = self._pedestal(member, i, stamp, good)
            ny, nx = stamp.shape
            level = stamp.data.astype(np.float64) - pedestal[k]
            data[k, :ny, :nx] = np.where(good, level / scale[k], 0.0)
            root[k, :ny, :nx] = np.where(good, scale[k] / sigma, 0.0)
            labels = np.asarray(member.object.segmentation.labels) != 0
            empty[k, :ny, :nx] = good & ~member.object.contaminants(i, labels)
            n_pix[k] = good.sum()
            log_sigma[k] = np.log(sigma[good]).sum()
            electrons[k] = stamp.gain * scale[k]
            if stamp.background_sigma is not None and stamp.gain > 0:
                photons[k] = electrons[k]
                noise = np.where(good, stamp.background_sigma, np.inf)
                background[k] = np.zeros(shape, dtype=np.float32)
                background[k][:ny, :nx] = scale[k] / noise
            sky_prior = self._sky_prior(stamp)
            if sky_prior is not None and self.layout.sky_terms:
                mean, error = sky_prior
                if error > 0 and math.isfinite(mean) and math.isfinite(error):
                    sky[k] = (mean - pedestal[k]) / scale[k], (scale[k] / error) ** 2
        tensors = {
            "data": data, "root": root, "scale": scale, "pedestal": pedestal, "sky": sky,
            "electrons": electrons, "empty": empty, "n_pix": n_pix, "log_sigma": log_sigma,
            "given_log_sigma": log_sigma.copy(), "photons": photons,
        }  # fmt: skip
        if background:
            own = [background.get(k, root[k]) for k in range(b)]
            tensors["background_root"] = np.stack(own)
        out = {name: torch.as_tensor(v, device=self.device) for name, v in tensors.items()}
        for name in ("data", "root"):
            out[name] = out[name].to(self.dtype)
        stamps = [member.stamp(i) for member in self.members]
        images = np.stack([stamp.psf.data for stamp in stamps])
        out["psf"] = torch.as_tensor(images, device=self.device)
        out["has_pixel"] = torch.tensor([s.psf.has_pixel for s in stamps], device=self.device)
        changes = [member.psf_changes[i] for member in self.members]
        if changes[0] is not None:
            out["psf_changes"] = torch.as_tensor(
                np.stack([np.asarray(c, dtype=np.float32) for c in changes]), device=self.device
            )
        maps = np.stack([member.object.maps[i] for member in self.members])
        out["maps"] = torch.as_tensor(maps, device=self.device)
        return out

    def _sky_prior(self, stamp: Stamp) -> tuple[float, float] | None:
        """(level, error), image units: the model's, else what was measured outside the stamp."""
        prior = self.layout.scene.sky_parameters["sky"].prior
        if prior is not None and prior.gaussian is not None and not prior.log:
            return prior.gaussian
        return stamp.sky_prior

    def _pedestal(self, member: Member, i: int, stamp: Stamp, good: np.ndarray) -> float:
        """Sky level that is taken off before the fit: near the truth, for the sake of rounding."""
        if not self.layout.sky_terms:
            return float(self.layout.sky)
        if i == 0:
            return float(member.start[7])
        labels = np.asarray(member.object.segmentation.labels) != 0
        empty = good & ~member.object.contaminants(i, labels)
        pixels = stamp.data[empty if empty.sum() > 50 else good]
        return float(np.median(pixels)) if pixels.size else 0.0

    @property
    def scale(self) -> torch.Tensor:
        """Image units per scaled unit of the first image, (B,)."""
        return self._images[0]["scale"]

    @property
    def own(self) -> torch.Tensor | None:
        """Mask of the numbers of theta that do not belong to neighbours, (D,); None: all."""
        count = len(self.members[0].neighbours)
        if count == 0:
            return None
        around = {span.component.name for span in self.layout.spans[-count:]}
        mine = [name.rpartition(".")[0] not in around for name in self.layout.names]
        return torch.tensor(mine, device=self.device)

    def sky_prior(self, image: int) -> torch.Tensor:
        """Mean and precision (0: none) of an image's sky level, scaled, (B, 2)."""
        return self._images[image]["sky"]

    def units(self, image: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and pedestal of an image, image units."""
        return self._images[image]["scale"][rows], self._images[image]["pedestal"][rows]

    def total(self, name: str) -> np.ndarray:
        """Sum of "n_pix" or "log_sigma" over the images, (B,)."""
        return sum(image[name] for image in self._images).cpu().numpy()  # type: ignore[union-attr]

    def root(self, image: int) -> torch.Tensor:
        """1/sigma in force, (B, ny, nx), scaled."""
        return self._images[image]["root"]

    def given_root(self, image: int) -> torch.Tensor:
        """1/sigma of the noise plane, (B, ny, nx), scaled; without the photons of a model."""
        got = self._images[image]
        return got.get("background_root", got.get("given_root", got["root"]))

    def photons(self, image: int) -> torch.Tensor:
        """Electrons per scaled unit where the noise has the model's own photons, else inf, (B,)."""
        return self._images[image]["photons"]

    @property
    def follows_model(self) -> torch.Tensor:
        """Members whose noise depends on the model, bool, (B,)."""
        some = [self.photons(i).isfinite() for i in range(self.layout.n_images)]
        return torch.stack(some).any(0) | (self.settings.error_floor > 0)

    def empty(self, image: int) -> torch.Tensor:
        """Unmasked pixels outside all footprints, bool, (B, ny, nx)."""
        return self._images[image]["empty"]

    def missing(self, row: int) -> list[int]:
        """Images that a member does not have."""
        return [i for i, stamp in enumerate(self.members[row].object.stamps) if stamp is None]

    def replace_weights(self, image: int, root: torch.Tensor) -> None:
        """Other weights (1/sigma) for an image; the noise plane's are remembered."""
        self._images[image].setdefault("given_root", self._images[image]["root"])
        good = root > 0
        before = self._images[image]["root"]
        change = torch.where(good, (before / torch.where(good, root, 1.0)).log(), 0.0)
        self._images[image]["log_sigma"] = self._images[image]["log_sigma"] + change.sum((1, 2))
        self._images[image]["root"] = root

    def problem(
        self,
        accuracy: Accuracy,
        members: torch.Tensor,
        blocks: Sequence[int] | None = None,
        theta: torch.Tensor | None = None,
    ) -> SceneProblem:
        """The problem of some members.

        Parameters
        ----------
        accuracy : Accuracy
        members : Tensor, int64
        blocks : sequence of int, optional
            Block sizes of the images, for a search on binned images.
        theta : Tensor, (A, starts, D), optional
            Where it begins: neighbours whose light ends nearby are drawn on patches.
        """
        data = tuple(
            self._image_data(i, accuracy, members, 1 if blocks is None else blocks[i])
            for i in range(self.layout.n_images)
        )
        if theta is not None and (blocks is None or max(blocks) == 1):
            data = tuple(
                dataclasses.replace(one, patches=self._patches(i, accuracy, members, theta))
                for i, one in enumerate(data)
            )
        chunk = chunk_of(self.layout, [image.plan for image in data])
        return SceneProblem(
            self.layout,
            data,
            self.base[members].to(self.device, torch.float64),
            self.settings.likelihood,
            self.extras,
            self.prior.select(members),
            chunk,
        )

    def outgrown(
        self, problem: SceneProblem, members: torch.Tensor, theta: torch.Tensor
    ) -> torch.Tensor:
        """True if light of some members at `theta` (A, D) reaches beyond its patch, bool, (A,)."""
        out = torch.zeros(len(members), dtype=torch.bool, device=theta.device)
        for i, image in enumerate(problem.images):
            if image.patches is None:
                continue
            had = image.patches.size
            needs = torch.as_tensor(self._patch_sides(i, members, theta[:, None])[0])
            out |= ((had > 0) & ((needs == 0) | (needs > had))).any(1)
        return out

    def _patch_sides(
        self, i: int, members: torch.Tensor, theta: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sides of patches in image i that serve all starts (A, components; 0: the whole stamp),
        and the components' positions at the first start (A, components, 2)."""
        layout, (a, starts) = self.layout, theta.shape[:2]
        every = members.repeat_interleave(starts)
        values = layout.values(theta.flatten(0, 1), self.base[every].to(theta), i)
        got = {name: value.numpy() for name, value in values.items()}
        maps = self._images[i]["maps"][members].numpy()
        side = patch_sizes(
            layout, got, np.repeat([scale_of(one) for one in maps], starts),
            [self.members[k].psf_wings[i] for k in every.tolist()],
            self._images[i]["scale"][every].numpy(), self.shapes[i], self.settings.compact_re,
            len(self.members[0].neighbours),
        )  # fmt: skip
        side = side.reshape(a, starts, -1)
        side = np.where((side == 0).any(1), 0, side.max(1))
        there = [[got[f"{span.component.name}.{axis}"] for axis in "xy"] for span in layout.spans]
        first = np.array(there)[:, :, ::starts].transpose(2, 0, 1)
        return side, np.einsum("bij,bcj->bci", maps[:, :, :2], first) + maps[:, None, :, 2]

    def _patches(
        self, i: int, accuracy: Accuracy, members: torch.Tensor, theta: torch.Tensor
    ) -> PatchPlans | None:
        """Patches of the components in image i that serve all starts, and what draws them."""
        layout, a = self.layout, len(members)
        placed = all("x" in span.component.profile.parameters for span in layout.spans)
        worth = self.members[0].neighbours and worth_patches(self.shapes[i]) and placed
        if not worth or self.device.type != "cpu" or any(layout.n_psf):
            return None
        side, position = self._patch_sides(i, members, theta)
        corner = patch_corners(position, side, self.shapes[i])
        if accuracy.refinements:
            accuracy = self.settings.compact
        stamp, plans = self.members[0].stamp(i), {}
        for size in np.unique(side[side > 0]).tolist():
            plan = make_plan(
                (size, size), stamp.psf.data.shape, stamp.psf.oversampling, accuracy, self.device,
                self.dtype,
            )  # fmt: skip
            some = torch.as_tensor(np.flatnonzero((side == size).any(1)))
            modes = torch.zeros((a, plan.n_modes), dtype=self.dtype.to_complex())
            modes[some] = self._psf_modes(i, plan, members[some], 1)
            plans[size] = plan, modes
        if not plans:
            return None
        return PatchPlans(torch.as_tensor(side), torch.as_tensor(corner), plans)

    def _psf_modes(
        self, i: int, plan: FourierPlan, members: torch.Tensor, block: int
    ) -> torch.Tensor:
        """Transforms of the PSFs of some members; made once for each plan."""
        image, b = self._images[i], len(self.members)
        key = (i, id(plan), block)
        if key not in self._spectra:
            dtype = plan.dtype.to_complex()
            unset = torch.empty((b, plan.n_modes), dtype=dtype, device=self.device)
            done = torch.zeros(b, dtype=torch.bool, device=self.device)
            self._spectra[key] = plan, unset, done  # the plan lives on: no other has its id
        _, spectra, known = self._spectra[key]
        new = members[~known[members]]
        if len(new):
            oversampling = self.members[0].stamp(i).psf.oversampling
            spectra[new] = psf_modes(
                plan, image["psf"][new], image["has_pixel"][new], oversampling, block
            )
            known[new] = True
        return spectra[members]

    def _image_data(
        self, i: int, accuracy: Accuracy, members: torch.Tensor, block: int
    ) -> ImageData:
        used = ("data", "root", "scale", "pedestal", "electrons", "maps")
        got = {name: self._images[i][name][members] for name in used}
        oversampling = self.members[0].stamp(i).psf.oversampling
        (ny, nx), psf_shape = self.shapes[i], self._images[i]["psf"].shape[1:]
        plan = make_plan(
            (ny // block, nx // block),
            (psf_shape[0] // block, psf_shape[1] // block),
            oversampling if block == 1 else 1,
            accuracy,
            self.device,
            self.dtype,
        )
        modes = self._psf_modes(i, plan, members, block)
        basis = None
        if "psf_changes" in self._images[i]:
            changes = self._images[i]["psf_changes"][members]
            (b, k), flat = changes.shape[:2], changes.flatten(0, 1)
            pixel = self._images[i]["has_pixel"][members].repeat_interleave(k)
            basis = psf_modes(plan, flat, pixel, oversampling, block).view(b, k, -1)
        data, root, scale = got["data"], got["root"], got["scale"]
        placement = None
        maps = got["maps"]
        if block > 1:
            data, root = bin_images(data, root, block)
            data, root = data / block**2, root * block**2
            scale = scale * block**2
        moved = not bool((maps == torch.as_tensor(IDENTITY, device=maps.device)).all())
        if moved or block > 1:
            matrix = maps[:, :, :2] / block
            offset = (maps[:, :, 2] + 0.5) / block - 0.5
            placement = Placement(matrix, offset)
        return ImageData(
            plan, modes, data, root, scale, got["pedestal"], placement, basis,
            got["electrons"] * block**2, block,
        )  # fmt: skip
