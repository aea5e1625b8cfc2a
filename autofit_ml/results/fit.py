"""`Fit`: one object's fit, with its parameters, errors and images."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.catalogue import band_suffix, covariance_matrix, flag_names, flagged
from autofit_ml.errors import InputError
from autofit_ml.results.samples import gaussian_draws, named_draws
from autofit_ml.results.tables import plain, suffixes, with_formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from autofit_ml.images.stamp import PSF
    from autofit_ml.runs.pictured import FittedImages

__all__ = ["Fit"]


class Fit:
    """The fit of one object.

    Every column of the catalogue is an attribute and an item: ``fit.re``, ``fit.re_err``,
    ``fit["re"]``, plain numbers in the units of `table`. Positions are pixels of the image that was
    given (of the file), counted from 0.

    Parameters
    ----------
    row : QTable
        One row of a catalogue.
    images : callable
        Returns the images of the fit when they are first needed; raises `InputError` where there
        are none.

    Examples
    --------
    >>> fit = afm.fit(data, sigma=sigma, psf=psf)  # doctest: +SKIP
    >>> fit.re, fit.re_err  # doctest: +SKIP
    (6.21, 0.05)
    """

    def __init__(self, row: QTable, images: Callable[[], FittedImages]) -> None:
        self._row = row
        self._images = images

    # ------------------------------------------------------------------ numbers

    def __getitem__(self, name: str) -> Any:
        if name not in self._row.colnames:
            close = difflib.get_close_matches(name, self._row.colnames, n=4)
            raise KeyError(
                f"the catalogue has no column {name!r}"
                + (f" (close to it: {', '.join(close)})" if close else "")
            )
        value = plain(self._row[name])[0]
        return value.copy() if value.ndim else value.item()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    @property
    def colnames(self) -> list[str]:
        """Names of all columns."""
        return list(self._row.colnames)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._row.colnames]

    def __reduce__(self) -> tuple[Any, ...]:
        images = self.images if self.ok else None
        return _restored, (self._row, images)

    @property
    def ok(self) -> bool:
        """True if there is a fit at all; `use` says whether its numbers can be used."""
        return bool(self["status"] == "ok")

    @property
    def flag_names(self) -> tuple[str, ...]:
        """Names of the flags that are set."""
        return tuple(flag_names(self["flags"]))

    @property
    def flagged(self) -> bool:
        """True if a flag says something about the quality of the fit."""
        return bool(flagged(np.array([self["flags"]]))[0])

    @property
    def model_name(self) -> str:
        """The model that was fitted, e.g. ``sersic+exp``."""
        return str(self["model"])

    def table(self) -> QTable:
        """The row of the catalogue: one row, columns with units, descriptions and formats."""
        return with_formats(self._row.copy())

    @property
    def covariance_names(self) -> tuple[str, ...]:
        """Parameters of `covariance`, in order."""
        about = self._row["cov"].info.description or ""
        listed = re.search(r"of \(([^)]*)\)", about)
        names = [] if listed is None else listed[1].split(", ")
        return tuple(name.removesuffix("[deg]") for name in names)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the fitted parameters, (P, P), in the units of their columns.

        Rows and columns of what was held or tied are 0.
        """
        return covariance_matrix(self["cov"])

    def sample(self, n: int = 1000, *, seed: int = 0) -> QTable:
        """Draws from the posterior.

        Parameters
        ----------
        n : int, optional
            Number of draws.
        seed : int, optional
            Random seed.

        Returns
        -------
        QTable
            One row a draw, columns as in the catalogue (``x``, ``y``, ``flux``, ``re`` ...). From
            the samples of the run where it had some (``posterior="hmc"`` ...); else from the
            Gaussian of the covariance, in logarithms of fluxes, sizes and indices, so that no draw
            is impossible.

        Raises
        ------
        InputError
            The object has no fit.
        """
        self._need_fit()
        random = np.random.default_rng(seed)
        draws = self._draws()
        if draws:
            found = named_draws(draws)
            some = random.integers(0, len(next(iter(found.values()))), n)
            values = {name: column[some] for name, column in found.items()}
        else:
            centre = {name: float(self[name]) for name in self.covariance_names}
            values = gaussian_draws(centre, self.covariance, n, random)
        table = QTable()
        for name, column in values.items():
            unit = getattr(self._row[name], "unit", None) if name in self._row.colnames else None
            table[name] = column if unit is None else column * unit
        for name in table.colnames:
            table[name].info.format = ".5g"
        return table

    def _draws(self) -> dict[str, np.ndarray]:
        try:
            return self.images.draws or {}
        except InputError:  # a run without images still has its covariances
            return {}

    # ------------------------------------------------------------------ images

    @cached_property
    def images(self) -> FittedImages:
        """All images of the fit, read when they are first used."""
        return self._images()

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that were fitted together, the reference first; empty for images of one band."""
        found = (re.fullmatch(r"sky_(?!d[xy]_)(.+)_err", name) for name in self._row.colnames)
        names = [match[1] for match in found if match is not None]
        return tuple(name for name in names if name not in ("dx", "dy"))

    def _plane(self, name: str, band: str = "") -> np.ndarray:
        title = name
        if band:
            end = band_suffix(band)
            if end[1:] not in self.bands:
                known = ", ".join(self.bands) or "none: its images have one band"
                raise InputError(f"{self['id']} has no band {band!r}", f"its bands are {known}")
            title = name if end[1:] == self.bands[0] else f"{name}{end}"
        if title in self.images.planes:
            return self.images.planes[title]
        self._need_fit()
        raise InputError(f"{self['id']} has no {title.lower()} image", "see its row's message")

    def _need_fit(self) -> None:
        if not self.ok:
            raise InputError(f"{self['id']} has no fit", f"its message: {self['message']}")

    @property
    def data(self) -> np.ndarray:
        """The image, (ny, nx), image units."""
        return self._plane("IMAGE")

    @property
    def sigma(self) -> np.ndarray:
        """Noise of each pixel (1 sigma), image units."""
        return self._plane("SIGMA")

    @property
    def mask(self) -> np.ndarray:
        """Pixels that were not used."""
        return self._plane("MASK").astype(bool)

    @property
    def labels(self) -> np.ndarray:
        """Segmentation, 0 = sky."""
        return self._plane("SEGM")

    @property
    def psf(self) -> PSF | None:
        """The PSF of the (first) image; None where it was not kept (results read from a folder)."""
        return self.images.psf

    @property
    def wcs(self) -> WCS | None:
        """WCS of the pixels of `data`."""
        return self.images.wcs

    @property
    def origin(self) -> tuple[int, int]:
        """(x, y) of the first pixel of `data`, in the pixels of the catalogue."""
        return self.images.origin

    def model(self, band: str = "") -> np.ndarray:
        """The fitted image, (ny, nx): PSF, neighbours and sky included.

        Parameters
        ----------
        band : str, optional
            Of several bands; the first one by default.
        """
        return self._plane("MODEL", band)

    def residual(self, band: str = "") -> np.ndarray:
        """Data - model, (ny, nx), image units."""
        return self._plane("RESIDUAL", band)

    @property
    def components(self) -> dict[str, np.ndarray]:
        """Image of each component of the target, with its PSF and without the sky.

        Names are those of the model, in its order, then ``neighbours`` where some were fitted
        along.
        """
        self._need_fit()
        parts = [part.partition("[")[0].strip() for part in self.model_name.split("+")]
        counts: Counter[str] = Counter()
        out: dict[str, np.ndarray] = {}
        for k, part in enumerate(parts, start=1):
            counts[part] += 1
            name = part if counts[part] == 1 else f"{part}_{counts[part]}"
            out[name] = self._plane(f"COMPONENT_{k}")
        if "NEIGHBOURS" in self.images.planes:
            out["neighbours"] = self.images.planes["NEIGHBOURS"]
        return out

    def plot(self, figure: SubFigure | Any = None) -> dict[str, Axes]:
        """Plot data, model, residual in units of the noise, and radial profile.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; a new figure of pyplot by default.

        Returns
        -------
        dict of Axes
            ``data``, ``model``, ``residual``, ``profile``, ``difference``.

        Raises
        ------
        InputError
            The run kept no images.
        """
        from autofit_ml.results.drawing import plot_fit

        return plot_fit(self, figure)

    # ------------------------------------------------------------------ printing

    def summary(self) -> QTable:
        """Parameters of all components, one a row: name, value, error, unit."""
        from autofit_ml.results.drawing import summary_table

        return summary_table(self)

    @property
    def _suffixes(self) -> list[str]:
        count = len(self.model_name.split("+")) if self.ok else 1
        return suffixes(self._row.colnames)[:count]

    def __repr__(self) -> str:
        from autofit_ml.results.drawing import text_of

        return text_of(self)

    def _repr_html_(self) -> str:
        from autofit_ml.results.drawing import html_of

        return html_of(self)


def _restored(row: QTable, images: FittedImages | None) -> Fit:
    """A fit that was pickled."""

    def kept() -> FittedImages:
        if images is None:
            raise InputError(f"{row['id'][0]} has no images", "its fit failed")
        return images

    return Fit(row, kept)
