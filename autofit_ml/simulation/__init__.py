"""Simulated galaxy images with known truth, drawn by GalSim.

In: a recipe (``conf/data``: which scenes; ``conf/survey``: observed how) and a seed. Out:
`SimulatedObject`: image, noise map, PSF, mask, instance labels, and the parameters of every source
that made it; or a set of them on disk, in shards. `to_stamps` turns objects into what
`autofit_ml.images` would have read, `export_fits` into a folder that ``autofit-ml fit`` reads.

Neighbours: `images` (the `Stamp` and `PSF` types), `catalogue` (flags), `render` (the device-side
path). Nothing in the fitting flow imports this package; it serves training, tests, benchmarks and
the demonstration.

From recipe to pixels:

- `recipe`: settings, validated; `compose_recipe` reads them from Hydra configs.
- `populations`, `scenes`, `sources`: numbers, sizes and shapes; which sources are where.
- `real`: cut-outs of real galaxies as sources.
- `psf`, `draw`: PSF images; light on pixels with exactly the PSF image that is handed over.
- `noise`, `artefacts`: sky, noise, detector defects.
- `labels`, `objects`: who owns which pixel; everything that is known of an image.
- `generate`: all of these for one object of a recipe.
- `shards`, `dataset`, `files`: sets on disk, PyTorch data sets, FITS folders.
- `endless`: the second path, batches drawn by our own renderer on CPU or GPU.
- `observe`, `sample`, `demo`: scenes and samples given in Python; a small folder for a first look.

GalSim, Hydra and pydantic are optional dependencies (``pip install 'autofit-ml[simulate]'``);
`endless` needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import SettingsError

if TYPE_CHECKING:
    from autofit_ml.simulation.dataset import ChunkSampler, MixedSampler, ShardDataset, collate
    from autofit_ml.simulation.demo import demo_set
    from autofit_ml.simulation.draw import EXACT, FAST, DrawAccuracy, render_source
    from autofit_ml.simulation.endless import EndlessSersic, EndlessSettings
    from autofit_ml.simulation.files import export_fits
    from autofit_ml.simulation.generate import simulate, simulate_one
    from autofit_ml.simulation.noise import add_noise, flux_for_snr, noise_map, total_snr
    from autofit_ml.simulation.objects import (
        SOURCE_DTYPE,
        Artefact,
        SimulatedObject,
        SourceLight,
        source_table,
        to_frame,
        to_stamps,
        truth_table,
    )
    from autofit_ml.simulation.observe import observe_scene
    from autofit_ml.simulation.psf import PSFGrid, draw_psf, draw_psf_grid, moffat_psf
    from autofit_ml.simulation.recipe import Recipe, compose_recipe, config_folder, list_recipes
    from autofit_ml.simulation.sample import simulate_sersic
    from autofit_ml.simulation.scenes import draw_galaxy, draw_neighbours, draw_target
    from autofit_ml.simulation.shards import read_manifest, read_objects, verify_set
    from autofit_ml.simulation.sources import Component, Source, sersic_indices

_MODULES = {
    "dataset": ("ChunkSampler", "MixedSampler", "ShardDataset", "collate"),
    "demo": ("demo_set",),
    "draw": ("EXACT", "FAST", "DrawAccuracy", "render_source"),
    "endless": ("EndlessSersic", "EndlessSettings"),
    "files": ("export_fits",),
    "generate": ("simulate", "simulate_one"),
    "noise": ("add_noise", "flux_for_snr", "noise_map", "total_snr"),
    "objects": (
        "SOURCE_DTYPE",
        "Artefact",
        "SimulatedObject",
        "SourceLight",
        "source_table",
        "to_frame",
        "to_stamps",
        "truth_table",
    ),
    "observe": ("observe_scene",),
    "psf": ("PSFGrid", "draw_psf", "draw_psf_grid", "moffat_psf"),
    "recipe": ("Recipe", "compose_recipe", "config_folder", "list_recipes"),
    "sample": ("simulate_sersic",),
    "scenes": ("draw_galaxy", "draw_neighbours", "draw_target"),
    "shards": ("read_manifest", "read_objects", "verify_set"),
    "sources": ("Component", "Source", "sersic_indices"),
}
_OPTIONAL = {"galsim", "hydra", "omegaconf", "pydantic"}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "EXACT",
    "FAST",
    "SOURCE_DTYPE",
    "Artefact",
    "ChunkSampler",
    "Component",
    "DrawAccuracy",
    "EndlessSersic",
    "EndlessSettings",
    "MixedSampler",
    "PSFGrid",
    "Recipe",
    "ShardDataset",
    "SimulatedObject",
    "Source",
    "SourceLight",
    "add_noise",
    "collate",
    "compose_recipe",
    "config_folder",
    "demo_set",
    "draw_galaxy",
    "draw_neighbours",
    "draw_psf",
    "draw_psf_grid",
    "draw_target",
    "export_fits",
    "flux_for_snr",
    "list_recipes",
    "moffat_psf",
    "noise_map",
    "observe_scene",
    "read_manifest",
    "read_objects",
    "render_source",
    "sersic_indices",
    "simulate",
    "simulate_one",
    "simulate_sersic",
    "source_table",
    "to_frame",
    "to_stamps",
    "total_snr",
    "truth_table",
    "verify_set",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: `endless` runs on machines that have neither GalSim nor pydantic.
    if name in _HOME:
        try:
            module = import_module(f"{__name__}.{_HOME[name]}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _OPTIONAL:
                raise
            raise SettingsError(
                f"simulating needs {error.name}, which is not installed",
                "pip install 'autofit-ml[simulate]'",
            ) from error
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
