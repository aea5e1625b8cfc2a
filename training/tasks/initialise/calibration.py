"""Calibration of a trained initialiser: usual images, and the scales of its errors."""

import torch

from autofit_ml.initialisation.network import (
    InitialiseNetwork,
    distance_from,
    ln_sigma_of,
    scale_inputs,
)

__all__ = ["calibrate", "distances", "quantile", "whitening"]

_ENOUGH = 800
"""Objects from which scales that depend on what the network sees are measured; else one factor."""

_LEAST = 100
"""Objects without which the errors are left as they are."""

_ONE_SIGMA = 0.6827
_STEPS = 400
_PRIOR = 30.0
"""Objects that a weight of one costs: how strongly weights are drawn to zero."""


@torch.no_grad()
def calibrate(
    network: InitialiseNetwork,
    features: torch.Tensor,
    chi2: torch.Tensor,
    seen: torch.Tensor,
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
    seen : Tensor, shape (N, hidden)
        Features of other objects, whose truth is known.
    error : Tensor, shape (N, 7)
        True minus predicted parameters of these.
    lower : Tensor, shape (N, 7, 7)
        Their predicted triangles, from `InitialiseNetwork.uncalibrated`.
    scalars : Tensor, shape (N, len(SCALARS))

    Notes
    -----
    The scales are a quantile regression (Koenker & Bassett 1978, Econometrica 46, 33) of the
    logarithm of the error in units of sigma on what the network sees, its own errors and the S/N
    included: 68.3 % of the objects lie below, whatever they look like. With fewer than 800 objects
    the scales that are there (of the bundle that the training began with) are kept but for a
    common factor; with fewer than 100 they are kept as they are.
    """
    centre, root = whitening(features)
    network.get_buffer("feature_mean").copy_(centre)
    network.get_buffer("feature_root").copy_(root)
    network.get_buffer("usual_distance").copy_(quantile(distances(features), 0.998))
    network.get_buffer("usual_chi2").copy_(quantile(chi2, 0.98))
    _calibrate_errors(network, seen, error, ln_sigma_of(lower), scalars)


def _calibrate_errors(
    network: InitialiseNetwork,
    seen: torch.Tensor,
    error: torch.Tensor,
    ln_sigma: torch.Tensor,
    scalars: torch.Tensor,
) -> None:
    if len(error) < _LEAST:
        return
    ratio = error.abs().clamp_min(1e-12).log() - ln_sigma
    offset = network.get_buffer("scale_offset")
    if len(error) >= _ENOUGH:
        for name in ("sigma_scale", "snr_scale", "scale_offset"):
            network.get_buffer(name).zero_()
        inputs = scale_inputs(seen, ln_sigma, scalars)
        network.get_buffer("scale_mean").copy_(inputs.mean(0))
        network.get_buffer("scale_width").copy_(inputs.std(0).clamp_min(1e-3))
        inputs = network.standardised(seen, ln_sigma, scalars)
        network.get_buffer("scale").copy_(_regression(inputs, ratio))
    excess = ratio - network.ln_scale(seen, ln_sigma, scalars)
    offset.add_(torch.stack([quantile(column, _ONE_SIGMA) for column in excess.unbind(1)]))


@torch.enable_grad()
def _regression(inputs: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Weights (inputs, 7) of the 68.3 % points of a ratio (N, 7), offsets apart."""
    weights = torch.zeros(inputs.shape[1], ratio.shape[1], requires_grad=True)
    offset = ratio.quantile(_ONE_SIGMA, dim=0).requires_grad_()
    optimiser = torch.optim.Adam([weights, offset], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        excess = ratio - inputs @ weights - offset
        loss = torch.maximum(_ONE_SIGMA * excess, (_ONE_SIGMA - 1) * excess).sum()
        loss = loss + _PRIOR * weights.square().sum()
        optimiser.zero_grad()
        (loss / len(ratio)).backward()
        optimiser.step()
        schedule.step()
    return weights.detach()


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


def quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """The value below which a share of the values (B,) lies."""
    return values.sort().values[min(int(share * len(values)), len(values) - 1)]
