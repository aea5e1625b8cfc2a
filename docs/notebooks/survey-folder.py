# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A folder of a survey
#
# Many galaxies in files: fit all of them, read the results back, find what went wrong, and use
# what went right. The same on the command line: `autofit-ml fit images --out results`.

# %%
import tempfile
from pathlib import Path

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits

import autofit_ml as afm

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Images
#
# Thirty galaxies of an imagined survey with 0.2 arcsec pixels and a seeing of 0.7 arcsec, each
# in one file with its noise and its PSF. One file is broken, as in life.

# %%
random = np.random.default_rng(11)
y, x = np.mgrid[:31, :31] - 15
psf = (1 + (x**2 + y**2) / 2.1**2) ** -2.8
psf /= psf.sum()
(folder / "images").mkdir()
truths = []
for number in range(30):
    mag = random.uniform(18.5, 21.8)
    row = {
        "model": "sersic",
        **{"x": 40 + random.normal(), "y": 40 + random.normal()},
        **{"flux": 10 ** (-0.4 * (mag - 27)), "re": 10 ** (0.75 - 0.11 * (mag - 20))},
        **{"n": random.choice([1.0, 1.3, 2.5, 4.0]), "q": random.uniform(0.35, 1)},
        "pa": random.uniform(0, 180),
    }
    truths.append(row)
    light = afm.model_image(row, (81, 81), psf=psf)
    image = random.poisson((light + 25) * 50) / 50 - 25
    header = fits.Header({"MAGZERO": 27.0, "PIXSCALE": 0.2, "FILTER": "r"})
    planes = [
        fits.PrimaryHDU(image.astype("f4"), header),
        fits.ImageHDU(np.sqrt((light + 25) / 50).astype("f4"), name="ERR"),
        fits.ImageHDU(psf.astype("f4"), name="PSF"),
    ]
    fits.HDUList(planes).writeto(folder / "images" / f"galaxy{number:02d}.fits")
broken = folder / "images" / "galaxy29.fits"
broken.write_bytes(broken.read_bytes()[:9000]);

# %% [markdown]
# ## Fit the folder

# %%
table = afm.fit(folder / "images", out=folder / "results")
print(f"{len(table)} rows, {sum(table['use'])} usable, {sum(table['status'] == 'failed')} failed")

# %% [markdown]
# A second call with the same settings continues where the first stopped; here nothing is left to
# do. `open_results` reads a finished run; images are read when they are looked at.

# %%
run = afm.open_results(folder / "results")
run

# %% [markdown]
# ## What went wrong
#
# Every input has a row, and the row says why.

# %%
for name in run.ids:
    if not run[name].use:
        print(name, *run[name].flag_names, "|", run[name].message.removeprefix(str(folder))[:120])

# %% [markdown]
# ## One object
#
# The picture that the run drew, and the fit with its images.

# %%
run.preview("galaxy03")

# %%
run["galaxy03"]

# %% [markdown]
# ## All of them
#
# `run.table()` is an astropy table; units and errors come along.

# %%
good = run.table()
good = good[good["use"]]
true = {f"galaxy{k:02d}": row for k, row in enumerate(truths)}
size = np.array([true[name]["re"] for name in good["id"]]) * 0.2 * u.arcsec
pull = ((good["re_arcsec"] - size) / good["re_arcsec_err"]).value

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].errorbar(size.value, good["re_arcsec"].value, good["re_arcsec_err"].value, fmt="o", ms=4)
axes[0].plot([0.5, 1.7], [0.5, 1.7], color="0.5", lw=1)
axes[0].set(xlabel="true re [arcsec]", ylabel="fitted re [arcsec]")
axes[1].hist(pull, bins=np.arange(-4, 4.1, 0.5), color="C0")
axes[1].set(xlabel="(fitted - true) / error of re", ylabel="galaxies")
print(f"mean {pull.mean():+.2f}, scatter {pull.std():.2f} of the errors (0 and 1 are right)")

# %% [markdown]
# The size of galaxies against their magnitude:

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
points = axis.scatter(good["mag"].value, good["re_arcsec"].value, c=good["n"], cmap="viridis", s=30)
figure.colorbar(points, label="Sérsic index")
axis.set(xlabel="r [mag]", ylabel="re [arcsec]");

# %% [markdown]
# ## Images in memory
#
# A list of arrays is fitted together, like a folder, and gives the same kind of results.

# %%
stack = [fits.getdata(folder / "images" / f"galaxy{k:02d}.fits") for k in range(4)]
few = afm.fit(stack, psf=psf, zeropoint=27.0, pixel_scale=0.2, gain=50.0, sky_subtracted=25.0)
few.short_table()
