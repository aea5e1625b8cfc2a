"""Neighbours that are drawn on patches of large stamps: the same fit."""

import numpy as np
import pytest

from autofit_ml.fitting import patches, refine
from autofit_ml.initialisation import initialise
from autofit_ml.segmentation import segment
from autofit_ml.simulation import simulate_sersic, to_stamps


@pytest.fixture(scope="module")
def crowded():
    seen = simulate_sersic(
        2, seed=5, size=224, psf_size=25, psf_fwhm=(3, 3), snr=(200, 500), re=(15, 25), n=(1, 3),
        sky=5.0, neighbours=25.0,
    )  # fmt: skip
    stamps = [
        stamp.replace(labels=one.labels, target_label=1)
        for stamp, one in zip(to_stamps(seen), seen, strict=True)
    ]
    found = segment(stamps, "given")
    return stamps, initialise(stamps, found, method="moments"), found


def test_a_fit_with_patches_is_the_fit_without(crowded, monkeypatch):
    stamps, starts, found = crowded
    sizes = []
    chosen = patches.patch_sizes

    def watched(*given):
        sizes.append(chosen(*given))
        return sizes[-1]

    monkeypatch.setattr("autofit_ml.fitting.batch.patch_sizes", watched)
    with_patches = refine(stamps, starts=starts, segmentations=found)
    assert any((size > 0).any() for size in sizes)
    monkeypatch.setattr(patches, "_SMALLEST_STAMP", 10_000)
    without = refine(stamps, starts=starts, segmentations=found)
    for a, b in zip(with_patches, without, strict=True):
        assert a.neighbours == b.neighbours > 0
        assert np.nanmax(np.abs(a.values - b.values)[:8] / b.errors[:8]) < 0.1
        assert a.chi2 == pytest.approx(b.chi2, abs=1.0)


def test_a_neighbour_that_outgrows_its_patch_is_drawn_whole(crowded, monkeypatch):
    stamps, starts, found = crowded
    chosen, calls = patches.patch_sizes, []

    def too_small(layout, *given):
        """The smallest patches for all neighbours, the first time that they are asked for."""
        size, neighbours = chosen(layout, *given), given[-1]
        calls.append(size)
        if len(calls) % 2 and neighbours:
            size[:, -neighbours:] = 32
        return size

    monkeypatch.setattr(patches, "_SMALLEST_STAMP", 10_000)
    without = refine(stamps, starts=starts, segmentations=found)
    monkeypatch.setattr(patches, "_SMALLEST_STAMP", 192)
    monkeypatch.setattr("autofit_ml.fitting.batch.patch_sizes", too_small)
    for a, b in zip(refine(stamps, starts=starts, segmentations=found), without, strict=True):
        assert np.nanmax(np.abs(a.values - b.values)[:8] / b.errors[:8]) < 0.1
        assert a.chi2 == pytest.approx(b.chi2, abs=1.0)
    assert calls


def test_light_beyond_a_radius_is_the_largest_that_is_left():
    psf = np.zeros((9, 9), dtype=np.float32)
    psf[4, 4], psf[4, 7] = 0.9, 0.1
    assert patches.light_beyond(psf, 1, 4).tolist() == pytest.approx([0.9, 0.1, 0.1, 0.1, 0.0])
