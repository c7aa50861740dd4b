"""Who may import whom, and what the runtime must never load."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "calibration": {"calibration", "runtime"},
    "training": {"training", "runtime"},
    "export": {"export", "training", "calibration", "runtime"},
}
RUNTIME_LIBRARIES = {"numpy", "tokenizers", "click", "PIL"}
BACKEND_LIBRARIES = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"}
FORBIDDEN = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "textual_vision.training",
    "textual_vision.export",
)
SOURCES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported_modules(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def id_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=id_of)
def test_packages_import_only_those_below_them(path):
    package = path.relative_to(ROOT).parts[0]
    for module in imported_modules(path.read_text("utf-8")):
        parts = module.split(".")
        if parts[0] == "textual_vision":
            assert parts[1] in MAY_IMPORT[package], f"{package} imports {module}"
        assert parts[0] not in MAY_IMPORT, f"{module} is imported without textual_vision"


@pytest.mark.parametrize("path", [path for path in SOURCES if "runtime" in path.parts], ids=id_of)
def test_the_runtime_needs_only_what_the_base_installs(path):
    allowed = RUNTIME_LIBRARIES | {"textual_vision"} | set(sys.stdlib_module_names)
    if "backends" in path.parts:
        allowed |= BACKEND_LIBRARIES
    if path.name == "signature.py":
        allowed |= {"cryptography"}  # the extra `signatures`
    for module in imported_modules(path.read_text("utf-8")):
        assert module.split(".")[0] in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_drawing_loads_neither_torch_nor_transformers_nor_onnx(tiny_bundle, backend):
    script = (
        "import sys\nfrom textual_vision.runtime import TextToImage\n"
        f"image = TextToImage.load({str(tiny_bundle)!r}, backend={backend!r})('a dog', seed=7)\n"
        "assert image.shape == (8, 8, 3)\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_asking_for_help_does_not_load_numpy():
    script = (
        "import sys\nfrom textual_vision.runtime.cli.main import command\n"
        "command(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'tokenizers', 'onnxruntime', 'openvino', 'PIL', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_public_name_of_a_package_exists_and_is_listed_once(package):
    module = importlib.import_module(f"textual_vision.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
