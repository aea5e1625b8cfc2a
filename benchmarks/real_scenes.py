"""Real galaxies with several components, neighbours or bands: python benchmarks/real_scenes.py

The shared data's galaxies whose reference fit has two components or a neighbour, with the model
that the reference used, each component beside the reference's; then the multi-band sets, fitted
jointly and band by band. Tables go to docs/scenes.md with ``--docs``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from documents import DATA, machine, markdown_table, write_section

from autofit_ml.catalogue.flags import Flag
from autofit_ml.fitting import (
    RefineSettings,
    SceneFit,
    join_images,
    object_of,
    refine,
)
from autofit_ml.images import discover, read_source
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import start_from_moments
from autofit_ml.scenes import Scene, component, fixed, free, parse_model, scene
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.settings import ReadOptions


@dataclass(frozen=True)
class Case:
    """One galaxy and the model of its reference fit.

    Attributes
    ----------
    name : str
        File, without ``_image.fits.gz``.
    model, sky : str
    psf, mask : bool
        Whether the reference used them.
    segmenter : str
    components : tuple of str
        Ours, in the order of the reference's.
    neighbour : mapping
        Profile and starting values of a further component.
    """

    name: str
    model: str
    components: tuple[str, ...]
    sky: str = "free"
    psf: bool = True
    mask: bool = True
    segmenter: str = "auto"
    neighbour: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scene(self) -> Scene:
        """The model, with the neighbour as a free component of its own."""
        first = parse_model(self.model.partition(",")[0], self.sky)
        if not self.neighbour:
            return first
        start = {k: v if k in ("profile", "q") else free(v) for k, v in self.neighbour.items()}
        return scene(first, component(**start), sky=self.sky)


CASES = (
    # The neighbour is a component of the model: no segmenter separates it.
    Case(
        "pymorph_sdss/00000058_r",
        "sersic, and sersic at (98.2, 100.5)",
        ("sersic", "sersic_2"),
        neighbour={"profile": "sersic", "x": 98.2, "y": 100.5, "re": 6.0, "n": 4.0},
    ),
    Case("imfit_sdss/vcc1512_r", "sersic+exp", ("sersic", "exponential"), "fixed", psf=False),
    Case("imfit_sdss/ngc3073_r", "sersic+exp", ("sersic", "exponential"), "fixed"),
    Case("imfit_sdss/ic3478-64_r", "sersic", ("sersic",), "fixed", psf=False, mask=False),
    Case("imfit_sdss/ic3478_r", "exp", ("exponential",), "fixed", psf=False, mask=False),
    Case("galfitm_tests/galfit-example_F606W", "sersic", ("sersic",), "tilted", mask=False),
    Case("galfitm_tests/ngc4660_i", "sersic", ("sersic",)),
    Case(
        "misc_fields/decam520206_z",
        "dev, and exp at (37.9, 16.7)",
        ("devaucouleurs", "exponential"),
        neighbour={"profile": "exponential", "x": 37.9, "y": 16.7, "re": 2.0, "q": fixed(1.0)},
    ),
)

BANDS = (
    ("splus_8band/s26s33", ("r", "g", "i", "z", "j0515", "j0660", "j0861", "u")),
    ("pysersic/decals-field", ("r", "g", "z")),
    ("scarlet_hsc_hst/blend35", ("i", "g", "r", "z", "y")),
)


def read_stamp(name: str, psf: bool = True, mask: bool = True) -> Stamp:
    """A stamp of the shared data, by the name of its files."""
    folder, _, stem = name.partition("/")
    options = ReadOptions() if psf else ReadOptions(psf="none")
    for source in discover(DATA / folder).sources:
        if source.id == stem:
            item = read_source(source, dataclasses.replace(options, mode="stamp")).item
            if isinstance(item, Stamp):
                return item if mask else item.replace(mask=item.mask & (item.sigma >= 1e9))
    raise SystemExit(f"no {name} in {DATA}")


def whole_stamp(stamp: Stamp) -> Segmentation:
    """Everything that is not masked belongs to the target."""
    labels = np.ones(stamp.shape, dtype=np.int32)
    sky = float(np.percentile(stamp.data[~stamp.mask], 5))
    return Segmentation(labels, 1, np.zeros(stamp.shape, dtype=bool), sky, 1.0, method="given")


def segmentation_of(stamp: Stamp, how: str) -> Segmentation:
    """A segmentation; the whole stamp where the target fills it or none is found."""
    ((_, found),) = list(segment_all([stamp], how))
    if isinstance(found, Segmentation) and found.target:
        return found
    return whole_stamp(stamp)


def fit_case(case: Case) -> SceneFit:
    """The fit of one galaxy."""
    stamp = read_stamp(case.name, case.psf, case.mask)
    fills = case.name.startswith("imfit_sdss")
    found = whole_stamp(stamp) if fills else segmentation_of(stamp, case.segmenter)
    starts = start_from_moments([stamp], [found])
    (fit,) = refine(
        [object_of(stamp, found)],
        case.scene,
        starts,
        settings=RefineSettings(neighbours="mask" if case.neighbour else "fit"),
    )
    return fit


def references() -> dict[str, dict[str, Any]]:
    """Reference fits by file."""
    fits = json.loads((DATA / "reference_fits.json").read_text())["fits"]
    return {fit["image"].removesuffix("_image.fits.gz"): fit for fit in fits}


def single_images() -> list[list[str]]:
    """Ours beside the reference's, component by component."""
    rows = []
    reference = references()
    for case in CASES:
        fit = fit_case(case)
        known = reference[case.name]["components"]
        flags = ", ".join(flag.name or "" for flag in Flag if fit.flags & int(flag)) or "-"
        for k, (name, theirs) in enumerate(zip(case.components, known, strict=False)):
            if f"{name}.flux" not in fit.names:
                rows.append([f"{case.name}: {name}", *["not fitted"] * 6, flags])
                continue
            row = [f"{case.name}: {name}"]
            for parameter in ("flux", "re", "n", "q", "pa"):
                row.append(beside(fit, f"{name}.{parameter}", theirs.get(parameter)))
            row.append(f"{fit.chi2 / max(fit.ndof, 1):.4f}" if k == 0 else "")
            rows.append([*row, flags if k == 0 else ""])
    return rows


def beside(fit: SceneFit, key: str, reference: float | None) -> str:
    """Our value / the reference's."""
    if key not in fit.names:
        return "-"
    text = f"{fit[key]:.4g}"
    return text if reference is None else f"{text} / {reference:.4g}"


def several_bands() -> list[list[str]]:
    """re, n, q from all bands together, and from each alone."""
    rows = []
    for name, bands in BANDS:
        stamps = [read_stamp(f"{name}_{band}") for band in bands]
        found = segmentation_of(stamps[0], "auto")
        starts = start_from_moments(stamps[:1], [found])
        model = parse_model("sersic")
        (joint,) = refine([join_images(stamps, found)], model, starts, bands=bands)
        rows.append([f"{name}: all", *shape(joint), fluxes(joint, bands)])
        for band, stamp in zip(bands, stamps, strict=True):
            (alone,) = refine([object_of(stamp, found)], model, starts)
            rows.append([f"{name}: {band}", *shape(alone), f"{alone['sersic.flux']:.4g}"])
    return rows


def shape(fit: SceneFit) -> list[str]:
    """re, n, q with errors, reduced chi2."""
    out = [f"{fit[f'sersic.{p}']:.3f} ± {fit.error(f'sersic.{p}'):.3f}" for p in ("re", "n", "q")]
    return [*out, f"{fit.chi2 / max(fit.ndof, 1):.2f}"]


def fluxes(fit: SceneFit, bands: Sequence[str]) -> str:
    """Fluxes of all bands."""
    return ", ".join(f"{band} {fit[f'sersic.flux[{band}]']:.4g}" for band in bands)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(machine())
    parts = {
        "real": (
            single_images(),
            ["galaxy: component, ours / reference", "flux", "re", "n", "q", "pa", "chi2/ndof",
             "flags"],
        ),
        "real_bands": (several_bands(), ["object: bands", "re", "n", "q", "chi2/ndof", "flux"]),
    }  # fmt: skip
    for name, (rows, header) in parts.items():
        text = markdown_table(header, rows)
        print(f"\n{name}\n{text}", flush=True)
        if arguments.docs:
            write_section("scenes.md", name, text)


if __name__ == "__main__":
    main()
