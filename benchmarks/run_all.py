"""Run every benchmark: python benchmarks/run_all.py [--quick] [NAME ...]

Each script prints its figures, writes them into docs/ (not with --quick) and ends with a status
other than 0 when it fails or misses a bar of its own. A script that is missing, or a benchmark in
this folder that is not in the list, is an error: nothing is left out in silence.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "rendering": ("images against GalSim", (), ("--quick",)),
    "truth": ("noise-free galaxies", (), ("-n", "100")),
    "errors": ("coverage of the errors, wrong minima", (), ("-n", "300")),
    "real_images": ("published fits of real galaxies", (), ()),
    "speed": ("time per galaxy, against pyimfit and AstroPhot", (), ("--quick",)),
    "side_by_side": (
        "time and accuracy beside seven other fitters",
        ("--docs",),
        ("settings", "peers", "bands", "-n", "4", "--tries", "1", "--peers", "pyimfit", "scipy"),
    ),
    "end_to_end": ("from files to the catalogue", (), ("--quick",)),
    "sky_comparison": ("sky, seeing and counts against real images", (), ("--quick",)),
    "simulation_speed": ("stamps per second, and the two paths", (), ("--quick",)),
    "validation": (
        "the default pipeline by magnitude",
        ("--docs",),
        ("-n", "30", "--sets", "single", "realistic"),
    ),
    "mosaic": ("real and simulated stamps side by side", (), ("--quick",)),
    "segmentation": (
        "the network against sep",
        ("segment/ground-any", "--docs"),
        ("segment/ground-any", "-n", "5", "--trials", "2"),
    ),
    "segmentation_real": ("outlines on real images", (), ()),
    "frames": ("whole frames", (), ()),
    "initialisation": (
        "starts from the network and from moments",
        ("--alone", "250", "-n", "50", "--real", "--docs"),
        ("-n", "10"),
    ),
    "adaptation": ("the network on another survey", ("--docs",), ("-n", "40", "--epochs", "1")),
    "profiles": ("time of an image, every profile", (), ()),
    "scenes": ("components, neighbours, bands, choice", ("--docs",), ("-n", "20")),
    "model_choice": ("two components or one, by the penalty", ("--docs",), ("-n", "12")),
    "real_scenes": ("real galaxies of several components", ("--docs",), ()),
    "deconvolution": ("the prior and its samplers", ("--docs",), ("exact", "--scale", "0.1")),
    "deconvolution_real": ("real galaxies sharpened", ("--docs",), ("cosmos", "--samples", "4")),
    "gpu": ("a GPU beside the CPU", (), ("--quick", "--device", "cpu")),
    "pipelines": ("stages and grids of fits", ("--docs",), ("-n", "6")),
    "sensitivity": ("which second components are seen", ("--docs",), ("-n", "2", "--images", "4")),
    "posteriors": ("samplers side by side", ("--docs",), ("efficiency", "-n", "2")),
    "model_error": (
        "errors on galaxies that are no Sérsic profiles",
        ("-n", "1200", "--docs"),
        ("-n", "100"),
    ),
    "real_data": ("every set of the real data", ("--docs",), ()),
    "real_pairs": ("two views of one real galaxy", ("--docs",), ()),
    "totals": ("what --model auto says of the whole galaxy", ("--docs",), ("-n", "12")),
    "companions": ("missed companions, ruined fits", (), ("-n", "4")),
    "priors": ("priors for the faint", ("--docs",), ("faint", "-n", "20")),
    "psf_variation": ("PSFs that vary over a frame", ("--docs",), ("residuals", "-n", "1")),
    "population": ("populations from many fits", ("--docs",), ("simulated", "-n", "2")),
    "difference": ("image subtraction", ("--docs",), ("-n", "1")),
    "light_curves": ("light curves", ("--docs",), ("-n", "1")),
    "survey": ("surveys under stress", ("--docs",), ("kills", "-n", "3")),
    "catalog_posteriors": (
        "posteriors of stars and galaxies",
        ("--docs",),
        ("-n", "12", "--hmc", "4"),
    ),
    "catalog": (
        "stars, galaxies and colours of frames",
        ("--docs",),
        ("--shape", "256", "256", "--referee", "4"),
    ),
    "catalog_scaling": ("time and memory of catalogues", ("--docs",), ("-n", "40")),
}
"""Script -> (what it measures, its arguments, those with --quick)."""
NOT_BENCHMARKS = {
    "run_all", "deconvolution_baselines", "default_pipeline", "documents", "side_by_side_fits",
    "survey_workers", "catalog_frames", "catalog_galsim", "catalog_referee", "catalog_scores",
    "catalog_stripe82",
    "undisturbed", "analytic_priors", "hard_sets", "instance_figures",
    "versions", "alternated",  # need a checkout of an earlier version
    "initialisation_losses",  # needs four trainings: conf/experiment/initialise_losses.yaml
}  # fmt: skip


def differences() -> tuple[set[str], set[str]]:
    """Scripts that are not in the list, and names in it that have no script."""
    found = {path.stem for path in HERE.glob("*.py")} - NOT_BENCHMARKS
    return found - set(BENCHMARKS), set(BENCHMARKS) - found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="some of: " + ", ".join(BENCHMARKS)
    )
    parser.add_argument("--quick", action="store_true", help="small samples; documents untouched")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    unlisted, missing = differences()
    outcome: dict[str, str] = {}
    for name in arguments.names or BENCHMARKS:
        if name in missing:
            outcome[name] = "MISSING"
            continue
        about, whole, quick = BENCHMARKS[name]
        print(f"=== {name}: {about}", flush=True)
        began = time.perf_counter()
        command = [sys.executable, str(HERE / f"{name}.py")]
        command += quick if arguments.quick else whole
        status = subprocess.run(command, check=False).returncode
        seconds = time.perf_counter() - began
        outcome[name] = f"{'ok' if status == 0 else f'status {status}'} ({seconds:.0f} s)"
    outcome |= dict.fromkeys(sorted(unlisted), "NOT LISTED in run_all.py")
    print("=== summary")
    for name, text in outcome.items():
        print(f"{name:18s} {text}")
    raise SystemExit(0 if all(text.startswith("ok") for text in outcome.values()) else 1)


if __name__ == "__main__":
    main()
