"""Choice of a model by evidence, for the close calls of the ladder's BIC.

In: `Choice`s of `autofit_ml.fitting.choose_models`, made with ``RefineSettings(keep=True)``.
Out: the same, decided anew by the evidence of nested sampling where several models are close.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from autofit_ml.fitting.choice import Choice
from autofit_ml.posterior.nested import NestedSettings
from autofit_ml.posterior.scenes import ScenePosterior, sample_fits

__all__ = ["choose_by_evidence"]

CLOSE = 20.0
"""Models whose BIC is larger than the smallest by more are not compared: twice what Kass & Raftery
(1995, J. Am. Stat. Assoc. 90, 773) call very strong, as priors narrower or wider than BIC's unit
information change it by a few units for each parameter."""


def choose_by_evidence(
    choices: Sequence[Choice], settings: NestedSettings | None = None, close: float = CLOSE
) -> list[tuple[Choice, ScenePosterior | None]]:
    """Decide between the models that are close in BIC by their evidence.

    Parameters
    ----------
    choices : sequence of Choice
    settings : NestedSettings, optional
    close : float
        See `CLOSE`.

    Returns
    -------
    list of (Choice, ScenePosterior or None)
        In order, with the draws of the chosen model; None where nothing could be fitted or drawn.

    Notes
    -----
    The prior of the evidence is flat in the box of `autofit_ml.posterior.nested_box` for parameters
    without a prior of their own. That box decides what a further component has to gain.
    """
    contenders = [
        [n for n, value in one.bic.items() if value - one.bic.get(one.model, math.nan) <= close]
        for one in choices
    ]
    fits = [one.fits[n] for one, names in zip(choices, contenders, strict=True) for n in names]
    drawn = iter(sample_fits(fits, "nested", settings))
    out: list[tuple[Choice, ScenePosterior | None]] = []
    for choice, names in zip(choices, contenders, strict=True):
        posteriors = {n: made for n in names if (made := next(drawn)) is not None}
        if not posteriors:
            out.append((choice, None))
            continue
        evidence = {name: one.log_evidence for name, one in posteriors.items()}
        model = max(evidence, key=lambda name: evidence[name])
        decided = dataclasses.replace(
            choice, model=model, fit=choice.fits[model], log_evidence=evidence
        )
        out.append((decided, posteriors[model]))
    return out
