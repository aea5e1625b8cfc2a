"""``autofit-ml population``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import PopulationCommand
from autofit_ml.cli.progress import progress_for
from autofit_ml.cli.terminal import print_json, printable
from autofit_ml.errors import SettingsError
from autofit_ml.settings import PopulationOptions


@command(PopulationCommand)
def population(call: PopulationCommand) -> None:
    """Infer how the parameters of galaxies are distributed, by a hierarchical model of many fits.

    The free numbers of a population file (docs/population.md) are fitted to the posteriors of all
    objects, after dividing out the priors of their fits. The results are a population file, for
    `autofit-ml fit --prior population:FILE`, and a table of the objects with the population as
    their prior.

    Exit status: 0 done; 2 wrong usage, or tables that cannot be used.
    """
    if not call.paths or call.model is None:
        raise SettingsError("nothing to infer", "give results folders and --model FILE")
    from autofit_ml.runs.population import population_run

    with progress_for("inferring", quiet=call.quiet) as progress:
        summary = population_run(
            call.paths, call.model, call.out, call.part(PopulationOptions),
            restart=call.restart, progress=progress,
        )  # fmt: skip
    if call.as_json:
        print_json(summary | {"out": str(call.out)})
    elif not call.quiet:
        for name, row in summary["numbers"].items():
            print(f"{name:24s} {row['median']:10.4g} +- {row['error']:.2g}")
        print(f"{summary['objects']} objects, R-hat {summary['diagnostics']['rhat']:.3f}")
        for text in summary["notes"]:
            print(printable(text))
        print(printable(f"population: {call.out / 'population.yaml'}"))
