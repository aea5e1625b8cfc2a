"""Run the chosen segmenter over stamps and frames, with what stands in for it."""

import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import WeightsError
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation.classical import segment_sep
from autofit_ml.segmentation.detection import Detections, detect_sources
from autofit_ml.segmentation.repair import why_refused
from autofit_ml.segmentation.result import Segmentation, segment_given
from autofit_ml.settings import SEGMENTERS
from autofit_ml.weights import choice
from autofit_ml.weights.choice import usable_device

__all__ = ["SEGMENTERS", "check_segmenter", "detect_in_frame", "segment_all"]

_BY_NETWORK = ("auto", "maskrcnn")

Image = TypeVar("Image", Stamp, Frame)

_NO_WEIGHTS = "no weights for images like this one: sep was used"


def check_segmenter(segmenter: str, weights: str = "") -> dict[str, str]:
    """Load what a segmenter will need, before any work starts.

    Parameters
    ----------
    segmenter : str
        One of `SEGMENTERS`.
    weights : str
        Names or folders, separated by commas; empty: the installed ones.

    Returns
    -------
    dict
        Name or folder of each bundle that may be used -> sha256 of its weights.

    Raises
    ------
    SettingsError, WeightsError
        No weights, or such that cannot be used.
    """
    return choice.usable_weights("segment", weights) if segmenter in _BY_NETWORK else {}


def segment_all(
    stamps: Sequence[Stamp], segmenter: str = "auto", weights: str = "", device: str = "cpu"
) -> Iterator[tuple[Stamp, Segmentation | Exception]]:
    """Each stamp with its segmentation, or with what went wrong.

    "auto": the labels given with a stamp where there are some, else the network. Images unlike
    those that the network's weights were trained on go through sep; their stamps come back with
    OUT_OF_DOMAIN.

    Raises
    ------
    WeightsError
        The weights that were asked for cannot be used: that concerns the whole run.
    """
    chosen = [_chosen(stamp, segmenter, weights) for stamp in stamps]
    found: dict[int, Segmentation | Exception] = {}
    for name in {name: None for _, _, name in chosen if name}:
        members = [i for i, item in enumerate(chosen) if item[2] == name]
        results = _by_network([chosen[i][0] for i in members], name, device)
        found.update(zip(members, results, strict=True))
    for i, (stamp, method, _) in enumerate(chosen):
        yield _checked(stamp, found[i]) if i in found else (stamp, _alone(stamp, method))


def _few_photons(stamp: Stamp) -> bool:
    """True if the background is under one photon a pixel: photons look like stars then."""
    if stamp.background_sigma is None:
        return False
    return float(np.median(stamp.background_sigma)) * stamp.gain < 1.0


def _chosen(stamp: Stamp, segmenter: str, weights: str) -> tuple[Stamp, str, str]:
    """A stamp (marked where it is unlike all training sets), its segmenter, a network's weights."""
    if segmenter == "auto":
        segmenter = "maskrcnn" if stamp.labels is None or _is_cut_out(stamp) else "given"
    if segmenter != "maskrcnn":
        return stamp, segmenter, ""
    if stamp.flags & Flag.OUT_OF_DOMAIN:  # its whole frame is
        return stamp, "sep", ""
    name = None
    if not _few_photons(stamp):
        fwhm = psf_fwhm(stamp.psf)
        name = choice.choose_weights("segment", weights, stamp.pixel_scale, fwhm)
    return (_marked(stamp), "sep", "") if name is None else (stamp, "maskrcnn", name)


def _marked(image: Image) -> Image:
    """Out of the domain of all weights."""
    return image.replace(
        flags=image.flags | int(Flag.OUT_OF_DOMAIN), messages=(*image.messages, _NO_WEIGHTS)
    )


def _checked(
    stamp: Stamp, found: Segmentation | Exception
) -> tuple[Stamp, Segmentation | Exception]:
    """The network's segmentation, or sep's where the network's is refused and sep's is not."""
    why = "" if isinstance(found, Exception) or _is_cut_out(stamp) else why_refused(stamp, found)
    other = _alone(stamp, "sep") if why else found
    if not why or isinstance(found, Exception) or isinstance(other, Exception):
        return stamp, found
    if why_refused(stamp, other) and not other.target > 0 == found.target:
        return stamp, found
    return stamp.replace(messages=(*stamp.messages, f"{why}: sep was used")), other


def _alone(stamp: Stamp, method: str) -> Segmentation | Exception:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return segment_given(stamp) if method == "given" else segment_sep(stamp)
    except Exception as error:  # one object must never cost the others
        return error


def _by_network(stamps: list[Stamp], name: str, device: str) -> list[Segmentation | Exception]:
    from autofit_ml.segmentation.maskrcnn import segment_cut_out, segment_maskrcnn

    network = choice.network(name, usable_device(device))
    try:
        whole = [stamp for stamp in stamps if not _is_cut_out(stamp)]
        found = iter(segment_maskrcnn(whole, network))
        return [
            segment_cut_out(stamp, choice.network_name(network))
            if _is_cut_out(stamp)
            else next(found)
            for stamp in stamps
        ]
    except WeightsError:
        raise
    except Exception as error:  # one object must never cost the others
        if len(stamps) == 1:
            return [error]
        return [result for stamp in stamps for result in _by_network([stamp], name, device)]


def _is_cut_out(stamp: Stamp) -> bool:
    """Cut from a frame whose labels it carries."""
    return stamp.of_frame and stamp.labels is not None and stamp.target_label is not None


def detect_in_frame(
    frame: Frame, fwhm: float, segmenter: str = "auto", weights: str = "", device: str = "cpu"
) -> tuple[Frame, Detections]:
    """The sources of a frame by the segmenter that was chosen.

    Returns
    -------
    frame : Frame
        With OUT_OF_DOMAIN and a message where sep had to do the network's work.
    detections : Detections
    """
    if segmenter not in _BY_NETWORK:
        return frame, detect_sources(frame, fwhm=fwhm)
    name = choice.choose_weights("segment", weights, frame.pixel_scale, fwhm)
    if name is None:
        return _marked(frame), detect_sources(frame, fwhm=fwhm)
    from autofit_ml.segmentation.tiles import detect_instances

    return frame, detect_instances(frame, choice.network(name, usable_device(device)), fwhm=fwhm)
