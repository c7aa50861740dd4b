"""One thing of the shipped model's bundle is changed, its digests are repaired: the change is found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import sabotage
from sabotage import change_constant, change_picture, edit_graph, set_rows

from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.verify import verify_bundle

pytestmark = pytest.mark.slow

TOKENS, RETRIEVED = 8192, 10469
RARE_TOKEN, RARE_PICTURE = 7001, 9876  # no prompt of a quick check reads them


def table(rows: int) -> Callable[[onnx.TensorProto], bool]:
    return lambda tensor: tuple(tensor.dims)[:1] == (rows,) and len(tensor.dims) == 2


# The changed precision and graph, the change, and the beginning of the error line.
HARMFUL: dict[str, tuple[str, str, sabotage.Edit, str]] = {
    "a rare word's embedding": (
        "fp32",
        "text_encoder",
        change_constant(table(TOKENS), set_rows([RARE_TOKEN], -1)),
        "fp32/text_encoder/",
    ),
    "a rare word's embedding in the pipeline": (
        "int8",
        "pipeline",
        change_constant(table(TOKENS), set_rows([RARE_TOKEN], -1)),
        "int8/pipeline/",
    ),
    "a retrieved picture": (
        "fp32",
        "latent",
        change_constant(table(RETRIEVED), set_rows([RARE_PICTURE], 0)),
        "fp32/latent/",
    ),
    "a retrieved picture in int8": (
        "int8",
        "latent",
        change_constant(table(RETRIEVED), set_rows([RARE_PICTURE], 0)),
        "int8/latent/",
    ),
    "a retrieved picture in the pipeline": (
        "fp32",
        "pipeline",
        change_constant(table(RETRIEVED), set_rows([RARE_PICTURE], 0)),
        "fp32/pipeline/",
    ),
    "a tint": ("int8", "generator", change_picture(tint=3), "int8/generator/"),
    "a dead block": ("int8", "generator", change_picture(block=4), "int8/generator/"),
    "a mirrored pipeline": ("int8", "pipeline", change_picture(mirror=True), "int8/pipeline/"),
    "a leak in large batches": (
        "int8",
        "generator",
        sabotage.leak_between_pictures(0.1, 4),
        "int8/generator/forced/",
    ),
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("shipped") / "emoji.tv"
    tool = [sys.executable, "-m", "textual_vision.export.cli.main", "build", "emoji", "-o", str(bundle)]
    subprocess.run([*tool, "--precision", "fp32", "--precision", "int8"], check=True)
    return bundle


def verify(bundle: Path, precision: str) -> str | None:
    """Return the line of the first failed check, None if all pass."""
    options = VerifyOptions(checkpoint="emoji", precisions=(precision,), backends=("onnxruntime",))
    failure = verify_bundle(bundle, options).failure
    return None if failure is None else failure.sentence()


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_change_is_found_and_its_graph_is_named(name: str, shipped: Path, tmp_path: Path) -> None:
    precision, graph, edit, start = HARMFUL[name]
    changed = edit_graph(sabotage.copied(shipped, tmp_path), precision, graph, edit)
    line = verify(changed, precision)
    assert line is not None and line.startswith(start), line


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_bundle_as_built_passes(precision: str, shipped: Path) -> None:
    assert verify(shipped, precision) is None
