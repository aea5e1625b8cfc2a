"""What the scripts that subtract images share.

    python subtract_NAME.py pair.npz answer.json

pair.npz: science, reference, sigma, reference_sigma (ny, nx, float32). answer.json: version;
seconds: processor time of the last subtraction (the first may compile and load); memory: largest
resident memory in MB, of the whole process.
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
    seconds = 0.0
    for _ in range(times):
        began = time.process_time()
        subtract(**planes)
        seconds = time.process_time() - began
    answer = {"version": version, "seconds": seconds, "memory": memory("VmHWM")}
    Path(sys.argv[2]).write_text(json.dumps(answer))
