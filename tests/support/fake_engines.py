"""The half of the pretended TensorRT that runs engines; `fake_tensorrt` makes a version's library of it.

An engine's plan is JSON; each output is twice the input of the same stage that it is made from.
"""

from __future__ import annotations

import ctypes
import json

import numpy as np

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "UINT8": "uint8"}


class Runtime:
    def __init__(self, logger) -> None:
        self._logger = logger
        self._trt._runtimes.append(self)

    def get_engine_validity(self, plan):
        good = plan.startswith(b"{")
        return (self._trt.EngineValidity.VALID, 0) if good else (self._trt.EngineValidity.INVALID, 32)

    def deserialize_cuda_engine(self, plan):
        try:
            described = json.loads(plan)
        except ValueError:
            self._logger.log(self._trt._severity.ERROR, "the fake library cannot read this plan")
            return None
        engine = self._trt.ICudaEngine()
        engine._plan = described
        engine._tensors = {t["name"]: t for t in (*described["inputs"], *described["outputs"])}
        return engine


class ICudaEngine:
    @property
    def num_io_tensors(self):
        return len(self._tensors)

    @property
    def device_memory_size(self):
        return self._plan["scratch"]

    @property
    def device_memory_size_v2(self):
        return self._plan["scratch"]

    def create_engine_inspector(self):
        return self._trt.EngineInspector()

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        takes = "shapes" in self._tensors[name]
        return self._trt.TensorIOMode.INPUT if takes else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._trt.DataType[self._tensors[name]["dtype"]]

    def get_tensor_profile_shape(self, name, index):
        assert index == 0
        return self._tensors[name]["shapes"]

    def create_execution_context(self, strategy=None):
        assert strategy is None or strategy.name == "USER_MANAGED"
        return self._context()

    def create_execution_context_without_device_memory(self):
        return self._context()

    def _context(self):
        context = self._trt.IExecutionContext()
        context._engine, context._shapes, context._addresses, context._scratch = self, {}, {}, None
        self._trt._contexts.append(context)
        return context


class EngineInspector:
    def get_engine_information(self, form):
        shapes = {name: list(shape) for name, shape in self.execution_context._shapes.items()}
        return f"told as {form.name} for {json.dumps(shapes)}"


class IExecutionContext:
    def set_input_shape(self, name, shape):
        low, _, high = self._engine._tensors[name]["shapes"]
        fits = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def _shape(self, name):
        tensor = self._engine._tensors[name]
        return self._shapes[name] if "shapes" in tensor else self._shapes[tensor["from"]]

    def get_tensor_shape(self, name):
        return self._shape(name)

    def get_max_output_size(self, name):
        tensor = self._engine._tensors[name]
        largest = self._engine._tensors[tensor["from"]]["shapes"][2]
        return int(np.prod(largest)) * np.dtype(NUMPY[tensor["dtype"]]).itemsize

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def set_device_memory(self, address, size):
        self._scratch = (address, size)

    def is_stream_capturable(self, stream):
        return self._trt._capturable

    def execute_async_v3(self, stream):
        assert stream
        scratch = self._scratch or self.__dict__.get("device_memory")
        if not scratch or self._trt._failing:
            return False
        for tensor in self._engine._plan["outputs"]:
            value = self._view(tensor["from"]) * 2
            self._view(tensor["name"])[...] = value.astype(NUMPY[tensor["dtype"]])
        self._trt._executions += 1
        return True

    def _view(self, name):
        shape, dtype = self._shape(name), np.dtype(NUMPY[self._engine._tensors[name]["dtype"]])
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)
