"""Labels without a fit: what `autofit-ml segment` writes, and that `fit` reads it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from PIL import Image

import autofit_ml
from autofit_ml.errors import SettingsError
from autofit_ml.runs import Progress
from autofit_ml.runs.segment import segment_run
from autofit_ml.segmentation.detection import instance_table
from autofit_ml.settings import SegmentSettings

SEP = SegmentSettings(segmenter="sep", batch_size=5)


class Told(Progress):
    """Keeps what a run says."""

    def __init__(self):
        self.calls = []

    def begin(self, n_sources, n_done, ignored):
        self.calls.append((n_done, n_sources))

    def batch(self, n_sources, rows):
        assert len(rows["id"]) == n_sources
        self.calls.append((self.calls[-1][0] + n_sources, self.calls[-1][1]))


def test_labels_table_and_pictures(images, tmp_path):
    told = Told()
    summary = segment_run(images, tmp_path / "out", SEP, progress=told)
    assert (summary.n_ok, summary.exit_status, summary.failures) == (8, 0, {})
    assert told.calls == [(0, 8), (5, 8), (8, 8)]
    table = QTable.read(tmp_path / "out" / "instances.ecsv")
    assert len(table) == summary.n_instances >= 8
    for path in sorted((tmp_path / "out").glob("*_seg.fits")):
        labels, header = fits.getdata(path, header=True)
        own = table[table["id"] == path.name.removesuffix("_seg.fits")]
        assert set(own["label"]) == set(np.unique(labels[labels > 0]))
        assert header["SEGMENTR"] == "sep"
        (target,) = own[own["target"]]
        assert target["label"] == header["TARGET"]
        assert target["n_pixels"] == np.sum(labels == header["TARGET"])
        picture = np.asarray(Image.open(path.with_suffix(".png")))
        assert picture.ndim == 3
        assert picture.std() > 10
    assert len(list((tmp_path / "out").glob("*_seg.png"))) == 8


def test_fit_takes_the_labels_that_lie_beside_the_images(images, tmp_path):
    plain = autofit_ml.fit(images, save="none", workers=0, segmenter="sep")
    segment_run(images, images, SEP.replace(pictures=False))
    given = autofit_ml.fit(images, save="none", workers=0)
    assert set(given["segmenter"]) == {"given"}
    np.testing.assert_allclose(given["re"].value, plain["re"].value, rtol=0.02)


def test_one_bad_image_does_not_cost_the_others(images, tmp_path):
    (images / "broken.fits").write_bytes(b"nothing of use")
    summary = segment_run(images, tmp_path / "out", SEP)
    assert (summary.n_ok, summary.exit_status) == (8, 3)
    assert "broken.fits" in summary.failures["broken"]
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(images / "broken.fits", lonely)
    assert segment_run(lonely, tmp_path / "no", SEP).exit_status == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError):
        segment_run(tmp_path / "empty", tmp_path / "no", SEP)


def test_instances_are_measured_on_their_own_pixels():
    labels = np.zeros((20, 30), np.int32)
    labels[2:5, 4:8], labels[10:14, 20:23] = 3, 7
    data = np.where(labels > 0, 2.0, 50.0).astype(np.float32)
    data[2:5, 7] = 6.0
    table = instance_table(data, np.full_like(data, 0.5), labels, {3: "star"}, target=7)
    assert list(table["label"]) == [3, 7]
    assert list(table["object_class"]) == ["star", ""]
    assert list(table["target"]) == [False, True]
    assert list(table["n_pixels"]) == [12, 12]
    np.testing.assert_allclose(table["flux"], [36, 24])
    np.testing.assert_allclose(table["snr"], np.array([36, 24]) / (0.5 * np.sqrt(12)))
    np.testing.assert_allclose(table["x"].value, [6.0, 21.0])
    np.testing.assert_allclose(table["y"].value, [3.0, 11.5])
    assert len(instance_table(data, data, np.zeros_like(labels))) == 0
