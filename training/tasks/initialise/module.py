r"""The initialising network's training: losses, validation, calibration.

The loss is a sum of terms, each with a weight in ``conf/model/loss``:

- ``mse``: squared error of the mean, in units of each parameter's usual scatter;
- ``nll``: :math:`\frac12 (t - \mu)^T (L L^T)^{-1} (t - \mu) + \ln|L|`, weighted by
  :math:`|L|^{2 \beta / 7}` (without gradient), the multivariate form of the beta-NLL of Seitzer et
  al. 2022 (ICLR, arXiv:2203.09168), which keeps easy objects from being all that is learnt;
- ``physics``: the logarithm of the robust :math:`\chi^2` of the image rendered from the mean
  (`autofit_ml.initialisation.physics`), ramped in;
- ``elbo``: :math:`E_q[\frac N2 \chi^2] - \ln|L|` and a broad prior: mean and covariance without
  any label (the negative evidence lower bound of a variational posterior).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from autofit_ml.initialisation.network import (
    InitialiseNetwork,
    InitialiseSettings,
    describe,
    network_inputs,
)
from autofit_ml.initialisation.physics import (
    PhysicsSettings,
    cut_out_parameters,
    model_images,
    robust_chi2,
)
from training.module import NetworkModule
from training.optimiser import OptimiserSettings
from training.tasks.initialise import calibration
from training.tasks.initialise.augment import Augmentation, augment
from training.tasks.initialise.cutouts import Cutouts

__all__ = ["InitialiseModule", "InitialiseTraining", "Loss", "calibrate"]

Batch = dict[str, torch.Tensor]

_USUAL = (0.15, 0.15, 0.2, 0.2, 0.3, 0.2, 0.2)
"""Scatter of the parameters by which the squared errors are divided."""

_PRIOR = (2.0, 2.0, 1.5, 1.5, 0.8, 1.2, 1.2)
"""Standard deviations of the broad prior of ``elbo``, about 0."""


@dataclass(frozen=True)
class Loss:
    """Weights of the loss's terms (``conf/model/loss``).

    Attributes
    ----------
    mse, nll, physics, elbo : float
        0: the term is not computed.
    beta : float
        Of the beta-NLL.
    ramp : (start, full)
        Parts of the training between which the physics term grows from 0 to its weight.
    """

    mse: float
    nll: float
    physics: float
    elbo: float
    beta: float
    ramp: tuple[float, float]


@dataclass(frozen=True)
class InitialiseTraining:
    """``conf/model/initialise.yaml``."""

    network: InitialiseSettings
    physics: PhysicsSettings
    loss: Loss
    augment: Augmentation
    optimiser: OptimiserSettings


class InitialiseModule(NetworkModule):
    """Losses of `InitialiseNetwork`; validation: scatter and coverage at S/N > 50."""

    usual: torch.Tensor
    spread: torch.Tensor

    def __init__(self, settings: InitialiseTraining, total_steps: int) -> None:
        super().__init__(InitialiseNetwork(settings.network), settings.optimiser, total_steps)
        self.settings = settings
        self.register_buffer("usual", torch.tensor(_USUAL), persistent=False)
        self.register_buffer("spread", torch.tensor(_PRIOR), persistent=False)
        self._validation: list[Batch] = []

    def describe(self) -> dict[str, Any]:
        return describe(self.network)

    def features(self, batch: Batch) -> torch.Tensor:
        """Features of a batch that the network's head sees (float32 planes)."""
        names = ("data", "root_weight", "footprint", "psf", "scalars")
        return self.network.features(*network_inputs(*(batch[name] for name in names)))

    def _predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        mean, lower = self.network.gaussian(self.features(batch), batch["scalars"])
        return mean.float(), lower.float()

    def _terms(self, batch: Batch, mean: torch.Tensor, lower: torch.Tensor) -> Batch:
        """Each term of the loss that has a weight, before it is weighted."""
        weights, known = self.settings.loss, batch["known"]
        error = batch["target"] - mean
        terms: Batch = {}
        if weights.mse > 0:
            scaled = error / self.usual
            squares = torch.nn.functional.huber_loss(
                scaled, torch.zeros_like(scaled), reduction="none", delta=5.0
            )
            terms["mse"] = (squares.mean(1) * known).sum() / known.sum().clamp_min(1)
        if weights.nll > 0:
            terms["nll"] = self._nll(error, lower, known)
        if weights.physics > 0 and self._ramp() > 0:
            chi2, _ = self.chi2(batch, mean)
            terms["physics"] = chi2.clamp(1e-3, 1e6).log().mean()
        if weights.elbo > 0:
            terms["elbo"] = self._elbo(batch, mean, lower, torch.randn_like(mean))
        return terms

    def _nll(self, error: torch.Tensor, lower: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The beta-NLL of the objects whose truth is known; 0 where there are none."""
        scaled = torch.linalg.solve_triangular(lower, error[..., None], upper=False)[..., 0]
        distance = scaled.square().sum(1)
        # A label may be wrong (a segmenter took another object): it must not decide.
        distance = torch.where(
            distance < 100, distance, 100 * (1 + (distance / 100).clamp_min(1e-6).log())
        )
        log_det = lower.diagonal(dim1=-2, dim2=-1).log().sum(1)
        weight = (2 * self.settings.loss.beta / 7 * log_det).exp().detach() * known
        return (weight * (0.5 * distance + log_det)).sum() / weight.sum().clamp_min(1e-30)

    def chi2(self, batch: Batch, relative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Robust chi2 of relative parameters' images, and the number of pixels, (B,) each."""
        with torch.autocast(relative.device.type, enabled=False):
            parameters = cut_out_parameters(
                relative.float(), batch["centre"], batch["flux"], batch["radius"]
            )
            return robust_chi2(
                model_images(parameters, batch["psf"]),
                batch["data"],
                batch["root_weight"],
                batch["centre"],
                batch["radius"],
                self.settings.physics,
            )

    def _elbo(
        self, batch: Batch, mean: torch.Tensor, lower: torch.Tensor, deviates: torch.Tensor
    ) -> torch.Tensor:
        sample = mean + (lower @ deviates[..., None])[..., 0]
        chi2, number = self.chi2(batch, sample)
        # What no Sérsic profile can fit does not make the parameters better known.
        with torch.no_grad():
            floor = self.chi2(batch, mean)[0].clamp_min(1.0)
        log_det = lower.diagonal(dim1=-2, dim2=-1).log().sum(1)
        prior = 0.5 * (sample / self.spread).square().sum(1)
        distance = 0.5 * number * (chi2 / floor - 1)
        distance = torch.where(
            distance < 50, distance, 50 * (1 + (distance / 50).clamp_min(1e-6).log())
        )
        return (distance + prior - log_det).mean()

    def _ramp(self) -> float:
        """Share of the physics term at this step."""
        start, full = (part * self.total_steps for part in self.settings.loss.ramp)
        if full <= start:
            return 1.0
        return min(max((self.global_step - start) / max(full - start, 1.0), 0.0), 1.0)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Batch]:
        """The weighted sum of the terms for another view of a batch, and the terms."""
        batch = augment(batch, self.settings.augment)
        mean, lower = self._predict(batch)
        with torch.autocast(mean.device.type, enabled=False):
            terms = self._terms(batch, mean, lower)
        ramp = {"physics": self._ramp()}
        weights = [ramp.get(name, 1.0) * getattr(self.settings.loss, name) for name in terms]
        parts = [weight * value for weight, value in zip(weights, terms.values(), strict=True)]
        return torch.stack(parts).sum(), terms

    def validation_step(self, batch: Batch, index: int) -> None:
        batch = _wide(batch)
        mean, lower = self._predict(batch)
        chi2, _ = self.chi2(batch, mean)
        kept = {"mean": mean, "lower": lower, "log_chi2": chi2.clamp(1e-3, 1e6).log()}
        kept.update({name: batch[name] for name in ("target", "known", "snr")})
        if self.settings.loss.elbo > 0:
            same = torch.Generator().manual_seed(index)  # the same draws each time
            deviates = torch.randn(mean.shape, generator=same).to(mean.device)
            kept["elbo"] = self._elbo(batch, mean, lower, deviates).expand(len(mean))
        self._validation.append({name: value.cpu() for name, value in kept.items()})

    def on_validation_epoch_end(self) -> None:
        joined = {
            name: torch.cat([part[name] for part in self._validation])
            for name in self._validation[0]
        }
        self._validation.clear()
        for name, value in _figures(joined).items():
            self.log(f"val/{name}", value, prog_bar=name == "loss")
        weights, known = self.settings.loss, joined["known"]
        terms = {"physics": joined["log_chi2"].mean()}
        if "elbo" in joined:
            terms["elbo"] = joined["elbo"].mean()
        if known.any():
            error = joined["target"] - joined["mean"]
            terms["mse"] = (error[known] / self.usual.cpu()).square().clamp_max(25).mean()
            terms["nll"] = self._nll(error, joined["lower"], known)
        total = sum(getattr(weights, name) * value for name, value in terms.items())
        self.log("val/loss", total)


@torch.no_grad()
def calibrate(module: InitialiseModule, train: Cutouts, apart: Cutouts, seed: int) -> None:
    """Measure what a network must know once it is trained.

    Features and chi2 of the training cut-outs (for OUT_OF_DOMAIN and INIT_FALLBACK), and the scales
    that make 68.3 % intervals hold 68.3 % of others.

    Parameters
    ----------
    module : InitialiseModule
    train, apart : Cutouts
        Those trained on; targets of simulated stamps, segmented as the pipeline does it.
    seed : int
    """
    module.eval()
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(train), generator=generator)[:20_000]
    features, chi2 = [], []
    for members in sample.split(256):
        batch = _wide(train[members])
        seen = module.features(batch)
        features.append(seen)
        chi2.append(module.chi2(batch, module.network.uncalibrated(seen)[0])[0])
    other, error, lower, scalars = [], [], [], []
    for members in torch.arange(len(apart)).split(256):
        batch = _wide(apart[members])
        known = batch["known"]
        seen = module.features(batch)
        mean, triangle = module.network.uncalibrated(seen)
        other.append(seen[known])
        error.append((batch["target"] - mean)[known])
        lower.append(triangle[known])
        scalars.append(batch["scalars"][known])
    measured = (torch.cat(part) for part in (features, chi2, other, error, lower, scalars))
    calibration.calibrate(module.network, *measured)


def _wide(batch: Batch) -> Batch:
    """Stored half precision as float32."""
    return {name: p.float() if p.is_floating_point() else p for name, p in batch.items()}


def _figures(joined: Batch) -> dict[str, float]:
    """Scatter of re (relative), n (dex) and q, and the coverage of 68.3 % intervals, S/N > 50."""
    some = joined["known"] & (joined["snr"] > 50)
    if int(some.sum()) < 10:
        return {"log_chi2": float(joined["log_chi2"].mean())}
    mean, true, lower = joined["mean"][some], joined["target"][some], joined["lower"][some]
    eta, true_eta = (torch.hypot(value[:, 5], value[:, 6]) for value in (mean, true))
    sigma = (lower @ lower.transpose(1, 2)).diagonal(dim1=1, dim2=2).sqrt()
    inside = ((mean - true).abs() < sigma).float().mean(0)
    return {
        "re_scatter": _width(mean[:, 3] + eta / 2 - true[:, 3] - true_eta / 2),
        "n_scatter_dex": _width(mean[:, 4] - true[:, 4]) / 2.302585,
        "q_scatter": _width((-eta).exp() - (-true_eta).exp()),
        "flux_scatter": _width(mean[:, 2] - true[:, 2]),
        "x_scatter": _width(mean[:, 0] - true[:, 0]),
        "coverage_rc": float(inside[3]),
        "coverage_n": float(inside[4]),
        "coverage_flux": float(inside[2]),
        "log_chi2": float(joined["log_chi2"].mean()),
    }


def _width(error: torch.Tensor) -> float:
    """Half the distance of the 16 and 84 % points."""
    low, high = torch.quantile(error[:200_000], torch.tensor([0.1587, 0.8413])).tolist()
    return 0.5 * (high - low)
