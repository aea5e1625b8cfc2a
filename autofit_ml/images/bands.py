"""Images of the same object in several bands, told by file names, FILTER cards, positions or a
manifest.

In: sources of one image each. Out: one source for each object: its image in the reference band,
the others in `Source.others`.
"""

import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.fitsfile import READ_FAILURES, opened_headers
from autofit_ml.images.header import FILTER_CARDS, read_calibration, text_card
from autofit_ml.images.sky_coordinates import sky_positions
from autofit_ml.images.source import Source

__all__ = ["GroupedBands", "blue_to_red", "group_bands"]

MATCH = 1.0
"""Arcsec within which centres of images are the same place (or two pixels)."""

_BLUE_TO_RED = "ubgvrizyjhk"
"""Usual names of bands."""

_CALL = "call it <object>_<band>.fits, give it a FILTER card, or use a manifest"


@dataclasses.dataclass(frozen=True)
class GroupedBands:
    """Objects with images in several bands.

    Attributes
    ----------
    sources : list of Source
    bands : tuple of str
        The reference first: the first band in which all objects have an image (or, where there is
        none, most of them).
    ignored : list of (Path, str)
        Images of other bands.
    """

    sources: list[Source]
    bands: tuple[str, ...]
    ignored: list[tuple[Path, str]]


def group_bands(
    sources: Sequence[Source],
    bands: Sequence[str],
    named: Collection[Path] = (),
    *,
    epochs: bool = False,
) -> GroupedBands:
    """Group images into objects by band.

    A source with ``band`` (a manifest's column) is of that band. Of the others the id tells it:
    ``<object>_<band>``, ``<object>_<survey>-<band>``, or with the number of an epoch
    ``<object>_<band>2``; else the FILTER card does, and sources with the same id are one object.
    Of several epochs of a band the first is used, or all (`epochs`). Objects that lack bands and
    lie at the same place of the sky (a manifest's ra and dec, else the images' centres) are one.

    Parameters
    ----------
    sources : sequence of Source
        One image each; ids need not be unique.
    bands : sequence of str
        Those wanted, in order.
    named : collection of Path
        Files named outright: they get a row even if their band is not told.
    epochs : bool
        Keep every epoch: those after the first come last in `Source.others`. Images of one band
        that a manifest gives one id are epochs too.

    Raises
    ------
    SettingsError
        A band that no file has; no object has more than one.
    """
    ignored: list[tuple[Path, str]] = []
    broken: list[Source] = []
    members: list[_Member] = []
    seen: dict[str, None] = {}
    for source in sources:
        member, told = _told(source, bands)
        if member.band:
            members.append(member)
            continue
        seen.setdefault(told or source.id.rpartition("_")[2])
        if source.problem is not None:
            broken.append(source)
        elif told:
            ignored.append((Path(source.file), f"of band {told}, not {','.join(bands)}"))
        elif Path(source.file) in named:
            problem = InputError("its name and its header do not tell its band", _CALL, source.file)
            broken.append(dataclasses.replace(source, problem=problem))
        else:
            ignored.append((Path(source.file), "its name and its header do not tell its band"))
    _refuse_missing(bands, [member.band for member in members], seen)
    members, later = _first_epochs(members, epochs)
    ignored += later
    objects = _at_one_place(_objects(members), bands)
    reference = _reference(bands, [images for _, images in objects])
    order = (reference, *(band for band in bands if band != reference))
    if len(order) > 1 and all(len(images) < 2 for _, images in objects):
        raise SettingsError(
            f"no object has images in more than one of {','.join(bands)}",
            "call the files <object>_<band>.fits with the same <object>, or use a manifest",
        )
    joined = [_joined(name, images, order) for name, images in objects]
    return GroupedBands([*joined, *broken], order, ignored)


@dataclasses.dataclass(frozen=True)
class _Member:
    """An image: its object's name, band ("": none of those wanted) and epoch (0: not numbered)."""

    name: str
    band: str
    epoch: int
    source: Source


def _told(source: Source, bands: Sequence[str]) -> tuple[_Member, str]:
    """Object that a source shows, and the band that manifest or FILTER card name."""
    if source.band:
        band = _matching(source.band, bands)
        return _Member(_without(source.id, source.band), band, 0, source), source.band
    for number in ("", r"\d{1,3}"):  # i1 and i2 may be bands of their own
        for band in sorted(bands, key=len, reverse=True):
            for flags in (0, re.IGNORECASE):
                found = _ending(source.id, f"{_in_names(band)}({number})", flags)
                alike = sum(other.lower() == band.lower() for other in bands)
                if found and not (flags and alike > 1):
                    return _Member(found[1], band, int(found[2] or 0), source), band
    told = _filter_card(source)
    return _Member(source.id, _matching(told, bands), 0, source), told


def _first_epochs(
    members: Sequence[_Member], together: bool
) -> tuple[list[_Member], list[tuple[Path, str]]]:
    """One epoch of each object in each band, with the others or with their files left out."""
    every: dict[tuple[str, str, Path], list[_Member]] = {}
    for member in members:
        if member.epoch or together:
            folder = Path() if member.source.band else Path(member.source.file).parent
            every.setdefault((member.name, member.band, folder), []).append(member)
    firsts: dict[int, _Member] = {}
    dropped: set[int] = set()
    later = []
    for some in every.values():
        first, *rest = sorted(some, key=lambda one: one.epoch)
        dropped |= {id(one) for one in rest}
        if together:
            more = tuple(dataclasses.replace(one.source, band=one.band) for one in rest)
            source = dataclasses.replace(first.source, others=more)
            firsts[id(first)] = dataclasses.replace(first, source=source)
            continue
        for one in rest:
            used = f"{one.band}{first.epoch}"
            why = f"another epoch: {used} is used (name {one.band}{one.epoch} in --bands)"
            later.append((Path(one.source.file), why))
    return [firsts.get(id(one), one) for one in members if id(one) not in dropped], later


def _at_one_place(
    objects: list[tuple[str, dict[str, list[Source]]]], bands: Sequence[str]
) -> list[tuple[str, dict[str, list[Source]]]]:
    """Objects that lack bands joined where their images lie at the same place of the sky."""
    lacking = [k for k, (_, images) in enumerate(objects) if len(images) < len(bands)]
    places = {k: place for k in lacking if (place := _place(objects[k][1])) is not None}
    if len(places) < 2:
        return objects
    keys = list(places)
    sky = SkyCoord([places[k][:2] for k in keys], unit="deg")
    reach = max(places[k][2] for k in keys)
    first, second, distance, _ = sky.search_around_sky(sky, reach * units.arcsec)
    joined: dict[int, int] = {}
    for i, j, apart in zip(first.tolist(), second.tolist(), distance.arcsec.tolist(), strict=True):
        one, other = keys[i], keys[j]
        if i >= j or other in joined or apart > max(places[one][2], places[other][2]):
            continue
        one = joined.get(one, one)
        if not objects[one][1].keys() & objects[other][1].keys():
            objects[one][1].update(objects[other][1])
            joined[other] = one
    return [item for k, item in enumerate(objects) if k not in joined]


def _place(images: dict[str, list[Source]]) -> tuple[float, float, float] | None:
    """(ra, dec, reach in arcsec) of an object's first image; None without a position."""
    source = next(iter(images.values()))[0]
    wanted = source.overrides
    if "ra" in wanted and "dec" in wanted:
        return float(wanted["ra"]), float(wanted["dec"]), MATCH
    if source.problem is not None or "image" not in source.planes:
        return None
    path, key = source.planes["image"]
    try:
        with opened_headers(path) as hdus:
            images_of = [hdu for hdu in hdus if len(hdu.shape) == 2]
            hdu = hdus[key] if key is not None else images_of[0]
            ny, nx = hdu.shape
            calibration = read_calibration([hdu.header])
            if calibration.wcs is None:
                return None
            x = np.array([float(wanted.get("x", (nx - 1) / 2))])
            y = np.array([float(wanted.get("y", (ny - 1) / 2))])
            ra, dec = sky_positions(calibration.wcs, x, y)
    except READ_FAILURES:
        return None
    return float(ra[0]), float(dec[0]), max(MATCH, 2.0 * calibration.pixel_scale)


def _matching(told: str, bands: Sequence[str]) -> str:
    """The band that a name means: itself, or its last word (``HSC-R``, ``SDSS r``); "" if none."""
    whole, last = told.strip(), re.split(r"[^A-Za-z0-9]+", told.strip())[-1]
    words = (whole, whole.lower(), last, last.lower())
    found = (
        band
        for k, word in enumerate(words)
        for band in bands
        if word and word == (band.lower() if k % 2 else band)
    )
    return next(found, "")


def _without(name: str, band: str) -> str:
    """An id without the band at its end."""
    found = _ending(name, _in_names(band), re.IGNORECASE)
    return found.group(1) if found else name


def _ending(name: str, band: str, flags: int) -> re.Match[str] | None:
    return re.fullmatch(rf"(.+)_(?:[A-Za-z0-9]+-)?{band}", name, flags | re.DOTALL)


def _in_names(band: str) -> str:
    """Pattern of a band in names of files, where blanks and the like are often ``_``."""
    usual = re.sub("[^A-Za-z0-9._+-]+", "_", band).strip("._-")
    return f"(?:{'|'.join(re.escape(name) for name in dict.fromkeys((band, usual)) if name)})"


def _filter_card(source: Source) -> str:
    """FILTER card of a source's image; "" where it cannot be read or has none."""
    if source.problem is not None or "image" not in source.planes:
        return ""
    if source.overrides.get("filter"):
        return str(source.overrides["filter"])
    path, key = source.planes["image"]
    try:
        with opened_headers(path) as hdus:
            headers = [hdu.header for hdu in hdus]
            if key is not None:
                headers = [hdus[key].header, *headers[:1]]
            return str(text_card(headers, FILTER_CARDS))
    except READ_FAILURES:
        return ""


def _refuse_missing(bands: Sequence[str], found: Sequence[str], seen: Collection[str]) -> None:
    missing = [band for band in bands if band not in found]
    if not missing:
        return
    others = ", ".join([*dict.fromkeys(found), *seen][:10]) or "none"
    raise SettingsError(
        f"no file of band {', '.join(missing)}",
        f"the files have {others}; names like <object>_<band>.fits or FILTER cards tell it",
    )


def _objects(
    members: Sequence[_Member],
) -> list[tuple[str, dict[str, list[Source]]]]:
    """(name, band -> its images) of each object.

    Files of the same object may lie in folders of their bands; where that would give an object two
    images of a band, each folder has its own objects.
    """
    whole: dict[str, dict[str, list[Source]]] = {}
    for member in members:
        images = whole.setdefault(member.name, {})
        images.setdefault(member.band, []).append(member.source)
    out: list[tuple[str, dict[str, list[Source]]]] = []
    for name, images in whole.items():
        if all(len(some) == 1 for some in images.values()):
            out.append((name, images))
            continue
        by_folder: dict[Path, dict[str, list[Source]]] = {}
        for band, some in images.items():
            for source in some:
                folder = by_folder.setdefault(Path(source.file).parent, {})
                folder.setdefault(band, []).append(source)
        out += [(name, own) for own in by_folder.values()]
    return out


def _reference(bands: Sequence[str], objects: Sequence[dict[str, list[Source]]]) -> str:
    """The first band that most objects have; all, as a rule."""
    counts = [sum(band in images for images in objects) for band in bands]
    return bands[counts.index(max(counts))]


def _joined(name: str, images: dict[str, list[Source]], order: Sequence[str]) -> Source:
    """One object; with a problem where its reference image is missing or two are of one band."""
    twice = [band for band, some in images.items() if len(some) > 1]
    by_band = {band: dataclasses.replace(some[0], band=band) for band, some in images.items()}
    first = by_band.get(order[0]) or next(iter(by_band.values()))
    images_of = [by_band[band] for band in order if band in by_band]
    more = [epoch for one in images_of for epoch in one.others if epoch is not None]
    every = (*by_band.values(), *more)
    problem = next((s.problem for s in every if s.problem is not None), None)
    if twice:
        files = ", ".join(Path(source.file).name for source in images[twice[0]])
        problem = InputError(
            f"several images of band {twice[0]}: {files}",
            "name the bands as the files do (kids-r,sdss-r), or use a manifest",
            first.file,
        )
    elif order[0] not in by_band:
        problem = InputError(
            f"no image in the reference band {order[0]} (it has {', '.join(sorted(by_band))})",
            "name bands of which all objects have one, or fit this object by itself",
            first.file,
        )
    alone = {band: dataclasses.replace(one, others=()) for band, one in by_band.items()}
    others = [alone.get(band) if order[0] in by_band else None for band in order[1:]]
    return dataclasses.replace(first, id=name, problem=problem, others=(*others, *more))


def blue_to_red(names: Sequence[str]) -> list[str]:
    """Bands in the order of their wavelengths where all have usual names, else as given.

    ``r`` of ``SDSS-r`` or ``HSC-R`` counts.
    """
    short = [re.split(r"[^A-Za-z0-9]+", name.strip())[-1].lower() for name in names]
    if not all(len(name) == 1 and name in _BLUE_TO_RED for name in short):
        return list(names)
    return [names[k] for k in sorted(range(len(names)), key=lambda k: _BLUE_TO_RED.index(short[k]))]
