"""Export of a run to a bundle: python training/export.py RUN [--version 1.0.0] [--out FOLDER]

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
import re
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import yaml

from autofit_ml.catalogue.atomic import atomic_write_json
from autofit_ml.errors import AutofitError, SettingsError
from autofit_ml.weights import WeightInfo, trained_state, write_bundle
from autofit_ml.weights.bundle import describe_files
from autofit_ml.weights.manifest import MANIFEST_FORMAT, read_manifest
from training.checkpoints import network_state
from training.settings import read_training
from training.tasks import find_task

__all__ = ["enter", "export", "portable"]


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
    average: str | Path | None = None,
) -> Path:
    """Write a bundle; its folder.

    Parameters
    ----------
    run : path
        Of `train`.
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
    average : str or path, optional
        A bundle of the same architecture: the mean of its weights and the run's is stored. So a
        network that went on with other images keeps most of what it could before (Wortsman et al.
        2022, CVPR, 7959).

    Raises
    ------
    SettingsError
        `average` is another architecture.
    """
    run, out = Path(run), Path(out)
    training = read_training(run / "training.yaml")
    task = find_task(training.task)
    history = portable(json.loads((run / "history.json").read_text()))
    module = task.module(training, 1)
    checkpoint = run / "checkpoints" / ("last.ckpt" if last else "best.ckpt")
    state = network_state(checkpoint)
    if average is not None:
        state = _mean(state, trained_state(average), average)
        history["average"] = portable(str(average))
    module.network.load_state_dict(state)
    task.finish(module, training)
    state = module.network.state_dict()
    if half:
        state = {
            name: value.half() if value.is_floating_point() else value
            for name, value in state.items()
        }
    name = f"{training.name}@{version}"
    folder = out / name
    figures = portable(_finite(json.loads(Path(metrics).read_text()))) if metrics else {}
    settings = portable(yaml.safe_load(training.yaml()))
    write_bundle(
        folder,
        state=state,
        config=module.describe(),
        metrics={"validation": history["validation"], "held_out": figures},
        training=yaml.safe_dump(settings, sort_keys=False),
        card=_card(name, training.title, history, figures, card),
    )
    log = run / "csv" / "metrics.csv"
    if log.exists():
        (folder / "log.csv").write_bytes(log.read_bytes())
    coverage = task.coverage(training)
    survey, _, band = training.name.partition("/")[2].rpartition("-")
    info = WeightInfo(
        name=name,
        title=training.title,
        survey="multi" if coverage.several else survey,
        band=band,
        pixel_scale=coverage.pixel_scale,
        psf_fwhm=coverage.psf_fwhm,
        snr=coverage.snr,
        status=status,
        files=describe_files(folder),
    )
    enter(out, info)
    return folder


def _mean(
    state: dict[str, torch.Tensor], older: dict[str, torch.Tensor], name: str | Path
) -> dict[str, torch.Tensor]:
    """The mean of two networks' floating-point tensors; what is counted is the first's."""
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in older.items()}:
        raise SettingsError(
            f"{name} has another architecture than the run", "give a bundle that the run began with"
        )
    return {k: (v + older[k]) / 2 if v.is_floating_point() else v for k, v in state.items()}


def enter(out: Path, info: WeightInfo) -> None:
    """Enter a bundle into the manifest of a folder, in place of one of the same name."""
    bundles = read_manifest(out) if (out / "manifest.json").exists() else {}
    bundles[info.name] = info
    entries = [dataclasses.asdict(item) for _, item in sorted(bundles.items())]
    atomic_write_json(out / "manifest.json", {"format": MANIFEST_FORMAT, "bundles": entries})


_ABSOLUTE = re.compile(r"(?:^|(?<=[\s='\"`(]))(?:~|[A-Za-z]:)?[/\\][^\s'\"`)]+")


def portable(value: Any, folder: Path | None = None) -> Any:
    """The same without paths of this machine.

    What lies in a folder is named from there, of other places only the last part is kept.

    Parameters
    ----------
    value : any
        Text, or lists and mappings of it.
    folder : Path, optional
        The current one.
    """
    root = Path.cwd() if folder is None else folder
    if isinstance(value, dict):
        return {name: portable(item, root) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, root) for item in value]
    if not isinstance(value, str):
        return value

    def named(found: re.Match[str]) -> str:
        path = Path(found[0])
        inside = path.is_relative_to(root)
        return path.relative_to(root).as_posix() if inside else re.split(r"[/\\]", found[0])[-1]

    return _ABSOLUTE.sub(named, value)


def _card(
    name: str, title: str, history: dict[str, Any], figures: dict[str, Any], text: str
) -> str:
    """Card: what a user should know before relying on the weights."""
    lines = [
        f"# {name}",
        "",
        title + ".",
        "",
        "## Training",
        "",
        f"- Data: {history['training_objects']} simulated images "
        f"(training.yaml names the recipes and seeds).",
        f"- {history['image_passes']} image passes in {history['steps']} steps, "
        f"{history['seconds'] / 3600:.2f} h on {history['hardware']}.",
        *([f"- Began with the weights of `{history['start']}`."] if "start" in history else []),
        *([_mean_of(history["average"])] if "average" in history else []),
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


def _mean_of(bundle: str) -> str:
    return f"- Weights are the mean of the run's (validated below) and of `{bundle}`'s."


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
    parser.add_argument("--average", metavar="BUNDLE", help="store the mean with its weights")
    arguments = parser.parse_args()
    try:
        folder = export(
            arguments.run,
            arguments.out,
            arguments.version,
            last=arguments.last,
            metrics=arguments.metrics,
            card=arguments.card.read_text() if arguments.card else "",
            status=arguments.status,
            half=arguments.half,
            average=arguments.average,
        )
    except AutofitError as error:
        sys.exit(f"export: {error}")
    print(folder)


if __name__ == "__main__":
    main()
