"""One thing of a bundle is changed, its digests are repaired: the change is found and the stage named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import sabotage
from sabotage import change_constant, change_picture, edit_graph, edit_json, has_shape, set_rows

from textual_vision.export.verification.verification import Verification

Verify = Callable[..., Verification]
Change = Callable[[Path], object]

TEXT, LATENT, GENERATOR = "text_encoder", "latent", "generator"


def of_graph(stage: str, edit: sabotage.Edit, precision: str = "fp32") -> Change:
    return lambda bundle: edit_graph(bundle, precision, stage, edit)


def of_manifest(change: Callable[[dict], None]) -> Change:
    return lambda bundle: edit_json(bundle, "manifest.json", change)


def of_tokenizer(change: Callable[[dict], None]) -> Change:
    return lambda bundle: edit_json(bundle, "tokenizer.json", change)


def copy_graph(bundle: Path) -> None:
    """The fp32 generator in the place of the half one."""
    data = (bundle / "onnx/fp32/generator.onnx").read_bytes()
    (bundle / "onnx/fp16/generator.onnx").write_bytes(data)
    sabotage.repair(bundle)


def no_normalizer(value: dict) -> None:
    value["normalizer"] = None


# What is changed, and the beginning of the error line. The tiny model has 15 tokens, 12 positions, 16 rows.
HARMFUL: dict[str, tuple[Change, str]] = {
    "one word's embedding": (
        of_graph(TEXT, change_constant(has_shape(15, 24), set_rows([14], -1))),
        "fp32/text_encoder/weights",
    ),
    "the last positions": (
        of_graph(TEXT, change_constant(has_shape(12, 24), set_rows(slice(10, 12), -1))),
        "fp32/text_encoder/weights",
    ),
    "a codebook row": (
        of_graph(GENERATOR, change_constant(has_shape(16, 8), set_rows([3], -1))),
        "fp32/generator/",
    ),
    "two words swapped": (of_tokenizer(sabotage.swap_words("dog", "cat")), "tokenizer/"),
    "no normalizer": (of_tokenizer(no_normalizer), "tokenizer/"),
    "fewer tokens": (of_manifest(lambda m: m["text"].update(max_tokens=6)), "specs/text"),
    "another unknown token": (of_manifest(lambda m: m["text"].update(unknown_id=0)), "specs/text"),
    "another law of noise": (of_manifest(lambda m: m["noise"][0].update(law="uniform")), "specs/noise"),
    "noise scaled": (of_manifest(lambda m: m["noise"][0].update(scale=0.9)), "specs/noise"),
    "a tint": (of_graph(GENERATOR, change_picture(tint=2)), "fp32/generator/"),
    "a dead block": (of_graph(GENERATOR, change_picture(block=2)), "fp32/generator/"),
    "a mirrored pipeline": (of_graph("pipeline", change_picture(mirror=True)), "fp32/pipeline/free/"),
    "pictures leak in large batches": (
        of_graph(GENERATOR, sabotage.leak_between_pictures(0.3, 2)),
        "fp32/generator/forced/onnxruntime/batch4",
    ),
    "the half generator is mirrored": (
        of_graph(GENERATOR, change_picture(mirror=True), "fp16"),
        "fp16/generator/",
    ),
    "a float graph in the place of half": (copy_graph, "fp16/arithmetic"),
    "the build failed": (
        of_manifest(lambda m: m["precisions"]["fp16"].update(verdict="fail")),
        "fp16/build/verdict",
    ),
    "golden budgets that excuse anything": (
        lambda bundle: edit_json(
            bundle,
            "golden/golden.json",
            lambda g: g["budgets"]["fp32"].update(psnr_db=1.0, code_agreement=0.0),
        ),
        "golden/budgets",
    ),
}


def rename_values(model: onnx.ModelProto) -> None:
    """Other names of nodes and of values inside the graph."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = {tensor.name for tensor in model.graph.initializer}
    names |= {name for node in model.graph.node for name in (*node.input, *node.output)}
    renamed = {name: name if name in kept or not name else f"other_{name}" for name in names}
    for node in model.graph.node:
        node.name = f"other_{node.name}"
        node.input[:] = [renamed[name] for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = renamed[tensor.name]
    del model.graph.value_info[:]


def last_bits(value: np.ndarray) -> np.ndarray:
    return np.nextafter(value, np.inf, dtype=value.dtype)


HARMLESS: dict[str, Change] = {
    "written again": of_graph(GENERATOR, lambda model: None),
    "renamed": of_graph(LATENT, rename_values),
    "last bits": of_graph(GENERATOR, change_constant(lambda t: t.data_type == 1, last_bits)),
    "a tokenizer laid out otherwise": of_tokenizer(lambda value: None),
}
FAST = ("two words swapped", "a tint", "pictures leak in large batches", "one word's embedding")


def cases(names: object) -> list[object]:
    return [
        pytest.param(name, id=name.replace(" ", "-"), marks=[] if name in FAST else pytest.mark.slow)
        for name in names  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("name", cases(HARMFUL))
def test_a_harmful_change_is_found_and_its_stage_is_named(name: str, changed: Path, verify: Verify) -> None:
    change, start = HARMFUL[name]
    change(changed)
    failure = verify(changed, samples=16).failure
    assert failure is not None and failure.sentence().startswith(start), failure


@pytest.mark.slow
def test_an_overflow_that_only_half_has_is_found(changed: Path, verify: Verify) -> None:
    edit_graph(changed, "fp16", GENERATOR, sabotage.overflow_in_half)
    found = verify(changed, samples=8, precisions=("fp16",), level="release")
    failed = {check.id: check for check in found.checks if check.failed}
    for by in ("onnxruntime", "onnx.reference"):
        assert failed[f"fp16/generator/overflow/{by}"].cause == "overflow"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(HARMLESS))
def test_a_harmless_change_passes(name: str, changed: Path, verify: Verify) -> None:
    HARMLESS[name](changed)
    found = verify(changed, samples=16)
    assert [check.sentence() for check in found.checks if check.failed] == []


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_verdict(threads: int, built, verify: Verify) -> None:
    assert verify(built[0], threads=threads, samples=8).failure is None
