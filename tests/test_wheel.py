"""The wheel holds every file of the packages: what is missing from it still works when installed editable."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "export", "runtime", "calibration")
# Other tools build and install these: a wheel that fits every platform holds neither C nor JavaScript.
OTHER_CLIENTS = (ROOT / "runtime" / "c", ROOT / "runtime" / "js")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel built from a copy of the tree, so that nothing is left in the tree itself."""
    copy = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_exactly_the_files_of_the_packages(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    tracked = [
        path.relative_to(ROOT)
        for path in files
        if "__pycache__" not in path.parts and not set(OTHER_CLIENTS) & set(path.parents)
    ]
    assert inside == {f"textual_vision/{path.as_posix()}" for path in tracked}


def test_the_namespace_has_no_file_of_its_own(wheel):
    assert "textual_vision/__init__.py" not in wheel.namelist()


def test_every_console_script_is_installed(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    scripts = re.findall(r'^(tv-\w+) = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert len(scripts) == 3
    for script, target in scripts:
        assert f"{script} = {target}" in wheel.read(name).decode()


def test_the_wheel_has_the_name_to_install_and_the_version_that_the_runtime_states(wheel):
    from textual_vision.runtime import __version__

    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert wheel.read(name).decode().splitlines()[1:3] == ["Name: promptsprite", f"Version: {__version__}"]


def test_every_hint_to_install_an_extra_names_this_distribution_and_one_of_its_extras():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (section,) = re.findall(r"\[project\.optional-dependencies\]\n(.*?)\n\[", project, re.DOTALL)
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    hints = [
        hint
        for path in sources
        for hint in re.findall(r"pip install '([\w-]+)\[([\w,]+)\]'", path.read_text("utf-8"))
    ]
    assert len(hints) >= 8
    assert all(name == "promptsprite" and set(names.split(",")) <= extras for name, names in hints)
