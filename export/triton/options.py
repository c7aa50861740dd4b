"""The options of `tv-export triton`, and whether a bundle can be served with them."""

from __future__ import annotations

from dataclasses import dataclass

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import ParityError, UsageError
from textual_vision.runtime.generation.arguments import batch_size_from
from textual_vision.runtime.generation.consistency import check_choices, split_manifest
from textual_vision.runtime.generation.program import BATCH
from textual_vision.runtime.manifest import Manifest, is_plain_name
from textual_vision.runtime.triton.spec import CODES, COUNT, IMAGE, PROMPT, SEED, WARNINGS

STAGES = ("python", "onnxruntime", "tensorrt")
KINDS = ("cpu", "gpu")
MODEL_NAME = "text_to_image"
LARGEST_COUNT = 16
LARGEST_INSTANCES = 256
TAKEN = (PROMPT, SEED, COUNT, IMAGE, CODES, WARNINGS)


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """`stages` says what runs them: the runtime in the Python backend, or models of another backend.

    `precision` None is the bundle's default. `max_batch` is the most prompts that are computed together.
    A request gets at most `largest_count` pictures of a prompt. `cache_text` keeps the text stage's responses
    in the server's response cache.
    """

    stages: str = "python"
    precision: str | None = None
    kind: str = "cpu"
    max_batch: int = 1
    instances: int = 1
    name: str = MODEL_NAME
    cache_text: bool = False
    largest_count: int = LARGEST_COUNT

    @property
    def backend(self) -> str | None:
        """The runtime's backend; None where the server's own models run the stages."""
        if self.stages != "python":
            return None
        return "onnxruntime" if self.kind == "cpu" else "onnxruntime-cuda"


def check_options(bundle: Bundle, options: TritonOptions) -> str:
    """Return the precision to serve.

    Raises UsageError for options that contradict each other or the bundle, ParityError for a precision that
    failed its comparison, IntegrityError for a bundle whose stages do not make a model.
    """
    manifest = bundle.manifest
    precision = options.precision or manifest.default_precision
    check_choices(manifest, precision)
    if manifest.precisions[precision].verdict == "fail":
        passed = [name for name, one in manifest.precisions.items() if one.verdict != "fail"]
        hint = f"serve another precision: {', '.join(passed)}" if passed else "export it again"
        raise ParityError(f"precision {precision!r} failed its comparison with the trained model", hint)
    batch_size_from(options.max_batch, manifest.batch.max)
    split_manifest(manifest)
    _check_names(manifest, options)
    _check_combination(manifest, precision, options)
    return precision


def _check_names(manifest: Manifest, options: TritonOptions) -> None:
    if not is_plain_name(options.name):
        raise UsageError(f"--name {options.name!a} is not a plain name", "use letters, digits, _ and -")
    for spec in manifest.parameters:
        if spec.name in TAKEN:
            problem = f"the model's parameter {spec.name!r} is called as another input or output"
            raise UsageError(problem, "rename it in the model and export the bundle again")


def _check_combination(manifest: Manifest, precision: str, options: TritonOptions) -> None:
    if options.stages == "tensorrt" and options.kind == "cpu":
        raise UsageError("TensorRT runs on GPUs alone", "add --kind gpu, or leave out --stages tensorrt")
    if options.stages == "onnxruntime" and options.kind == "cpu" and precision == "int8":
        # The backend's configuration has no session.x64quantprecision, which the runtime sets.
        problem = "INT8 in Triton's ONNX Runtime backend overflows on x86 CPUs without VNNI"
        raise UsageError(problem, "leave out --stages onnxruntime: the runtime prevents it; or --kind gpu")
    if options.cache_text and options.stages == "python":
        problem = "--cache-text is for stages that the server runs as models of its own"
        raise UsageError(problem, "leave it out: the runtime remembers the latest prompts itself")
    if options.stages == "python":
        return
    for stage in manifest.stages:
        for tensor in (*stage.inputs, *stage.outputs):
            if not tensor.shape or tensor.shape[0] != BATCH:
                problem = f"stage {stage.name!r}: {tensor.name!r} has a fixed batch, {list(tensor.shape)}"
                raise UsageError(problem, "serve it with --stages python")
