"""Sets of simulated objects on disk: written by many processes, resumable, the same to the byte.

In: a recipe, and a folder. Out: a set, or the objects of one again, by number.

Layout of a set::

    manifest.json                 written last: a folder that has one is complete
    sources.parquet               one row for every source of every image
    shards/shard-00000.arrow ...  the objects

A shard is an Arrow IPC file whose buffers are compressed with zstd. It can be memory-mapped, and
it is read in record batches of about 256 kB of pixels (a frame is one batch), so that an object
taken at random costs little more than its own decompression. `shard_schema` says what is in it.

While a set is being made, ``.work`` holds ``state.json`` (what is being made), one journal for
each finished shard, and ``lock``. A shard is made wholly by one process, takes its name when it is
complete, and only then gets its journal: whatever stops a run, the same call goes on with it.

- `columns`: objects as rows: schema, encoding, decoding.
- `manifest`: which files a set has, what they hold and depend on, and whether they are whole.
- `reader`: objects by number.
- `export`: a set as FITS files.
- `shard`: one shard is made. `autofit_ml.runs.simulate` makes or completes a set of them.

Neighbours: `simulate.generate` makes the objects, `simulate.objects` says what one is;
`simulate.dataset` (PyTorch), the command line and training read sets. Nothing here imports torch.
"""

from autofit_ml.simulation.shards.columns import (
    FORMAT,
    PLANES,
    light_of,
    plane_of,
    psf_grid_of,
    psf_of,
    shape_of,
    shard_schema,
    truth_of,
)
from autofit_ml.simulation.shards.export import export_set
from autofit_ml.simulation.shards.manifest import (
    SetManifest,
    ShardEntry,
    read_manifest,
    verify_set,
)
from autofit_ml.simulation.shards.reader import ShardReader, read_objects

__all__ = [
    "FORMAT",
    "PLANES",
    "SetManifest",
    "ShardEntry",
    "ShardReader",
    "export_set",
    "light_of",
    "plane_of",
    "psf_grid_of",
    "psf_of",
    "read_manifest",
    "read_objects",
    "shape_of",
    "shard_schema",
    "truth_of",
    "verify_set",
]
