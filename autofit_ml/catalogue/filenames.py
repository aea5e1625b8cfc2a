"""Names of files for ids: an id is what the user wrote, and a file system takes less."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["file_stem", "of_one_file"]

_BYTES = 200
"""Of a name: file systems allow 255, endings included."""

_REFUSED = re.compile(r'[/\\<>:"|?*]|^[.~ ]|[. ]$|~[0-9a-f]{12}$')
"""By some file system; hidden; or what `file_stem` itself makes."""


def file_stem(name: str) -> str:
    """Name, without ending, of the files of one object; different ids have different ones.

    Parameters
    ----------
    name : str
        The object's id.

    Returns
    -------
    str
        The id itself where every file system takes it, else its beginning with unusual characters
        as ``_``, and ``~`` with 12 digits of its sha256.
    """
    kept = name.isprintable() and unicodedata.is_normalized("NFC", name)
    if kept and name and len(name.encode()) <= _BYTES and not _REFUSED.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    plain = re.sub(r"[^\w.+@-]+", "_", unicodedata.normalize("NFC", name)).strip("._ ")
    return f"{plain.encode()[: _BYTES // 2].decode('utf-8', 'ignore')}~{digest}"


def of_one_file(names: Iterable[str]) -> tuple[str, str] | None:
    """Two ids whose files a disk that does not tell upper case from lower takes for the same."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(file_stem(name).casefold(), name)
        if other != name:
            return other, name
    return None
