"""A Jetson Orin with TensorRT 10.3, as far as building engines goes: what the library says is made up."""

from __future__ import annotations

import dataclasses

from textual_vision.export.tensorrt.builder import EngineSettings
from textual_vision.export.tensorrt.options import EngineBuildOptions
from textual_vision.runtime.backends.tensorrt.cudart import Device

ORIN = Device(compute="8.7", driver="12.6", integrated=True, free_bytes=1 << 32, total_bytes=1 << 33)
SETTINGS = {field.name for field in dataclasses.fields(EngineSettings)}


def silent(text):
    """Hears of the progress of a build."""


def options(kind="tensorrt", precision="fp32", *, compute=(), **changed):
    """Options and, by their names, the settings in them."""
    settings = {name: changed.pop(name) for name in list(changed) if name in SETTINGS}
    given = {"timing_folder": None, **changed}
    return EngineBuildOptions(
        kind=kind, settings=EngineSettings(precision=precision, compute=compute, **settings), **given
    )


def table_of(library, dtype="Float"):
    """A layer table that has every node of the network built last as a product in `dtype`."""
    network, _ = library._built[-1]
    tensor = f"{{ Name: t, Dimensions: [-1,8], Datatype: {dtype}, Format: x }}"
    return "\n".join(
        f"Name: {node}, LayerType: gemm, Inputs: [ {tensor}], Constants: [], Outputs: [ {tensor}], "
        f"Metadata: [ONNX Layer: {node}]"
        for node in network._nodes or ["none"]
    )
