"""One builder of engines for TensorRT 8.6, 10, 11 and TensorRT-RTX: the library's module is an argument.

Precision lies in the graph (Cast, Q/DQ), which every version reads. Where networks can be strongly typed they
are; 8.6 cannot, so there the builder is allowed the types that the graph uses. Letting the library choose
types itself, with the entropy calibrator for INT8, is possible up to 10 and only when asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from textual_vision.export.host.progress import ProgressCallback
from textual_vision.export.precision.lossless_storage import computes_in_half, expand_constants
from textual_vision.export.tensorrt.dla import check_dla_precision, check_dla_shapes, dla_count
from textual_vision.export.tensorrt.progress import build_with_progress
from textual_vision.runtime.backends.tensorrt.api import (
    errors_in,
    has_api,
    last_error,
    new_logger,
    released_on_error,
)
from textual_vision.runtime.backends.tensorrt.engine_session import new_context
from textual_vision.runtime.engines import DlaCount, ShapeRange
from textual_vision.runtime.errors import (
    BackendMissingError,
    DeviceMismatchError,
    IntegrityError,
    TextualVisionError,
    UsageError,
)

TABLE_START = "Layers:"
PRECISIONS_OF_GRAPH = ("fp32", "fp16", "int8")

# What the parser says → what to do about it
REFUSALS = (
    (r"DQ_bias|has type Int32 but must have type", "quantize without biases (they stay float32)"),
    (r"zero.?point", "quantize symmetrically: every zero point 0"),
    (r"UINT8", "the Cast to uint8 must be the graph's very last node"),
    (
        r"QLinear|DynamicQuantizeLinear|ConvInteger|MatMulInteger",
        "quantize with QuantizeLinear/DequantizeLinear pairs, not with integer operators",
    ),
    (r"unsupported|No importer|not found|support", "this operator is not in TensorRT: export without it"),
)
OTHER_HINT = "export the bundle again, or build with another version of the library"


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to build; `precision` is the graphs'.

    `workspace_bytes` None leaves all free memory to the library. `compute` names the GPUs of TensorRT-RTX
    ("8.6"); () means the local one. `hardware_compatibility` is one of engines.COMPATIBILITIES. `dla_core`
    runs what it can on a Jetson's DLA and the rest on the GPU. `weakly_typed` lets TensorRT choose types (≤
    10).
    """

    precision: str
    workspace_bytes: int | None = None
    compute: tuple[str, ...] = ()
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    dla_core: int | None = None
    optimization_level: int | None = None
    weakly_typed: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built engine: its bytes, the types of its inputs and outputs, its layer table when the log had it.

    `dla` says what a DLA takes of it, None when none was asked for.
    """

    plan: bytes
    dtypes: dict[str, str]
    table: str | None
    timing_cache: bytes | None
    dla: DlaCount | None = None


@released_on_error()
def build_plan(
    trt: Any,
    graph: bytes,
    name: str,
    profile: dict[str, ShapeRange],
    settings: EngineSettings,
    *,
    on_progress: ProgressCallback,
    timing_cache: bytes = b"",
    calibrator: Any = None,
) -> Plan:
    """Build the ONNX `graph` (called `name` in errors) for the shapes of `profile`.

    With `tensorrt` a driver must be there: probe it before. Raises UsageError for what this version cannot
    do or a profile that does not fit, IntegrityError for a graph it cannot read, DeviceMismatchError without
    memory enough, BackendMissingError without the GPU that it wants, TextualVisionError when a build fails.
    """
    logger = new_logger(trt)
    builder = _new_builder(trt, logger)
    network = builder.create_network(network_flags(trt, settings))
    parser = trt.OnnxParser(network, logger)
    _parse(trt, parser, network, expand_constants(graph), name)
    config = builder.create_builder_config()
    quantized, half = _is_quantized(trt, network), computes_in_half(graph)
    configure(trt, builder, config, settings, calibrator, quantized=quantized, half=half)
    _add_profile(builder, config, network, profile, name)
    if settings.dla_core is not None:
        check_dla_shapes(profile, name)
    cache = _use_timing_cache(trt, config, timing_cache, settings)
    plan = build_with_progress(
        trt, config, lambda: builder.build_serialized_network(network, config), on_progress
    )
    if plan is None:
        raise _build_error(name, logger, settings)
    return Plan(
        plan=bytes(plan),
        dtypes=_dtypes(network),
        table=next((text for _, text in logger.messages if text.startswith(TABLE_START)), None),
        timing_cache=bytes(cache.serialize()) if cache is not None else None,
        dla=dla_count(text for _, text in logger.messages) if settings.dla_core is not None else None,
    )


@released_on_error()
def table_from_plan(trt: Any, plan: bytes, settings: EngineSettings, profile: dict[str, ShapeRange]) -> str:
    """The layer table of a plan built just now, by the inspector, which needs the GPU that it is for.

    A type may depend on shapes, so it is asked about the usual ones of `profile`; 8.6.0 says "N/A due to
    dynamic shapes" all the same, but names the type of a convolution's weights.

    Raises IntegrityError when the plan cannot be loaded.
    """
    logger = new_logger(trt)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = settings.version_compatible
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise IntegrityError(f"TensorRT cannot read its own plan: {last_error(logger)}", OTHER_HINT)
    inspector = engine.create_engine_inspector()
    context = new_context(trt, engine)
    if context is None or not all(context.set_input_shape(name, one.opt) for name, one in profile.items()):
        raise TextualVisionError(f"TensorRT cannot tell of its own plan: {last_error(logger)}", OTHER_HINT)
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE))


def network_flags(trt: Any, settings: EngineSettings) -> int:
    """The bits for `create_network`: strongly typed where possible, explicit batch where that is a choice."""
    if settings.weakly_typed and not has_api(trt, "BuilderFlag.INT8"):
        version = trt.__version__
        raise UsageError(
            f"TensorRT {version} knows strongly typed networks only",
            "leave out --weakly-typed: the precision is in the bundle's graphs",
        )
    if has_api(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED") and not settings.weakly_typed:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if has_api(trt, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"):
        return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    return 0


def configure(
    trt: Any,
    builder: Any,
    config: Any,
    settings: EngineSettings,
    calibrator: Any = None,
    *,
    quantized: bool = True,
    half: bool = True,
) -> None:
    """Everything in the configuration but the profile; UsageError for what this version cannot do.

    `quantized`: whether the network has Q/DQ; `half`: whether anything in it is to be computed in float16.
    """
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the layer table needs it
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means float32: TF32 keeps ten bits of the mantissa
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    _allow_types(trt, config, settings, calibrator, quantized=quantized, half=half)
    _choose_gpus(trt, config, settings)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.dla_core is not None:
        _use_dla(trt, builder, config, settings)


def _new_builder(trt: Any, logger: Any) -> Any:
    """TextualVisionError with the library's own words, which its bindings keep to themselves."""
    try:
        return trt.Builder(logger)
    except TypeError:  # "factory function returned nullptr"
        problem = f"TensorRT {trt.__version__} makes no builder: {last_error(logger)}"
        raise TextualVisionError(
            problem, "install its package again; `nvidia-smi` tells of the GPU"
        ) from None


def _is_quantized(trt: Any, network: Any) -> bool:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return any(layer.type == trt.LayerType.QUANTIZE for layer in layers)


def _allow_types(
    trt: Any, config: Any, settings: EngineSettings, calibrator: Any, *, quantized: bool, half: bool
) -> None:
    """Flags of a weakly typed network: always so in 8.6, later only when asked for.

    Told of INT8 with neither Q/DQ nor a calibrator, 8.6 asks for one and builds nothing: seen with stages
    whose int8 graph holds nothing quantized. Told of FP16 it computes in it whatever the graph says: seen
    with a text encoder that is stored in half and computed in float. A DLA computes in nothing wider.
    """
    weakly_typed = settings.weakly_typed or not has_api(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED")
    if not weakly_typed or not has_api(trt, "BuilderFlag.INT8"):
        return
    if settings.precision in ("fp16", "int8") and (
        half or settings.weakly_typed or settings.dla_core is not None
    ):
        config.set_flag(trt.BuilderFlag.FP16)
    if settings.precision == "int8" and (quantized or calibrator is not None):
        config.set_flag(trt.BuilderFlag.INT8)
        if calibrator is not None:
            config.int8_calibrator = calibrator


def _choose_gpus(trt: Any, config: Any, settings: EngineSettings) -> None:
    if settings.hardware_compatibility == "ampere+":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif settings.hardware_compatibility == "same-compute-capability":
        if not has_api(trt, "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"):
            hint = "use a newer TensorRT, or --hardware-compatibility ampere+"
            raise UsageError(f"TensorRT {trt.__version__} has no same-compute-capability mode", hint)
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    if settings.compute:
        choose_compute(trt, settings.compute, config)


def choose_compute(trt: Any, compute: tuple[str, ...], config: Any = None) -> None:
    """Build for GPUs such as "8.6"; UsageError where the library cannot. `config` None only checks that."""
    if not has_api(trt, "ComputeCapability.SM86"):
        raise UsageError(
            "only TensorRT-RTX builds for other GPUs than the one that is here",
            "leave out --compute-capability and build on the device, or use --target tensorrt-rtx",
        )
    members = {name: member for name, member in trt.ComputeCapability.__members__.items() if name[:2] == "SM"}
    wanted = {version: f"SM{version.replace('.', '')}" for version in compute}
    if unknown := [version for version, name in wanted.items() if name not in members]:
        known = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in members)
        raise UsageError(
            f"TensorRT-RTX {trt.__version__} does not build for compute capability {unknown[0]}",
            f"it builds for {known}; for others, a Jetson too, use --target tensorrt on the device",
        )
    if config is not None:
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted.values()):
            config.set_compute_capability(members[name], index)


def _use_dla(trt: Any, builder: Any, config: Any, settings: EngineSettings) -> None:
    core = settings.dla_core
    assert core is not None
    if not 0 <= core < builder.num_DLA_cores:
        problem = f"DLA core {core} asked for, {builder.num_DLA_cores} are here"
        raise UsageError(problem, "leave out --dla: only Jetson Xavier and Orin have DLA cores")
    check_dla_precision(settings.precision)
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _parse(trt: Any, parser: Any, network: Any, graph: bytes, name: str) -> None:
    read = bool(graph) and parser.parse(graph)
    # Bytes that are no graph at all can be "read": what comes of them gives nothing.
    if read and network.num_outputs:
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    shown = " | ".join(_reason(trt, error) for error in errors[:3]) or "it is empty or damaged"
    text = " ".join(_reason(trt, error) for error in errors)
    hint = next((hint for pattern, hint in REFUSALS if re.search(pattern, text, re.IGNORECASE)), OTHER_HINT)
    raise IntegrityError(f"{name}: TensorRT cannot read the graph: {shown}", hint)


def _reason(trt: Any, error: Any) -> str:
    """The parser's words, shortened, and the node they are about (8.6 has its number only)."""
    words = " ".join(error.desc().split())[:200]
    if words == "false":  # all that is said of an operator without an importer
        words = "unsupported operator"
    if has_api(trt, "ParserError.node_operator"):
        return f"{error.node_operator()} {error.node_name()!r}: {words}"
    return f"node {error.node()}: {words}"


def _add_profile(builder: Any, config: Any, network: Any, profile: dict[str, ShapeRange], name: str) -> None:
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if set(inputs) != set(profile):
        problem = f"{name}: the graph takes {sorted(inputs)}, the profile has {sorted(profile)}"
        raise UsageError(problem, "export the bundle again: manifest and graph do not fit")
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        given = profile[tensor.name]
        _check_shapes(tuple(tensor.shape), given, f"{name}: {tensor.name}")
        shapes.set_shape(tensor.name, given.min, given.opt, given.max)
    if config.add_optimization_profile(shapes) < 0:
        raise UsageError(
            f"{name}: TensorRT refuses the profile", "give --batch-profile as MIN,OPT,MAX, rising"
        )


def _check_shapes(declared: tuple[int, ...], given: ShapeRange, where: str) -> None:
    """UsageError, with the numbers, for what the library would refuse with less to say."""
    for shape in (given.min, given.opt, given.max):
        if len(shape) != len(declared) or any(
            size not in (-1, n) for size, n in zip(declared, shape, strict=True)
        ):
            raise UsageError(f"{where}: the graph has shape {declared}, the profile {shape}")
    if not all(a <= b <= c for a, b, c in zip(given.min, given.opt, given.max, strict=True)):
        raise UsageError(
            f"{where}: {given.min} to {given.opt} to {given.max} does not rise",
            "give --batch-profile as MIN,OPT,MAX",
        )


def _use_timing_cache(trt: Any, config: Any, data: bytes, settings: EngineSettings) -> Any:
    """Measurements of earlier builds on this device; TensorRT-RTX measures nothing and has none."""
    if has_api(trt, "ComputeCapability"):
        return None
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")  # of another version: it starts anew
        config.set_timing_cache(cache, False)
    return cache


def _dtypes(network: Any) -> dict[str, str]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {tensor.name: tensor.dtype.name for tensor in (*inputs, *outputs)}


def _build_error(name: str, logger: Any, settings: EngineSettings) -> TextualVisionError:
    """Why the library built nothing, and what to do about it."""
    problem = f"{name}: TensorRT cannot build it: {last_error(logger)}"
    text = " ".join(errors_in(logger)).lower()
    if ("memory" in text or "workspace" in text) and settings.workspace_bytes is not None:
        return UsageError(problem, "give --workspace-mib more, or leave it out; or close other programs")
    if "memory" in text:
        return DeviceMismatchError(
            problem, "close other programs, add swap, or give a smaller --batch-profile"
        )
    if "cuda" in text and "35" in text:
        hint = "there is no driver here: name the GPUs with --compute-capability (TensorRT-RTX only)"
        return BackendMissingError(problem, hint)
    return TextualVisionError(problem, "try another precision or version of the library")
