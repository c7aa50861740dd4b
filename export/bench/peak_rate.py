"""Measure the peak rate of matrix products on this machine, with which runners are compared."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from textual_vision.runtime.backends.session import Array, Session, SessionOptions, open_session
from textual_vision.runtime.errors import IntegrityError

SIZE = 1024
MAX_REPEATS, MIN_REPEATS, LIMIT_SECONDS = 12, 3, 0.4
OPSET, IR_VERSION = 17, 8
FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"
# Backends that compute float32 graphs in another type.
FLOAT_DTYPES = {"openvino-bf16": BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class PeakRate:
    """The highest measured number of multiply-accumulates per second in `dtype`, and `by` what library."""

    dtype: str
    macs_per_second: float
    by: str


def measure_peak_rates(backends: Sequence[str], threads: int | None) -> dict[str, PeakRate]:
    """Return the highest rate among `backends` for each dtype: float32, int8, and bfloat16 where one uses it.

    For float32, PyTorch is measured too where it is installed. int8 is measured as MatMulInteger and as
    explicit Q/DQ, because a backend may be fast with only one of them.
    """
    values = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    small = np.clip(values * 40, -127, 127).astype(np.int8)
    found: list[PeakRate | None] = []
    if importlib.util.find_spec("torch") is not None:
        found.append(_torch_rate(values, threads))
    for backend in backends:
        dtype = FLOAT_DTYPES.get(backend, FLOAT32)
        found.append(_session_rate(dtype, _float_graph(values), values, (backend, "MatMul", threads)))
        found.append(
            _session_rate(INT8, _integer_graph(small), _unsigned(small), (backend, "MatMulInteger", threads))
        )
        found.append(_session_rate(INT8, _qdq_graph(small), small, (backend, "MatMul with Q/DQ", threads)))
    best: dict[str, PeakRate] = {}
    for one in found:
        if one is not None and one.macs_per_second > getattr(best.get(one.dtype), "macs_per_second", 0.0):
            best[one.dtype] = one
    return best


def faster_peak(first: dict[str, PeakRate], second: dict[str, PeakRate]) -> dict[str, PeakRate]:
    """Return the higher rate of two measurements for each dtype."""
    return {
        dtype: max((m[dtype] for m in (first, second) if dtype in m), key=lambda c: c.macs_per_second)
        for dtype in (*first, *(d for d in second if d not in first))
    }


def _torch_rate(values: Array, threads: int | None) -> PeakRate:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    matrix, out = torch.from_numpy(values), torch.empty(SIZE, SIZE)
    return PeakRate(
        dtype=FLOAT32,
        macs_per_second=_rate(lambda: torch.mm(matrix, matrix, out=out)),
        by=f"torch mm, threads: {torch.get_num_threads()}",
    )


def _session_rate(
    dtype: str, graph: bytes, values: Array, where: tuple[str, str, int | None]
) -> PeakRate | None:
    """Return the rate of one graph; None when the backend cannot run it."""
    backend, name, threads = where
    options = SessionOptions(backend=backend, name=name, threads=threads, trusted=True)
    try:
        session: Session = open_session(graph, options)
    except IntegrityError:
        return None
    return PeakRate(
        dtype=dtype, macs_per_second=_rate(lambda: session.run({"x": values})), by=f"{backend} {name}"
    )


def _rate(work: Callable[[], object]) -> float:
    work()
    times: list[float] = []
    while len(times) < MIN_REPEATS or (len(times) < MAX_REPEATS and sum(times) < LIMIT_SECONDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(SIZE**3 / min(times))


def _unsigned(small: Array) -> Array:
    return (small.astype(np.int16) + 128).astype(np.uint8)


def _float_graph(weights: Array) -> bytes:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _graph(nodes, {"w": weights}, TensorProto.FLOAT, TensorProto.FLOAT)


def _integer_graph(weights: Array) -> bytes:
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])]
    constants = {"w": weights, "zero": np.array(128, np.uint8)}
    return _graph(nodes, constants, TensorProto.UINT8, TensorProto.INT32)


def _qdq_graph(weights: Array) -> bytes:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weights"]),
        helper.make_node("MatMul", ["real", "weights"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "wide", "zero"], ["y"]),
    ]
    constants = {
        "w": weights,
        "scale": np.array(0.025, np.float32),
        "wide": np.array(1.0, np.float32),
        "zero": np.array(0, np.int8),
    }
    return _graph(nodes, constants, TensorProto.INT8, TensorProto.INT8)


def _graph(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], input_type: int, output_type: int
) -> bytes:
    shape = [SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "matmul",
        [helper.make_tensor_value_info("x", input_type, shape)],
        [helper.make_tensor_value_info("y", output_type, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return data
