"""Half graphs with half kept in half: a CPU backend computes in float32 and hides an overflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from textual_vision.export.graph.strip_weights import expose_tensors
from textual_vision.export.model.batch import Array, ReferenceBatch, batches_of_stage
from textual_vision.export.parity.onnx_reference import ReferenceSession
from textual_vision.export.precision.arithmetic import half_values
from textual_vision.export.sessions.opening import open_own_graph
from textual_vision.export.verification.checks import FIRST_STAGE, OVERFLOW, STAGES, Check, check_of
from textual_vision.export.verification.layers.stages import StageSubject
from textual_vision.runtime.backends.session import SessionOptions
from textual_vision.runtime.graph.model import model_from_bytes
from textual_vision.runtime.metrics import psnr_db

BACKEND = "onnxruntime"
BATCHES = 4
MAX_HALF = 65504.0
# ONNX's reference rounds every partial sum to half, which no device does: only gross errors count.
REFERENCE_DB = 20.0


def overflow_check(subject: StageSubject, graph: bytes, batches: Sequence[ReferenceBatch]) -> Check:
    """Return the check that no half value of a stage is infinite or NaN on real inputs.

    ONNX Runtime gives all half values as outputs of the graph; as such they are in half.
    """
    model = model_from_bytes(graph)
    produced = {name for node in model.nodes for name in node.outputs}
    names = sorted((half_values(model) & produced) - set(model.outputs))
    options = SessionOptions(backend=BACKEND, name=f"{subject.stage.name}.onnx", threads=1, trusted=True)
    session = open_own_graph(expose_tensors(graph, names), options)
    infinite: set[str] = set()
    largest = 0.0
    for batch in batches_of_stage(batches, subject.stage)[:BATCHES]:
        outputs = session.run(_inputs(subject, batch))
        for name in names:
            value = outputs[name].astype(np.float32)
            if outputs[name].dtype == np.float16 and value.size:
                largest = max(largest, float(np.nanmax(np.abs(value))))
                infinite |= set() if np.isfinite(value).all() else {name}
    ordered = [name for node in model.nodes for name in node.outputs if name in infinite]
    problems = [f"{len(ordered)} half values are not finite, first {ordered[0]!r}"] if ordered else []
    return check_of(
        subject.id("overflow", BACKEND),
        STAGES,
        FIRST_STAGE + subject.place,
        problems,
        passed=f"{len(names)} half values, up to {largest:.3g}",
        tolerance=f"all finite, below {MAX_HALF:g}",
        cause=OVERFLOW,
    )


def reference_check(subject: StageSubject, graph: bytes, batches: Sequence[ReferenceBatch]) -> Check:
    """Return the check of one sample by ONNX's reference implementation, which keeps half in half."""
    batch = batches_of_stage(batches, subject.stage)[0]
    inputs = {name: value[:1] for name, value in _inputs(subject, batch).items()}
    with np.errstate(all="ignore"):
        found = ReferenceSession(graph, f"{subject.stage.name}.onnx").run(inputs)
    problems = []
    for spec in subject.stage.outputs:
        expected, value = batch.tensors[spec.name][:1], found[spec.name]
        if not np.isfinite(value.astype(np.float64)).all():
            problems.append(f"{spec.name} is not finite")
        elif spec.dtype == "uint8":
            decibels = psnr_db(float(((value.astype(float) - expected.astype(float)) ** 2).mean()))
            problems += [f"{spec.name}: {decibels:.1f} dB"] if decibels < REFERENCE_DB else []
    return check_of(
        subject.id("overflow", "onnx.reference"),
        STAGES,
        FIRST_STAGE + subject.place,
        problems,
        passed="finite and close",
        tolerance=f"finite, pictures {REFERENCE_DB:g} dB",
        cause=OVERFLOW,
    )


def _inputs(subject: StageSubject, batch: ReferenceBatch) -> Mapping[str, Array]:
    return {spec.name: batch.tensors[spec.name] for spec in subject.stage.inputs}
