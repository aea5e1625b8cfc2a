"""Time of an image, and of an image with its derivatives, for every profile (docs/profiles.md).

python benchmarks/profiles.py
"""

import time

import numpy as np
import torch

from autofit_ml.fitting import RefineSettings
from autofit_ml.profiles import get_profile, profile_names
from autofit_ml.rendering import component_jacobian, make_plan, psf_modes, render_component

MODIFIED = (
    "sersic[boxiness]",
    "sersic[f4]",
    "sersic[twist]",
    "sersic[boxiness,twist]",
    "sersic[f1,f3]",
    "ferrer[boxiness]",
)
GEOMETRY = {"x": 31.3, "y": 32.4, "ln_flux": 5.0, "ln_rc": 1.6, "eta1": 0.3, "eta2": -0.4}


def milliseconds(draw, *arguments, repeats=8):
    """Processor time of one object: the least of several runs."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        draw(*arguments)
        times.append(time.thread_time() - start)
    return 1e3 * min(times) / len(arguments[-1])


@torch.no_grad()
def main(batch=16):
    torch.set_num_threads(1)
    y, x = np.mgrid[:25, :25] - 12
    image = np.exp(-0.5 * (x**2 + y**2) / 1.3**2)
    plan = make_plan((64, 64), image.shape, 1, RefineSettings().compact)
    psf = psf_modes(plan, torch.as_tensor(image / image.sum())[None], torch.tensor([True]))
    psf = psf.expand(batch, -1).clone()
    print("| profile | image | image and derivatives |\n|---|---:|---:|")
    for name in (*profile_names(), *MODIFIED):
        profile = get_profile(name)
        shapes = {s.fit_name: np.log(s.default) if s.log else s.default for s in profile.shapes}
        row = [(GEOMETRY | shapes)[p] for p in profile.fit_parameters]
        theta = torch.tensor([row] * batch, dtype=torch.float64)
        both = (
            milliseconds(f, plan, profile, psf, theta)
            for f in (render_component, component_jacobian)
        )
        print(f"| {name} | " + " | ".join(f"{ms:.2f}" for ms in both) + " |")


if __name__ == "__main__":
    main()
