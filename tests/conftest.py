"""A tiny, real bundle: three ONNX graphs with the true stages' signatures, a tokenizer, golden pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from textual_vision.runtime.generation.specs import NoiseSpec
from textual_vision.runtime.golden import GOLDEN_NAME, Golden, GoldenBudget, bytes_from_golden, golden_files
from textual_vision.runtime.manifest import (
    BatchProfile,
    FileSpec,
    ImageSpec,
    Manifest,
    PrecisionSpec,
    StageSpec,
    TensorSpec,
    TextSpec,
    write_manifest,
)
from textual_vision.runtime.pipeline import TextToImage

# A machine that is busy with something else must not fail a test; nothing is left in the tree; a run that
# fails fails again.
settings.register_profile("textual-vision", deadline=None, database=None, derandomize=True)
settings.load_profile("textual-vision")

WORDS = ["dog", "cat", "wearing", "sunglasses", "green", "forest", "with", "river", "a", "##s", ",", "."]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
MAX_TOKENS, GROUPS, WIDTH, NOISE_DIM = 12, 2, 8, 6
GRID, PATCH, CODEBOOK = 4, 2, 16
SIZE = GRID * PATCH
OPSET, IR_VERSION = 17, 8
GOLDEN_PROMPTS = ("dog wearing sunglasses", "green forest with river")

DTYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
TENSORS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "input_ids": ("int64", ("batch", "tokens")),
    "attention_mask": ("int64", ("batch", "tokens")),
    "text_codes": ("int64", ("batch", "tokens", GROUPS)),
    "text": ("float32", ("batch", "tokens", WIDTH)),
    "attention": ("float32", ("batch", "tokens")),
    "noise": ("float32", ("batch", NOISE_DIM)),
    "codes": ("int64", ("batch", GRID, GRID)),
    "image": ("uint8", ("batch", SIZE, SIZE, 3)),
}
LIMITS = {"text_codes": WIDTH // GROUPS, "codes": CODEBOOK}
STAGES = {
    "text_encoder": (("input_ids", "attention_mask"), ("text_codes", "text", "attention")),
    "latent": (("text", "attention_mask", "noise"), ("codes",)),
    "generator": (("codes", "text", "attention_mask"), ("image",)),
}


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the commands remember is not written to the home of who runs the tests.

    Graphs are not kept between tests: a test that damages one must meet the damage.
    """
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["TV_GRAPH_CACHE"] = "off"


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the tiny bundle by its path, manifest.json included. The graphs are random but fixed."""
    folder = tmp_path_factory.mktemp("tiny")
    files = {
        "tokenizer.json": _tokenizer(),
        "onnx/fp32/text_encoder.onnx": _text_encoder(),
        "onnx/fp32/latent.onnx": _latent(),
        "onnx/fp32/generator.onnx": _generator(),
        "MODEL_CARD.md": b"# Tiny\n\nRandom weights, for tests.\n",
    }
    manifest = _manifest(files)
    write_files(folder / "bare.tv", files, manifest)
    drawn = TextToImage.load(folder / "bare.tv", backend="onnxruntime").generate(GOLDEN_PROMPTS, [0, 7])
    pictures, pngs = golden_files(GOLDEN_PROMPTS, [0, 7], drawn.images, drawn.codes, manifest.noise)
    budgets = {"fp32": GoldenBudget(code_agreement=1.0, psnr_db=50.0)}
    golden = Golden(schema_version=1, pictures=pictures, budgets=budgets)
    files = {**files, **pngs, GOLDEN_NAME: bytes_from_golden(golden)}
    whole = dataclasses.replace(_manifest(files), golden=GOLDEN_NAME)
    write_files(folder / "whole.tv", files, whole)
    return {**files, "manifest.json": (folder / "whole.tv" / "manifest.json").read_bytes()}


@pytest.fixture
def tiny_bundle(tiny_files: dict[str, bytes], tmp_path: Path) -> Path:
    """A fresh copy of the tiny bundle, for a test to read or to damage."""
    for name, data in tiny_files.items():
        path = tmp_path / "tiny.tv" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "tiny.tv"


@pytest.fixture
def edit_manifest(tiny_bundle: Path) -> Callable[[Callable[[dict], None]], Path]:
    """Call it with a function that changes the manifest's JSON in place; gives the bundle's path."""

    def edit(change: Callable[[dict], None]) -> Path:
        path = tiny_bundle / "manifest.json"
        value = json.loads(path.read_text("utf-8"))
        change(value)
        path.write_text(json.dumps(value), "utf-8")
        return tiny_bundle

    return edit


@pytest.fixture
def replace_file(edit_manifest: Callable[[Callable[[dict], None]], Path]) -> Callable[[str, bytes], Path]:
    """Call it with a path and bytes to put a file into the tiny bundle, declared in its manifest."""

    def replace(name: str, data: bytes) -> Path:
        def declare(manifest: dict) -> None:
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

        root = edit_manifest(declare)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        return root

    return replace


def write_files(root: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    write_manifest(manifest, root)


def _manifest(files: dict[str, bytes]) -> Manifest:
    graphs = {stage: f"onnx/fp32/{stage}.onnx" for stage in STAGES}
    return Manifest(
        schema_version=1,
        name="tiny",
        image=ImageSpec(height=SIZE, width=SIZE),
        noise=(NoiseSpec(shape=(NOISE_DIM,)),),
        text=TextSpec(
            tokenizer="tokenizer.json",
            max_tokens=MAX_TOKENS,
            pad_id=0,
            unknown_id=1,
        ),
        stages=tuple(
            StageSpec(name=name, inputs=_specs(inputs), outputs=_specs(outputs))
            for name, (inputs, outputs) in STAGES.items()
        ),
        precisions={"fp32": PrecisionSpec(files=graphs, verdict="pass", parity={"codes": 1.0})},
        default_precision="fp32",
        batch=BatchProfile(min=1, opt=1, max=4),
        files={
            name: FileSpec(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
            for name, data in files.items()
        },
        license="Apache-2.0",
        provenance={"onnx": onnx.__version__},
    )


def _specs(names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype=TENSORS[name][0], shape=TENSORS[name][1], limit=LIMITS.get(name))
        for name in names
    )


def _tokenizer() -> bytes:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(VOCABULARY[:4])
    return tokenizer.to_str().encode("utf-8")


def _weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _text_encoder() -> bytes:
    constants = {
        "embedding": _weights(1, len(VOCABULARY), WIDTH),
        "groups": np.array([0, 0, GROUPS, WIDTH // GROUPS]),
        "tokens_axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["text"]),
        helper.make_node("Reshape", ["text", "groups"], ["grouped"]),
        helper.make_node("ArgMax", ["grouped"], ["text_codes"], axis=-1, keepdims=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask", "tokens_axis"], ["length"], keepdims=1),
        helper.make_node("Div", ["mask", "length"], ["attention"]),
    ]
    return _model("text_encoder", nodes, constants)


def _latent() -> bytes:
    constants = {
        "project": _weights(2, WIDTH, GRID * GRID * CODEBOOK),
        "spread": _weights(3, NOISE_DIM, GRID * GRID * CODEBOOK),
        "cells": np.array([0, GRID, GRID, CODEBOOK]),
        "tokens_axis": np.array([1]),
        "last_axis": np.array([2]),
    }
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask3"]),
        helper.make_node("Mul", ["text", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens_axis"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "project"], ["from_text"]),
        helper.make_node("MatMul", ["noise", "spread"], ["from_noise"]),
        helper.make_node("Add", ["from_text", "from_noise"], ["flat"]),
        helper.make_node("Reshape", ["flat", "cells"], ["distances"]),
        helper.make_node("ArgMin", ["distances"], ["codes"], axis=-1, keepdims=0),
    ]
    return _model("latent", nodes, constants)


def _generator() -> bytes:
    constants = {
        "codebook": _weights(4, CODEBOOK, PATCH * PATCH * 3) * 50 + 128,
        "patches": np.array([0, GRID, GRID, PATCH, PATCH, 3]),
        "pixels": np.array([0, SIZE, SIZE, 3]),
        "tint": _weights(5, WIDTH, 3),
        "tint_shape": np.array([0, 1, 1, 3]),
        "tokens_axis": np.array([1]),
        "last_axis": np.array([2]),
        "low": np.array(0, np.float32),
        "high": np.array(255, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["codebook", "codes"], ["cells"]),
        helper.make_node("Reshape", ["cells", "patches"], ["split"]),
        helper.make_node("Transpose", ["split"], ["woven"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["woven", "pixels"], ["plain"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask3"]),
        helper.make_node("Mul", ["text", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens_axis"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "tint"], ["tint_flat"]),
        helper.make_node("Reshape", ["tint_flat", "tint_shape"], ["tint_cell"]),
        helper.make_node("Add", ["plain", "tint_cell"], ["tinted"]),
        helper.make_node("Clip", ["tinted", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["image"], to=TensorProto.UINT8),
    ]
    return _model("generator", nodes, constants)


def _model(stage: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bytes:
    for index, node in enumerate(nodes):
        node.name = f"{node.op_type}_{index}"
    inputs, outputs = ([_value(name) for name in names] for names in STAGES[stage])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, stage, inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _value(name: str) -> onnx.ValueInfoProto:
    dtype, shape = TENSORS[name]
    return helper.make_tensor_value_info(name, DTYPES[dtype], shape)


@pytest.fixture
def loop_bundle(
    replace_file: Callable[[str, bytes], Path], edit_manifest: Callable[[Callable[[dict], None]], Path]
) -> Path:
    """The tiny bundle with a model whose stages run in loops."""
    import loop_model

    for name, data in loop_model.loop_graphs().items():
        replace_file(f"onnx/fp32/{name}.onnx", data)
    return edit_manifest(loop_model.declare_loops)
