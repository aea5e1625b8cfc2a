"""`Source`: where one object's planes are; what `discover` hands to the readers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autofit_ml.errors import InputError

__all__ = ["Discovery", "Plane", "Source"]

Plane = tuple[Path, "int | str | None"]
"""(file, HDU index or EXTNAME); None: found when the file is read."""


@dataclass(frozen=True)
class Source:
    """One object to read.

    Attributes
    ----------
    id : str
        Unique within a discovery; as it was written (`autofit_ml.catalogue.file_stem` makes names
        of files of it).
    planes : dict
        plane ("image", "sigma", "var", "ivar", "wht", "noise", "psf", "mask", "seg") ->
        (path, HDU or None).
    kind : {"stamp", "frame"} or None
        None: decided by size when read.
    overrides : dict
        Values of a manifest that win over header cards: x, y, ra, dec, radius, zeropoint,
        pixel_scale, gain, rdnoise, exptime, filter, sky_level, sky_subtracted, saturate,
        psf_fwhm, psf_oversampling, psf_has_pixel, target; of a stamp also region, the part
        (x0, x1, y0, y1) of the file's pixels that is used, 0-based and without x1, y1.
    problem : InputError or None
        Set when the object cannot be read; reading raises it.
    survey : str or None
        Preset that recognised the file.
    messages : tuple of str
        Assumptions made on the way.
    band : str
        Of the image, where images are grouped by band.
    psf_shared : bool
        The PSF is that of the folder, for images that have none in their own file.
    others : tuple of Source or None
        The same object in the run's other bands, in their order; None where it has no image. Then
        further epochs of any band, where these are kept.
    content : mapping of Path to bytes
        Files that are in memory, by the path that stands for them.
    """

    id: str
    planes: Mapping[str, Plane] = field(default_factory=dict)
    kind: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    problem: InputError | None = None
    survey: str | None = None
    messages: tuple[str, ...] = ()
    band: str = ""
    others: "tuple[Source | None, ...]" = ()
    psf_shared: bool = False
    content: Mapping[Path, bytes] = field(default_factory=dict, repr=False)

    @property
    def every_plane(self) -> dict[str, Plane]:
        """Planes of all bands: ``image``; others: ``r:image``, further epochs: ``r+1:image``."""
        planes, seen = dict(self.planes), Counter([self.band])
        for other in filter(None, self.others):
            epoch = f"+{seen[other.band]}" if seen[other.band] else ""
            seen[other.band] += 1
            planes |= {f"{other.band}{epoch}:{name}": at for name, at in other.planes.items()}
        return planes

    def content_of(self, path: Path) -> bytes | None:
        """A file of it, in any band, that is in memory; None: it is on disk."""
        parts = (self, *(other for other in self.others if other is not None))
        return next((part.content[path] for part in parts if path in part.content), None)

    @property
    def file(self) -> str:
        """The image's file (or the problem's), as given."""
        if "image" in self.planes:
            return str(self.planes["image"][0])
        if self.planes:
            return str(next(iter(self.planes.values()))[0])
        if self.problem is not None and self.problem.file is not None:
            return str(self.problem.file)
        return ""


@dataclass(frozen=True)
class Discovery:
    """Sources that were found, and files that were left out; iterates over the sources.

    Attributes
    ----------
    sources : tuple of Source
        Sorted, unique ids.
    ignored : tuple of (Path, str)
        Files in the given folders that are no images, and why.
    bands : tuple of str
        Of the objects, the reference first; empty where every image is an object.
    """

    sources: tuple[Source, ...]
    ignored: tuple[tuple[Path, str], ...] = ()
    bands: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Source]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Source:
        return self.sources[index]
