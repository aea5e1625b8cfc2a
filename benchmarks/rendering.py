"""Our renderer against GalSim: python benchmarks/rendering.py [--quick]

Every combination of Sérsic index, size, axis ratio, stamp shape, PSF and sub-pixel centre, at the
accuracy settings that the refiner uses by default (float32, the compact or the wide layout as it
would choose). GalSim convolves with the same PSF image, read as a band-limited function, with
kvalue_accuracy 1e-6, maxk_threshold 1e-6 and folding_threshold 5e-4.

Bars: within 5e-5 of the peak, and the stamp's flux within 1e-3.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import torch
from documents import write_section

from autofit_ml.fitting import RefineSettings
from autofit_ml.fitting.passes import needs_wide
from autofit_ml.profiles import sersic_table
from autofit_ml.rendering import make_plan, psf_modes, render
from autofit_ml.scenes import to_fit_space
from autofit_ml.simulation import Source, moffat_psf, render_source

INDICES = (0.5, 1.0, 2.0, 4.0, 6.0)
RATIOS = (0.1, 0.3, 0.6, 1.0)
SHAPES = ((64, 64), (51, 51), (40, 73))
CENTRES = ((0.0, 0.0), (0.31, -0.43))


def psfs():
    """The PSFs compared with: seeing-limited, and optical at three PSF pixels per pixel."""
    return {
        "Moffat, FWHM 3 px, 25 x 25": moffat_psf(3.0, beta=3.0, size=25),
        "Moffat, FWHM 4.5 px, elliptical, 31 x 31": moffat_psf(
            4.5, beta=2.8, ellipticity=(0.05, -0.03), size=31
        ),
        "optical, FWHM 1.4 px, 3 x oversampled, no pixel": moffat_psf(
            1.4, beta=3.5, size=61, oversampling=3, has_pixel=False
        ),
    }


def draw(source: Source, psf, shape: tuple[int, int], dtype=torch.float32) -> np.ndarray:
    """Our image of a source, laid out as the refiner would."""
    settings = RefineSettings()
    theta = to_fit_space(
        torch.tensor(
            [[source.x, source.y, source.flux, source.re, source.n, source.q, source.pa, 0.0]],
            dtype=torch.float64,
        )
    )
    size = torch.tensor([source.re, source.q])
    wide = bool(needs_wide(size[0], size[1], shape, settings))
    plan = make_plan(
        shape,
        psf.data.shape,
        psf.oversampling,
        settings.wide if wide else settings.compact,
        dtype=dtype,
    )
    modes = psf_modes(
        plan, torch.as_tensor(psf.data, dtype=torch.float64)[None], torch.tensor([psf.has_pixel])
    )
    with torch.no_grad():
        return render(plan, sersic_table(), modes, theta[:, :7])[0].double().numpy()


def errors(source: Source, psf, shape: tuple[int, int]) -> tuple[float, float]:
    """(largest difference over the peak, relative difference of the stamp's flux)."""
    ours, theirs = draw(source, psf, shape), render_source(source, psf, shape)
    return (
        float(np.abs(ours - theirs).max() / theirs.max()),
        float(abs(ours.sum() - theirs.sum()) / theirs.sum()),
    )


def cases(quick: bool):
    """(shape, source) for all combinations."""
    for shape in SHAPES[:1] if quick else SHAPES:
        third = min(shape) / 3
        sizes = (1.0, 8.0, third) if quick else (1.0, 2.0, 4.0, 8.0, 0.6 * third, third)
        ratios = RATIOS[::3] if quick else RATIOS
        for n, re, q, (dx, dy) in itertools.product(INDICES, sizes, ratios, CENTRES):
            x, y = (shape[1] - 1) / 2 + dx, (shape[0] - 1) / 2 + dy
            yield shape, Source(x, y, 1000.0, re, n, q, 33.0)


def main() -> None:
    """Run all comparisons and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a coarse grid")
    arguments = parser.parse_args()
    began, missed = time.time(), False
    lines = ["| PSF | stamps | images | worst error / peak | at | worst flux error | at |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, psf in psfs().items():
        for shape in SHAPES[:1] if arguments.quick else SHAPES:
            rows = [
                (*errors(source, psf, s), source)
                for s, source in cases(arguments.quick)
                if s == shape
            ]
            peak = max(rows, key=lambda r: r[0])
            flux = max(rows, key=lambda r: r[1])
            lines.append(
                f"| {name} | {shape[0]} x {shape[1]} | {len(rows)} | {peak[0]:.1e} "
                f"| {_at(peak[2])} | {flux[1]:.1e} | {_at(flux[2])} |"
            )
            print(lines[-1], flush=True)
            missed = missed or peak[0] > 5e-5 or flux[1] > 1e-3
    text = "\n".join(lines) + "\n"
    print(f"{time.time() - began:.0f} s")
    if not arguments.quick:
        write_section("accuracy.md", "rendering", text)
    raise SystemExit(int(missed))


def _at(source: Source) -> str:
    return f"n {source.n:g}, re {source.re:.1f}, q {source.q:g}"


if __name__ == "__main__":
    main()
