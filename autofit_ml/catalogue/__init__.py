"""The catalogue: its columns, flags and files.

In: rows of measured parameters from `autofit_ml.runs`, one batch at a time.
Out: shards while a run goes on, then ``catalog.parquet`` and ``catalog.fits`` with units and
descriptions, one FITS file per object, and answers to SQL questions.
Neighbours: `autofit_ml.report` reads what is written here; nothing here imports another stage.

`columns_for` is the one definition of the columns, which depend on the model and the bands
(`ModelColumns`); what is written describes itself, and is read without it. `empty_rows` starts a
batch in which every object has failed until the pipeline fills in its fit, so that every input has
a row.
"""

from autofit_ml.catalogue.atomic import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_ecsv,
    atomic_write_json,
    atomic_write_text,
    remove_temporaries,
)
from autofit_ml.catalogue.flags import FATAL, FLAG_MEANINGS, Flag, flag_names, usable
from autofit_ml.catalogue.objects import BandPlanes, object_fits_bytes
from autofit_ml.catalogue.query import query
from autofit_ml.catalogue.reader import read_catalogue, read_catalogue_arrow, table_to_qtable
from autofit_ml.catalogue.rows import (
    covariance_matrix,
    empty_rows,
    pack_covariance,
    rows_to_table,
)
from autofit_ml.catalogue.schema import (
    COVARIANCE_PARAMETERS,
    FIT_NUMBERS,
    BandParameter,
    Column,
    ComponentColumns,
    ModelColumns,
    ShapeColumn,
    band_suffix,
    columns_for,
    covariance_order,
    suffix,
)
from autofit_ml.catalogue.writer import merge_shards, shard_ids, write_shard

__all__ = [
    "COVARIANCE_PARAMETERS",
    "FATAL",
    "FIT_NUMBERS",
    "FLAG_MEANINGS",
    "BandParameter",
    "BandPlanes",
    "Column",
    "ComponentColumns",
    "Flag",
    "ModelColumns",
    "ShapeColumn",
    "atomic_file",
    "atomic_write_bytes",
    "atomic_write_ecsv",
    "atomic_write_json",
    "atomic_write_text",
    "band_suffix",
    "columns_for",
    "covariance_matrix",
    "covariance_order",
    "empty_rows",
    "flag_names",
    "merge_shards",
    "object_fits_bytes",
    "pack_covariance",
    "query",
    "read_catalogue",
    "read_catalogue_arrow",
    "remove_temporaries",
    "rows_to_table",
    "shard_ids",
    "suffix",
    "table_to_qtable",
    "usable",
    "write_shard",
]
