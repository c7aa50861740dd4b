"""Every name of TensorRT's that the code uses exists in all six real versions, or is asked for beforehand."""

import ast
import itertools
from pathlib import Path

import pytest
from fake_tensorrt import VERSIONS, fake_library, has, surfaces

from textual_vision.runtime.backends.tensorrt.api import has_api

ROOT = Path(__file__).parents[3]

# file → variable or attribute of self → its class in the library; `trt` is the library itself everywhere
VARIABLES = {
    "runtime/backends/tensorrt/api.py": {},
    "runtime/backends/tensorrt/session.py": {"runtime": "Runtime"},
    "runtime/backends/tensorrt/engine_session.py": {
        "engine": "ICudaEngine",
        "_engine": "ICudaEngine",
        "_context": "IExecutionContext",
    },
    "export/tensorrt/builder.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "shapes": "IOptimizationProfile",
        "cache": "ITimingCache",
        "tensor": "ITensor",
        "error": "ParserError",
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "inspector": "EngineInspector",
    },
    "export/tensorrt/progress.py": {"config": "IBuilderConfig"},
    "calibration/tensorrt_cache.py": {},
}
OF_PYTHON = ("__version__", "__init__", "__members__")


def test_all_six_versions_are_there():
    assert set(surfaces()) == set(VERSIONS)


@pytest.mark.parametrize("file", VARIABLES)
def test_every_name_exists_in_every_version_in_which_it_is_reached(file):
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    uses = list(names_used(tree, VARIABLES[file]))
    assert uses or file.endswith("progress.py")
    for name, guards, line in uses:
        for version, surface in surfaces().items():
            skipped = any(not has(surface, guard) for guard in guards)
            assert has(surface, name) or skipped, f"{file}:{line}: {version} has no {name}"


@pytest.mark.parametrize("file", VARIABLES)
def test_what_is_asked_for_exists_somewhere_and_not_everywhere(file):
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if guard := guard_of(node):
            found = [version for version, surface in surfaces().items() if has(surface, guard)]
            assert found, f"{file}: no version has {guard}: a slip of the pen"
            assert len(found) < len(VERSIONS), f"{file}: every version has {guard}: no need to ask"


def test_no_other_file_uses_the_library():
    for folder in ("runtime", "export", "calibration", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in VARIABLES:
                text = path.read_text("utf-8")
                uses = list(names_used(ast.parse(text), {}))
                assert not uses, f"{path}: {uses}"


def test_the_check_finds_a_name_that_some_version_lacks():
    code = "def f(trt, config):\n    config.int8_calibrator = trt.BuilderFlag.FP16\n"
    uses = list(names_used(ast.parse(code), {"config": "IBuilderConfig"}))
    assert {name for name, _, _ in uses} == {"IBuilderConfig.int8_calibrator", "BuilderFlag.FP16"}
    assert not any(has(surfaces()["11.4.0.106"], name) for name, _, _ in uses)


@pytest.mark.parametrize("version", VERSIONS)
def test_asking_agrees_with_the_real_surface(version):
    library = fake_library(version)
    for path in (
        "BuilderFlag.FP16",
        "IProgressMonitor",
        "IBuilderConfig.progress_monitor",
        "Runtime.nothing",
    ):
        assert has_api(library, path) == has(surfaces()[version], path), path


def names_used(tree, variables):
    """("Class.member", what was asked for in the same function, line) of each use of the library."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    nested = {inner for outer in functions for inner in ast.walk(outer) if inner is not outer}
    for function in [node for node in functions if node not in nested]:
        guards = [guard for node in ast.walk(function) if (guard := guard_of(node))]
        parents = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute) or isinstance(parents.get(node), ast.Attribute):
                continue
            if (name := name_of(node, variables)) is not None:
                yield name, guards, node.lineno


def guard_of(node):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "has_api":
        return node.args[1].value if isinstance(node.args[1], ast.Constant) else None
    return None


def name_of(node, variables):
    chain = []
    while isinstance(node, ast.Attribute):
        chain.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    chain = [node.id, *reversed(chain)]
    if chain[0] == "self":
        chain = chain[1:]
    if chain[0] in ("trt", "_trt") and len(chain) > 1:
        names = itertools.takewhile(lambda name: name not in OF_PYTHON, chain[1:3])
        return ".".join(names) or None
    if chain[0] in variables and len(chain) > 1 and chain[1] not in OF_PYTHON:
        return f"{variables[chain[0]]}.{chain[1]}"
    return None
