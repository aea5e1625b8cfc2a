r"""Choice of the model that an object needs: a ladder of scenes, compared by BIC.

point source → exponential, de Vaucouleurs → Sérsic → Sérsic + exponential. With k free parameters
the Bayesian information criterion (Schwarz 1978, Ann. Stat. 6, 461) is

.. math:: \mathrm{BIC} = \chi^2 / a + k \ln (n / a) .

n is the number of pixels that tell of the object: sky says nothing of its profile, and more of it
must not ask for more evidence. With s the S/N of the model's light in a pixel it is the effective
number (Kish 1965, Survey Sampling) of pixels that count by their information on the flux, s^2:

.. math:: n = \left(\sum s^2\right)^2 / \sum s^4 .

a is the number of pixels over which the noise is correlated (1 for white noise): what several
pixels say together counts once. Both are one number for all models of an object: n is that of the
model that fits best, a the smallest that any leaves outside of the object, since light that a model
does not describe looks like correlated noise there, and its own a would reward a model for being
bad. The ladder is climbed only as far as it may matter: two components are tried where the S/N is
at least `MIN_SNR`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autofit_ml.fitting.fit import refine
from autofit_ml.fitting.objects import SceneObject
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.initialisation.starts import Starts
from autofit_ml.scenes.model import Scene
from autofit_ml.scenes.parse import parse_model

__all__ = ["LADDER", "Choice", "choose_models", "criteria"]

LADDER = ("point", "exponential", "devaucouleurs", "sersic", "sersic+exp")
"""Models that are tried, from simple to complex."""

MIN_SNR = 20.0
"""Two components are tried at this S/N and above."""


@dataclass(frozen=True)
class Choice:
    """The model that was chosen for an object.

    Attributes
    ----------
    model : str
        One of `LADDER`; "" where nothing could be fitted.
    fit : SceneFit
        Of that model.
    bic : mapping of str to float
        Of every model that was tried.
    fits : mapping of str to SceneFit
        Of every model that was tried.
    log_evidence : mapping of str to float
        Of those between which evidence decided (`autofit_ml.posterior.choice`).
    """

    model: str
    fit: SceneFit
    bic: Mapping[str, float] = field(default_factory=dict)
    fits: Mapping[str, SceneFit] = field(default_factory=dict)
    log_evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def tried(self) -> str:
        """Text for the catalogue: "point 4321.0, sersic 4102.3 (ln Z -2040.12)"."""
        evidence = {name: f" (ln Z {value:.2f})" for name, value in self.log_evidence.items()}
        return ", ".join(
            f"{name} {value:.1f}{evidence.get(name, '')}" for name, value in self.bic.items()
        )


def choose_models(
    objects: Sequence[SceneObject],
    starts: Starts,
    *,
    bands: Sequence[str] = ("",),
    wavelengths: Sequence[float] | None = None,
    sky: str | float = "free",
    settings: RefineSettings | None = None,
    components: bool = False,
) -> list[Choice]:
    """Fit the ladder to each object and choose.

    Parameters are those of `autofit_ml.fitting.refine`. Neighbours that a Sérsic target leaves
    without light of their own are dropped for all models.

    Returns
    -------
    list of Choice
        In order.
    """
    settings = dataclasses.replace(settings or RefineSettings(), point_source=False)
    later = dataclasses.replace(settings, drop_neighbours=False, companions=0)
    fits: list[dict[str, SceneFit]] = [{} for _ in objects]
    every = list(objects)

    def attempt(model: str, members: Sequence[int]) -> None:
        if not members:
            return
        scene: Scene = parse_model(model, sky)
        made = refine(
            [every[k] for k in members],
            scene,
            starts.some(list(members)),
            settings=settings if model == "sersic" else later,
            bands=bands,
            wavelengths=wavelengths,
            components=components,
        )
        for k, fit in zip(members, made, strict=True):
            fits[k][model] = fit

    everyone = range(len(objects))
    attempt("sersic", list(everyone))
    if settings.neighbours == "fit":
        for k in everyone:
            one = every[k].with_neighbours(settings.max_neighbours)
            every[k] = dataclasses.replace(one, neighbours=fits[k]["sersic"].around)
    attempt("point", list(everyone))
    bics = [criteria(of_one) for of_one in fits]
    extended = [k for k in everyone if not bics[k]["point"] < bics[k]["sersic"] - 20]
    attempt("exponential", extended)
    attempt("devaucouleurs", extended)
    bics = [criteria(of_one) for of_one in fits]
    complex_ = [
        k for k in extended if fits[k]["sersic"].snr >= MIN_SNR and _best(bics[k]) != "point"
    ]
    attempt("sersic+exp", complex_)
    out = []
    for of_one in fits:
        bic = criteria({name: of_one[name] for name in LADDER if name in of_one})
        best = _best(bic)
        out.append(Choice(best, of_one[best or "sersic"], bic, of_one))
    return out


def _best(bics: Mapping[str, float]) -> str:
    """The model with the smallest BIC; "" where none is finite."""
    finite = {name: value for name, value in bics.items() if math.isfinite(value)}
    return min(finite, key=lambda name: finite[name]) if finite else ""


def criteria(fits: Mapping[str, SceneFit]) -> dict[str, float]:
    """BIC of fits of one object, comparable with each other; NaN without a fit."""
    out = dict.fromkeys(fits, math.nan)
    good = {name: fit for name, fit in fits.items() if math.isfinite(fit.chi2)}
    if good:
        area = min(correlation_area(fit.noise_correlation) for fit in good.values())
        best = min(good.values(), key=lambda fit: fit.chi2)
        penalty = math.log(max(best.n_eff / area, 2.0))
        out |= {name: fit.chi2 / area + fit.n_fitted * penalty for name, fit in good.items()}
    return out


def correlation_area(adjacent: float) -> float:
    """Pixels over which noise is correlated, from the correlation of adjacent ones.

    The sum of the squared autocorrelation of noise whose correlation falls geometrically along both
    axes, ((1 + r^2) / (1 - r^2))^2: how much fewer independent squares there are than pixels.
    """
    if not math.isfinite(adjacent) or adjacent < 0.05:
        return 1.0
    r2 = min(adjacent, 0.9) ** 2
    return ((1 + r2) / (1 - r2)) ** 2
