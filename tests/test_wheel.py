"""The wheels hold every file of their packages: what is missing still works when installed editable.

One clone builds two distributions: promptsprite is everything, promptsprite-runtime the runtime alone.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy
import pytest

from textual_vision.runtime.version import RUNTIME_ALONE, WHOLE, extra_command

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "export", "runtime", "calibration")
# Other tools build and install these: a wheel that fits every platform holds neither C nor JavaScript.
NOT_PACKAGED = {ROOT / "runtime" / name for name in ("c", "js", "build", "dist")}
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
LARGEST_BYTES = 1_000_000  # of the runtime's wheel


def built(folder, copy):
    """The wheel of the project in `folder` of a copy of the tree, so that nothing is left in the tree."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", folder]
    made = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of everything."""
    copy = tmp_path_factory.mktemp("whole")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=IGNORED)
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, copy / name)
    with zipfile.ZipFile(built(".", copy)) as archive:
        yield archive


@pytest.fixture(scope="module")
def runtime_wheel(tmp_path_factory):
    """The path of the runtime's wheel, built from the folder `runtime` alone."""
    copy = tmp_path_factory.mktemp("alone")
    shutil.copytree(ROOT / "runtime", copy / "runtime", ignore=IGNORED)
    return built("runtime", copy)


def files_of(*packages):
    """The files of the tree that a wheel with these packages holds."""
    own = {ROOT / "runtime" / name for name in BUILD_FILES}
    found = [path for package in packages for path in (ROOT / package).rglob("*") if path.is_file()]
    return {
        f"textual_vision/{path.relative_to(ROOT).as_posix()}"
        for path in found
        if "__pycache__" not in path.parts and not NOT_PACKAGED & set(path.parents) and path not in own
    }


def code_in(archive):
    return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata_of(archive):
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(archive.read(name).decode())


def scripts_of(archive):
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    return dict(re.findall(r"^(tv-\w+) = (.+)$", archive.read(name).decode(), re.MULTILINE))


def test_the_wheel_holds_exactly_the_files_of_the_packages(wheel):
    assert code_in(wheel) == files_of(*PACKAGES)


def test_the_namespace_has_no_file_of_its_own(wheel):
    assert "textual_vision/__init__.py" not in wheel.namelist()


def test_every_console_script_is_installed(wheel):
    scripts = re.findall(r'^(tv-\w+) = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert len(scripts) == 3
    assert scripts_of(wheel) == dict(scripts)


def test_the_wheel_has_the_name_to_install_and_the_version_that_the_runtime_states(wheel):
    from textual_vision.runtime import __version__

    found = metadata_of(wheel)
    assert (found["Name"], found["Version"]) == (WHOLE, __version__)


def test_the_wheel_of_the_runtime_holds_the_runtime_alone_and_is_small(runtime_wheel):
    with zipfile.ZipFile(runtime_wheel) as archive:
        assert code_in(archive) == files_of("runtime")
        assert scripts_of(archive) == {"tv-generate": "textual_vision.runtime.cli.main:main"}
    assert runtime_wheel.stat().st_size < LARGEST_BYTES


def test_both_wheels_agree_on_version_license_and_what_they_need(wheel, runtime_wheel):
    with zipfile.ZipFile(runtime_wheel) as archive:
        alone, whole = metadata_of(archive), metadata_of(wheel)
    assert alone["Name"] == RUNTIME_ALONE
    for field in ("Version", "Requires-Python", "License-Expression"):
        assert alone[field] == whole[field]
    needs = {one for one in alone.get_all("Requires-Dist") if "pillow" not in one}
    assert needs < set(whole.get_all("Requires-Dist"))
    base = {re.split(r"[<>=]", one)[0] for one in needs if "extra ==" not in one}
    assert base == {"numpy", "tokenizers", "click"}
    for name in ("LICENSE", "NOTICE"):
        assert (ROOT / "runtime" / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_of_the_runtime_generates_where_nothing_else_of_ours_is_installed(
    runtime_wheel, tiny_bundle, tmp_path
):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = next(environment.glob("[bS]*/python*"))
    options = ["--python", python, "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *options, runtime_wheel], check=True)
    purelib = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(purelib, capture_output=True, text=True, check=True).stdout.strip())
    # A .pth file that lies on this path is not read: what is installed editable here stays unseen.
    (site / "libraries.pth").write_text(str(Path(numpy.__file__).parents[1]))
    script = f"""if True:
        import importlib.util, sys
        sys.modules.update({{"PIL": None, "rich": None}})
        import textual_vision.runtime as runtime
        assert runtime.__file__.startswith(sys.prefix), runtime.__file__
        assert importlib.util.find_spec("textual_vision.export") is None
        from textual_vision.runtime.cli.main import main
        from textual_vision.runtime.version import extra_command
        print(extra_command("cpu"))
        sys.argv = ["tv-generate", {str(tiny_bundle)!r}, "dog", "-o", "dog.png"]
        main()"""
    done = subprocess.run([python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["pip install 'promptsprite-runtime[cpu]'", "wrote dog.png"]
    assert (tmp_path / "dog.png").is_file()


def test_every_hint_to_install_an_extra_names_this_distribution_and_one_of_its_extras():
    extras, alone = (extras_in(ROOT / name) for name in ("pyproject.toml", "runtime/pyproject.toml"))
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    texts = [path.read_text("utf-8") for path in sources]
    hints = [hint for text in texts for hint in re.findall(r"pip install '([\w-]+)\[([\w,]+)\]'", text)]
    assert len(hints) >= 5
    assert all(name == WHOLE and set(names.split(",")) <= extras for name, names in hints)
    made = [name for text in texts for name in re.findall(r"(?:extra=|extra_command\()\"(\w+)\"", text)]
    assert len(made) >= 6
    assert set(made) <= extras & alone
    assert extra_command("cpu") == "pip install 'promptsprite[cpu]'"


def extras_in(project):
    (section,) = re.findall(
        r"\[project\.optional-dependencies\]\n(.*?)\n\[", project.read_text("utf-8"), re.DOTALL
    )
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
