"""Bundles as an attacker may write them: the tiny bundle with one file changed, and its digests repaired.

As a program it is a worker: it reads seeds from its input, draws from each seed's mutant, and prints what
came of it as a line of JSON. Whoever started it sees when it crashes or hangs.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import os
import pickle
import random
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
SECRET = "secret.bin"
ODD_VALUES = (0, 1, -1, 2**20, 2**31, 2**63 - 1, 10**30, 0.5, 1e308, "", "x" * 300, "../secret.bin",
              "\x1b[2J", None, True, [], {}, [[]], {"type": "Sequence"}, {"Regex": "(a*)*b"},
              SECRET)  # fmt: skip
ODD_INTEGERS = (0, 1, -1, 2, 7, 255, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63))
IN_ACCESS, IN_OPEN = 0x1, 0x20


def mutant(files: dict[str, bytes], seed: int) -> tuple[str, dict[str, bytes]]:
    """The name of the changed file, and all files; the same for the same seed."""
    chance = random.Random(seed)
    graphs = sorted(name for name in files if name.endswith(".onnx"))
    name = chance.choice([MANIFEST, MANIFEST, TOKENIZER, TOKENIZER, *graphs, *graphs])
    change = chance.choice(CHANGES[Path(name).suffix])
    changed = {**files, name: change(files[name], chance)}
    if name != MANIFEST:
        changed[MANIFEST] = _repaired(files[MANIFEST], name, changed[name])
    return name, changed


def _repaired(manifest: bytes, name: str, data: bytes) -> bytes:
    value = json.loads(manifest)
    value["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return json.dumps(value).encode()


def _bytes_changed(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        found[chance.randrange(len(found))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(found)


def _piece_moved(data: bytes, chance: random.Random) -> bytes:
    """A piece cut out, doubled, or put elsewhere."""
    start, end = sorted(chance.randrange(len(data)) for _ in range(2))
    piece = data[start : min(end, start + 200)]
    rest = data[:start] + data[start + len(piece) :]
    place = chance.randrange(len(rest) + 1)
    return chance.choice((rest, data[:start] + piece + data[start:], rest[:place] + piece + rest[place:]))


def _value_changed(data: bytes, chance: random.Random) -> bytes:
    value = json.loads(data)
    for _ in range(chance.choice((1, 1, 1, 3))):
        places = list(_places(value))
        holder, key = chance.choice(places)
        act = chance.randrange(6)
        if act == 0 and isinstance(holder, dict):
            del holder[key]
        elif act == 1:
            other_holder, other_key = chance.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key])
        elif act == 2 and isinstance(holder[key], list):
            holder[key] = holder[key] * chance.choice((2, 50))
        elif act == 3 and isinstance(holder, dict):
            holder[str(chance.choice(ODD_VALUES))] = holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: object):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _long_tag(data: bytes, chance: random.Random) -> bytes:
    """A number of one byte, perhaps a tag, written in five, the 33rd bit set."""
    places = [place for place in range(len(data)) if data[place] < 0x80]
    place = chance.choice(places[:4000])
    return data[:place] + bytes([data[place] | 0x80, 0x80, 0x80, 0x80, 0x10]) + data[place + 1 :]


def _graph_changed(data: bytes, chance: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    for _ in range(chance.choice((1, 1, 2))):
        chance.choice(GRAPH_CHANGES)(model, chance)
    return model.SerializeToString()


def _type_of_constant(model: onnx.ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.initializer).data_type = chance.randrange(24)


def _sizes_of_constant(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    tensor.dims[:] = [chance.choice(ODD_INTEGERS) for _ in range(chance.randrange(1, 4))]


def _values_of_constant(model: onnx.ModelProto, chance: random.Random) -> None:
    """Integers are shapes and axes: odd ones of the right size."""
    tensor = chance.choice(model.graph.initializer)
    if tensor.data_type == TensorProto.INT64:
        count = len(tensor.raw_data) // 8
        values = [chance.choice(ODD_INTEGERS) for _ in range(count)]
        tensor.raw_data = np.array(values, np.int64).tobytes()
    else:
        odd = np.array([np.nan, np.inf, 1e38, -1e38], np.float32)
        count = len(tensor.raw_data) // 4
        tensor.raw_data = np.resize(odd, count).tobytes()


def _external_constant(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = chance.choice((SECRET, f"../{SECRET}", str(Path(SECRET).resolve()), "/etc/passwd"))
    tensor.external_data.add(key="location", value=location)


def _operator(model: onnx.ModelProto, chance: random.Random) -> None:
    names = [one.name for one in onnx.defs.get_all_schemas() if one.domain == ""]
    chance.choice(model.graph.node).op_type = chance.choice(sorted(set(names)))


def _domain(model: onnx.ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.node).domain = chance.choice(("com.microsoft", "ai.onnx.ml", "x"))


def _wiring(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    names = [name for one in model.graph.node for name in (*one.input, *one.output)]
    side = chance.choice((node.input, node.output))
    side[chance.randrange(len(side))] = chance.choice((*names, "", "none"))


def _attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    attribute = chance.choice(chance.choice(nodes).attribute)
    if attribute.ints:
        attribute.ints[:] = [chance.choice(ODD_INTEGERS) for _ in range(chance.randrange(1, 8))]
    else:
        attribute.i = chance.choice(ODD_INTEGERS)
    if chance.random() < 0.3:
        attribute.type = chance.randrange(1, 14)


def _node_added(model: onnx.ModelProto, chance: random.Random) -> None:
    """A node more, before the last: growing things."""
    last = model.graph.node[-1]
    kind = chance.choice(("Expand", "Tile", "ConstantOfShape", "Concat", "Identity", "MatMul", "Pad", "Loop"))
    size = onnx.numpy_helper.from_array(np.array([chance.choice(ODD_INTEGERS)] * 2), "odd size")
    model.graph.initializer.append(size)
    given = {"ConstantOfShape": ["odd size"], "Identity": [last.input[0]]}.get(
        kind, [last.input[0], "odd size"]
    )
    model.graph.node.insert(len(model.graph.node) - 1, onnx.helper.make_node(kind, given, ["more"]))
    last.input[0] = "more"


def _versions(model: onnx.ModelProto, chance: random.Random) -> None:
    if chance.random() < 0.5:
        model.opset_import[0].version = chance.choice((*ODD_INTEGERS, 7, 13, 20, 25, 10**8))
    else:
        model.ir_version = chance.choice((*ODD_INTEGERS, 3, 11))


def _value_type(model: onnx.ModelProto, chance: random.Random) -> None:
    kind = chance.choice((*model.graph.input, *model.graph.output)).type.tensor_type
    if chance.random() < 0.5:
        kind.elem_type = chance.randrange(24)
    else:
        kind.shape.dim[chance.randrange(len(kind.shape.dim))].dim_value = chance.choice(ODD_INTEGERS)


GRAPH_CHANGES = (_type_of_constant, _sizes_of_constant, _values_of_constant, _values_of_constant,
                 _external_constant, _operator, _domain, _wiring, _wiring, _attribute, _node_added, _versions,
                 _value_type)  # fmt: skip
CHANGES = {
    ".json": (_bytes_changed, _piece_moved, _value_changed, _value_changed, _value_changed),
    ".onnx": (_bytes_changed, _piece_moved, _long_tag, _graph_changed, _graph_changed, _graph_changed,
              _graph_changed),
}  # fmt: skip


class FileWatch:
    """Sees whether any library of this process opens a file, by Linux's inotify."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._library.inotify_init1(os.O_NONBLOCK)
        watch = self._library.inotify_add_watch(self._descriptor, os.fsencode(path), IN_ACCESS | IN_OPEN)
        if self._descriptor < 0 or watch < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def was_opened(self) -> bool:
        """Whether it was since the last call."""
        try:
            return bool(os.read(self._descriptor, 1 << 16))
        except BlockingIOError:
            return False


def draw(root: Path, backend: str) -> str:
    """What drawing from a bundle comes to: "picture", or the name of an error of ours."""
    from textual_vision.runtime import IntegrityError, TextToImage, TextualVisionError

    try:
        with TextToImage.load(root, backend=backend) as model:
            size = model.bundle.manifest.image
            drawn = model.generate(["a dog", "green forest with river"], [1, 2])
    except TextualVisionError as error:
        assert len(error.message) < 1000, error.message[:2000]
        assert error.message.isprintable(), ascii(error.message)
        return "IntegrityError" if isinstance(error, IntegrityError) else type(error).__name__
    assert drawn.images.dtype == np.uint8
    assert drawn.images.shape == (2, size.height, size.width, 3)
    return "picture"


def main() -> None:
    """The worker."""
    files = pickle.loads(Path(sys.argv[1]).read_bytes())  # written by the test itself
    secret = Path(SECRET)
    secret.write_bytes(os.urandom(4096))
    watch = FileWatch(secret)
    root = Path("mutant.tv")
    warnings.simplefilter("ignore")
    draw_plain(files, root)
    for line in sys.stdin:
        seed = int(line)
        name, changed = mutant(files, seed)
        write(changed, root)
        start = time.process_time()  # what else the machine does is no fault of the mutant
        try:
            outcome = draw(root, "openvino" if seed % 8 == 0 else "onnxruntime")
        except BaseException as error:  # noqa: BLE001 - what must not happen is reported
            outcome = f"raised {error!r}"[:500]
        megabytes = peak_megabytes()
        found = {"seed": seed, "file": name, "outcome": outcome, "seconds": time.process_time() - start}
        print(json.dumps({**found, "megabytes": megabytes, "secret": watch.was_opened()}), flush=True)


def peak_megabytes() -> int:
    """This process's peak resident size; `ru_maxrss` is at least that of the process that started it."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def draw_plain(files: dict[str, bytes], root: Path) -> None:
    """The bundle itself draws by both backends, so that the mutants have something to break."""
    write(files, root)
    for backend in ("onnxruntime", "openvino"):
        assert draw(root, backend) == "picture"


def write(files: dict[str, bytes], root: Path) -> None:
    """A bundle's files."""
    shutil.rmtree(root, ignore_errors=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


if __name__ == "__main__":
    main()
