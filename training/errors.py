"""Measure the model error of Sérsic fits: python training/errors.py [name=value ...]

Galaxies with known truth are simulated and fitted, families of them that Sérsic profiles describe
and families that they do not; the coefficients of `autofit_ml.fitting.model_error` are those of the
largest likelihood of the deviations (Student's t, each family and each range of S/N with the same
weight), drawn towards each other over the kinds of parameters: what a family does not tell of one
kind (how far lopsided light is off a centre) the others do. Overrides are Hydra's, over
``conf/errors.yaml``. The bundle goes into ``out`` with its card, and into the manifest.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import yaml
from scipy import stats

from autofit_ml.catalogue.flags import FATAL
from autofit_ml.fitting import RefineSettings, SceneFit, refine
from autofit_ml.fitting.model_error import (
    COEFFICIENTS,
    KINDS,
    ErrorModel,
    excesses,
    groups,
    in_natural_terms,
    model_variance,
)
from autofit_ml.fitting.residual_apertures import APERTURES
from autofit_ml.simulation import compose_recipe, simulate_one
from autofit_ml.simulation.compose import config_folder
from autofit_ml.simulation.objects import to_stamps
from autofit_ml.weights import WeightInfo, write_bundle
from autofit_ml.weights.bundle import describe_files
from training.export import enter, portable
from training.settings import typed

__all__ = [
    "COLUMNS",
    "SNR_EDGES",
    "Calibration",
    "Measured",
    "calibrate",
    "coverage",
    "errors_of",
    "measured",
    "settings",
]

SNR_EDGES = (20.0, 50.0, 150.0, 500.0, np.inf)
_POSITION, _SIZE, _INDEX = (KINDS.index(kind) for kind in ("position", "size", "index"))
COLUMNS = ("x", "y", "flux", "re", "n", "q", "pa")
"""Of `Measured.off`."""
_KINDS = torch.tensor([0, 0, 1, 2, 3, 4, 5])
"""What they are, in `KINDS`."""


@dataclass(frozen=True)
class Calibration:
    """Settings in ``conf/errors.yaml``.

    Attributes
    ----------
    name, title, version : str
    run, out : str
        Folders of what was measured, and of bundles.
    seed, chunk : int
    surveys : tuple of str
    degrees, together : float
        Of freedom of Student's t; weight of the coefficients' scatter over the kinds, in ln.
    families : mapping
        Name -> {"recipe", "count" (galaxies of each survey), "weight"}.
    pixel_scale, psf_fwhm : (low, high)
    """

    name: str
    title: str
    version: str
    run: str
    out: str
    seed: int
    chunk: int
    surveys: tuple[str, ...]
    degrees: float
    together: float
    families: Mapping[str, Mapping[str, Any]]
    pixel_scale: tuple[float, float]
    psf_fwhm: tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """Usable fits of N galaxies with known truth, in the terms of `KINDS`.

    Attributes
    ----------
    off : ndarray, (N, 7)
        Truth less fit of x, y, ln flux, ln re, ln n and the ellipticity along and across; NaN
        where there is no truth.
    covariance : ndarray, (N, 7, 7)
        Of the noise.
    pulls : ndarray, (N, 7, apertures)
    snr : ndarray, (N,)
        Of the fit.
    fitted : int
        Galaxies, the unusable ones included.
    """

    off: np.ndarray
    covariance: np.ndarray
    pulls: np.ndarray
    snr: np.ndarray
    fitted: int

    @property
    def bins(self) -> np.ndarray:
        """Range of S/N in `SNR_EDGES`, -1 below the first."""
        return np.digitize(self.snr, SNR_EDGES) - 1

    @classmethod
    def join(cls, parts: Sequence[Measured]) -> Measured:
        """Several as one."""
        names = ("off", "covariance", "pulls", "snr")
        arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        return cls(arrays[0], arrays[1], arrays[2], arrays[3], sum(part.fitted for part in parts))


def settings(overrides: Sequence[str] = ()) -> Calibration:
    """``conf/errors.yaml`` with overrides.

    Raises
    ------
    SettingsError
        A name that is not known, or one that is missing.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("errors", overrides=list(overrides))
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return typed(Calibration, values)


def measured(calibration: Calibration, family: str, survey: str, seed: int) -> Measured:
    """Simulate and fit a set; what is in the run's folder is read."""
    parts = []
    recipe = compose_recipe([*calibration.families[family]["recipe"], f"survey={survey}"])
    count = int(calibration.families[family]["count"])
    for first in range(0, count, calibration.chunk):
        numbers = range(first, min(first + calibration.chunk, count))
        path = Path(calibration.run) / f"{family}-{survey}-{seed}-{first:06d}.npz"
        if not path.exists():
            print(path.name, flush=True)
            objects = [simulate_one(recipe, k, seed) for k in numbers]
            fits = refine(to_stamps(objects), settings=RefineSettings(model_error=False))
            part = _compared(fits, [one.truth[0] for one in objects])
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **dataclasses.asdict(part))
        with np.load(path) as kept:
            parts.append(Measured(**{name: kept[name] for name in kept}))
    return Measured.join(parts)


def _compared(fits: Sequence[SceneFit], truths: Sequence[np.void]) -> Measured:
    """Usable fits beside their truths."""
    rows: list[tuple[list[float], np.ndarray, np.ndarray, float]] = []
    for fit, truth in zip(fits, truths, strict=True):
        if fit.flags & int(FATAL) or fit.layout is None:
            continue
        own = list(range(7))
        theta = torch.as_tensor(fit.theta[None])
        _, covariance, pulls = in_natural_terms(
            fit.layout, theta, torch.as_tensor(fit.theta_cov_stat[None]), own,
            torch.as_tensor(fit.pulls[None]),
        )  # fmt: skip
        value = {name.rpartition(".")[2]: fit[name] for name in fit.names[: len(own)]}
        with np.errstate(invalid="ignore"):
            logs = [np.log(truth[name] / value[name]) for name in ("flux", "re", "n")]
        eta = -np.log(value["q"])
        turned = np.deg2rad((truth["pa"] - value["pa"] + 90) % 180 - 90)
        off = [truth["x"] - value["x"], truth["y"] - value["y"], *logs]
        off += [-np.log(truth["q"]) - eta, 2 * eta * turned]
        if bool((covariance[0].diagonal() > 0).all()):
            rows.append((off, covariance[0].numpy(), pulls[0].numpy(), fit.snr))
    parts = [np.array(part) for part in zip(*rows, strict=True)]
    return Measured(parts[0], parts[1], parts[2], parts[3], len(truths))


def errors_of(model: ErrorModel, some: Measured) -> np.ndarray:
    """Total errors of the columns of `Measured.off`, (N, 7)."""
    covariance = torch.as_tensor(some.covariance)
    extra = model(torch.as_tensor(some.pulls), covariance, _KINDS)
    return (covariance.diagonal(dim1=1, dim2=2) + extra).sqrt().detach().numpy()


def calibrate(
    sets: Mapping[str, Measured], weights: Mapping[str, float], degrees: float, together: float
) -> ErrorModel:
    """The coefficients of the largest likelihood, as an `ErrorModel`.

    Parameters
    ----------
    sets : mapping of str to Measured
        By family; "sersic" says what noise alone does.
    weights : mapping of str to float
    degrees, together : float
        See `Calibration`. Errors are half of the 68.3 % interval of Student's t.
    """
    model = ErrorModel()
    _measure_noise(model, sets["sersic"])
    # no index is the truth of a galaxy that is no Sérsic profile
    known = [kind for kind in range(len(KINDS)) if kind != _INDEX]
    data = _deviations(model, sets, weights, stats.t.ppf(0.5 + 0.6827 / 2, degrees))
    start = torch.full((len(known), len(COEFFICIENTS)), -0.5, dtype=torch.float64)
    logs = start.requires_grad_(True)
    optimiser = torch.optim.LBFGS([logs], lr=0.5, max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        alike = logs[:, :-1]  # curbs have units
        total = together * (alike - alike.mean(0)).square().sum() + 1e-3 * logs.square().sum()
        free = _coefficients(logs)
        for kind, weight, variance, *beyond, square in data:
            added = model_variance(variance, *beyond, *free[known.index(kind)])
            ratio = 1 + added / variance
            each = (degrees + 1) / 2 * torch.log1p(square / ratio / degrees) + ratio.log() / 2
            total = total + weight * each.mean()
        total.backward()
        return total

    optimiser.step(loss)
    for name, values in zip(COEFFICIENTS, _coefficients(logs.detach()).T, strict=True):
        of(model, name)[known] = values
        of(model, name)[_INDEX] = of(model, name)[_SIZE]
    return model


def _coefficients(logs: torch.Tensor) -> torch.Tensor:
    """Coefficients of all kinds but the index; positions are not curbed."""
    out = logs.exp().clone()
    out[_POSITION, -1] = 0
    return out


def of(model: ErrorModel, name: str) -> torch.Tensor:
    """One of its buffers."""
    return model.get_buffer(name)


def _measure_noise(model: ErrorModel, pure: Measured) -> None:
    """Means of the excesses where the model is right."""
    squares, evidence = excesses(
        torch.as_tensor(pure.pulls), torch.as_tensor(pure.covariance), _KINDS
    )
    of(model, "noise").copy_(
        torch.stack([squares[:, kind == _KINDS].mean() for kind in range(len(KINDS))])
    )
    for k, group in enumerate(groups(_KINDS)):
        of(model, "evidence_noise")[k] = evidence[:, group].mean() / len(group)


def _deviations(
    model: ErrorModel, sets: Mapping[str, Measured], weights: Mapping[str, float], half: float
) -> list[tuple[int, float, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Kind, weight, V, R, e and squares of the deviations by column, family and range of S/N.

    Squares are in units of the variance of the noise, times that of `half`.
    """
    out = []
    for family, some in sets.items():
        covariance = torch.as_tensor(some.covariance)
        excess, e = model.beyond_noise(torch.as_tensor(some.pulls), covariance, _KINDS)
        for j, kind in enumerate(_KINDS.tolist()):
            square = torch.as_tensor(some.off[:, j]).square() / covariance[:, j, j]
            for b in range(len(SNR_EDGES) - 1):
                at = torch.as_tensor(some.bins == b).logical_and(square.isfinite())
                if kind != _INDEX and bool(at.any()):
                    part = (covariance[at, j, j], excess[at, j], e[at, j], square[at] * half**2)
                    out.append((kind, weights[family], *part))
    return out


def coverage(model: ErrorModel, some: Measured) -> dict[str, Any]:
    """Coverage in ranges of S/N: galaxies, shares within 1 and 2 errors, and total over noise."""
    errors, noise = errors_of(model, some), np.sqrt(np.diagonal(some.covariance, 0, 1, 2))
    out: dict[str, Any] = {}
    for b, low in enumerate(SNR_EDGES[:-1]):
        at = some.bins == b
        if not at.any():
            continue
        figures: dict[str, Any] = {"galaxies": int(at.sum())}
        for j, name in enumerate(COLUMNS):
            size = np.abs(some.off[at, j]) / errors[at, j]
            if np.isfinite(size).any():
                size = size[np.isfinite(size)]
                figures[name] = {
                    "before": float(np.mean(np.abs(some.off[at, j]) < noise[at, j])),
                    "within 1": float(np.mean(size < 1)),
                    "within 2": float(np.mean(size < 2)),
                    "total over noise": float(np.median(errors[at, j] / noise[at, j])),
                }
        out[f"{low:g}"] = figures
    return out


def export(calibration: Calibration, model: ErrorModel, sets: Mapping[str, Measured]) -> Path:
    """Write the bundle and enter it into the manifest; its folder."""
    name = f"{calibration.name}@{calibration.version}"
    folder = Path(calibration.out) / name
    figures = {family: coverage(model, some) for family, some in sets.items()}
    plain = json.loads(json.dumps(dataclasses.asdict(calibration)))
    write_bundle(
        folder,
        state=dict(model.named_buffers()),
        config={
            "task": "errors",
            "format": 1,
            "architecture": "excess of nested apertures",
            "network": {"kinds": list(KINDS), "apertures": list(APERTURES)},
        },
        metrics={"training": figures},
        training=yaml.safe_dump(portable(plain), sort_keys=False),
        card=_card(name, calibration, model, sets),
    )
    info = WeightInfo(
        name=name,
        title=calibration.title,
        pixel_scale=calibration.pixel_scale,
        psf_fwhm=calibration.psf_fwhm,
        snr=(SNR_EDGES[0], 3000.0),
        status="released",
        files=describe_files(folder),
    )
    enter(Path(calibration.out), info)
    return folder


def _card(
    name: str, calibration: Calibration, model: ErrorModel, sets: Mapping[str, Measured]
) -> str:
    """Card: what a user should know before relying on the errors."""
    columns = (*COEFFICIENTS, "noise")
    alone = of(model, "evidence_noise").tolist()
    lines = [
        f"# {name}",
        "",
        f"{calibration.title}. The equation is in `autofit_ml/fitting/model_error.py`; "
        "docs/errors.md says how well it holds for other galaxies and surveys.",
        "",
        "## Measured on",
        "",
    ]
    for family, some in sets.items():
        recipe = " ".join(calibration.families[family]["recipe"])
        lines.append(
            f"- {family}: {len(some.snr)} usable fits of {some.fitted} galaxies in "
            f"{', '.join(calibration.surveys)} (`{recipe}`, seed {calibration.seed})"
        )
    lines += [
        "",
        "Fits of one Sérsic profile with the default segmentation and start, isolated galaxies.",
        "",
        "## Coefficients",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    for k, kind in enumerate(KINDS):
        cells = (f"{of(model, item)[k].item():.3g}" for item in columns)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Evidence under noise alone: {alone[0]:.3g} a position, {alone[1]:.3g} another parameter. "
        "The index has the coefficients of the size: galaxies that are no Sérsic profiles have no "
        "true one.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    calibration = settings(sys.argv[1:])
    sets = {
        family: Measured.join(
            [measured(calibration, family, survey, calibration.seed)
             for survey in calibration.surveys]
        )
        for family in calibration.families
    }  # fmt: skip
    weights = {family: float(one["weight"]) for family, one in calibration.families.items()}
    model = calibrate(sets, weights, calibration.degrees, calibration.together)
    print(export(calibration, model, sets))


if __name__ == "__main__":
    main()
