"""For the slow tests: a server, of the folder in TRITON_FOLDER or set up by docs/examples; and bundles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from textual_vision.runtime import TextToImage

SCRIPT = Path(__file__).parents[3] / "docs" / "examples" / "triton_server.py"


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    """The command that starts the server."""
    pytest.importorskip("tritonclient.http")
    pytest.importorskip("tritonclient.grpc")
    if folder := os.environ.get("TRITON_FOLDER"):
        return Path(folder) / "tritonserver"
    folder = tmp_path_factory.mktemp("triton")
    result = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"no server can be set up here: {(result.stderr.splitlines() or ['?'])[-1]}")
    return folder / "tritonserver"


@pytest.fixture(scope="session")
def served_bundle(tiny_files, tmp_path_factory):
    """The tiny bundle, for tests that do not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny.tv"
    for name, data in tiny_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def alone(served_bundle):
    """The tiny bundle's model in this process."""
    with TextToImage.load(served_bundle, "fp32", "onnxruntime", threads=1) as model:
        yield model
