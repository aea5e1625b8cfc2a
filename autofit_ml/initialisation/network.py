r"""The initialising network: from a `Cutouts` to a Gaussian in the refiner's fit space.

A small residual network sees the image (two asinh stretches in units of the sky noise, what may be
used, and the target's footprint), a second branch the PSF; both meet the scalars of the cut-out.
It predicts mean and covariance of

.. math:: \Delta x,\ \Delta y,\ \ln F / F_0,\ \ln r_c / r_0,\ \ln n,\ \eta_1,\ \eta_2

relative to the cut-out's centre, flux :math:`F_0` and radius :math:`r_0` (binned pixels). The
covariance is :math:`L L^T` with a lower triangle L whose diagonal is positive. Once the network is
trained, the rows of L are scaled such that 68.3 % intervals hold 68.3 % of the truth:

.. math:: \ln s_k = a_k(\ln \sigma_k, \ln \mathrm{S/N}) + b_k(c),

with the predicted :math:`\sigma_k` of parameter k, the S/N of the light in the footprint, the
contamination c by the light of others, and two functions that run straight from knot to knot and
are constant beyond the last.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autofit_ml.initialisation.cutouts import SCALARS, SIDE, Cutouts
from autofit_ml.profiles import N_MAX, N_MIN
from autofit_ml.weights.manifest import tuples

__all__ = [
    "KNOTS",
    "SNR",
    "TARGETS",
    "USUAL_LN_N",
    "InitialiseNetwork",
    "InitialiseSettings",
    "build",
    "describe",
    "distance_from",
    "inputs_of",
    "ln_sigma_of",
    "network_inputs",
    "scale_inputs",
    "to_absolute",
    "to_relative",
]

TARGETS = ("x", "y", "ln_flux", "ln_rc", "ln_n", "eta1", "eta2")
_COUNT = len(TARGETS)
SNR = SCALARS.index("ln_snr")
_TRIANGLE = _COUNT * (_COUNT + 1) // 2
USUAL_LN_N = 0.5
"""ln n that the network's ln n is measured from."""

KNOTS = 6
"""Knots of the functions that scaled the errors of networks before 1.1.0."""

FARTHEST = 3.0
"""Standard deviations from the mean of the calibration set: what lies beyond counts as there."""


@dataclass(frozen=True)
class InitialiseSettings:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the stages, at 1/2, 1/4, 1/8 ... of the cut-out's sampling.
    blocks : tuple of int
        Residual blocks of each.
    psf_widths : tuple of int
        Channels of the PSF branch.
    hidden : int
        Of the head.
    scalars : int
        Of `SCALARS`, the first ones, that it is told; networks before 1.1.0 know five.
    """

    widths: tuple[int, ...] = (24, 48, 96, 128)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    psf_widths: tuple[int, ...] = (8, 16)
    hidden: int = 192
    scalars: int = len(SCALARS)


class _Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385).

    torchvision's ``BasicBlock``, names of weights included, without its second of import.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class InitialiseNetwork(nn.Module):
    """Mean and Cholesky factor for a batch of cut-outs.

    ``forward(images, psfs, scalars)`` takes (B, 4, SIDE, SIDE), (B, 1, PSF_SIDE, PSF_SIDE) and
    (B, len(SCALARS)), from `inputs_of`, and returns the mean (B, 7) and the lower triangle
    (B, 7, 7), in the relative parameters `TARGETS`. ``features`` gives what the head sees.
    """

    def __init__(self, settings: InitialiseSettings) -> None:
        super().__init__()
        self.settings = settings
        before = settings.widths[0]
        layers: list[nn.Module] = [
            nn.Conv2d(4, before, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
        ]
        for k, (width, blocks) in enumerate(zip(settings.widths, settings.blocks, strict=True)):
            stride = 1 if k == 0 else 2
            for i in range(blocks):
                layers.append(_Block(before, width, stride if i == 0 else 1))
                before = width
        self.trunk = nn.Sequential(*layers)
        psf_layers: list[nn.Module] = []
        channels = 1
        for width in settings.psf_widths:
            psf_layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.psf_branch = nn.Sequential(*psf_layers, nn.AdaptiveAvgPool2d(3), nn.Flatten())
        # Mean, and the parts near and far from the centre: sizes and indices are in how they
        # differ.
        joined = 3 * before + 9 * channels + settings.scalars
        self.head = nn.Sequential(
            nn.Linear(joined, settings.hidden),
            nn.LayerNorm(settings.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(inplace=True),
        )
        self.mean = nn.Linear(settings.hidden, _COUNT)
        self.triangle = nn.Linear(settings.hidden, _TRIANGLE)
        nn.init.zeros_(self.triangle.weight)
        nn.init.zeros_(self.triangle.bias)
        rows, columns = torch.tril_indices(_COUNT, _COUNT)
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_columns", columns, persistent=False)
        # Set once the network is trained (`training.tasks.initialise.calibration`).
        # Weights of what the scales depend on (`scale_inputs`), its mean and width, the offsets.
        number = settings.hidden + 3 * (_COUNT + len(SCALARS))
        self.register_buffer("scale", torch.zeros(number, _COUNT))
        self.register_buffer("scale_mean", torch.zeros(number))
        self.register_buffer("scale_width", torch.ones(number))
        self.register_buffer("scale_offset", torch.zeros(_COUNT))
        for name in ("sigma_knots", "sigma_scale", "snr_knots", "snr_scale"):
            self.register_buffer(name, torch.zeros(KNOTS, _COUNT))
        self.register_load_state_dict_pre_hook(_with_scale)
        self.register_buffer("feature_mean", torch.zeros(settings.hidden))
        self.register_buffer("feature_root", torch.eye(settings.hidden))
        self.register_buffer("usual_distance", torch.tensor(torch.inf))
        self.register_buffer("usual_chi2", torch.tensor(torch.inf))

    def features(
        self, images: torch.Tensor, psfs: torch.Tensor, scalars: torch.Tensor
    ) -> torch.Tensor:
        """(B, hidden)."""
        maps = self.trunk(images)
        side = maps.shape[-1]
        middle = maps[..., side // 4 : side - side // 4, side // 4 : side - side // 4]
        joined = torch.cat(
            [
                maps.mean((-2, -1)),
                middle.mean((-2, -1)),
                middle.amax((-2, -1)),
                self.psf_branch(psfs),
                scalars[:, : self.settings.scalars],
            ],
            dim=1,
        )
        return self.head(joined)

    def forward(
        self, images: torch.Tensor, psfs: torch.Tensor, scalars: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.gaussian(self.features(images, psfs, scalars), scalars)

    def gaussian(
        self, features: torch.Tensor, scalars: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (B, 7) and lower triangle (B, 7, 7) from `features`."""
        mean, lower = self.uncalibrated(features)
        with torch.no_grad():
            scale = self.ln_scale(features, ln_sigma_of(lower), scalars).exp().to(lower.dtype)
        return mean, lower * scale[..., None]

    def uncalibrated(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same without the scales that are measured once it is trained."""
        mean = self.mean(features)
        numbers = self.triangle(features)
        lower = numbers.new_zeros((len(numbers), _COUNT, _COUNT))
        lower[:, self._rows, self._columns] = numbers
        diagonal = torch.diagonal(lower, dim1=-2, dim2=-1)
        positive = torch.nn.functional.softplus(diagonal - 1.5) + 1e-3
        lower = torch.tril(lower, -1) + torch.diag_embed(positive)
        return mean, lower

    def ln_scale(
        self, features: torch.Tensor, ln_sigma: torch.Tensor, scalars: torch.Tensor
    ) -> torch.Tensor:
        """ln of what each sigma (B, 7) is multiplied with."""
        out = self.standardised(features, ln_sigma, scalars) @ self.get_buffer("scale")
        out = out + self.get_buffer("scale_offset")
        for name, at in (("sigma", ln_sigma), ("snr", scalars[:, SNR, None])):
            knots = (self.get_buffer(f"{name}_{of}") for of in ("knots", "scale"))
            out = out + _between(at, *knots)
        return out

    def standardised(
        self, features: torch.Tensor, ln_sigma: torch.Tensor, scalars: torch.Tensor
    ) -> torch.Tensor:
        """Standardised `scale_inputs`, (B, inputs)."""
        inputs = scale_inputs(features, ln_sigma, scalars) - self.get_buffer("scale_mean")
        return (inputs / self.get_buffer("scale_width")).clamp(-FARTHEST, FARTHEST)

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance of features from those of the training set, (B,); about 1."""
        return distance_from(
            features, self.get_buffer("feature_mean"), self.get_buffer("feature_root")
        )


def _with_scale(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Bundles before 1.1.0 have a function of the predicted error and one of the S/N, no more."""
    for name in ("scale", "scale_mean", "scale_width", "scale_offset"):
        state.setdefault(prefix + name, module.get_buffer(name))


def scale_inputs(
    features: torch.Tensor, ln_sigma: torch.Tensor, scalars: torch.Tensor
) -> torch.Tensor:
    """Features, predicted errors and scalars; of the latter two the squares and products with S/N.

    (B, hidden + 39).
    """
    few = torch.cat([ln_sigma, scalars], dim=1)
    return torch.cat([features.float(), few, few.square(), few * scalars[:, SNR, None]], dim=1)


def distance_from(features: torch.Tensor, centre: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Distance of features (B, D) in the metric of a root of an inverse covariance, (B,)."""
    return ((features.float() - centre) @ root).square().mean(1).sqrt()


def _between(at: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Straight lines between knots, constant beyond: (B, 7) from knots (KNOTS, 7)."""
    width = places.diff(dim=0).clamp_min(1e-6)
    share = ((at[:, None] - places[:-1]) / width).clamp(0, 1)
    return values[0] + (share * values.diff(dim=0)).sum(1)


def ln_sigma_of(lower: torch.Tensor) -> torch.Tensor:
    """ln of the standard deviations (B, 7) of a lower triangle."""
    return 0.5 * lower.float().square().sum(2).log()


def inputs_of(
    cut: Cutouts, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, PSFs and scalars of the network."""
    return network_inputs(
        *(
            torch.as_tensor(array, device=device)
            for array in (cut.data, cut.root_weight, cut.footprint, cut.psf, cut.scalars)
        )
    )


def network_inputs(
    data: torch.Tensor,
    root_weight: torch.Tensor,
    footprint: torch.Tensor,
    psf: torch.Tensor,
    scalars: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same from tensors, shapes as in `Cutouts`."""
    usable = root_weight > 0
    images = torch.stack(
        [
            torch.asinh(data) / 3,
            torch.asinh(data / 20),
            usable.to(data.dtype),
            (footprint & usable).to(data.dtype),
        ],
        dim=1,
    )
    psfs = psf[:, None] / psf.amax((-2, -1))[:, None, None, None].clamp_min(1e-6)
    return images, psfs, scalars


def to_relative(cut: Cutouts, theta: torch.Tensor) -> torch.Tensor:
    """Fit-space parameters in stamp pixels and image units as the network's targets.

    Parameters
    ----------
    cut : Cutouts
    theta : Tensor, float64, shape (B, 7) or more columns
        x, y, ln flux, ln rc, ln n, eta1, eta2.
    """
    shift, scale = _affine(cut, theta.device)
    return (theta[:, :_COUNT] - shift) / scale


def to_absolute(
    cut: Cutouts, mean: torch.Tensor, lower: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's Gaussian in fit space: mean (B, 7), covariance (B, 7, 7), float64."""
    shift, scale = _affine(cut, mean.device)
    wide = lower.to(torch.float64) * scale[..., None]
    return mean.to(torch.float64) * scale + shift, wide @ wide.transpose(-1, -2)


def _affine(cut: Cutouts, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale from relative to absolute parameters, float64, (B, 7)."""

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64, device=device)

    b = tensor(cut.binning)
    shift = torch.zeros((len(b), _COUNT), dtype=torch.float64, device=device)
    # The square's pixel (i, j) spans the stamp's from corner + i b on.
    shift[:, :2] = tensor(cut.corner) + (tensor(cut.centre) + 0.5) * b[:, None]
    shift[:, 2] = (tensor(cut.flux) * tensor(cut.unit)).log()
    shift[:, 3] = (0.5 * tensor(cut.radius) * b).log()
    shift[:, 4] = USUAL_LN_N
    scale = torch.ones_like(shift)
    scale[:, :2] = b[:, None]
    return shift, scale


def build(config: Mapping[str, Any]) -> InitialiseNetwork:
    """A network from a bundle's ``config.json``.

    Raises
    ------
    KeyError, TypeError, ValueError
        The configuration is not one of this version's.
    """
    if config["architecture"] != "initialise-resnet":
        raise ValueError(f"unknown architecture {config['architecture']!r}")
    if config["side"] != SIDE:
        raise ValueError(f"cut-outs of {config['side']} pixels, this version has {SIDE}")
    return InitialiseNetwork(InitialiseSettings(**{"scalars": 5, **tuples(config["network"])}))


def describe(network: InitialiseNetwork) -> dict[str, Any]:
    """The part of a bundle's ``config.json`` from which `build` makes the network again."""
    return {
        "task": "initialise",
        "format": 1,
        "architecture": "initialise-resnet",
        "side": SIDE,
        "network": dataclasses.asdict(network.settings),
        "targets": list(TARGETS),
        "n_range": [N_MIN, N_MAX],
        "units": "binned pixels; fluxes in units of the sky noise of a binned pixel",
    }
