"""Build engines with TensorRT 8.6, 10, 11 or TensorRT-RTX, whose module is passed as the argument `trt`.

The precision is in the graph (Cast, Q/DQ), which every version reads. Networks are strongly typed where the
library supports it. TensorRT 8.6 does not, so its builder is allowed the types that the graph uses. Up to 10,
the library can choose the types with --weakly-typed, and uses the entropy calibrator for INT8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from textual_vision.export.precision.lossless_storage import computes_in_half
from textual_vision.export.tensorrt.dla import check_dla_precision, check_dla_shapes, dla_count
from textual_vision.export.tensorrt.layer_table import TABLE_START
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
from textual_vision.runtime.progress import ProgressCallback

# Pattern of the parser's message → hint.
PARSER_HINTS = (
    (r"DQ_bias|has type Int32 but must have type", "quantize without biases (they stay float32)"),
    (r"zero.?point", "quantize symmetrically: every zero point 0"),
    (r"UINT8", "make the Cast to uint8 the graph's last node"),
    (
        r"QLinear|DynamicQuantizeLinear|ConvInteger|MatMulInteger",
        "quantize with QuantizeLinear/DequantizeLinear pairs, not with integer operators",
    ),
    (r"unsupported|No importer|not found|support", "TensorRT lacks this operator: export without it"),
)
OTHER_HINT = "export the bundle again, or build with another version of the library"


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to build engines of the graphs in `precision`.

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
    """A built engine: its bytes, the types of its inputs and outputs, and its layer table if the log has it.

    `dla` counts the layers on the DLA; None without one.
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

    TensorRT crashes without a driver, so call `probe` first. Raises UsageError for an option that this
    version lacks or a profile that does not fit, IntegrityError for a graph it cannot read,
    DeviceMismatchError for too little memory, BackendMissingError without the GPU, and TextualVisionError
    when a build fails.
    """
    logger = new_logger(trt)
    builder = _new_builder(trt, logger)
    network = builder.create_network(network_flags(trt, settings))
    parser = trt.OnnxParser(network, logger)
    _parse(trt, parser, network, graph, name)
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
    """Return the layer table of a plan from TensorRT's inspector, which needs the plan's GPU.

    Types may depend on shapes, so the inspector is given the usual shapes of `profile`. TensorRT 8.6.0 still
    reports "N/A due to dynamic shapes", but names the type of a convolution's weights.

    Raises IntegrityError when the plan cannot be loaded.
    """
    logger = new_logger(trt)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = settings.version_compatible
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise IntegrityError(
            f"TensorRT cannot load the engine it just built: {last_error(logger)}", OTHER_HINT
        )
    inspector = engine.create_engine_inspector()
    context = new_context(trt, engine)
    if context is None or not all(context.set_input_shape(name, one.opt) for name, one in profile.items()):
        raise TextualVisionError(
            f"TensorRT cannot inspect the engine it just built: {last_error(logger)}", OTHER_HINT
        )
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE))


def network_flags(trt: Any, settings: EngineSettings) -> int:
    """Return the flags for `create_network`: strongly typed where possible, explicit batch where optional."""
    if settings.weakly_typed and not has_api(trt, "BuilderFlag.INT8"):
        version = trt.__version__
        raise UsageError(
            f"TensorRT {version} has only strongly typed networks",
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
    """Set everything in the configuration except the profile.

    `quantized` says whether the network has Q/DQ, `half` whether any layer computes in float16. Raises
    UsageError for an option that this version lacks.
    """
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the layer table
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means float32; TF32 keeps ten bits of the mantissa
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
    """Return a builder; raises TextualVisionError with the logged reason, which the bindings omit."""
    try:
        return trt.Builder(logger)
    except TypeError:  # "factory function returned nullptr"
        problem = f"TensorRT {trt.__version__} creates no builder: {last_error(logger)}"
        raise TextualVisionError(
            problem, "install its package again, and check the GPU with `nvidia-smi`"
        ) from None


def _is_quantized(trt: Any, network: Any) -> bool:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return any(layer.type == trt.LayerType.QUANTIZE for layer in layers)


def _allow_types(
    trt: Any, config: Any, settings: EngineSettings, calibrator: Any, *, quantized: bool, half: bool
) -> None:
    """Set the type flags of a weakly typed network: always in 8.6, later only with `weakly_typed`.

    With the INT8 flag but neither Q/DQ nor a calibrator, 8.6 asks for a calibrator and builds nothing; this
    happened with stages whose int8 graph has no quantized layer. With the FP16 flag, 8.6 computes in float16
    whatever the graph says; this happened with a text encoder stored in float16 and computed in float32. A
    DLA computes in nothing wider than float16.
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
    """Set the GPUs to build for, such as "8.6"; `config` None only checks them. Raises UsageError."""
    if not has_api(trt, "ComputeCapability.SM86"):
        raise UsageError(
            "only TensorRT-RTX builds for other GPUs than this machine's",
            "leave out --compute-capability and build on the device, or use --target tensorrt-rtx",
        )
    members = {name: member for name, member in trt.ComputeCapability.__members__.items() if name[:2] == "SM"}
    wanted = {version: f"SM{version.replace('.', '')}" for version in compute}
    if unknown := [version for version, name in wanted.items() if name not in members]:
        known = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in members)
        raise UsageError(
            f"TensorRT-RTX {trt.__version__} does not build for compute capability {unknown[0]}",
            f"choose one of: {known}; for other GPUs and a Jetson, use --target tensorrt on the device",
        )
    if config is not None:
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted.values()):
            config.set_compute_capability(members[name], index)


def _use_dla(trt: Any, builder: Any, config: Any, settings: EngineSettings) -> None:
    core = settings.dla_core
    assert core is not None
    if not 0 <= core < builder.num_DLA_cores:
        problem = f"DLA core {core} is requested, and this device has {builder.num_DLA_cores}"
        raise UsageError(problem, "leave out --dla: only Jetson Xavier and Orin have DLA cores")
    check_dla_precision(settings.precision)
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _parse(trt: Any, parser: Any, network: Any, graph: bytes, name: str) -> None:
    read = bool(graph) and parser.parse(graph)
    # The parser accepts some bytes that are no graph; the network then has no outputs.
    if read and network.num_outputs:
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    shown = " | ".join(_reason(trt, error) for error in errors[:3]) or "it is empty or damaged"
    text = " ".join(_reason(trt, error) for error in errors)
    hint = next(
        (hint for pattern, hint in PARSER_HINTS if re.search(pattern, text, re.IGNORECASE)), OTHER_HINT
    )
    raise IntegrityError(f"{name}: TensorRT cannot read the graph: {shown}", hint)


def _reason(trt: Any, error: Any) -> str:
    """Return the parser's message, shortened, and its node (in 8.6, the node's number)."""
    words = " ".join(error.desc().split())[:200]
    if words == "false":  # the parser's message for an operator without an importer
        words = "unsupported operator"
    if has_api(trt, "ParserError.node_operator"):
        return f"{error.node_operator()} {error.node_name()!r}: {words}"
    return f"node {error.node()}: {words}"


def _add_profile(builder: Any, config: Any, network: Any, profile: dict[str, ShapeRange], name: str) -> None:
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if set(inputs) != set(profile):
        problem = f"{name}: the graph takes {sorted(inputs)}, the profile has {sorted(profile)}"
        raise UsageError(problem, "export the bundle again, because manifest and graph differ")
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        given = profile[tensor.name]
        _check_shapes(tuple(tensor.shape), given, f"{name}: {tensor.name}")
        shapes.set_shape(tensor.name, given.min, given.opt, given.max)
    if config.add_optimization_profile(shapes) < 0:
        raise UsageError(
            f"{name}: TensorRT refuses the profile", "give rising numbers: --batch-profile MIN,OPT,MAX"
        )


def _check_shapes(declared: tuple[int, ...], given: ShapeRange, where: str) -> None:
    """Raise UsageError with the numbers for shapes that the library would refuse without them."""
    for shape in (given.min, given.opt, given.max):
        if len(shape) != len(declared) or any(
            size not in (-1, n) for size, n in zip(declared, shape, strict=True)
        ):
            raise UsageError(f"{where}: the graph has shape {declared}, the profile {shape}")
    if not all(a <= b <= c for a, b, c in zip(given.min, given.opt, given.max, strict=True)):
        raise UsageError(
            f"{where}: {given.min} to {given.opt} to {given.max} is not rising",
            "give rising numbers: --batch-profile MIN,OPT,MAX",
        )


def _use_timing_cache(trt: Any, config: Any, data: bytes, settings: EngineSettings) -> Any:
    """Return the timing cache of earlier builds here; None for TensorRT-RTX, which times nothing."""
    if has_api(trt, "ComputeCapability"):
        return None
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")  # the old one is of another version
        config.set_timing_cache(cache, False)
    return cache


def _dtypes(network: Any) -> dict[str, str]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {tensor.name: tensor.dtype.name for tensor in (*inputs, *outputs)}


def _build_error(name: str, logger: Any, settings: EngineSettings) -> TextualVisionError:
    """Return the error that says why the build failed, with a hint."""
    problem = f"{name}: TensorRT cannot build it: {last_error(logger)}"
    text = " ".join(errors_in(logger)).lower()
    if ("memory" in text or "workspace" in text) and settings.workspace_bytes is not None:
        return UsageError(problem, "raise --workspace-mib or leave it out, or close other programs")
    if "memory" in text:
        return DeviceMismatchError(
            problem, "close other programs, add swap, or choose a smaller --batch-profile"
        )
    if "cuda" in text and "35" in text:
        hint = "this machine has no driver: name the GPUs with --compute-capability (TensorRT-RTX only)"
        return BackendMissingError(problem, hint)
    return TextualVisionError(problem, "try another precision or version of the library")
