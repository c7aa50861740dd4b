"""What is done with a bundle on the device itself, where there is no torch."""

import subprocess
import sys

import pytest

WITHOUT = (
    "import sys\n"
    "class Missing:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in ('torch', 'transformers', 'onnxscript'):\n"
    "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, Missing())\n"
    "import importlib.util\n"
    "found = importlib.util.find_spec\n"
    "importlib.util.find_spec = lambda name, *rest: None if name in ('torch',) else found(name, *rest)\n"
)
BENCH = ("--backend", "onnxruntime", "--iterations", "1", "--warm-up", "0", "--cold-start", "0")


def run(script: str, *arguments: str, missing: str = "") -> str:
    without = WITHOUT.replace("('torch',", f"('torch', {missing!r},")
    command = [sys.executable, "-W", "ignore", "-c", without + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("doctor",), "onnxruntime"),
        (("inspect", "BUNDLE"), "text_encoder"),
        (("bench", "BUNDLE", *BENCH), "fp32 onnxruntime"),
        (("engine", "--help"), "--precision"),
    ],
)
def test_a_bundle_is_worked_with(tiny_bundle, arguments, told):
    given = [str(tiny_bundle) if word == "BUNDLE" else word for word in arguments]
    assert told in run("from textual_vision.export.cli.main import main\nmain()", *given)


@pytest.mark.parametrize("arguments", [("doctor",), ("inspect", "BUNDLE"), ("verify", "BUNDLE")])
def test_a_bundle_is_looked_into_and_verified_without_onnx_too(tiny_bundle, arguments):
    given = [str(tiny_bundle) if word == "BUNDLE" else word for word in arguments]
    assert run("from textual_vision.export.cli.main import main\nmain()", *given, missing="onnx")


def test_the_gpu_is_checked_and_a_bundle_verified(tiny_bundle):
    run(
        "import textual_vision.export.tensorrt.gpu_check, textual_vision.export.cli.printing\n"
        "import textual_vision.export.verification.verify\n"
        "assert 'torch' not in sys.modules"
    )
