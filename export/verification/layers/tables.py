"""Sweep the tables of a model: every token at every position, every label, and every codebook row once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from textual_vision.export.host.parallel import torch_single_thread
from textual_vision.export.model.batch import Array, ReferenceBatch, is_codes
from textual_vision.export.model.running import outputs_of
from textual_vision.export.model.stage import Stage, StagedModel
from textual_vision.runtime.generation.program import (
    ATTENTION_MASK,
    INPUT_IDS,
    LABEL,
    LENGTHS,
    PROMPT_TENSORS,
)
from textual_vision.runtime.manifest import StageSpec, TensorSpec
from textual_vision.runtime.text.tokenizer import Tokenizer

TOKEN_BATCH = 8  # sequences
CODE_BATCH = 4  # pictures
CELLS_SHARE = 16  # one cell in so many gets a swept row: the picture around it stays a real one

Sweep = tuple[str, str, tuple[ReferenceBatch, ...]]  # stage, table, batches


def sweeps_of(model: StagedModel, batches: Sequence[ReferenceBatch]) -> Iterator[Sweep]:
    """Yield the reference's batches that visit every entry of a table, by the stage that reads it.

    `batches` are real pictures: sweeps of codes replace single codes in them.
    """
    first = model.program.units[0].stages
    for stage in model.stages:
        names = {spec.name for spec in stage.spec.inputs}
        if stage.name in model.program.looped:
            continue
        if INPUT_IDS in names and names <= set(PROMPT_TENSORS) and stage.spec in first:
            yield stage.name, "tokens", tuple(_token_batches(model, stage))
        elif LABEL in names and names <= set(PROMPT_TENSORS):
            yield stage.name, "labels", tuple(_label_batches(model, stage))
        for spec in stage.spec.inputs:
            rows = model.tables.get(spec.name)
            if rows is not None and is_codes(spec) and len(spec.shape) == 3:
                yield stage.name, spec.name, tuple(_code_batches(stage, spec, rows, batches))


def _token_batches(model: StagedModel, stage: Stage) -> Iterator[ReferenceBatch]:
    assert model.text is not None and model.tokenizer is not None
    before, after = special_ids(model.tokenizer)
    room = model.text.max_tokens - len(before) - len(after)
    count = Tokenizer(model.tokenizer, model.text).largest_id + 1
    padded = np.arange(-(-count // room) * room) % count
    rows = [[*before, *ids, *after] for ids in padded.reshape(-1, room)]
    for start in range(0, len(rows), TOKEN_BATCH):
        ids = np.array(rows[start : start + TOKEN_BATCH], np.int64)
        mask = np.ones_like(ids)
        tensors: dict[str, Array] = {INPUT_IDS: ids, ATTENTION_MASK: mask, LENGTHS: mask.sum(1)}
        names = [f"tokens {row[len(before)]} to {row[-1 - len(after)]}" for row in ids.tolist()]
        yield _batch(stage, names, tensors, fixed=model.text.fixed_length)


def special_ids(tokenizer: bytes) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a prompt."""
    import tokenizers

    found = tokenizers.Tokenizer.from_buffer(tokenizer)
    found.no_padding()
    encoding = found.encode("a")
    own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return list(encoding.ids[: own[0]]), list(encoding.ids[own[-1] + 1 :])


def _label_batches(model: StagedModel, stage: Stage) -> Iterator[ReferenceBatch]:
    assert model.labels is not None
    names = model.labels.names
    for start in range(0, len(names), TOKEN_BATCH):
        part = names[start : start + TOKEN_BATCH]
        labels = np.arange(start, start + len(part), dtype=np.int64)
        yield _batch(stage, list(part), {LABEL: labels})


def _code_batches(
    stage: Stage, spec: TensorSpec, rows: int, batches: Sequence[ReferenceBatch]
) -> Iterator[ReferenceBatch]:
    """Real pictures in which single codes, far from each other, are replaced by the rows in turn."""
    grid = batches[0].tensors[spec.name].shape[1:]
    cells = np.arange(int(np.prod(grid)))
    chosen = cells[:: max(1, min(CELLS_SHARE, cells.size))]
    order = np.random.default_rng(0).permutation(rows)
    pictures = -(-rows // chosen.size)
    swept = np.resize(order, pictures * chosen.size).reshape(pictures, chosen.size)
    real = [(batch, row) for batch in batches for row in range(len(batch.prompts))]
    for start in range(0, pictures, CODE_BATCH):
        part = range(start, min(start + CODE_BATCH, pictures))
        batch = real[start % len(real)][0]
        picked = [index % len(batch.prompts) for index in part]
        tensors = {one.name: batch.tensors[one.name][picked].copy() for one in stage.spec.inputs}
        flat = tensors[spec.name].reshape(len(picked), -1)
        # Another offset for each picture, so that all cells get swept rows.
        for place, index in enumerate(part):
            flat[place, (chosen + index) % cells.size] = swept[index]
        names = [f"rows {', '.join(map(str, swept[index][:4]))}, …" for index in part]
        mask = (
            {ATTENTION_MASK: batch.tensors[ATTENTION_MASK][picked]} if ATTENTION_MASK in batch.tensors else {}
        )
        yield _batch(stage, names, {**mask, **tensors}, fixed=batch.fixed_length)


@torch.no_grad()
def _batch(
    stage: Stage, names: Sequence[str], tensors: Mapping[str, Array], *, fixed: bool = False
) -> ReferenceBatch:
    """The stage run by PyTorch, with the margins of its codes."""
    with torch_single_thread():
        outputs = outputs_of(stage, tensors)
        margins = {}
        if stage.margins is not None:
            inputs = {one.name: torch.from_numpy(np.array(tensors[one.name])) for one in stage.spec.inputs}
            margins = {name: one.float().numpy() for name, one in stage.margins(inputs).items()}
    return ReferenceBatch(
        prompts=tuple(names),
        seeds=(0,) * len(names),
        tensors={**tensors, **outputs},
        margins=margins,
        fixed_length=fixed,
    )


def wrong_entries(
    stage: StageSpec, table: str, batches: Sequence[ReferenceBatch], outputs: Sequence[Mapping[str, Array]]
) -> list[int]:
    """Return the tokens of a sweep of tokens at which half of the codes, or more, differ."""
    found: list[int] = []
    for batch, output in zip(batches, outputs, strict=True) if table == "tokens" else ():
        for spec in stage.outputs:
            if is_codes(spec) and spec.shape[:2] == ("batch", "tokens"):
                differs = np.not_equal(batch.tensors[spec.name], output[spec.name])
                share = differs.reshape(*differs.shape[:2], -1).mean(2)
                found += batch.tensors[INPUT_IDS][share >= 0.5].astype(int).tolist()
    return sorted(set(found))
