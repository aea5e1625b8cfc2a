"""Borders, planes' names, PSF images, positions, damaged files: what is in the files."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

pytest.importorskip("galsim")

from case_images import (
    MOFFAT,
    NOISE,
    SHAPE,
    assert_near,
    fitted,
    galaxy,
    header,
    noisy,
    psf_image,
    write,
)

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError
from autofit_ml.measure.stars import find_stars, stack_stars

CLEAN = galaxy()
Y, X = np.indices(SHAPE)


@pytest.fixture(scope="module")
def borders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("borders")
    write(folder / "psf.fits", psf_image())
    for seed, percent in enumerate((5, 20, 35)):
        filled = percent * SHAPE[1] // 100 > X
        for name, pedestal, given in (("ped", 20, False), ("sub", 0, False), ("sig", 0, True)):
            image = np.where(filled, 0.0, noisy(CLEAN, seed) + pedestal)
            write(folder / f"{name}{percent}_image.fits", image, header(SHAPE))
            if given:
                write(folder / f"{name}{percent}_sigma.fits", np.full(SHAPE, NOISE))
    image = np.where(X + Y < 45, 0.0, noisy(CLEAN, 9) + 20)
    write(folder / "corner_image.fits", image, header(SHAPE))
    write(folder / "corner_sigma.fits", np.full(SHAPE, NOISE))
    return fitted(folder)


def test_filled_borders(borders):
    assert len(borders) == 10
    for row in borders.values():
        assert row["use"] and "of exactly 0 masked" in row["message"]
        assert_near(row, 4)  # 70 numbers: one beyond 3 sigma in four runs


NOISE_MAP = np.where(X >= 60, 30.0, 3.0)
BAD = np.random.default_rng(5).uniform(size=SHAPE) < 0.02
FILES = {
    ".weight": NOISE_MAP**-2, "_weight": NOISE_MAP**-2, "_unc": NOISE_MAP, "_noise": NOISE_MAP,
    "_error": NOISE_MAP, "_std": NOISE_MAP, "_variance": NOISE_MAP**2, "_bpm": BAD.astype("u1"),
    "_flags": BAD.astype("u1"),
}  # fmt: skip


def test_planes_under_other_names(tmp_path):
    names = []
    for suffix, plane in FILES.items():
        folder = tmp_path / suffix.strip("._") / suffix[0].replace(".", "dot")
        image = write(folder / "gal1.fits", noisy(CLEAN, 1, NOISE_MAP), header(SHAPE))
        write(folder / f"gal1{suffix}.fits", plane, header(SHAPE))
        write(folder / "psf.fits", psf_image())
        (row,) = fitted(folder).values()
        assert row["status"] == "ok"
        if plane.dtype.kind == "f":
            assert not row["flags"] & (Flag.SIGMA_ESTIMATED | Flag.BAD_SIGMA), (
                suffix,
                row["message"],
            )
            assert row["chi2_red"] == pytest.approx(1.0, abs=0.08), suffix
            assert_near(row, 4)
        else:
            assert row["n_pix"] == SHAPE[0] * SHAPE[1] - BAD.sum(), suffix
        names.append(image)
    folder = tmp_path / "hdus"
    folder.mkdir()
    write(folder / "psf.fits", psf_image())
    data = CCDData(
        noisy(CLEAN, 2, NOISE_MAP), unit="adu", uncertainty=StdDevUncertainty(NOISE_MAP),
        mask=np.zeros(SHAPE, bool), wcs=WCS(header(SHAPE)),
    )  # fmt: skip
    data.write(folder / "ccddata.fits")
    for seed, (science, extension) in enumerate(
        [("SCI", "UNC"), ("SCI", "NOISE"), ("SCI", "STD"), ("SCI", "WT"), ("DATA", "STAT")]
    ):
        plane = NOISE_MAP**2 if extension == "STAT" else NOISE_MAP
        hdus = [
            fits.PrimaryHDU(),
            fits.ImageHDU(noisy(CLEAN, seed, NOISE_MAP).astype("f4"), header(SHAPE), name=science),
            fits.ImageHDU(plane.astype("f4"), name=extension),
        ]
        fits.HDUList(hdus).writeto(folder / f"x{extension.lower()}.fits")
    rows = fitted(folder)
    assert len(rows) == 6
    for name, row in rows.items():
        assert row["chi2_red"] == pytest.approx(1.0, abs=0.08), (name, row["message"])
        assert_near(row, 4)


def test_psf_images_with_sky_and_neighbours(tmp_path):
    rng = np.random.default_rng(3)
    for pedestal in (0, 1, 5, 50):
        star = psf_image() * 1e5 + pedestal + rng.normal(0, 3, (41, 41))
        write(tmp_path / f"p{pedestal}_image.fits", noisy(CLEAN, pedestal), header(SHAPE))
        write(tmp_path / f"p{pedestal}_sigma.fits", np.full(SHAPE, NOISE))
        write(tmp_path / f"p{pedestal}_psf.fits", star)
    beside = MOFFAT.shift(13, 9).drawImage(nx=41, ny=41, scale=1.0).array
    write(tmp_path / "nb_image.fits", noisy(CLEAN, 8), header(SHAPE))
    write(tmp_path / "nb_sigma.fits", np.full(SHAPE, NOISE))
    write(tmp_path / "nb_psf.fits", psf_image() * 1e5 + 2e4 * beside)
    rows = fitted(tmp_path)
    for name, row in rows.items():
        assert_near(row, 4)
        assert bool(row["flags"] & Flag.BAD_PSF) == (name != "p0"), row["message"]


def test_positions_through_distortion(tmp_path):
    shape = (700, 700)
    head = header(shape, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP")
    head.update(A_ORDER=2, B_ORDER=2, A_2_0=2e-4, B_0_2=1.5e-4, A_0_2=0.0, B_2_0=0.0)
    image, lines = np.zeros(shape), ["id,image,psf,ra,dec"]
    places = [(100.0, 600.0), (350.0, 350.0), (600.0, 120.0)]
    for k, (x, y) in enumerate(places):
        part = (slice(int(y) - 60, int(y) + 61), slice(int(x) - 60, int(x) + 61))
        image[part] += galaxy((121, 121), x=60, y=60, n=1.5, q=0.7, pa=30)
        if k != 1:
            image[part] += galaxy((121, 121), x=48, y=52, flux=3e3, re=3, n=1, q=0.7, pa=30)
        ra, dec = WCS(head).all_pix2world([[x, y]], 0)[0]
        lines.append(f"g{k},sip.fits,p.fits,{ra:.8f},{dec:.8f}")
    write(tmp_path / "sip.fits", noisy(image, 1), head)
    write(tmp_path / "p.fits", psf_image())
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    rows = fitted(None, manifest=tmp_path / "list.csv")
    for k, (x, y) in enumerate(places):
        assert np.hypot(rows[f"g{k}"]["x"] - x, rows[f"g{k}"]["y"] - y) < 0.1
        assert rows[f"g{k}"]["use"]


STARS = [3.0, 5.0, 10.0]
"""FWHM, pixels."""

GALAXIES = [(10.0, 1.0), (8.0, 1.0), (4.0, 2.5), (6.0, 4.0)]
"""re, pixels, and n."""


@pytest.mark.parametrize("kind", [*STARS, *GALAXIES])
def test_psfs_are_built_of_stars_not_of_galaxies(kind):
    image, rng = np.zeros((500, 500)), np.random.default_rng(6)
    if kind in GALAXIES:
        one = galaxy((121, 121), x=60, y=60, flux=3e5, re=kind[0], n=kind[1], q=0.95)
    else:
        one = (MOFFAT.dilate(kind / 3) * 3e5).drawImage(nx=121, ny=121, scale=1.0).array
    for x, y in [(x, y) for x in (80, 250, 420) for y in (80, 250, 420)]:
        image[y - 60 : y + 61, x - 60 : x + 61] += one
    data, sigma = image + rng.normal(0, NOISE, image.shape), np.full(image.shape, NOISE)
    mask = np.zeros(image.shape, bool)
    assert len(find_stars(data, sigma, mask)) == 9
    if kind in STARS:
        assert stack_stars(data, sigma, mask).number == 9
        return
    with pytest.raises(InputError, match="are galaxies"):
        stack_stars(data, sigma, mask)


def damaged(folder: Path, good: list[Path], seed: int, number: int = 60) -> None:
    """Damaged copies: cut, bits flipped, cards overwritten, compressed and cut."""
    rng = np.random.default_rng(seed)
    for k in range(number):
        content = bytearray(good[k % len(good)].read_bytes())
        kind = k % 6
        ending = ""
        if kind == 0:
            content = content[: int(rng.integers(1, len(content)))]
        elif kind == 1:
            for at in rng.integers(0, len(content), 40):
                content[at] ^= int(rng.integers(1, 256))
        elif kind == 2:
            at = 80 * int(rng.integers(0, 30))
            content[at : at + 80] = bytes(rng.integers(32, 127, 80, dtype=np.uint8))
        elif kind == 3:
            content[: int(rng.integers(1, 2880))] = b"\0"
        elif kind == 4:
            whole = gzip.compress(bytes(content))
            content, ending = whole[: int(rng.integers(20, len(whole)))], ".gz"
        else:
            whole = bz2.compress(bytes(content))
            content, ending = whole[: int(rng.integers(20, len(whole)))], ".bz2"
        (folder / f"bad{k:02d}_image.fits{ending}").write_bytes(bytes(content))


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write(folder / "psf.fits", psf_image(25))
    files = []
    for k in range(6):
        image = noisy(galaxy((61, 61), x=30, y=30, flux=8000, re=4), k)
        files.append(write(folder / f"g{k}_image.fits", image, header((61, 61))))
        write(folder / f"g{k}_sigma.fits", np.full((61, 61), NOISE))
    return folder, files, fitted(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_have_their_rows_and_change_no_others(undamaged, tmp_path, seed):
    folder, files, alone = undamaged
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged(tmp_path, files, seed)
    rows = fitted(tmp_path)
    assert {f"bad{k:02d}" for k in range(60)} <= rows.keys()
    assert len(rows) == 66
    left_out = {"file", "time_ms", "message"}
    for name, row in alone.items():
        for column in row.keys() - left_out:
            same = (
                np.array_equal(row[column], rows[name][column], equal_nan=True)
                if isinstance(row[column], (float, list))
                else row[column] == rows[name][column]
            )
            assert same, (name, column)
