"""A small folder of varied galaxies for a first look at ``autofit-ml``."""

from pathlib import Path

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.draw import render_source
from autofit_ml.simulation.files import export_fits
from autofit_ml.simulation.noise import flux_for_snr
from autofit_ml.simulation.objects import SimulatedObject
from autofit_ml.simulation.observe import draw_neighbours, observe_scene
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Source, sersic_indices

__all__ = ["demo_set"]

_KINDS: tuple[tuple[str, dict[str, float]], ...] = (
    ("spheroid", {"n": 4.0, "re": 7.0, "q": 0.8, "snr": 600}),
    ("disc", {"n": 1.0, "re": 8.0, "q": 0.45, "snr": 250}),
    ("edge-on", {"n": 1.0, "re": 9.0, "q": 0.15, "snr": 200}),
    ("dwarf", {"n": 0.7, "re": 5.0, "q": 0.7, "snr": 40}),
    ("lenticular", {"n": 2.5, "re": 6.0, "q": 0.5, "snr": 400}),
    ("faint", {"n": 1.2, "re": 4.0, "q": 0.6, "snr": 15}),
    ("compact", {"n": 3.0, "re": 1.5, "q": 0.7, "snr": 300}),
    ("crowded", {"n": 1.5, "re": 6.0, "q": 0.6, "snr": 300}),
)


def _special(name: str, rng: np.random.Generator) -> tuple[Source, list[Source], tuple[int, int]]:
    """The four objects every demonstration has: a blend, a star, one cut by the border, a giant."""
    centre = 35.5 + rng.uniform(-0.3, 0.3, 2)
    x, y = float(centre[0]), float(centre[1])
    if name == "blend":
        target = Source(x, y, 1.0, re=6.0, n=1.5, q=0.7, pa=30.0)
        return target, [Source(x + 9.0, y - 7.0, 0.6, re=4.0, n=2.0, q=0.8, pa=100.0)], (72, 72)
    if name == "star":
        return Source(x, y, 1.0, re=0.0, n=float("nan")), [], (72, 72)
    if name == "border":
        return Source(x, 10.3, 1.0, re=10.0, n=1.0, q=0.6, pa=70.0), [], (36, 72)
    return Source(60.2, 59.7, 1.0, re=22.0, n=2.2, q=0.65, pa=140.0), [], (120, 120)


def demo_set(folder: str | Path, n: int = 24, seed: int = 1) -> list[SimulatedObject]:
    """Write `n` varied simulated objects into `folder`.

    Spheroids, discs, edge-on, dwarf, compact and faint galaxies; some with neighbours and stars;
    one blend, one star, one galaxy cut by the border, one large galaxy in a larger stamp. All have
    a small sky pedestal, a pixel scale of 0.2 arcsec and seeing of 0.6 to 0.8 arcsec.

    Parameters
    ----------
    folder : path
        See `export_fits`.
    n : int
        At least 1; the four special objects come last and only when there is room for them.
    seed : int

    Returns
    -------
    list of SimulatedObject
    """
    if n < 1:
        raise SettingsError(f"a demonstration of {n} objects", "ask for at least one")
    specials = ("blend", "star", "border", "giant")[: max(0, n - 1)]
    names = [_KINDS[i % len(_KINDS)][0] for i in range(n - len(specials))] + list(specials)
    settings = dict(_KINDS)
    sky_rms, gain, objects = 1.0, 10.0, []
    for index, name in enumerate(names):
        rng = np.random.default_rng([seed, index])
        psf = moffat_psf(
            rng.uniform(3.0, 4.0), beta=3.0, ellipticity=tuple(rng.normal(0, 0.015, 2)), size=31
        )
        if name in settings:
            shape = (64, 64)
            kind = settings[name]
            grid = sersic_indices(0.3, 6.2)
            wanted_index = kind["n"] * rng.uniform(0.85, 1.15)
            target = Source(
                x=float(31.5 + rng.uniform(-0.5, 0.5)),
                y=float(31.5 + rng.uniform(-0.5, 0.5)),
                flux=1.0,
                re=float(kind["re"] * rng.uniform(0.8, 1.2)),
                n=float(grid[np.argmin(abs(grid - wanted_index))]),
                q=float(min(kind["q"] * rng.uniform(0.85, 1.15), 1.0)),
                pa=float(rng.uniform(0, 180)),
            )
            others: list[Source] = []
            wanted = kind["snr"] * rng.uniform(0.7, 1.4)
        else:
            target, others, shape = _special(name, rng)
            wanted = {"blend": 300, "star": 200, "border": 250, "giant": 900}[name]
        unit = render_source(target, psf, shape)
        flux = flux_for_snr(unit, wanted, sky_rms, gain)
        target = target.replace(flux=flux)
        others = [source.replace(flux=source.flux * flux) for source in others]
        if name in settings:
            rate = 3.0 if name == "crowded" else 0.5
            others = list(draw_neighbours(rng, target, shape, rate, flux_ratio=(0.05, 0.6)))
        objects.append(
            observe_scene(
                f"demo{index + 1:02d}-{name}",
                target,
                others,
                psf,
                shape,
                rng=rng,
                sky=float(rng.uniform(2, 6)),
                sky_rms=sky_rms,
                gain=gain,
                ra=150.1 + 0.02 * (index % 6),
                dec=2.2 + 0.02 * (index // 6),
                target_light=flux * unit,
            )
        )
    export_fits(objects, folder)
    return objects
