"""Optional dependencies: what is missing, and the command that installs it.

An extra's requirements are read from the metadata of the installed package, so that pyproject.toml
has their only list. The command names the packages themselves: it is right whether or not
autofit-ml came from an index.
"""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from autofit_ml.errors import SettingsError

__all__ = ["EXTRAS", "install_command", "missing_from", "needs", "require"]

EXTRAS = {
    "simulate": "simulated images, autofit-ml demo",
    "train": "training networks",
    "deconvolve": "deconvolution",
    "difference": "alignment of images with different pixel grids",
    "morphology": "non-parametric morphology (statmorph)",
    "posterior": "nested sampling, files of samples, corner plots",
    "survey": "surveys of large areas, on many machines",
}
"""Extras that users choose, and what each is for."""


def _requirements(extra: str) -> list[str]:
    try:
        everything = metadata.requires("autofit-ml") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return []
    parts = [requirement.partition(";") for requirement in everything]
    return [name.strip() for name, _, when in parts if re.search(rf"""['"]{extra}['"]""", when)]


def missing_from(extra: str) -> list[str]:
    """Requirements of an extra that are not installed, as pip takes them."""
    found = []
    for requirement in _requirements(extra):
        try:
            metadata.version(re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0])
        except metadata.PackageNotFoundError:
            found.append(requirement)
    return found


def install_command(extra: str) -> str:
    """Command that installs what is missing of an extra, or all of it where nothing seems to be."""
    names = missing_from(extra) or _requirements(extra)
    return "pip install " + (" ".join(f'"{name}"' for name in names) or f'".[{extra}]"')


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Turn the failed import of an optional package into one line that says how to get it.

    Parameters
    ----------
    extra : str
        A key of `EXTRAS`.
    what : str
        What cannot be done without it ("nested sampling").

    Raises
    ------
    SettingsError
        A module of another package cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        if name == "autofit_ml":
            raise
        raise SettingsError(
            f"{what} needs {name}, which is not installed", install_command(extra)
        ) from error


def require(extra: str, what: str, *modules: str) -> None:
    """Check that modules of an extra can be found, before anything is computed.

    Parameters
    ----------
    extra, what : str
        As of `needs`.
    *modules : str
        Names of modules, which are not imported.

    Raises
    ------
    SettingsError
        One of them is not installed.
    """
    with needs(extra, what):
        for name in modules:
            if importlib.util.find_spec(name) is None:
                raise ImportError(name=name)
