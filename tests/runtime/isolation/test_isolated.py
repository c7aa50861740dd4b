"""Isolated generation: the same pictures, and clear errors when the child hangs, swells or dies."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from textual_vision.runtime import IsolationLimits, PromptWarning, TextToImage, UsageError
from textual_vision.runtime.errors import IntegrityError, TextualVisionError
from textual_vision.runtime.isolation import limits

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limits")
PROMPTS = ["dog", "green forest with river", "a cat wearing sunglasses"]
SMALL = IsolationLimits(memory_bytes=2 << 30, seconds=20)


@pytest.fixture
def isolated(tiny_bundle):
    with TextToImage.load(tiny_bundle, backend="onnxruntime", isolated=True) as model:
        yield model


def child_of(model):
    return model._close.__self__._process


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_isolated_model_draws_the_same(tiny_bundle, backend):
    plain = TextToImage.load(tiny_bundle, backend=backend)
    with TextToImage.load(tiny_bundle, backend=backend, isolated=True) as model:
        found, expected = (one.generate(PROMPTS, [1, 2, 3]) for one in (model, plain))
        assert np.array_equal(found.images, expected.images)
        assert np.array_equal(found.codes, expected.codes)
        assert found.notes == expected.notes
        description = model.describe()
        assert description.isolated
        assert description.providers == plain.describe().providers


def test_unknown_words_are_warned_of_here(isolated):
    with pytest.warns(PromptWarning, match="not in the vocabulary: '𒐫'"):
        isolated("𒐫 dog")


def test_an_error_of_the_child_is_raised_here(isolated, edit_manifest, tiny_files, replace_file):
    with pytest.raises(UsageError, match="is empty") as caught:
        isolated(" ")
    assert "for example" in caught.value.hint
    assert isolated("dog").shape == (8, 8, 3)  # and the child goes on
    replace_file("onnx/fp32/latent.onnx", b"no graph")
    with pytest.raises(IntegrityError, match=r"latent\.onnx: not a graph"):
        TextToImage.load(edit_manifest(lambda _: None), isolated=True)


def grown(graph, work):
    """The tiny generator, its tint multiplied by one, which `work` computes from a matrix of ones in its way.

    The matrix has as many rows and columns as the prompt has tokens, times `side`: no constant tells.
    """
    model = onnx.load_from_string(graph)
    node = next(node for node in model.graph.node if "tinted" in node.input)
    node.input[list(node.input).index("tinted")] = "weighed"
    side, nodes = work
    constants = {"side": np.array(side), "two": np.array([2]), "zero": np.zeros(1, np.float32)}
    first = [
        helper.make_node("ReduceSum", ["attention_mask"], ["words"], keepdims=0),
        helper.make_node("Mul", ["words", "side"], ["size"]),
        helper.make_node("Expand", ["size", "two"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["ones0"],
                         value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])),
    ]  # fmt: skip
    last = [
        helper.make_node("ReduceMax", [nodes[-1].output[0] if nodes else "ones0"], ["one"], keepdims=0),
        helper.make_node("Mul", ["one", "zero"], ["nothing"]),
        helper.make_node("Add", ["tinted", "nothing"], ["weighed"]),
    ]
    place = list(model.graph.node).index(node)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rest[:place], *first, *nodes, *last, *rest[place:]])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model.SerializeToString()


def products(count):
    return [
        helper.make_node("MatMul", [f"ones{n}", "ones0"], [f"ones{n + 1}"], name=f"p{n}")
        for n in range(count)
    ]


def test_a_graph_that_takes_all_memory_is_an_error(replace_file, tiny_files):
    graph = grown(tiny_files["onnx/fp32/generator.onnx"], (1 << 14, []))  # n² GiB of n tokens
    root = replace_file("onnx/fp32/generator.onnx", graph)
    with TextToImage.load(root, backend="onnxruntime", isolated=True, limits=SMALL) as model:
        with pytest.raises(TextualVisionError) as caught:
            model("dog")
        assert "generator" in caught.value.message
        assert model.encode_text(["dog"]).prompts == ("dog",)  # the memory is free again


def test_a_graph_that_takes_for_ever_is_an_error_in_time(replace_file, tiny_files):
    graph = grown(tiny_files["onnx/fp32/generator.onnx"], (1 << 10, products(3000)))
    root = replace_file("onnx/fp32/generator.onnx", graph)
    short = IsolationLimits(seconds=3)
    model = TextToImage.load(root, backend="onnxruntime", isolated=True, limits=short)
    start = time.monotonic()
    with pytest.raises(IntegrityError, match="stage 'generator' took the isolated process more than 3 s"):
        model("dog")
    assert time.monotonic() - start < 10
    assert child_of(model).poll() == -signal.SIGKILL
    with pytest.raises(TextualVisionError, match="has ended"):
        model("dog")


def test_a_child_that_dies_is_an_error_that_says_how(isolated):
    os.kill(child_of(isolated).pid, signal.SIGSEGV)
    with pytest.raises(IntegrityError, match="ended by SIGSEGV; its memory is limited to 4096 MiB"):
        isolated("dog")


def test_a_model_says_whether_its_child_runs(isolated):
    assert isolated.alive
    os.kill(isolated.process_id, signal.SIGKILL)
    with pytest.raises(IntegrityError):
        isolated("dog")
    assert not isolated.alive


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (["a" * 70_000_000], "a prompt of 70000000 characters"),
        (["a" * 999_999] * 4, "4 prompts of 3999996 characters together"),
    ],
)
def test_prompts_that_no_message_holds_are_refused_and_the_child_lives_on(isolated, prompts, words):
    with pytest.raises(UsageError, match=words):
        isolated.generate(prompts, [1])
    assert isolated.alive
    assert isolated("dog").shape == (8, 8, 3)


def test_too_little_memory_to_load_is_an_error(tiny_bundle):
    with pytest.raises(TextualVisionError, match="loading the bundle"):
        TextToImage.load(tiny_bundle, isolated=True, limits=IsolationLimits(memory_bytes=100 << 20))


@pytest.mark.parametrize("changed", [{"memory_bytes": 0}, {"seconds": 0}, {"seconds": float("nan")}])
def test_limits_that_make_no_sense_are_refused(changed):
    with pytest.raises(UsageError, match="limits of") as caught:
        dataclasses.replace(IsolationLimits(), **changed)
    assert caught.value.hint == "both must be positive"


def test_closing_ends_the_child(isolated):
    process = child_of(isolated)
    isolated.close()
    assert process.returncode is not None
    with pytest.raises(UsageError, match="is closed"):
        isolated("dog")


def test_a_backend_on_a_gpu_cannot_be_isolated(tiny_bundle):
    with pytest.raises(UsageError, match="'tensorrt' cannot be isolated"):
        TextToImage.load(tiny_bundle, backend="tensorrt", isolated=True)


def test_other_systems_are_told(monkeypatch, tiny_bundle):
    monkeypatch.setattr(limits.sys, "platform", "win32")
    with pytest.raises(UsageError, match="needs Linux"):
        TextToImage.load(tiny_bundle, isolated=True)


def test_the_child_can_write_no_file_and_opens_few(isolated):
    text = Path(f"/proc/{child_of(isolated).pid}/limits").read_text("utf-8")
    found = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert found["Max file size"] == ["0", "0"]
    assert found["Max address space"] == [str(4 << 30)] * 2
    assert found["Max core file size"] == ["0", "0"]


def test_the_child_imports_nothing_from_the_working_folder(tiny_bundle, tmp_path, monkeypatch):
    for name in ("numpy", "json", "tokenizers", "textual_vision"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with TextToImage.load(tiny_bundle, isolated=True) as model:
        assert model("dog").shape == (8, 8, 3)
    assert not (tmp_path / "imported").exists()


def test_short_memory_ends_the_child_rather_than_its_parent(isolated):
    assert Path(f"/proc/{isolated.process_id}/oom_score_adj").read_text().strip() == "500"


def test_the_child_ends_with_its_parent(tiny_bundle):
    script = (
        "import os, sys\nfrom textual_vision.runtime import TextToImage\n"
        f"model = TextToImage.load({str(tiny_bundle)!r}, isolated=True)\n"
        "print(model._close.__self__._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    for _ in range(100):
        if has_ended(child):
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_model_that_is_dropped_leaves_no_child(tiny_bundle):
    model = TextToImage.load(tiny_bundle, isolated=True)
    child = child_of(model).pid
    del model
    gc.collect()
    assert has_ended(child)
