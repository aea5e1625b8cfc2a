"""Find the objects in files, folders, globs and manifests.

The names of files decide as far as they can, so that a folder of thousands of planes is not
opened; a file without a plane suffix is looked into (headers only).
"""

import dataclasses
import glob
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.bands import group_bands
from autofit_ml.images.fitsfile import list_hdus, open_fits
from autofit_ml.images.manifest import read_manifest
from autofit_ml.images.planes import group_hdus, unused_hdus
from autofit_ml.images.roles import (
    as_id,
    fits_stem,
    is_auxiliary,
    is_fits_name,
    split_role,
)
from autofit_ml.images.siblings import (
    is_unnamed_plane,
    planes_beside,
    preferred,
    siblings,
    split_hdu,
)
from autofit_ml.images.source import Discovery, Plane, Source
from autofit_ml.images.survey_files import is_survey_plane, match_files
from autofit_ml.presets import SurveyPreset, survey_preset

__all__ = ["discover"]

NOT_FITS = "give a FITS image (.fits, .fits.gz, .fits.fz, .fits.bz2)"


def discover(
    paths: str | Path | Iterable[str | Path] | None,
    *,
    manifest: str | Path | None = None,
    survey: str | None = None,
    mode: str = "auto",
    bands: Sequence[str] = (),
    epochs: bool = False,
) -> Discovery:
    """Expand files, folders and globs into objects.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, ``file.fits[HDU]`` (index, EXTNAME or ``EXTNAME,EXTVER``), folders (not searched
        deeper) or glob patterns (``**`` allowed).
    manifest : path, optional
        Table of objects, see `autofit_ml.images.read_manifest`; then `paths` must be empty.
    survey : str, optional
        Preset whose file names are recognised too.
    mode : {"auto", "stamp", "frame"}
        Kind of every source; "auto": the preset's for the files it knows, else by size.
    bands : sequence of str
        Images of these bands are grouped into objects (`autofit_ml.images.bands`), the first
        band's being the reference. A manifest with several bands needs none.
    epochs : bool
        Keep all epochs of a band, not the first one alone.

    Returns
    -------
    Discovery
        Sources sorted by file name, with unique ids: the file's name, with its folder's in front
        where `paths` name several folders or a pattern of folders. The files of folders and globs
        that are no images, with the reason. A file named outright that is no FITS image, a broken
        FITS file anywhere and a plane without its image give a source with ``problem`` set, so
        that each still gets its row.

    Raises
    ------
    SettingsError
        Missing path, unknown survey or mode, nothing found; a band that no file has.
    """
    if mode not in ("auto", "stamp", "frame"):
        raise SettingsError(f"unknown mode {mode!r}", "use auto, stamp or frame")
    preset = survey_preset(survey) if survey is not None else None
    items = _as_list(paths)
    if manifest is not None:
        if items:
            raise SettingsError("both paths and a manifest are given", "give one of them", manifest)
        found = read_manifest(manifest, survey=survey, bands=bands, epochs=epochs)
    else:
        if not items:
            raise SettingsError("no input given", "name FITS files, a folder or a manifest")
        found = _from_paths(items, preset, bands, epochs)
    sources = _apart_from_frames(found.sources)
    if mode != "auto":
        sources = tuple(dataclasses.replace(source, kind=mode) for source in sources)
    return dataclasses.replace(found, sources=sources)


def _as_list(paths: str | Path | Iterable[str | Path] | None) -> list[Path]:
    if paths is None:
        return []
    if isinstance(paths, (str, Path)):
        return [Path(paths)]
    return [Path(path) for path in paths]


def _from_paths(
    items: Sequence[Path], preset: SurveyPreset | None, bands: Sequence[str], epochs: bool
) -> Discovery:
    named, listed, hdus, prefixes = _expand(items)
    ignored: list[tuple[Path, str]] = []
    sources = [_one_hdu(path, key, preset) for path, key in hdus]
    candidates: list[Path] = []
    for path in sorted(named | listed, key=str):
        explicit = path in named
        if not explicit and is_result(path):
            ignored.append((path, "written by a run of this program"))
        elif is_fits_name(path):
            if not explicit and is_auxiliary(path):
                ignored.append((path, "its name says that it is no image of an object"))
            else:
                candidates.append(path)
        elif explicit:
            problem = InputError("not a FITS file by its name", NOT_FITS, path)
            sources.append(Source(as_id(path.name), problem=problem))
        elif not path.is_dir():
            ignored.append((path, "not a FITS file"))
    if preset is not None:
        matched, candidates = match_files(preset, candidates)
        sources.extend(matched)
    grouped, skipped = _group(candidates, named)
    ignored.extend(skipped)
    for source in grouped:
        path = Path(source.file)
        alone = "image" not in source.planes and path not in named
        if preset is not None and alone and is_survey_plane(preset, path):
            ignored.append((path, f"a plane of {preset.name}, whose image is not there"))
        else:
            sources.append(source)
    if not sources:
        detail = f"{len(ignored)} files there are no images" if ignored else "nothing is there"
        first = items[0]
        raise SettingsError(
            f"no FITS image found: {detail}",
            "name FITS images, a folder that holds them (subfolders: 'folder/**/*.fits'), or a "
            "--manifest",
            first if len(items) == 1 else None,
        )
    order: tuple[str, ...] = ()
    if not bands:
        sources = [_with_prefix(source, prefixes) for source in sources]
    else:
        joined = group_bands(sources, bands, named, epochs=epochs)
        sources, order = joined.sources, joined.bands
        ignored += joined.ignored
    sources.sort(key=lambda source: (str(Path(source.file)), source.id))
    return Discovery(tuple(_unique_ids(sources)), tuple(ignored), order)


def is_result(path: Path) -> bool:
    """True if a run wrote this file: the catalogue, or one in ``objects/`` or ``previews/``.

    Told by the state that a run leaves in its folder. Such a file is never an image, and must not
    have a part in the choice of ids: they would change once there are results.
    """
    folder = path.parent.parent if path.parent.name in ("objects", "previews") else path.parent
    named = folder != path.parent or path.name.startswith("catalog.")
    return named and (folder / ".work" / "state.json").is_file()


def _one_hdu(path: Path, key: int | str, preset: SurveyPreset | None) -> Source:
    """The object of ``file.fits[HDU]``."""
    planes, messages, shared = planes_beside(path, preset)
    name = f"{split_role(path)[0] or fits_stem(path)}_{key}"
    planes = {"image": (path, key), **planes}
    return Source(as_id(name), planes, messages=messages, psf_shared=shared)


def _with_prefix(source: Source, prefixes: Mapping[Path, str]) -> Source:
    """Put its folder's name in front of a source's id, where the call names several folders."""
    prefix = prefixes.get(Path(source.file).parent, "")
    if not prefix or source.id == prefix:
        return source
    return dataclasses.replace(source, id=as_id(f"{prefix}_{source.id}"))


def _prefixes(items: Sequence[Path]) -> dict[Path, str]:
    """Prefixes that distinguish files of the folders that the call names, if it names several."""
    return {item: item.resolve().name for item in items} if len(items) > 1 else {}


def _prefixes_of_glob(pattern: str, hits: Sequence[Path]) -> dict[Path, str]:
    """The same for a pattern of folders (``nights/*/m51.fits``): their names below its root."""
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if any(sign in part for sign in "*?["))
    if fixed == len(parts) - 1:
        return {}
    return {hit.parent: "_".join(hit.parts[fixed:-1]) for hit in hits}


def _expand(
    items: Sequence[Path],
) -> tuple[set[Path], set[Path], list[tuple[Path, int | str]], dict[Path, str]]:
    """(files named outright, files found in folders and by globs, ``file.fits[HDU]``, folder ->
    what stands before the ids of its files)."""
    folders: list[Path] = []
    prefixes: dict[Path, str] = {}
    named: set[Path] = set()
    listed: set[Path] = set()
    hdus: list[tuple[Path, int | str]] = []
    for item in items:
        try:
            if item.is_dir() and not is_fits_name(item):
                folders.append(item)
                listed.update(path for path in item.iterdir() if not path.name.startswith("."))
                continue
            exists = item.exists()
        except OSError as error:
            raise SettingsError(
                f"cannot be read: {error.strerror or error}", "check the permissions", item
            ) from error
        if exists:
            named.add(item)
            continue
        text = str(item)
        file, key = split_hdu(text)
        if key is not None and is_fits_name(Path(file)) and Path(file).is_file():
            hdus.append((Path(file), key))
            continue
        if any(sign in text for sign in "*?["):
            hits = [Path(hit) for hit in glob.glob(text, recursive=True)]
            if not hits:
                raise SettingsError("nothing matches this pattern", "check it", item)
            listed.update(hits)
            prefixes |= _prefixes_of_glob(text, hits)
            continue
        raise SettingsError("no such file or folder", "check the path", item)
    return named, listed - named, hdus, prefixes | _prefixes(folders)


def _group(
    candidates: Sequence[Path], named: set[Path]
) -> tuple[list[Source], list[tuple[Path, str]]]:
    """Group files into objects by folder and base name."""
    ignored: list[tuple[Path, str]] = []
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in candidates:
        base, role, _ = split_role(path)
        group = groups.setdefault((path.parent, base), {})
        first = group.setdefault(role, path)
        if first != path:
            group[role] = preferred(first, path)
            other = path if group[role] == first else first
            ignored.append((other, f"same plane as {group[role].name}"))
    shared = {
        folder: group["psf"]
        for (folder, base), group in groups.items()
        if base == ""
        and set(group) == {"psf"}
        and any(other == folder and name for other, name in groups)
    }
    for (folder, base), group in groups.items():
        if any(path in named for path in group.values()):
            for role, path in siblings(folder, base).items():
                group.setdefault(role, path)
            beside = siblings(folder, "").get("psf")
            if beside is not None and (folder, "") not in groups:
                shared[folder] = beside
    images: dict[Path, dict[str, Path]] = {}
    for (folder, base), group in groups.items():
        if "image" in group:
            images.setdefault(folder, {})[base] = group["image"]
    sources: list[Source] = []
    for (folder, base), files in groups.items():
        if base == "" and folder in shared:
            continue
        if "image" not in files:
            sources.append(_orphan(base, files))
            continue
        image = files["image"]
        if len(files) == 1 and image not in named and not split_role(image)[2]:
            reason = is_unnamed_plane(image, images[folder])
            if reason:
                ignored.append((image, reason))
                continue
        planes: dict[str, Plane] = {role: (path, None) for role, path in files.items()}
        common = "psf" not in planes and folder in shared
        if common:
            planes["psf"] = (shared[folder], None)
        name = base or folder.resolve().name
        if split_role(image)[2] or len(planes) > 1 + common:
            sources.append(Source(as_id(name), planes, psf_shared=common))
            continue
        found, reason = _look_into(image, name, planes, common, image in named)
        sources.extend(found)
        if reason:
            ignored.append((image, reason))
    return sources, ignored


def _orphan(base: str, files: dict[str, Path]) -> Source:
    path = min(files.items())[1]
    problem = InputError(
        f"a {' and '.join(sorted(files))} plane without its image",
        f"add {base or 'the image'}_image.fits or {base or 'image'}.fits beside it, or use a "
        "manifest",
        path,
    )
    return Source(
        as_id(base or fits_stem(path)), {r: (p, None) for r, p in files.items()}, problem=problem
    )


def _look_into(
    path: Path, name: str, planes: dict[str, Plane], common: bool, explicit: bool
) -> tuple[list[Source], str]:
    """Sources in a lone file without a plane suffix, or the reason why there is none."""

    def one(problem: InputError | None = None) -> list[Source]:
        return [Source(as_id(name), planes, problem=problem, psf_shared=common)]

    try:
        infos = list_hdus(path)
    except InputError as error:
        return one(error), ""
    grouping = group_hdus(infos)
    if grouping.problem:
        return one(InputError(grouping.problem, "give each plane once", path)), ""
    if not grouping.objects:
        try:
            unread = open_fits(path).unread
        except InputError as error:
            return one(error), ""
        if unread:
            reason = f"no image before the damaged header: {grouping.why_none}"
            return one(InputError(reason, "copy or download the file again", path)), ""
        if explicit:
            reason = f"no image in it: {grouping.why_none}"
            return one(InputError(reason, "give an image", path)), ""
        return [], f"no image in it: {grouping.why_none}"
    if len(grouping.objects) == 1:
        return one(), ""
    beside = {role: plane for role, plane in planes.items() if role != "image"}
    sources = []
    for part, roles in grouping.objects:
        own: dict[str, Plane] = {role: (path, index) for role, index in roles.items()}
        shared = common and "psf" not in own
        sources.append(Source(as_id(f"{name}_{part}"), beside | own, psf_shared=shared))
    return sources, "; ".join(unused_hdus(path, grouping.unused))


def _unique_ids(sources: Sequence[Source]) -> list[Source]:
    """Ids made different where files of several folders share their name.

    What another file is called changes no id but those that are the same: with the folder's name in
    front, and where these are the same too, with some digits of the path's hash.
    """
    for step in (_with_folder, _with_hash):
        counts = Counter(source.id for source in sources)
        sources = [
            dataclasses.replace(source, id=step(source)) if counts[source.id] > 1 else source
            for source in sources
        ]
    return list(sources)


def _with_folder(source: Source) -> str:
    parent = Path(source.file).resolve().parent.name if source.file else ""
    return as_id(f"{parent}_{source.id}") if parent else source.id


def _with_hash(source: Source) -> str:
    place = repr(sorted((role, str(path), key) for role, (path, key) in source.planes.items()))
    digest = hashlib.sha256(f"{source.file} {place}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{source.id}_{digest[:8]}"


def _apart_from_frames(sources: Sequence[Source]) -> tuple[Source, ...]:
    """No id is that of an object of a frame, ``<frame>@<number>``."""
    every = {source.id for source in sources}
    out = []
    for source in sources:
        frame, _, number = source.id.rpartition("@")
        if frame in every and number.isdigit():
            source = dataclasses.replace(source, id=f"{source.id}_")
        out.append(source)
    return tuple(out)
