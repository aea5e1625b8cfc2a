r"""The part of a fit's error that is due to the model: galaxies are no Sérsic profiles.

In: what the residual inside of nested apertures would move the fit by
(`autofit_ml.fitting.residual_apertures`). Out: a covariance that is added to that of the noise.
With the sum R of the pulls' squares beyond that of noise alone, in units of the noise's variance V,
and the evidence e against the model,

.. math:: \sigma_j^2 = V_j + \frac{e^4}{e^4 + g_j^4} \Big(\frac1{s_j} + h_j^2\Big)^{-1},
          \qquad s_j = V_j \big(a_j R_j + c_j \sqrt e\big) .

The evidence for a position is the excess of both positions' pulls in the metric of the inverse
covariance, for all else that of all else: a galaxy that is the same turned by half a turn says
nothing about its centre, however wrong its profile. The term in e stands for what no residual shows
(an axis ratio that differs between bulge and disc, light beyond the stamp), and 1/h is what
galaxies are off by at most, whatever their S/N (h = 0 for positions). Without evidence against the
model there is no model error. The coefficients are measured on simulated galaxies
(``training/errors.py``) and come as weights of the task ``errors``.

They apply to positions, ln flux, ln re, the index (and other shapes: those of the size), and the
ellipticity along and across its direction. Correlations are those of all pulls together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.fitting.batch import Member, SceneBatch
from autofit_ml.fitting.residual_apertures import APERTURES, product
from autofit_ml.scenes.layout import Layout
from autofit_ml.weights.choice import choose_weights, network

__all__ = [
    "COEFFICIENTS",
    "KINDS",
    "ErrorModel",
    "build",
    "excesses",
    "in_natural_terms",
    "kinds_of",
    "model_covariance",
    "model_variance",
    "with_model_error",
]

KINDS = ("position", "flux", "size", "index", "ratio", "angle")
"""What a number of theta is, as far as its model error goes."""

COEFFICIENTS = ("aperture", "pooled", "gate", "curb")

_KIND = {"x": 0, "y": 0, "flux": 1, "re": 2, "q": 4, "pa": 5}

_LARGEST = 1e6
"""Of the variance, in units of that of the noise: keeps a hopeless fit's matrix finite."""


class ErrorModel(torch.nn.Module):
    """Coefficients of the model error.

    Attributes
    ----------
    aperture, pooled, gate, curb : Tensor, float64, (kinds,)
        a, c, g and h.
    noise : Tensor, float64, (kinds,)
        Mean sum of the pulls' squares under noise alone, in units of its variance.
    evidence_noise : Tensor, float64, (2,)
        Of all pulls on positions, and on all else, for each number of theta.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in (*COEFFICIENTS, "noise"):
            self.register_buffer(name, torch.zeros(len(KINDS), dtype=torch.float64))
        self.register_buffer("evidence_noise", torch.zeros(2, dtype=torch.float64))

    def forward(
        self, pulls: torch.Tensor, covariance: torch.Tensor, kinds: torch.Tensor
    ) -> torch.Tensor:
        """Variances beyond the noise, (B, K).

        Parameters
        ----------
        pulls : Tensor, (B, K, apertures)
        covariance : Tensor, (B, K, K)
            Of the noise.
        kinds : Tensor, int64, (K,)
            Places in `KINDS`.
        """
        variance = covariance.diagonal(dim1=1, dim2=2)
        beyond = self.beyond_noise(pulls, covariance, kinds)
        free = (self.get_buffer(name).to(pulls)[kinds] for name in COEFFICIENTS)
        return torch.minimum(model_variance(variance, *beyond, *free), _LARGEST * variance)

    def beyond_noise(
        self, pulls: torch.Tensor, covariance: torch.Tensor, kinds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """R and e, (B, K); arguments as in `forward`."""
        squares, evidence = excesses(pulls, covariance, kinds)
        squares = squares - self.get_buffer("noise").to(pulls)[kinds]
        alone = self.get_buffer("evidence_noise").to(pulls)
        free = covariance.diagonal(dim1=1, dim2=2) > 0
        for noise, group in zip(alone, groups(kinds), strict=True):
            evidence[:, group] -= noise * free[:, group].sum(1, keepdim=True)
        return squares.clamp_min(0), evidence.clamp_min(1e-6)


def model_variance(
    variance: torch.Tensor,
    excess: torch.Tensor,
    e: torch.Tensor,
    a: torch.Tensor,
    c: torch.Tensor,
    g: torch.Tensor,
    h: torch.Tensor,
) -> torch.Tensor:
    """Variances beyond the noise (the equation above)."""
    own = variance * (a * excess + c * e.sqrt())
    return e**4 / (e**4 + g**4) * own / (1 + own * h.square())


def groups(kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the positions, and of all else."""
    position = kinds == KINDS.index("position")
    return position.nonzero()[:, 0], (~position).nonzero()[:, 0]


def build(config: Mapping[str, Any]) -> ErrorModel:
    """The model of a bundle's description.

    Raises
    ------
    ValueError
        It is for other apertures or parameters than these.
    """
    made = config["network"]
    if tuple(made["kinds"]) != KINDS or tuple(made.get("apertures", ())) != APERTURES:
        raise ValueError("it was measured with other apertures or parameters")
    return ErrorModel()


def excesses(
    pulls: torch.Tensor, covariance: torch.Tensor, kinds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares of the pulls in units of the variance, and the evidence of its group, both (B, K).

    Summed over the apertures; arguments as `ErrorModel.forward` has them.
    """
    variance = covariance.diagonal(dim1=1, dim2=2)
    scale = torch.where(variance > 0, variance, torch.inf).rsqrt()
    unit = covariance * scale[:, :, None] * scale[:, None, :]
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    unit = unit + eye * ((variance <= 0).to(unit.dtype)[:, None] + 1e-9)
    scaled = pulls * scale[..., None]
    evidence = torch.zeros_like(variance)
    for group in groups(kinds):
        some = scaled[:, group]
        metric = unit[:, group[:, None], group]
        evidence[:, group] = (some * torch.linalg.solve(metric, some)).sum((1, 2))[:, None]
    return scaled.square().sum(2), evidence


def with_model_error(
    batch: SceneBatch,
    rows: np.ndarray,
    theta: torch.Tensor,
    covariance: torch.Tensor,
    own: Sequence[int],
    pulls: torch.Tensor,
) -> tuple[torch.Tensor | None, list[str]]:
    """`model_covariance` of some rows of a batch, and a word for those without, "" else.

    None where nothing is added to any.
    """
    settings = batch.settings
    said = [""] * len(rows)
    if not (settings.model_error and own):
        return None, said
    names = [_weights(batch.members[row], settings.weights) for row in rows]
    out = torch.zeros_like(covariance)
    for name in set(names):
        some = [k for k, other in enumerate(names) if other == name]
        if name is None:
            for k in some:
                said[k] = _NOISE_ONLY
            continue
        model = network(name, str(batch.device))
        out[some] = model_covariance(
            model, batch.layout, theta[some], covariance[some], own, pulls[some]
        )
    return out, said


_NOISE_ONLY = "errors are of the noise alone: no weights of the task errors for such images"


def _weights(member: Member, given: str) -> str | None:
    """The bundle for an object; None where there is none for images like its first."""
    try:
        return choose_weights("errors", given, member.stamp(0).pixel_scale, member.fwhm[0])
    except SettingsError:  # none is installed
        return None


def model_covariance(
    model: ErrorModel,
    layout: Layout,
    theta: torch.Tensor,
    covariance: torch.Tensor,
    own: Sequence[int],
    pulls: torch.Tensor,
) -> torch.Tensor:
    """Covariance that the model's shortcomings add to that of the noise, (B, D, D).

    Parameters
    ----------
    model : ErrorModel
    layout : Layout
    theta : Tensor, float64, (B, D)
    covariance : Tensor, float64, (B, D, D)
        Of the noise, correlated or not.
    own : sequence of int
        Numbers of theta that belong to the target.
    pulls : Tensor, (B, K, apertures)
        On these.
    """
    kinds = torch.tensor(kinds_of(layout, own), device=theta.device)
    turn, inner, pulls = in_natural_terms(layout, theta, covariance, own, pulls)
    extra = model(pulls, inner, kinds).sqrt()
    raw = inner + product(pulls, pulls.transpose(1, 2))
    spread = raw.diagonal(dim1=1, dim2=2)
    scale = extra * torch.where(spread > 0, spread, torch.inf).rsqrt()
    back = torch.linalg.inv(turn)
    added = raw * scale[:, :, None] * scale[:, None, :]
    added = product(product(back, added), back.transpose(1, 2))
    out = torch.zeros_like(covariance)
    index = torch.as_tensor(list(own), device=theta.device)
    out[:, index[:, None], index[None, :]] = (added + added.transpose(1, 2)) / 2
    return out


def kinds_of(layout: Layout, own: Sequence[int]) -> list[int]:
    """Places in `KINDS` of some numbers of theta."""
    return [_KIND.get(layout.free[j].parameter, KINDS.index("index")) for j in own]


def in_natural_terms(
    layout: Layout,
    theta: torch.Tensor,
    covariance: torch.Tensor,
    own: Sequence[int],
    pulls: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The linear map from theta to what `KINDS` are, with covariance and pulls in these.

    ln re takes the place of ln rc, and the ellipticity along and across its direction that of
    (eta1, eta2). Arguments as in `model_covariance`; (B, K, K), (B, K, K) and (B, K, apertures).
    """
    turn = _turns(layout, theta, own)
    index = torch.as_tensor(list(own), device=theta.device)
    inner = product(product(turn, covariance[:, index][:, :, index]), turn.transpose(1, 2))
    return turn, inner, product(turn, pulls)


def _turns(layout: Layout, theta: torch.Tensor, own: Sequence[int]) -> torch.Tensor:
    """Rotations from theta to ln re and ellipticity along and across its direction, (B, K, K)."""
    k = len(own)
    out = torch.eye(k, dtype=theta.dtype, device=theta.device).repeat(len(theta), 1, 1)
    place = {(layout.free[j].coordinate, layout.free[j].image, layout.free[j].order): at
             for at, j in enumerate(own)}  # fmt: skip
    for span in layout.spans:
        if not span.extended or span.shape != "eta":
            continue
        first, second, size = (span.index(name) for name in ("q", "pa", "re"))
        for (coordinate, image, order), i in list(place.items()):
            j = place.get((second, image, order))
            if coordinate != first or j is None:
                continue
            # the direction is that of the whole ellipticity, of a polynomial its constant term
            at = [own[place.get((c, image, 0), place[c, image, order])] for c in (first, second)]
            eta = theta[:, at]
            length = torch.hypot(eta[:, 0], eta[:, 1])
            round_ = length < 1e-12
            cos = torch.where(round_, 1.0, eta[:, 0] / length.clamp_min(1e-12))
            sin = torch.where(round_, 0.0, eta[:, 1] / length.clamp_min(1e-12))
            out[:, i, i], out[:, i, j], out[:, j, i], out[:, j, j] = cos, sin, -sin, cos
            if span.size != "ln_rc":
                continue
            for (other, other_image, other_order), m in place.items():
                same = image is None or other_image == image
                if other == size and other_order == order and same:
                    out[:, m, i], out[:, m, j] = cos / 2, sin / 2
    return out
