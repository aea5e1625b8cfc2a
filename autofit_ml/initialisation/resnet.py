"""Starting parameters from the network, and from moments where it is not to be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.cutouts import Cutouts, cut_outs
from autofit_ml.initialisation.moments import start_from_moments
from autofit_ml.initialisation.network import InitialiseNetwork, inputs_of, to_absolute, to_relative
from autofit_ml.initialisation.physics import cut_out_parameters, model_images, robust_chi2
from autofit_ml.initialisation.starts import PARAMETERS, Starts
from autofit_ml.profiles import N_MAX, N_MIN
from autofit_ml.scenes import to_catalogue, to_fit_space
from autofit_ml.segmentation.result import Segmentation
from autofit_ml.weights.choice import network_name

__all__ = ["NetworkAnswers", "ask", "start_chi2", "start_from_network"]

_BATCH = 256
_GRAIN = 8
"""Batches are filled up to a multiple: an object's answer, to the last bit, must not depend on how
many others there are."""

_ETA_MAX = -math.log(0.1)


@dataclass(frozen=True)
class NetworkAnswers:
    """Answers of the network for a batch of cut-outs.

    Attributes
    ----------
    mean, lower : Tensor, float32, shapes (B, 7), (B, 7, 7)
        Relative parameters.
    distance : Tensor, shape (B,)
        Mahalanobis distance of the features.
    chi2 : Tensor, shape (B,)
        Robust chi2 of the mean's image on the cut-out.
    """

    mean: torch.Tensor
    lower: torch.Tensor
    distance: torch.Tensor
    chi2: torch.Tensor


@torch.no_grad()
def ask(network: InitialiseNetwork, cut: Cutouts, device: str = "cpu") -> NetworkAnswers:
    """The network's answers for cut-outs, on the host."""
    inputs = [_filled(plane) for plane in inputs_of(cut, device)]
    parts = []
    for first in range(0, len(inputs[0]), _BATCH):
        batch = [plane[first : first + _BATCH] for plane in inputs]
        features = network.features(*batch)
        parts.append((*network.gaussian(features, batch[2]), network.distance(features)))
    mean, lower, distance = (torch.cat(part)[: len(cut)].cpu() for part in zip(*parts, strict=True))
    return NetworkAnswers(mean, lower, distance, start_chi2(cut, mean, device))


def _filled(plane: torch.Tensor) -> torch.Tensor:
    missing = -len(plane) % _GRAIN
    return torch.cat([plane, plane[-1:].expand(missing, *plane.shape[1:])]) if missing else plane


@torch.no_grad()
def start_chi2(cut: Cutouts, relative: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """Robust chi2 of relative parameters' images on the cut-outs, (B,), on the host."""
    planes = [
        torch.as_tensor(array, device=device)
        for array in (cut.psf, cut.data, cut.root_weight, cut.centre, cut.radius)
    ]
    flux = torch.as_tensor(cut.flux, device=device)
    finite = torch.isfinite(relative).all(1)
    relative = torch.where(finite[:, None], relative, 0.0).to(device)
    out = []
    for first in range(0, len(cut), _BATCH):
        part = slice(first, first + _BATCH)
        psf, data, root_weight, centre, radius = (plane[part] for plane in planes)
        parameters = cut_out_parameters(relative[part], centre, flux[part], radius)
        images = model_images(parameters, psf)
        out.append(robust_chi2(images, data, root_weight, centre, radius)[0])
    chi2 = torch.cat(out).cpu()
    return torch.where(finite & torch.isfinite(chi2), chi2, torch.inf)


def start_from_network(
    stamps: Sequence[Stamp],
    segmentations: Sequence[Segmentation],
    network: InitialiseNetwork,
    device: str = "cpu",
) -> Starts:
    """Starting parameters and their covariance from a network.

    An object is OUT_OF_DOMAIN where its features lie further from those of the training set than
    all but 0.2 % of that set (Mahalanobis distance). Such objects, and those whose start fits worse
    than 98 % of the training set's (robust chi2 on the cut-out), are started from moments as well;
    the better of the two is taken, with INIT_FALLBACK if that is the one from moments.

    Parameters
    ----------
    stamps : sequence of Stamp
    segmentations : sequence of Segmentation
        One per stamp.
    network : InitialiseNetwork
        From `autofit_ml.load`.
    device : str
        Where the network is.

    Returns
    -------
    Starts
        Finite; within the limits of `initialise`. Rows from moments have a covariance of zeros.
    """
    count = len(stamps)
    if not count:
        empty = np.empty((0, len(PARAMETERS)))
        return Starts(empty, np.empty((0, 8, 8)), np.empty(0, np.int32), "resnet")
    cut = cut_outs(stamps, segmentations)
    answers = ask(network, cut, device)
    values, cov = _absolute(cut, answers, stamps, segmentations)
    flags = np.zeros(count, dtype=np.int32)
    limits = network.get_buffer("usual_distance"), network.get_buffer("usual_chi2")
    far = ~(answers.distance <= limits[0].cpu()).numpy()
    poor = ~(answers.chi2 <= limits[1].cpu()).numpy() | ~np.isfinite(values).all(1)
    flags[far] |= int(Flag.OUT_OF_DOMAIN)
    doubtful = np.flatnonzero(far | poor)
    if len(doubtful):
        numbers = doubtful.tolist()
        some = [stamps[i] for i in numbers]
        moments = start_from_moments(some, [segmentations[i] for i in numbers]).values
        own = cut.some(doubtful)
        chi2 = start_chi2(own, to_relative(own, to_fit_space(torch.as_tensor(moments))))
        worse = ~(answers.chi2[doubtful] <= chi2).numpy() | ~np.isfinite(values[doubtful]).all(1)
        chosen = doubtful[worse]
        values[chosen] = moments[worse]
        cov[chosen] = 0.0
        flags[chosen] |= int(Flag.INIT_FALLBACK)
    return Starts(values, cov, flags, "resnet", [network_name(network)] * count)


def _absolute(
    cut: Cutouts,
    answers: NetworkAnswers,
    stamps: Sequence[Stamp],
    segmentations: Sequence[Segmentation],
) -> tuple[np.ndarray, np.ndarray]:
    """Catalogue parameters within the limits of a start, and the covariance in fit space."""
    mean, seven = to_absolute(cut, answers.mean, answers.lower)
    theta = torch.cat([mean, torch.zeros((len(mean), 1), dtype=mean.dtype)], dim=1)
    sides = torch.tensor([stamp.shape for stamp in stamps], dtype=theta.dtype)
    theta[:, 0] = torch.minimum(theta[:, 0].clamp_min(0), sides[:, 1] - 1)
    theta[:, 1] = torch.minimum(theta[:, 1].clamp_min(0), sides[:, 0] - 1)
    theta[:, 3] = torch.minimum(theta[:, 3].clamp_min(math.log(0.1)), sides.amax(1).log())
    theta[:, 4] = theta[:, 4].clamp(math.log(N_MIN), math.log(N_MAX))
    length = torch.hypot(theta[:, 5], theta[:, 6]).clamp_min(1e-9)
    theta[:, 5:7] *= (_ETA_MAX / length).clamp_max(1.0)[:, None]
    theta[:, 7] = torch.as_tensor(cut.sky)
    values = to_catalogue(theta).numpy()
    cov = np.zeros((len(values), 8, 8))
    cov[:, :7, :7] = np.nan_to_num(seven.numpy(), nan=0.0, posinf=0.0, neginf=0.0)
    empty = np.array([max(int((found.labels == 0).sum()), 9) for found in segmentations])
    rms = cut.unit / cut.binning
    cov[:, 7, 7] = 4 * rms**2 / empty
    return values, cov
