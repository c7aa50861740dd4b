"""Graphs with something damaged, as an attacker or a bad disk leaves them."""

import onnx

TYPES = [0, 1, 2, 3, 6, 7, 9, 10, 11, 16, 17, 99]


def damaged_bytes(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(out))
        new = rng.choice(
            [bytes([rng.randrange(256)]), b"\xff\xff\xff\xff\x0f", b"", b"{", b"9" * 30, b"\x00"]
        )
        out[start : start + rng.choice((0, 1, 1, 4))] = new
    return bytes(out)


def damaged_graph(data, rng):
    """A graph that is still one: with another operator, name, type, size or attribute somewhere."""
    model = onnx.load_from_string(data)
    node = rng.choice(model.graph.node)
    tensor = rng.choice(model.graph.initializer)
    value = rng.choice([*model.graph.input, *model.graph.output])
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    kind = rng.randrange(8)
    if kind == 0:
        node.op_type = rng.choice(model.graph.node).op_type
    elif kind == 1:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 2:
        node.output[0] = rng.choice(names)
    elif kind == 3:
        tensor.data_type = rng.choice(TYPES)
    elif kind == 4 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, 1, 2, 3, 7, 1 << 20, 1 << 31, -1])
    elif kind == 5:
        tensor.raw_data = bytes(rng.randrange(256) for _ in range(len(tensor.raw_data)))
    elif kind == 6:
        value.type.tensor_type.elem_type = rng.choice(TYPES)
    elif node.attribute:
        rng.choice(node.attribute).i = rng.choice([-1, 0, 1, 3, 100, 2**40])
    return model.SerializeToString()
