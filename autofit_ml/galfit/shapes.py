r"""GALFIT's changes of shape: C0 (boxiness) and F (Fourier modes).

GALFIT's radius is (Peng et al. 2010, AJ 139, 2097, eqs. 3 and 24)

.. math:: r = \left(|x'|^{C_0+2} + |y'/q|^{C_0+2}\right)^{1/(C_0+2)}
          \left[1 + \sum_m a_m \cos m(\theta + \phi_m)\right],

with x' along the major axis and :math:`\theta` the angle from it in the frame where the ellipse is
a circle. Here the same modes are pairs, :math:`a_m \cos m(\theta + \phi_m) =
A_m \cos m\theta + B_m \sin m\theta`.
"""

import math
import re
from collections.abc import Mapping, Sequence

from autofit_ml.scenes.model import Parameter

__all__ = ["SHAPE_KEYS", "read_shape", "write_shapes"]

SHAPE_KEYS = re.compile(r"^(?:C0|F\d+)$")


def read_shape(key: str, numbers: Sequence[tuple[float, bool]]) -> dict[str, Parameter]:
    """Parameters of a C0 or F line.

    Parameters
    ----------
    key : str
        "C0", "F3".
    numbers : sequence of (float, bool)
        Value, and whether it is held: the boxiness, or amplitude and phase (degrees).
    """
    if key == "C0":
        value, held = numbers[0]
        return {"boxiness": Parameter(value, fixed=held)}
    mode = int(key[1:])
    (amplitude, amplitude_held), (phase, phase_held) = numbers
    held = amplitude_held and phase_held
    angle = math.radians(mode * phase)
    return {
        f"f{mode}_a": Parameter(round(amplitude * math.cos(angle), 12), fixed=held),
        f"f{mode}_b": Parameter(round(-amplitude * math.sin(angle), 12), fixed=held),
    }


def write_shapes(
    parameters: Mapping[str, Parameter], values: Mapping[str, float]
) -> list[tuple[str, tuple[float, ...], tuple[bool, ...]]]:
    """(key, values, free) of the C0 and F lines of a component."""
    lines: list[tuple[str, tuple[float, ...], tuple[bool, ...]]] = []
    if "boxiness" in parameters:
        lines.append(("C0", (values["boxiness"],), (parameters["boxiness"].free,)))
    for name in parameters:
        match = re.fullmatch(r"f(\d+)_a", name)
        if match is None:
            continue
        mode = int(match[1])
        a, b = values[f"f{mode}_a"], values[f"f{mode}_b"]
        phase = math.degrees(math.atan2(-b, a)) / mode
        free = (parameters[f"f{mode}_a"].free, parameters[f"f{mode}_b"].free)
        lines.append((f"F{mode}", (math.hypot(a, b), phase), free))
    return lines
