"""Calibration of a trained initialiser: usual images, and the scales of its errors."""

import math

import torch

from autofit_ml.initialisation.network import (
    KNOTS,
    OTHERS,
    SNR,
    InitialiseNetwork,
    distance_from,
    ln_sigma_of,
)

__all__ = ["calibrate", "distances", "quantile", "whitening"]

_PER_KNOT = 200
"""Objects with which a scale is measured: to 5 %, if the errors are about Gaussian."""

_LEAST = 100
"""Objects without which the errors are left as they are."""

_ONE_SIGMA = 0.6827
_ROUNDS = 3
"""Times that the two functions are measured in turn."""


@torch.no_grad()
def calibrate(
    network: InitialiseNetwork,
    features: torch.Tensor,
    chi2: torch.Tensor,
    error: torch.Tensor,
    lower: torch.Tensor,
    scalars: torch.Tensor,
) -> None:
    """Set what is measured on data like the training set once the network is trained.

    Parameters
    ----------
    network : InitialiseNetwork
        Changed in place.
    features : Tensor, shape (B, hidden)
    chi2 : Tensor, shape (B,)
        Robust chi2 of the means (`autofit_ml.initialisation.physics`).
    error : Tensor, shape (N, 7)
        True minus predicted parameters, where the truth is known.
    lower : Tensor, shape (N, 7, 7)
        The triangles that were predicted for them, from `InitialiseNetwork.uncalibrated`.
    scalars : Tensor, shape (N, len(SCALARS))

    Notes
    -----
    The S/N has k knots, at the medians of as many equal parts of the set, and so have the
    predicted error in each of them and the contamination, with k^2 a 200th of the number of
    objects and at most 6. With fewer than 800 objects the functions that are there (of the
    bundle that the training began with) are kept but for a common factor; with fewer than 100
    they are kept as they are.
    """
    centre, root = whitening(features)
    network.get_buffer("feature_mean").copy_(centre)
    network.get_buffer("feature_root").copy_(root)
    network.get_buffer("usual_distance").copy_(quantile(distances(features), 0.998))
    network.get_buffer("usual_chi2").copy_(quantile(chi2, 0.98))
    _calibrate_errors(network, error, ln_sigma_of(lower), scalars)


def _calibrate_errors(
    network: InitialiseNetwork, error: torch.Tensor, ln_sigma: torch.Tensor, scalars: torch.Tensor
) -> None:
    knots = min(KNOTS, math.isqrt(len(error) // _PER_KNOT))
    ratio = error.abs().clamp_min(1e-12).log() - ln_sigma
    if knots < 2:
        if len(error) >= _LEAST:
            excess = ratio - network.ln_scale(ln_sigma, scalars)
            factor = torch.stack([quantile(c, _ONE_SIGMA) for c in excess.unbind(1)])
            network.get_buffer("scale").add_(factor)
        return
    buffers = dict(network.named_buffers())
    snr, others = (scalars[:, k, None].expand_as(ln_sigma) for k in (SNR, OTHERS))
    parts = [*snr[:, 0].argsort().tensor_split(knots)]
    parts += parts[-1:] * (KNOTS - knots)
    buffers["snr_knots"].copy_(torch.stack([snr[k].median(0).values for k in parts]))
    buffers["contamination_scale"].zero_()
    for _ in range(_ROUNDS):
        excess = ratio - network.ln_scale_of_others(scalars)
        for row, part in enumerate(parts):
            measured = _measured(ln_sigma[part], excess[part], knots)
            buffers["sigma_knots"][row], buffers["scale"][row] = measured
        excess = ratio - network.ln_scale_of_sigma(ln_sigma, scalars)
        places, values = _measured(others, excess, knots)
        buffers["contamination_knots"].copy_(places)
        buffers["contamination_scale"].copy_(values)


def whitening(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and a root of the inverse covariance, of features (B, D).

    The covariance is shrunk towards its diagonal by (D / (B + D))^2: of few objects it would have
    directions in which hardly any of them differ by chance, and others by much.
    """
    number, size = features.shape
    centre = features.mean(0)
    centred = (features - centre).double()
    cov = centred.T @ centred / max(1, number - 1)
    share = (size / (number + size)) ** 2
    cov = (1 - share) * cov + share * torch.diag(cov.diagonal())
    values, vectors = torch.linalg.eigh(cov)
    # Directions that hardly vary say nothing, but must not be divided by nothing.
    floor = 1e-4 * values.mean() + 1e-12
    return centre, (vectors / values.clamp_min(floor).sqrt()).float()


def distances(features: torch.Tensor) -> torch.Tensor:
    """Distances from the others: of a tenth of the objects from the statistics of the rest.

    From statistics that it was part of, an object is never far when they are few.
    """
    if len(features) < 20:
        return distance_from(features, *whitening(features))
    place = torch.arange(len(features)) % 10
    return torch.cat(
        [distance_from(features[place == k], *whitening(features[place != k])) for k in range(10)]
    )


def _measured(
    at: torch.Tensor, excess: torch.Tensor, knots: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places and values (KNOTS, 7) of a function of `at` (N, 7): what holds 68.3 % of `excess`.

    Of fewer knots, the last is repeated.
    """
    order = at.argsort(dim=0)
    at, excess = at.gather(0, order), excess.gather(0, order)
    parts = list(zip(at.tensor_split(knots), excess.tensor_split(knots), strict=True))
    parts += parts[-1:] * (KNOTS - knots)
    places = torch.stack([part.median(0).values for part, _ in parts])
    values = [[quantile(c, _ONE_SIGMA) for c in part.unbind(1)] for _, part in parts]
    return places, torch.stack([torch.stack(row) for row in values])


def quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """The value below which a share of the values (B,) lies."""
    return values.sort().values[min(int(share * len(values)), len(values) - 1)]
