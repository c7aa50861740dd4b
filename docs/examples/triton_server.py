"""Install Triton Inference Server, with its Python backend alone, into a folder: without root or a container.

    python docs/examples/triton_server.py triton
    triton/tritonserver --model-repository models

The server comes from the wheel nvidia-pytriton. Its Python backend needs a CPython from 3.9 to 3.13 with a
shared libpython, such as Debian's own (apt install python3 python3-venv libpython3.11), on Linux on x86-64.
The runtime is installed for the server from this working tree, or from what --package names.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEEL = "nvidia-pytriton==0.7.0"
VERSIONS = ("3.11", "3.12", "3.10", "3.13", "3.9")
ABOUT = "import sys, sysconfig as s; print(s.get_config_var('LIBDIR'), s.get_config_var('INSTSONAME'))"
LAUNCHER = """#!/bin/sh
# Triton Inference Server with the Python of this folder for its models.
export LD_LIBRARY_PATH="{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export PATH="{environment}/bin:$PATH" VIRTUAL_ENV="{environment}"
server="{server}"
exec "$server/bin/tritonserver" --backend-directory "$server/backends" --cache-directory "$server/caches" "$@"
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", help="Install this for the server instead, such as ./runtime[cpu].")
    arguments = parser.parse_args()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        sys.exit(f"error: the server is for Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    python, version = find_python()
    folder = arguments.folder.resolve()
    environment = folder / "python"
    run(python, "-m", "venv", "--clear", environment)
    pip = [environment / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as temporary:
        package = arguments.package or f"{copy_of_runtime(Path(temporary) / 'runtime')}[cpu]"
        # The wheel asks for NumPy 1. The clients are for scripts that ask the server.
        run(*pip, "install", package, "numpy<2", "tritonclient[http,grpc]")
    run(*pip, "download", "--no-deps", "--dest", folder, WHEEL)
    (wheel,) = folder.glob("nvidia_pytriton-*.whl")
    server = folder / "server"
    shutil.rmtree(server, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(server)
    wheel.unlink()
    write_launcher(folder, server, environment, version)
    print(f"wrote {folder / 'tritonserver'}")


def copy_of_runtime(place):
    """The runtime of this working tree; a build would leave its own files in the tree."""
    return shutil.copytree(
        ROOT / "runtime", place, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
    )


def find_python():
    """The first Python that the backend can load, and its version."""
    for version in VERSIONS:
        for place in ("/usr/bin", "/usr/local/bin"):
            python = Path(place) / f"python{version}"
            if python.is_file():
                folder, library = subprocess.check_output([python, "-c", ABOUT], text=True).split()
                if (Path(folder) / library).is_file() and ".so" in library:
                    return python, version
    sys.exit(
        "error: no Python from 3.9 to 3.13 with a shared library in /usr/bin or /usr/local/bin\n"
        "hint: on Debian, apt install python3 python3-venv libpython3.11"
    )


def run(*words):
    result = subprocess.run(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        print(result.stdout, file=sys.stderr)
        sys.exit(f"error: {' '.join(map(str, words))} failed")


def write_launcher(folder, server, environment, version):
    triton = server / "pytriton" / "tritonserver"
    stub = triton / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(triton / "python_backend_stubs" / version / stub.name, stub)
    for program in (stub, triton / "bin" / "tritonserver"):
        program.chmod(0o755)
    launcher = folder / "tritonserver"
    text = LAUNCHER.format(libraries=server / "nvidia_pytriton.libs", environment=environment, server=triton)
    launcher.write_text(text, "utf-8")
    launcher.chmod(0o755)


if __name__ == "__main__":
    main()
