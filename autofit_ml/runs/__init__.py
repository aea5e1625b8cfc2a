"""Runs: from paths and settings to a folder of results, in batches, resumable.

In: paths and settings (`autofit_ml.settings`). Out: a folder with what was found (or, without one,
a table in memory), and a `RunSummary`.

One file for each kind of run:

- `fit`: images to a catalogue; `plan`: what it would do, without doing it.
- `catalog`: stars and galaxies of frames.
- `segment`, `deconvolve`: labels; samples of sharp images.
- `diff`, `lightcurve`: differences between epochs; fluxes over time.
- `population`: the distribution behind finished fits.
- `simulate`: sets of simulated objects; `calibrate`: injection and recovery in a run's own images,
  `sensitivity`: of second components, over a grid; both inject into empty `places`.
- `doctor`: what is installed, and what is wrong with images.

What they share:

- `loop`: the loop over sources; `jobs`: what is done with them; `sources`: batches of them, from
  `workers` that go ahead; `results`: runs that do the same with each source.
- `claim`: whose a folder is, one run at a time; `folder`: what is finished there; `kinds`: which
  files a kind of run writes.
- `identity`: whether settings and inputs are still the same.
- `summary`: what the caller is told, and the exit status.

The parts of a fit:

- `frames`: a frame in every band, and the stamps of its objects.
- `prepare`: objects from their files to starting values; `fitted`: on to their rows, in workers.
- `model`, `pipeline`, `galfit_inputs`: what is fitted, as the user's model, the stages of a
  pipeline file, or a GALFIT file say.
- `fitting`: one batch through the refiner to its rows; `scenes`: its objects, stage by stage.
- `object_fit`: one object's fit in the catalogue's terms; `morphology`: further measures.
- `outputs`: pictures, shards, catalogue, run.json; `pictured`: the images that they show.

Calls the stages; is called by the command line and by `autofit_ml.fit`.
"""

import lazy_loader

# On first use (``__init__.pyi`` lists the names): worker processes import `prepare` and no more.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
