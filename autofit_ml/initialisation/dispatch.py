"""Run the chosen initialiser (network or moments) over many stamps."""

from collections.abc import Sequence

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.moments import start_from_moments
from autofit_ml.initialisation.starts import Starts
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation.result import Segmentation
from autofit_ml.settings import INITIALISERS
from autofit_ml.weights import choice
from autofit_ml.weights.choice import usable_device

__all__ = ["INITIALISERS", "check_initialiser", "initialise"]


def check_initialiser(method: str, weights: str = "") -> dict[str, str]:
    """Load what an initialiser will need, before any work starts.

    Parameters
    ----------
    method : str
        One of `INITIALISERS`.
    weights : str
        As for `initialise`.

    Returns
    -------
    dict
        Name or folder of each bundle that may be used -> sha256 of its weights.

    Raises
    ------
    SettingsError, WeightsError
        No weights, or such that cannot be used.
    """
    return choice.usable_weights("initialise", weights) if method == "resnet" else {}


def initialise(
    stamps: Sequence[Stamp],
    segmentations: Sequence[Segmentation] | None = None,
    method: str = "resnet",
    *,
    weights: str = "",
    device: str = "cpu",
) -> Starts:
    """Starting parameters for each stamp.

    Parameters
    ----------
    stamps : sequence of Stamp
    segmentations : sequence of Segmentation, optional
        One per stamp, in the same order; by default those of `autofit_ml.segmentation`.
    method : {"resnet", "moments"}
        "resnet": a pretrained network; moments, with INIT_FALLBACK, where the network's answer is
        not to be trusted (see `autofit_ml.initialisation.resnet.start_from_network`), and with
        OUT_OF_DOMAIN too where there are no weights for images like this one.
    weights : str
        Names or folders of weights, separated by commas; those of other tasks are passed over.
        None for this task: the installed ones that suit the images.
    device : {"cpu", "cuda", "auto"}

    Returns
    -------
    Starts
        Conventions and guarantees as stated there: finite, flux > 0, re > 0, 0.3 <= n <= 8,
        0.1 <= q <= 1, 0 <= pa < 180.

    Raises
    ------
    SettingsError
        Unknown method, or the two sequences differ in length.
    WeightsError
        The weights cannot be used.
    """
    if method not in INITIALISERS:
        raise SettingsError(
            f"unknown way to initialise: {method!r}", f"use one of: {', '.join(INITIALISERS)}"
        )
    if segmentations is None:
        from autofit_ml.segmentation import segment

        segmentations = segment(stamps)
    if len(stamps) != len(segmentations):
        raise SettingsError(
            f"{len(stamps)} stamps but {len(segmentations)} segmentations",
            "give one segmentation per stamp",
        )
    if method == "moments" or not stamps:
        return start_from_moments(stamps, segmentations)
    return _by_network(stamps, segmentations, weights, device)


def _by_network(
    stamps: Sequence[Stamp], segmentations: Sequence[Segmentation], weights: str, device: str
) -> Starts:
    """Each stamp by the network that suits it."""
    from autofit_ml.initialisation.resnet import start_from_network

    device = usable_device(device)
    groups: dict[str | None, list[int]] = {}
    for i, stamp in enumerate(stamps):
        name = choice.choose_weights("initialise", weights, stamp.pixel_scale, psf_fwhm(stamp.psf))
        groups.setdefault(name, []).append(i)
    parts = []
    for name, members in groups.items():
        some = [stamps[i] for i in members], [segmentations[i] for i in members]
        if name is None:
            part = start_from_moments(*some)
            part.flags[:] |= int(Flag.INIT_FALLBACK | Flag.OUT_OF_DOMAIN)
        else:
            part = start_from_network(*some, choice.network(name, device), device)
        parts.append(part)
    return Starts.joined(parts).some(np.argsort(np.concatenate(list(groups.values()))))
