"""Scenes of several components and images against the truth: python benchmarks/scenes.py [--docs]

All galaxies are drawn by GalSim with known PSFs.

- ``bulge_disc``: Sérsic bulge and exponential disc, S/N 100-1000, B/T 0.2-0.8, re of the disc at
  least twice that of the bulge; fitted with ``sersic+exp``. Scatter of B/T, coverage of its 68.3 %
  interval.
- ``blends``: a neighbour at 1 to 3 re of the target (sum of both sizes), fitted simultaneously or
  masked; masks from the simulator's labels and from the default segmenter. Bias and dispersion of
  flux.
- ``bands``: five bands with S/N 10 in each, one shape: a joint fit against that of one band.
- ``choice``: ``--model auto`` on stars, single profiles, bulges with discs.
- ``posterior``: 4 000 HMC draws (4 chains) of 100 galaxies: time, R-hat, coverage.
- ``cost``: milliseconds a galaxy, joint fit of 1, 2, 5 bands; two components; one neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from documents import Section, run_sections

from autofit_ml.catalogue.flags import FATAL
from autofit_ml.fitting import (
    RefineSettings,
    SceneFit,
    SceneObject,
    join_images,
    object_of,
    refine,
)
from autofit_ml.fitting.choice import choose_models
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import start_from_moments
from autofit_ml.posterior.scenes import sample_fits
from autofit_ml.scenes import Scene, exponential, free, log_normal, parse_model, scene, sersic
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import segment_all
from autofit_ml.simulation import SimulatedObject, flux_for_snr, observe_scene, to_stamps
from autofit_ml.simulation.draw import render_source
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Component, Source, composite

INDICES = np.round(np.geomspace(0.5, 4.5, 24), 3)


def psf_of(rng: np.random.Generator) -> Any:
    """A Moffat PSF of 2.5 to 4.5 pixels, from a small set."""
    return moffat_psf(float(rng.choice(np.linspace(2.5, 4.5, 9))), beta=3.0, size=31)


def scaled(source: Source, snr: float, psf: Any, shape: tuple[int, int]) -> Source:
    """The source with the flux that has this S/N (sky noise 1, gain 10)."""
    unit = source.with_flux(1.0)
    return unit.with_flux(flux_for_snr(render_source(unit, psf, shape), snr, 1.0, 10.0))


# ------------------------------------------------------------------ bulge and disc


def bulges_and_discs(number: int, seed: int) -> tuple[list[SimulatedObject], np.ndarray]:
    """Objects, and (B/T, re bulge, re disc, n bulge, S/N) of each."""
    rng = np.random.default_rng(seed)
    objects, truth = [], []
    for k in range(number):
        psf, shape = psf_of(rng), (96, 96)
        share = rng.uniform(0.2, 0.8)
        disc = float(np.exp(rng.uniform(np.log(5), np.log(11))))
        bulge = max(disc / rng.uniform(2.0, 5.0), 1.2)
        n = float(rng.choice(INDICES[INDICES > 1.0]))
        x, y = 47.5 + rng.uniform(-0.5, 0.5, 2)
        q = rng.uniform(0.25, 1.0)
        parts = (
            Component("sersic", share, bulge, n, max(q, rng.uniform(0.5, 1)), rng.uniform(0, 180)),
            Component("sersic", 1 - share, disc, 1.0, q, rng.uniform(0, 180)),
        )
        snr = float(np.exp(rng.uniform(np.log(100), np.log(1000))))
        whole = composite(float(x), float(y), parts, "bulge_disc")
        target = scaled(whole, snr, psf, shape)
        objects.append(observe_scene(f"bd{k}", target, (), psf, shape, rng=rng, sky=20.0))
        truth.append((share, bulge, disc, n, snr))
    return objects, np.array(truth)


def fitted(
    objects: Sequence[SceneObject], model: str | Scene, **settings: Any
) -> tuple[list[SceneFit], float]:
    """Fits from moments, and milliseconds a galaxy."""
    stamps = [one.reference for one in objects]
    starts = start_from_moments(stamps, [one.segmentation for one in objects])
    bands = settings.pop("bands", ("",))
    began = time.perf_counter()
    whole = parse_model(model) if isinstance(model, str) else model
    fits = refine(objects, whole, starts, bands=bands, settings=RefineSettings(**settings))
    return fits, 1e3 * (time.perf_counter() - began) / len(objects)


def labelled(objects: Sequence[SimulatedObject]) -> list[Stamp]:
    """Stamps with the simulator's labels."""
    return [
        stamp.replace(labels=item.labels, target_label=1)
        for stamp, item in zip(to_stamps(objects), objects, strict=True)
    ]


def segmented(stamps: Sequence[Stamp], method: str) -> list[Segmentation]:
    """Segmentations; failures are errors here."""
    pairs = segment_all(list(stamps), method)
    return [found for _, found in pairs if isinstance(found, Segmentation)]


def bulge_disc(number: int) -> list[list[str]]:
    """B/T by S/N: the plain model, and one that says what a bulge and a disc are."""
    objects, truth = bulges_and_discs(number, 41)
    stamps = labelled(objects)
    scenes = [object_of(s, g) for s, g in zip(stamps, segmented(stamps, "given"), strict=True)]
    informed = scene(
        bulge=sersic(n=free(prior=log_normal(2.2, 0.4))),
        disk=exponential(x="bulge.x", y="bulge.y"),
        constraints=["disk.re > bulge.re"],
    )
    rows = []
    for name, model in (("sersic+exp", "sersic+exp"), ("with priors", informed)):
        rows += by_snr(name, fitted(scenes, model)[0], truth)
    return rows


def by_snr(name: str, fits: Sequence[SceneFit], truth: np.ndarray) -> list[list[str]]:
    """Scatter and coverage of B/T."""
    share = np.array([fit.fraction for fit in fits])
    error = np.array([fit.fraction_err for fit in fits])
    fatal = np.array([(fit.flags & int(FATAL)) != 0 for fit in fits])
    off, snr = share - truth[:, 0], truth[:, 4]
    rows = []
    for low, high in ((100, 200), (200, 450), (450, 1e9), (100, 1e9)):
        some = (snr >= low) & (snr < high)
        good = some & ~fatal
        pull = np.abs(off[good]) / error[good]
        rows.append(
            [
                f"{name}, {low:g}-{high:g}" if high < 1e8 else f"{name}, over {low:g}",
                str(some.sum()),
                f"{np.median(off[some]):+.3f}",
                f"{half_width(off[some]):.3f}",
                f"{100 * (np.abs(off[some]) > 0.2).mean():.1f} %",
                f"{100 * (pull < 1).mean():.1f} %",
                f"{100 * (pull < 2).mean():.1f} %",
                f"{100 * fatal[some].mean():.1f} %",
            ]
        )
    return rows


# ------------------------------------------------------------------ blends


def blended_pairs(number: int, seed: int) -> tuple[list[SimulatedObject], np.ndarray]:
    """Two galaxies at 1 to 3 times the mean of their re, and (flux, re, separation, ratio)."""
    rng = np.random.default_rng(seed)
    objects, truth = [], []
    for k in range(number):
        psf, shape = psf_of(rng), (96, 96)
        sizes = np.exp(rng.uniform(np.log(2.5), np.log(7), 2))
        separation = rng.uniform(1, 3) * sizes.mean()
        separation = max(separation, 1.2 * 3.0)
        angle = rng.uniform(0, 2 * np.pi)
        ratio = float(np.exp(rng.uniform(np.log(0.2), np.log(2))))
        x, y = 47.5 + rng.uniform(-0.5, 0.5, 2)
        sources = [
            Source(
                float(x + i * separation * np.cos(angle)),
                float(y + i * separation * np.sin(angle)),
                1.0,
                float(sizes[i]),
                float(rng.choice(INDICES)),
                rng.uniform(0.4, 1),
                rng.uniform(0, 180),
            )
            for i in range(2)
        ]
        snr = float(np.exp(rng.uniform(np.log(50), np.log(500))))
        target = scaled(sources[0], snr, psf, shape)
        neighbour = sources[1].with_flux(target.flux * ratio)
        objects.append(
            observe_scene(f"pair{k}", target, (neighbour,), psf, shape, rng=rng, sky=20.0)
        )
        truth.append((target.flux, sizes[0], separation / sizes[0], ratio))
    return objects, np.array(truth)


def blends(number: int) -> list[list[str]]:
    """Flux of the target, neighbours fitted or masked."""
    objects, truth = blended_pairs(number, 42)
    stamps, unlabelled = labelled(objects), to_stamps(objects)
    rows = []
    for title, source, method in (
        ("true labels", stamps, "given"),
        ("default segmenter", unlabelled, "auto"),
    ):
        found = segmented(source, method)
        for way in ("fit", "mask"):
            scenes = [object_of(s, g) for s, g in zip(source, found, strict=True)]
            fits, _ = fitted(scenes, "sersic", neighbours=way)
            values = np.array([[fit["sersic.flux"], fit["sersic.re"]] for fit in fits])
            off = np.log(values / truth[:, :2])
            for some, which in (
                (np.ones(len(off), bool), "all"),
                (truth[:, 2] < 2, "under 2 re"),
                (separated_by(found), "both detected"),
            ):
                if some.sum() < 10:
                    continue
                rows.append(
                    [
                        f"{title}: {which}, {way}",
                        str(some.sum()),
                        f"{100 * np.median(off[some, 0]):+.1f} %",
                        f"{100 * half_width(off[some, 0]):.1f} %",
                        f"{100 * np.median(off[some, 1]):+.1f} %",
                        f"{100 * half_width(off[some, 1]):.1f} %",
                        f"{100 * (np.abs(off[some, 0]) > 0.3).mean():.1f} %",
                    ]
                )
    return rows


def separated_by(found: Sequence[Segmentation]) -> np.ndarray:
    """Where the segmentation has a neighbour at all."""
    return np.array([len(np.unique(g.labels[(g.labels != 0)])) > 1 for g in found])


# ------------------------------------------------------------------ bands


def in_bands(number: int, bands: int, snr: float, seed: int) -> tuple[list[list[Any]], np.ndarray]:
    """The same Sérsic galaxies in some bands; (re, n, q) of each."""
    rng = np.random.default_rng(seed)
    objects, truth = [], []
    for k in range(number):
        shape = (64, 64)
        n = float(rng.choice(INDICES))
        re, q = float(np.exp(rng.uniform(np.log(2.5), np.log(6)))), rng.uniform(0.3, 1)
        x, y = 31.5 + rng.uniform(-0.5, 0.5, 2)
        source = Source(float(x), float(y), 1.0, re, n, q, rng.uniform(0, 180))
        images = []
        for band in range(bands):
            psf = psf_of(rng)
            target = scaled(source, snr, psf, shape)
            images.append(observe_scene(f"g{k}b{band}", target, (), psf, shape, rng=rng, sky=5.0))
        objects.append(images)
        truth.append((re, n, q))
    return objects, np.array(truth)


def joined(objects: list[list[Any]], bands: int) -> list[SceneObject]:
    """Scene objects of the first bands."""
    out = []
    for images in objects:
        stamps = labelled(images[:bands])
        (found,) = segmented(stamps[:1], "given")
        out.append(join_images(stamps, found))
    return out


def five_bands(number: int) -> list[list[str]]:
    """Dispersion of re in one band and in five."""
    objects, truth = in_bands(number, 5, 10.0, 43)
    rows = []
    for bands in (1, 2, 5):
        names = tuple("grizy"[:bands])
        fits, _ = fitted(joined(objects, bands), "sersic", bands=names)
        values = np.array([[fit["sersic.re"], fit["sersic.n"], fit["sersic.q"]] for fit in fits])
        errors = np.array([fit.error("sersic.re") for fit in fits])
        off = np.log(values / truth)
        inside = np.abs(values[:, 0] - truth[:, 0]) < errors
        rows.append(
            [
                str(bands),
                f"{100 * np.median(off[:, 0]):+.1f} %",
                f"{100 * half_width(off[:, 0]):.1f} %",
                f"{half_width(off[:, 1]) / np.log(10):.3f}",
                f"{half_width(values[:, 2] - truth[:, 2]):.3f}",
                f"{100 * np.nanmean(inside):.0f} %",
            ]
        )
    return rows


# ------------------------------------------------------------------ choice of models


def stars_and_galaxies(number: int, seed: int) -> tuple[list[SimulatedObject], list[str], Any]:
    """A third stars, a third single Sérsic profiles, a third bulges and discs; S/N 10-1000."""
    rng = np.random.default_rng(seed)
    objects, kinds, truth = [], [], []
    for k in range(number):
        psf, shape = psf_of(rng), (64, 64)
        x, y = 31.5 + rng.uniform(-0.5, 0.5, 2)
        kind = ("star", "sersic", "bulge_disc")[k % 3]
        snr = float(np.exp(rng.uniform(np.log(10), np.log(1000))))
        share, ratio = rng.uniform(0.1, 0.9), rng.uniform(1.5, 6)
        if kind == "star":
            source = Source(float(x), float(y), 1.0, 0.0, float("nan"))
        elif kind == "sersic":
            re = float(np.exp(rng.uniform(np.log(1.0), np.log(6))))
            n, q = float(rng.choice(INDICES)), rng.uniform(0.25, 1)
            source = Source(float(x), float(y), 1.0, re, n, q, rng.uniform(0, 180))
        else:
            disc = float(np.exp(rng.uniform(np.log(3), np.log(7))))
            n, pa = float(rng.choice(INDICES[INDICES > 1.0])), rng.uniform(0, 180)
            parts = (
                Component("sersic", share, max(disc / ratio, 0.8), n, rng.uniform(0.6, 1), pa),
                Component("sersic", 1 - share, disc, 1.0, rng.uniform(0.3, 1), pa),
            )
            source = composite(float(x), float(y), parts, "bulge_disc")
        target = scaled(source, snr, psf, shape)
        objects.append(observe_scene(f"c{k}", target, (), psf, shape, rng=rng, sky=5.0))
        kinds.append(kind)
        truth.append((snr, share))
    return objects, kinds, np.array(truth)


def choice(number: int) -> list[list[str]]:
    """Shares of right answers by S/N."""
    objects, kinds, truth = stars_and_galaxies(number, 46)
    stamps = labelled(objects)
    found = segmented(stamps, "given")
    scenes = [object_of(s, g) for s, g in zip(stamps, found, strict=True)]
    chosen = choose_models(scenes, start_from_moments(stamps, found))
    model, kind = np.array([one.model for one in chosen]), np.array(kinds)
    rows = []
    for low, high in ((10, 20), (20, 50), (50, 100), (100, 200), (200, 500), (500, 1000)):
        some = (truth[:, 0] >= low) & (truth[:, 0] < high)
        row = [f"{low}-{high}", str(some.sum())]
        star, one, two = (some & (kind == name) for name in ("star", "sersic", "bulge_disc"))
        middle = two & (np.abs(truth[:, 1] - 0.5) < 0.3)
        for which, right in (
            (star, model == "point"),
            (one | two, model != "point"),
            (one, np.isin(model, ("sersic", "exponential", "devaucouleurs"))),
            (middle, model == "sersic+exp"),
        ):
            row.append(f"{100 * right[which].mean():.0f} %" if which.any() else "-")
        rows.append(row)
    return rows


# ------------------------------------------------------------------ posteriors


def posterior(number: int) -> list[list[str]]:
    """Time and convergence of 4 chains of 1 000 draws, one Sérsic profile with a free sky."""
    rng = np.random.default_rng(48)
    objects, sizes = [], []
    for k in range(number):
        psf, shape = psf_of(rng), (64, 64)
        n, re = float(rng.choice(INDICES)), float(np.exp(rng.uniform(np.log(2.5), np.log(6))))
        x, y = 31.5 + rng.uniform(-0.5, 0.5, 2)
        source = Source(float(x), float(y), 1.0, re, n, rng.uniform(0.3, 1), rng.uniform(0, 180))
        snr = float(np.exp(rng.uniform(np.log(30), np.log(500))))
        target = scaled(source, snr, psf, shape)
        objects.append(observe_scene(f"p{k}", target, (), psf, shape, rng=rng, sky=5.0))
        sizes.append(re)
    stamps = labelled(objects)
    found = segmented(stamps, "given")
    scenes = [object_of(s, g) for s, g in zip(stamps, found, strict=True)]
    fits, _ = fitted(scenes, "sersic", keep=True)
    began = time.perf_counter()
    made = sample_fits(fits, "hmc")
    seconds = time.perf_counter() - began
    good = [one for one in made if one is not None]
    rhat = np.array([float(one.samples.rhat.nan_to_num(1.0).max()) for one in good])
    ess = np.array([float(one.samples.ess_bulk.nan_to_num(1e9).min()) for one in good])
    gradients = np.array([int(one.samples.n_gradients) / 4000 for one in good])
    inside = [
        low < size < high
        for one, size in zip(made, sizes, strict=True)
        if one is not None
        for _, low, high in [one.interval("sersic.re")]
    ]
    laplace = [
        abs(fit["sersic.re"] - size) < fit.error("sersic.re")
        for fit, size in zip(fits, sizes, strict=True)
    ]
    return [
        [
            str(number),
            f"{seconds / 60:.1f} min",
            f"{seconds / number * 100 / 60:.1f} min",
            f"{np.mean(gradients):.1f}",
            f"{100 * np.mean(rhat < 1.01):.0f} %",
            f"{rhat.max():.3f}",
            f"{np.percentile(ess, 5):.0f} / {np.median(ess):.0f}",
            f"{100 * np.mean(laplace):.0f} / {100 * np.mean(inside):.0f} %",
        ]
    ]


# ------------------------------------------------------------------ cost


def cost(number: int) -> list[list[str]]:
    """Milliseconds a galaxy, best of three, alternating."""
    objects, _ = in_bands(number, 5, 50.0, 44)
    cases: dict[str, tuple[list[SceneObject], str, dict[str, Any]]] = {
        f"{bands} band{'s' * (bands > 1)}": (
            joined(objects, bands), "sersic", {"bands": tuple("grizy"[:bands])},
        )
        for bands in (1, 2, 5)
    }  # fmt: skip
    doubles = labelled(bulges_and_discs(number, 47)[0])
    scenes = [object_of(s, g) for s, g in zip(doubles, segmented(doubles, "given"), strict=True)]
    cases["sersic+exp, 96 x 96"] = (scenes, "sersic+exp", {})
    pairs, _ = blended_pairs(number, 45)
    stamps = labelled(pairs)
    scenes = [object_of(s, g) for s, g in zip(stamps, segmented(stamps, "given"), strict=True)]
    cases["one neighbour fitted, 96 x 96"] = (scenes, "sersic", {})
    cases["neighbour masked, 96 x 96"] = (scenes, "sersic", {"neighbours": "mask"})
    best = dict.fromkeys(cases, np.inf)
    first = joined(objects, 1)
    stamps64 = [one.reference for one in first]
    found = [one.segmentation for one in first]
    starts = start_from_moments(stamps64, found)
    best["single Sérsic path"] = np.inf
    for _ in range(3):
        began = time.perf_counter()
        refine(stamps64, None, starts, found)
        spent = 1e3 * (time.perf_counter() - began) / number
        best["single Sérsic path"] = min(best["single Sérsic path"], spent)
        for name, (which, model, settings) in cases.items():
            best[name] = min(best[name], fitted(which, model, **dict(settings))[1])
    return [[name, f"{value:.1f}", f"{value / best['1 band']:.2f}"] for name, value in best.items()]


def half_width(values: np.ndarray) -> float:
    """Half the distance of the 16 and 84 % points."""
    low, high = np.percentile(values[np.isfinite(values)], [15.87, 84.13])
    return float(0.5 * (high - low))


SECTIONS = {
    "bulge_disc": Section(
        bulge_disc,
        ["model, S/N", "objects", "B/T bias", "scatter", "off by 0.2", "within 1 σ", "2 σ",
         "fatal flag"],
        600,
        "scenes.md",
    ),
    "blends": Section(
        blends,
        ["masks: sample, neighbour", "objects", "flux bias", "dispersion", "re bias", "dispersion",
         "flux off by 30 %"],
        400,
        "scenes.md",
    ),
    "bands": Section(
        five_bands,
        ["bands", "re bias", "re", "n (dex)", "q", "coverage of re"],
        300,
        "scenes.md",
    ),
    "choice": Section(
        choice,
        ["S/N", "objects", "stars: point", "galaxies: not point", "one component: one",
         "two, B/T 0.2-0.8: two"],
        900,
        "scenes.md",
    ),
    "posterior": Section(
        posterior,
        ["objects", "time", "of 100", "gradients a draw", "R-hat < 1.01", "largest",
         "ESS, 5 % / median", "coverage of re, Laplace / HMC"],
        100,
        "posteriors.md",
    ),
    "cost": Section(cost, ["fit", "ms a galaxy", "of one band"], 60, "scenes.md"),
}  # fmt: skip


if __name__ == "__main__":
    run_sections(__doc__, SECTIONS)
