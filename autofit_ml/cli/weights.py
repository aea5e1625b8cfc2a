"""``autofit-ml weights list | info | verify | pull``."""

import dataclasses
from typing import Annotated

import typer

from autofit_ml.cli.app import app
from autofit_ml.cli.terminal import print_json, printable

weights_app = typer.Typer(
    help="Pretrained weights: list, describe, verify, download.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")


@weights_app.command("list")
def weights_list(
    task: Annotated[
        str | None, typer.Option(help="Task: segment, initialise, deconvolve or errors.")
    ] = None,
    survey: Annotated[str | None, typer.Option(help="Survey, e.g. sdss.")] = None,
    band: Annotated[str | None, typer.Option(help="Band, e.g. r.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the weights that can be loaded by name."""
    from autofit_ml.weights import list_weights

    found = list_weights(task, survey, band)
    if as_json:
        print_json([dataclasses.asdict(info) for info in found])
        return
    for info in found:
        size = f"{info.bytes / 1e6:6.1f} MB"
        print(printable(f"{info.name:36s} {size}  {info.status:9s} {info.title}"))
    if not found:
        print("no weights match")


@weights_app.command("info")
def weights_info(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the weights: task/survey-band[@version].")
    ],
) -> None:
    """Print the card of a bundle of weights: purpose, training data, figures."""
    from autofit_ml.weights import find_bundle, read_bundle, weight_info

    info = weight_info(name)
    print(f"{info.name}  ({info.status}, {info.licence}, {info.bytes / 1e6:.1f} MB)")
    print(f"pixel scale {info.pixel_scale[0]:g} to {info.pixel_scale[1]:g} arcsec")
    print(f"PSF FWHM {info.psf_fwhm[0]:g} to {info.psf_fwhm[1]:g} pixels")
    print(f"S/N {info.snr[0]:g} to {info.snr[1]:g}")
    print(f"address {info.url or '(none: it comes with the package)'}")
    folder, _ = find_bundle(name, offline=True)
    print(printable(f"folder {folder}"))
    for text in ("", *read_bundle(folder).card.splitlines()):
        print(printable(text))


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names of weights (default: all).", show_default=False),
    ] = None,
) -> None:
    """Verify the files of bundles by their sha256."""
    from autofit_ml.weights import find_bundle, list_weights

    for name in names or [info.name for info in list_weights()]:
        folder, info = find_bundle(name, offline=True)
        print(printable(f"ok  {info.name}  {folder}"))


@weights_app.command("pull")
def weights_pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the weights: task/survey-band[@version].")
    ],
) -> None:
    """Download a bundle into the cache; every file is verified by its sha256."""
    from autofit_ml.weights import find_bundle, pull, weight_info

    info = weight_info(name)
    if info.url is None:
        folder, _ = find_bundle(name, offline=True)  # says what to do where it is not here
        here = f"it is here already: {folder}"
        print(printable(f"{info.name} has no address to fetch it from; {here}"))
        return
    print(f"fetching {info.name}, {info.bytes / 1e6:.1f} MB, from {info.url}")
    print(printable(pull(name)))
