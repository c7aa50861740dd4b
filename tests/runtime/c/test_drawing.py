"""The C library draws what Python draws with the same ONNX Runtime, bit by bit."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from textual_vision.runtime.errors import IntegrityError, PromptWarning
from textual_vision.runtime.golden import GOLDEN_NAME
from textual_vision.runtime.noise import noise_from_seed
from textual_vision.runtime.pipeline import TextToImage

PROMPTS = ("dog wearing sunglasses", "a green cat", "xyzzy, 森 cat!", "dog " * 40)


def by_python(bundle, prompts, seeds, precision=None, threads=None):
    """Pictures, codes and the texts of the warnings."""
    model = TextToImage.load(bundle, precision=precision, backend="onnxruntime", threads=threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PromptWarning)
        pictures = model.generate(prompts, seeds)
    return pictures, [str(warning.message) for warning in caught]


def check(driver, bundle, prompts, seeds, precision="-", threads=0):
    expected, texts = by_python(
        bundle, prompts, seeds, None if precision == "-" else precision, threads or None
    )
    drawn = driver.draw(bundle, prompts, seeds, precision, threads)
    assert not isinstance(drawn, list), drawn
    np.testing.assert_array_equal(drawn.codes, expected.codes)
    np.testing.assert_array_equal(drawn.images, expected.images)
    assert drawn.warnings == texts


@pytest.mark.parametrize(
    ("prompts", "seeds"),
    [
        (PROMPTS[:1], [0]),
        (PROMPTS[:1], [2**64 - 1]),
        (PROMPTS[:1], list(range(11))),
        (PROMPTS, [7, 8, 9, 10]),
        (PROMPTS, [3]),
    ],
)
def test_pictures_codes_and_warnings_are_those_of_python(driver, tiny_bundle, prompts, seeds):
    check(driver, tiny_bundle, prompts, seeds)


def in_other_precisions(files):
    """The tiny bundle's graphs again as fp16 by casts and as int8 by Q/DQ, as tv-export writes them."""
    fp16, int8 = {}, {}
    for stage in ("text_encoder", "latent", "generator"):
        data = files[f"onnx/fp32/{stage}.onnx"]
        fp16[f"onnx/fp16/{stage}.onnx"] = half_graph(onnx.load_from_string(data))
        int8[f"onnx/int8/{stage}.onnx"] = int8_graph(onnx.load_from_string(data))
    return fp16 | int8


def half_graph(model):
    """Products are computed in half: Cast, MatMul, Cast."""
    nodes = []
    for node in model.graph.node:
        if node.op_type != "MatMul":
            nodes.append(node)
            continue
        halves = [f"{name}_half" for name in node.input]
        nodes += [
            helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16)
            for name, half in zip(node.input, halves, strict=True)
        ]
        nodes.append(helper.make_node("MatMul", halves, [f"{node.output[0]}_half"]))
        nodes.append(helper.make_node("Cast", [f"{node.output[0]}_half"], node.output, to=1))
    return with_nodes(model, nodes)


def int8_graph(model):
    """Both sides of products go through QuantizeLinear and DequantizeLinear."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul":
            for place, name in enumerate(node.input):
                quantized, back = f"{name}_{node.name}_q", f"{name}_{node.name}_dq"
                nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [quantized]))
                nodes.append(helper.make_node("DequantizeLinear", [quantized, "scale", "zero"], [back]))
                node.input[place] = back
        nodes.append(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.05, np.float32), "scale"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), "zero"))
    return with_nodes(model, nodes)


def with_nodes(model, nodes):
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_gives_the_bits_of_python(driver, tiny_files, replace_file, edit_manifest, precision):
    for name, data in in_other_precisions(tiny_files).items():
        root = replace_file(name, data)

    def declare(manifest):
        for other in ("fp16", "int8"):
            files = {
                stage: path.replace("fp32", other)
                for stage, path in manifest["precisions"]["fp32"]["files"].items()
            }
            manifest["precisions"][other] = {"files": files, "verdict": "pass"}

    edit_manifest(declare)
    check(driver, root, PROMPTS, [1, 2, 3, 4], precision)
    check(driver, root, PROMPTS[:1], list(range(9)), precision, threads=1)


@pytest.fixture(scope="session")
def shipped_bundle(tmp_path_factory):
    """The shipped model, exported in three precisions."""
    output = tmp_path_factory.mktemp("shipped") / "emoji.tv"
    command = [
        sys.executable,
        "-m",
        "textual_vision.export.cli.main",
        "build",
        "emoji",
        "--output",
        str(output),
    ]
    command += ["--precision", "fp32", "--precision", "fp16", "--precision", "int8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_shipped_model_draws_the_bits_of_python(plain_driver, shipped_bundle, precision):
    golden = json.loads((shipped_bundle / GOLDEN_NAME).read_text("utf-8"))["pictures"]
    for picture in golden:
        check(plain_driver, shipped_bundle, [picture["prompt"]], [picture["seed"]], precision)
    prompts = [picture["prompt"] for picture in golden]
    check(plain_driver, shipped_bundle, prompts, [picture["seed"] for picture in golden], precision)
    check(plain_driver, shipped_bundle, prompts[:1], list(range(20)), precision)


NOISES = {
    "noise": {"law": "normal", "scale": 1.5},
    "uniform": {"law": "uniform"},
    "gumbel": {"law": "gumbel", "scale": -0.25},
    "truncated": {"law": "truncated_normal", "tail": 0.0227501319481792},
}


def model_of_everything(kind):
    """One stage that draws a label or the prompt's length, four noise tensors and a parameter."""
    shape = [2, 3]
    inputs = [helper.make_tensor_value_info(name, 1, ["batch", *shape]) for name in NOISES]
    inputs += [helper.make_tensor_value_info(kind, 7, ["batch"])]
    inputs += [helper.make_tensor_value_info("guidance", 1, ["batch"])]
    nodes = [
        helper.make_node("Concat", list(NOISES), ["noises"], axis=1),  # (batch, 8, 3)
        helper.make_node("Cast", [kind], ["number"], to=1),
        helper.make_node("Add", ["number", "guidance"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "both"], ["column"]),
        helper.make_node("Add", ["noises", "column"], ["mixed"]),
        helper.make_node("Mul", ["mixed", "fifty"], ["levels"]),
        helper.make_node("Clip", ["levels", "low", "high"], ["clipped"]),
        helper.make_node("Unsqueeze", ["clipped", "axes"], ["line"]),
        helper.make_node("Tile", ["line", "repeats"], ["square"]),
        helper.make_node("Cast", ["square"], ["image"], to=2),
    ]
    constants = {
        "axes": np.array([1]),
        "both": np.array([1, 2]),
        "repeats": np.array([1, 8, 1, 1]),
        "fifty": np.array(50, np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(255, np.float32),
    }
    outputs = [helper.make_tensor_value_info("image", 2, ["batch", 8, 8, 3])]
    made = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "everything", inputs, outputs, made)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def declare_everything(manifest, kind):
    noise = [{"name": name, "shape": [2, 3], **spec} for name, spec in NOISES.items()]
    inputs = [{"name": name, "dtype": "float32", "shape": ["batch", 2, 3]} for name in NOISES]
    inputs += [{"name": kind, "dtype": "int64", "shape": ["batch"]}]
    inputs += [{"name": "guidance", "dtype": "float32", "shape": ["batch"]}]
    outputs = [{"name": "image", "dtype": "uint8", "shape": ["batch", 8, 8, 3]}]
    parameters = [{"name": "guidance", "default": 1.25, "minimum": 0.0, "maximum": 9.0}]
    stages = [{"name": "generator", "inputs": inputs, "outputs": outputs}]
    manifest.update(noise=noise, parameters=parameters, stages=stages, merged=None, golden=None)
    manifest["precisions"]["fp32"]["files"] = {"generator": "onnx/fp32/generator.onnx"}
    if kind == "label":
        manifest.update(text=None, labels={"names": ["cat", "dog", "river"]})


@pytest.mark.parametrize(
    ("kind", "texts"), [("label", ["dog", "2", "cat"]), ("lengths", ["dog", "a green cat", "river"])]
)
def test_labels_parameters_and_noise_of_every_law_are_those_of_python(
    driver, replace_file, edit_manifest, kind, texts
):
    replace_file("onnx/fp32/generator.onnx", model_of_everything(kind))
    root = edit_manifest(lambda manifest: declare_everything(manifest, kind))
    expected = TextToImage.load(root, backend="onnxruntime").generate(texts, [1, 2**64 - 1, 77])
    drawn = driver.draw(root, texts, [1, 2**64 - 1, 77])
    assert not isinstance(drawn, list), drawn
    np.testing.assert_array_equal(drawn.images, expected.images)
    assert len(np.unique(drawn.images)) > 20
    if kind == "label":
        assert driver.draw(root, ["horse"], [1])[:2] == ["2", "no label 'horse'"]


def test_prompts_of_a_fixed_length_are_padded_to_it(driver, edit_manifest):
    root = edit_manifest(lambda manifest: manifest["text"].update(fixed_length=True))
    check(driver, root, PROMPTS[:2], [1, 2])


@pytest.mark.parametrize(("seed", "dim"), [(0, 8), (7, 6), (2**64 - 1, 5), (1 << 32, 4099)])
def test_noise_has_the_bits_of_python(driver, seed, dim):
    bits = driver.ask("noise", seed, 3, dim).decode().split()
    expected = noise_from_seed(seed, 3, dim).view(np.uint32).ravel()
    assert bits == [f"{word:08x}" for word in expected.tolist()]


def test_noise_has_the_bits_that_the_documents_list(plain_driver):
    page = (Path(__file__).parents[3] / "docs" / "reference" / "noise.md").read_text("utf-8")
    vectors = re.findall(r"^\| (\d+) \| (\d+) \| `([0-9a-f ]+)` \|$", page, re.MULTILINE)
    assert len(vectors) == 4
    for seed, image, bits in vectors:
        answer = plain_driver.ask("noise", seed, 3, 4).decode().split()
        assert answer[4 * int(image) : 4 * int(image) + 4] == bits.split()


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        ([""], [1], "the prompt '' is empty"),
        (["  \t"], [1], "is empty"),
        (["dog", "cat"], [1, 2, 3], "2 prompts and 3 seeds"),
        (["dog"], [], "1 prompts and 0 seeds"),
        ([], [1], "no prompt"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(driver, tiny_bundle, prompts, seeds, message):
    code, text, hint = driver.draw(tiny_bundle, prompts, seeds)
    assert code == "2"
    assert message in text
    assert hint


def test_an_unknown_precision_is_a_usage_error_that_lists_the_others(driver, tiny_bundle):
    assert driver.draw(tiny_bundle, ["dog"], [1], "int4") == [
        "2",
        "the bundle has no precision 'int4'",
        "there are: fp32",
    ]


def test_one_model_draws_in_several_threads_at_once(driver, tiny_bundle):
    assert driver.lines("threads", tiny_bundle) == [["0"]]


def test_more_threads_than_cores_are_a_usage_error(driver, tiny_bundle):
    code, text, _ = driver.draw(tiny_bundle, ["dog"], [1], threads=40_000)
    assert (code, text.split(" on ")[0]) == ("2", "40000 threads")


def test_what_onnxruntime_says_of_a_graph_is_shown_without_control_characters(
    driver, tiny_files, replace_file
):
    model = onnx.load_from_string(tiny_files["onnx/fp32/latent.onnx"])
    model.graph.node[0].name = "\x1b[31mDog\u202e"
    model.graph.node[0].attribute.append(helper.make_attribute("nothing", 1))
    root = replace_file("onnx/fp32/latent.onnx", model.SerializeToString())
    code, text, _ = driver.draw(root, ["dog"], [1])
    assert code == "7"
    assert "ONNX Runtime cannot load it" in text
    assert "\\x1b[31mDog\\u202e" in text
    assert text.isprintable()


def test_a_missing_onnxruntime_is_named_with_what_to_install(plain_driver, tiny_bundle):
    plain_driver.environment["TV_ONNXRUNTIME"], kept = (
        "/nowhere/libonnxruntime.so",
        plain_driver.environment["TV_ONNXRUNTIME"],
    )
    try:
        code, text, hint = plain_driver.draw(tiny_bundle, ["dog"], [1])
    finally:
        plain_driver.environment["TV_ONNXRUNTIME"] = kept
    assert code == "6"
    assert "/nowhere/libonnxruntime.so" in text
    assert "pip install onnxruntime" in hint


def test_outputs_that_are_not_as_the_manifest_says_are_refused(driver, tiny_files, replace_file):
    """The graph names its picture's sizes in the manifest's way, but gives half of the rows."""
    model = onnx.load_from_string(tiny_files["onnx/fp32/generator.onnx"])
    model.graph.node[-1].output[0] = "whole"
    constants = {"starts": [0], "ends": [4], "axes": [1]}
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    model.graph.node.append(helper.make_node("Slice", ["whole", "starts", "ends", "axes"], ["image"]))
    root = replace_file("onnx/fp32/generator.onnx", model.SerializeToString())
    code, text, _ = driver.draw(root, ["dog"], [1])
    assert code == "7"
    assert "the tensor 'image' is not as the manifest says: dimension 1 is 4, not 8" in text


@pytest.mark.parametrize(
    ("prompts", "seeds"), [(PROMPTS[:1], [0]), (PROMPTS[:2], [7, 2**64 - 1]), (PROMPTS[:1], list(range(11)))]
)
def test_loops_give_the_pictures_of_python(driver, loop_bundle, prompts, seeds):
    expected, texts = by_python(loop_bundle, prompts, seeds)
    drawn = driver.draw(loop_bundle, prompts, seeds)
    assert not isinstance(drawn, list), drawn
    np.testing.assert_array_equal(drawn.images, expected.images)
    assert len(np.unique(drawn.images)) > 20
    assert drawn.warnings == texts


def test_noise_of_each_step_outside_of_a_loop_is_refused_as_in_python(driver, loop_bundle, edit_manifest):
    edit_manifest(lambda manifest: manifest["noise"][0].update(per_step=True))
    with pytest.raises(IntegrityError) as error:
        TextToImage.load(loop_bundle, backend="onnxruntime")
    assert "'noise' is drawn at each step, but 'sampling' takes it" in error.value.message
    assert driver.draw(loop_bundle, ["dog"], [1])[:2] == ["7", error.value.message]


def test_a_carried_tensor_of_another_type_is_an_error(driver, loop_bundle, edit_manifest):
    edit_manifest(lambda manifest: manifest["loops"][1]["carry"].update(count="next_x"))
    with pytest.raises(IntegrityError, match="'count' is float32"):
        TextToImage.load(loop_bundle, backend="onnxruntime")("dog")
    code, text, _ = driver.draw(loop_bundle, ["dog"], [1])
    assert code in ("1", "7")
    assert "step.onnx" in text
