"""Sets of simulated objects as PyTorch data sets.

In: a folder that `write_set` has made. Out: dicts of tensors, one object each, and batches of them.
Units and conventions are those of `SimulatedObject`; nothing is normalised here (that belongs to a
network, and travels with its weights).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset, Sampler, default_collate

from autofit_ml.errors import SettingsError
from autofit_ml.measure import psf_fwhm
from autofit_ml.simulation.shards import (
    PLANES,
    SetManifest,
    ShardReader,
    light_of,
    plane_of,
    psf_grid_of,
    psf_of,
    read_manifest,
    shape_of,
    truth_of,
)

__all__ = [
    "NUMBERS",
    "RAGGED",
    "SOURCE_COLUMNS",
    "SOURCE_KINDS",
    "ChunkSampler",
    "ShardDataset",
    "collate",
]

SOURCE_COLUMNS = (
    *("x", "y", "flux", "mag", "re", "n", "q", "pa"),
    *("snr", "n_pixels", "blend_fraction", "detectable"),
)
"""Columns of the tensors ``truth`` and ``sources``, as in `SOURCE_DTYPE` (pixels, image units, AB
mag, degrees counter-clockwise from +y; `re` of a star is 0, `n` NaN; `detectable` 0 or 1)."""

SOURCE_KINDS = ("star", "sersic", "bulge_disc", "structured", "irregular", "real")
"""``classes`` holds positions in this tuple."""

NUMBERS = ("sky", "sky_rms", "snr", "pixel_scale", "zeropoint", "gain")
"""Scalars of an image that every item has, as in `SimulatedObject`."""

RAGGED = ("sources", "classes", "light")
"""Keys with as many rows as an image has sources: lists in a batch."""

_DERIVED = {
    "noise_free": ("model", "neighbour_light", "sky_map", "sky"),
    "psf": ("psf",),
    "psf_fwhm": ("psf",),
    "psf_grid": ("psf_grid",),
    "light": ("light",),
}
_ALWAYS = ("index", "id", "ny", "nx", "flags", "truth", *NUMBERS)


class ShardDataset(Dataset):
    """The objects of a set, by number.

    Shards are memory-mapped when they are first needed, in each process by itself, so that the
    data set may be handed to the workers of a `DataLoader` (fork or spawn).

    An item is a dict of

    - ``id`` (str), ``index`` (int);
    - the planes that were asked for, shape (ny, nx) where nothing else is said: ``data``,
      ``sigma``, ``model``, ``neighbour_light`` (float32), ``mask`` (bool, True = do not use),
      ``labels`` (int32), ``artefacts`` (uint8), ``sky_map`` (float32; the level itself where the
      sky is flat), ``noise_free`` (float32, light + sky), ``psf`` (float32, shape (h, w)),
      ``psf_fwhm`` (float32, pixels, no dimension),
      ``psf_grid`` (float32, shape (rows, columns, h, w); frames only), ``light`` (list of
      (y0, x0, float32 tensor), one for each source);
    - ``sources`` (float32, shape (n, 12)) and ``classes`` (int64, shape (n,)): all sources, columns
      `SOURCE_COLUMNS`, classes `SOURCE_KINDS`; source i has the label i + 1;
    - ``truth`` (float32, shape (12,)): the target's row of them (stamps only);
    - `NUMBERS` (float32, no dimension) and ``flags`` (int64).

    Parameters
    ----------
    folder : path
        A complete set.
    planes : sequence of str
        See above. Others are not decompressed.
    transform : callable, optional
        Applied to each item; must be picklable for worker processes that are spawned.
    cache : int
        Record batches (256 kB of pixels, or one frame) that are kept decompressed.

    Raises
    ------
    InputError
        No complete set there; when an item is read: its shard is missing or damaged.
    SettingsError
        A plane that does not exist, or that this set does not store.
    """

    def __init__(
        self,
        folder: str | Path,
        planes: Sequence[str] = ("data", "sigma", "mask", "labels", "psf"),
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        cache: int = 8,
    ) -> None:
        self.planes = tuple(planes)
        self.transform = transform
        self._reader = ShardReader(folder, _needed(self.planes, read_manifest(folder)), cache)

    @property
    def manifest(self) -> SetManifest:
        """Manifest of the set."""
        return self._reader.manifest

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Any:
        number = index + len(self) if index < 0 else index
        item = self._reader.read(number, lambda batch, row: _item(batch, row, self.planes))
        if self.manifest.kind == "stamp":
            item["truth"] = item["sources"][0].clone()
        return item if self.transform is None else self.transform(item)


def _needed(planes: Sequence[str], manifest: SetManifest) -> list[str]:
    """Columns to decompress, in the order of the schema."""
    known = (*PLANES, *_DERIVED)
    wanted = set(_ALWAYS)
    for plane in planes:
        if plane not in known:
            raise SettingsError(f"no plane is called {plane!r}", f"one of {', '.join(known)}")
        if plane == "psf_grid" and manifest.kind == "stamp":
            raise SettingsError("stamps have no psf_grid", "ask for psf")
        columns = _DERIVED.get(plane, (plane,))
        missing = [name for name in columns if name not in manifest.schema.names]
        if missing:
            label = "light" if plane == "light" else "noise_free"
            raise SettingsError(
                f"this set does not store {plane}",
                f"make it with data.labels.{label}=true",
                manifest.folder,
            )
        wanted.update(columns)
    return [name for name in manifest.schema.names if name in wanted]


def _item(batch: pa.RecordBatch, row: int, planes: Sequence[str]) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": batch.column("id")[row].as_py(),
        "index": batch.column("index")[row].as_py(),
    }
    for name in NUMBERS:
        item[name] = torch.tensor(batch.column(name)[row].as_py(), dtype=torch.float32)
    truth = truth_of(batch, row)
    columns = [truth[name].astype(np.float32) for name in SOURCE_COLUMNS]
    classes = [SOURCE_KINDS.index(kind) for kind in truth["kind"]]
    return item | {
        "flags": torch.tensor(batch.column("flags")[row].as_py()),
        "sources": torch.from_numpy(np.stack(columns, axis=1)),
        "classes": torch.tensor(classes, dtype=torch.int64),
        **{name: _plane(batch, row, name) for name in planes},
    }


def _plane(batch: pa.RecordBatch, row: int, name: str) -> Any:
    if name == "light":
        boxes = light_of(batch, row) or ()
        return [(box.y0, box.x0, torch.from_numpy(box.data)) for box in boxes]
    if name == "psf_grid":
        grid = psf_grid_of(batch, row)
        return None if grid is None else torch.from_numpy(grid.data)
    if name == "psf_fwhm":
        return torch.tensor(psf_fwhm(psf_of(batch, row)), dtype=torch.float32)
    if name == "psf":
        plane = psf_of(batch, row).data
    elif name == "noise_free":
        light = _stored(batch, row, "model") + _stored(batch, row, "neighbour_light")
        plane = light + _sky(batch, row)
    elif name == "sky_map":
        plane = np.broadcast_to(_sky(batch, row), shape_of(batch, row))
    else:
        plane = _stored(batch, row, name)
    if name == "mask":
        plane = plane.astype(bool)
    # what belongs to the shard is read-only
    return torch.from_numpy(plane if plane.flags.writeable else plane.copy())


def _stored(batch: pa.RecordBatch, row: int, name: str) -> np.ndarray:
    plane = plane_of(batch, row, name)
    # Only artefacts may be null here: none.
    return np.zeros(shape_of(batch, row), PLANES[name]) if plane is None else plane


def _sky(batch: pa.RecordBatch, row: int) -> np.ndarray:
    """The sky's map, or its level where it is flat."""
    varying = plane_of(batch, row, "sky_map")
    return np.asarray(batch.column("sky")[row].as_py(), np.float32) if varying is None else varying


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of items: for `DataLoader`.

    Returns
    -------
    dict
        As PyTorch collates items, but for the keys `RAGGED`, which become lists.
    """
    columns = {name: [item[name] for item in items] for name in items[0]}
    return {
        name: values if name in RAGGED else default_collate(values)
        for name, values in columns.items()
    }


class ChunkSampler(Sampler[int]):
    """All objects once, in random order: record batches shuffled, and objects within each.

    Neighbours in the order come from the same record batch, which is then decompressed once. The
    objects of a set are independent of each other, so that it does no harm that a few of them
    (4 stamps of 64 x 64) stay together.

    Parameters
    ----------
    dataset : ShardDataset
    seed : int, keyword-only

    Notes
    -----
    The order depends on the seed and the epoch; `set_epoch` changes it (Lightning calls it at the
    beginning of each epoch).
    """

    def __init__(self, dataset: ShardDataset, *, seed: int = 0) -> None:
        manifest = dataset.manifest
        self.seed, self.epoch = seed, 0
        self._length = manifest.count
        self._chunks = [
            (entry.first + first, min(manifest.batch_rows, entry.rows - first))
            for entry in manifest.shards
            for first in range(0, entry.rows, manifest.batch_rows)
        ]

    def set_epoch(self, epoch: int) -> None:
        """The next iteration has the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for number in rng.permutation(len(self._chunks)):
            first, rows = self._chunks[number]
            yield from (first + rng.permutation(rows)).tolist()
