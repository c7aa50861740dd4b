"""Assemble a bundle's files: graphs, tokenizer, golden pictures, model card, NOTICE and manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from textual_vision.export.bundle.model_card import model_card
from textual_vision.export.graph.pipeline_graph import merged_spec
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.parity.tolerance import (
    GOLDEN_MIN_DB,
    GOLDEN_SLACK_CODES,
    GOLDEN_SLACK_DB,
    TOLERANCES,
    golden_limits,
)
from textual_vision.export.precision.arithmetic import ARITHMETIC, arithmetic_in_words, arithmetic_of
from textual_vision.export.results import FAIL, FREE_RUNNING, MERGED, BuildResult, PrecisionResult
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.golden import (
    GOLDEN_NAME,
    GOLDEN_SCHEMA_VERSION,
    Golden,
    GoldenBudget,
    bytes_from_golden,
    golden_files,
)
from textual_vision.runtime.graph.check import check_graph
from textual_vision.runtime.manifest import (
    SCHEMA_VERSION,
    BatchProfile,
    Manifest,
    PrecisionSpec,
    StageSpec,
)

GOLDEN_PICTURES = 4


def bundle_contents(
    model: StagedModel,
    result: BuildResult,
    graphs: Mapping[str, Mapping[str, bytes]],
    batches: Sequence[ReferenceBatch],
    batch: BatchProfile,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest without its list of files, and all other files; `graphs` by precision and stage."""
    provenance = {**provenance_from_result(model, result), **provenance_from_graphs(model, graphs)}
    files = {
        f"onnx/{precision}/{stage}.onnx": graph
        for precision, stages in graphs.items()
        for stage, graph in stages.items()
    }
    for name, graph in files.items():
        _check_readable(graph, name)
    if model.text is not None and model.tokenizer is not None:
        files[model.text.tokenizer] = model.tokenizer
    files["MODEL_CARD.md"] = model_card(model, result.precisions, provenance).encode()
    files["NOTICE"] = model.notice.encode()
    files.update(_golden(model, result, batches))
    return _manifest(model, result, graphs, batch, provenance), files


def _check_readable(graph: bytes, name: str) -> None:
    """Raise UsageError when the runtime would refuse the graph."""
    try:
        check_graph(graph, name)
    except IntegrityError as error:
        hint = "use other PyTorch operations there: a bundle's graphs have no control flow or sequences"
        raise UsageError(error.message, hint) from None


def provenance_from_result(model: StagedModel, result: BuildResult) -> dict[str, str]:
    """Return the checkpoint, the options and the library versions that the bundle was made with."""
    return {
        "checkpoint": model.digest,
        "opset": str(result.opset),
        "samples": str(result.samples),
        "seed": str(result.seed),
        **result.versions,
    }


def provenance_from_graphs(model: StagedModel, graphs: Mapping[str, Mapping[str, bytes]]) -> dict[str, str]:
    """Return the arithmetic of every precision's stages, and one digest of all graphs.

    Two builds of one checkpoint with the same options and libraries have the same digest.
    """
    digest = hashlib.sha256()
    found = {}
    for precision, stages in graphs.items():
        names = [stage.name for stage in model.stages]
        found[f"{ARITHMETIC} {precision}"] = arithmetic_in_words(
            {name: arithmetic_of(stages[name]) for name in names}
        )
        for name in sorted(stages):
            digest.update(f"{precision}/{name} ".encode() + hashlib.sha256(stages[name]).digest())
    return {**found, "graphs": digest.hexdigest()}


def _manifest(
    model: StagedModel,
    result: BuildResult,
    graphs: Mapping[str, Mapping[str, bytes]],
    batch: BatchProfile,
    provenance: dict[str, str],
) -> Manifest:
    failing = [one.precision for one in result.precisions if one.verdict == FAIL]
    merged = all(MERGED in stages for stages in graphs.values())
    warnings = (f"exported with --allow-failing: {', '.join(failing)} failed",) if failing else ()
    specs = [_with_limits(stage.spec, model.tables) for stage in model.stages]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=model.name,
        image=model.image,
        noise=model.noise,
        text=model.text,
        labels=model.labels,
        parameters=model.parameters,
        loops=model.loops,
        stages=tuple(specs),
        precisions={
            one.precision: PrecisionSpec(
                files={stage: f"onnx/{one.precision}/{stage}.onnx" for stage in graphs[one.precision]},
                verdict=one.verdict,
                parity=parity_json(one),
            )
            for one in result.precisions
        },
        default_precision=_default_precision(result),
        batch=batch,
        files={},
        license=model.license,
        provenance=provenance,
        merged=merged_spec(specs) if merged else None,
        golden=GOLDEN_NAME,
        warnings=warnings,
    )


def _with_limits(spec: StageSpec, tables: Mapping[str, int]) -> StageSpec:
    """The stage with the size of the table that its codes point into, where it is known."""
    outputs = (
        dataclasses.replace(one, limit=tables.get(one.name) if one.limit is None else one.limit)
        for one in spec.outputs
    )
    return dataclasses.replace(spec, outputs=tuple(outputs))


def parity_json(result: PrecisionResult) -> dict[str, object]:
    """Return a precision's comparisons as JSON: backend → mode → stage → metrics."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for one in result.parity:
        plain = json.loads(json.dumps(dataclasses.asdict(one)))
        kept = {key: plain[key] for key in ("verdict", "reason", "excluded_pictures", "tensors")}
        found.setdefault(one.backend, {}).setdefault(one.mode, {})[one.stage] = kept
    return dict(found)


def _default_precision(result: BuildResult) -> str:
    """Return the first precision that passed, or the first when none did."""
    passed = [one.precision for one in result.precisions if one.verdict != FAIL]
    return (passed or [one.precision for one in result.precisions])[0]


def _golden(model: StagedModel, result: BuildResult, batches: Sequence[ReferenceBatch]) -> dict[str, bytes]:
    """Return the golden files of the reference's first samples."""
    prompts = [prompt for batch in batches for prompt in batch.prompts][:GOLDEN_PICTURES]
    seeds = [seed for batch in batches for seed in batch.seeds][:GOLDEN_PICTURES]
    images = np.concatenate([batch.tensors["image"] for batch in batches])[:GOLDEN_PICTURES]
    codes = [batch.tensors["codes"].astype(np.int64) for batch in batches if "codes" in batch.tensors]
    pictures, files = golden_files(
        prompts,
        seeds,
        images.astype(np.uint8),
        np.concatenate(codes)[:GOLDEN_PICTURES] if codes else None,
        model.noise,
    )
    budgets = {one.precision: _golden_budget(one) for one in result.precisions}
    golden = Golden(schema_version=GOLDEN_SCHEMA_VERSION, pictures=pictures, budgets=budgets)
    return {**files, GOLDEN_NAME: bytes_from_golden(golden)}


def _golden_budget(result: PrecisionResult) -> GoldenBudget:
    """Return the tolerance with slack for other processors; a failing precision has its worst backend's."""
    if result.verdict != FAIL:
        return GoldenBudget(**golden_limits(result.precision))
    free = [one for one in result.parity if one.mode == FREE_RUNNING]
    tolerance = TOLERANCES[result.precision]
    agreement = [one.codes.agreement for one in free if one.codes is not None]
    decibels = [one.image.worst_psnr_db for one in free if one.image and one.image.worst_psnr_db is not None]
    worst = min([tolerance.picture_db, *decibels]) - GOLDEN_SLACK_DB
    return GoldenBudget(
        code_agreement=max(0.0, min([tolerance.codes, *agreement]) - GOLDEN_SLACK_CODES),
        psnr_db=max(GOLDEN_MIN_DB, worst),
    )
