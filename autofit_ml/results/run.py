"""`Results`: the fits of a run, in memory or in a results folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.catalogue import file_stem, flag_names, read_catalogue
from autofit_ml.errors import InputError
from autofit_ml.results.fit import Fit
from autofit_ml.results.tables import with_formats

if TYPE_CHECKING:
    from PIL import Image

    from autofit_ml.runs.pictured import FittedImages

__all__ = ["Results", "open_results", "results_in_memory"]

_SHOWN = ("id", "model", "mag", "flux", "re", "n", "q", "pa", "chi2_red", "use")
"""Columns of the short table; the brightness is ``mag`` where there is one."""


class Results(Sequence[Fit]):
    """Fits of several objects, in order; a sequence that objects can be taken from by id too.

    Parameters
    ----------
    rows : QTable
        Their catalogue.
    images : mapping of str to FittedImages
        Of the objects in memory.
    folder : Path, optional
        Where the images of all others are.

    Examples
    --------
    >>> run = afm.open_results("results/")  # doctest: +SKIP
    >>> run["m51"].re, run[0].plot(), run.table()["re"]  # doctest: +SKIP
    """

    def __init__(
        self, rows: QTable, images: Mapping[str, FittedImages], folder: Path | None = None
    ) -> None:
        self._rows = rows
        self._images = images
        self.folder = folder

    @cached_property
    def _places(self) -> dict[str, int]:
        return {str(name): k for k, name in enumerate(self._rows["id"])}

    @property
    def ids(self) -> list[str]:
        """Ids of all objects, in order."""
        return [str(name) for name in self._rows["id"]]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int | str) -> Fit: ...
    @overload
    def __getitem__(self, key: slice | np.ndarray) -> Results: ...
    def __getitem__(self, key: int | str | slice | np.ndarray) -> Fit | Results:
        if isinstance(key, str):
            if key not in self._places:
                raise KeyError(f"no object {key!r}; there are {', '.join(self.ids[:5])} ...")
            key = self._places[key]
        if isinstance(key, (int, np.integer)):
            if not -len(self) <= key < len(self):
                raise IndexError(f"object {key} of {len(self)}")
            at = int(key) % len(self)
            row = self._rows[at : at + 1]
            return Fit(row, partial(self._images_of, row))
        return Results(self._rows[key], self._images, self.folder)

    def table(self) -> QTable:
        """The catalogue: one row an object, columns with units, descriptions and formats."""
        return with_formats(self._rows.copy())

    def _images_of(self, row: QTable) -> FittedImages:
        name = str(row["id"][0])
        if name in self._images:
            return self._images[name]
        if row["status"][0] != "ok":
            raise InputError(f"{name} has no images: its fit failed", str(row["message"][0]))
        if self.folder is None:
            raise InputError(f"{name} has no images", "fit it again")
        return _saved_images(self.folder, name)

    # ------------------------------------------------------------------ what a folder has besides

    def _file(self, name: str) -> Path:
        if self.folder is None:
            raise InputError(f"there is no {name}: this run is in memory", "fit with out=FOLDER")
        path = self.folder / name
        if not path.exists():
            raise InputError("no such file in these results", "see the option save", path)
        return path

    def preview(self, key: int | str) -> Image.Image:
        """The picture that the run drew of an object; a notebook shows it."""
        from PIL import Image

        content = self._file(f"previews/{file_stem(self[key]['id'])}.png").read_bytes()
        return Image.open(io.BytesIO(content))

    def posterior(self, key: int | str) -> Any:
        """Posterior samples of an object as ArviZ data, where the run drew some."""
        import arviz

        return arviz.from_netcdf(self._file(f"posterior/{file_stem(self[key]['id'])}.nc"))

    @cached_property
    def about(self) -> dict[str, Any]:
        """Versions, settings, weights, inputs and times of the run (``run.json``)."""
        return json.loads(self._file("run.json").read_text("utf-8"))

    @property
    def report(self) -> Path:
        """The report to open in a browser."""
        return self._file("report.html")

    # ------------------------------------------------------------------ printing

    def short_table(self) -> QTable:
        """The columns that one looks at first."""
        names = [name for name in _SHOWN if name in self._rows.colnames]
        if "mag" in names and np.isfinite(self._rows["mag"].value).any():
            names.remove("flux")
        elif "mag" in names:
            names.remove("mag")
        wanted = []
        for name in names:
            wanted += [name, *([f"{name}_err"] if f"{name}_err" in self._rows.colnames else [])]
        table = with_formats(self._rows[wanted])
        table["flags"] = [" ".join(flag_names(flags)) for flags in self._rows["flags"]]
        return table

    def __repr__(self) -> str:
        return f"{self._said()}\n" + "\n".join(self.short_table().pformat(max_lines=20))

    def _repr_html_(self) -> str:
        return f"<p>{self._said()}</p>{self.short_table()._repr_html_()}"

    def _said(self) -> str:
        use = int(np.sum(self._rows["use"]))
        where = "" if self.folder is None else f" in {self.folder}"
        return f"{len(self)} fits, {use} of them usable{where}"


def open_results(folder: str | Path) -> Results:
    """Open the results of a run; images and posteriors are read when they are used.

    Parameters
    ----------
    folder : path
        What `fit` wrote (``out``).

    Returns
    -------
    Results

    Raises
    ------
    InputError
        There is no catalogue.
    """
    rows = read_catalogue(folder)
    path = Path(folder)
    return Results(rows, {}, path if path.is_dir() else path.parent)


def results_in_memory(rows: QTable, images: Mapping[str, FittedImages]) -> Results:
    """Results of a run that wrote nothing."""
    return Results(rows, images)


def _saved_images(folder: Path, name: str) -> FittedImages:
    """The images of an object, from its file."""
    from autofit_ml.runs.pictured import FittedImages

    path = folder / "objects" / f"{file_stem(name)}.fits"
    if not path.is_file():
        raise InputError(
            "the images of this object were not kept",
            "run it again with objects in save",
            path,
        )
    with fits.open(path, memmap=False) as hdus:
        planes = {
            hdu.name: np.asarray(hdu.data, hdu.data.dtype.newbyteorder("="))
            for hdu in hdus
            if hdu.data is not None
        }
        header = hdus["IMAGE"].header
        target = int(hdus["SEGM"].header.get("TARGET", 0)) if "SEGM" in planes else 0
    wcs = WCS(header) if "CTYPE1" in header else None
    origin = (-round(header.get("LTV1", 0.0)), -round(header.get("LTV2", 0.0)))
    return FittedImages(planes, target, origin, wcs, None, _saved_draws(folder, name))


def _saved_draws(folder: Path, name: str) -> dict[str, np.ndarray] | None:
    path = folder / "posterior" / f"{file_stem(name)}.nc"
    if not path.is_file():
        return None
    try:
        import h5netcdf
    except ImportError:  # `Results.posterior` says what is missing
        return None
    with h5netcdf.File(path) as file:
        group = file["posterior"]
        return {
            key: np.asarray(values).reshape(-1)
            for key, values in group.variables.items()
            if set(values.dimensions) == {"chain", "draw"}
        }
