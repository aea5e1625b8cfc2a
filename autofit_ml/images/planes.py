"""Planes of an object: which HDUs of its files they are, and their arrays."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import FitsFile, HduInfo, image_array, open_fits, parsed_fits
from autofit_ml.images.roles import EXTNAMES

__all__ = ["Grouping", "OpenFiles", "check_shape", "group_hdus", "plane_array", "unused_hdus"]


@dataclass(frozen=True)
class Grouping:
    """Objects in one file.

    Attributes
    ----------
    objects : tuple of (str, dict)
        (name within the file, plane -> HDU index). The name is "" when the file has one object.
    unused : tuple of HduInfo
        HDUs with data that belong to no object.
    problem : str
        Set when a plane is there twice for the same image.
    why_none : str
        Why there is no object.
    """

    objects: tuple[tuple[str, dict[str, int]], ...]
    unused: tuple[HduInfo, ...] = ()
    problem: str = ""
    why_none: str = ""


@functools.lru_cache(maxsize=16)
def group_hdus(infos: tuple[HduInfo, ...]) -> Grouping:
    """Group the HDUs that belong together.

    - One image HDU (named SCI, IMAGE, or unnamed): the other known names are its planes.
    - Several: planes go by EXTVER where that differs, else to the image they follow. One PSF for
      all is shared.
    - No HDU with an image's name but some with others (G000, G001, ...): each is an object.
    - An unnamed HDU with a bare header right after an image of its shape is that image's noise
      plane, of a kind to be found from its values ("noise").
    - Where planes have names, an unnamed HDU with a bare header beside an image is a plane that
      lost its name, and not used.
    - Of two planes of a kind for one image (ERR and UNCERT) the name that comes first in
      `autofit_ml.images.roles` is used; twice the same name is a problem.

    Parameters
    ----------
    infos : tuple of HduInfo
    """
    usable = [info for info in infos if info.kind in ("image", "vector")]
    if not usable:
        kinds = sorted({info.kind for info in infos if info.kind != "empty"})
        return Grouping((), (), "", "only " + " and ".join(kinds) if kinds else "no data")
    images = [i for i in usable if i.role == "image"]
    images = [i for i in images if i.name] or images  # a named SCI wins over unnamed HDUs
    images = [i for i in images if i.kind == "image"] or images
    if not images:
        images = [i for i in usable if i.role is None and i.kind == "image"]
    if not images:
        return Grouping((), (), "", "only planes that are no image, and no SCI or IMAGE")

    noise_of: dict[int, int] = {}
    by_index = {i.index: i for i in usable}
    for info in images:
        if info.index in noise_of.values():
            continue
        follower = by_index.get(info.index + 1)
        if (
            follower is not None
            and not follower.name
            and follower.bare
            and not info.bare
            and follower.shape == info.shape
        ):
            noise_of[info.index] = follower.index
    images = [info for info in images if info.index not in noise_of.values()]
    if any(i.role not in (None, "image") for i in usable):
        images = [i for i in images if i.name or not i.bare] or images
    planes: list[dict[str, int]] = [{"image": i.index} for i in images]
    for plane in planes:
        if plane["image"] in noise_of:
            plane["noise"] = noise_of[plane["image"]]
    by_version = len({i.extver for i in images}) == len(images) > 1
    order = {name: rank for rank, name in enumerate(EXTNAMES)}
    others = sorted(
        (i for i in usable if i.role not in (None, "image")),
        key=lambda info: (order.get(info.name, -1), info.index),
    )
    for info in others:
        role = str(info.role)
        if len(images) == 1:
            owners = [0]
        elif sum(other.role == role for other in others) == 1 and role == "psf":
            owners = list(range(len(images)))
        elif by_version:
            owners = [n for n, i in enumerate(images) if i.extver == info.extver]
        else:
            owners = [n for n, i in enumerate(images) if i.index < info.index][-1:]
        for owner in owners:
            first = planes[owner].setdefault(role, info.index)
            if first != info.index and by_index[first].name == info.name:
                return Grouping(
                    (), (), f"two {info.name} planes for one image (HDUs {first}, {info.index})"
                )
    used = {index for part in planes for index in part.values()}
    unused = tuple(i for i in infos if i.kind != "empty" and i.index not in used)
    return Grouping(tuple(zip(_names(images), planes, strict=True)), unused)


def unused_hdus(path: Path, infos: Sequence[HduInfo]) -> list[str]:
    """One sentence that names the HDUs with data that are not read; none where there are none."""
    if not infos:
        return []
    names = [f"{info.index} {info.name or info.kind}" for info in infos]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return [f"{path.name}: not used: HDU {', '.join(names[:12])}{more} (no plane by its name)"]


def _names(images: Sequence[HduInfo]) -> list[str]:
    """Names of the objects within the file: EXTNAME, with EXTVER or index where not unique."""
    if len(images) == 1:
        return [""]
    names = [i.name for i in images]
    versions = [f"{i.name}{i.extver}" for i in images]
    if all(names) and len(set(names)) == len(names):
        return names
    if all(names) and len(set(versions)) == len(versions):
        return versions
    width = len(str(images[-1].index))
    return [f"{i.name or 'hdu'}{i.index:0{width}d}" for i in images]


# --- arrays -----------------------------------------------------------------------------------


@dataclass
class OpenFiles:
    """Files of one object, opened once each; `content` holds those that are in memory."""

    content: Mapping[Path, bytes] = field(default_factory=dict)
    opened: dict[Path, FitsFile] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def open(self, path: Path) -> FitsFile:
        if path not in self.opened:
            content = self.content.get(path)
            file = open_fits(path) if content is None else parsed_fits(content, path)
            self.opened[path] = file
            self.messages.extend(file.messages)
        return self.opened[path]

    def hashes(self) -> dict[str, str]:
        return {str(path): file.sha256 for path, file in self.opened.items()}


def plane_array(
    plane: tuple[Path, int | str | None],
    role: str,
    files: OpenFiles,
    image_info: HduInfo,
    messages: list[str],
) -> tuple[np.ndarray, FitsFile, HduInfo]:
    """Array of a plane other than the image.

    In a file of its own: the HDU named, else the one called like the plane, like the image's HDU,
    else the only (first) image.
    """
    path, key = plane
    file = files.open(path)
    if key is not None:
        info = file.find(key)
    else:
        images = [i for i in file.infos if i.kind in ("image", "vector")]
        if not images:
            raise InputError(f"the {role} file has no image HDU", "give a FITS image", path)
        same_role = [i for i in images if i.name and i.role == role]
        same_name = [i for i in images if i.name and i.name == image_info.name]
        info = (same_role or same_name or images)[0]
        others = [i for i in file.infos if i.kind != "empty" and i.index != info.index]
        messages.extend(unused_hdus(path, others))
    data, notes = image_array(file, info, role)
    messages.extend(notes)
    return data, file, info


def check_shape(data: np.ndarray, shape: tuple[int, ...], role: str, path: Path) -> None:
    if data.shape != shape:
        raise InputError(
            f"the {role} has shape {data.shape}, the image {shape} (ny, nx)",
            "give planes cut to the same pixels",
            path,
        )
