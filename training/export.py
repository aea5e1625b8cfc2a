"""From a training run to a bundle: python training/export.py RUN [--version 1.0.0] [--out FOLDER]

Takes the averaged weights of the best checkpoint (or the last, ``--last``), the resolved config and
the history and log of the run, writes ``<out>/<task>/<survey-band>@<version>/`` and enters it into
``<out>/manifest.json``. Held-out figures come from ``--metrics FILE``, which the benchmark of the
task writes (benchmarks/segmentation.py FOLDER --json FILE, on a bundle exported before).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf

from autofit_ml.catalogue.atomic import atomic_write_json
from autofit_ml.simulate.recipe import Survey
from autofit_ml.weights import WeightInfo, write_bundle
from autofit_ml.weights.bundle import describe_files
from autofit_ml.weights.manifest import MANIFEST_FORMAT, read_manifest
from checkpoints import network_state

__all__ = ["export"]


def export(
    run: str | Path,
    out: str | Path,
    version: str,
    *,
    last: bool = False,
    metrics: str | Path | None = None,
    card: str = "",
    status: str = "preview",
    half: bool = False,
) -> Path:
    """Write a bundle; its folder.

    Parameters
    ----------
    run : path
        Of training/train.py.
    out : path
        Folder with the manifest.
    version : str
        Semantic version.
    last : bool
        The last checkpoint instead of the one with the lowest validation loss.
    metrics : path, optional
        JSON of held-out figures.
    card : str
        Markdown added to the card: limits, figures, what was noticed.
    status : {"preview", "released"}
    half : bool
        Store in half precision.
    """
    run, out = Path(run), Path(out)
    training = (run / "training.yaml").read_text()
    config = yaml.safe_load(training)
    history = json.loads((run / "history.json").read_text())
    checkpoint = run / "checkpoints" / ("last.ckpt" if last else "best.ckpt")
    state = network_state(checkpoint)
    state, description = _finished(config, state)
    if half:
        state = {
            name: value.half() if value.is_floating_point() else value
            for name, value in state.items()
        }
    name = f"{config['name']}@{version}"
    folder = out / name
    figures = _finite(json.loads(Path(metrics).read_text())) if metrics else {}
    write_bundle(
        folder,
        state=state,
        config=description,
        metrics={"validation": history["validation"], "held_out": figures},
        training=training,
        card=_card(name, config, history, figures, card),
    )
    log = run / "csv" / "metrics.csv"
    if log.exists():
        (folder / "log.csv").write_bytes(log.read_bytes())
    ranges = _ranges(config)
    survey, _, band = config["name"].partition("/")[2].rpartition("-")
    info = WeightInfo(
        name=name,
        title=config["title"],
        survey="multi" if len(ranges.pop("surveys")) > 1 else survey,
        band=band,
        status=status,
        files=describe_files(folder),
        **ranges,
    )
    bundles = read_manifest(out) if (out / "manifest.json").exists() else {}
    bundles[name] = info
    entries = [dataclasses.asdict(item) for _, item in sorted(bundles.items())]
    atomic_write_json(out / "manifest.json", {"format": MANIFEST_FORMAT, "bundles": entries})
    return folder


def _finished(
    config: dict[str, Any], state: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The network's tensors with all that is measured after training, and its description."""
    settings = OmegaConf.create(config)
    task = settings.model.task
    if task == "segment":
        from segment_module import SegmentModule

        return state, SegmentModule(settings.model, 1).describe()
    if task == "initialise":
        from initialise_module import InitialiseModule, calibrated

        module = InitialiseModule(settings.model, 1)
        module.network.load_state_dict(state)
        calibrated(module, settings)
        return module.network.state_dict(), module.describe()
    if task == "deconvolve":
        from deconvolve_module import DeconvolveModule, calibrated_prior

        prior = DeconvolveModule(settings.model, 1)
        prior.network.load_state_dict(state)
        calibrated_prior(prior, settings)
        return prior.network.state_dict(), prior.describe()
    raise SystemExit(f"unknown task {task!r}")


def _ranges(config: dict[str, Any]) -> dict[str, Any]:
    """Pixel scales, PSF widths and S/N that the training sets cover."""
    from autofit_ml.simulate import compose_recipe

    if config["model"]["task"] == "deconvolve":
        from autofit_ml.deconvolve.target import TARGET_FWHM

        # In data pixels: output pixels at 1x, half as many at 2x.
        seen = config["model"]["observations"]
        low, high = (TARGET_FWHM * factor for factor in seen["fwhm"])
        return {
            "surveys": {"multi", "any"},
            "pixel_scale": (0.0, 1e9),
            "psf_fwhm": (low, high),
            "snr": tuple(seen["snr"]),
        }

    scales: list[float] = []
    widths: list[float] = []
    snr: list[float] = []
    surveys: set[str] = set()
    for entry in config["sets"]["train"]:
        for name in entry.get("surveys", []):
            recipe = compose_recipe(
                [f"data={entry['data']}", f"survey={name}", *entry.get("set", [])]
            )
            surveys.add(name)
            scales.append(recipe.survey.pixel_scale)
            widths += _widths(recipe.survey)
            target = recipe.data.target
            if target is not None and target.snr is not None:
                snr += list(target.snr)
        if "endless" in entry:
            widths += entry["endless"].get("psf_fwhm", [])
            snr += entry["endless"].get("snr", [])
        if "images" in entry:
            from cutout_sets import make_cutout_sets, ranges_of

            measured = ranges_of(make_cutout_sets([entry], config["sets"]["folder"])[0])
            scales += measured["pixel_scale"]
            widths += measured["psf_fwhm"]
            surveys.add(entry["images"])
    if not scales or not widths:
        raise SystemExit("the training sets do not say which pixel scales and PSFs they cover")
    return {
        "surveys": surveys,
        "pixel_scale": (min(scales), max(scales)),
        "psf_fwhm": (round(min(widths), 2), round(max(widths), 2)),
        "snr": (min(snr), max(snr)) if snr else (0.0, 1e9),
    }


def _widths(survey: Survey) -> list[float]:
    """FWHM of some of a survey's PSFs as they are on its pixels: 5 and 95 % points."""
    from autofit_ml.images import psf_fwhm
    from autofit_ml.simulate import draw_psf

    rng = np.random.default_rng(1)
    drawn = [psf_fwhm(draw_psf(survey.psf, survey.pixel_scale, rng)) for _ in range(60)]
    return [float(value) for value in np.percentile(drawn, [5, 95])]


def _card(
    name: str, config: dict[str, Any], history: dict[str, Any], figures: dict[str, Any], text: str
) -> str:
    """What a user should know before relying on the weights."""
    lines = [
        f"# {name}",
        "",
        config["title"] + ".",
        "",
        "## Training",
        "",
        f"- Data: {history['training_objects']} simulated images "
        f"(training.yaml names the recipes and seeds).",
        f"- {history['image_passes']} image passes in {history['steps']} steps, "
        f"{history['seconds'] / 3600:.2f} h on {history['hardware']}.",
        *([f"- Began with the weights of `{history['start']}`."] if "start" in history else []),
        "- Validation: "
        + ", ".join(f"{key} {value:.4g}" for key, value in history["validation"].items()),
        f"- Versions: {', '.join(f'{key} {value}' for key, value in history['versions'].items())}.",
        "",
    ]
    if figures:
        lines += ["## Held-out figures", "", *_figures(figures)]
    if text:
        lines += [text.strip(), ""]
    return "\n".join(lines)


def _finite(values: Any) -> Any:
    """None for NaN and infinity, which JSON does not have."""
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _figures(figures: dict[str, Any]) -> list[str]:
    """The network's own figures as tables; what they are compared with is in metrics.json."""
    lines = ["With 68 % intervals; metrics.json has the baselines' beside them.", ""]
    if "command" in figures:
        lines += [f"Measured by `{figures['command']}`.", ""]
    for part, content in figures.items():
        if not isinstance(content, dict) or "network" not in content.get("figures", {}):
            continue
        lines += [f"| {part} | value | interval | cases |", "|---|---:|---:|---:|"]
        for name, entry in content["figures"]["network"].items():
            if not entry["number"] or entry["value"] is None:
                continue
            interval = ""
            if entry["low"] is not None:
                interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
            lines.append(f"| {name} | {entry['value']:.3f} | {interval} | {entry['number']} |")
        lines.append("")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--last", action="store_true")
    parser.add_argument("--metrics", type=Path)
    parser.add_argument("--card", type=Path, help="Markdown added to the card")
    parser.add_argument("--status", choices=("preview", "released"), default="preview")
    parser.add_argument("--half", action="store_true", help="half precision")
    arguments = parser.parse_args()
    text = arguments.card.read_text() if arguments.card else ""
    print(
        export(
            arguments.run,
            arguments.out,
            arguments.version,
            last=arguments.last,
            metrics=arguments.metrics,
            card=text,
            status=arguments.status,
            half=arguments.half,
        )
    )


if __name__ == "__main__":
    main()
