"""``python -m autofit_ml``: the command line."""

from autofit_ml.cli import main

main()
