"""x."""
from autofit_ml.report.preview import preview_png, thumbnail
