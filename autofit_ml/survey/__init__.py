"""Surveys: areas larger than one image or one machine, tile by tile, exactly once.

In: images with a WCS. Out: one row for each object of the sky they cover, in one Parquet file a
tile, whatever dies on the way.

- `sky`: tilings, in which each position has one tile; `images`: footprints and cells; `plan`: both
  as tables.
- `cells`: detection, frozen; `resolve`: one detection for each object where images overlap.
- `tiles`: the two idempotent tasks; `kinds`: what is measured of a tile's objects (`fits`,
  `catalogues`, `changes`; a `tile_kind` each); `context`: what tasks share.
- `engine`: processes and machines, by dask.distributed; `run`: the whole; `status`, `export`,
  `pages`: what one sees of it.

Calls `autofit_ml.runs`; is called by the command line.
"""
