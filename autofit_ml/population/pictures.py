"""Pictures of a population beside its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from autofit_ml.errors import SettingsError

if TYPE_CHECKING:
    from autofit_ml.population.posterior import PopulationPosterior

__all__ = ["predictive_figure"]

_INK, _DATA, _MODEL = "#30303c", "#30303c", "#2b6a99"


def predictive_figure(found: PopulationPosterior, seed: int = 0) -> Figure:
    """Measured parameters beside those that the population predicts, with errors and selection.

    Histograms of each parameter; below them each against the first.
    """
    names = found.model.names
    columns, _ = found.objects.coordinates.parameters(found.objects.posterior_mean)
    data = {name: columns[name].numpy() for name in names}
    try:
        drawn = found.predictive(4 * len(found.objects), seed=seed, measured=True)
        what = "predicted"
    except SettingsError:
        drawn, what = found.predictive(4 * len(found.objects), seed=seed), "population"
    d = len(names)
    figure = Figure(figsize=(2.6 * d + 0.6, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots(2, d, squeeze=False)
    for k, name in enumerate(names):
        values = data[name][np.isfinite(data[name])]
        low, high = np.quantile(np.concatenate([values, drawn[name]]), [0.002, 0.998])
        bins = np.linspace(low, high, 31)
        axes[0, k].hist(drawn[name], bins, density=True, color=_MODEL, alpha=0.35, label=what)
        axes[0, k].hist(values, bins, density=True, histtype="step", color=_DATA, label="measured")
        axes[0, k].set(xlabel=name, yticks=[])
        if k == 0:
            axes[0, k].legend(fontsize=7, frameon=False)
            axes[1, k].axis("off")
            continue
        n = min(len(data[name]), 3000)
        axes[1, k].plot(drawn[names[0]][:n], drawn[name][:n], ".", ms=1.5, color=_MODEL, alpha=0.4)
        axes[1, k].plot(data[names[0]][:n], data[name][:n], ".", ms=1.5, color=_DATA, alpha=0.5)
        axes[1, k].set(xlabel=names[0], ylabel=name, ylim=(low, high))
    return figure
