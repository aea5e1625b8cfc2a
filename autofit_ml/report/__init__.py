"""Pictures and the HTML report: for looking at what was fitted.

In: the images and the catalogue row of one object (`preview_png`, `thumbnail`), and a finished
results folder (`write_report`), a frame with its catalogue (`write_frame_page`).
Out: ``previews/<id>.png``, the thumbnails in ``.work/thumbs/<id>.jpg``, ``report.html``,
``<frame>.html``.
Neighbours: called by `autofit_ml.runs` and the ``report`` command; reads files through
`autofit_ml.catalogue`. The pages themselves are in ``static``.
"""

import lazy_loader

# On first use (``__init__.pyi`` lists the names): without pictures, nothing that draws is loaded.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
