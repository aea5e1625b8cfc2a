"""Types of a recipe's settings: ranges between limits, which a message names."""

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "AxisRatios",
    "Fraction",
    "FractionRange",
    "Indices",
    "PositiveRange",
    "Range",
    "RecipeSettings",
]


def _between(low: float, high: float, rule: str) -> AfterValidator:
    """(low, high) of a range inside two limits; `rule` says so."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not low <= value[0] <= high or not low <= value[1] <= high:
            raise ValueError(f"{list(value)}: {rule}")
        if value[0] > value[1]:
            raise ValueError(f"{list(value)}: the lower limit comes first")
        return value

    return AfterValidator(check)


_Pair = tuple[float, float]
Range = Annotated[_Pair, _between(-math.inf, math.inf, "must be numbers")]
PositiveRange = Annotated[_Pair, _between(5e-324, math.inf, "must be positive")]
FractionRange = Annotated[_Pair, _between(0, 1, "must lie between 0 and 1")]
AxisRatios = Annotated[_Pair, _between(0.03, 1, "an axis ratio lies between 0.03 and 1")]
Indices = Annotated[_Pair, _between(0.3, 6.2, "GalSim draws Sérsic indices from 0.3 to 6.2")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RecipeSettings(BaseModel):
    """Base of a recipe's settings: unknown names are refused, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
