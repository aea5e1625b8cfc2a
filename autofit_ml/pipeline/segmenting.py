"""The segmenter that was chosen, over the stamps of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import WeightsError
from autofit_ml.images.psf import psf_fwhm
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.pipeline.settings import FitSettings
from autofit_ml.segment import Detections, Segmentation, detect_sources, segment

__all__ = ["check_segmenter", "detect_in_frame", "segment_all"]

_NO_WEIGHTS = "no weights for images like this one: sep was used"


def check_segmenter(settings: FitSettings) -> dict[str, str]:
    """Load what the segmenter will need, before any work starts.

    Returns
    -------
    dict
        Name or folder of each bundle that may be used -> sha256 of its weights.

    Raises
    ------
    SettingsError, WeightsError
        No weights, or such that cannot be used.
    """
    if settings.segmenter not in ("auto", "maskrcnn"):
        return {}
    from autofit_ml.segment.pretrained import usable_weights

    return usable_weights(settings.weights)


def segment_all(
    stamps: Sequence[Stamp], settings: FitSettings
) -> Iterator[tuple[Stamp, Segmentation | Exception]]:
    """Each stamp with its segmentation, or with what went wrong.

    Images unlike those that the network's weights were trained on go through sep; their stamps
    come back with OUT_OF_DOMAIN.

    Raises
    ------
    WeightsError
        The weights that were asked for cannot be used: that concerns the whole run.
    """
    chosen = [_method(stamp, settings) for stamp in stamps]
    networks: dict[str, list[int]] = {}
    marked = list(stamps)
    for i, method in enumerate(chosen):
        if method != "maskrcnn":
            continue
        from autofit_ml.segment.pretrained import choose_weights

        if stamps[i].flags & int(Flag.OUT_OF_DOMAIN):  # its whole frame is
            chosen[i] = "sep"
            continue
        name = choose_weights(settings.weights, stamps[i].pixel_scale, psf_fwhm(stamps[i].psf))
        if name is None:
            chosen[i] = "sep"
            marked[i] = stamps[i].replace(
                flags=stamps[i].flags | int(Flag.OUT_OF_DOMAIN),
                messages=(*stamps[i].messages, _NO_WEIGHTS),
            )
        else:
            networks.setdefault(name, []).append(i)
    found: dict[int, Segmentation | Exception] = {}
    for name, members in networks.items():
        results = _by_network([marked[i] for i in members], name)
        found.update(zip(members, results, strict=True))
    for i, stamp in enumerate(marked):
        yield stamp, found[i] if i in found else _alone(stamp, chosen[i])


def _method(stamp: Stamp, settings: FitSettings) -> str:
    if settings.segmenter == "auto":
        given = stamp.labels is not None and not _is_cut_out(stamp)
        return "given" if given else "maskrcnn"
    return settings.segmenter


def _alone(stamp: Stamp, method: str) -> Segmentation | Exception:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return segment(stamp, method)
    except Exception as error:  # one object must never cost the others
        return error


def _by_network(stamps: list[Stamp], name: str) -> list[Segmentation | Exception]:
    from autofit_ml.segment.maskrcnn import network_name, segment_cut_out, segment_maskrcnn
    from autofit_ml.segment.pretrained import segment_network

    network = segment_network(name)
    try:
        whole = [stamp for stamp in stamps if not _is_cut_out(stamp)]
        found = iter(segment_maskrcnn(whole, network))
        return [
            segment_cut_out(stamp, network_name(network)) if _is_cut_out(stamp) else next(found)
            for stamp in stamps
        ]
    except WeightsError:
        raise
    except Exception as error:  # one object must never cost the others
        if len(stamps) == 1:
            return [error]
        return [result for stamp in stamps for result in _by_network([stamp], name)]


def _is_cut_out(stamp: Stamp) -> bool:
    """Cut from a frame (no other id holds an @) whose labels it carries."""
    return "@" in stamp.id and stamp.labels is not None and stamp.target_label is not None


def detect_in_frame(frame: Frame, fwhm: float, settings: FitSettings) -> tuple[Frame, Detections]:
    """The sources of a frame by the segmenter that was chosen.

    Returns
    -------
    frame : Frame
        With OUT_OF_DOMAIN and a message where sep had to do the network's work.
    detections : Detections
    """
    if settings.segmenter not in ("auto", "maskrcnn"):
        return frame, detect_sources(frame, fwhm=fwhm)
    from autofit_ml.segment.pretrained import choose_weights, segment_network
    from autofit_ml.segment.tiles import detect_instances

    name = choose_weights(settings.weights, frame.pixel_scale, fwhm)
    if name is None:
        marked = frame.replace(
            flags=frame.flags | int(Flag.OUT_OF_DOMAIN), messages=(*frame.messages, _NO_WEIGHTS)
        )
        return marked, detect_sources(frame, fwhm=fwhm)
    return frame, detect_instances(frame, segment_network(name), fwhm=fwhm)
