# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Deconvolution
#
# What would the galaxy look like with a sharper PSF? Three classical answers, one image each,
# and one that says how much of it the data decide: samples from a posterior with a learned
# prior.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np

import autofit_ml as afm

warnings.simplefilter("ignore", afm.AutofitWarning)  # printed below
warnings.filterwarnings("ignore", message="IProgress not found")

# %% [markdown]
# ## A spiral galaxy
#
# A disc with two arms and a bulge, under a PSF of 4.2 pixels.

# %%
random = np.random.default_rng(5)
y, x = np.mgrid[:56, :56] - 27.5
radius, angle = np.hypot(x, y / 0.75), np.arctan2(y / 0.75, x)
arms = 1 + 0.9 * np.cos(2 * angle - 3.2 * np.log(radius + 1)) * (radius > 2)
disc = np.exp(-radius / 4.5) * arms
bulge = 8 * np.exp(-((radius / 1.2) ** 0.8))
scene = 60 * (disc + bulge)


def gaussian(side, fwhm):
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.exp(-4 * np.log(2) * (row**2 + column**2) / fwhm**2)
    return image / image.sum()


def seen_through(image, kernel):
    from scipy.signal import fftconvolve

    return fftconvolve(image, kernel, mode="same")


psf = gaussian(31, 4.2)
truth = seen_through(scene, gaussian(15, 2.0))  # with the target PSF of 2 pixels
sigma = 1.5
data = seen_through(scene, psf) + random.normal(0, sigma, scene.shape)
(stamp,) = afm.read(data, sigma=sigma, psf=psf)

# %% [markdown]
# ## Four answers
#
# The classical methods stop where the residual is as large as the noise (the discrepancy
# principle), which needs the noise map and no truth. They have no errors. `eps` draws samples;
# 16 are enough for a mean.

# %%
classical = ("wiener", "richardson-lucy", "tv")
found = {name: afm.deconvolve(stamp, sampler=name) for name in classical}
found["eps"] = afm.deconvolve(stamp, samples=16, seed=1)

panels = {"data": data, "truth": truth} | {name: one.mean for name, one in found.items()}
figure, axes = plt.subplots(1, 6, figsize=(14, 2.8), layout="constrained")
for axis, (name, image) in zip(axes, panels.items(), strict=True):
    axis.imshow(np.arcsinh(image / 5), origin="lower", cmap="magma", vmin=-0.5, vmax=4.5)
    axis.set(title=name, xticks=[], yticks=[])

# %%
for name, one in found.items():
    error = np.sqrt(np.mean((one.mean - truth) ** 2))
    kind = "mean of a posterior" if one.is_posterior else "one image, no errors"
    print(f"{name:16} rms error {error:.2f}, residual chi2 {one.chi2:.2f} per pixel ({kind})")
print(f"{'the data':16} rms error {np.sqrt(np.mean((data - truth) ** 2)):.2f}")

# %% [markdown]
# ## What the data decide
#
# Samples agree where the data speak and differ where they do not; their scatter is the
# uncertainty of every pixel, and of anything that is measured on them.

# %%
sharp = found["eps"]
figure, axes = plt.subplots(1, 5, figsize=(14, 3.0), layout="constrained")
for k in range(3):
    axes[k].imshow(
        np.arcsinh(sharp.samples[k] / 5), origin="lower", cmap="magma", vmin=-0.5, vmax=4.5
    )
    axes[k].set_title(f"sample {k + 1}")
axes[3].imshow(sharp.std, origin="lower", cmap="viridis")
axes[3].set_title("scatter of the samples")
drawn = axes[4].imshow(
    (sharp.mean - truth) / sharp.std, origin="lower", cmap="RdBu_r", vmin=-5, vmax=5
)
axes[4].set_title("(mean - truth) / scatter")
figure.colorbar(drawn, ax=axes[4])
for axis in axes:
    axis.set(xticks=[], yticks=[])

# %%
inner = np.hypot(x, y) < 4
light = sharp.samples[:, inner].sum(1)
print(f"light within 4 pixels: {light.mean():.0f} +- {light.std():.0f}")
print(f"the truth: {truth[inner].sum():.0f}")
print(f"share of the fine detail that the data leave open: {sharp.detail:.2f}")
for text in sharp.warnings:
    print("warning:", text)
