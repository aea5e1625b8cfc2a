"""`Results`: the fits of a run, in memory or in a results folder."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.catalogue import (
    Runs,
    file_stem,
    flag_names,
    found_runs,
    joined_catalogues,
    read_catalogue,
    read_draws,
    rows_where,
    table_to_qtable,
)
from autofit_ml.errors import InputError
from autofit_ml.results.fit import Fit
from autofit_ml.results.tables import plain, with_formats

if TYPE_CHECKING:
    from PIL import Image

    from autofit_ml.runs.pictured import FittedImages

__all__ = ["Results", "open_results", "results_in_memory"]

_SHOWN = ("id", "model", "mag", "flux", "re", "n", "q", "pa", "chi2_red", "use")
"""Columns of the short table; the brightness is ``mag`` where there is one."""


class Results(Sequence[Fit]):
    """Fits of several objects, in order; a sequence that objects can be taken from by id too.

    Of several runs, ``run`` is a column (the folder), and an id that several runs have is given
    with its run: ``results["runs/deep", "m51"]``.

    Parameters
    ----------
    rows : QTable
        Their catalogue.
    images : mapping of str to FittedImages
        Of the objects in memory.
    folder : Path, optional
        Where the images of all others are; of several runs the rows say it.

    Examples
    --------
    >>> run = afm.open_results("results/")  # doctest: +SKIP
    >>> run["m51"].re, run[0].plot(), run.table()["re"]  # doctest: +SKIP
    >>> afm.open_results("runs/*").where("fraction > 0.5 AND rhat < 1.01")  # doctest: +SKIP
    """

    def __init__(
        self, rows: QTable, images: Mapping[str, FittedImages], folder: Path | None = None
    ) -> None:
        self._rows = rows
        self._images = images
        self.folder = folder

    @cached_property
    def _places(self) -> dict[str | tuple[str, str], list[int]]:
        places: dict[str | tuple[str, str], list[int]] = {}
        runs = self._rows["run"] if self._several else [""] * len(self)
        for k, (name, run) in enumerate(zip(self.ids, runs, strict=True)):
            places.setdefault(name, []).append(k)
            if self._several:
                places.setdefault((str(Path(str(run))), name), []).append(k)
        return places

    @property
    def _several(self) -> bool:
        """True if the rows are those of several runs."""
        return "run" in self._rows.colnames

    @property
    def ids(self) -> list[str]:
        """Ids of all objects, in order."""
        return [str(name) for name in self._rows["id"]]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int | str | tuple[str, str]) -> Fit: ...
    @overload
    def __getitem__(self, key: slice | np.ndarray) -> Results: ...
    def __getitem__(self, key: int | str | tuple[str, str] | slice | np.ndarray) -> Fit | Results:
        if isinstance(key, (str, tuple)):
            key = self._place(key)
        if isinstance(key, (int, np.integer)):
            if not -len(self) <= key < len(self):
                raise IndexError(f"object {key} of {len(self)}")
            row, folder = self._row(int(key) % len(self))
            return Fit(row, partial(self._images_of, row, folder))
        return Results(self._rows[key], self._images, self.folder)

    def _place(self, key: str | tuple[str, str]) -> int:
        places = self._places.get(key, [])
        if len(places) > 1:
            runs = ", ".join(str(self._rows["run"][k]) for k in places[:3])
            raise KeyError(f"{key!r} is in several runs ({runs} ...): give results[run, id]")
        if not places:
            raise KeyError(f"no object {key!r}; there are {', '.join(self.ids[:5])} ...")
        return places[0]

    def _row(self, at: int) -> tuple[QTable, Path | None]:
        """A row with the columns of its own run, and the run's folder."""
        row = self._rows[at : at + 1]
        if not self._several:
            return row, self.folder
        run = Path(str(row["run"][0]))
        own = _catalogue_of(run)
        return own[np.asarray(own["id"]) == row["id"][0]], _folder_of(run)

    def table(self) -> QTable:
        """The catalogue: one row an object, columns with units, descriptions and formats."""
        return with_formats(self._rows.copy())

    def where(self, condition: str) -> Results:
        """Select objects by an SQL condition on the columns of `table`.

        Parameters
        ----------
        condition : str
            ``"use AND re > 3 AND NOT has_flag(flags, 'EDGE')"``; what is not known (NaN) fulfils
            no condition.

        Raises
        ------
        SettingsError
            The condition is wrong.
        """
        numbers = {}
        for name in self._rows.colnames:
            values = plain(self._rows[name])
            if values.ndim == 1:
                floats = values.dtype.kind == "f"
                numbers[name] = pa.array(values, mask=np.isnan(values) if floats else None)
        return self[rows_where(pa.table(numbers), condition)]

    def samples(self, n: int = 1000, *, seed: int = 0) -> Iterator[QTable]:
        """Draws from each object's posterior in turn (`Fit.sample`): one object is in memory."""
        return (fit.sample(n, seed=seed) for fit in self)

    def _images_of(self, row: QTable, folder: Path | None) -> FittedImages:
        name = str(row["id"][0])
        if name in self._images:
            return self._images[name]
        if row["status"][0] != "ok":
            raise InputError(f"{name} has no images: its fit failed", str(row["message"][0]))
        if folder is None:
            raise InputError(f"{name} has no images", "fit it again")
        return _saved_images(folder, name)

    # ------------------------------------------------------------------ what a folder has besides

    def _file(self, name: str, folder: Path | None = None) -> Path:
        folder = folder or self.folder
        if folder is None:
            what = "these are several runs" if self._several else "this run is in memory"
            raise InputError(f"there is no {name}: {what}", "open one results folder")
        path = folder / name
        if not path.exists():
            raise InputError("no such file in these results", "see the option save", path)
        return path

    def _file_of(self, key: int | str | tuple[str, str], place: str, ending: str) -> Path:
        row, folder = self._row(key if isinstance(key, int) else self._place(key))
        return self._file(f"{place}/{file_stem(str(row['id'][0]))}{ending}", folder)

    def preview(self, key: int | str | tuple[str, str]) -> Image.Image:
        """The picture that the run drew of an object; a notebook shows it."""
        from PIL import Image

        return Image.open(io.BytesIO(self._file_of(key, "previews", ".png").read_bytes()))

    def posterior(self, key: int | str | tuple[str, str]) -> Any:
        """Posterior samples of an object as ArviZ data, where the run drew some."""
        import arviz

        return arviz.from_netcdf(self._file_of(key, "posterior", ".nc"))

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
        names = [name for name in ("run", *_SHOWN) if name in self._rows.colnames]
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
        if self._several:
            where = f" in {len(set(self._rows['run']))} runs"
        return f"{len(self)} fits, {use} of them usable{where}"


def open_results(folder: Runs) -> Results:
    """Open the results of one run or several; images and posteriors are read when they are used.

    Parameters
    ----------
    folder : path, glob, or sequence of them
        What `fit` wrote (``out``): ``"results"``, ``"runs/*"``.

    Returns
    -------
    Results
        Of several runs (a glob or a sequence, also of one) with a column ``run``, and without
        covariances: `Fit` has those of its own run.

    Raises
    ------
    InputError
        There is no catalogue.
    """
    if isinstance(folder, (str, Path)) and (Path(folder).exists() or not has_magic(str(folder))):
        return Results(read_catalogue(folder), {}, _folder_of(Path(folder)))
    rows = joined_catalogues(found_runs(folder))
    nested = [field.name for field in rows.schema if pa.types.is_nested(field.type)]
    rows = rows.drop_columns(nested)
    filled = [_filled(rows.column(field.name), field.type) for field in rows.schema]
    return Results(table_to_qtable(pa.Table.from_arrays(filled, schema=rows.schema)), {})


_BLANKS: dict[pa.DataType, Any] = {pa.string(): "", pa.bool_(): False, pa.int32(): 0}


def _filled(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column that some runs lack, without nulls."""
    return column.fill_null(_BLANKS.get(kind, math.nan)) if column.null_count else column


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


@lru_cache(maxsize=8)
def _catalogue_of(path: Path) -> QTable:
    return read_catalogue(path)


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
    draws = read_draws(folder / "posterior" / f"{file_stem(name)}.nc")
    return None if draws is None else {key: one.reshape(-1) for key, one in draws.items()}
