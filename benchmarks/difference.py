"""Image subtraction: known answers, pulls of fluxes, false detections, DECam beside SFFT.

    python benchmarks/difference.py [SECTION ...] [-n NUMBER] [--docs]

Sections: pairs, scales, exposures, decam, hotpants, ztf, solvers, peers. Simulated pairs of star
fields (512 x 512 pixels, Gaussian seeing, sky and photon noise) at three depths and seeing ratios;
with AUTOFIT_ML_TEST_DATA the DECam stacks of SFFT's examples, each half with the kernel of the
other one; `peers`: time and memory beside SFFT and properimage, each in a process and an
environment of its own.
"""

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from documents import DATA, Section, run_sections
from peers.install import SUBTRACTERS, install
from photutils.detection import find_peaks
from scipy.optimize import least_squares
from scipy.signal import fftconvolve

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "difference"))

from sky_pairs import frame, gaussian, pair

from autofit_ml.difference import detect_changes, fluxes, subtract_images, whitened
from autofit_ml.difference.kernel import Design, Spectrum, rows
from autofit_ml.difference.photometry import point_image, psf_at
from autofit_ml.difference.solution import wants_gradients
from autofit_ml.images.psf_error import with_errors
from autofit_ml.images.stamp import Frame
from autofit_ml.images.star_psf import psf_from_stars
from autofit_ml.settings import SubtractSettings

SIZE = 512
CASES = {
    "equal depth, 3.6 / 3.0": {"seeing": (3.6, 3.0), "sky": (100.0, 100.0)},
    "deep reference, 4.2 / 3.0": {"seeing": (4.2, 3.0), "sky": (100.0, 25.0)},
    "shallow reference, 3.3 / 3.0": {"seeing": (3.3, 3.0), "sky": (100.0, 300.0)},
}


LARGEST = {"autofit": 4096, "sfft": 2048, "properimage": 512}
"""Sides of the largest pairs that each subtracts here: more takes minutes, or too much memory."""


def double(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def simulated(case: dict, number: int) -> dict[str, float]:
    """Figures of some pairs of one kind."""
    pulls: dict[str, list] = {"new": [], "empty": [], "stars": [], "bright": []}
    scales, chi2, lags, seconds = [], [], [], []
    false = expected = 0
    for seed in range(number):
        one = pair(seed, SIZE, new=30, stars_=200, **case)
        psf = gaussian(case["seeing"][0] * (1 + 0.01 * (-1) ** seed))
        began = time.process_time()
        result = subtract_images(one.science, one.reference)
        seconds.append(time.process_time() - began)
        scales.append(result.scale)
        rng = np.random.default_rng(1000 + seed)
        empty = rng.uniform(30, SIZE - 30, (80, 2))
        inside = ((one.stars > 30) & (one.stars < SIZE - 30)).all(1)
        for kind, places, truth in (
            ("new", one.new[:, :2], one.new[:, 2]), ("empty", empty, 0),
            ("stars", one.stars[inside], 0), ("bright", one.stars[inside & (one.fluxes > 3e4)], 0),
        ):  # fmt: skip
            gaps = np.linalg.norm(places[:, None] - one.new[None, :, :2], axis=2)
            if kind == "new":  # apart from each other, and from itself
                np.fill_diagonal(gaps, np.inf)
            keep = gaps.min(1) > 15
            flux, error = fluxes(result, *double(places[keep]).T, double(psf))
            true = truth[keep] if kind == "new" else truth
            if kind == "bright":  # per cent of the stars' own light
                error = double(0.008 * one.fluxes[inside & (one.fluxes > 3e4)][keep])
            pulls[kind].append((flux.numpy() - true) / error.numpy())
        white = whitened(result, double(psf))
        far = quiet(one, result)
        chi2.append(float((result.difference**2 / result.variance)[far].mean()))
        both, plane = far[:, 1:] & far[:, :-1], white.difference
        lags.append(float((plane[:, 1:] * plane[:, :-1])[both].mean() / (plane**2)[far].mean()))
        found = detect_changes(result, white, psf, 4.0)
        gaps = np.hypot(
            np.asarray(found["x"])[:, None] - one.new[:, 0],
            np.asarray(found["y"])[:, None] - one.new[:, 1],
        )
        false += int((gaps.min(1) > 2).sum())
        back = white.psf.numpy()[::-1, ::-1]
        noise = fftconvolve(rng.normal(size=(SIZE, SIZE)), back, "same") / np.sqrt((back**2).sum())
        peaks = find_peaks(np.abs(noise), 4.0, box_size=5)
        expected += 0 if peaks is None else len(peaks)
    out = {"scale": np.mean([s for s, _ in scales]) / 0.8, "chi2": np.mean(chi2)}
    out |= {"lag": np.mean(lags), "false": false / expected, "seconds": np.median(seconds)}
    for kind, values in pulls.items():
        every = np.concatenate(values)
        every = every[np.isfinite(every)]
        out |= {f"{kind}_n": len(every), f"{kind}_mean": every.mean(), f"{kind}_sd": every.std()}
    return out


def quiet(one, result) -> torch.Tensor:
    """Pixels far from every source."""
    y, x = np.mgrid[:SIZE, :SIZE]
    near = np.zeros(x.shape, bool)
    for px, py in np.concatenate([one.stars, one.new[:, :2]]):
        near |= np.hypot(x - px, y - py) < 12
    edge = np.minimum(np.minimum(x, y), np.minimum(x[:, ::-1], y[::-1])) < 30
    return torch.as_tensor(~near & ~edge) & result.good


def decam_frame(name: str) -> Frame:
    image, sigma = (
        fits.getdata(DATA / "sfft_decam" / f"{name}_i_{plane}.fits.gz").astype(float)
        for plane in ("image", "sigma")
    )
    return frame(name, image, sigma**2)


def decam(_: int) -> Iterator[Sequence[str]]:
    """DECam stacks: what is left of bright pixels with the kernel of the other half."""
    if not (DATA / "sfft_decam").is_dir():
        return
    python = install("sfft")
    frames = decam_frame("ep20180804stack"), decam_frame("ep20160818stack")
    middle = frames[0].data.shape[1] // 2
    science, reference = (
        [
            one.replace(data=one.data[half], sigma=one.sigma[half], mask=one.mask[half])
            for half in (np.s_[:, :middle], np.s_[:, middle:])
        ]
        for one in frames
    )
    for size in (9, 13, 17):
        settings = SubtractSettings(kernel_size=size, convolve="reference")
        own = [subtract_images(*pair_, settings) for pair_ in zip(science, reference, strict=True)]
        planes = {
            name: np.stack([one.data for one in several])
            for name, several in (("science", science), ("reference", reference))
        }
        with tempfile.TemporaryDirectory() as room:
            by_peer("sfft", python, planes | {"half": np.array(size // 2)}, Path(room))
            theirs = np.load(Path(room, "answer.npy"))
        left: dict[str, list[np.ndarray]] = {"held out": [], "fitted": [], "SFFT": []}
        for k, result in enumerate(own):
            light = result.light.numpy()
            bright = result.good.numpy() & (light > np.percentile(light, 97))
            for name, kernel in (("held out", own[1 - k].kernel), ("fitted", result.kernel)):
                seen = kernel.light(Spectrum(double(reference[k].data), (size, size))).numpy()
                sky = float(kernel.background[0])
                left[name].append((science[k].data - seen - sky)[bright])
            left["SFFT"].append(theirs[k][bright])
        every = [np.concatenate(left[name]) for name in ("held out", "SFFT", "fitted")]
        yield [
            str(size), str(len(every[0])),
            *(f"{1.4826 * np.median(np.abs(one)):.1f}" for one in every),
        ]  # fmt: skip


def by_peer(name: str, python: str | Path, planes: dict[str, np.ndarray], room: Path) -> dict:
    """The answer of a script of the peers about a pair, in a process of its own."""
    np.savez(room / "pair.npz", **planes)
    script = Path(__file__).parent / "peers" / f"subtract_{name}.py"
    words = [str(python), str(script), str(room / "pair.npz"), str(room / "answer.json")]
    threads = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    subprocess.run(words, check=True, env=threads, capture_output=True)
    return json.loads((room / "answer.json").read_text())


def pairs(number: int) -> Iterator[Sequence[str]]:
    """Figures of simulated pairs."""
    for name, case in CASES.items():
        r = simulated(case, number)
        yield [
            name, f"{r['scale']:.4f}", f"{r['chi2']:.3f}", f"{r['lag']:+.3f}", f"{r['false']:.2f}",
            f"{r['seconds']:.1f}",
            *(
                f"{r[f'{k}_mean']:+.2f} / {r[f'{k}_sd']:.2f} ({r[f'{k}_n']})"
                for k in ("new", "empty", "stars")
            ),
            f"{r['bright_mean']:+.2f} %",
        ]  # fmt: skip


def hotpants(_: int) -> Iterator[Sequence[str]]:
    """Coefficients of hotpants' own basis functions beside its own, on the stamps it used."""
    folder = DATA / "dia_hotpants"
    if not folder.is_dir():
        return
    science, template, basis = (
        double(fits.getdata(folder / f"hotpants_{name}.fits.gz").astype(float))
        for name in ("science_image", "template_image", "basis_19x19x10")
    )
    with (folder / "hotpants_coefficients.csv").open() as stream:
        table = list(csv.DictReader(stream))
    for test, stamps in {
        "testSingleNoVariation": [(160, 160)],
        "testFourNoVariation": [(96, 95), (160, 96), (96, 160), (160, 160)],
    }.items():
        reach = range(-15, 16)
        pixels = torch.tensor([(y + j, x + i) for x, y in stamps for j in reach for i in reach])
        design = torch.cat([block for _, block in rows(template, pixels, Design(19))])
        design = torch.cat([design[:, :361] @ basis.flatten(1).T, design[:, 361:]], 1)
        data = science[pixels[:, 0], pixels[:, 1]][:, None]
        ours = torch.linalg.lstsq(design, data).solution[:, 0].numpy()
        theirs = np.array([float(row["value"]) for row in table if row["test"] == test])
        yield [test, str(len(theirs)), f"{np.abs(ours - theirs).max():.1e}"]


def ztf(_: int) -> Iterator[Sequence[str]]:
    """An alert's flux on its own difference and on ours: a Moffat fitted, and the sum of 7 pixels.

    The flux scale decides: the stamp has one source besides the variable, which is twenty times as
    bright as the change. Fluxes are in units of the science image.
    """
    folder = DATA / "ztf_alerts"
    if not folder.is_dir():
        return
    with (folder / "alerts.csv").open() as stream:
        alert = next(csv.DictReader(stream))
    science, template, theirs = (
        np.nan_to_num(
            fits.getdata(folder / f"{alert['objectId']}_{name}_image.fits.gz").astype(float)
        )
        for name in ("science", "template", "difference")
    )
    made = []
    for name, data in (("science", science), ("template", template)):
        sky, noise = np.median(data), 1.4826 * np.median(np.abs(data - np.median(data)))
        gain = 6.2  # electrons a count, of ZTF's detectors
        made.append(frame(name, data, noise**2 + np.clip(data - sky, 0, None) / gain))
    y, x = np.indices(science.shape)
    variable, other = np.hypot(x - 31, y - 31), np.hypot(x - 48, y - 43) < 7
    light = template - np.median(template)
    share = theirs[other].sum() / light[other].sum()
    several = {
        "ZTF": (theirs, 1.0),
        "ZTF, less the other source": (theirs - share * light, 1 + share),
    }
    for name, leave_out, scale in (
        ("ours", False, None), ("ours, the variable left out", True, None),
        ("ours, ZTF's scale", False, 1.0),
    ):  # fmt: skip
        settings = SubtractSettings(kernel_size=7, known_scale=scale, convolve="science")
        left_out = (variable < 8) & leave_out
        result = subtract_images(*made, settings, leave_out=left_out)
        several[name] = result.difference.numpy() * result.scale[0], result.scale[0]
    zeropoint, given = float(alert["magzpsci"]), float(alert["magpsf"])
    for name, (data, scale) in several.items():
        fluxes_ = _moffat_flux(data), data[variable < 7].sum()
        mags = [zeropoint - 2.5 * np.log10(flux) - given for flux in fluxes_]
        yield [
            name, f"{scale:.3f}", f"{100 * data[other].sum() / light[other].sum():+.1f} %",
            *(f"{mag:+.3f}" for mag in mags),
        ]  # fmt: skip


def _moffat_flux(data: np.ndarray) -> float:
    y, x = np.indices(data.shape)
    cut = np.s_[31 - 8 : 31 + 9, 31 - 8 : 31 + 9]

    def model(p: np.ndarray) -> np.ndarray:
        flux, x0, y0, alpha, beta, sky = p
        r2 = (x[cut] - x0) ** 2 + (y[cut] - y0) ** 2
        return flux * (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta + sky

    start = [data[cut].clip(0).sum(), 31, 31, 2.0, 3.0, 0.0]
    low, high = [0, 28, 28, 0.5, 1.5, -50], [np.inf, 34, 34, 6.0, 8.0, 50]
    return float(
        least_squares(lambda p: (model(p) - data[cut]).ravel(), start, bounds=(low, high)).x[0]
    )


def solvers(number: int) -> Iterator[Sequence[str]]:
    """CPU time of both solvers in turn, the one that is taken, and how far apart they are."""
    for size, options in (
        (256, {"kernel_size": 13}),
        (256, {"kernel_size": 25}),
        (256, {"kernel_size": 13, "variation": 1}),
        (512, {"kernel_size": 13}),
    )[: 1 if number < 2 else None]:
        one = pair(1, size, new=0, stars_=200 * size**2 // 512**2)
        found, seconds = {}, dict.fromkeys(("dense", "conjugate"), math.nan)
        for solver in seconds:
            began = time.process_time()
            found[solver] = subtract_images(
                one.science, one.reference, SubtractSettings(solver=solver, **options)
            )
            seconds[solver] = time.process_time() - began
        a, b = found.values()
        design = Design(options["kernel_size"], variation=options.get("variation", 0))
        fitted = int((a.kernel.fitted > 0).sum())
        taken = ("dense", "conjugate")[wants_gradients(fitted, (size, size), design)]
        apart = ((a.difference - b.difference) / a.variance.sqrt())[a.good & b.good]
        text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
        yield [
            f"{size}², {text}", *(f"{seconds[s]:.2f}" for s in seconds), taken,
            f"{float(apart.square().mean().sqrt()):.3f}",
        ]  # fmt: skip


def exposures(number: int) -> Iterator[Sequence[str]]:
    """DECam: single exposures less the stack of the other epoch, with sources put in.

    PSFs from the stars, those of the sources 1 % wider or narrower. Places where
    something else is (a variable, a cosmic ray: over 5 sigma before anything was put in) are left
    out.
    """
    if not (DATA / "sfft_decam").is_dir():
        return
    pulls: dict[str, list] = {"injected": [], "empty": []}
    pairs_ = [("20180804", "20160818"), ("20160818", "20180804")]
    for epoch, other in pairs_[:number]:
        reference = decam_frame(f"ep{other}stack")
        for letter in "abcde":
            science, rng = decam_frame(f"ep{epoch}{letter}"), np.random.default_rng(ord(letter))
            psf, _ = psf_from_stars(science)
            modes = with_errors(psf, 0.01, 0.0).modes
            seen = double(psf.data + rng.choice([-1, 1]) * modes[0])
            cells = np.stack(np.meshgrid(*[np.arange(8)] * 2), -1).reshape(-1, 2)
            places = 34 + 26 * cells + rng.uniform(-4, 4, cells.shape)
            put_in = cells.sum(1) % 2 == 0
            truth = np.where(put_in, rng.uniform(1000, 6000, len(cells)), 0.0)
            data, corner = science.data.astype(float), np.rint(places).astype(int)
            images = psf_at(seen, *double(places - corner).T).numpy()
            half = images.shape[1] // 2
            for (x, y), image, flux in zip(corner, images, truth, strict=True):
                data[y - half : y + half + 1, x - half : x + half + 1] += flux * image
            made = science.replace(data=data.astype(np.float32))
            shape, got = double(point_image(psf)), []
            for one in (science, made):
                found = subtract_images(one, reference)
                excess = whitened(found, shape).excess
                got.append(fluxes(found, *double(places).T, shape, excess=excess))
            (before, spread), (flux, error) = got
            off, clear = (
                ((flux - double(truth)) / error).numpy(),
                (before.abs() < 5 * spread).numpy(),
            )
            for kind, some in (("injected", put_in), ("empty", ~put_in)):
                pulls[kind].append(off[some & clear & np.isfinite(off)])
    for kind, several in pulls.items():
        every = np.concatenate(several)
        yield [kind, str(len(every)), f"{every.mean():+.2f}", f"{every.std():.2f}"]


def scales(number: int) -> Iterator[Sequence[str]]:
    """Errors of the kernel's sum beside its scatter over noise."""
    for name, case in CASES.items():
        found = []
        for seed in range(number):
            one = pair(7, 256, new=0, stars_=50, noise=seed, **case)
            found.append(subtract_images(one.science, one.reference).scale)
        value, error = np.array(found).T
        yield [
            name, f"{value.mean() / 0.8:.4f}", f"{value.std(ddof=1):.5f}", f"{error.mean():.5f}",
            f"{error.mean() / value.std(ddof=1):.2f}",
        ]  # fmt: skip


def peers(number: int) -> Iterator[Sequence[str]]:
    """CPU time and largest memory of a process that subtracts a pair, ours and the peers'."""
    pythons = {"autofit": sys.executable} | {name: str(install(name)) for name in SUBTRACTERS}
    for size in (512, 1024, 2048, 4096)[: 1 if number < 2 else None]:
        one = pair(1, size, new=0, stars_=200 * size**2 // 512**2)
        planes = {
            "science": one.science.data, "sigma": one.science.sigma,
            "reference": one.reference.data, "reference_sigma": one.reference.sigma,
        }  # fmt: skip
        found: dict[str, dict] = {}
        for name, python in pythons.items():
            if size <= LARGEST[name]:
                with tempfile.TemporaryDirectory() as room:
                    found[name] = by_peer(name, python, planes, Path(room))
        cells = [
            f"{one['seconds']:.1f} s, {one['memory'] / 1024:.2f} GB" if one else "-"
            for one in (found.get(name) for name in pythons)
        ]
        ours, sfft = found["autofit"], found.get("sfft")
        ratio = [f"{ours[k] / sfft[k]:.2f}" if sfft else "-" for k in ("seconds", "memory")]
        yield [f"{size}²", *cells, *ratio]


DOCUMENT = "difference.md"
SECTIONS = {
    "pairs": Section(
        pairs,
        ("pair", "scale", "sky chi2", "lag 1", "false / white noise", "CPU s", "new", "empty",
         "stars", "bright"),
        12,
        DOCUMENT,
    ),
    "decam": Section(
        decam, ("kernel", "pixels", "ours", "SFFT", "ours, fitted to them"), 1, DOCUMENT
    ),
    "exposures": Section(exposures, ("places", "number", "mean", "scatter"), 2, DOCUMENT),
    "scales": Section(scales, ("pair", "scale", "scatter", "error", "ratio"), 50, DOCUMENT),
    "hotpants": Section(hotpants, ("test", "coefficients", "largest difference"), 1, DOCUMENT),
    "ztf": Section(
        ztf,
        ("difference", "scale", "left of the other source", "Moffat", "7 pixels"),
        1,
        DOCUMENT,
    ),
    "peers": Section(
        peers,
        ("pixels", "ours", "SFFT", "properimage", "time / SFFT's", "memory / SFFT's"),
        2,
        DOCUMENT,
    ),
    "solvers": Section(
        solvers, ("pair", "dense, CPU s", "conjugate, CPU s", "auto", "apart, sigma"), 2, DOCUMENT
    ),
}  # fmt: skip


if __name__ == "__main__":
    run_sections(__doc__, SECTIONS)
