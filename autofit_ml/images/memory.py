"""Images in memory as sources: each becomes the bytes of a FITS file, and is read like one.

In: arrays, `~astropy.nddata.NDData` (`~astropy.nddata.CCDData`), `~astropy.nddata.Cutout2D`, HDUs.
Out: a `Discovery`, whose sources hold their files' content.
"""

import dataclasses
import io
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D, NDData, NDUncertainty
from astropy.wcs import WCS

from autofit_ml.errors import SettingsError
from autofit_ml.images.roles import hdu_role
from autofit_ml.images.source import Discovery, Source
from autofit_ml.images.stamp import PSF, VaryingPSF
from autofit_ml.settings import InMemory, ReadOptions

__all__ = [
    "Image",
    "images_in_memory",
    "is_list",
    "is_paths",
    "plane_changes",
    "read_options",
    "refuse_planes",
]

Image: TypeAlias = "np.ndarray | NDData | Cutout2D | fits.HDUList | Mapping[str, Any]"
"""One object's image; a mapping: its images by band, the reference first."""

_NOISE = ("sigma", "var", "ivar", "wht", "noise")
_NAMES = {
    "sigma": "ERR", "var": "VAR", "ivar": "IVAR", "psf": "PSF", "mask": "MASK", "seg": "SEG",
}  # fmt: skip
_UNCERTAINTIES = {"std": "sigma", "var": "var", "ivar": "ivar"}
_WCS_CARDS = ("CD?_?", "PC?_?", "CDELT?", "CROTA?", "CTYPE?", "CRPIX?", "CRVAL?", "CUNIT?")


def is_paths(data: Any) -> bool:
    """True if `data` names files (or nothing, as with a manifest)."""
    if data is None or isinstance(data, (str, Path)):
        return True
    if isinstance(data, (np.ndarray, NDData, Cutout2D, fits.HDUList, Mapping)):
        return False
    return bool(data) and all(isinstance(item, (str, Path)) for item in data)


def is_list(data: Any) -> bool:
    """True if `data` is a list of images; an HDUList is one image."""
    return isinstance(data, (list, tuple)) and not isinstance(data, fits.HDUList)


def read_options(given: InMemory) -> ReadOptions:
    """The options of reading that images in memory leave: their noise and PSFs are planes."""
    return given.part(ReadOptions, **plane_changes(given))


def plane_changes(given: InMemory) -> dict[str, Any]:
    """Options that are planes of images in memory, unset."""
    return {"sigma": None, "psf": given.psf if said_by_option(given.psf) else None}


def said_by_option(psf: Any) -> bool:
    """True if a PSF is said by the options of a run rather than by an array."""
    return isinstance(psf, (str, Path, PSF, VaryingPSF, type(None))) or hasattr(psf, "grid_xypos")


def refuse_planes(given: InMemory) -> None:
    """Refuse planes in memory with images in files.

    Raises
    ------
    SettingsError
    """
    if given.given_planes:
        raise SettingsError(
            f"{', '.join(given.given_planes)} with images in files",
            "put the planes beside the images (<name>_mask.fits ...), the positions into a "
            "manifest, or give the images themselves",
        )


def images_in_memory(data: Any, given: InMemory) -> Discovery:
    """Sources of images in memory.

    Parameters
    ----------
    data : Image or sequence of Image
    given : InMemory
        What was given with them: each a single value or a list, one for each image.

    Returns
    -------
    Discovery
        Ids are those given, else ``image``, or ``image_1`` ... for a list.

    Raises
    ------
    SettingsError
        Something that is no image, or lists of different lengths.
    """
    several = is_list(data)
    images = list(data) if several else [data]
    if not images:
        raise SettingsError("there are no images: the list is empty", "give one image at least")
    names = [f"image_{k:0{len(str(len(images)))}d}" for k in range(1, len(images) + 1)]
    ids = _each("ids", given.ids, len(images), several) if given.ids is not None else names
    ids = [str(name) for name in ids] if several or given.ids is not None else ["image"]
    if len(set(ids)) < len(ids):
        raise SettingsError("two images have the same id", "give each image an id of its own")
    beside = {
        name: _each(name, getattr(given, name), len(images), several)
        for name in ("sigma", "psf", "mask", "segmentation", "wcs", "x", "y")
    }
    mode = read_options(given).mode
    kind = None if mode == "auto" else mode
    encoded: dict[tuple[int, ...], bytes] = {}
    sources, bands = [], None
    for k, (name, item) in enumerate(zip(ids, images, strict=True)):
        mine = {word: values[k] for word, values in beside.items()}
        if not isinstance(item, Mapping):
            mine_bands: tuple[str, ...] = ()
            sources.append(_source(name, item, mine, kind, encoded))
        else:
            mine_bands = tuple(map(str, item))
            parts = []
            for band, image in item.items():
                own = {
                    word: value.get(band) if isinstance(value, Mapping) else value
                    for word, value in mine.items()
                }
                part = _source(f"{name}_{band}", image, own, kind, encoded)
                parts.append(dataclasses.replace(part, band=str(band)))
            sources.append(dataclasses.replace(parts[0], id=name, others=tuple(parts[1:])))
        if bands not in (None, mine_bands):
            raise SettingsError(
                f"image {name} has the bands {', '.join(mine_bands) or '(one)'}, the first "
                f"{', '.join(bands or ()) or '(one)'}",
                "give every object the same bands, in one order",
            )
        bands = mine_bands
    return Discovery(tuple(sources), (), bands if bands is not None and len(bands) > 1 else ())


def _each(name: str, value: Any, count: int, several: bool) -> list[Any]:
    """A value for each image: items of a list, or the same one."""
    listed = isinstance(value, (list, tuple)) or (
        several and isinstance(value, np.ndarray) and value.ndim == 1
    )
    if not listed:
        return [value] * count
    if not several or len(value) != count:
        raise SettingsError(
            f"{name} has {len(value)} items, for {count if several else 'one'} image(s)",
            "give a list of images and one item for each of them",
        )
    return list(value)


def _source(
    name: str,
    data: Any,
    given: Mapping[str, Any],
    kind: str | None,
    encoded: dict[tuple[int, ...], bytes],
) -> Source:
    """One image as a source; `encoded` keeps what several sources share."""
    planes = {word: given[word] for word in ("sigma", "psf", "mask", "segmentation", "wcs")}
    key = (id(data), *map(id, planes.values()))
    if key not in encoded:
        encoded[key] = _fits_bytes(name, data, **planes)
    path = Path(name)
    overrides = {axis: float(given[axis]) for axis in "xy" if given[axis] is not None}
    if not overrides and isinstance(data, Cutout2D):
        overrides = dict(zip("xy", map(float, data.input_position_cutout), strict=True))
    if len(overrides) == 1:
        raise SettingsError(f"image {name}: one of x and y only", "give both, or neither")
    return Source(
        name, {"image": (path, None)}, kind=kind, overrides=overrides, content={path: encoded[key]}
    )


def _fits_bytes(
    name: str, data: Any, *, sigma: Any, psf: Any, mask: Any, segmentation: Any, wcs: Any
) -> bytes:
    """An image with its planes as a FITS file."""
    hdus, own = _hdus_of(name, data)
    given = {"mask": _array(mask), "seg": _array(segmentation)} | _noise(name, sigma, hdus)
    given |= {} if said_by_option(psf) else {"psf": psf}
    planes = own | {role: value for role, value in given.items() if value is not None}
    if any(role in _NOISE for role in given):
        planes = {r: v for r, v in planes.items() if r not in _NOISE or r in given}
    replaced = {*planes, *(_NOISE if any(role in _NOISE for role in planes) else ())}
    kept = [hdus[0]] + [
        hdu for hdu in hdus[1:] if hdu_role(hdu.name, hdu.header.get("UTYPE", "")) not in replaced
    ]
    if wcs is not None:
        image = next((hdu for hdu in kept if hdu.data is not None), kept[0])
        _set_wcs(name, image.header, wcs)
    kept += [_plane_hdu(name, role, value) for role, value in planes.items()]
    content = io.BytesIO()
    fits.HDUList(kept).writeto(content, output_verify="silentfix")
    return content.getvalue()


def _hdus_of(name: str, data: Any) -> tuple[list[Any], dict[str, Any]]:
    """HDUs of an image, and the planes that come with it."""
    if isinstance(data, fits.HDUList):
        if not len(data):
            raise SettingsError(f"image {name}: an empty HDUList", "give one with an image")
        first = data[0]
        if not isinstance(first, (fits.PrimaryHDU, fits.PrimaryHDU.__mro__[1])):
            return [fits.PrimaryHDU(), *data], {}
        return list(data), {}
    if isinstance(data, (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)):
        return [fits.PrimaryHDU(data.data, data.header)], {}
    header, planes, wcs = fits.Header(), {}, None
    if isinstance(data, NDData):
        header, wcs = _header(data.meta), data.wcs
        planes = {"mask": data.mask, "psf": getattr(data, "psf", None)}
        hdu = fits.PrimaryHDU(_pixels(name, data.data), header)
        planes |= _noise(name, data.uncertainty, [hdu])
        if data.unit is not None:
            hdu.header["BUNIT"] = data.unit.to_string()
    elif isinstance(data, Cutout2D):
        wcs, hdu = data.wcs, fits.PrimaryHDU(_pixels(name, data.data))
    else:
        if isinstance(data, np.ma.MaskedArray):
            planes = {"mask": np.ma.getmaskarray(data)}
        hdu = fits.PrimaryHDU(_pixels(name, data))
        if isinstance(data, u.Quantity) and data.unit != u.dimensionless_unscaled:
            hdu.header["BUNIT"] = data.unit.to_string()
    if wcs is not None:
        _set_wcs(name, hdu.header, wcs)
    return [hdu], {role: value for role, value in planes.items() if value is not None}


def _array(value: Any) -> Any:
    """The array in a Cutout2D, NDData, SegmentationImage or EPSF; anything else as it is."""
    own = getattr(value, "data", None)
    return own if isinstance(own, np.ndarray) and not isinstance(value, np.ndarray) else value


def _pixels(name: str, values: Any) -> np.ndarray:
    """An array that FITS can hold; numbers are kept as they are."""
    array = np.asarray(np.ma.getdata(values))
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise SettingsError(
            f"{name} is {_told(values, array)}, not a two-dimensional array of numbers",
            "give an array, NDData, CCDData, Cutout2D or HDUList, a list of these, or paths",
        )
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return array


def _told(values: Any, array: np.ndarray) -> str:
    if array.ndim == 0:
        return f"of type {type(values).__name__}"
    return f"an array of {array.dtype} and shape {array.shape}"


def _noise(name: str, value: Any, hdus: Sequence[Any]) -> dict[str, Any]:
    """The noise plane of a number, an array or an uncertainty."""
    if value is None:
        return {}
    if not isinstance(value, NDUncertainty):
        image = next((hdu for hdu in hdus if hdu.data is not None), hdus[0])
        if isinstance(value, u.Quantity) and "BUNIT" in image.header:
            value = value.to_value(u.Unit(image.header["BUNIT"]))
        if isinstance(value, numbers.Real):
            value = np.full(np.shape(image.data), float(value))
        return {"sigma": _array(value)}
    role = _UNCERTAINTIES.get(value.uncertainty_type)
    if role is None:
        raise SettingsError(
            f"image {name} has an uncertainty of type {value.uncertainty_type!r}",
            "use StdDevUncertainty, VarianceUncertainty or InverseVariance",
        )
    return {role: value.array}


def _plane_hdu(name: str, role: str, value: Any) -> fits.ImageHDU:
    """A plane other than the image; an oversampled PSF model says so."""
    hdu = fits.ImageHDU(_pixels(f"{name} ({_NAMES[role]})", _array(value)), name=_NAMES[role])
    oversampling = getattr(value, "oversampling", None)
    if role == "psf" and oversampling is not None:
        hdu.header["OVERSAMP"] = int(np.max(oversampling))
    return hdu


def _header(meta: Any) -> fits.Header:
    """Cards of what FITS can say of the metadata of an image."""
    if isinstance(meta, fits.Header):
        return meta.copy(strip=True)
    header = fits.Header()
    for name, value in dict(meta or {}).items():
        keyword = str(name).upper()
        value = value.item() if isinstance(value, np.generic) else value
        if len(keyword) <= 8 and isinstance(value, (bool, int, float, str)):
            try:
                header[keyword] = value
                str(header)
            except (ValueError, fits.VerifyError):  # NaN, letters that FITS does not know
                header.remove(keyword, ignore_missing=True)
    return header


def _set_wcs(name: str, header: fits.Header, wcs: Any) -> None:
    """Put a WCS in the place of the one in a header."""
    own: Callable[[], fits.Header] | None = None
    if isinstance(wcs, WCS):
        own = lambda: wcs.to_header(relax=True)  # noqa: E731
    elif isinstance(getattr(wcs, "low_level_wcs", None), WCS):
        own = lambda: wcs.low_level_wcs.to_header(relax=True)  # noqa: E731
    if own is None:
        raise SettingsError(
            f"image {name}: the WCS is of type {type(wcs).__name__}", "give an astropy.wcs.WCS"
        )
    for pattern in _WCS_CARDS:
        header.remove(pattern, ignore_missing=True, remove_all=True)
    header.update(own())
