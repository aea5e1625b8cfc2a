"""The images that a GALFIT or GALFITM input file names, as the one object of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import SettingsError
from autofit_ml.images import Discovery, Source
from autofit_ml.images.roles import as_id, fits_stem, is_fits_name, split_role
from autofit_ml.images.source import Plane

if TYPE_CHECKING:
    from autofit_ml.galfit import GalfitFile

__all__ = ["galfit_inputs"]


def galfit_inputs(file: GalfitFile) -> Discovery:
    """Images, noise, PSF and mask of all bands of a file.

    The zero point becomes that of the image's units; the fitted region is cut out.

    Raises
    ------
    SettingsError
        No image, or a file that is not there or no FITS image.
    """
    sources = []
    labels = [band.label or f"band{k}" for k, band in enumerate(file.bands, start=1)]
    for k, (band, label) in enumerate(zip(file.bands, labels, strict=True)):
        planes: dict[str, Plane] = {}
        notes = [*file.notes] if k == 0 else []
        named = (("image", band.image), ("sigma", band.sigma), ("psf", band.psf))
        for role, name in (*named, ("mask", band.mask)):
            if not name:
                continue
            found = _plane(file, role, name)
            if found is None:
                notes.append(f"{role} {name} does not exist: fitted without it, as GALFIT does")
            else:
                planes[role] = found
        if k == 0 and file.mode:
            notes.append(f"P) {file.mode} asks GALFIT for a model only: it is fitted here")
        if "image" not in planes:
            raise SettingsError(
                "it names no image (line A)", "name it there, or give PATHs", file.path
            )
        overrides: dict[str, Any] = {"zeropoint": file.photometry(k).magnitude(1.0)}
        if "psf" not in planes:
            overrides["psf"] = "none"
        scale = (file.pixel_scale[0] * file.pixel_scale[1]) ** 0.5
        if scale > 0 and scale != 1:  # K) 1 1 is what the file has where nobody said it
            overrides["pixel_scale"] = scale
        if file.psf_sampling > 1:
            overrides["psf_oversampling"] = file.psf_sampling
        if file.region is not None:
            x0, x1, y0, y1 = file.region
            overrides["region"] = (x0 - 1, x1, y0 - 1, y1)
        position = _position(file)
        if position is not None:
            overrides["x"], overrides["y"] = position
        image = planes["image"][0]
        name = as_id(split_role(image)[0] or fits_stem(image))
        sources.append(
            Source(
                name, planes, "stamp", overrides, messages=tuple(notes),
                band=label if len(labels) > 1 else "",
            )
        )  # fmt: skip
    first, *rest = sources
    if not rest:
        return Discovery((first,))
    whole = Source(
        first.id, first.planes, first.kind, first.overrides, messages=first.messages,
        band=first.band, others=tuple(rest),
    )  # fmt: skip
    return Discovery((whole,), bands=tuple(labels))


def _plane(file: GalfitFile, role: str, name: str) -> Plane | None:
    """A file and its HDU (CFITSIO's ``image.fits[1]``); None where GALFIT does without."""
    found = re.fullmatch(r"(.*?)(?:\[([^\[\]]*)\])?", name)
    key: int | str | None = None
    if found is not None and found[2]:
        word = found[2].split(",")[0].strip()
        key = int(word) if word.isdigit() else word
    path = file.locate(name)
    if path is None or not path.exists():
        if role in ("sigma", "mask"):
            return None
        raise SettingsError(
            f"the {role} {name!r} that it names does not exist",
            "run it where its files are, or correct the name",
            file.path,
        )
    if role != "mask" and not is_fits_name(path):
        raise SettingsError(
            f"the {role} {name!r} is no FITS file", "write it as a FITS image, or none", file.path
        )
    return path, key


def _position(file: GalfitFile) -> tuple[float, float] | None:
    """Start of the first component, the target."""
    first = file.scene.components[0].parameters
    x, y = first["x"].value, first["y"].value
    return None if x is None or y is None else (x, y)
