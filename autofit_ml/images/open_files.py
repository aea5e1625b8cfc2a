"""The files of one object, opened once, and the arrays of its planes in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import FitsFile, HduInfo, image_array, open_fits, parsed_fits
from autofit_ml.images.planes import unused_hdus

__all__ = ["OpenFiles", "check_shape", "plane_array"]


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
