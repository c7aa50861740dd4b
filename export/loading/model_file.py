"""Run a user's Python file as a program is run: its folder is on the path, its errors name file and line."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

from textual_vision.export.model.stage import StagedModel
from textual_vision.export.model.user_code import is_user_file, user_errors
from textual_vision.runtime.errors import UsageError

HINT = "see docs/how-to/custom-model.md"
PREFIX = "model_file_"  # of a file's name in sys.modules: `torch.py` must not hide torch
MARK = "__imported_by_model_file__"  # an attribute of modules that a file imported from beside it


def model_from_file(path: Path, function: str) -> tuple[StagedModel, dict[str, str]]:
    """What `function()` of the file returns, and the digests of all source files that it consists of.

    Raises UsageError when there is no such file or function, when the file raises, or when it returns
    something else than a StagedModel.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}", f"give FILE.py:FUNCTION; {HINT}")
    path = path.resolve()
    _forget_neighbors()
    before = set(sys.modules)
    with _importable(path), contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
        module = _module_from_file(path)
        make = getattr(module, function, None)
        if not callable(make):
            raise UsageError(f"{path} has no function {function!r}", HINT)
        with user_errors(f"{path.name}: {function}()", path):
            model = make()
    if not isinstance(model, StagedModel):
        problem = f"{path}: {function}() gives {type(model).__name__}, not a StagedModel"
        raise UsageError(problem, HINT)
    return model, _source_digests(path, set(sys.modules) - before, model)


@contextlib.contextmanager
def _importable(path: Path) -> Iterator[None]:
    """The folders from which the file may import come first, and afterwards last.

    A forward may import when it runs; then the names of installed libraries win.
    """
    folders = [str(path.parent)]
    if (names := _package(path)) is not None:
        folders.append(str(path.parents[len(names)]))
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
            if folder not in sys.path:
                sys.path.append(folder)


def _package(path: Path) -> list[str] | None:
    """The names of the packages that the file lies in, outermost first; None when it lies in none."""
    names: list[str] = []
    folder = path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return names or None


def _module_from_file(path: Path) -> ModuleType:
    """The file as a module; in sys.modules, where dataclasses look for it."""
    name = ".".join([*(_package(path) or []), PREFIX + path.stem])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with user_errors(path.name, path):
        spec.loader.exec_module(module)
    return module


def _forget_neighbors() -> None:
    """Drops what earlier files imported from beside them: it may have changed, or lie beside another file."""
    for name, module in list(sys.modules.items()):
        if hasattr(module, MARK):
            del sys.modules[name]


def _source_digests(path: Path, imported: set[str], model: StagedModel) -> dict[str, str]:
    """SHA-256 by path of the file, what it imported that is no library, and its modules' classes."""
    files = {path}
    for name in imported:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file is not None and is_user_file(file):
            files.add(Path(file))
            setattr(module, MARK, str(path.parent))
    for stage in model.stages:
        files |= class_files(stage.module)
    readable = sorted(file for file in files if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in readable}


def class_files(module: nn.Module) -> set[Path]:
    """The source files of the classes of a module and all modules inside it, but PyTorch's."""
    found = set()
    for kind in {base for one in module.modules() for base in type(one).__mro__}:
        if kind.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        with contextlib.suppress(TypeError, OSError):
            found.add(Path(inspect.getfile(kind)))
    return found
