"""Train the networks: simulated sets in, bundles of weights out.

In: an experiment of ``conf/experiment``. Out: a run's folder (`train`), then a bundle that
`autofit_ml.load` reads (`export`). Not part of the installed package; run in a checkout.

- `train`, `export`, `sets`: the three commands.
- `tasks`: one folder for each network that can be trained, and how they are found.
- `settings`: what a training is told; `module`, `optimiser`, `muon`: what all networks share.
- `endless`: batches of galaxies drawn by our own renderer, on CPU or GPU, without files.
- `shards`, `memory`: data modules that read sets from disk and that hold them in memory.
- `checkpoints`: a run's weights; `coverage`: which images a set covers.

Neighbours: `autofit_ml.segmentation`, `autofit_ml.initialisation` and `autofit_ml.deconvolution`
define the networks, `autofit_ml.simulation` makes the sets, `autofit_ml.weights` writes bundles.
Nothing in `autofit_ml` imports this package.
"""
