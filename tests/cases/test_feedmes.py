"""GALFIT input files as their users have them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("galsim")

from case_images import assert_near, fitted, galaxy, header, psf_image, write

SHAPE = (121, 121)
SECONDS, GAIN, COMBINED, SKY = 300.0, 2.0, 5, 150.0
FLUX = SECONDS * 10 ** (-0.4 * (18.0 - 25.0))
GALAXY = {"x": 59.0, "y": 61.0, "flux": FLUX, "re": 8.0, "n": 2.0, "q": 0.6, "pa": 35.0}
TEXT = """
===============================================================================
A) {image}            # Input data image (FITS file)
B) imgblock.fits       # Output data image block
C) {sigma}               # Sigma image name (made from data if blank or "none")
D) {psf}   #           # Input PSF image and (optional) diffusion kernel
E) 1                   # PSF fine sampling factor relative to data
F) {mask}              # Bad pixel mask (FITS image or ASCII coord list)
G) none                # File with parameter constraints (ASCII file)
H) 1 121 1 121         # Image region to fit (xmin xmax ymin ymax)
I) 100    100          # Size of the convolution box (x y)
J) 25.0                # Magnitude photometric zeropoint
K) 0.2  0.2            # Plate scale (dx dy)    [arcsec per pixel]
O) regular             # Display type (regular, curses, both)
P) {mode}                   # Choose: 0=optimize, 1=model, 2=imgblock, 3=subcomps

# Object number: 1
 0) sersic                 #  object type
 1) 60.5  61.5  1 1     #  position x, y
 3) 18.3     1          #  Integrated magnitude
 4) 6.0      1          #  R_e (half-light radius)   [pix]
 5) 1.5      1          #  Sersic index n
 9) 0.7      1          #  axis ratio (b/a)
10) 20.0     1          #  position angle (PA) [deg: Up=0, Left=90]
 Z) 0                      #  output option (0 = resid., 1 = Don't subtract)

# Object number: 2
 0) sky
 1) 140.0     1          #  sky background at center of fitting region [ADUs]
 2) 0.0      0          #  dsky/dx (sky gradient in x)
 3) 0.0      0          #  dsky/dy (sky gradient in y)
 Z) 0
================================================================================
"""
FILES = {
    "no-sigma": {"sigma": "none"},
    "sigma-not-there": {"sigma": "elsewhere.fits"},
    "list-of-bad-pixels": {"image": "bad.fits", "mask": "bad.txt"},
    "mask-image": {"image": "bad.fits", "mask": "mask.fits"},
    "mask-not-there": {"mask": "elsewhere.fits"},
    "model-only": {"mode": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("galfit")
    rng = np.random.default_rng(11)
    expected = galaxy(SHAPE, **GALAXY) + SKY
    electrons = GAIN * COMBINED
    image = rng.poisson(expected * electrons) / electrons
    sharp = rng.poisson((galaxy(SHAPE, seeing=False, **GALAXY) + SKY) * electrons) / electrons
    cards = {"EXPTIME": SECONDS, "GAIN": GAIN, "RDNOISE": 0.0, "NCOMBINE": COMBINED}
    bad = np.zeros(SHAPE, np.uint8)
    bad[80:95, 20:40] = 1
    for name, data in (("gal", image), ("sharp", sharp), ("bad", image + 4000.0 * bad)):
        head = header(SHAPE, **cards)
        for card in ("CTYPE1", "CTYPE2", "CD1_1", "CD1_2", "CD2_1", "CD2_2", "ZP"):
            del head[card]  # the zero point and the plate scale are the file's
        write(where / f"{name}.fits", data, head)
    write(where / "sigma.fits", np.sqrt(expected / electrons))
    write(where / "psf.fits", psf_image())
    write(where / "mask.fits", bad)
    rows, columns = np.nonzero(bad)
    lines = [f"{x + 1} {y + 1}" for x, y in zip(columns, rows, strict=True)]
    (where / "bad.txt").write_text("# x y\n" + "\n".join(lines) + "\n999 999\n")
    return where


def fit_file(folder, name, **words):
    words = {
        "image": "gal.fits",
        "sigma": "sigma.fits",
        "psf": "psf.fits",
        "mask": "none",
        "mode": 0,
    } | words
    path = folder / f"{name}.feedme"
    path.write_text(TEXT.format(**words))
    (row,) = fitted(None, galfit=path).values()
    return row


@pytest.mark.parametrize("name", FILES)
def test_files_that_galfit_reads(folder, name):
    row = fit_file(folder, name, **FILES[name])
    assert row["use"], row["message"]
    assert_near(row, 4, **GALAXY)
    assert row["mag"] == pytest.approx(18.0, abs=0.01)
    assert row["sky"] == pytest.approx(SKY, abs=0.3)
    assert row["re_arcsec"] == pytest.approx(1.6, abs=0.03)  # K)
    assert row["snr"] == pytest.approx(1035, rel=0.02)  # gain times NCOMBINE
    if "there" in name:
        assert "does not exist" in row["message"]


def test_without_a_psf(folder):
    """A galaxy that no seeing has blurred: its truth, with GALFIT's own noise."""
    row = fit_file(folder, "no-psf", image="sharp.fits", sigma="none", psf="none")
    assert row["use"] and "without a PSF" in row["message"]
    assert_near(row, 4, **GALAXY)
