"""Who finds what: the network against tuned sep. python benchmarks/segmentation.py WEIGHTS

Held-out simulated blends (recipe ``blends``, seed 9001) of the surveys that the weights were
trained for. What is asked for are the sources with S/N over 5 and masks of 5 pixels and more.

- completeness, purity: one-to-one matches with an intersection over union of 0.5 and more, of
  sources with S/N over 10; a detection is pure if it matches any true source;
- target: intersection over union of the target's mask;
- pairs: sources with S/N over 10 closer than 2 FWHM to each other; an error is a pair of which not
  both are matched (missed, merged or shredded);
- classes: matched sources with S/N over 20 that are called what they are;
- AP50 of the masks (torchmetrics), for the network's scores.

sep is tuned first: a random search over its settings on 160 images of the training sets, for the
sum of completeness, purity and the target's overlap.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from documents import markdown_table

from autofit_ml.images import psf_fwhm
from autofit_ml.segment import Segmentation, SepSettings, segment_sep
from autofit_ml.segment.maskrcnn import segment_maskrcnn
from autofit_ml.simulate import SimulatedObject, compose_recipe, simulate_one, to_stamps
from autofit_ml.weights import load

GROUND = ("sdss-r", "legacysurvey-r", "kids-r", "hsc-i")
SPACE = ("hst-acs-f814w", "euclid-vis", "jwst-f200w")
BINS = {
    "S/N 5-10": lambda t: (t["snr"] >= 5) & (t["snr"] < 10),
    "S/N 10-30": lambda t: (t["snr"] >= 10) & (t["snr"] < 30),
    "S/N 30-100": lambda t: (t["snr"] >= 30) & (t["snr"] < 100),
    "S/N over 100": lambda t: t["snr"] >= 100,
    "under 50 pixels": lambda t: t["n_pixels"] < 50,
    "50-300 pixels": lambda t: (t["n_pixels"] >= 50) & (t["n_pixels"] < 300),
    "over 300 pixels": lambda t: t["n_pixels"] >= 300,
}

Segmenter = Callable[[list[SimulatedObject]], list[Segmentation]]


def overlaps(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of every label of `found` with every label of `true`."""
    n, m = int(found.max(initial=0)), int(true.max(initial=0))
    both = np.bincount(
        (found.astype(np.int64) * (m + 1) + true).ravel(), minlength=(n + 1) * (m + 1)
    ).reshape(n + 1, m + 1)
    union = both.sum(1)[:, None] + both.sum(0)[None] - both
    return both[1:, 1:] / np.maximum(union[1:, 1:], 1)


def matched(iou: np.ndarray, least: float = 0.5) -> dict[int, int]:
    """True source -> found instance, best overlaps first, one to one."""
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(-iou, axis=None):
        i, j = divmod(int(flat), iou.shape[1])
        if iou[i, j] < least:
            break
        if i not in taken and j not in pairs:
            pairs[j] = i
            taken.add(i)
    return pairs


@dataclasses.dataclass
class Score:
    """Counts over many images."""

    found: dict[str, list[int]] = dataclasses.field(
        default_factory=lambda: {name: [0, 0] for name in BINS}
    )
    complete: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
    pure: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
    pairs: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
    classes: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
    target: list[float] = dataclasses.field(default_factory=list)

    def add(self, item: SimulatedObject, result: Segmentation) -> None:
        """Compare one image."""
        truth = item.truth
        iou = overlaps(result.labels, item.labels)
        if iou.shape[1] < len(truth):
            iou = np.pad(iou, ((0, 0), (0, len(truth) - iou.shape[1])))
        pairs = matched(iou)
        asked = (truth["n_pixels"] >= 5) & (truth["snr"] >= 5)
        hit = np.array([j in pairs for j in range(len(truth))])
        for name, chosen in BINS.items():
            inside = asked & chosen(truth)
            self.found[name][0] += int((hit & inside).sum())
            self.found[name][1] += int(inside.sum())
        bright = asked & (truth["snr"] > 10)
        self.complete[0] += int((hit & bright).sum())
        self.complete[1] += int(bright.sum())
        owner = {i: j for j, i in pairs.items()}
        signal = (item.data - item.sky) / item.sigma
        for label in np.unique(result.labels[result.labels > 0]):
            own = result.labels == label
            if signal[own].sum() / np.sqrt(own.sum()) > 10:
                self.pure[1] += 1
                self.pure[0] += int(label) - 1 in owner
        fwhm = psf_fwhm(item.psf)
        index = np.flatnonzero(bright)
        for a, i in enumerate(index):
            for j in index[a + 1 :]:
                apart = np.hypot(truth["x"][i] - truth["x"][j], truth["y"][i] - truth["y"][j])
                if fwhm <= apart < 2 * fwhm:
                    self.pairs[1] += 1
                    self.pairs[0] += not (hit[i] and hit[j])
        for j, i in pairs.items():
            kind = result.classes.get(i + 1)
            if truth["snr"][j] > 20 and kind is not None:
                self.classes[1] += 1
                self.classes[0] += (kind == "star") == (truth["kind"][j] == "star")
        if asked[0]:
            own, true = result.labels == result.target, item.labels == 1
            overlap = (own & true).sum() / max((own | true).sum(), 1) if result.target else 0.0
            self.target.append(float(overlap))

    def summary(self) -> dict[str, float]:
        """Figures."""

        def share(counts: list[int]) -> float:
            return counts[0] / counts[1] if counts[1] else float("nan")

        return {
            "completeness": share(self.complete),
            "purity": share(self.pure),
            "target IoU, median": float(np.median(self.target)),
            "target IoU, 10 %": float(np.percentile(self.target, 10)),
            "pair errors": share(self.pairs),
            "pairs": self.pairs[1],
            "class accuracy": share(self.classes),
            **{f"completeness, {name}": share(counts) for name, counts in self.found.items()},
        }


def objects_of(surveys: Sequence[str], each: int, seed: int) -> list[SimulatedObject]:
    """Blends of several surveys."""
    return [
        simulate_one(compose_recipe(["data=blends", f"survey={name}"]), k, seed)
        for name in surveys
        for k in range(each)
    ]


def score_of(objects: list[SimulatedObject], segmenter: Segmenter) -> Score:
    """A segmenter over many images."""
    score = Score()
    for item, result in zip(objects, segmenter(objects), strict=True):
        score.add(item, result)
    return score


def sep_segmenter(settings: SepSettings) -> Segmenter:
    """sep with given settings."""
    return lambda objects: [segment_sep(stamp, settings) for stamp in to_stamps(objects)]


def tuned_sep(surveys: Sequence[str], trials: int) -> SepSettings:
    """The best of a random search on images of the training sets."""
    objects = objects_of(surveys, 160 // len(surveys), 101)
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
        figures = score_of(objects, sep_segmenter(settings)).summary()
        value = figures["completeness"] + figures["purity"] + figures["target IoU, median"]
        if value > highest:
            best, highest = settings, value
    return best


def average_precision(objects: list[SimulatedObject], network: torch.nn.Module) -> float:
    """AP50 of the masks."""
    from torchmetrics.detection import MeanAveragePrecision
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    from autofit_ml.segment.network import prepare

    metric = MeanAveragePrecision(iou_type="segm", iou_thresholds=[0.5])
    metric.warn_on_many_detections = False
    threshold = network.model.roi_heads.score_thresh
    network.model.roi_heads.score_thresh = 0.05
    for item in objects:
        channels = prepare(torch.as_tensor(item.data), item.sky, item.sky_rms)
        with torch.no_grad():
            out = network([channels])[0]
        masks = paste_masks_in_image(out["masks"], out["boxes"], item.data.shape)[:, 0] > 0.5
        asked = np.flatnonzero((item.truth["n_pixels"] >= 5) & (item.truth["snr"] >= 5))
        true = (
            np.stack([item.labels == k + 1 for k in asked]) if len(asked) else np.zeros((0, 1, 1))
        )
        kinds = [2 if item.truth["kind"][k] == "star" else 1 for k in asked]
        metric.update(
            [{"masks": masks, "scores": out["scores"], "labels": out["labels"]}],
            [{"masks": torch.as_tensor(true, dtype=torch.bool), "labels": torch.tensor(kinds)}],
        )
    network.model.roi_heads.score_thresh = threshold
    return float(metric.compute()["map_50"])


def main() -> None:
    """Tune, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", help="name or folder")
    parser.add_argument("--family", choices=("ground", "space"), default="ground")
    parser.add_argument("-n", type=int, default=75, help="images a survey")
    parser.add_argument("--trials", type=int, default=40, help="of the search for sep's settings")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    surveys = GROUND if arguments.family == "ground" else SPACE
    network = load(arguments.weights)
    settings = tuned_sep(surveys, arguments.trials)
    print("tuned sep:", settings, flush=True)
    objects = objects_of(surveys, arguments.n, 9001)

    def by_network(items: list[SimulatedObject]) -> list[Segmentation]:
        return segment_maskrcnn(to_stamps(items), network)

    figures, times = {}, {}
    for name, segmenter in (
        ("network", by_network),
        ("sep, tuned", sep_segmenter(settings)),
        ("sep, default", sep_segmenter(SepSettings())),
    ):
        began = time.perf_counter()
        figures[name] = score_of(objects, segmenter).summary()
        times[name] = (time.perf_counter() - began) / len(objects)
    figures["network"]["AP50"] = average_precision(objects, network)
    rows = [
        [key, *(f"{figures[name].get(key, float('nan')):.3f}" for name in figures)]
        for key in figures["network"]
    ]
    rows.append(["ms a stamp", *(f"{1e3 * value:.0f}" for value in times.values())])
    print(markdown_table(["figure", *figures], rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
