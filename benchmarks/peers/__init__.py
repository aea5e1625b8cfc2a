"""Other fitters, each run in benchmarks/.env on stamps that a benchmark hands over in one file.

`fit_pyimfit.py` and `fit_astrophot.py` are scripts: they import nothing of autofit_ml.
"""
