"""Numbers with their errors as short text."""

import math

__all__ = ["format_measurement"]


def format_measurement(value: float, error: float = math.nan, digits: int = 4) -> str:
    """A value and its error, rounded to what the error allows.

    Parameters
    ----------
    value, error : float
        NaN means unknown.
    digits : int
        Significant digits of a value without an error.

    Returns
    -------
    text : str
        "18.213 ± 0.014" (two significant digits of the error), "18.21" without an error, "–"
        without a value.

    Examples
    --------
    >>> format_measurement(5.3061, 0.0312)
    '5.306 ± 0.031'
    >>> format_measurement(123456.0, 789.0)
    '123460 ± 790'
    """
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.{digits}g}"
    largest = max(abs(value), error)
    if largest >= 1e7 or largest < 1e-3:
        power = math.floor(math.log10(largest))
        scaled = format_measurement(value / 10.0**power, error / 10.0**power, digits)
        return f"({scaled})e{power}"
    decimals = 1 - math.floor(math.log10(error))
    if decimals < 0:
        return f"{round(value, decimals):.0f} ± {round(error, decimals):.0f}"
    decimals = min(decimals, 6)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
