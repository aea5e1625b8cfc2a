"""``autofit-ml simulate``."""

from typing import Any

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import SimulateCommand
from autofit_ml.cli.progress import counting
from autofit_ml.cli.terminal import print_json, printable, say
from autofit_ml.errors import SettingsError


@command(SimulateCommand)
def simulate(call: SimulateCommand) -> int:
    """Simulate a set of images with known truth: autofit-ml simulate data=blends --out sets/blends.

    Exit status: 0 the set is complete; 2 wrong usage; 1 it could not be simulated; 130 interrupted
    (the same command continues).
    """
    from autofit_ml.simulation import compose_recipe

    if call.list_them:
        _print_recipes(call)
        return 0
    recipe = compose_recipe(call.overrides or (), config_dir=call.config_dir)
    if call.dry_run:
        _print_recipe(recipe, call)
        return 0
    if call.out is None:
        raise SettingsError("nowhere to write", "give --out DIR")

    from autofit_ml.runs.simulate import write_set
    from autofit_ml.simulation.generate import check_recipe
    from autofit_ml.simulation.shards import export_set

    check_recipe(recipe)
    out = call.out
    with counting(f"simulating {recipe.data.name}", quiet=call.quiet) as progress:
        summary = write_set(
            recipe, out, count=call.count, seed=call.seed, shard_size=call.shard_size,
            workers=call.workers, restart=call.restart, progress=progress,
        )  # fmt: skip
    if call.fits:
        with counting("writing FITS files", quiet=call.quiet) as progress:
            export_set(out, out / "fits", labels=True, progress=progress)
    if call.as_json:
        print_json(
            {
                "out": str(summary.folder),
                "recipe": recipe.data.name,
                "survey": recipe.survey.name,
                "objects": summary.count,
                "new": summary.n_new,
                "sources": summary.n_sources,
                "shards": summary.n_shards,
                "bytes": summary.bytes,
                "seconds": round(summary.seconds, 3),
                "fits": str(summary.folder / "fits") if call.fits else None,
            }
        )
    if not call.quiet:
        say(
            f"{summary.count} objects with {summary.n_sources} sources in {summary.n_shards} files "
            f"of {summary.bytes / 1e6:.1f} MB ({summary.n_new} new, {summary.seconds:.1f} s)"
        )
        say(f"set:  {out}")
        if call.fits:
            say(f"fits: {out / 'fits'}")
    return 0


def _print_recipes(call: SimulateCommand) -> None:
    """Names and titles of all recipes and surveys, those of the user's folder first."""

    from autofit_ml.simulation.compose import list_recipes

    config_dir = call.config_dir
    if config_dir is not None and not config_dir.is_dir():
        raise SettingsError(f"config folder {config_dir} does not exist", "give an existing folder")
    found = {
        "data": list_recipes("data", config_dir=config_dir),
        "survey": list_recipes("survey", config_dir=config_dir),
    }
    if call.as_json:
        print_json(found)
        return
    for group, titles in found.items():
        print(f"{group}=")
        width = max(map(len, titles), default=0)
        for name, title in titles.items():
            print(printable(f"  {name:{width}}  {title}".rstrip()))


def _print_recipe(recipe: Any, call: SimulateCommand) -> None:
    """The resolved recipe as YAML (or JSON) that a config file could hold."""
    import yaml

    mapping = recipe.as_mapping()
    mapping["data"]["count"] = recipe.data.count if call.count is None else call.count
    mapping["data"]["seed"] = recipe.data.seed if call.seed is None else call.seed
    if call.as_json:
        print_json(mapping)
    else:
        print(yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True), end="")
