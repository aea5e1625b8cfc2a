"""Plans: which tiles are near an image, tables that can be edited."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from overlapping_frames import SCALE, tangent_plane

from autofit_ml.errors import SettingsError
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.survey.images import Footprint, cells_of, footprint, tiles_near
from autofit_ml.survey.plan import make_plan, write_plan
from autofit_ml.survey.sky import offset_positions, tiling


@pytest.mark.parametrize("text", ["healpix:9", "healpix:12", "healpix:15", "grid:0.05", "grid:1"])
@pytest.mark.parametrize(("ra", "dec"), [(0.0, 1.0), (12.0, -71.3), (5.0, 89.999), (9.0, -90.0)])
def test_no_tile_near_an_image_is_missed(text, ra, dec):
    shape, reach = (300, 800), 0.01
    place = Footprint(shape, tangent_plane(ra, dec, shape, turn=31.0), SCALE, "r")
    sky = tiling(text)
    window = (100, 700, 0, 300)
    near = tiles_near(place, window, sky, reach)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(99.5, 699.5, 4000), rng.uniform(-0.5, 299.5, 4000)
    for inside in (sky_positions(place.wcs, x, y),):
        assert np.isin(sky.index(*inside), near).all()
        around = offset_positions(*inside, reach * rng.uniform(0, 1), 7)
        assert np.isin(sky.index(*around), near).all()
    assert len(near) <= 4 + 4 * len(np.unique(sky.index(*around)))


@pytest.mark.parametrize("shape", [(4096, 5000), (5121, 100), (9000, 9000), (300, 200)])
def test_cells_cover_an_image_once(shape):
    count = np.zeros(shape, np.int8)
    for cell in cells_of(None, shape, 4096):
        x0, x1, y0, y1 = cell.core
        count[y0:y1, x0:x1] += 1
        a, b, c, d = cell.window
        assert a <= x0 < x1 <= b
        assert c <= y0 < y1 <= d
        assert max(x1 - x0, y1 - y0) <= 1.25 * 4096
    assert (count == 1).all()


def test_a_plan_survives_its_tables(area, tmp_path):
    plan = make_plan(area[0], tiling_text="healpix:11", halo=90.0)
    write_plan(plan, tmp_path / "plan")
    again = make_plan(tmp_path / "plan")
    assert (again.tiling, again.core, again.halo) == (plan.tiling, plan.core, plan.halo)
    np.testing.assert_array_equal(again.tiles, plan.tiles)
    for one, other in zip(plan.images, again.images, strict=True):
        assert other.source.id == one.source.id
        assert other.source.planes["psf"][0] == one.source.planes["psf"][0].resolve()
        assert (other.shape, other.band, other.priority) == (one.shape, "r", 0.0)
    jobs = list(plan.jobs())
    assert [job.tile for job in jobs] == plan.tiles.tolist()
    assert {cell.source.id for job in jobs for cell in job.cells} == {"f0", "f1", "f2", "f3"}


def test_tiles_without_an_image_are_not_done(area):
    """The halo is for duplicates: a tile that only it touches owns nothing."""
    plan = make_plan(area[0], tiling_text="healpix:14", halo=600.0)
    images = [(footprint(image.source), image.shape) for image in plan.images]
    for tile in plan.tiles:
        ra, dec = plan.tiling.outline(int(tile), 8)
        (a, d) = plan.tiling.centre(int(tile))
        places = [pixel_positions(one.wcs, [*ra, a], [*dec, d]) for one, _ in images]
        near = 1.5 * plan.tiling.width * 3600 / SCALE
        assert any(
            ((x > -near) & (x < nx + near) & (y > -near) & (y < ny + near)).any()
            for (x, y), (_, (ny, nx)) in zip(places, images, strict=True)
        )
    whole = {int(one) for image in plan.images for near in image.near for one in near}
    assert len(whole) > 5 * len(plan.tiles)


def test_tables_can_be_edited(area, tmp_path):
    plan = make_plan(area[0], tiling_text="healpix:11")
    write_plan(plan, tmp_path)
    images = Table.read(tmp_path / "images.ecsv")
    images["use"][1], images["priority"][2] = False, 5.0
    images.write(tmp_path / "images.ecsv", overwrite=True)
    tiles = Table.read(tmp_path / "tiles.ecsv")
    tiles["use"][::2] = False
    tiles.write(tmp_path / "tiles.ecsv", overwrite=True)
    again = make_plan(tmp_path)
    assert [image.source.id for image in again.images] == ["f0", "f2", "f3"]
    assert [image.priority for image in again.images] == [0.0, 5.0, 0.0]
    names = [again.tiling.name(int(one)) for one in again.tiles]
    assert set(names) <= set(tiles["tile"][1::2])
    with pytest.raises(SettingsError, match=r"none of this survey's \(healpix:10\)"):
        make_plan(tmp_path, tiling_text="healpix:10")


def test_images_without_a_place_are_named(area, tmp_path):
    (tmp_path / "sky").mkdir()
    for name in ("f0_image.fits", "f0_sigma.fits", "psf.fits"):
        (tmp_path / "sky" / name).symlink_to(area[0] / name)
    fits.writeto(tmp_path / "sky" / "lost_image.fits", np.ones((300, 300), np.float32))
    plan = make_plan(tmp_path / "sky")
    assert [image.source.id for image in plan.images] == ["f0"]
    assert "no WCS" in plan.problems["lost"]
    with pytest.raises(SettingsError, match="no image can be placed"):
        make_plan(tmp_path / "sky" / "lost_image.fits")
