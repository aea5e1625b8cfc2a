"""Simulated galaxy images with known truth, drawn by GalSim.

In: a recipe (numbers, ranges, a seed). Out: `SimulatedObject`: image, noise map, PSF, the
noise-free light of each source, and the parameters that made it. `to_stamps` turns them into what
`autofit_ml.images` would have read, `export_fits` into a folder that ``autofit-ml fit`` reads.

Neighbours: `images` (the `Stamp` and `PSF` types), `catalogue` (flags). Nothing in the fitting
flow imports this package; it serves tests, benchmarks, the demonstration and (later) training.

- `scenes`: which sources are where (parameters only).
- `psf`: point-spread functions as pixel images.
- `observe`: light on pixels with exactly the PSF image that is handed over, then noise.
- `sample`: whole samples of objects, and their truth table.
- `files`: FITS folders.
- `demo`: a small, varied folder for a first look.

GalSim is an optional dependency (``pip install autofit-ml[simulate]``).
"""

from autofit_ml.simulate.demo import demo_set
from autofit_ml.simulate.files import export_fits
from autofit_ml.simulate.observe import (
    add_noise,
    flux_for_snr,
    noise_map,
    render_source,
    total_snr,
)
from autofit_ml.simulate.psf import moffat_psf
from autofit_ml.simulate.sample import (
    SimulatedObject,
    observe_scene,
    simulate_sersic,
    to_stamps,
    truth_table,
)
from autofit_ml.simulate.scenes import (
    Source,
    draw_neighbours,
    draw_target,
    sersic_indices,
)

__all__ = [
    "SimulatedObject",
    "Source",
    "add_noise",
    "demo_set",
    "draw_neighbours",
    "draw_target",
    "export_fits",
    "flux_for_snr",
    "moffat_psf",
    "noise_map",
    "observe_scene",
    "render_source",
    "sersic_indices",
    "simulate_sersic",
    "to_stamps",
    "total_snr",
    "truth_table",
]
