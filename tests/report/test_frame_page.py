"""The page of a frame: what it holds, and that pictures and catalogue lie on each other."""

import base64
import io
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from autofit_ml.images.bands import blue_to_red
from autofit_ml.report import FramePlanes, write_frame_page
from autofit_ml.report.frame_picture import frame_layers, jpeg_tiles

SHAPE = (700, 1100)
X, Y = 900, 60


def planes(flux):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    model = flux * np.exp(-((x - X) ** 2 + (y - Y) ** 2) / 8).astype(np.float32)
    noise = rng.normal(0, 1, SHAPE).astype(np.float32)
    return FramePlanes(model + noise, model, np.ones(SHAPE, np.float32))


@pytest.fixture(scope="module")
def bands():
    return {"g": planes(50), "r": planes(50), "i": planes(400)}


@pytest.fixture(scope="module")
def table():
    return pa.table(
        {
            "id": ["f@1", "</script><b>f@2"],
            "x": [float(X), 10.0],
            "y": [float(Y), 10.0],
            "p_star": [0.999, 0.2],
            "type": ["star", "galaxy"],
            "flags": pa.array([0, 2], pa.int32()),
            "use": [True, False],
        }
    )


def held(page):
    text = page.read_text("utf-8")
    payload = re.search(r'id="frame">(.*?)</script>', text, re.DOTALL)
    return text, json.loads(payload[1])


def opened(address, folder):
    if address.startswith("data:"):
        return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return Image.open(io.BytesIO((folder / address).read_bytes()))


def test_a_page_needs_nothing_else(tmp_path, bands, table):
    page = write_frame_page(tmp_path / "f.html", table, bands, title="a & b", pixel_scale=0.4)
    text, payload = held(page)
    assert [path.name for path in tmp_path.iterdir()] == ["f.html"]
    assert "a &amp; b" in text
    assert "</script><b>" not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert payload["columns"][0]["values"] == ["f@1", "</script><b>f@2"]
    assert payload["colours"] == ["i", "r", "g"]
    for levels in payload["tiles"].values():
        assert [len(rows) for rows in levels] == [2, 1, 1]
        whole = sum(opened(address, tmp_path).size[0] for address in levels[0][0])
        assert whole == SHAPE[1]


def test_many_pictures_lie_beside_the_page(tmp_path, bands, table):
    page = write_frame_page(tmp_path / "f.html", table, bands, title="f", embedded=1e3)
    _, payload = held(page)
    address = payload["tiles"]["data"][0][0][2]
    assert address.startswith("f_tiles/")
    assert opened(address, tmp_path).size == (SHAPE[1] - 1024, 512)
    # written anew, nothing of the old remains
    write_frame_page(tmp_path / "f.html", table, bands, title="f")
    assert not (tmp_path / "f_tiles").exists()


def test_a_source_is_where_the_catalogue_says(bands):
    layers, _ = frame_layers(bands)
    for name in ("data", "model"):
        light = layers[name].astype(float).sum(2)
        row, column = np.argwhere(light > 0.9 * light.max()).mean(0)
        assert abs(column - X) <= 1
        assert abs(SHAPE[0] - 1 - row - Y) <= 1, "the first row of the image is at the bottom"
    red, _, blue = layers["model"][SHAPE[0] - 1 - Y, X].astype(int)
    assert red > blue + 50, "the last band is red"


def test_the_residual_is_in_units_of_its_noise(bands):
    layers, _ = frame_layers(bands)
    grey = layers["residual"].astype(float).std((0, 1))
    wrong = {name: FramePlanes(one.data, 0 * one.model, one.sigma) for name, one in bands.items()}
    there = frame_layers(wrong)[0]["residual"][SHAPE[0] - 1 - Y, X].astype(int)
    assert grey.max() < 70
    assert there[0] > there[2] + 60, "too little model is red"


def test_one_band_is_grey_and_masked_pixels_stand_out(bands):
    one = bands["r"]
    mask = np.zeros(SHAPE, bool)
    mask[100:200, 100:200] = True
    spoilt = FramePlanes(np.where(mask, np.nan, one.data), one.model, one.sigma, mask)
    layers, colours = frame_layers({"r": spoilt})
    assert colours == ("r",)
    good = layers["data"][:400]
    assert (good[..., 0] == good[..., 2]).all()
    inside = layers["residual"][SHAPE[0] - 200 : SHAPE[0] - 100, 100:200]
    assert (inside == inside[0, 0]).all()


def test_tiles_cover_a_picture_at_every_size():
    image = np.zeros((513, 1025, 3), np.uint8)
    image[512, 1024] = 255
    levels = jpeg_tiles(image)
    sizes = [[[Image.open(io.BytesIO(t)).size for t in row] for row in rows] for rows in levels]
    assert sizes[0] == [[(512, 512), (512, 512), (1, 512)], [(512, 1), (512, 1), (1, 1)]]
    assert sizes[1] == [[(512, 257), (1, 257)]]
    assert sizes[2] == [[(257, 129)]]


def test_bands_go_from_blue_to_red():
    assert blue_to_red(["r", "u", "g", "z", "i"]) == ["u", "g", "r", "i", "z"]
    assert blue_to_red(["SDSS r", "HSC-G"]) == ["HSC-G", "SDSS r"]
    assert blue_to_red(["F814W", "F606W"]) == ["F814W", "F606W"]


def test_a_source_opens_in_a_browser(tmp_path, bands, table, browse):
    page = write_frame_page(tmp_path / "f.html", table, bands, title="f", pixel_scale=0.4)
    listed = browse(page).split('<script type="application/json"')[0]
    assert "2 sources" in listed and "f@1" in listed
    assert "&lt;/script&gt;&lt;b&gt;f@2" in listed
    opened = browse(page, "id=f%401").split('<script type="application/json"')[0]
    assert "A star (probability over 99&nbsp;%)." in opened
    assert opened.count("<figure>") == 3
    assert "Not usable" in opened, "the other kind can be switched off"
