"""A component without light keeps the row usable: its flux is what it is, with a limit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import assert_near, fitted, galaxy, header, point, psf_image, write

from autofit_ml.catalogue import Flag

SHAPE = (101, 101)
HOST = {"x": 50.2, "y": 49.8, "flux": 2e4, "re": 8.0, "n": 2.0, "q": 0.7, "pa": 20.0}
POINTS = (0, 0, 0, 50, 200, 1000)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    rng = np.random.default_rng(1)
    write(folder / "psf.fits", psf_image())
    for k, flux in enumerate(POINTS):
        image = galaxy(SHAPE, **HOST) + point(SHAPE, HOST["x"], HOST["y"], flux)
        sigma = np.sqrt(4 + image / 2)
        write(folder / f"a{k}_image.fits", image + rng.normal(0, 1, SHAPE) * sigma, header(SHAPE))
        write(folder / f"a{k}_sigma.fits", sigma)
    return fitted(folder, folder / "out", model="psf+sersic", save="objects")


@pytest.mark.parametrize("k", range(len(POINTS)))
def test_point_sources_in_hosts(rows, k):
    row, flux = rows[f"a{k}"], POINTS[k]
    assert row["use"] and not row["flags"] & (Flag.AT_BOUND | Flag.NOT_CONVERGED), row["at_bound"]
    assert 0 < row["flux_err"] < 400
    assert abs(row["flux"] - flux) < 3 * row["flux_err"], (row["flux"], row["flux_err"])
    assert max(row["flux"], 0) < row["flux_limit"] < max(row["flux"], 0) + 2.2 * row["flux_err"]
    host = {name: row[f"{name}_2"] for name in HOST} | {
        f"{name}_err": row[f"{name}_2_err"] for name in HOST
    }
    assert_near(host | {"id": row["id"]}, 4, **HOST)
    assert row["flux_total"] == pytest.approx(row["flux"] + row["flux_2"], rel=1e-6)


def test_some_fluxes_are_negative(rows):
    """Three point sources without light: their mean is zero, which no logarithm can be."""
    pulls = [rows[f"a{k}"]["flux"] / rows[f"a{k}"]["flux_err"] for k in range(3)]
    assert abs(np.mean(pulls)) < 3 / 3**0.5
    assert min(pulls) < 0.5
