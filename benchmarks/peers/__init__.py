"""Other fitters, each run in an environment of its own on stamps that a benchmark hands over.

`fit_*.py` are scripts: they import nothing of autofit_ml. `exchange.py` says what they read and
write; each has a `SETTINGS` that the documentation shows. `install.py` makes the environments.
"""
