"""Who finds what: the network against tuned sep. python benchmarks/segmentation.py WEIGHTS

Held-out simulations: blends of every survey of the family (recipe ``blends``, seed 9001), close
pairs (the same, three neighbours of which 80 % are near the target, seed 9002), and a frame
(recipe ``frame``; of the ground: ``validation/frame``). What is asked for are the sources with S/N
over 5 and masks of 5 pixels and more; see `autofit_ml.segmentation.evaluation`.

sep is tuned first: a random search over its settings on 160 images of the training sets, for the
sum of completeness, purity, the target's overlap and right pairs. Then the same refiner fits the
blends with the masks of each, and the errors of re, flux and n are compared.

With ``--speed`` instead: our forward pass beside torchvision's over the same weights and without a
threshold for proposals, on new images (seed 9004), faint ones among them; the two take turns, 16
images at a time, in one process with one thread, and what is compared is processor time.

With ``--hard``: a row for each recipe of what fooled networks before, the held-out sets of
``conf/experiment/segment_ground.yaml`` and ``segment_space.yaml``.

With ``--against OLDER``: what the network gains on another one, on the same images.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from documents import machine, markdown_table, write_section
from instance_figures import MIN_PIXELS, MIN_SNR, Comparison, compare, figures

from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.images.stamp import Frame
from autofit_ml.initialisation import initialise
from autofit_ml.measure import psf_fwhm
from autofit_ml.scenes import CATALOGUE_PARAMETERS
from autofit_ml.segmentation import Segmentation, SepSettings, detect_sources, segment_sep
from autofit_ml.segmentation.channels import prepare
from autofit_ml.segmentation.maskrcnn import segment_maskrcnn
from autofit_ml.segmentation.tiles import detect_instances
from autofit_ml.simulation import SimulatedObject, compose_recipe, simulate_one, to_stamps
from autofit_ml.weights import load, trained_state, weight_info
from training.settings import compose
from training.tasks.segment.network import TrainableNetwork

FAMILIES = {
    "ground": ("sdss-r", "legacysurvey-r", "kids-r", "hsc-i"),
    "space": ("hst-acs-f814w", "euclid-vis", "jwst-f200w"),
}
FRAMES = {
    "ground": ["data=validation/frame"],
    "space": [
        *("data=frame", "survey=euclid-vis", "data.shape=[1489,2048]"),
        *("data.neighbours.magnitude=[16,25]", "data.neighbours.faint_magnitude=27"),
    ],
}
_SMALL, _FAINT = "data.shape=[64,64]", "data.target.snr=[5,20]"
SPEED = {
    "blends, 128 x 128": ["data=blends"],
    "blends, 64 x 64": ["data=blends", _SMALL],
    "faint blends, 128 x 128": ["data=blends", _FAINT],
    "faint blends, 64 x 64": ["data=blends", _SMALL, _FAINT],
    "single, 128 x 128": ["data=single", "data.shape=[128,128]"],
    "single, 64 x 64": ["data=single"],
    "faint single, 64 x 64": ["data=single", _FAINT],
}
"""Faint: targets of S/N 5 to 20."""
PAIRS = [
    *("data.neighbours.number=3", "data.neighbours.clustering.fraction=0.8"),
    "data.neighbours.clustering.scale=7",
]

Segmenter = Callable[[list[SimulatedObject]], list[Segmentation]]


def blends_of(
    surveys: Sequence[str],
    each: int,
    seed: int,
    overrides: Sequence[str] = (),
    data: str = "data=blends",
) -> list[SimulatedObject]:
    """Blends (or another recipe's images) of several surveys."""
    return [
        simulate_one(compose_recipe([data, f"survey={name}", *overrides]), k, seed)
        for name in surveys
        for k in range(each)
    ]


def compared(objects: list[SimulatedObject], found: list[Segmentation]) -> list[Comparison]:
    """Every image against its truth."""
    return [
        compare(
            result.labels,
            item.labels,
            item.truth,
            signal=(item.data - item.sky) / item.sigma,
            fwhm=psf_fwhm(item.psf),
            classes=result.classes,
            target=result.target,
        )
        for item, result in zip(objects, found, strict=True)
    ]


def by_sep(settings: SepSettings) -> Segmenter:
    """sep with given settings."""
    return lambda objects: [segment_sep(stamp, settings) for stamp in to_stamps(objects)]


def tuned_sep(surveys: Sequence[str], trials: int) -> SepSettings:
    """The best of a random search on images of the training sets."""
    each = 80 // len(surveys)
    objects = blends_of(surveys, each, 101) + blends_of(surveys, each, 104, PAIRS)
    rng = np.random.default_rng(5)
    best, highest = SepSettings(), -np.inf
    for trial in range(trials):
        settings = SepSettings()
        if trial:
            settings = dataclasses.replace(
                settings,
                threshold=float(rng.uniform(1.5, 7.0)),
                min_area=int(rng.integers(3, 9)),
                deblend_levels=int(rng.choice([32, 64])),
                deblend_contrast=float(10 ** rng.uniform(-4.5, -1.7)),
                min_excess=float(rng.uniform(0.15, 0.7)),
                min_excess_snr=float(rng.uniform(3, 12)),
                min_island_snr=float(rng.uniform(3, 8)),
            )
        got = figures(compared(objects, by_sep(settings)(objects)), resamples=0)
        value = (
            got["completeness, S/N over 10"]["value"]
            + got["purity, S/N over 10"]["value"]
            + got["target IoU, median"]["value"]
            - got["wrong pairs at 1-2 FWHM"]["value"]
        )
        if value > highest:
            best, highest = settings, value
    return best


def average_precision(objects: list[SimulatedObject], network: Any) -> float:
    """AP50 of the masks, classes told apart."""
    from torchmetrics.detection import MeanAveragePrecision
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    metric = MeanAveragePrecision(iou_type="segm", iou_thresholds=[0.5])
    metric.warn_on_many_detections = False
    usual = network.settings
    network.settings = dataclasses.replace(usual, score=0.05, objectness=0.0)
    for item in objects:
        channels = prepare(torch.as_tensor(item.data), item.sky, item.sky_rms, psf_fwhm(item.psf))
        with torch.no_grad():
            out = network([channels])[0]
        masks = paste_masks_in_image(out["masks"], out["boxes"], item.data.shape)[:, 0] > 0.5
        asked = np.flatnonzero(
            (item.truth["n_pixels"] >= MIN_PIXELS) & (item.truth["snr"] >= MIN_SNR)
        )
        true = torch.as_tensor(item.labels)[None] == torch.as_tensor(asked + 1)[:, None, None]
        kinds = [2 if item.truth["kind"][k] == "star" else 1 for k in asked]
        metric.update(
            [{"masks": masks, "scores": out["scores"], "labels": out["labels"]}],
            [{"masks": true, "labels": torch.tensor(kinds, dtype=torch.int64)}],
        )
    network.settings = usual
    return float(metric.compute()["map_50"])


def fit_errors(
    objects: list[SimulatedObject], found: list[Segmentation]
) -> dict[str, dict[str, float]]:
    """Median and 90th percentile of the absolute errors of the fitted targets."""
    stamps = to_stamps(objects)
    starts = initialise(stamps, found)
    results = refine(stamps, None, starts, found, RefineSettings())
    value = dict(zip(CATALOGUE_PARAMETERS, results.values.T, strict=True))
    truth = np.stack([item.truth[0] for item in objects])
    galaxy = truth["kind"] != "star"
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = {
            "re, dex": np.abs(np.log10(value["re"] / truth["re"])),
            "flux, mag": np.abs(2.5 * np.log10(value["flux"] / truth["flux"])),
            "n, dex": np.abs(np.log10(value["n"] / truth["n"])),
        }
    out = {}
    for name, error in errors.items():
        known = galaxy & np.isfinite(truth["n"] if name.startswith("n") else truth["re"])
        # A fit that failed is as wrong as can be.
        some = np.where(np.isfinite(error), error, np.inf)[known]
        out[name] = {
            "median": float(np.median(some)),
            "90 %": float(np.percentile(some, 90, method="lower")),
            "number": int(known.sum()),
        }
    return out


def frame_of(family: str) -> SimulatedObject:
    """The held-out frame."""
    return simulate_one(compose_recipe(FRAMES[family]), 0, 9003)


def to_frame(item: SimulatedObject) -> Frame:
    """A simulated frame as the pipeline reads it."""
    stamp = to_stamps([item])[0]
    return Frame(
        id=stamp.id,
        data=stamp.data,
        sigma=stamp.sigma,
        mask=stamp.mask,
        psf=stamp.psf,
        pixel_scale=stamp.pixel_scale,
    )


def table_cell(entry: dict[str, float] | None) -> str:
    """A figure with half of its 68 % interval."""
    if entry is None or not np.isfinite(entry["value"]):
        return "-"
    half = (entry["high"] - entry["low"]) / 2
    return f"{entry['value']:.3f}" + (f" ± {half:.3f}" if np.isfinite(half) else "")


def table(columns: dict[str, dict[str, dict[str, float]]]) -> str:
    """Figures beside each other, with half of their 68 % interval."""
    first = next(iter(columns.values()))
    rows = [
        [name, str(entry["number"]), *(table_cell(column.get(name)) for column in columns.values())]
        for name, entry in first.items()
        if entry["number"]
    ]
    return markdown_table(["figure", "cases", *columns], rows)


def speed(weights: str, network: Any, surveys: Sequence[str], each: int) -> str:
    """Our forward pass beside torchvision's: times, and whether they find the same."""
    torch.set_num_threads(1)
    settings = dataclasses.replace(network.settings, objectness=0.0)
    reference = TrainableNetwork(settings, network.preprocessing).eval()
    reference.load_state_dict(trained_state(weights))
    header = ["images", "number", "same labels", "target IoU, torchvision's", "ours",
              "completeness at S/N 5-10, torchvision's", "ours",
              "ms a stamp, torchvision's", "ours", "ratio"]  # fmt: skip
    rows = []
    for name, recipe in SPEED.items():
        objects = blends_of(surveys, each, 9004, recipe[1:], recipe[0])
        found: list[list[Segmentation]] = [[], []]
        seconds = [0.0, 0.0]
        for start in range(0, len(objects), 16):
            for k, one in enumerate((reference, network)):
                stamps = to_stamps(objects[start : start + 16])
                began = time.thread_time()
                found[k] += segment_maskrcnn(stamps, one)
                seconds[k] += time.thread_time() - began
        same = [np.array_equal(a.labels, b.labels) for a, b in zip(*found, strict=True)]
        against = [compared(objects, some) for some in found]
        iou = [float(np.nanmean([one.target for one in some])) for some in against]
        complete = [
            figures(some, resamples=0)["completeness, S/N 5-10"]["value"] for some in against
        ]
        took = [1e3 * value / len(objects) for value in seconds]
        rows.append([
            name, f"{len(objects)}", f"{100 * np.mean(same):.1f} %", *(f"{x:.4f}" for x in iou),
            *(f"{x:.3f}" if np.isfinite(x) else "-" for x in complete),
            *(f"{x:.1f}" for x in took), f"{took[1] / took[0]:.2f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return f"Measured on {machine()}.\n\n" + markdown_table(header, rows)


HARD = (
    *("completeness, S/N over 10", "purity, S/N over 10", "target IoU, median"),
    *(
        "target IoU, 10th percentile",
        "wrong pairs at 1-2 FWHM",
        "star/galaxy accuracy, S/N over 20",
    ),
)


def hard_sets(family: str, most: int) -> Iterator[tuple[str, list[SimulatedObject]]]:
    """Held-out sets of what fooled networks: names, and `most` images a survey."""
    for entry in compose([f"experiment=segment_{family}"]).sets.test:
        number, overrides = min(most, int(entry["count"])), entry.get("set", [])
        surveys, data = entry["surveys"], f"data={entry['data']}"
        what = entry["data"] + (", coarse" if entry["data"] == "blends" else "")
        objects = blends_of(surveys, number, int(entry["seed"]), overrides, data)
        yield f"{what}: {', '.join(surveys)}", objects


def hard(network: Any, family: str, most: int) -> str:
    """A row of figures for each held-out set of what fooled networks, of `most` images a survey."""
    rows = []
    for what, objects in hard_sets(family, most):
        got = figures(compared(objects, segment_maskrcnn(to_stamps(objects), network)))
        cells = [table_cell(got[name]) for name in HARD]
        rows.append([what, str(len(objects)), *cells])
        print(rows[-1], flush=True)
    return markdown_table(["images", "number", *HARD], rows)


GAINS = (*HARD, "completeness, 300-1500 pixels", "wrong pairs at 2-4 FWHM")


def gains(network: Any, older: Any, family: str, most: int) -> str:
    """Differences of figures on the same images, their errors from resampling the images."""
    sets = [
        ("blends", blends_of(FAMILIES[family], most, 9001)),
        ("close pairs", blends_of(FAMILIES[family], most, 9002, PAIRS)),
    ]
    rows = []
    for what, objects in itertools.chain(sets, hard_sets(family, most)):
        stamps = to_stamps(objects)
        pair = [compared(objects, segment_maskrcnn(stamps, one)) for one in (older, network)]
        rows.append([what, str(len(objects)), *_differences(pair)])
        print(rows[-1], flush=True)
    item = frame_of(family)
    frame, fwhm = to_frame(item), psf_fwhm(item.psf)
    pair = []
    for one in (older, network):
        found = detect_instances(frame, one, fwhm=fwhm)
        pair.append([compared_frame(item, found.labels, found.classes)])
    rows.append(["frame", "1", *_differences(pair, resamples=0)])
    return markdown_table(["images", "number", *GAINS], rows)


def _differences(pair: Sequence[Sequence[Comparison]], resamples: int = 100) -> list[str]:
    """The older's figure and what is added to it, for each of `GAINS`."""
    before, after = (figures(some, resamples=0) for some in pair)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        pick = rng.integers(0, len(pair[0]), len(pair[0]))
        low, high = (figures([some[k] for k in pick], resamples=0) for some in pair)
        drawn.append([high[name]["value"] - low[name]["value"] for name in GAINS])
    drawn = drawn or [[np.nan] * len(GAINS)]
    scatter = np.ma.std(np.ma.masked_invalid(drawn), axis=0).filled(np.nan)
    cells = []
    for name, error in zip(GAINS, scatter, strict=True):
        value, change = before[name]["value"], after[name]["value"] - before[name]["value"]
        if not np.isfinite(value):
            cells.append("-")
            continue
        half = f" ± {error:.3f}" if np.isfinite(error) else ""
        cells.append(f"{value:.3f} {'−' if change < 0 else '+'} {abs(change):.3f}{half}")
    return cells


def compared_frame(
    item: SimulatedObject, labels: np.ndarray, classes: dict[int, str] | None
) -> Comparison:
    """A frame against its truth; it has no target."""
    return compare(
        labels,
        item.labels,
        item.truth,
        signal=(item.data - item.sky) / item.sigma,
        fwhm=psf_fwhm(item.psf),
        classes=classes,
    )


def main() -> None:
    """Tune, compare, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("weights", help="name or folder")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="ground")
    parser.add_argument("-n", type=int, default=100, help="images a survey")
    parser.add_argument("--trials", type=int, default=40, help="of the search for sep's settings")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--speed", action="store_true", help="compare forward passes instead")
    parser.add_argument("--hard", action="store_true", help="what fooled networks instead")
    parser.add_argument("--against", metavar="OLDER", help="compare two networks instead")
    parser.add_argument("--docs", action="store_true", help="write docs/segmentation.md's tables")
    arguments = parser.parse_args()
    surveys = FAMILIES[arguments.family]
    network: Any = load(arguments.weights)
    for mode, measure in (
        ("hard", lambda: hard(network, arguments.family, arguments.n)),
        ("speed", lambda: speed(arguments.weights, network, surveys, arguments.n)),
        (
            "against",
            lambda: gains(network, load(arguments.against), arguments.family, arguments.n),
        ),
    ):
        given = getattr(arguments, mode)
        if not given:
            continue
        result = measure()
        print(result)
        if arguments.docs:
            words = f"--{mode}" if given is True else f"--{mode} {given}"
            command = f"python benchmarks/segmentation.py {arguments.weights} {words}"
            command += f" --family {arguments.family} -n {arguments.n}"
            text = f"`{arguments.weights}` (`{command}`)\n\n{result}"
            write_section("segmentation.md", f"{mode} {arguments.family}", text)
        return
    settings = tuned_sep(surveys, arguments.trials)
    print("tuned sep:", settings, flush=True)
    segmenters: dict[str, Segmenter] = {
        "network": lambda items: segment_maskrcnn(to_stamps(items), network),
        "sep, tuned": by_sep(settings),
        "sep, default": by_sep(SepSettings()),
    }
    record: dict[str, Any] = {"sep_tuned": dataclasses.asdict(settings)}
    text = [f"sep tuned: `{settings}`.", f"Measured on {machine()}."]

    for part, objects in (
        ("blends", blends_of(surveys, arguments.n, 9001)),
        ("close pairs", blends_of(surveys, arguments.n, 9002, PAIRS)),
    ):
        columns, times, fits = {}, {}, {}
        for name, segmenter in segmenters.items():
            began = time.perf_counter()
            found = segmenter(objects)
            times[name] = (time.perf_counter() - began) / len(objects)
            columns[name] = figures(compared(objects, found))
            fits[name] = fit_errors(objects, found)
        precision = average_precision(objects, network)
        columns["network"]["AP50 of the masks"] = {
            "value": precision, "low": np.nan, "high": np.nan, "number": len(objects),
        }  # fmt: skip
        record[part] = {"figures": columns, "fits": fits, "seconds_a_stamp": times}
        text.append(f"**{part.capitalize()}**, {len(objects)} images of {', '.join(surveys)}")
        text.append(table(columns))
        text.append(
            markdown_table(
                ["error of the fit, median (90th percentile)", *fits],
                [
                    [
                        key,
                        *(
                            f"{fits[k][key]['median']:.4f} ({fits[k][key]['90 %']:.3f})"
                            for k in fits
                        ),
                    ]
                    for key in fits["network"]
                ],
            )
        )
        took = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in times.items())
        text.append(f"Time for a stamp, batches of 128 x 128 pixels: {took}.")
        print("\n\n".join(text[-4:]), flush=True)

    item = frame_of(arguments.family)
    frame, fwhm = to_frame(item), psf_fwhm(item.psf)
    columns, times = {}, {}
    detectors = {
        "network": lambda: detect_instances(frame, network, fwhm=fwhm),
        "sep, tuned": lambda: detect_sources(frame, fwhm=fwhm, settings=settings),
        "sep, default": lambda: detect_sources(frame, fwhm=fwhm),
    }
    for name, detector in detectors.items():
        began = time.perf_counter()
        detections = detector()
        times[name] = time.perf_counter() - began
        one = compared_frame(item, detections.labels, detections.classes)
        columns[name] = figures([one], resamples=0)
    record["frame"] = {"figures": columns, "seconds": times}
    text.append(f"**Frame** of {item.data.shape[1]} x {item.data.shape[0]} pixels ({item.survey})")
    text.append(table(columns))
    print("\n\n".join(text[-2:]), times)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.docs:
        try:
            name = weight_info(arguments.weights).name
        except Exception:
            name = arguments.weights
        heading = (
            f"`{name}` (`python benchmarks/segmentation.py {name} --family {arguments.family}`)"
        )
        write_section("segmentation.md", f"{arguments.family}", "\n\n".join([heading, *text]))


if __name__ == "__main__":
    main()
