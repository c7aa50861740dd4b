"""Random inputs for the stages of a family, and its exported graphs in ONNX Runtime."""

import numpy as np
import onnxruntime
import torch

from textual_vision.export.model.stage import Stage
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.generation.checks import check_loops, check_noise, check_parameters
from textual_vision.runtime.generation.program import Program

TABLE_ROWS = 4  # integers without a limit stay below it


def random_inputs(specs, rows, tokens, seed=0):
    """Arrays by name; prompts have the end token only where their mask ends, later rows are shorter."""
    generator = np.random.default_rng(seed)
    found = {}
    for spec in specs:
        shape = [{"batch": rows, "tokens": tokens}.get(size, size) for size in spec.shape]
        if spec.name == "attention_mask":
            lengths = np.maximum(1, tokens - np.arange(rows))
            found[spec.name] = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
        elif spec.dtype == "uint8":
            found[spec.name] = generator.integers(0, 256, shape, dtype=np.uint8)
        elif spec.dtype == "int64":
            found[spec.name] = generator.integers(0, spec.limit or TABLE_ROWS, shape)
        else:
            found[spec.name] = generator.uniform(0.1, 0.9, shape).astype(np.float32)
    return found


def compare_graph(stage, tolerance, *, fixed_tokens=None, max_tokens=32):
    """Export the stage, run it for other sizes in ONNX Runtime, and compare with its module.

    `fixed_tokens` where prompts have exactly this length. Returns the number of nodes.
    """
    tokens = (6, 4) if fixed_tokens is None else (fixed_tokens, fixed_tokens)
    inputs, outputs = stage.spec.inputs, stage.spec.outputs
    example = random_inputs(inputs, 2, tokens[0])
    options = ExportOptions(tokens=fixed_tokens, max_tokens=max_tokens)
    graph = onnx_from_stage(Stage(spec=stage.spec, module=stage.module), example, options)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    other = random_inputs(inputs, 3, tokens[1], seed=1)
    known = {one.name for one in session.get_inputs()}
    found = session.run([one.name for one in outputs], {k: v for k, v in other.items() if k in known})
    with torch.no_grad():
        wanted = stage.module(*(torch.from_numpy(other[one.name]) for one in inputs))
    wanted = wanted if isinstance(wanted, tuple | list) else (wanted,)
    for one, actual, expected in zip(outputs, found, wanted, strict=True):
        assert actual.shape == tuple(expected.shape), one.name
        assert list(actual.shape[1:]) == [{"tokens": tokens[1]}.get(size, size) for size in one.shape[1:]], (
            one.name
        )
        assert str(actual.dtype) == one.dtype, one.name
        if one.dtype == "int64":
            assert np.mean(actual == expected.numpy()) > 0.99, one.name
        else:
            assert np.abs(actual - expected.numpy()).max() < tolerance, one.name
    return len(graph.graph.node)


def run_family(networks, condition, seeds):
    """All tensors by name after the family's stages and loops ran in PyTorch, for one condition each seed."""

    def require(holds, where, problem):
        assert holds, f"{where}: {problem}"

    specs = tuple(stage.spec for stage in networks.stages)
    check_noise(networks.noise, require)
    check_parameters(networks.parameters, require)
    outputs = {spec.name: {one.name for one in spec.outputs} for spec in specs}
    inputs = {spec.name: {one.name for one in spec.inputs} for spec in specs}
    check_loops(networks.loops, outputs, inputs, require)
    program = Program(
        stages=specs, noise=networks.noise, parameters=networks.parameters, loops=networks.loops
    )

    def run_stage(spec, known, step):
        arrays = (torch.from_numpy(np.ascontiguousarray(known[one.name])) for one in spec.inputs)
        with torch.no_grad():
            found = networks.module(spec.name)(*arrays)
        found = found if isinstance(found, tuple | list) else (found,)
        return {one.name: tensor.numpy() for one, tensor in zip(spec.outputs, found, strict=True)}

    return program.run({**condition, **program.start_tensors(seeds)}, run_stage, seeds)
