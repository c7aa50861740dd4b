"""Every name that is given as a string resolves, and every folder imports only from the layers below it."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from textual_vision.export.host.step_cache import source_files

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "export", "runtime", "calibration")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TEXTS = [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXTS += sorted((ROOT / "docs").rglob("*.md"))
NAME = re.compile(r"textual_vision(?:\.\w+)+(?::\w+)?")
C_HEADER = ".h"  # textual_vision.h is the C library's
MAX_FILES = 14  # source files of a folder

# Of each package, the layers from top to bottom: a folder (or a file, by its name) imports from itself and
# from the lines below its own. Folders of one line do not import each other.
LAYERS = {
    "export": [
        ["cli", "pytest_plugin"],
        ["testing"],
        ["bench", "tensorrt", "triton", "verification"],
        ["build"],
        ["report", "bundle"],
        ["int8"],
        ["precision"],
        ["parity", "tracing"],
        ["passes"],
        ["sessions"],
        ["loading"],
        ["families"],
        ["model"],
        ["inference_network"],
        ["graph", "host"],
        ["results"],
    ],
    "training": [
        ["cli"],
        ["trainer"],
        ["evaluation"],
        ["sources", "checkpoint"],
        ["emoji"],
        ["data"],
        ["models"],
        ["config_file"],
        ["config_rules"],
        ["config", "int8_grid"],
    ],
}


def id_of(path):
    return str(path.relative_to(ROOT))


def names_in(path):
    """The dotted names of ours that stand in string literals of Python, or anywhere in another text."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return {name for name in NAME.findall(text) if not name.endswith(C_HEADER)}
    literals = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    names = {value for value in literals if isinstance(value, str) and NAME.fullmatch(value)}
    return {name for name in names if not name.endswith(C_HEADER)}


def resolve(name):
    """The module or the attribute called `name`, as "package.module:attribute" or dotted all through."""
    path, _, attribute = name.partition(":")
    parts = path.split(".")
    end = len(parts)
    while end > 2 and not is_module(parts[:end]):
        end -= 1
    found = importlib.import_module(".".join(parts[:end]))
    for part in [*parts[end:], *filter(None, [attribute])]:
        found = getattr(found, part)
    return found


def is_module(parts):
    try:
        return importlib.util.find_spec(".".join(parts)) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *TEXTS], ids=id_of)
def test_every_name_that_is_given_as_a_string_resolves(path):
    for name in names_in(path):
        resolve(name)


@pytest.mark.parametrize("path", [p for p in SOURCES if "__file__" in p.read_text("utf-8")], ids=id_of)
def test_every_path_made_of_a_file_of_ours_exists(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(["textual_vision", *parts]))
    for name, value in vars(module).items():
        if name.isupper() and isinstance(value, Path):
            assert value.exists(), f"{name} is {value}"


def test_kept_steps_depend_on_every_source_file():
    assert [path.resolve() for path in source_files()] == [path.resolve() for path in SOURCES]


def imports_of(path):
    package = path.relative_to(ROOT).parts[0]
    prefix = f"textual_vision.{package}."
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (
            module.removeprefix(prefix).split(".")[0] for module in modules if module.startswith(prefix)
        )


@pytest.mark.parametrize("path", [p for p in SOURCES if p.relative_to(ROOT).parts[0] in LAYERS], ids=id_of)
def test_a_folder_imports_only_from_layers_below_it(path):
    package, room = path.relative_to(ROOT).with_suffix("").parts[:2]
    layers = LAYERS[package]
    if path.name == "__init__.py":
        return
    level = {name: number for number, names in enumerate(layers) for name in names}
    assert room in level, f"{package}/{room} is in no layer"
    for other in imports_of(path):
        assert other in level, f"{package}/{other} is in no layer"
        assert other == room or level[other] > level[room], f"{room} imports {other}, which is not below it"


def test_no_folder_has_more_source_files_than_a_reader_takes_in():
    crowded = {}
    for path in SOURCES:
        if path.name != "__init__.py":
            crowded.setdefault(path.parent, []).append(path.name)
    found = {id_of(folder): len(names) for folder, names in crowded.items() if len(names) > MAX_FILES}
    assert not found
