"""TensorRT without a GPU: a module that has what one real version has, and not a name more.

`surfaces()` are the names that each real binding has_api. `fake_library(version)` makes a module from one of
them: enumerations are complete; the classes below do a little, but only through names that the version has;
reading or setting any other name is an AttributeError, as it would be with the real thing.

Its plans are JSON, which `fake_engines` runs.
"""

from __future__ import annotations

import enum
import json
import types
from functools import cache
from pathlib import Path

import onnx
from fake_engines import EngineInspector, ICudaEngine, IExecutionContext, Runtime

SURFACE_FOLDER = Path(__file__).parent.parent / "data" / "trt_surface"
FROM_ONNX = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 2: "UINT8"}
VERSIONS = ("8.6.1", "10.3.0", "10.13.3.9", "11.0.0.114", "11.4.0.106", "rtx-1.7.1.116")


@cache
def surfaces() -> dict[str, dict]:
    """Version → class → {"enum": members} or {"attrs": names}."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(SURFACE_FOLDER.glob("*.json"))}


def has(surface: dict, path: str) -> bool:
    """Whether `path` ("BuilderFlag.FP16", "Runtime") is in a surface."""
    name, _, member = path.partition(".")
    if name not in surface:
        return False
    return not member or member in {*surface[name].get("enum", ()), *surface[name].get("attrs", ())}


class Limited:
    """A class of the library: only the surface's names can be read or set; `_…` are the fake's own."""

    allowed: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in self.allowed:
            raise AttributeError(f"this version's {type(self).__name__} has no {name}")
        object.__setattr__(self, name, value)


class ILogger:
    def __init__(self) -> None:
        pass


class IProgressMonitor(ILogger):
    pass


class IInt8EntropyCalibrator2(ILogger):
    pass


class Builder:
    num_DLA_cores = 0  # noqa: N815

    def __init__(self, logger) -> None:
        self._logger = logger

    def create_network(self, flags):
        network = self._trt.INetworkDefinition()
        network._flags = flags
        return network

    def create_builder_config(self):
        config = self._trt.IBuilderConfig()
        config._set, config._cleared, config._pools, config._compute = set(), set(), {}, {}
        return config

    def create_optimization_profile(self):
        profile = self._trt.IOptimizationProfile()
        profile._shapes = {}
        return profile

    def build_serialized_network(self, network, config):
        self._trt._built.append((network, config))
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            going = monitor.step_complete("Building", 0)
            monitor.phase_finish("Building")
            if not going:
                return None
        shapes = config._profile._shapes
        plan = {
            "inputs": [
                {"name": t.name, "dtype": t.dtype.name, "shapes": shapes[t.name]} for t in network._inputs
            ],
            "outputs": [
                {"name": t.name, "dtype": t.dtype.name, "from": network._inputs[0].name}
                for t in network._outputs
            ],
            "scratch": 4096,
        }
        return json.dumps(plan).encode()


class INetworkDefinition:
    @property
    def num_inputs(self):
        return len(self._inputs)

    @property
    def num_outputs(self):
        return len(self._outputs)

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger) -> None:
        self._network = network

    def parse(self, graph):
        parsed = onnx.load_model_from_string(graph).graph
        self._network._nodes = [node.name for node in parsed.node]
        self._network._layers = [self._layer(node.op_type) for node in parsed.node]
        self._network._inputs = [self._tensor(value) for value in parsed.input]
        self._network._outputs = [self._tensor(value) for value in parsed.output]
        return True

    def _layer(self, operator):
        quantizes = operator == "QuantizeLinear"
        kind = self._trt.LayerType.QUANTIZE if quantizes else self._trt.LayerType.SHUFFLE
        return types.SimpleNamespace(type=kind)

    def _tensor(self, value):
        tensor, kind = self._trt.ITensor(), value.type.tensor_type
        tensor.name = value.name
        tensor.shape = [-1 if size.dim_param else size.dim_value for size in kind.shape.dim]
        name = FROM_ONNX[kind.elem_type]
        if not hasattr(self._trt.DataType, name):
            name = {"INT64": "INT32"}[name]
        tensor.dtype = self._trt.DataType[name]
        return tensor


class IBuilderConfig:
    def set_flag(self, flag):
        self._set.add(flag.name)

    def clear_flag(self, flag):
        self._cleared.add(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self._pools[pool.name] = size

    def add_optimization_profile(self, profile):
        self._profile = profile
        return 0

    def create_timing_cache(self, data):
        timings = self._trt.ITimingCache()
        timings._data = data
        return timings

    def set_timing_cache(self, timings, ignore_mismatch):
        self._timings = timings
        return b"other version" not in timings._data

    def set_compute_capability(self, member, index):
        self._compute[index] = member.name


class IOptimizationProfile:
    def set_shape(self, name, smallest, usual, largest):
        self._shapes[name] = [list(smallest), list(usual), list(largest)]


class ITimingCache:
    def serialize(self):
        return self._data + b"+"


IMPLEMENTED = (
    ILogger,
    IProgressMonitor,
    IInt8EntropyCalibrator2,
    Builder,
    INetworkDefinition,
    OnnxParser,
    IBuilderConfig,
    IOptimizationProfile,
    ITimingCache,
    Runtime,
    ICudaEngine,
    IExecutionContext,
    EngineInspector,
    type("ITensor", (), {}),
)


def fake_library(version: str) -> types.SimpleNamespace:
    """A module with the surface of the real `version`; `_built`, `_executions`, … tell what was done."""
    surface = surfaces()[version]
    library = types.SimpleNamespace(
        __version__=version.removeprefix("rtx-"),
        _built=[],
        _runtimes=[],
        _contexts=[],
        _executions=0,
        _failing=False,
        _capturable=True,
        _severity=enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]),
    )
    for name, content in surface.items():
        if members := content.get("enum"):
            bits = name in ("EngineInvalidityDiagnostics",)
            values = {m: 1 << i if bits else i for i, m in enumerate(_ordered(name, members))}
            setattr(library, name, enum.IntEnum(name, values))
    for implementation in IMPLEMENTED:
        if implementation.__name__ in surface:
            made = _limited(implementation, surface[implementation.__name__].get("attrs", ()))
            made._trt = library
            setattr(library, implementation.__name__, made)
    return library


def _ordered(name: str, members: list[str]) -> list[str]:
    if name != "EngineInvalidityDiagnostics":
        return members
    return [
        "VERSION_MISMATCH",
        "UNSUPPORTED_CC",
        "OLD_CUDA_DRIVER",
        "OLD_CUDA_RUNTIME",
        "INSUFFICIENT_GPU_MEMORY",
        "MALFORMED_ENGINE",
        "CUDA_ERROR",
    ]


def _limited(implementation: type, attrs: list[str]) -> type:
    allowed = frozenset(attrs)
    own = {
        name: value
        for name, value in vars(implementation).items()
        if name in allowed or (name.startswith("_") and name not in ("__dict__", "__weakref__"))
    }
    missing = {name: None for name in allowed if name not in own}
    if implementation.__name__ in ("ILogger", "IProgressMonitor", "IInt8EntropyCalibrator2"):
        return type(implementation.__name__, (), {**missing, **own})
    return type(implementation.__name__, (Limited,), {**missing, **own, "allowed": allowed})
