"""A server for the slow tests: the folder in TRITON_FOLDER, or one that docs/examples sets up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
