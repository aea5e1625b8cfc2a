"""Image subtraction: known answers, pulls of fluxes, false detections, DECam beside SFFT.

    python benchmarks/difference.py [-n PAIRS] [--docs]

Simulated pairs of star fields (512 x 512 pixels, Gaussian seeing, sky and photon noise) at three
depths and seeing ratios; with AUTOFIT_ML_TEST_DATA the DECam stacks of SFFT's examples, fitted on
half of the image (a chequerboard of 32 pixels) and judged on the other half.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from photutils.detection import find_peaks
from scipy.signal import fftconvolve

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "difference"))

from sky_pairs import frame, gaussian, pair

from autofit_ml.difference import detect_changes, fluxes, subtract_images, whitened
from autofit_ml.difference.kernel import Kernel
from autofit_ml.images.stamp import Frame
from autofit_ml.settings import SubtractSettings

SIZE = 512
CASES = {
    "equal depth, 3.6 / 3.0": {"seeing": (3.6, 3.0), "sky": (100.0, 100.0)},
    "deep reference, 4.2 / 3.0": {"seeing": (4.2, 3.0), "sky": (100.0, 25.0)},
    "shallow reference, 3.3 / 3.0": {"seeing": (3.3, 3.0), "sky": (100.0, 300.0)},
}


def double(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def simulated(case: dict, number: int) -> dict[str, float]:
    """Figures of some pairs of one kind."""
    pulls: dict[str, list] = {"new": [], "empty": [], "stars": []}
    scales, chi2, lags, seconds = [], [], [], []
    false = expected = 0
    for seed in range(number):
        one = pair(seed, SIZE, new=30, stars_=200, **case)
        psf = gaussian(case["seeing"][0])
        began = time.process_time()
        result = subtract_images(one.science, one.reference)
        seconds.append(time.process_time() - began)
        scales.append(result.scale)
        rng = np.random.default_rng(1000 + seed)
        empty = rng.uniform(30, SIZE - 30, (80, 2))
        inner = one.stars[((one.stars > 30) & (one.stars < SIZE - 30)).all(1)]
        for kind, places, truth in (
            ("new", one.new[:, :2], one.new[:, 2]), ("empty", empty, 0), ("stars", inner, 0),
        ):  # fmt: skip
            gaps = np.linalg.norm(places[:, None] - one.new[None, :, :2], axis=2)
            if kind == "new":  # apart from each other, and from itself
                np.fill_diagonal(gaps, np.inf)
            keep = gaps.min(1) > 15
            flux, error = fluxes(result, *double(places[keep]).T, double(psf))
            true = truth[keep] if kind == "new" else truth
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


def decam(data: Path) -> list[str]:
    """DECam stacks: what is left of bright pixels on the half that was not fitted."""
    folder = data / "sfft_decam"

    def read(name: str) -> Frame:
        image, sigma = (
            fits.getdata(folder / f"{name}_i_{plane}.fits.gz").astype(float)
            for plane in ("image", "sigma")
        )
        return frame(name, image, sigma**2)

    science, reference = read("ep20180804stack"), read("ep20160818stack")
    sfft = fits.getdata(folder / "reference_difference.fits.gz", "DIFF").astype(float)
    y, x = np.indices(sfft.shape)
    held_out = (y // 32 + x // 32) % 2 == 0
    lines = []
    for size in (13, 17, 21):
        masked = science.replace(mask=held_out)
        settings = SubtractSettings(kernel_size=size, most_pixels=200_000)
        kernel: Kernel = subtract_images(masked, reference, settings).kernel
        whole = subtract_images(science, reference, settings)
        left = science.data - kernel.model(double(reference.data)).numpy()
        light = whole.light.numpy()
        bright = whole.good.numpy() & (light > np.percentile(light, 97))
        for name, where in (("held out", held_out), ("fitted", ~held_out)):
            some = bright & where
            ours, theirs = (1.4826 * np.median(np.abs(d[some])) for d in (left, sfft))
            lines.append(f"| {size} | {name} | {some.sum()} | {ours:.1f} | {theirs:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10, help="pairs of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| pair | scale | sky chi2 | lag 1 | false / white noise | CPU s | new | empty | stars |")
    print("|---|---:|---:|---:|---:|---:|---|---|---|")
    for name, case in CASES.items():
        r = simulated(case, options.n)
        pulls = " | ".join(
            f"{r[f'{k}_mean']:+.2f} / {r[f'{k}_sd']:.2f} ({r[f'{k}_n']})"
            for k in ("new", "empty", "stars")
        )
        print(
            f"| {name} | {r['scale']:.4f} | {r['chi2']:.3f} | {r['lag']:+.3f} | {r['false']:.2f} "
            f"| {r['seconds']:.1f} | {pulls} |"
        )
    data = os.environ.get("AUTOFIT_ML_TEST_DATA", "../shared/data")
    if (Path(data) / "sfft_decam").is_dir():
        print("\n| kernel | pixels | number | ours | SFFT |\n|---:|---|---:|---:|---:|")
        print("\n".join(decam(Path(data))))


if __name__ == "__main__":
    main()
