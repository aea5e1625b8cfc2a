"""Fits that must not be used without a word: no target, no size, light beyond the stamp."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import (
    NOISE,
    SHAPE,
    TRUTH,
    assert_near,
    fitted,
    galaxy,
    header,
    noisy,
    psf_image,
    write,
)

from autofit_ml.catalogue import Flag


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "in" / "psf.fits", psf_image())

    def put(name, image, labels=None, noise=NOISE, **cards):
        write(tmp_path / "in" / f"{name}_image.fits", image, header(image.shape, **cards))
        write(tmp_path / "in" / f"{name}_sigma.fits", np.full(image.shape, noise))
        if labels is not None:
            write(tmp_path / "in" / f"{name}_seg.fits", labels.astype(np.int16))
        return tmp_path / "in"

    return put


@pytest.mark.parametrize("segmenter", ["auto", "sep"])
@pytest.mark.parametrize("neighbours", ["fit", "mask"])
def test_nothing_at_the_targets_place(folder, segmenter, neighbours):
    where = folder("empty", noisy(galaxy(x=78.0, y=70.0, re=4.0), 1))
    row = fitted(where, segmenter=segmenter, neighbours=neighbours)["empty"]
    assert row["flags"] & Flag.NO_TARGET and not row["use"]
    # It is the empty place that was measured, not the neighbour 34 pixels away.
    assert np.hypot(row["x"] - 50, row["y"] - 50) < 6
    assert "nearest source" in row["message"] and "away at x 7" in row["message"]


def test_nothing_at_all(folder):
    row = fitted(folder("sky", noisy(np.zeros(SHAPE), 2)))["sky"]
    assert row["flags"] & Flag.NO_TARGET and not row["use"]


def test_a_faint_target_beside_a_bright_masked_neighbour_keeps_its_place(folder):
    image = galaxy(flux=1500.0, re=3.0, n=1.0) + galaxy(x=68.0, y=58.0, flux=2e5, re=4.0)
    row = fitted(folder("faint", noisy(image, 3)), segmenter="sep", neighbours="mask")["faint"]
    assert np.hypot(row["x"] - TRUTH["x"], row["y"] - TRUTH["y"]) < 4 or not row["use"]


def test_sizes_that_the_data_do_not_tell(folder):
    # Faint and broad: re is known to no better than half of itself.
    rng = np.random.default_rng(5)
    for k in range(6):
        where = folder(f"f{k}", noisy(galaxy(flux=900.0, re=9.0, n=3.0), int(rng.integers(1e6))))
    for row in fitted(where, segmenter="sep").values():
        known = row["re_err"] < row["re"] / 2 and row["mag_err"] < 0.5
        assert known or not row["use"], (row["re"], row["re_err"], row["mag_err"])


def test_galaxies_larger_than_their_stamp(folder):
    shape = (61, 61)
    for name, re in (("large", 25.0), ("huge", 400.0)):
        image = galaxy(shape, x=30.0, y=30.0, re=re, n=1.0, q=0.9, flux=1e3 * re**2)
        where = folder(name, noisy(image, 6))
    rows = fitted(where, sky="0")
    assert rows["huge"]["flags"] & Flag.EXTRAPOLATED and not rows["huge"]["use"]
    # Half of the light and both ends of the half-light ellipse are in the stamp, with known sky.
    assert rows["large"]["use"] and abs(rows["large"]["re"] - 25) < 5 * rows["large"]["re_err"]


def test_labels_that_cover_the_frame(folder):
    rng = np.random.default_rng(7)
    field = sum(
        galaxy((160, 160), x=x, y=y, flux=f, re=3.0, n=1.0)
        for x, y, f in zip(*rng.uniform(10, 150, (2, 25)), rng.uniform(5e3, 4e4, 25), strict=True)
    )
    where = folder("field", noisy(field, 8), labels=np.ones((160, 160)))
    folder("one", noisy(galaxy(), 9), labels=np.ones(SHAPE))
    rows = fitted(where, mode="stamp")
    assert not rows["field"]["use"]
    # One galaxy alone, its label too large: said, and the fit is right all the same.
    assert rows["one"]["flags"] & Flag.EXTRAPOLATED
    assert_near(rows["one"], 4)
