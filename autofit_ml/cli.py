"""The command line: parse, call, print."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from autofit_ml.errors import AutofitError, InputError, SettingsError

app = typer.Typer(
    name="autofit-ml",
    help="Structural parameters of galaxies from folders of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NOTHING, _USAGE, _INTERRUPTED = 1, 2, 130

# Arguments and options that several commands have.
_Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="PATH...", help="FITS files, folders or globs.", show_default=False),
]
_Manifest = Annotated[
    Path | None, typer.Option(help="Table of objects (csv, ecsv, parquet).", show_default=False)
]
_Survey = Annotated[
    str | None, typer.Option(help="Survey preset, e.g. sdss, kids, hst.", show_default=False)
]
_OnePsf = Annotated[
    Path | None, typer.Option(help="PSF image for all objects.", show_default=False)
]
_Weights = Annotated[str, typer.Option(help="Names or folders of weights, separated by commas.")]
_Mode = Annotated[str, typer.Option(help="auto, stamp or frame.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Seed = Annotated[int, typer.Option(help="Of the random numbers.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
_AsJson = Annotated[
    bool, typer.Option("--json", help="Print a summary as JSON on standard output.")
]
_PsfFwhm = Annotated[
    float | None, typer.Option(help="Moffat PSF of this FWHM, arcsec.", show_default=False)
]


def main() -> None:
    """Entry point of the ``autofit-ml`` script."""
    try:
        app()
    except AutofitError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        # An InputError that ends the program is about what the user named (no catalogue there):
        # one about an object is a row of the catalogue.
        usage = isinstance(error, (SettingsError, InputError))
        raise SystemExit(_USAGE if usage else _NOTHING) from None


def _version(wanted: bool) -> None:
    if wanted:
        from autofit_ml import __version__

        print(f"autofit-ml {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    paths: _Paths = None,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("results"),
    manifest: _Manifest = None,
    mode: _Mode = "auto",
    model: Annotated[
        str,
        typer.Option(help="What is fitted: sersic, sersic+exp, psf+sersic, ..., auto, or a .yaml."),
    ] = "sersic",
    galfit: Annotated[
        Path | None,
        typer.Option(
            help="GALFIT input file: model and, without PATH, images.", show_default=False
        ),
    ] = None,
    bands: Annotated[
        str, typer.Option(help="Bands fitted together, the reference first: g,r,i.")
    ] = "",
    neighbours: Annotated[
        str, typer.Option(help="Overlapping neighbours: fit (along with the target) or mask.")
    ] = "fit",
    posterior: Annotated[
        str,
        typer.Option(
            help="Errors from laplace (the curvature), or samples: bootstrap, hmc, nested."
        ),
    ] = "laplace",
    likelihood: Annotated[
        str, typer.Option(help="gaussian, poisson, student-t[:nu], huber[:k] or cauchy[:c].")
    ] = "gaussian",
    error_floor: Annotated[
        float, typer.Option(help="Error of the model, as a share of its light.")
    ] = 0.0,
    segmenter: Annotated[
        str,
        typer.Option(
            help="auto (labels given with an object, else maskrcnn), maskrcnn, sep or given."
        ),
    ] = "auto",
    weights: _Weights = "",
    init: Annotated[str, typer.Option(help="Starting values: resnet or moments.")] = "resnet",
    prior: Annotated[
        str, typer.Option(help="none, or network: what the resnet predicts is a prior of the fit.")
    ] = "none",
    sky: Annotated[
        str | None,
        typer.Option(
            help="free, fixed (at 0), tilted, or a value in image units per pixel (default: as the "
            "model says, else free).",
            show_default=False,
        ),
    ] = None,
    survey: _Survey = None,
    psf: Annotated[
        str | None,
        typer.Option(
            help="One PSF file for all; none; or fitted to a frame's stars: moffat, pixels.",
            show_default=False,
        ),
    ] = None,
    psf_fwhm: _PsfFwhm = None,
    psf_oversampling: Annotated[
        int | None, typer.Option(help="PSF pixels per image pixel.", show_default=False)
    ] = None,
    psf_optical: Annotated[
        bool, typer.Option(help="The PSF does not contain the detector pixel.")
    ] = False,
    zeropoint: Annotated[
        float | None, typer.Option(help="AB magnitude of one image unit.", show_default=False)
    ] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(help="arcsec per pixel.", show_default=False)
    ] = None,
    gain: Annotated[
        float | None, typer.Option(help="Electrons per image unit.", show_default=False)
    ] = None,
    rdnoise: Annotated[
        float | None, typer.Option(help="Read noise, electrons.", show_default=False)
    ] = None,
    saturate: Annotated[
        float | None, typer.Option(help="Saturation level, image units.", show_default=False)
    ] = None,
    noise: Annotated[
        str, typer.Option(help="given (the noise plane, else a model) or model.")
    ] = "given",
    device: _Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Objects fitted together.")] = 256,
    workers: Annotated[
        int, typer.Option(help="Processes that read ahead; 0 none, -1 as useful.")
    ] = -1,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="Begin anew, or continue a stopped run.")
    ] = False,
    save: Annotated[
        str, typer.Option(help="Any of objects,previews,report; or none.")
    ] = "objects,previews,report",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be read and fitted, and how long it would take."
        ),
    ] = False,
    quiet: _Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Name every flagged or failed object.")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Fit every galaxy in files, folders or a manifest.

    Exit status: 0 every object has a fit; 3 some failed (their rows say why); 2 wrong usage;
    1 nothing could be fitted; 130 interrupted (the same command continues).
    """
    from autofit_ml.api import settings_from
    from autofit_ml.progress import PlainProgress, QuietProgress, RichProgress
    from autofit_ml.runs import fit_run

    if not paths and manifest is None and galfit is None:
        raise SettingsError("nothing to fit", "give files or folders, or --manifest TABLE")
    settings = settings_from(
        {
            "mode": mode,
            "model": model,
            "galfit": galfit,
            "bands": bands,
            "neighbours": neighbours,
            "posterior": posterior,
            "likelihood": likelihood,
            "error_floor": error_floor,
            "segmenter": segmenter,
            "weights": weights,
            "init": init,
            "prior": prior,
            "sky": sky,
            "survey": survey,
            "psf": psf,
            "psf_fwhm": psf_fwhm,
            "psf_oversampling": psf_oversampling,
            "psf_has_pixel": False if psf_optical else None,
            "zeropoint": zeropoint,
            "pixel_scale": pixel_scale,
            "gain": gain,
            "rdnoise": rdnoise,
            "saturate": saturate,
            "noise": noise,
            "device": device,
            "batch_size": batch_size,
            "workers": workers,
            "save": save,
        }
    )
    if dry_run:
        raise typer.Exit(_dry_run(paths or None, out, settings, manifest, restart, as_json))
    console = Console(stderr=True, soft_wrap=True)
    if quiet:
        progress: Any = QuietProgress()
    elif console.is_terminal:
        progress = RichProgress(console, verbose)
    else:
        progress = PlainProgress(sys.stderr, verbose)
    try:
        with progress:
            summary = fit_run(
                paths or None, out, settings, manifest=manifest, restart=restart, progress=progress
            )
    except KeyboardInterrupt:
        if not quiet:
            console.print(
                f"stopped at once; finished batches are saved in {escape(str(out))}\n"
                f"to go on: {escape(_resume_command())}",
                highlight=False,
            )
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print(json.dumps(_as_dict(summary)))
    if not quiet:
        progress.end(summary, _resume_command())
    raise typer.Exit(summary.exit_status)


def _dry_run(
    paths: list[Path] | None,
    out: Path,
    settings: Any,
    manifest: Path | None,
    restart: bool,
    as_json: bool,
) -> int:
    """Print the plan of a run; the exit status of a run that would end so."""
    import dataclasses

    from autofit_ml.progress import plan_lines
    from autofit_ml.runs.plan import plan_run

    plan = plan_run(paths, out, settings, manifest=manifest, restart=restart)
    if as_json:
        ignored = [f"{path}: {why}" for path, why in plan.ignored]
        print(json.dumps(_without_nan(dataclasses.asdict(plan) | {"ignored": ignored})))
    else:
        print("\n".join(plan_lines(plan, out)))
    return _USAGE if plan.refused else 0


def _as_dict(summary: Any) -> dict[str, Any]:
    return {
        "out": str(summary.out),
        "objects": summary.n_objects,
        "ok": summary.n_ok,
        "flagged": summary.n_flagged,
        "failed": summary.n_failed,
        "new": summary.n_new,
        "interrupted": summary.interrupted,
        "seconds": round(summary.seconds, 3),
        "report": None if summary.report is None else str(summary.report),
        "exit_status": summary.exit_status,
    }


def _resume_command() -> str:
    """The command as typed, without --restart."""
    import shlex

    words = [Path(sys.argv[0]).name, *(w for w in sys.argv[1:] if w != "--restart")]
    return shlex.join(words)


@app.command()
def segment(
    paths: _Paths = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the labels; beside the images, `fit` reads them.")
    ] = Path("segmented"),
    manifest: _Manifest = None,
    mode: _Mode = "auto",
    segmenter: Annotated[str, typer.Option(help="maskrcnn or sep.")] = "maskrcnn",
    weights: _Weights = "",
    survey: _Survey = None,
    psf: _OnePsf = None,
    psf_fwhm: _PsfFwhm = None,
    pictures: Annotated[bool, typer.Option(help="Draw the outlines as PNG.")] = True,
    quiet: _Quiet = False,
    as_json: _AsJson = False,
) -> None:
    """Find the galaxies and stars of images: labels, a table of instances, pictures.

    Exit status: 0 all images; 3 some could not be segmented; 2 wrong usage; 1 none could be.
    """
    from autofit_ml.api import settings_from
    from autofit_ml.progress import counting
    from autofit_ml.runs.segment_run import segment_run

    if not paths and manifest is None:
        raise SettingsError("nothing to segment", "give files or folders, or --manifest TABLE")
    settings = settings_from(
        {
            "mode": mode,
            "segmenter": segmenter,
            "weights": weights,
            "survey": survey,
            "psf": psf,
            "psf_fwhm": psf_fwhm,
        }
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with counting("segmenting", console, quiet=quiet) as progress:
        summary = segment_run(
            paths or None, out, settings, manifest=manifest, pictures=pictures, progress=progress
        )
    said = f"{summary.instances} instances in {summary.images} images: {summary.out}"
    raise typer.Exit(_end(summary, ("images", "instances"), said, console, quiet, as_json))


def _end(
    summary: Any, names: Sequence[str], said: str, console: Console, quiet: bool, as_json: bool
) -> int:
    """Print failures and what a run of several images did; its exit status."""
    for name, why in summary.failures.items():
        console.print(f"[red]failed[/] {escape(name)}: {escape(why)}")
    if as_json:
        found = {name: getattr(summary, name) for name in (*names, "failures", "exit_status")}
        print(json.dumps({"out": str(summary.out)} | found))
    elif not quiet:
        print(said)
    return summary.exit_status


@app.command()
def deconvolve(
    paths: _Paths = None,
    out: Annotated[Path, typer.Option(help="Folder for the sharp images.")] = Path("sharp"),
    manifest: _Manifest = None,
    samples: Annotated[int, typer.Option(help="Posterior samples of each object.")] = 64,
    sampler: Annotated[
        str, typer.Option(help="eps, or gibbs: the reference, several times as long.")
    ] = "eps",
    oversampling: Annotated[int, typer.Option(help="Output pixels per data pixel: 1 or 2.")] = 1,
    target_fwhm: Annotated[
        float | None,
        typer.Option(
            help="FWHM of the target PSF, output pixels, at least 2 (the default).",
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit a Sérsic profile to every sample.")
    ] = False,
    size: Annotated[
        int, typer.Option(help="Data pixels of the square around the target; 0: as it needs.")
    ] = 0,
    segmenter: Annotated[
        str, typer.Option(help="Masks other objects: auto, maskrcnn, sep or given.")
    ] = "auto",
    weights: Annotated[
        str, typer.Option(help="Name or folder of the prior's weights (deconvolve/...).")
    ] = "",
    seed: _Seed = 0,
    survey: _Survey = None,
    psf: _OnePsf = None,
    psf_fwhm: _PsfFwhm = None,
    mode: Annotated[str, typer.Option(help="auto or stamp.")] = "auto",
    device: _Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="float32, or bfloat16: a third less time on processors that compute in it."
        ),
    ] = "float32",
    pictures: Annotated[bool, typer.Option(help="Draw a PNG of each object.")] = True,
    quiet: _Quiet = False,
    as_json: _AsJson = False,
) -> None:
    """Draw samples of galaxies as they would look with a narrower PSF and without noise.

    Exit status: 0 all objects; 3 some could not be deconvolved; 2 wrong usage; 1 none could be.
    """
    from autofit_ml.api import settings_from
    from autofit_ml.deconvolution import SamplingSettings
    from autofit_ml.progress import counting
    from autofit_ml.runs.deconvolve_run import deconvolve_run

    if not paths and manifest is None:
        raise SettingsError("nothing to deconvolve", "give files or folders, or --manifest TABLE")
    settings = settings_from(
        {
            "mode": mode,
            "segmenter": segmenter,
            "survey": survey,
            "psf": psf,
            "psf_fwhm": psf_fwhm,
            "device": device,
        }
    )
    sampling = SamplingSettings(
        samples=samples,
        sampler=sampler,
        oversampling=oversampling,
        target_fwhm=target_fwhm,
        weights=weights,
        seed=seed,
        device=device,
        precision=precision,
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with counting("deconvolving", console, quiet=quiet) as progress:
        summary = deconvolve_run(
            paths or None, out, sampling, settings,
            manifest=manifest, size=size, fit=fit, pictures=pictures, progress=progress,
        )  # fmt: skip
    if not quiet:
        for name, texts in summary.warnings.items():
            for text in texts:
                console.print(f"[yellow]warning[/] {escape(name)}: {escape(text)}")
    said = f"{summary.objects} objects: {summary.out}"
    raise typer.Exit(_end(summary, ("objects", "warnings"), said, console, quiet, as_json))


@app.command()
def query(
    results: Annotated[Path, typer.Argument(help="Results folder or catalogue file.")],
    sql: Annotated[str, typer.Argument(help="SQL over the view `catalog`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
) -> None:
    """Ask a catalogue in SQL: autofit-ml query results "SELECT id, mag FROM catalog WHERE use"."""
    from autofit_ml.catalogue import query as run_query

    table = run_query(results, sql)
    if as_json:
        print(json.dumps(_without_nan(table.to_pylist()), default=str, allow_nan=False))
        return
    from rich.table import Table

    pretty = Table(*table.column_names)
    for row in table.slice(0, 1000).to_pylist():
        pretty.add_row(*(_cell(row[name]) for name in table.column_names))
    Console(width=None if sys.stdout.isatty() else 200).print(pretty)
    if len(table) > 1000:
        print(f"... and {len(table) - 1000} more rows")


def _without_nan(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


@app.command()
def calibrate(
    results: Annotated[Path, typer.Argument(help="Results folder of a finished run.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Its images, where they are no longer those that the run read.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: calibration/ in the results.", show_default=False)
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="The run's table of objects.", show_default=False)
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", help="Galaxies to inject.")] = 300,
    seed: _Seed = 0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Add factors for the errors to the catalogue.")
    ] = False,
    quiet: _Quiet = False,
    as_json: _AsJson = False,
) -> None:
    """Inject galaxies like the catalogue's into the run's own images and see what is found.

    Exit status: 0 done; 2 wrong usage, or a run that cannot be calibrated.
    """
    from autofit_ml.progress import PlainProgress, QuietProgress, RichProgress
    from autofit_ml.runs.calibrate_run import calibrate_run, figures

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    progress: Any = QuietProgress()
    if not quiet:
        progress = RichProgress(console) if console.is_terminal else PlainProgress(sys.stderr)
    with progress:
        summary = calibrate_run(
            results, paths or None, out=out, manifest=manifest, number=number, seed=seed,
            apply=apply, progress=progress, note=None if quiet else console.print,
        )  # fmt: skip
    found = figures(summary.recovery)
    if as_json:
        print(json.dumps(_without_nan(found | {"out": str(summary.out)})))
    elif not quiet:
        print(f"{100 * found['recovered']:.0f} % of {found['galaxies']} galaxies recovered")
        for name in ("flux", "re", "n", "q"):
            bias, coverage = found[f"bias_{name}"], 100 * found[f"coverage_{name}"]
            print(f"{name:5s} bias {bias:+.3f}, {coverage:.0f} % within one error")
        print(f"report: {summary.out / 'calibration.html'}")


@app.command()
def doctor(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH...]", help="Files or folders to look into.", show_default=False
        ),
    ] = None,
    manifest: _Manifest = None,
    mode: _Mode = "auto",
    survey: _Survey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what is installed, or what is wrong with files and folders.

    Exit status: 0 all well; 3 something cannot be used; 2 wrong usage; 1 no image can be used.
    """
    import dataclasses

    from autofit_ml.doctor import check_images, check_installation

    if paths or manifest is not None:
        found = check_images(paths or None, manifest=manifest, survey=survey, mode=mode)
    else:
        found = check_installation()
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in found]))
    else:
        width = min(max((len(one.what) for one in found), default=0), 40)
        console = Console(soft_wrap=True, highlight=False)
        colour = {"ok": "green", "note": "yellow", "bad": "bold red"}
        for one in found:
            state = f"[{colour[one.state]}]{one.state:4s}[/]"
            console.print(f"{state}  {escape(one.what):{width}s}  {escape(one.text)}")
    bad = sum(one.state == "bad" for one in found)
    raise typer.Exit(0 if not bad else _NOTHING if bad == len(found) else 3)


@app.command()
def report(results: Annotated[Path, typer.Argument(help="Results folder.")]) -> None:
    """Write report.html anew from a results folder."""
    from autofit_ml.report import write_report

    print(write_report(results))


@app.command()
def simulate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...",
            help="data=RECIPE, survey=SURVEY, or any value: data.target.snr=[20,200].",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the set.", show_default=False)] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", help="Objects (default: the recipe's).", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed (default: the recipe's).", show_default=False)
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes; 0 none, -1 one for each processor.")
    ] = -1,
    shard_size: Annotated[
        int | None,
        typer.Option(help="Objects in a file (default: 2**20 pixels).", show_default=False),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="Begin anew, or continue a stopped run.")
    ] = False,
    config_dir: Annotated[
        Path | None, typer.Option(help="Folder of your own recipes.", show_default=False)
    ] = None,
    fits: Annotated[
        bool, typer.Option("--fits", help="Write FITS files for `autofit-ml fit` to OUT/fits too.")
    ] = False,
    list_them: Annotated[bool, typer.Option("--list", help="List recipes and surveys.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")
    ] = False,
    quiet: _Quiet = False,
    as_json: _AsJson = False,
) -> None:
    """Simulate a set of images with known truth: autofit-ml simulate data=blends --out sets/blends.

    Exit status: 0 the set is complete; 2 wrong usage; 1 it could not be made; 130 interrupted
    (the same command continues).
    """
    from autofit_ml.simulation import compose_recipe

    if list_them:
        _print_recipes(config_dir, as_json)
        return
    recipe = compose_recipe(overrides or (), config_dir=config_dir)
    if dry_run:
        _print_recipe(recipe, count, seed, as_json)
        return
    if out is None:
        raise SettingsError("nowhere to write", "give --out DIR")

    from autofit_ml.progress import counting
    from autofit_ml.simulation.generate import check_recipe
    from autofit_ml.simulation.shards import export_set, write_set

    check_recipe(recipe)
    console = Console(stderr=True, soft_wrap=True)
    try:
        with counting(f"simulating {recipe.data.name}", console, quiet=quiet) as progress:
            summary = write_set(
                recipe,
                out,
                count=count,
                seed=seed,
                shard_size=shard_size,
                workers=workers,
                restart=restart,
                progress=progress,
            )
        if fits:
            with counting("writing FITS files", console, quiet=quiet) as progress:
                export_set(out, out / "fits", labels=True, progress=progress)
    except KeyboardInterrupt:
        if not quiet:
            console.print(
                f"stopped; finished shards are saved in {escape(str(out))}\n"
                f"to go on: {escape(_resume_command())}",
                highlight=False,
            )
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print(json.dumps(_set_as_dict(summary, recipe, fits)))
    if not quiet:
        console.print(
            f"{summary.count} objects with {summary.n_sources} sources in {summary.n_shards} "
            f"shards of {summary.bytes / 1e6:.1f} MB together ({summary.n_new} new, "
            f"{summary.seconds:.1f} s)\nset:  {escape(str(out))}"
            + (f"\nfits: {escape(str(out / 'fits'))}" if fits else ""),
            highlight=False,
        )


def _print_recipes(config_dir: Path | None, as_json: bool) -> None:
    """Names and titles of all recipes and surveys, those of `config_dir` first."""
    from autofit_ml.simulation.recipe import list_recipes

    if config_dir is not None and not config_dir.is_dir():
        raise SettingsError(f"config folder {config_dir} does not exist", "give an existing folder")
    found = {
        "data": list_recipes("data", config_dir=config_dir),
        "survey": list_recipes("survey", config_dir=config_dir),
    }
    if as_json:
        print(json.dumps(found))
        return
    for group, titles in found.items():
        print(f"{group}=")
        width = max(map(len, titles), default=0)
        for name, title in titles.items():
            print(f"  {name:{width}}  {title}".rstrip())


def _print_recipe(recipe: Any, count: int | None, seed: int | None, as_json: bool) -> None:
    """The resolved recipe as YAML (or JSON) that a config file could hold."""
    import yaml

    mapping = recipe.as_mapping()
    mapping["data"]["count"] = recipe.data.count if count is None else count
    mapping["data"]["seed"] = recipe.data.seed if seed is None else seed
    if as_json:
        print(json.dumps(mapping))
    else:
        print(yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True), end="")


def _set_as_dict(summary: Any, recipe: Any, fits: bool) -> dict[str, Any]:
    return {
        "out": str(summary.folder),
        "recipe": recipe.data.name,
        "survey": recipe.survey.name,
        "objects": summary.count,
        "new": summary.n_new,
        "sources": summary.n_sources,
        "shards": summary.n_shards,
        "bytes": summary.bytes,
        "seconds": round(summary.seconds, 3),
        "fits": str(summary.folder / "fits") if fits else None,
    }


weights_app = typer.Typer(
    help="Pretrained weights: list, describe, check, fetch.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")


@weights_app.command("list")
def weights_list(
    task: Annotated[str | None, typer.Option(help="segment, initialise or deconvolve.")] = None,
    survey: Annotated[str | None, typer.Option(help="E.g. sdss.")] = None,
    band: Annotated[str | None, typer.Option(help="E.g. r.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the weights that can be loaded by name."""
    import dataclasses

    from autofit_ml.weights import list_weights

    found = list_weights(task, survey, band)
    if as_json:
        print(json.dumps([_without_nan(dataclasses.asdict(info)) for info in found]))
        return
    for info in found:
        print(f"{info.name:36s} {info.bytes / 1e6:6.1f} MB  {info.status:9s} {info.title}")
    if not found:
        print("no weights match")


@weights_app.command("info")
def weights_info(name: Annotated[str, typer.Argument(help="task/survey-band[@version].")]) -> None:
    """Say what one bundle is for and what it was trained on; print its card."""
    from autofit_ml.weights import find_bundle, read_bundle, weight_info

    info = weight_info(name)
    print(f"{info.name}  ({info.status}, {info.licence}, {info.bytes / 1e6:.1f} MB)")
    print(f"pixel scale {info.pixel_scale[0]:g} to {info.pixel_scale[1]:g} arcsec")
    print(f"PSF FWHM {info.psf_fwhm[0]:g} to {info.psf_fwhm[1]:g} pixels")
    print(f"S/N {info.snr[0]:g} to {info.snr[1]:g}")
    folder, _ = find_bundle(name, offline=True)
    print(f"folder {folder}\n")
    print(read_bundle(folder).card)


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Default: all.", show_default=False)
    ] = None,
) -> None:
    """Compare the files of bundles with their sha256."""
    from autofit_ml.weights import find_bundle, list_weights

    for name in names or [info.name for info in list_weights()]:
        folder, info = find_bundle(name, offline=True)
        print(f"ok  {info.name}  {folder}")


@weights_app.command("pull")
def weights_pull(name: Annotated[str, typer.Argument(help="task/survey-band[@version].")]) -> None:
    """Fetch a bundle into the cache."""
    from autofit_ml.weights import pull

    print(pull(name))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for images and results.")] = Path("demo"),
    n: Annotated[int, typer.Option("-n", "--n", help="Galaxies to simulate.")] = 24,
) -> None:
    """Simulate a small set of galaxies, fit it, and say where the report is."""
    from autofit_ml.simulation import demo_set

    images = out / "images"
    if not (images / "truth.ecsv").exists():  # written last: the set is complete
        demo_set(images, n=n)
    command = ["fit", str(images), "--out", str(out / "results")]
    app(command, standalone_mode=True)


if __name__ == "__main__":
    main()
