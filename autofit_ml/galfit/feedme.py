"""The text of GALFIT and GALFITM input files: lines to entries, and back.

In: text. Out: the control entries by letter, and for each object its entries by number. Nothing is
interpreted here but the layout of a line: ``key) values toggles # comment``.
"""

import re
from dataclasses import dataclass, field

from autofit_ml.errors import SettingsError

__all__ = ["Entry", "Feedme", "parse_feedme"]

_LINE = re.compile(r"^\s*([A-Za-z]\d*|[A-Za-z][A-Za-z]|\d+)\)\s*([^#]*?)\s*(?:#(.*))?$")
_CONTROLS = tuple("ABCDEFGHIJKOPSUVW") + ("A1", "A2")


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes
    ----------
    key : str
        What stands before the bracket.
    words : tuple of str
        Values and toggles.
    comment : str
    line : int
        Number of the line, from 1.
    """

    key: str
    words: tuple[str, ...]
    comment: str
    line: int


@dataclass
class Feedme:
    """A whole file.

    Attributes
    ----------
    controls : dict of str to Entry
    objects : list of dict of str to Entry
        The entry "0" holds the name of the function.
    """

    controls: dict[str, Entry] = field(default_factory=dict)
    objects: list[dict[str, Entry]] = field(default_factory=list)


def parse_feedme(text: str) -> Feedme:
    """Split a file into entries.

    Raises
    ------
    SettingsError
        Something that is no GALFIT file, or a key given twice.
    """
    found = Feedme()
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.match(line)
        if match is None:
            continue  # rules, comments, empty lines, guides: GALFIT skips them too
        key = match[1] if match[1].isdigit() else match[1][0].upper() + match[1][1:]
        words = re.sub(r"\s*,\s*", ",", match[2]).split()
        entry = Entry(key, tuple(words), (match[3] or "").strip(), number)
        if key == "0":
            if not entry.words:
                raise SettingsError(f"line {number}: an object without a name", "write 0) sersic")
            found.objects.append({})
        if not found.objects:
            if key in _CONTROLS:
                found.controls[key] = entry
            continue
        if key in found.objects[-1]:
            raise SettingsError(
                f"line {number}: {key}) is given twice for object {len(found.objects)}", "keep one"
            )
        found.objects[-1][key] = entry
    if not found.objects:
        raise SettingsError(
            "there is no object in it", "give a GALFIT input file with lines such as '0) sersic'"
        )
    return found
