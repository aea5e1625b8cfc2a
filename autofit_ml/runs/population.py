"""`population_run`: a population inferred from finished runs, and their objects weighted anew."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table

from autofit_ml.catalogue import (
    atomic_file,
    atomic_write_ecsv,
    atomic_write_figure,
    atomic_write_json,
    atomic_write_text,
)
from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.catalogue.files import catalogue_path
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population import (
    PopulationModel,
    PopulationPosterior,
    PopulationSettings,
    read_population_model,
)
from autofit_ml.population.catalogue import Catalogue, objects_of, read_tables
from autofit_ml.population.infer import infer_catalogue
from autofit_ml.population.pictures import predictive_figure
from autofit_ml.population.selection import Selection, detection_surface
from autofit_ml.posterior import write_inference_data
from autofit_ml.runs.claim import claimed
from autofit_ml.runs.identity import identity_of
from autofit_ml.runs.kinds import POPULATED
from autofit_ml.runs.summary import Progress
from autofit_ml.settings import Paths, PopulationOptions

__all__ = ["population_run"]

_SUMMARY = "population.json"
_RHAT, _ERROR = 1.05, 0.5
"""Above these a result is not to be trusted without a word."""


def population_run(
    paths: Paths,
    model: str | Path,
    out: str | Path,
    settings: PopulationOptions | None = None,
    *,
    restart: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Infer a population from catalogues and write what is known of it.

    Parameters
    ----------
    paths : path or iterable of paths
        Results folders, catalogues, or other tables with ``<name>`` and ``<name>_err``.
    model : path
        Population file in which numbers may be free. If none is, the objects are only weighted.
    out : path
        Folder for population.yaml (the population, a file for ``--prior population:FILE``),
        numbers.ecsv and numbers.nc (its free numbers), objects.parquet (the objects with the
        population as their prior), corner.png, predictive.png, population.json.
    settings : PopulationOptions, optional
    restart : bool
        Begin anew in a folder that holds another population.
    progress : Progress, optional

    Returns
    -------
    dict
        What population.json holds: numbers, objects, diagnostics, notes.

    Raises
    ------
    InputError, SettingsError
        The model, tables, priors that are not known; `ResumeError` for a folder of another run.
    """
    settings, told, folder = settings or PopulationOptions(), progress or Progress(), Path(out)
    given = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths or ())]
    if not given:
        raise SettingsError("nothing to infer", "give results folders or tables")
    known = read_population_model(model)
    hashes = {str(p): file_sha256(catalogue_path(p) if p.is_dir() else p) for p in _there(given)}
    identity = identity_of(settings) | {"model": file_sha256(model), "tables": hashes}
    with claimed(folder, POPULATED, identity, {}, restart=restart) as state:
        if state and (folder / _SUMMARY).is_file():
            told.note("this population is finished; nothing to do")
            return json.loads((folder / _SUMMARY).read_text("utf-8"))
        told.stage("reading tables")
        catalogue = objects_of(read_tables(given), known, settings.interim)
        told.stage(f"inferring the population of {len(catalogue.objects)} objects")
        found = infer_catalogue(
            catalogue, known, selection=_calibrated(known) if known.calibration else None,
            noise=settings.noise, outliers=settings.outliers,
            settings=PopulationSettings(draws=settings.draws, seed=settings.seed),
        )  # fmt: skip
        summary = _written(found, catalogue, folder)
        atomic_write_json(folder / _SUMMARY, summary)
    return summary


def _there(paths: Iterable[Path]) -> list[Path]:
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise InputError("no such file or folder", "give results folders or tables", path)
    return paths


def _calibrated(model: PopulationModel) -> Selection:
    """Probability of being recovered, from the galaxies that `calibrate` injected."""
    path = Path(model.calibration) / "injections.ecsv"
    if not path.is_file():
        raise InputError("holds no calibration", "run autofit-ml calibrate first", path.parent)
    table = Table.read(path)
    columns = {
        "mag": lambda: table["brightness_true"],
        "ln_n": lambda: np.log(table["n_true"]),
        "n": lambda: table["n_true"],
        "q": lambda: table["q_true"],
        "ln_re": lambda: np.log(table["re_true"] * table["pixel_scale"]),
        "re": lambda: table["re_true"] * table["pixel_scale"],
    }
    used = [name for name in model.names if name in columns]
    if (
        any(name.removeprefix("ln_") == "re" for name in used)
        and "pixel_scale" not in table.colnames
    ):
        raise InputError(
            "a calibration of an older version, without pixel scales", "run calibrate again", path
        )
    x = {name: np.asarray(columns[name](), float) for name in used}
    return detection_surface(x, np.asarray(table["recovered"], bool))


def _written(found: PopulationPosterior, catalogue: Catalogue, folder: Path) -> dict[str, Any]:
    """Files of the result, and its summary."""
    table = found.table()
    atomic_write_ecsv(folder / "numbers.ecsv", table)
    atomic_write_text(folder / "population.yaml", found.text())
    shrunk = found.shrink().table(tuple(part.name for part in found.model.base.parts))
    rows: dict[str, Any] = {}
    if "id" in catalogue.table.colnames:
        rows["id"] = [str(name) for name in catalogue.table["id"]]
    rows |= {name: np.asarray(shrunk[name], float) for name in shrunk.colnames}
    with atomic_file(folder / "objects.parquet") as file:
        pq.write_table(pa.table(rows), file)
    if found.names:
        write_inference_data(found.to_inference_data(), folder, "numbers")
        atomic_write_figure(folder / "corner.png", found.corner())
    if found.noise is not None:
        atomic_write_figure(folder / "predictive.png", predictive_figure(found))
    figures = found.diagnostics
    numbers = {
        str(row["name"]): {key: float(row[key]) for key in ("median", "error", "low", "high")}
        for row in table
    }
    return {
        "objects": len(found.objects),
        "numbers": numbers,
        "diagnostics": {k: v if math.isfinite(v) else None for k, v in figures.items()},
        "notes": _notes(figures, catalogue.left_out),
    }


def _notes(figures: Mapping[str, float], left_out: Mapping[str, int]) -> list[str]:
    """Remarks that a user has to know before using the numbers."""
    notes = [f"{count} rows left out: {why}" for why, count in left_out.items()]
    if figures["undivided"]:
        notes.append(f"{figures['undivided']:.0f} fits have posteriors wider than their priors")
    if figures["as_gaussian"]:
        notes.append(f"{figures['as_gaussian']:.0f} objects with too few samples: as Gaussians")
    if figures["rhat"] > _RHAT:
        notes.append(f"the chains have not converged: R-hat {figures['rhat']:.3f}; more --draws")
    if figures["integration_error"] > _ERROR:
        notes.append(f"ln of the posterior is known to {figures['integration_error']:.1f} only")
    return notes
