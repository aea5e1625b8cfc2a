"""Pictures and the HTML report: for looking at what was fitted.

In: the images and the catalogue row of one object (`preview_png`, `thumbnail`), and a finished
results folder (`write_report`).
Out: ``previews/<id>.png``, the thumbnails in ``.work/thumbs/<id>.jpg``, ``report.html``.
Neighbours: called by `autofit_ml.runs` and the ``report`` command; reads files through
`autofit_ml.catalogue`. The page itself is ``static/report.{html.jinja,css,js}``.
"""

import lazy_loader

# On first use (``__init__.pyi`` lists the names): without pictures, nothing that draws is loaded.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
