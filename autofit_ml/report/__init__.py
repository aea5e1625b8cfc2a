"""Pictures and the HTML report: for looking at what was fitted.

In: the images and the catalogue row of one object (`preview_png`, `thumbnail`), and a finished
results folder (`write_report`).
Out: ``previews/<id>.png``, the thumbnails in ``.work/thumbs/<id>.jpg``, ``report.html``.
Neighbours: called by `autofit_ml.runs` and the ``report`` command; reads files through
`autofit_ml.catalogue`. The page itself is ``static/report.{html.jinja,css,js}``.
"""

from autofit_ml.report.drawing import ellipse_outline
from autofit_ml.report.html import (
    EMBEDDED_THUMBNAILS,
    REPORT_NAME,
    THUMBNAIL_FOLDER,
    thumbnail_bytes,
    write_report,
)
from autofit_ml.report.measurement import format_measurement
from autofit_ml.report.preview import (
    BandPicture,
    preview_png,
    segmentation_png,
    thumbnail,
)

__all__ = [
    "EMBEDDED_THUMBNAILS",
    "REPORT_NAME",
    "THUMBNAIL_FOLDER",
    "BandPicture",
    "ellipse_outline",
    "format_measurement",
    "preview_png",
    "segmentation_png",
    "thumbnail",
    "thumbnail_bytes",
    "write_report",
]
