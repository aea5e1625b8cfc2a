# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # First fit
#
# One galaxy as a numpy array: fit it, look at the result, ask how certain it is, try a second
# component. Nothing is written to disk, and no starting values are typed.

# %%
import matplotlib.pyplot as plt
import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty

import autofit_ml as afm

# %% [markdown]
# ## An image
#
# A spiral's bulge and disc, a small neighbour and a star, seen through a Moffat PSF, with photon
# noise on a bright sky. `model_image` draws any row of parameters; here it makes the data.

# %%
random = np.random.default_rng(7)
y, x = np.mgrid[:41, :41] - 20
psf = (1 + (x**2 + y**2) / 2.2**2) ** -3.0
psf /= psf.sum()

truth = {
    "model": "sersic+exp",
    **{"x": 63.2, "y": 58.6, "flux": 9000, "re": 3.2, "n": 2.8, "q": 0.85, "pa": 35},
    **{"x_2": 63.2, "y_2": 58.6, "flux_2": 24000, "re_2": 13.5, "q_2": 0.55, "pa_2": 48},
}
neighbour = {
    "model": "sersic",
    "x": 91,
    "y": 82,
    "flux": 3500,
    "re": 4,
    "n": 1.5,
    "q": 0.7,
    "pa": 120,
}
star = {"model": "psf", "x": 24.4, "y": 93.1, "flux": 6000}

shape = (120, 128)
sky, gain = 60.0, 4.0
light = sum(afm.model_image(row, shape, psf=psf) for row in (truth, neighbour, star))
data = random.poisson((light + sky) * gain) / gain - sky
sigma = np.sqrt((light + sky) / gain)

# %% [markdown]
# ## Fit it
#
# The target is the galaxy in the middle. The neighbour and the star are found too: what overlaps
# is fitted along, the rest left out (grey).

# %%
fit = afm.fit(data, sigma=sigma, psf=psf, zeropoint=27.0, pixel_scale=0.2)
fit

# %% [markdown]
# Every column of the catalogue is an attribute, with its error beside it; `fit.table()` is the
# same as an astropy `QTable` with units.

# %%
print(f"re = {fit.re:.2f} +- {fit.re_err:.2f} pixels")
print(f"n = {fit.n:.2f} +- {fit.n_err:.2f}")
shown = ["id", "mag", "mag_err", "re_arcsec", "re_arcsec_err", "q", "pa", "chi2_red", "use"]
fit.table()[shown]

# %% [markdown]
# ## Is one Sérsic profile enough?
#
# The residual in the middle says no: it is many times the noise. A bulge and a disc:

# %%
both = afm.fit(
    data, sigma=sigma, psf=psf, zeropoint=27.0, pixel_scale=0.2, model="sersic+exp", ids="spiral"
)
both.plot();

# %%
print(f"BIC: {fit.bic:.0f} with one component, {both.bic:.0f} with two (lower is better)")
both.summary()

# %% [markdown]
# `model="auto"` makes this choice by itself. The truth was a bulge with 27 % of the light, of
# 3.2 pixels and n = 2.8, in a disc of 13.5 pixels.
#
# ## The components

# %%
panels = {"data": both.data - both.sky, **both.components}
figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.4), layout="constrained")
for axis, (name, image) in zip(axes, panels.items(), strict=True):
    axis.imshow(np.arcsinh(image / 4), origin="lower", cmap="magma", vmin=-1, vmax=6)
    axis.set(title=name, xticks=[], yticks=[])

# %% [markdown]
# ## How certain is it?
#
# `sample` draws from the posterior: from the covariance of the fit, or from samples where they
# were asked for (`posterior="hmc"`, `"nested"`, `"bootstrap"`). Anything that is computed from
# the draws has its uncertainty.

# %%
draws = both.sample(4000)
bulge = draws["flux"] / (draws["flux"] + draws["flux_2"])
print(f"bulge to total: {np.mean(bulge):.3f} +- {np.std(bulge):.3f}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
axes[0].hexbin(draws["re"].value, draws["n"], gridsize=40, cmap="Blues")
axes[0].plot(truth["re"], truth["n"], "*", color="C3", ms=12)
axes[0].set(xlabel="re of the bulge [pixel]", ylabel="n of the bulge")
axes[1].hist(bulge, bins=50, color="C0")
axes[1].axvline(9000 / 33000, color="C3")
axes[1].set(xlabel="bulge to total", yticks=[]);

# %% [markdown]
# ## Surface brightness

# %%
profile = afm.radial_profile(both)
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
good = profile["data"] > 2 * profile["data_err"]
axis.plot(profile["radius_arcsec"][good], profile["mu"][good], "o", color="0.3", label="data")
axis.plot(profile["radius_arcsec"][good], profile["mu_model"][good], color="C3", label="model")
axis.invert_yaxis()
axis.set(xlabel="semi-major axis [arcsec]", ylabel=r"$\mu$ [mag / arcsec$^2$]")
axis.legend();

# %% [markdown]
# ## The same in other containers
#
# `NDData` and `CCDData` bring their noise (of any type), mask, WCS and header; so do HDULists;
# `Cutout2D` brings its WCS and the position that it was cut around. Masks are True where a pixel
# is not to be used. Without noise it is estimated and the fit says so in its flags; without a
# PSF the error names the ways out.

# %%
ccd = CCDData(data, uncertainty=StdDevUncertainty(sigma), unit="adu", meta={"MAGZERO": 27.0})
again = afm.fit(ccd, psf=psf, pixel_scale=0.2)
print(again.re == fit.re, again.mag == fit.mag)

try:
    afm.fit(ccd)
except afm.InputError as error:
    print(error)

# %% [markdown]
# ## What it would look like without the atmosphere
#
# `model_image` draws the fit on any grid, with any PSF or none.

# %%
sharp = afm.model_image(both, shape)
seen = afm.model_image(both, shape, psf=psf)
print(f"peak: {sharp.max():.0f} without, {seen.max():.0f} with the PSF")
