"""Changes to one thing of a bundle, whose digests are repaired afterwards: what a check must find."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

Edit = Callable[[onnx.ModelProto], None]


def copied(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle in `folder`, to be changed."""
    return Path(shutil.copytree(bundle, folder / "changed.tv"))


def repair(bundle: Path) -> Path:
    """Put the digests and sizes of all files into the manifest."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    for name in manifest["files"]:
        data = (bundle / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest), "utf-8")
    return bundle


def edit_graph(bundle: Path, precision: str, stage: str, edit: Edit) -> Path:
    path = bundle / "onnx" / precision / f"{stage}.onnx"
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return repair(bundle)


def edit_json(bundle: Path, file: str, change: Callable[[dict], None]) -> Path:
    path = bundle / file
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")
    return repair(bundle)


def constant(model: onnx.ModelProto, choose: Callable[[onnx.TensorProto], object]) -> onnx.TensorProto:
    """The largest constant among those that `choose` accepts."""
    found = [tensor for tensor in model.graph.initializer if choose(tensor)]
    return max(found, key=lambda tensor: int(np.prod(tensor.dims)))


def change_constant(
    choose: Callable[[onnx.TensorProto], object], change: Callable[[np.ndarray], np.ndarray]
) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = constant(model, choose)
        value = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    return edit


def has_shape(*shape: int) -> Callable[[onnx.TensorProto], bool]:
    return lambda tensor: tuple(tensor.dims) == shape


def set_rows(rows: slice | list[int], factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Multiply rows; integers stay integers."""

    def change(value: np.ndarray) -> np.ndarray:
        value[rows] = (value[rows] * factor).astype(value.dtype)
        return value

    return change


def change_picture(*, tint: int = 0, block: int = 0, mirror: bool = False) -> Edit:
    """Change the picture after the graph computed it: a tint of the first channel, a dead block, mirrored."""

    def edit(model: onnx.ModelProto) -> None:
        output = next(one for one in model.graph.output if one.name == "image")
        height, width = (one.dim_value for one in output.type.tensor_type.shape.dim[1:3])
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name == "image":
                    node.output[place] = "image_before"
        factor, added = np.ones((1, height, width, 3), np.float32), np.zeros((1, 1, 1, 3), np.float32)
        added[..., 0] = tint
        factor[:, :block, :block] = 0
        constants = {"sabotage_factor": factor, "sabotage_added": added}
        constants |= {"sabotage_low": np.array(0, np.float32), "sabotage_high": np.array(255, np.float32)}
        constants["sabotage_order"] = np.arange(width)[::-1].copy() if mirror else np.arange(width)
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        steps = [
            ("Cast", ["image_before"], {"to": onnx.TensorProto.FLOAT}),
            ("Mul", ["sabotage_factor"], {}),
            ("Add", ["sabotage_added"], {}),
            ("Clip", ["sabotage_low", "sabotage_high"], {}),
            ("Gather", ["sabotage_order"], {"axis": 2}),
            ("Cast", [], {"to": onnx.TensorProto.UINT8}),
        ]
        last = ""
        for number, (kind, inputs, attributes) in enumerate(steps):
            given = [last, *inputs] if last else inputs
            last = "image" if number + 1 == len(steps) else f"sabotage_{number}"
            model.graph.node.append(helper.make_node(kind, given, [last], **attributes))

    return edit


def leak_between_pictures(strength: float, beyond: int) -> Edit:
    """Add the first picture of a batch to the others, in batches above `beyond` alone."""

    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name == "image":
                    node.output[place] = "image_before"
        constants = {
            "leak_zero": np.array([0], np.int64),
            "leak_beyond": np.array([beyond], np.int64),
            "leak_strength": np.array(strength, np.float32),
            "leak_low": np.array(0, np.float32),
            "leak_high": np.array(255, np.float32),
        }
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        f, u = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
        nodes = [
            helper.make_node("Cast", ["image_before"], ["leak_float"], to=f),
            helper.make_node("Shape", ["image_before"], ["leak_shape"]),
            helper.make_node("Gather", ["leak_shape", "leak_zero"], ["leak_batch"]),
            helper.make_node("Greater", ["leak_batch", "leak_beyond"], ["leak_many"]),
            helper.make_node("Cast", ["leak_many"], ["leak_on"], to=f),
            helper.make_node("Mul", ["leak_on", "leak_strength"], ["leak_amount"]),
            helper.make_node("Gather", ["leak_float", "leak_zero"], ["leak_first"]),
            helper.make_node("Sub", ["leak_first", "leak_float"], ["leak_toward"]),
            helper.make_node("Mul", ["leak_toward", "leak_amount"], ["leak_added"]),
            helper.make_node("Add", ["leak_float", "leak_added"], ["leak_sum"]),
            helper.make_node("Clip", ["leak_sum", "leak_low", "leak_high"], ["leak_clipped"]),
            helper.make_node("Cast", ["leak_clipped"], ["image"], to=u),
        ]
        model.graph.node.extend(nodes)

    return edit


def overflow_in_half(model: onnx.ModelProto) -> None:
    """Multiply a half value by 2²⁴ and divide it again: float32 sees no difference, half overflows."""
    inferred = onnx.shape_inference.infer_shapes(model)
    half = {
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    nodes = list(model.graph.node)
    place = next(
        index
        for index, node in enumerate(nodes)
        if node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose") and node.output[0] in half
    )
    name = nodes[place].output[0]
    nodes[place].output[0] = last = f"{name}_before"
    added = []
    for number, factor in enumerate((4096.0, 4096.0, 1 / 4096, 1 / 4096)):
        constant_name, following = f"overflow_{number}", name if number == 3 else f"{name}_{number}"
        model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float16), constant_name))
        added.append(helper.make_node("Mul", [last, constant_name], [following]))
        last = following
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: place + 1], *added, *nodes[place + 1 :]])


def swap_words(first: str, second: str) -> Callable[[dict], None]:
    """Swap the ids of two vocabulary entries in tokenizer.json."""

    def change(value: dict) -> None:
        vocabulary = value["model"]["vocab"]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    return change
