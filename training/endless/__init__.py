r"""Endless training data: batches of simulated stamps made by our own renderer, on CPU or GPU.

In: `EndlessSettings`, a seed, and PSF images if there are any. Out:
batches of stamps as dictionaries of tensors (`EndlessSersic.batch`), or the light of given
sources (`render_scene`).

Everything happens in PyTorch on one device: PSFs, scenes, light (`autofit_ml.rendering`), sky,
noise, labels. A batch is a pure function of (settings, seed, step, device), so that steps can be
spread over processes in any way, and no file is needed, nor GalSim, Hydra or pydantic; with the
same parameters and the same PSF image the light equals `draw.render_source` to 1e-4 of the
scene's peak (``benchmarks/simulation_speed.py``).

    settings = EndlessSettings(shape=(64, 64), snr=(10, 1000))
    loader = DataLoader(EndlessSersic(settings, 64, seed=1), batch_size=None, num_workers=4)

**Layouts.** The FFT repeats a source with the period of the padded stamp. How far its light
reaches, and how near it stands to a border, decides which padding (`LADDER`) draws it; a
batch is split by that, and this split is the only place where the host waits for the device. Stars
need no transform: the band-limited function through the PSF's pixels is summed where it is wanted.

Check on a GPU: ``python benchmarks/simulation_speed.py --device cuda --only-device``.

- `settings`: what the stamps show.
- `psfs`: Moffat PSFs, checks and widths of PSF images.
- `scenes`: random numbers, sources and their places, flux for S/N, tables.
- `render`: light of the sources, and who owns which pixel.
- `batches`: all of these for one step; the data set.

Neighbours: `autofit_ml.rendering`, `autofit_ml.profiles` and `autofit_ml.scenes` draw the light;
`autofit_ml.simulation.noise` the correlation of its noise; `training.tasks.initialise` and
``benchmarks/simulation_speed.py`` use the batches.
"""

from training.endless.batches import EndlessSersic
from training.endless.psfs import moffat_images
from training.endless.render import LADDER, instance_labels, render_scene
from training.endless.scenes import CATALOGUE, EMPTY, GALAXY, STAR
from training.endless.settings import EndlessSettings

__all__ = [
    "CATALOGUE",
    "EMPTY",
    "GALAXY",
    "LADDER",
    "STAR",
    "EndlessSersic",
    "EndlessSettings",
    "instance_labels",
    "moffat_images",
    "render_scene",
]
