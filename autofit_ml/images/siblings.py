"""Files beside an image: its planes in files of their own, and files that are no objects."""

import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import list_hdus
from autofit_ml.images.roles import NOISE_PLANES, SUFFIXES, is_fits_name, split_role
from autofit_ml.images.source import Plane
from autofit_ml.images.survey_files import match_files
from autofit_ml.presets import SurveyPreset

__all__ = ["is_unnamed_plane", "planes_beside", "preferred", "siblings", "split_hdu"]

_BANDS = frozenset(
    [
        "fuv",
        "nuv",
        "uv",
        "vis",
        "nir",
        "mir",
        "ir",
        "ks",
        "kp",
        "ha",
        "halpha",
        "sii",
        "oiii",
        "red",
        "green",
        "blue",
        "white",
        "clear",
        "acs",
        "wfc",
        "wfpc",
        "nircam",
        "niriss",
        "miri",
        "hst",
        "jwst",
        "euclid",
        "sdss",
        "kids",
        "viking",
        "des",
        "hsc",
        "decam",
        "cfht",
    ]
)
"""Words after an object's name that tell a band or a camera: such files are images."""


def split_hdu(text: str) -> tuple[str, int | str | None]:
    """(file, HDU or None) of ``file.fits[3]``, ``file.fits[SCI]`` or ``file.fits[SCI,2]``."""
    found = re.match(r"^(.*\S)\s*\[([^\[\]]+)\]$", text.strip())
    if found is None:
        return text.strip(), None
    name = found.group(2).replace(" ", "")
    return found.group(1), int(name) if name.isdigit() else name


def preferred(one: Path, other: Path) -> Path:
    """Choose, of two files for one plane, the one whose suffix `SUFFIXES` lists first."""
    order = {name: rank for rank, name in enumerate(SUFFIXES)}

    def rank(path: Path) -> int:
        words = re.split(r"[_.-]", path.name.lower())
        return min((order[word] for word in words if word in order), default=len(order))

    return min(one, other, key=rank)


def siblings(folder: Path, base: str) -> dict[str, Path]:
    """Planes in files called ``<base>_<plane>`` in a folder: plane -> file."""
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return {}
    return _listing(folder, changed).get(base, {})


@functools.lru_cache(maxsize=64)
def _listing(folder: Path, _changed: int) -> Mapping[str, dict[str, Path]]:
    listing: dict[str, dict[str, Path]] = {}
    try:
        files = sorted(path for path in folder.iterdir() if is_fits_name(path))
    except OSError:
        files = []
    for path in files:
        base, role, _ = split_role(path)
        group = listing.setdefault(base, {})
        group[role] = preferred(group[role], path) if role in group else path
    return listing


def planes_beside(
    image: Path, preset: SurveyPreset | None = None, known: Collection[str] = ()
) -> tuple[dict[str, Plane], tuple[str, ...], bool]:
    """Planes that a folder would give an image named outright.

    Parameters
    ----------
    image : Path
    preset : SurveyPreset, optional
        Its own naming comes first.
    known : collection of str
        Planes that are not looked for; one of noise: none of noise.

    Returns
    -------
    planes : dict
        From files with the same base name and a plane's suffix, and the folder's ``psf.fits``.
    messages : tuple of str
        What was found.
    shared : bool
        The PSF is the folder's.
    """
    if any(role in NOISE_PLANES for role in known):
        known = {*known, *NOISE_PLANES}
    planes: dict[str, Plane] = {}
    if preset is not None:
        matched, _ = match_files(preset, [image])
        planes |= matched[0].planes if matched else {}
    if not planes:
        base, role, _ = split_role(image)
        found = dict(siblings(image.parent, base)) if role == "image" else {}
        planes |= {name: (path, None) for name, path in found.items() if path != image}
    planes = {role: plane for role, plane in planes.items() if role not in {"image", *known}}
    names = [f"{role} {path.name}" for role, (path, _) in planes.items() if path != image]
    messages = (f"found beside the image: {', '.join(names)}",) if names else ()
    common = siblings(image.parent, "").get("psf")
    shared = common is not None and "psf" not in {*planes, *known}
    if common is not None and shared:
        planes["psf"] = (common, None)
    return planes, messages, shared


def is_unnamed_plane(path: Path, bases: Mapping[str, Path]) -> str:
    """Why a file beside an image is no object of its own, "" if it may be one.

    Parameters
    ----------
    path : Path
        Without a plane's suffix.
    bases : dict
        Base names of the images in its folder -> file.

    Returns
    -------
    str
        A reason where it is called ``<base>_<word>`` after another image and has its shape.
    """
    found = re.match(r"^(.+)[_.-]([A-Za-z]{2,})$", split_role(path)[0])
    if found is None or found.group(1) not in bases or found.group(2).lower() in _BANDS:
        return ""
    image = bases[found.group(1)]
    try:
        same = _shapes(path) & _shapes(image)
    except InputError:
        return ""
    if not same:
        return ""
    return (
        f"{found.group(2)!r} is no plane's name, and it has the name and shape of {image.name}: "
        "not used (name the file itself to fit it)"
    )


def _shapes(path: Path) -> set[tuple[int, ...]]:
    return {info.shape for info in list_hdus(path) if info.kind == "image"}
