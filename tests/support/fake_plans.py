"""Plans that the pretended TensorRT runs, for a bundle's stages."""

from __future__ import annotations

MAX_BATCH, TOKENS = 4, 12
DTYPES = {"float32": "FLOAT", "int64": "INT64", "uint8": "UINT8"}


def plan_of(stage, int_type):
    """What is in the plan of `stage`; `int_type` is what the library calls the integers."""

    def tensor(spec):
        dtype = DTYPES[spec.dtype]
        return {"name": spec.name, "dtype": int_type if dtype == "INT64" else dtype}

    def shape(spec, batch, tokens):
        return [{"batch": batch, "tokens": tokens}.get(size, size) for size in spec.shape]

    inputs = [
        {**tensor(s), "shapes": [shape(s, 1, 2), shape(s, 1, 6), shape(s, MAX_BATCH, TOKENS)]}
        for s in stage.inputs
    ]
    outputs = [{**tensor(s), "from": stage.inputs[0].name} for s in stage.outputs]
    return {"inputs": inputs, "outputs": outputs, "scratch": 4096}


def kind_of(version):
    """The kind of engine that a version of the library builds."""
    return "tensorrt-rtx" if version.startswith("rtx") else "tensorrt"
