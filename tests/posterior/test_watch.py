"""Pictures of long searches: the best model so far, and nothing else changes."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("galsim")

from scene_samples import scene_object, single, starts_of

from autofit_ml.fitting import RefineSettings, refine
from autofit_ml.posterior import HMCSettings
from autofit_ml.posterior.scenes import sample_fits
from autofit_ml.posterior.watch import Watch
from autofit_ml.scenes import parse_model


def test_the_best_model_so_far(tmp_path):
    sources = [single(flux=12000.0), single(flux=9000.0, n=1.0, q=0.8)]
    objects = [scene_object(source, seed=k, shape=(40, 40)) for k, source in enumerate(sources)]
    fits = refine(objects, parse_model("sersic"), starts_of(*sources),
                  settings=RefineSettings(keep=True))  # fmt: skip
    settings = HMCSettings(draws=40, warmup=40, rounds=1)
    ticks = itertools.count()
    watch = Watch(tmp_path, 10.0, lambda: float(next(ticks)))
    watched = sample_fits(fits, "hmc", settings, watch=watch, ids=["a", "b/c"])
    for one, other in zip(watched, sample_fits(fits, "hmc", settings), strict=True):
        np.testing.assert_array_equal(one.draws, other.draws)
    assert {path.name for path in (tmp_path / "progress").iterdir()} >= {"a.jpg", "a.json"}
    assert len(list((tmp_path / "progress").iterdir())) == 4
    with Image.open(tmp_path / "progress" / "a.jpg") as picture:
        assert picture.size[0] > 2 * picture.size[1]
    about = json.loads((tmp_path / "progress" / "a.json").read_text())
    assert about["id"] == "a" and about["evaluations"] > 0
    for name in ("flux", "re", "n"):
        value, error = fits[0][f"sersic.{name}"], fits[0].error(f"sersic.{name}")
        assert about["parameters"][f"sersic.{name}"] == pytest.approx(value, abs=error)
    drawn = watched[0].samples.log_density.max()
    assert about["log_density"] >= float(drawn) - 0.5
