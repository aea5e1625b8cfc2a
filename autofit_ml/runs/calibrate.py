"""`calibrate_run`: injection and recovery in the images of a finished run."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue import (
    Flag,
    atomic_write_ecsv,
    atomic_write_json,
    atomic_write_text,
    read_catalogue_arrow,
)
from autofit_ml.catalogue.files import FITS_NAME, write_catalogue_files
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Stamp, discover
from autofit_ml.injection.page import calibration_page
from autofit_ml.injection.recovery import MEASURED, Recovery, error_factor, measure
from autofit_ml.injection.stamps import Population, inject, light_of
from autofit_ml.injection.verdict import judge, verdict
from autofit_ml.options import declared
from autofit_ml.report import CALIBRATION_FOLDER, REPORT_NAME, VERDICT_NAME, write_report
from autofit_ml.runs.claim import claimed
from autofit_ml.runs.fit import fit_run
from autofit_ml.runs.identity import identity_of
from autofit_ml.runs.kinds import RUN_FILE, Kind
from autofit_ml.runs.places import inject_once
from autofit_ml.runs.summary import Progress
from autofit_ml.settings import CalibrateSettings, FitSettings, Paths, ReadOptions

__all__ = [
    "CalibrationSummary",
    "calibrate_run",
    "galaxies_of",
    "only_noise",
    "settings_of_run",
]

_TABLES = ("injections.ecsv", "by_magnitude.ecsv", "by_size.ecsv")

CALIBRATED = Kind(
    ("calibration.html", VERDICT_NAME, "injected.json", *_TABLES),
    {"injected": (".fits",)},
    began=lambda folder: (folder / "fits" / ".work" / "state.json").exists(),
)
"""What a calibration writes, beside the run of its own in ``fits/``."""

_TOGETHER = 32


@dataclass(frozen=True)
class CalibrationSummary:
    """Result of `calibrate_run`.

    Attributes
    ----------
    out : Path
        Folder of calibration.html, injections.ecsv, by_magnitude.ecsv, by_size.ecsv.
    recovery : Recovery
    stamps, skipped : int
        Places that galaxies were put into; images without enough sky.
    verdict : list of str
        Whether errors are right, in words (`autofit_ml.injection.verdict`).
    catalogue : Path or None
        The catalogue with factors, where it was asked for.
    """

    out: Path
    recovery: Recovery
    stamps: int
    skipped: int
    verdict: list[str]
    catalogue: Path | None = None


def settings_of_run(results: str | Path) -> tuple[FitSettings, list[str]]:
    """Settings of a finished run, and the files that it read.

    Raises
    ------
    InputError
        No finished run there.
    SettingsError
        The run's settings cannot be taken up: a model other than one Sérsic profile, several bands.
    """
    path = Path(results) / RUN_FILE
    try:
        run = json.loads(path.read_text("utf-8"))
        given, inputs = dict(run["settings"]), list(run["inputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "holds no finished run", "give the results folder of autofit-ml fit", results
        ) from error
    other = given.get("galfit") or given.get("pipeline")
    if other or given.get("model") != "sersic" or given.get("bands"):
        what = other or given.get("model")
        raise SettingsError(
            f"the run fitted {what}" + (" in several bands" if given.get("bands") else ""),
            "calibration is for runs of one Sérsic profile in one band",
        )
    weights = re.sub(r" sha256:\w+", "", given.get("weights") or "")
    known = set(declared(FitSettings)) - {"save", "wavelengths"}
    options = {name: v for name, v in given.items() if name in known and v not in (None, "")}
    options |= {"weights": weights.replace(" ", ""), "save": "none", "posterior": "laplace"}
    if given.get("segmenter") == "given":
        options["segmenter"] = "auto"  # there are no labels of injected galaxies
    if isinstance(options.get("psf"), str):
        options["psf"] = re.sub(r" sha256:\w+$", "", options["psf"])
    return FitSettings(**options), inputs


def calibrate_run(
    results: str | Path,
    paths: Paths = None,
    settings: CalibrateSettings | None = None,
    *,
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> CalibrationSummary:
    """Inject galaxies like the catalogue's into the run's own images, fit them, compare.

    Parameters
    ----------
    results : path
        Of a finished run of ``autofit-ml fit`` with one Sérsic profile.
    paths, manifest
        Its images, where they are no longer those that run.json names, or were a manifest's.
    settings : CalibrateSettings, optional
        With ``apply``: ``<name>_err_factor`` is added to the catalogue: by what the errors of
        flux, re, n, q should be multiplied at the object's magnitude.
    out : path, optional
        Default: ``calibration`` in the results folder. A run that stopped there is continued.
    restart : bool
        Begin anew in a folder that holds another calibration.
    progress : Progress, optional
        Told of every stage, and of the fit.

    Returns
    -------
    CalibrationSummary

    Raises
    ------
    InputError, SettingsError
        No run, or one whose galaxies cannot be injected; no usable rows; no empty sky;
        `ResumeError` for a folder that holds another calibration.
    """
    results, told = Path(results), progress or Progress()
    settings = settings or CalibrateSettings()
    of_run, inputs = settings_of_run(results)
    like = galaxies_of(results)
    if paths is None and manifest is None:
        missing = [name for name in inputs if not Path(name).exists()]
        if missing:
            raise InputError(
                "an image of the run is not where it was",
                "give the images again: autofit-ml calibrate RESULTS IMAGES",
                missing[0],
            )
        paths = inputs
    sources = discover(paths, manifest=manifest, survey=of_run.survey, mode=of_run.mode).sources
    folder = Path(out) if out is not None else results / CALIBRATION_FOLDER
    names = [_name(k) for k in range(settings.number)]
    identity = identity_of(settings) | {"run": identity_of(of_run), "galaxies": like.digest}
    claim = claimed(folder, CALIBRATED, identity, dict.fromkeys(names), restart=restart)
    with claim as state:
        injected = folder / "injected"
        injected.mkdir(exist_ok=True)

        def filled(k: int, stamp: Stamp, rng: np.random.Generator) -> tuple[Stamp, dict[str, Any]]:
            galaxy = like.draw(rng, stamp)
            known = {"zeropoint": stamp.zeropoint, "pixel_scale": stamp.pixel_scale}
            known = {name: value for name, value in known.items() if math.isfinite(value)}
            return inject(stamp, light_of(galaxy, stamp), rng), galaxy | known

        about = inject_once(
            folder, sources, of_run, results, names, filled, told,
            seed=settings.seed, most=settings.number,
        )  # fmt: skip
        own = of_run.replace(**only_noise(of_run), batch_size=min(of_run.batch_size, _TOGETHER))
        summary = fit_run(injected, folder / "fits", own, restart=not state, progress=progress)
        if summary.table is None:
            raise KeyboardInterrupt
        rows = {row["id"]: row for row in summary.table.to_pylist()}
        recovery = measure(about["truth"], rows, names)
        tables = recovery.objects, recovery.by_magnitude, recovery.by_size
        for name, table in zip(_TABLES, tables, strict=True):
            atomic_write_ecsv(folder / name, table)
        skipped, places = about["skipped"], about["places"]
        notes = [f"{skipped} images had too little sky and were left out."] if skipped else []
        if not about["gain"]:
            notes.append(
                "The gain is not known everywhere: there, the galaxies have no photon noise."
            )
        said = verdict(recovery, _command(results, settings), applied=settings.apply)
        page = calibration_page(recovery, results.name, f"{places} places", said, notes)
        atomic_write_text(folder / "calibration.html", page)
        atomic_write_json(folder / VERDICT_NAME, said)
        catalogue = _with_factors(results, recovery) if settings.apply else None
    if (results / REPORT_NAME).is_file() and folder == results / CALIBRATION_FOLDER:
        write_report(results)
    return CalibrationSummary(folder, recovery, places, skipped, said, catalogue)


def _command(results: Path, settings: CalibrateSettings) -> str:
    """Command that takes up a calibration and adds its factors to the catalogue."""
    changed = [
        f"--{name} {getattr(settings, name)}"
        for name in ("number", "seed")
        if getattr(settings, name) != getattr(CalibrateSettings(), name)
    ]
    return " ".join(["autofit-ml calibrate", shlex.quote(str(results)), *changed, "--apply"])


def _name(k: int) -> str:
    """Id of an injected galaxy, from 0."""
    return f"injected-{k:06d}"


def only_noise(given: ReadOptions) -> dict[str, Any]:
    """Reading options of the injected stamps, whose planes say everything but how noise is made."""
    plain = ReadOptions(noise=given.noise, rdnoise=given.rdnoise, mode="stamp")
    return {name: getattr(plain, name) for name in declared(ReadOptions)}


def galaxies_of(results: Path) -> Population:
    """The usable galaxies of a catalogue.

    Raises
    ------
    InputError
        There are none.
    """
    table = read_catalogue_arrow(results)
    columns = {
        name: np.asarray(table.column(name).to_pylist(), dtype=float)
        for name in ("mag", "flux", "re", "n", "q")
    }
    use = np.asarray(table.column("use").to_pylist(), dtype=bool)
    point = np.asarray(table.column("flags").to_pylist(), dtype=np.int64) & int(Flag.POINT_SOURCE)
    good = use & (point == 0) & (columns["flux"] > 0) & (columns["re"] > 0)
    if good.sum() == 0:
        raise InputError(
            "no usable galaxies in the catalogue", "nothing can be calibrated on it", results
        )
    return Population(**{name: values[good] for name, values in columns.items()})


def _with_factors(results: Path, recovery: Recovery) -> Path:
    """Add a factor for each error to the catalogue; its file."""
    table = read_catalogue_arrow(results)
    key = "mag" if recovery.brightness == "mag" else "flux"
    values = np.asarray(table.column(key).to_pylist(), dtype=float)
    with np.errstate(all="ignore"):
        brightness = values if key == "mag" else -2.5 * np.log10(values)
    for name in MEASURED:
        column = f"{name}_err_factor"
        if column in table.column_names:
            table = table.drop_columns([column])
        about = {"description": f"Factor for {name}_err from injected galaxies of this magnitude"}
        factors = error_factor(recovery, name, brightness)
        table = table.append_column(
            pa.field(column, pa.float64(), metadata=about), pa.array(factors)
        )
    write_catalogue_files(table, results)
    return results / FITS_NAME


def figures(recovery: Recovery) -> dict[str, Any]:
    """The whole sample in a few numbers, for the command line."""
    out: dict[str, Any] = {"galaxies": len(recovery.objects), "recovered": recovery.complete}
    for name in MEASURED:
        one = judge(recovery, name)
        out[f"bias_{name}"], out[f"coverage_{name}"] = one.bias, one.coverage
        out[f"factor_{name}"], out[f"factor_{name}_err"] = one.factor, one.factor_err
    return out
