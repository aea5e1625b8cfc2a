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

import lazy_loader

# On first use (``__init__.pyi`` lists the names): flags and columns need no library.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
