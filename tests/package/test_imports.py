"""Imports point one way: down the layers of the package, and round in no circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import autofit_ml

PACKAGE = Path(autofit_ml.__file__).parent

LAYERS = (
    ("__main__",),
    ("cli",),
    ("__init__", "api"),
    ("results",),
    ("survey",),
    ("runs",),
    ("population",),
    ("injection",),
    ("deconvolution",),
    ("difference",),
    ("sources",),
    ("simulation",),
    ("posterior",),
    ("fitting",),
    ("initialisation",),
    ("segmentation",),
    ("galfit",),
    ("scenes",),
    ("rendering",),
    ("profiles",),
    ("report",),
    ("images",),
    ("measure",),
    ("weights",),
    ("catalogue",),
    ("settings",),
    ("presets",),
    ("options",),
    ("user_yaml",),
    ("extras",),
    ("errors",),
)
"""From top to bottom; a module imports from its own room and from those below."""

PLACE = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)] = path
    return found


def imports(tree: ast.Module) -> list[tuple[str, int]]:
    """(dotted name below the package, line) of every import that is executed, also in functions.

    Imports for annotations only (``if TYPE_CHECKING``) are no dependencies.
    """
    only_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if (node.module or "").partition(".")[0] == "autofit_ml":
                found += [(f"{node.module}.{name.name}", node.lineno) for name in node.names]
        elif isinstance(node, ast.Import):
            found += [(name.name, node.lineno) for name in node.names]
    return [
        (name.partition(".")[2], line) for name, line in found if name.startswith("autofit_ml.")
    ]


def target(name: str, known: dict[str, Path]) -> str:
    """The module of an imported name; "__init__" for a name of the package itself."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or "__init__"


def graph() -> dict[str, dict[str, int]]:
    """Module -> modules that it imports -> line."""
    known = modules()
    out: dict[str, dict[str, int]] = defaultdict(dict)
    for name, path in known.items():
        for imported, line in imports(ast.parse(path.read_text("utf-8"))):
            if imported != "__version__" and target(imported, known) != name:
                out[name][target(imported, known)] = line
    return out


def test_every_room_has_its_place():
    rooms = {name.partition(".")[0] for name in modules()}
    assert rooms == set(PLACE)


def test_nothing_imports_upwards():
    upwards = [
        f"{name}:{line} imports {other}"
        for name, others in graph().items()
        for other, line in others.items()
        if PLACE[name.partition(".")[0]] > PLACE[other.partition(".")[0]]
    ]
    assert upwards == []


def test_no_module_imports_itself_by_a_detour():
    try:
        TopologicalSorter({name: set(others) for name, others in graph().items()}).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_check_sees_imports_in_functions_and_not_those_for_annotations():
    tree = ast.parse(
        "if TYPE_CHECKING:\n    from autofit_ml.scenes import Scene\n"
        "def f():\n    from autofit_ml.runs.fit import fit_run\n    import autofit_ml.images\n"
    )
    assert imports(tree) == [("runs.fit.fit_run", 4), ("images", 5)]
