"""Simulated galaxy images with known truth, drawn by GalSim.

In: a recipe (``conf/data``: which scenes; `autofit_ml.presets`: observed how) and a seed. Out:
`SimulatedObject`: image, noise map, PSF, mask, instance labels, and the parameters of every source
that made it; or a set of them on disk, in shards. `to_stamps` turns objects into what
`autofit_ml.images` would have read, `export_fits` into a folder that ``autofit-ml fit`` reads.

Nothing in the fitting flow imports this package; it serves training, tests, benchmarks and the
demonstration.

From recipe to pixels:

- `recipe`, `survey`, `ranges`: settings, validated; `compose` reads them from Hydra configs.
- `populations`, `galaxies`, `scenes`, `sources`: numbers, sizes and shapes; what is where.
- `real`: cut-outs of real galaxies as sources.
- `psf`, `draw`: PSF images; light on pixels with exactly the PSF image that is handed over.
- `noise`, `artefacts`: sky, noise, detector defects.
- `labels`, `objects`: who owns which pixel; everything that is known of an image.
- `generate`: all of these for one object of a recipe.
- `shards`, `dataset`, `files`: sets on disk, PyTorch data sets, FITS folders.
- `observe`, `demo`: scenes and samples given in Python; a small folder for a first look.

GalSim, Hydra and pydantic are optional dependencies (the extra ``simulate``).
"""

from typing import Any

import lazy_loader

from autofit_ml.extras import needs

# On first use (``__init__.pyi`` lists the names): most of them need neither GalSim nor pydantic.
_first_use, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    with needs("simulate", "simulating"):
        return _first_use(name)
