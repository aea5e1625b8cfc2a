"""Figures of segmentations, on label images whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.instance_figures import compare, figures, match_instances, overlaps

TRUTH = np.dtype([("x", float), ("y", float), ("snr", float), ("n_pixels", int), ("kind", "U8")])


@pytest.fixture
def scene():
    """Two touching galaxies of 5 x 6 pixels, a star of 3 x 3, a faint source nobody asks for."""
    labels = np.zeros((40, 40), np.int32)
    labels[10:15, 10:16] = 1
    labels[10:15, 16:22] = 2
    labels[30:33, 30:33] = 3
    labels[2:4, 30:32] = 4
    truth = np.array(
        [
            (12.5, 12, 100, 30, "sersic"),
            (18.5, 12, 40, 30, "sersic"),
            (31, 31, 25, 9, "star"),
            (30.5, 2.5, 3, 4, "star"),
        ],
        TRUTH,
    )
    signal = np.where(labels > 0, 10.0, 0.0)
    return labels, truth, signal


def score(found, scene, **options):
    labels, truth, signal = scene
    options = {"signal": signal, "fwhm": 4.0, "target": 1} | options
    return compare(found, labels, truth, **options)


def value(image, name):
    return figures([image], resamples=0)[name]["value"]


def test_the_truth_itself_is_without_fault(scene):
    image = score(scene[0], scene, classes={1: "galaxy", 2: "galaxy", 3: "star"})
    got = figures([image, image], resamples=20)
    for name in ("completeness, S/N over 10", "purity, S/N over 10", "target IoU, median"):
        assert got[name]["value"] == got[name]["low"] == got[name]["high"] == 1
    assert got["wrong pairs at 1-2 FWHM"] == {"value": 0, "low": 0, "high": 0, "number": 2}
    assert got["star/galaxy accuracy, S/N over 20"]["value"] == 1
    assert got["completeness, neighbour at 1-2 FWHM"]["number"] == 4
    assert len(image.sources) == 3


def test_merged_pair_missed_star_and_a_false_instance(scene):
    labels = scene[0]
    found = np.zeros_like(labels)
    found[np.isin(labels, (1, 2))] = 1
    found[20:24, 2:6] = 2
    signal = scene[2].copy()
    signal[20:24, 2:6] = 5.0
    image = score(found, scene, signal=signal)
    # The whole pair overlaps with either galaxy by exactly a half: one match, not two.
    assert value(image, "completeness, S/N over 10") == pytest.approx(1 / 3)
    assert value(image, "purity, S/N over 10") == pytest.approx(1 / 2)
    assert value(image, "wrong pairs at 1-2 FWHM") == 1
    assert value(image, "target IoU, median") == pytest.approx(0.5)
    assert value(score(found, scene, target=0), "target IoU, median") == 0


def test_a_shredded_galaxy_counts_as_missed_and_impure(scene):
    labels = scene[0]
    found = labels.copy()
    for k, row in enumerate(range(10, 15)):
        found[row, 10:16] = 10 + k
    image = score(found, scene, target=10)
    assert value(image, "completeness, S/N over 10") == pytest.approx(2 / 3)
    # Each shred has an S/N of 10 sqrt(6) = 24.
    assert value(image, "purity, S/N over 10") == pytest.approx(3 / 8)


def test_wrong_classes(scene):
    image = score(scene[0], scene, classes={1: "star", 2: "galaxy", 3: "star"})
    assert value(image, "star/galaxy accuracy, S/N over 20") == pytest.approx(2 / 3)
    assert np.isnan(value(score(scene[0], scene), "star/galaxy accuracy, S/N over 20"))


def test_overlaps_and_matches(scene):
    labels = scene[0]
    shifted = np.roll(labels, 1, axis=1)
    iou = overlaps(shifted, labels)
    assert iou.shape == (4, 4)
    assert iou[0, 0] == pytest.approx(25 / 35)
    assert match_instances(np.array([[0.9, 0.8], [0.7, 0.0]])) == {0: 0}
    assert match_instances(np.array([[0.6, 0.9], [0.7, 0.2]])) == {1: 0, 0: 1}
    assert overlaps(np.zeros((3, 3), int), labels[:3, :3]).shape == (0, 0)


def test_intervals_hold_the_value(scene):
    good, bad = score(scene[0], scene), score(np.zeros_like(scene[0]), scene, target=0)
    got = figures([good] * 7 + [bad] * 3, resamples=100)["completeness, S/N over 10"]
    assert got["value"] == pytest.approx(0.7)
    assert got["low"] < 0.7 < got["high"]
    assert got["high"] - got["low"] == pytest.approx(2 * np.sqrt(0.7 * 0.3 / 10), rel=0.4)
