"""What the scripts that subtract images share.

    python subtract_NAME.py pair.npz answer.json

pair.npz: science, reference, sigma, reference_sigma (ny, nx, float32). answer.json: version;
seconds: processor time of the last subtraction (the first may compile and load); memory: largest
resident memory in MB, of the whole process. The difference lies beside it, as answer.npy, where
there are two pairs (2, ny, nx).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from exchange import memory

HALF = 6
"""Of the kernels that are free in every pixel."""


def run(version: str, subtract: Callable[..., object], times: int = 2) -> None:
    """The command line of a peer: `subtract` has the planes of the pair as keywords."""
    with np.load(sys.argv[1]) as pair:
        planes = {name: pair[name] for name in pair.files}
    seconds, difference = 0.0, None
    for _ in range(times):
        began = time.process_time()
        difference = subtract(**planes)
        seconds = time.process_time() - began
    answer = {"version": version, "seconds": seconds, "memory": memory("VmHWM")}
    if planes["science"].ndim == 3:
        np.save(Path(sys.argv[2]).with_suffix(".npy"), difference)
    Path(sys.argv[2]).write_text(json.dumps(answer))
