"""Frames: the images of one in every band, and stamps cut around what is detected in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autofit_ml.errors import InputError
from autofit_ml.images import Frame, ReadResult, Source, Stamp, cut_like, cut_stamps, read_source
from autofit_ml.segmentation import Detections
from autofit_ml.settings import FitSettings, ReadOptions

__all__ = [
    "Failure",
    "FrameImages",
    "Others",
    "cut_objects",
    "frame_images",
    "frame_of",
    "naming",
    "object_names",
    "read_bands",
    "read_frames",
    "told_of_bands",
    "unexpected",
]

Others = dict[str, tuple[Stamp | None, ...]]
"""Id -> images in the further bands."""


@dataclass(frozen=True)
class Failure:
    """An object that cannot be fitted, why, and its images where they could be read."""

    id: str
    file: str
    message: str
    stamp: Stamp | None = None


@dataclass(frozen=True)
class FrameImages:
    """A frame, and the same field in the further bands.

    Attributes
    ----------
    frame : Frame
        With its PSF fitted to its stars, where that is wanted.
    others : tuple of Frame or None
        None where a band has no image.
    hashes : dict of str to str
        File -> sha256.
    """

    frame: Frame
    others: tuple[Frame | None, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)


def read_frames(source: Source, options: ReadOptions) -> FrameImages:
    """Read a frame in every band.

    Raises
    ------
    InputError
        It cannot be read.
    """
    hashes: dict[str, str] = {}
    result, *more = read_bands(source, options.replace(mode="frame"), hashes)
    assert result is not None
    return replace(frame_images(result, more, options), hashes=hashes)


def frame_images(
    result: ReadResult, more: Sequence[ReadResult | None], options: ReadOptions
) -> FrameImages:
    """Fit the PSFs of frames that were read, where that is wanted."""
    others = tuple(None if one is None else frame_of(one, options) for one in more)
    return FrameImages(frame_of(result, options), others)


def frame_of(result: ReadResult, options: ReadOptions) -> Frame:
    """The frame that was read, a Moffat PSF fitted to its stars where that is wanted."""
    frame, model = result.item, options.psf
    if not isinstance(frame, Frame):
        raise TypeError(f"{frame.id} is no frame")
    if not (isinstance(model, str) and model == "moffat"):
        return frame
    from autofit_ml.fitting.psf_model import fit_moffat_psf

    psf, notes = fit_moffat_psf(frame)
    return frame.replace(psf=psf, messages=(*frame.messages, *notes))


def read_bands(
    source: Source, options: ReadOptions, hashes: dict[str, str]
) -> list[ReadResult | None]:
    """A source's image in the reference band, then in the others (None where it has none).

    `hashes` is updated: file -> sha256.
    """
    result = read_source(source, options)
    hashes.update(result.hashes)
    return [result, *(_read_like(result, other, options, hashes) for other in source.others)]


def _read_like(
    reference: ReadResult, other: Source | None, options: ReadOptions, hashes: dict[str, str]
) -> ReadResult | None:
    """A further band's image: a frame if the reference is one, else a stamp."""
    if other is None:
        return None
    placed = {"x", "y"} <= set(other.overrides) or {"ra", "dec"} <= set(other.overrides)
    if isinstance(reference.item, Frame):
        options = options.replace(mode="frame")
    elif not placed:
        options = options.replace(mode="stamp")
    try:
        result = read_source(other, options)
    except InputError as error:
        remedy = f"{error.remedy}; or leave band {other.band} out"
        raise InputError(error.problem, remedy, error.file or other.file) from error
    hashes.update(result.hashes)
    return result


def told_of_bands(stamp: Stamp, source: Source, others: Sequence[Stamp | None]) -> Stamp:
    """The reference image with the flags and messages of the further bands' images too."""
    flags, messages = stamp.flags, [*stamp.messages]
    for other, image in zip(source.others, others, strict=True):
        if other is not None and image is not None:
            flags |= image.flags
            messages += [f"{other.band}: {text}" for text in image.messages]
    return stamp.replace(flags=flags, messages=tuple(messages))


def object_names(frame: str, number: int) -> list[str]:
    """Ids of the objects of a frame: ``<frame>@<number>`` (no other id holds an ``@``)."""
    width = len(str(number))
    return [f"{frame}@{k:0{width}d}" for k in range(1, number + 1)]


def cut_objects(
    images: FrameImages,
    source: Source,
    found: Detections,
    names: Sequence[str],
    settings: FitSettings,
    others: Others,
) -> Iterator[Stamp | Failure]:
    """Cut detected objects out of a frame; their images in further bands go into `others`.

    Parameters
    ----------
    images : FrameImages
    source : Source
    found : Detections
        With labels of the frame's shape.
    names : sequence of str
        Ids, row by row of ``found.sources``.
    settings : FitSettings
    others : dict
    """
    frame = images.frame
    # sep looks at each stamp again, around its own target; the network's instances are kept.
    labels = found.labels if found.method == "maskrcnn" else None
    for name, row in zip(names, found.sources, strict=True):
        detection = {
            "x": float(row["x"]),
            "y": float(row["y"]),
            "radius": float(row["radius"]),
            "label": int(row["label"]),
        }
        try:
            for stamp in cut_stamps(
                frame,
                [detection],
                settings.read,
                labels=labels,
                classes=found.classes,
            ):
                stamp = stamp.replace(id=name)
                if images.others:
                    others[name] = tuple(
                        None if one is None else cut_like(one, stamp, frame, settings.read)
                        for one in images.others
                    )
                    stamp = told_of_bands(stamp, source, others[name])
                yield stamp
        except InputError as error:
            yield Failure(name, frame.file, naming(error, frame.file))


def naming(error: InputError, file: str) -> str:
    """The error's text, with the file in it."""
    text = str(error)
    return text if error.file is not None or file in text else f"{file}: {text}"


def unexpected(error: Exception, file: str) -> str:
    return (
        f"{file}: unexpected {type(error).__name__}: {error} "
        "(this is a bug: please report it with the file)"
    )
