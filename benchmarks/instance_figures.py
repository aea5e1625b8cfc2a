"""How well instances agree with the truth: found, pure, apart, called what they are.

One image at a time (`compare`), then figures of many images with intervals from resampling the
images (`figures`). The truth is that of `autofit_ml.simulation`, or any label image with a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BINS", "Comparison", "compare", "figures", "match_instances", "overlaps"]

MIN_PIXELS, MIN_SNR = 5, 5.0
"""Sources with less are not asked for."""

SOURCE = np.dtype(
    [
        ("snr", float),
        ("n_pixels", int),
        ("apart", float),
        ("star", bool),
        ("iou", float),
        ("found", bool),
        ("called_star", float),
    ]
)
DETECTION = np.dtype([("snr", float), ("true", bool)])
PAIR = np.dtype([("apart", float), ("wrong", bool)])

BINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "S/N 5-10": lambda t: (t["snr"] >= 5) & (t["snr"] < 10),
    "S/N 10-30": lambda t: (t["snr"] >= 10) & (t["snr"] < 30),
    "S/N 30-100": lambda t: (t["snr"] >= 30) & (t["snr"] < 100),
    "S/N over 100": lambda t: t["snr"] >= 100,
    "under 50 pixels": lambda t: (t["n_pixels"] < 50) & (t["snr"] >= 10),
    "50-300 pixels": lambda t: (t["n_pixels"] >= 50) & (t["n_pixels"] < 300) & (t["snr"] >= 10),
    "300-1500 pixels": lambda t: (t["n_pixels"] >= 300) & (t["n_pixels"] < 1500),
    "over 1500 pixels": lambda t: t["n_pixels"] >= 1500,
    "neighbour within 1 FWHM": lambda t: (t["apart"] < 1) & (t["snr"] >= 10),
    "neighbour at 1-2 FWHM": lambda t: (t["apart"] >= 1) & (t["apart"] < 2) & (t["snr"] >= 10),
    "neighbour at 2-4 FWHM": lambda t: (t["apart"] >= 2) & (t["apart"] < 4) & (t["snr"] >= 10),
    "neighbour beyond 4 FWHM": lambda t: (t["apart"] >= 4) & (t["snr"] >= 10),
}
"""Of true sources, by S/N, size of the mask, and distance of the nearest source of S/N over 10."""


@dataclass(frozen=True)
class Comparison:
    """One image.

    Attributes
    ----------
    sources : structured array
        True sources that are asked for: S/N, pixels, distance of the nearest other source with
        S/N over 10 in units of the PSF's FWHM, whether a star, best overlap with a matched
        instance, whether found (overlap of 0.5), what it was called (1 star, 0 galaxy, NaN).
    detections : structured array
        Instances: S/N of their pixels, whether they match any true source.
    pairs : structured array
        Pairs of sources with S/N over 10: distance in FWHM; wrong unless both are found.
    target : float
        Overlap of the target's masks; NaN if there is no target to be found.
    """

    sources: np.ndarray
    detections: np.ndarray
    pairs: np.ndarray
    target: float


def overlaps(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of every label of `found` with every label of `true`.

    Parameters
    ----------
    found, true : ndarray of int, shape (ny, nx)
        0 = sky; labels from 1.

    Returns
    -------
    ndarray, shape (largest of found, largest of true)
    """
    n, m = int(found.max(initial=0)), int(true.max(initial=0))
    code = found.astype(np.int64) * (m + 1) + true
    both = np.bincount(code.ravel(), minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)
    union = both.sum(1)[:, None] + both.sum(0)[None] - both
    return both[1:, 1:] / np.maximum(union[1:, 1:], 1)


def match_instances(iou: np.ndarray, least: float = 0.5) -> dict[int, int]:
    """One-to-one matches, best overlaps first: column (true) -> row (found)."""
    rows, columns = np.nonzero(iou >= least)
    matches: dict[int, int] = {}
    taken: set[int] = set()
    for k in np.argsort(-iou[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if i not in taken and j not in matches:
            matches[j] = i
            taken.add(i)
    return matches


def compare(
    labels: np.ndarray,
    true_labels: np.ndarray,
    truth: np.ndarray,
    *,
    signal: np.ndarray,
    fwhm: float,
    classes: Mapping[int, str] | None = None,
    target: int | None = None,
) -> Comparison:
    """Instances of one image against the truth.

    Parameters
    ----------
    labels, true_labels : ndarray of int, shape (ny, nx)
        0 = sky; true source i has the label i + 1.
    truth : structured array
        With x, y (pixels), snr, n_pixels, kind ("star" or another).
    signal : ndarray, shape (ny, nx)
        Sky-subtracted image in units of the noise.
    fwhm : float
        Of the PSF, pixels.
    classes : mapping, optional
        label -> "galaxy" or "star".
    target : int, optional
        Label of the target among `labels` (0: not found); true source 0 is the target. None: the
        image has no target.
    """
    classes = classes or {}
    iou = overlaps(labels, true_labels)
    iou = np.pad(iou, ((0, 0), (0, max(0, len(truth) - iou.shape[1]))))
    matches = match_instances(iou)
    asked = (truth["n_pixels"] >= MIN_PIXELS) & (truth["snr"] >= MIN_SNR)
    bright = np.flatnonzero(asked & (truth["snr"] > 10))
    sources = np.zeros(len(truth), SOURCE)
    for name in ("snr", "n_pixels"):
        sources[name] = truth[name]
    sources["star"] = truth["kind"] == "star"
    sources["apart"], pairs = _neighbours(truth, bright, fwhm)
    sources["called_star"] = np.nan
    for j, i in matches.items():
        if j >= len(truth):
            continue
        sources["found"][j], sources["iou"][j] = True, iou[i, j]
        if i + 1 in classes:
            sources["called_star"][j] = classes[i + 1] == "star"
    table = np.zeros(len(pairs), PAIR)
    for k, (i, j, apart) in enumerate(pairs):
        table[k] = (apart, not (sources["found"][i] and sources["found"][j]))
    overlap = np.nan
    if target is not None and len(truth) and asked[0]:
        own, true = labels == target, true_labels == 1
        overlap = float((own & true).sum() / max((own | true).sum(), 1)) if target else 0.0
    return Comparison(sources[asked], _detections(labels, signal, matches), table, overlap)


def _neighbours(
    truth: np.ndarray, bright: np.ndarray, fwhm: float
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Distance to the nearest bright source, and bright pairs within 4 FWHM (units of FWHM)."""
    from scipy.spatial import cKDTree

    places = np.stack([truth["x"], truth["y"]], axis=1).astype(float)
    nearest = np.full(len(truth), np.inf)
    if not len(bright):
        return nearest, []
    tree = cKDTree(places[bright])
    distance, index = tree.query(places, k=min(2, len(bright)))
    distance, index = distance.reshape(len(places), -1), index.reshape(len(places), -1)
    for i in range(len(places)):
        others = [d for d, k in zip(distance[i], index[i], strict=True) if bright[k] != i]
        if others:
            nearest[i] = others[0] / fwhm
    pairs = []
    for a, b in sorted(tree.query_pairs(4 * fwhm)):
        i, j = int(bright[a]), int(bright[b])
        pairs.append((i, j, float(np.hypot(*(places[i] - places[j])) / fwhm)))
    return nearest, pairs


def _detections(labels: np.ndarray, signal: np.ndarray, matches: Mapping[int, int]) -> np.ndarray:
    number = int(labels.max(initial=0))
    sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    light = np.bincount(labels.ravel(), weights=signal.ravel(), minlength=number + 1)[1:]
    out = np.zeros(number, DETECTION)
    out["snr"] = light / np.sqrt(np.maximum(sizes, 1))
    out["true"][list(matches.values())] = True
    return out[sizes > 0]


def figures(
    images: Sequence[Comparison], *, resamples: int = 200, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Figures over many images.

    Parameters
    ----------
    images : sequence of Comparison
    resamples : int
        Bootstrap resamples of the images; 0: no intervals.
    seed : int

    Returns
    -------
    dict
        name -> ``value``, ``low``, ``high`` (16th and 84th percentile) and ``number`` of cases.
    """
    rng = np.random.default_rng(seed)
    picks = [rng.integers(0, len(images), len(images)) for _ in range(resamples)]
    whole = {name: rule(images) for name, rule in _RULES.items()}
    drawn = [
        {name: rule([images[k] for k in pick])[0] for name, rule in _RULES.items()}
        for pick in picks
    ]
    out = {}
    for name, (value, number) in whole.items():
        some = np.array([item[name] for item in drawn if np.isfinite(item[name])])
        low, high = np.percentile(some, [16, 84]) if some.size else (np.nan, np.nan)
        out[name] = {
            "value": float(value),
            "low": float(low),
            "high": float(high),
            "number": int(number),
        }
    return out


Rule = Callable[[Sequence[Comparison]], tuple[float, int]]


def _share(values: np.ndarray) -> tuple[float, int]:
    return (float(np.mean(values)), values.size) if values.size else (np.nan, 0)


def _sources(images: Sequence[Comparison]) -> np.ndarray:
    return np.concatenate([item.sources for item in images])


def _completeness(chosen: Callable[[np.ndarray], np.ndarray]) -> Rule:
    def rule(images: Sequence[Comparison]) -> tuple[float, int]:
        table = _sources(images)
        return _share(table["found"][chosen(table)])

    return rule


def _purity(images: Sequence[Comparison]) -> tuple[float, int]:
    table = np.concatenate([item.detections for item in images])
    return _share(table["true"][table["snr"] > 10])


def _classes(images: Sequence[Comparison]) -> tuple[float, int]:
    table = _sources(images)
    table = table[(table["snr"] > 20) & np.isfinite(table["called_star"])]
    return _share(table["called_star"] == table["star"])


def _pairs(low: float, high: float) -> Rule:
    def rule(images: Sequence[Comparison]) -> tuple[float, int]:
        table = np.concatenate([item.pairs for item in images])
        return _share(table["wrong"][(table["apart"] >= low) & (table["apart"] < high)])

    return rule


def _target(percentile: float) -> Rule:
    def rule(images: Sequence[Comparison]) -> tuple[float, int]:
        values = np.array([item.target for item in images])
        values = values[np.isfinite(values)]
        return (float(np.percentile(values, percentile)) if values.size else np.nan, values.size)

    return rule


_RULES: dict[str, Rule] = {
    "completeness, S/N over 10": _completeness(lambda t: t["snr"] > 10),
    "purity, S/N over 10": _purity,
    "target IoU, median": _target(50),
    "target IoU, 10th percentile": _target(10),
    "wrong pairs at 1-2 FWHM": _pairs(1, 2),
    "wrong pairs at 2-4 FWHM": _pairs(2, 4),
    "star/galaxy accuracy, S/N over 20": _classes,
    **{f"completeness, {name}": _completeness(chosen) for name, chosen in BINS.items()},
}
