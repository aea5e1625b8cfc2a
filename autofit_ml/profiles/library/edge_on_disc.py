r"""Edge-on disc (van der Kruit & Searle 1981, A&A 95, 105, eqs. 5 and 6).

.. math:: I(x, y) \propto \frac{|x|}{h}\, K_1\!\left(\frac{|x|}{h}\right)
          \operatorname{sech}^2\!\left(\frac{y}{z_0}\right)

with the scale length h of the disc, its scale height z_0, and x along the disc. `q` is the ratio of
the second moments' roots, :math:`q = (\pi / 6)\, z_0 / h`, as it is for an ellipse; `re` is the
semi-major axis of the ellipse of this axis ratio that holds half of the light.
"""

import math

import torch

from autofit_ml.profiles.registry import Profile, register

# Root mean squares of both factors for h = z_0 = 1: sqrt(3) and pi / sqrt(12).
_LENGTH, _HEIGHT = 1 / math.sqrt(3.0), math.sqrt(12.0) / math.pi


def _light(x, y):
    """Natural unit: root mean square along either axis."""
    along = (x / _LENGTH).abs().clamp_min(1e-12)
    across = (y / _HEIGHT).abs()
    # sech^2(y) = 4 e^(-2y) / (1 + e^(-2y))^2 does not overflow.
    fall = (-2 * across).exp()
    return along * torch.special.modified_bessel_k1(along) * fall / (1 + fall).square()


register(
    Profile(
        name="edge_on_disc",
        aliases=("edgedisk", "edge_on_disk", "edgeon"),
        kind="pixel",
        description="exponential disc seen edge-on",
        light=_light,
        natural_radii=lambda: {"scale_length": _LENGTH, "scale_height": _HEIGHT},
        symmetric=True,
    )
)
