"""Stars, galaxies and colours of frames against the truth: python benchmarks/catalog.py [--docs]

Five-band SDSS-like frames with known sources are written as FITS files and catalogued by
``autofit-ml catalog`` with its defaults (`catalog_scores` says what is counted):

- ``celeste``: drawn from the prior that the catalogue has (star share 0.28), our simulator;
- ``galsim``: the same prior, drawn by GalSim alone (`catalog_galsim`), in frames of 512 x 512;
- ``other``: stars and galaxies that the prior does not describe (`populations`).

Beside: the published rows of Photo and Celeste, Hamiltonian Monte Carlo under the true model on
some of the sources (`catalog_referee`), detection by sep and by the network, and real epochs of
Stripe 82 (`catalog_stripe82`, with AUTOFIT_ML_TEST_DATA). Writes docs/catalog-scores.md.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import catalog_galsim
import numpy as np
import sep
from astropy.io import fits
from astropy.table import Table, vstack
from catalog_frames import (
    BANDS,
    COLOURS,
    PIXEL_SCALE,
    STAR_SHARE,
    Field,
    draw_truth,
    other_truth,
    simulate_field,
    write_field,
)
from catalog_referee import LARGEST, referee
from catalog_scores import (
    CELESTE,
    ROWS,
    celeste_errors,
    chosen,
    classification,
    colour,
    column,
    coverage,
    detection,
    error_rows,
    match,
    means,
    reliability,
)
from catalog_stripe82 import compare, joint
from documents import DATA, machine, markdown_table, write_section

from autofit_ml.images.stamp import Frame
from autofit_ml.runs.catalog import catalog_run
from autofit_ml.scenes.populations import CELESTE as POPULATIONS
from autofit_ml.scenes.populations import read_populations
from autofit_ml.settings import CatalogSettings
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.sources.detection import detect

DOCUMENT = "catalog-scores.md"
KINDS = {"celeste": "prior's own", "galsim": "GalSim", "other": "another population"}
EDGES = (14, 18, 19, 20, 21, 21.5, 22, 22.5, 23, 24)
BIN = 100_000
"""Added to x for each field, so that matches stay within one."""


@dataclass(frozen=True)
class Sample:
    """Catalogues and truth of one kind of fields; of several fields, x is shifted.

    Attributes
    ----------
    truth, found : Table
    peers : dict of str to Table
        Detections of sep and of the network.
    fields : list of Field or None
    seconds : float
        Of ``autofit-ml catalog``, a field.
    """

    truth: Table
    found: Table
    peers: dict[str, Table]
    fields: list[Field | None]
    seconds: float


def populations() -> tuple[Any, Any]:
    """Stars and galaxies of the prior."""
    found = {one.type: one for one in read_populations(POPULATIONS)}
    return found["star"], found["galaxy"]


def sample(kind: str, count: int, shape: tuple[int, int], seed: int = 1, **settings: Any) -> Sample:
    """Simulate fields and catalogue them as files."""
    truths, tables, fields, seconds = [], [], [], []
    peers: dict[str, list[Table]] = {}
    for k in range(count):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "images"
            if kind == "other":
                truth = other_truth(shape, seed + k)
            else:
                truth = draw_truth(*populations(), shape, seed + k)
            field = None
            if kind == "galsim":
                catalog_galsim.draw(truth, shape, folder, seed + k)
            else:
                field = simulate_field(truth, shape, seed + k)
                write_field(field, folder)
            out = Path(temporary) / "out"
            began = time.perf_counter()
            catalog_run(folder, out, CatalogSettings(bands=tuple(BANDS), **settings))
            seconds.append(time.perf_counter() - began)
            found = Table.read(out / "catalog.fits")
            truth["x"] = truth["x"] + k * BIN
            found["x"] = found["x"] + k * BIN
            for name, table in other_detections(folder).items():
                table["x"] = table["x"] + k * BIN
                peers.setdefault(name, []).append(table)
        truths.append(truth)
        tables.append(found)
        fields.append(field)
        print(f"{kind} {k}: {len(found)} of {len(truth)} sources, {seconds[-1]:.0f} s", flush=True)
    return Sample(
        vstack(truths, metadata_conflicts="silent"),
        vstack(tables, metadata_conflicts="silent"),
        {name: vstack(some) for name, some in peers.items()},
        fields,
        float(np.median(seconds)),
    )


def other_detections(folder: Path) -> dict[str, Table]:
    """Detections of sep in r as SExtractor, and in all bands as SourceXtractor++; the network's."""
    planes = {
        band: [
            fits.getdata(folder / f"field_{band}_{plane}.fits").astype(np.float64)
            for plane in ("image", "sigma")
        ]
        for band in BANDS
    }
    weight = sum(sigma**-2 for _, sigma in planes.values())
    white = sum(image / sigma**2 for image, sigma in planes.values()) / weight
    at = {}
    for name, image, sigma, area in (
        ("sep, r", *planes["r"], 5), ("sep, all bands", white, weight**-0.5, 3),
    ):  # fmt: skip
        image = np.ascontiguousarray(image)
        found = sep.extract(image, 1.5, err=np.ascontiguousarray(sigma), minarea=area,
                            deblend_nthresh=32, deblend_cont=0.005)  # fmt: skip
        at[name] = found["x"], found["y"]
    frame = Frame(
        "white", white.astype(np.float32), (weight**-0.5).astype(np.float32),
        np.zeros(white.shape, bool), moffat_psf(BANDS["r"].fwhm / PIXEL_SCALE),
        pixel_scale=PIXEL_SCALE, zeropoint=22.5,
    )  # fmt: skip
    found = detect(frame, "maskrcnn")[1].sources
    at["network, all bands"] = found["x"], found["y"]
    out = {}
    for name, (x, y) in at.items():
        flux, _, _ = sep.sum_circle(np.ascontiguousarray(planes["r"][0]), x, y, 5.0)
        out[name] = Table({"x": x, "y": y, "flux_r": flux})
    return out


# ------------------------------------------------------------------ tables


def _text(entry: tuple[float, float, int], decimals: int) -> str:
    mean, error, n = entry
    return f"{mean:.{decimals}f} ± {error:.{decimals}f} ({n})" if n > 1 else "–"


def scores(samples: dict[str, Sample]) -> str:
    """The published table, with columns of ours."""
    ours = {name: means(celeste_errors(one.truth, one.found)) for name, one in samples.items()}
    rows = []
    for k, (name, decimals) in enumerate(ROWS.items()):
        published = [f"{values[k]:g}" for values in CELESTE.values()]
        rows.append([name, *published, *(_text(one[name], decimals) for one in ours.values())])
    header = ["mean absolute error", *(f"{name} (published)" for name in CELESTE)]
    return markdown_table([*header, *(KINDS[name] for name in ours)], rows)


def detections(samples: dict[str, Sample]) -> str:
    """Completeness, purity and F1 by magnitude, beside sep."""
    rows = []
    for kind, one in samples.items():
        tables = {"ours": one.found} | one.peers
        lines = {name: detection(one.truth, table, EDGES) for name, table in tables.items()}
        for k, line in enumerate(lines["ours"]):
            cells = []
            for some in lines.values():
                v = some[k]
                cells.append(" / ".join("–" if math.isnan(v[key]) else f"{100 * v[key]:.0f}"
                                        for key in ("completeness", "purity", "f1")))  # fmt: skip
            label = f"{KINDS[kind]}, r {line['low']:g}-{line['high']:g}"
            rows.append([label, str(line["n"]), *cells])
    header = ["completeness / purity / F1, %", "sources"]
    return markdown_table([*header, "ours", *next(iter(samples.values())).peers], rows)


def types(samples: dict[str, Sample]) -> str:
    """Right types by magnitude, and how far probabilities can be believed."""
    rows = []
    lines = {name: classification(one.truth, one.found, EDGES) for name, one in samples.items()}
    for k in range(len(EDGES) - 1):
        cells = []
        for some in lines.values():
            v = some[k]
            cells.append(" / ".join(
                f"{100 * v[key]:.0f} ({v['n_' + key]})" if v[f"n_{key}"] else "–"
                for key in ("stars", "galaxies")))  # fmt: skip
        rows.append([f"r {EDGES[k]:g}-{EDGES[k + 1]:g}", *cells])
    header = ["stars / galaxies with the right type, %", *(KINDS[name] for name in samples)]
    return markdown_table(header, rows)


def probabilities(samples: dict[str, Sample]) -> str:
    """The reliability curve."""
    rows = []
    for kind, one in samples.items():
        i, j = match(one.truth, one.found)
        star = column(one.truth, "is_star")[i]
        lines, off, brier = reliability(column(one.found, "p_star")[j], star)
        for v in lines:
            rows.append([f"{KINDS[kind]}, {v['low']:g}-{min(v['high'], 1):g}", str(v["n"]),
                         f"{100 * v['p']:.1f} %",
                         f"{100 * v['share']:.1f} ± {100 * v['error']:.1f} %"])  # fmt: skip
        rows.append([f"{KINDS[kind]}, all", str(len(i)), f"mean gap {100 * off:.1f} %",
                     f"Brier score {brier:.4f}"])  # fmt: skip
    return markdown_table(["probability of a star", "sources", "told", "true"], rows)


def errors(samples: dict[str, Sample]) -> str:
    """Coverage of fluxes and colours."""
    header = ["within 1 / 2 errors, % (68.3 / 95.4); median pull"]
    lines = [coverages(one) for one in samples.values()]
    rows = [[some[0][0], *(text for _, text in some)] for some in zip(*lines, strict=True)]
    return markdown_table([*header, *(KINDS[name] for name in samples)], rows)


def coverages(one: Sample) -> list[tuple[str, str]]:
    """Quantities, and how many lie within one and two errors."""
    i, j = match(one.truth, one.found)
    truth, found = chosen(one.truth, i), chosen(one.found, j)
    out = []
    for name in (*(f"flux {band}" for band in BANDS), *COLOURS, "x", "y", "re", "q", "dev"):
        if "-" in name:
            off = colour(found, name) - colour(truth, name)
            error = column(found, f"colour_{name.replace('-', '_')}_err")
        else:
            key = name.replace(" ", "_")
            off = column(found, key) - column(truth, key)
            error = column(found, f"{key}_err")
        parts = []
        for width in (1.0, 2.0):
            share, spread, n = coverage(off, error, width)
            told = f" ± {100 * spread:.1f}" if width == 1 else ""
            parts.append(f"{100 * share:.1f}{told}")
        with np.errstate(all="ignore"):
            middle = np.nanmedian(off / error) if n else math.nan
        out.append((name, f"{' / '.join(parts)}; {middle:+.2f}" if n else "–"))
    return out


def refereed(one: Sample, number: int, seed: int = 5) -> str:
    """Ours and HMC on the same sources of the first field."""
    field = one.fields[0]
    assert field is not None
    i, j = match(one.truth, one.found)
    re = np.nan_to_num(column(one.truth, "re")[i], nan=0.0)
    ny, nx = next(iter(field.light.values())).shape
    x, y = column(one.truth, "x")[i], column(one.truth, "y")[i]
    inner = (re <= LARGEST) & (np.minimum.reduce([x, y, nx - 1 - x, ny - 1 - y]) > 10)
    pick = np.random.default_rng(seed).permutation(np.flatnonzero(inner))[:number]
    pick = pick[np.argsort(i[pick])]
    began = time.perf_counter()
    hmc = referee(field, i[pick], *populations(), STAR_SHARE)
    seconds = time.perf_counter() - began
    truth, found = chosen(one.truth, i[pick]), chosen(one.found, j[pick])
    both = [error_rows(truth, found), error_rows(truth, chosen(hmc, np.arange(len(hmc))))]
    rng, rows = np.random.default_rng(0), []
    for name, decimals in ROWS.items():
        good = np.isfinite(both[0][name]) & np.isfinite(both[1][name])
        mine, theirs = (values[name][good] for values in both)
        n = len(mine)
        if n < 2:
            continue
        draws = rng.integers(0, n, (2000, n))
        with np.errstate(all="ignore"):
            ratios = mine[draws].mean(1) / theirs[draws].mean(1)
            ratio = mine.mean() / theirs.mean() if theirs.mean() > 0 else math.nan
        low, high = np.nanpercentile(ratios[np.isfinite(ratios)], [16, 84]) if ratios[
            np.isfinite(ratios)].size else (math.nan, math.nan)  # fmt: skip
        text = f"{ratio:.2f} ({low:.2f} to {high:.2f})" if math.isfinite(ratio) else "–"
        rows.append([name, str(n), f"{mine.mean():.{decimals}f}", f"{theirs.mean():.{decimals}f}",
                     text])  # fmt: skip
    star = truth["is_star"] > 0.5
    for label, table in (("ours", found), ("HMC", hmc)):
        p = np.clip(column(table, "p_star"), 1e-9, 1 - 1e-9)
        gain = -np.mean(np.where(star, np.log(p), np.log1p(-p)))
        print(f"ln loss of p_star, {label}: {gain:.3f}")
    worst = np.percentile(np.asarray(hmc["rhat"]), [50, 90, 100])
    print(f"referee: {seconds / 60:.0f} min, R-hat {worst.round(2).tolist()}")
    header = ["mean absolute error", "sources", "ours", "HMC", "ratio (68 %)"]
    text = markdown_table(header, rows)
    gap = np.abs(column(found, "p_star") - column(hmc, "p_star"))
    return (
        f"{text}\n\nThe probabilities of a star differ by {np.median(gap):.3f} (median) and "
        f"{np.percentile(gap, 90):.3f} (90 %). R-hat of the chains: median "
        f"{np.median(hmc['rhat']):.2f}, 90 % below {np.percentile(hmc['rhat'], 90):.2f}."
    )


def stripe82() -> str:
    """Scatter between epochs of Stripe 82."""
    header = ["object", "quantity", "epochs", "scatter, Photo", "scatter, ours", "ours over error"]
    rows = compare(DATA)
    ratios: dict[str, list[float]] = {}
    for _, name, _, photo, mine, _ in rows:
        ratios.setdefault(name, []).append(float(mine) / float(photo))
    better = sum(value < 1 for values in ratios.values() for value in values)
    over = [float(row[5]) for row in rows]
    return (
        f"{markdown_table(header, rows)}\n\nSmaller than Photo's in {better} of {len(rows)} rows; "
        f"the median scatter is {np.median(over):.2f} errors, 68 % of the rows lie between "
        f"{np.percentile(over, 16):.2f} and {np.percentile(over, 84):.2f} (of twelve epochs one "
        "scatter is good to a quarter)."
    )


def stripe82_joint(together: int = 3) -> str:
    """Scatter between groups of epochs of Stripe 82, each group in one likelihood."""
    header = ["object", "quantity", "groups", "scatter", "scatter over error"]
    rows = joint(DATA, together)
    over = np.array([float(row[-1]) for row in rows])
    return (
        f"{markdown_table(header, rows)}\n\nGroups of {together} epochs. Median scatter "
        f"{np.median(over):.2f} errors, rms {np.sqrt(np.mean(over**2)):.2f}."
    )


def poisson(samples: dict[str, Sample], fields: int) -> str:
    """The frames of GalSim by both likelihoods."""
    both = {"gaussian": samples.get("galsim") or sample("galsim", fields, (512, 512))}
    both["poisson"] = sample("galsim", fields, (512, 512), likelihood="poisson")
    cells: list[list[list[str]]] = []
    for one in both.values():
        i, j = match(one.truth, one.found)
        _, off, brier = reliability(column(one.found, "p_star")[j], column(one.truth, "is_star")[i])
        rows = [[name, _text(entry, ROWS[name])]
                for name, entry in means(celeste_errors(one.truth, one.found)).items()]  # fmt: skip
        rows += [["Brier score, mean gap of p_star", f"{brier:.4f}, {100 * off:.1f} %"]]
        rows += [[f"{name}: within 1 / 2 errors; pull", text] for name, text in coverages(one)]
        cells.append(rows)
    table = [[*mine, theirs[1]] for mine, theirs in zip(*cells, strict=True)]
    return markdown_table(["", *both], table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, catalogue, score, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    every = (*KINDS, "poisson", "stripe82", "joint")
    parser.add_argument("--sets", nargs="+", choices=every, default=every)
    parser.add_argument("--shape", nargs=2, type=int, default=(1489, 2048), metavar=("NY", "NX"))
    parser.add_argument("-n", type=int, default=1, help="fields of each set")
    parser.add_argument("--galsim", type=int, default=4, help="small fields drawn by GalSim")
    parser.add_argument("--referee", type=int, default=100, help="sources sampled by HMC")
    parser.add_argument("--inference", default="laplace", choices=("laplace", "vi"))
    parser.add_argument("--docs", action="store_true", help=f"write into docs/{DOCUMENT}")
    given = parser.parse_args(arguments)
    print(machine())
    shape, samples = (given.shape[0], given.shape[1]), {}
    for kind in KINDS:
        if kind not in given.sets:
            continue
        small = kind == "galsim" and shape[0] > 512
        fields = given.galsim if small else given.n
        samples[kind] = sample(kind, fields, (512, 512) if small else shape,
                               inference=given.inference)  # fmt: skip
    sections: dict[str, Callable[[], str]] = {}
    if samples:
        makers = (scores, detections, types, probabilities, errors)
        names = ("scores", "detection", "types", "probabilities", "errors")
        sections = {n: partial(make, samples) for n, make in zip(names, makers, strict=True)}
    if "poisson" in given.sets:
        sections["poisson"] = partial(poisson, samples, given.galsim)
    for name, make in (("stripe82", stripe82), ("joint", stripe82_joint)):
        if name in given.sets and (DATA / "celeste_stripe82").is_dir():
            sections[name] = make
    if "celeste" in samples and given.referee:
        sections["referee"] = partial(refereed, samples["celeste"], given.referee)
    for name, make in sections.items():
        text = make()
        print(f"\n{name}\n{text}", flush=True)
        if given.docs:
            write_section(DOCUMENT, name, text)


if __name__ == "__main__":
    main()
