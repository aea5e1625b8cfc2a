"""One simulated image from a recipe: scene, light, sky, noise, defects, labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.measure import psf_fwhm
from autofit_ml.simulation.artefacts import apply_artefacts, coarsened, ghosts
from autofit_ml.simulation.compose import compose_recipe
from autofit_ml.simulation.draw import FAST, draw_box, extent
from autofit_ml.simulation.labels import add_light, described
from autofit_ml.simulation.noise import autocorrelation, flux_for_snr, observe
from autofit_ml.simulation.objects import SimulatedObject, SourceLight
from autofit_ml.simulation.psf import PSFGrid, draw_psf, draw_psf_grid
from autofit_ml.simulation.recipe import Recipe
from autofit_ml.simulation.scenes import draw_frame_scene, draw_stamp_neighbours, place_stamp_target
from autofit_ml.simulation.sources import Source

__all__ = ["check_recipe", "simulate", "simulate_one"]

_NEGLIGIBLE = 0.01
"""Light fainter than this many sigma of the sky per pixel is not drawn (neighbours only)."""


def simulate(
    recipe: Recipe | Sequence[str],
    *,
    count: int | None = None,
    seed: int | None = None,
    config_dir: str | Path | None = None,
) -> list[SimulatedObject]:
    """Simulated objects of a recipe, in memory (`autofit_ml.simulate` writes them too).

    Parameters
    ----------
    recipe : Recipe or sequence of str
        Or Hydra overrides: ``["data=blends", "survey=hsc-i", "data.target.snr=[20,200]"]``.
    count, seed : int, optional
        The recipe's when not given. Object i depends on the recipe, the seed and i alone.
    config_dir : path, optional
        Folder of your own configs; see `compose_recipe`.

    Returns
    -------
    list of SimulatedObject

    Raises
    ------
    SettingsError
        The recipe is wrong; nothing has been done.
    """
    if not isinstance(recipe, Recipe):
        recipe = compose_recipe(recipe, config_dir=config_dir)
    check_recipe(recipe)
    number = recipe.data.count if count is None else count
    return [simulate_one(recipe, index, seed) for index in range(number)]


def check_recipe(recipe: Recipe) -> None:
    """Draw what can only be found wrong by drawing it: PSF folders, real galaxies.

    Raises
    ------
    SettingsError
    """
    psf = draw_psf(recipe.survey.psf, recipe.survey.pixel_scale, np.random.default_rng(0))
    autocorrelation(recipe.survey.noise.drawn(np.random.default_rng(0)), recipe.data.shape)
    if recipe.data.galaxies.morphology.get("real", 0) > 0:
        from autofit_ml.simulation.real import check_real_galaxies

        check_real_galaxies(recipe.data.galaxies, recipe.survey.pixel_scale, psf)


def simulate_one(recipe: Recipe, index: int, seed: int | None = None) -> SimulatedObject:
    """One object of a recipe.

    Parameters
    ----------
    recipe : Recipe
    index : int
        Non-negative.
    seed : int, optional
        The recipe's when not given.

    Returns
    -------
    SimulatedObject
        Depends on (recipe, seed, index) alone. PSF, scene, noise and defects have random streams
        of their own: the same seed with other noise shows the same galaxies.
    """
    seed = recipe.data.seed if seed is None else seed
    if index < 0 or seed < 0:
        raise SettingsError(f"index {index}, seed {seed}", "both are at least 0")
    streams = _Streams(*(np.random.default_rng([seed, index, k]) for k in range(4)))
    data, survey = recipe.data, recipe.survey
    grid, (ny, nx) = None, data.shape
    if data.kind == "frame":
        grid = draw_psf_grid(survey.psf, survey.pixel_scale, data.shape, streams.psf, seed)
        psf = grid.at((nx - 1) / 2, (ny - 1) / 2)
    else:
        psf = draw_psf(survey.psf, survey.pixel_scale, streams.psf, seed)
    fwhm, sky = psf_fwhm(psf), _Sky(recipe, streams.noise)
    # (source, its light, whether it is above the recipe's cut)
    drawn: list[tuple[Source, SourceLight, bool]] = []
    if data.kind == "frame":
        others = draw_frame_scene(streams.scene, recipe)
    else:
        target, light = _draw_target(recipe, psf, sky, streams.scene)
        drawn.append((target, SourceLight(0, 0, light.astype(np.float32)), True))
        margin = 0.1 * min(data.shape)
        others = draw_stamp_neighbours(streams.scene, recipe, target, fwhm, margin)
    for source, seen in others:
        own = _light(source, grid.at(source.x, source.y) if grid else psf, data.shape, sky.rms)
        if own is not None:
            drawn.append((source, own, seen))
    return _observe(recipe, index, drawn, psf, grid, fwhm, sky, streams)


@dataclass(frozen=True)
class _Streams:
    """Independent random numbers of one object."""

    psf: np.random.Generator
    scene: np.random.Generator
    noise: np.random.Generator
    artefacts: np.random.Generator


def _draw_target(
    recipe: Recipe, psf: PSF, sky: "_Sky", rng: np.random.Generator
) -> tuple[Source, np.ndarray]:
    """A stamp's target, and its light."""
    shape, images = recipe.data.shape, []

    def flux_at_snr(unit: Source) -> float:
        assert recipe.data.target is not None and recipe.data.target.snr is not None
        low, high = np.log(recipe.data.target.snr)
        image = draw_box(unit, psf, (0, 0), shape, FAST)
        flux = flux_for_snr(image, math.exp(rng.uniform(low, high)), sky.rms, sky.gain)
        images.append(flux * image)
        return flux

    target = place_stamp_target(rng, recipe, flux_at_snr)
    return target, images[0] if images else draw_box(target, psf, (0, 0), shape, FAST)


class _Sky:
    """Sky level and noise of one image."""

    def __init__(self, recipe: Recipe, rng: np.random.Generator) -> None:
        noise, survey = recipe.survey.noise, recipe.survey
        self.gain, self.read_noise = noise.gain, noise.read_noise
        brightness = noise.sky_brightness + noise.scatter * rng.standard_normal()
        per_arcsec2 = 10 ** (-0.4 * (brightness - survey.zeropoint))
        self.level = per_arcsec2 * survey.pixel_scale**2
        self.rms = math.sqrt(self.level * self.gain + self.read_noise**2) / self.gain
        self.pedestal = self.rms * rng.uniform(*noise.pedestal)
        self.correlation = autocorrelation(noise.drawn(rng), recipe.data.shape)
        ny, nx = recipe.data.shape
        slope = self.rms * rng.uniform(*noise.gradient) / max(ny, nx)
        angle = rng.uniform(0, 2 * np.pi)
        self.flat = slope == 0
        self.gradient = slope * (
            math.cos(angle) * (np.arange(nx) - (nx - 1) / 2)[None, :]
            + math.sin(angle) * (np.arange(ny) - (ny - 1) / 2)[:, None]
        )


def _light(source: Source, psf: PSF, shape: tuple[int, int], sky_rms: float) -> SourceLight | None:
    """A source's light where it matters; None if that is nowhere in the image."""
    radius = max(extent(source, psf, _NEGLIGIBLE * sky_rms), 4.0)
    y0, y1 = max(0, math.floor(source.y - radius)), min(shape[0], math.ceil(source.y + radius) + 1)
    x0, x1 = max(0, math.floor(source.x - radius)), min(shape[1], math.ceil(source.x + radius) + 1)
    if y1 <= y0 or x1 <= x0:
        return None
    light = draw_box(source, psf, (y0, x0), (y1 - y0, x1 - x0), FAST)
    return SourceLight(y0, x0, light.astype(np.float32))


def _observe(
    recipe: Recipe,
    index: int,
    drawn: Sequence[tuple[Source, SourceLight, bool]],
    psf: PSF,
    grid: PSFGrid | None,
    fwhm: float,
    sky: _Sky,
    streams: _Streams,
) -> SimulatedObject:
    """Everything after the light: sky, noise, defects, labels, truth."""
    data, survey = recipe.data, recipe.survey
    shape, defects = data.shape, survey.artefacts
    sources = tuple(source for source, _, _ in drawn)
    lights = tuple(light for _, light, _ in drawn)
    detectable = [seen for _, _, seen in drawn]
    total = np.zeros(shape, np.float32)
    for light in lights:
        add_light(total, light)
    stars = [(item.x, item.y, item.flux) for item in sources if item.is_star]
    # the largest share of a star's light in one pixel
    peak = float(psf.data.max()) * psf.oversampling**2
    bright = [star for star in stars if star[2] * peak + sky.level > defects.saturation]
    ghost, bits = ghosts(bright, shape, defects.ghosts, fwhm)
    image, sigma = observe(
        total + ghost,
        sky.level + sky.gradient,
        gain=sky.gain,
        read_noise=sky.read_noise,
        rng=streams.noise,
        correlation=sky.correlation,
    )
    image, mask, defect_bits = apply_artefacts(
        image, defects, gain=sky.gain, psf_fwhm=fwhm, rng=streams.artefacts
    )
    # What the survey has subtracted; a pedestal is left.
    image = coarsened(
        image - sky.level + sky.pedestal, sky.pedestal, sky.rms, defects, streams.artefacts
    )
    model = np.zeros(shape, np.float32)
    if data.kind == "stamp":
        add_light(model, lights[0])
    return described(
        sources,
        lights,
        total,
        detectable,
        isophote=data.labels.isophote,
        id=f"{data.name}-{index:06d}",
        data=image.astype(np.float32),
        sigma=sigma,
        mask=mask,
        psf=psf,
        model=model,
        neighbour_light=total - model,
        sky=float(sky.pedestal),
        sky_rms=float(sky.rms),
        pixel_scale=survey.pixel_scale,
        zeropoint=survey.zeropoint,
        gain=sky.gain,
        ra=150.0 + 0.01 * (index % 1000),
        dec=2.0 + 0.01 * (index // 1000 % 1000),
        kind=data.kind,
        survey=survey.name,
        filter=survey.band,
        artefacts=(bits | defect_bits).astype(np.uint8),
        sky_map=None if sky.flat else (sky.pedestal + sky.gradient).astype(np.float32),
        light=lights if data.labels.light else None,
        psf_grid=grid,
        correlation=sky.correlation,
    )
