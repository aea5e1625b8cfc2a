"""Whole frames through the network: python benchmarks/frames.py [--large]

A simulated SDSS-like frame of 2048 x 1489 pixels (recipe ``validation/frame``): seconds to segment
it and to fit everything in it, and what changes with the tiles. ``--large`` adds a frame of
10 000 x 10 000 pixels, tiled from that one, and the most memory that segmenting it takes.
Writes the table of docs/segmentation.md.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from documents import machine, markdown_table, write_section

from autofit_ml.images.stamp import Frame
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs import FitSettings, fit_run
from autofit_ml.segmentation.detection import Detections
from autofit_ml.segmentation.tiles import TileSettings, detect_instances
from autofit_ml.simulation import (
    SimulatedObject,
    compose_recipe,
    export_fits,
    simulate_one,
    to_stamps,
)
from autofit_ml.weights.choice import choose_weights, network


def to_frame(item: SimulatedObject) -> Frame:
    """A simulated frame as the pipeline reads it."""
    stamp = to_stamps([item])[0]
    return Frame(
        id=stamp.id,
        data=stamp.data,
        sigma=stamp.sigma,
        mask=stamp.mask,
        psf=stamp.psf,
        pixel_scale=stamp.pixel_scale,
        zeropoint=stamp.zeropoint,
        filter=stamp.filter,
        gain=stamp.gain,
    )


def difference(one: Detections, two: Detections) -> tuple[float, float]:
    """Share of the rows of `one` with a partner in `two` within a pixel, and their offset's rms."""
    from scipy.spatial import cKDTree

    places = [np.stack([d.sources["x"], d.sources["y"]], axis=1) for d in (one, two)]
    distance, _ = cKDTree(places[1]).query(places[0], distance_upper_bound=1.0)
    found = np.isfinite(distance)
    return float(found.mean()), float(np.sqrt(np.mean(distance[found] ** 2)))


def peak_memory() -> float:
    """Most memory that this process has held, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--weights", default="", help="default: the installed ones")
    arguments = parser.parse_args()
    item = simulate_one(compose_recipe(["data=validation/frame"]), 0, 9003)
    frame, fwhm = to_frame(item), psf_fwhm(item.psf)
    name = choose_weights("segment", arguments.weights, frame.pixel_scale, fwhm)
    if name is None:
        raise SystemExit("no weights for this frame")
    detector = network(name)
    rows = []
    detect_instances(  # the first call of PyTorch takes longer
        frame.replace(
            data=frame.data[:400, :400], sigma=frame.sigma[:400, :400], mask=frame.mask[:400, :400]
        ),
        detector,
        fwhm=fwhm,
    )
    began = time.perf_counter()
    usual = detect_instances(frame, detector, fwhm=fwhm)
    rows.append(["2048 x 1489 segmented", f"{time.perf_counter() - began:.0f} s"])
    rows.append(["instances", str(len(usual.sources))])
    again = detect_instances(frame, detector, fwhm=fwhm)
    rows.append(["the same again", "identical" if same(usual, again) else "differs"])
    usual_tiles = TileSettings()
    for core, halo in ((256, 96), (384, 96), (512, 128)):
        other = detect_instances(
            frame, detector, fwhm=fwhm, settings=TileSettings(core=core, halo=halo)
        )
        share, offset = difference(usual, other)
        text = f"{100 * share:.2f} % with a partner within 1 pixel, offset {offset:.3f} pixels rms"
        label = f"tiles of {core} + {halo} instead of {usual_tiles.core} + {usual_tiles.halo}"
        rows.append([f"{label} ({len(other.sources)})", text])
        print(rows[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        export_fits([item], Path(folder) / "images")
        settings = FitSettings(mode="frame", segmenter="maskrcnn", weights=arguments.weights)
        began = time.perf_counter()
        summary = fit_run(Path(folder) / "images", Path(folder) / "out", settings)
        seconds = time.perf_counter() - began
    rows.append(
        ["fitted, files to catalogue, pictures and report", f"{seconds:.0f} s, "
         f"{summary.n_objects - summary.n_failed} of {summary.n_objects} objects"]
    )  # fmt: skip
    if arguments.large:
        rows += large(frame, detector, fwhm)
    text = markdown_table(["", "measured"], rows) + f"\n\n`{name}`, {machine()}."
    print(text)
    if not arguments.weights:
        write_section("segmentation.md", "frames", text)


def same(one: Detections, two: Detections) -> bool:
    """Identical labels and rows."""
    return np.array_equal(one.labels, two.labels) and np.array_equal(one.sources, two.sources)


def large(frame: Frame, detector, fwhm: float) -> list[list[str]]:
    """A frame of 10 000 x 10 000 pixels, filled with copies."""
    side = 10_000
    ny, nx = frame.data.shape
    times = (-(-side // ny), -(-side // nx))

    def filled(plane: np.ndarray) -> np.ndarray:
        return np.tile(plane, times)[:side, :side].copy()

    big = frame.replace(data=filled(frame.data), sigma=filled(frame.sigma), mask=filled(frame.mask))
    before = peak_memory()
    began = time.perf_counter()
    found = detect_instances(big, detector, fwhm=fwhm)
    seconds = time.perf_counter() - began
    planes = (big.data.nbytes + big.sigma.nbytes + big.mask.nbytes) / 1e9
    return [
        ["10 000 x 10 000 segmented", f"{seconds / 60:.1f} min, {len(found.sources)} instances"],
        [
            "memory of that (most held at any time)",
            f"{peak_memory():.1f} GB, of which {planes:.1f} GB are the frame's own planes "
            f"(before: {before:.1f} GB)",
        ],
    ]


if __name__ == "__main__":
    main()
