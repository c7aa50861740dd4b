"""The documents' commands are commands: parsed all, run where that needs no GPU."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from textual_vision.export.cli import engine as engine_cli
from textual_vision.export.cli.gpu_check import gpu_check_command
from textual_vision.runtime import bundle, console
from textual_vision.runtime.backends.tensorrt import session as tensorrt
from textual_vision.runtime.backends.tensorrt.session import open_engines
from textual_vision.runtime.bundle import Bundle

DOCS = Path(__file__).parents[3] / "docs" / "how-to"
PAGES = ("tensorrt.md", "jetson.md")


def commands(page):
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL):
        yield from (line for line in block.splitlines() if line)


ENGINE = [line for page in PAGES for line in commands(page) if line.startswith("tv-export engine ")]
GPU_CHECK = [line for page in PAGES for line in commands(page) if line.startswith("tv-export gpu-check")]


def test_there_are_commands_to_check():
    assert len(ENGINE) >= 6
    assert len(GPU_CHECK) == 1


@pytest.mark.parametrize("line", ENGINE)
def test_an_engine_command_in_the_documents_parses(line):
    given = engine_cli.engine_command.make_context("engine", shlex.split(line)[2:]).params
    assert str(given.pop("bundle")) == "emoji.tv"
    given.pop("as_json")
    assert engine_cli._options(given).settings.precision in ("fp32", "fp16", "int8")


@pytest.mark.parametrize("line", GPU_CHECK)
def test_the_check_in_the_documents_parses(line):
    given = gpu_check_command.make_context("gpu-check", shlex.split(line)[2:]).params
    assert given["bundle"] == Path("emoji.tv")


def test_the_command_for_desktop_gpus_runs(tiny_bundle):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")
    (line,) = [line for line in ENGINE if "fp32" in line]
    arguments = [str(tiny_bundle) if word == "emoji.tv" else word for word in shlex.split(line)[2:]]
    with pytest.raises(SystemExit) as left:
        console.run(engine_cli.engine_command, arguments)
    assert left.value.code == 0
    assert Bundle(tiny_bundle).manifest.engines


@pytest.mark.parametrize("page", PAGES)
def test_every_option_in_the_documents_exists(page):
    text = re.sub(
        r"^trtexec .*$", "", (DOCS / page).read_text("utf-8"), flags=re.MULTILINE
    )  # another's options
    known = {name for option in engine_cli.engine_command.params for name in option.opts}
    others = {"--backend", "--system-site-packages", "--output", "--opset", "--prompt-length", "--no-engines"}
    others |= {"--force", "--no-rewrite", "--trust"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known | others


def test_every_option_is_in_the_documents():
    text = "".join((DOCS / page).read_text("utf-8") for page in PAGES)
    for option in engine_cli.engine_command.params:
        if option.opts[0].startswith("--"):
            assert option.opts[0] in text


def test_building_engines_needs_no_torch():
    script = "import sys, textual_vision.export.tensorrt.engines as _; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_commands_help_imports_nothing_heavy():
    script = (
        "import sys, textual_vision.export.cli.engine as _\n"
        "print([name for name in ('numpy', 'torch', 'onnx', 'tensorrt_rtx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_in_python_runs(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "tensorrt.md").read_text("utf-8"), re.DOTALL)
    opened = []
    monkeypatch.setattr(tensorrt, "open_engines", lambda *arguments: opened.append(arguments))
    monkeypatch.setattr(bundle, "Bundle", lambda path: path)
    exec(compile(example, "tensorrt.md", "exec"), {})
    assert opened == [("emoji.tv", "int8", "tensorrt", tensorrt.EngineRunOptions(cuda_graph=True))]
    inspect.signature(open_engines).bind(*opened[0])
