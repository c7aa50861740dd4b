"""Real builds by TensorRT-RTX, which needs no GPU for that: what it takes, refuses and computes in."""

import re
import weakref

import numpy as np
import onnx
import pytest
import tiny_graphs as tiny

from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.precision import fp16
from textual_vision.export.precision.lossless_storage import expand_constants
from textual_vision.export.precision.registry import FloatGraphs, convert
from textual_vision.export.tensorrt import builder as engine
from textual_vision.export.tensorrt.builder import EngineSettings, build_plan
from textual_vision.export.tensorrt.layer_table import (
    check_int8,
    count_types,
    layers_from_table,
    node_types,
    product_nodes,
)
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.backends.tensorrt.api import new_logger
from textual_vision.runtime.engines import LayerCount, ShapeRange
from textual_vision.runtime.errors import IntegrityError, TextualVisionError, ToleranceError, UsageError
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec, TensorSpec

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")
GPU = ("8.6",)


def build(graph, *, batch=(1, 2, 4), precision="fp32", compute=GPU, name="tiny.onnx", **settings):
    tiny.checked(graph)
    told = EngineSettings(precision=precision, compute=compute, **settings)
    return build_plan(trt, graph, name, profile_of(graph, batch), told, on_progress=lambda text: None)


def profile_of(graph, batch):
    shapes = {}
    for value in onnx.load_model_from_string(graph).graph.input:
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
        low, opt, high = ((n, *sizes[1:]) for n in batch)
        shapes[value.name] = ShapeRange(min=low, opt=opt, max=high)
    return shapes


def types_in(plan, graph):
    operators, meant = product_nodes(graph)
    return node_types(layers_from_table(plan.table), operators), operators, meant


@pytest.mark.parametrize(
    ("graph", "dtype"),
    [
        (tiny.conv(), "float32"),
        (tiny.conv(tiny.HALF), "fp16"),
        (tiny.quantized("Conv"), "int8"),
        (tiny.quantized("MatMul"), "int8"),
        (tiny.upsample(), "float32"),
        (tiny.lookup(), "float32"),
    ],
    ids=["conv", "conv fp16", "conv int8", "matmul int8", "upsample", "lookup"],
)
def test_the_engine_computes_in_the_type_that_the_graph_says(graph, dtype):
    plan = build(graph)
    types, operators, meant = types_in(plan, graph)
    assert types == dict.fromkeys(operators, dtype)
    check_int8(types, operators, meant, "tiny.onnx")
    assert bool(meant) == (dtype == "int8")


def test_int8_layers_are_counted():
    graph = tiny.quantized("Conv")
    types, _, meant = types_in(build(graph), graph)
    assert count_types(types) == LayerCount(int8=1, fp16=0, float32=0)
    assert meant == {"product"}


def test_types_of_inputs_and_outputs_are_the_graphs():
    assert build(tiny.lookup()).dtypes == {"x": "FLOAT", "codes": "INT64", "found": "FLOAT"}
    assert build(tiny.pixels(cast_last=True)).dtypes == {"x": "FLOAT", "image": "UINT8"}


def whole_numbers() -> bytes:
    """x → scores → codes by a matrix of whole numbers times a step for each column, as training leaves it."""
    steps = np.float32(1 + np.arange(128) % 7) / np.float32(64)
    whole = np.random.default_rng(0).integers(-127, 128, (64, 128)).astype(np.float32)
    whole[0] = 127
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["scores"], name="product"),
        onnx.helper.make_node("ArgMax", ["scores"], ["codes"], axis=1, keepdims=0),
    ]
    shapes = {"x": (tiny.FLOAT, ["batch", 64])}, {"codes": (tiny.INT64, ["batch"])}
    return tiny.graph(nodes, *shapes, {"w": whole * steps})


@pytest.fixture
def stored_for(monkeypatch):
    """The graph of `whole_numbers` as fp16 stores it for a target, where half would change its codes."""
    monkeypatch.setattr(fp16, "MIN_CODE_AGREEMENT", 1.1)
    stage = StageSpec(
        name="latent",
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 64)),),
        outputs=(TensorSpec(name="codes", dtype="int64", shape=("batch",)),),
    )
    graph, x = whole_numbers(), tiny.weights(7, 32, 64)
    session = open_session(graph, SessionOptions(backend="onnxruntime", name="g"))
    batch = ReferenceBatch(
        prompts=("",) * 32, seeds=(0,) * 32, tensors={"x": x, **session.run({"x": x})}, margins={}
    )

    def stored(target):
        source = FloatGraphs(
            program=Program(stages=(stage,)), fp32={"latent": graph}, batches=[batch], target=target
        )
        return convert("fp16", source).graphs["latent"]

    return stored


def test_int8_constants_with_a_cast_are_written_for_the_cpu_alone_since_tensorrt_refuses_them(stored_for):
    with pytest.raises(TextualVisionError, match="only allowed before DQ"):
        build(stored_for("cpu"))
    graph = stored_for("tensorrt")
    assert onnx.load_model_from_string(graph).graph.initializer[0].data_type == tiny.FLOAT
    types, operators, _ = types_in(build(graph), graph)
    assert types == dict.fromkeys(operators, "float32")
    assert build(expand_constants(stored_for("cpu"))).plan  # as tv-export engine reads such a bundle


def test_int8_weights_make_a_smaller_engine():
    def matmul(int8):
        width = 512
        data = np.clip(tiny.weights(5, width, width) * 40, -127, 127)
        constants = {"s": np.float32(0.05), "z": np.int8(0), "w": data.astype(np.float32)}
        nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
        if int8:
            constants |= {"w8": data.astype(np.int8)}
            constants.pop("w")
            nodes = [
                onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
                onnx.helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"]),
                onnx.helper.make_node("MatMul", ["dq", "w"], ["y"]),
            ]
        constants = {name: np.asarray(value) for name, value in constants.items()}
        shape = (tiny.FLOAT, ["batch", width])
        return tiny.graph(nodes, {"x": shape}, {"y": shape}, constants)

    assert len(build(matmul(True)).plan) < len(build(matmul(False)).plan) - 2 * 512 * 512


@pytest.mark.parametrize(
    ("graph", "hint"),
    [
        (tiny.quantized("Conv", int32_bias=True), "quantize without biases"),
        (tiny.quantized("Conv", zero_point=3), "symmetrically"),
        (tiny.pixels(cast_last=False), "graph's last node"),
        (tiny.integer_operator("DynamicQuantizeLinear"), "QuantizeLinear/DequantizeLinear pairs"),
        (tiny.integer_operator("MatMulInteger"), "QuantizeLinear/DequantizeLinear pairs"),
    ],
    ids=["int32 bias", "zero point", "uint8 inside", "DynamicQuantizeLinear", "MatMulInteger"],
)
def test_what_the_parser_refuses_is_our_error_with_the_cure(graph, hint):
    with pytest.raises(IntegrityError, match=r"tiny\.onnx") as caught:
        build(graph)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("graph", "cure"),
    [
        (tiny.quantized("ConvTranspose"), "Conv \\+ DepthToSpace"),
        (tiny.quantized("Conv", per_channel_activation=True), "--target tensorrt"),
    ],
    ids=["ConvTranspose", "a scale for each channel of an activation"],
)
def test_a_layer_that_was_meant_for_int8_and_is_not_fails_the_check(graph, cure):
    plan = build(graph)
    types, operators, meant = types_in(plan, graph)
    with pytest.raises(ToleranceError, match="1 of 1 INT8 layers do not run in INT8: product") as caught:
        check_int8(types, operators, meant, "tiny.onnx")
    assert caught.value.exit_code == 4
    assert caught.match("float32")
    assert re.search(cure, caught.value.hint)


def test_empty_and_damaged_graphs_are_refused():
    for data in (b"", b"\0" * 40, tiny.conv()[:100]):
        with pytest.raises(IntegrityError, match="tiny"):
            build_plan(
                trt, data, "tiny.onnx", {}, EngineSettings(precision="fp32", compute=GPU), on_progress=print
            )


def test_profiles_that_do_not_fit_are_refused_with_the_numbers():
    graph, settings = tiny.conv(), EngineSettings(precision="fp32", compute=GPU)

    def attempt(**shapes):
        build_plan(trt, graph, "tiny.onnx", shapes, settings, on_progress=print)

    def shape(*batch, rest=(8, 8, 8)):
        return ShapeRange(**{k: (n, *rest) for k, n in zip(("min", "opt", "max"), batch, strict=True)})

    with pytest.raises(UsageError, match=r"takes \['x'\], the profile has \[\]"):
        attempt()
    with pytest.raises(UsageError, match=r"the profile has \['y'\]"):
        attempt(y=shape(1, 1, 1))
    with pytest.raises(UsageError, match=r"shape \(-1, 8, 8, 8\), the profile \(1, 8, 8\)"):
        attempt(x=shape(1, 1, 1, rest=(8, 8)))
    with pytest.raises(UsageError, match="is not rising"):
        attempt(x=shape(4, 2, 1))


def test_a_gpu_that_rtx_does_not_build_for_is_refused_with_those_it_does():
    with pytest.raises(UsageError, match=r"compute capability 8\.7") as caught:
        build(tiny.conv(), compute=("8.7",))
    assert "8.6" in caught.value.hint
    assert "12.0" in caught.value.hint
    assert "Jetson" in caught.value.hint


def test_several_gpus_make_another_engine_than_one_and_none_named_makes_one_too():
    one, two, default = (build(tiny.conv(), compute=gpus) for gpus in (GPU, ("8.6", "8.9"), ()))
    assert len({one.plan, two.plan, default.plan}) == 3


def test_building_for_the_gpu_that_is_not_here_says_what_to_do(monkeypatch):
    class OnlyCurrent:
        """The real library, which is asked for the current GPU whatever is named."""

        def __getattr__(self, name):
            return getattr(trt, name)

        class ComputeCapability:
            SM86 = trt.ComputeCapability.CURRENT
            __members__ = {"SM86": trt.ComputeCapability.CURRENT}  # noqa: RUF012

    graph = tiny.conv()
    with pytest.raises(TextualVisionError) as caught:
        build_plan(
            OnlyCurrent(),
            graph,
            "tiny.onnx",
            profile_of(graph, (1, 1, 1)),
            EngineSettings(precision="fp32", compute=GPU),
            on_progress=print,
        )
    assert "--compute-capability" in caught.value.hint
    assert caught.value.exit_code == 6


def test_too_little_room_to_work_in_says_so():
    with pytest.raises(UsageError, match=r"tiny\.onnx: TensorRT cannot build it") as caught:
        build(tiny.quantized("Conv"), workspace_bytes=1)
    assert "--workspace-mib" in caught.value.hint


def test_weak_types_and_calibrators_are_refused():
    with pytest.raises(UsageError, match="only strongly typed networks"):
        build(tiny.conv(), weakly_typed=True)


def test_a_small_engine_is_the_same_bytes_every_time():
    assert build(tiny.conv()).plan == build(tiny.conv()).plan


def test_a_build_keeps_none_of_the_librarys_objects_alive_and_no_more_does_its_error(monkeypatch):
    """Python's garbage collection would destroy them during a later call of the library, which then hangs."""
    loggers = []  # everything that the library makes holds on to its logger

    def noted(library):
        logger = new_logger(library)
        loggers.append(weakref.ref(logger))
        return logger

    monkeypatch.setattr(engine, "new_logger", noted)
    build(tiny.conv())
    with pytest.raises(IntegrityError) as refused:
        build(tiny.quantized("Conv", zero_point=3))
    with pytest.raises(UsageError) as misfit:
        build(tiny.conv(), batch=(4, 2, 1))
    assert refused.value.__traceback__ and misfit.value.__traceback__
    assert [logger() for logger in loggers] == [None, None, None]


def test_a_plan_that_is_no_plan_is_invalid_without_a_gpu():
    from textual_vision.runtime.backends.tensorrt.session import refuse_invalid_plan

    # Asking about bytes reads no GPU when they are no engine; only then is it safe on this machine.
    logger = new_logger(trt)
    runtime = trt.Runtime(logger)
    with pytest.raises(IntegrityError, match=r"bad\.plan.*MALFORMED_ENGINE"):
        refuse_invalid_plan(trt, runtime, b"x" * 1000, "bad.plan", logger, "build it again")
