"""Simulated stamps that have ruined segmentations and fits of one Sérsic profile.

Each set is a function from a number to stamps and the truth of their targets (columns x, y, flux,
re, q, blend_fraction ...), always the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rendering import draw

from autofit_ml.images.stamp import Stamp
from autofit_ml.simulation import Source, compose_recipe, moffat_psf, simulate_one, to_stamps

__all__ = ["RUINED", "SATELLITES", "Sample"]

Sample = tuple[list[Stamp], np.ndarray]


def of_recipe(overrides: Sequence[str], seed: int | None = None) -> Callable[[int], Sample]:
    """A set of simulated stamps."""

    def make(number: int) -> Sample:
        recipe = compose_recipe(list(overrides))
        objects = [simulate_one(recipe, k, seed) for k in range(number)]
        stamps = [
            stamp.replace(labels=item.labels, target_label=1)
            for stamp, item in zip(to_stamps(objects), objects, strict=True)
        ]
        return stamps, np.concatenate([item.truth[:1] for item in objects])

    return make


def round_cusps(number: int) -> Sample:
    """Round galaxies with n 6 to 8 and re 17 to 32 pixels at S/N 4000, in 251 x 251 pixels."""
    rng, shape, gain = np.random.default_rng(42), (251, 251), 5.0
    stamps, truth = [], []
    for k in range(number):
        psf = moffat_psf(rng.uniform(2.5, 4.5), beta=3.0, size=41)
        x, y = 125 + rng.uniform(-1, 1, 2)
        re, n, q = rng.uniform(17, 32), rng.uniform(6, 8), rng.uniform(0.85, 1)
        light = draw(Source(x, y, 1.0, re, n, q, rng.uniform(0, 180)), psf, shape).astype(float)
        flux = 1e5
        for _ in range(30):
            flux *= 4000 / np.sqrt(np.sum((flux * light) ** 2 / (1 + flux * light / gain)))
        sigma = np.sqrt(1 + np.maximum(flux * light, 0) / gain)
        data = flux * light + sigma * rng.standard_normal(shape)
        stamps.append(
            Stamp(
                id=f"round{k}", data=data.astype(np.float32), sigma=sigma.astype(np.float32),
                mask=np.zeros(shape, bool), psf=psf, pixel_scale=0.2, zeropoint=27.0, gain=gain,
            )
        )  # fmt: skip
        truth.append((x, y, flux, re, n, q, 0.0))
    names = ("x", "y", "flux", "re", "n", "q", "blend_fraction")
    return stamps, np.array(truth, dtype=[(name, float) for name in names])


def clipped(number: int) -> Sample:
    """Single galaxies whose negative pixels are 0: half of the sky."""
    stamps, truth = of_recipe(("data=single", "survey=kids-r", "data.target.snr=[30,1000]"), 81)(
        number
    )
    return [stamp.replace(data=np.maximum(stamp.data, 0)) for stamp in stamps], truth


def satellites(number: int) -> Callable[[int], Sample]:
    """Large round galaxies with about so many satellites, each 2.5 to 7 magnitudes fainter."""
    overrides = (
        *("data=envelopes", "survey=kids-r", "data.shape=[160,160]", "data.target.snr=[1500,4000]"),
        *("data.galaxies.morphology={sersic: 1, bulge_disc: 0}", "data.galaxies.re=[16,24]"),
        *("data.galaxies.n=[2.5,5]", "data.galaxies.nucleus_probability=0"),
        *(f"data.neighbours.number={number}", "data.neighbours.re=[1,5]"),
        *("data.neighbours.relative_magnitude=[3.5,7]", "data.neighbours.star_fraction=0.2"),
        "data.neighbours.clustering={fraction: 1, slope: 0.8, scale: 10, stars: true}",
    )
    return of_recipe(overrides, 80 + number)


_KNOTS = "data.galaxies.structure.knot_fraction"
_RING = "data.galaxies.structure.ring_probability"
RUINED = {
    "round, n 6-8, S/N 4000": round_cusps,
    "clumpy": of_recipe(
        ("data=rings", "survey=hst-acs-f814w", f"{_KNOTS}=[0.1,0.4]", f"{_RING}=0",
         "data.galaxies.structure.irregular_probability=1"), 78,
    ),
    "rings": of_recipe(
        ("data=rings", "survey=kids-r", f"{_KNOTS}=[0.02,0.1]", f"{_RING}=1",
         "data.galaxies.nucleus_probability=0"), 77,
    ),
    "drizzled noise": of_recipe(
        ("data=single", "survey=hst-acs-f814w", "data.shape=[128,128]", "data.target.snr=[30,1000]",
         "survey.noise.correlation=[0.4,0.8]"), 79,
    ),
    "clipped at 0": clipped,
}  # fmt: skip
"""Name -> set."""

SATELLITES = {f"cD, about {k} satellites": satellites(k) for k in (3, 6, 12)}
