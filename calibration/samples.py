"""What every stage sees when real prompts are drawn: the inputs that ranges are read from.

Prompts × seeds go through the float graphs by one of the runtime's backends, exactly as they would on a
device. Only the inputs of the stages are kept, about 11 kB a drawing for the shipped model; activations
inside the stages are looked at one batch at a time and forgotten.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.calibration.prompts import CalibrationWarning, choose_for_coverage
from textual_vision.runtime.backends.session import Array, Session
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.noise import noise_from_seed
from textual_vision.runtime.text.tokenizer import Tokenizer

BATCH_SIZE = 8
TOKENS = "tokens"  # how a stage's description calls the axis of words
FEW_ROWS = 0.5  # of a table's rows visited, below which a calibration is worth a warning

Inputs = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class TableCoverage:
    """Which rows of a table the drawings visited; tables with groups count the rows of all groups."""

    tensor: str
    rows: int
    visited: int
    never: tuple[int, ...]  # group * rows per group + row

    @property
    def share(self) -> float:
        """Visited rows, 0 … 1."""
        return self.visited / self.rows


@dataclass(frozen=True, kw_only=True)
class Samples:
    """`inputs[stage]` holds that stage's inputs, one mapping a batch; `prompts` and `seeds` made them."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    inputs: Mapping[str, tuple[Inputs, ...]]
    coverage: tuple[TableCoverage, ...]

    @property
    def drawings(self) -> int:
        """How many pictures were drawn: every prompt with every seed."""
        return len(self.prompts) * len(self.seeds)


@dataclass(frozen=True, kw_only=True)
class FloatPipeline:
    """The float stages in running order and their sessions; `tables`: rows a group, by the codes' tensor."""

    stages: Sequence[StageSpec]
    sessions: Mapping[str, Session]
    tokenizer: Tokenizer
    noise_dim: int
    tables: Mapping[str, int]


def samples_from_prompts(
    pipeline: FloatPipeline, prompts: Sequence[str], *, count: int, seeds: Sequence[int] = (0,)
) -> Samples:
    """Draw `count` of the prompts, chosen to visit many rows of every table, each with all `seeds`.

    Fewer prompts than `count` are all used. Warns with CalibrationWarning when much of a table stays
    unvisited. Raises UsageError when there is no prompt, no seed, or a count below 1.
    """
    if count < 1 or not seeds:
        raise UsageError(f"{count} prompts and {len(seeds)} seeds", "calibrate with at least one of each")
    if len(prompts) > count:
        rows = [_rows_of_prompt(pipeline, prompt, seeds[0]) for prompt in prompts]
        prompts = [prompts[index] for index in choose_for_coverage(rows, count)]
    batches = [tuple(prompts[start : start + BATCH_SIZE]) for start in range(0, len(prompts), BATCH_SIZE)]
    drawn = []
    for batch in batches:
        tokens = pipeline.tokenizer.encode(batch)
        drawn += [drawing(pipeline, tokens.ids, tokens.mask, seed) for seed in seeds]
    return _samples(pipeline, tuple(prompts), tuple(seeds), drawn)


def drawing(
    pipeline: FloatPipeline, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], seed: int
) -> dict[str, Array]:
    """Every tensor of the way, by name; picture i of a batch has image i of the seed's noise."""
    noise = noise_from_seed(seed, len(ids), pipeline.noise_dim)
    tensors: dict[str, Array] = {"input_ids": ids, "attention_mask": mask, "noise": noise}
    for stage in pipeline.stages:
        inputs = {spec.name: tensors[spec.name] for spec in stage.inputs}
        tensors.update(pipeline.sessions[stage.name].run(inputs))
    return tensors


def _samples(
    pipeline: FloatPipeline,
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    drawn: Sequence[Mapping[str, Array]],
) -> Samples:
    inputs = {
        stage.name: tuple({spec.name: tensors[spec.name] for spec in stage.inputs} for tensors in drawn)
        for stage in pipeline.stages
    }
    coverage = coverage_of(pipeline.stages, pipeline.tables, drawn)
    for text in map(warning_about_few_rows, coverage):
        if text:
            warnings.warn(text, CalibrationWarning, stacklevel=3)
    return Samples(prompts=prompts, seeds=seeds, inputs=inputs, coverage=coverage)


def _rows_of_prompt(pipeline: FloatPipeline, prompt: str, seed: int) -> npt.NDArray[np.int64]:
    tokens = pipeline.tokenizer.encode([prompt])
    tensors = drawing(pipeline, tokens.ids, tokens.mask, seed)
    return rows_visited(pipeline.stages, pipeline.tables, tensors)


def rows_visited(
    stages: Sequence[StageSpec], tables: Mapping[str, int], tensors: Mapping[str, Array]
) -> npt.NDArray[np.int64]:
    """The distinct rows that a drawing's `tensors` visit, tables numbered apart (see `choose_for_coverage`).

    `tables`: rows a group, by the codes' tensor.
    """
    found, offset = [], 0
    for name, rows in tables.items():
        visited, size = _visited(stages, tensors, name, rows)
        found.append(visited + offset)
        offset += size
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def coverage_of(
    stages: Sequence[StageSpec], tables: Mapping[str, int], drawn: Sequence[Mapping[str, Array]]
) -> tuple[TableCoverage, ...]:
    """What drawings, given by all their tensors, visited of each table."""
    return tuple(_coverage(stages, name, rows, drawn) for name, rows in tables.items())


def warning_about_few_rows(table: TableCoverage) -> str:
    """A warning when little of the table was visited, else nothing."""
    if table.share >= FEW_ROWS:
        return ""
    text = f"calibration visits {table.visited} of the {table.rows} rows behind {table.tensor!r}"
    return f"{text}; more or more varied prompts are better"


def _coverage(
    stages: Sequence[StageSpec], name: str, rows: int, drawn: Sequence[Mapping[str, Array]]
) -> TableCoverage:
    parts = [_visited(stages, tensors, name, rows) for tensors in drawn]
    visited = np.unique(np.concatenate([part for part, _ in parts]))
    size = parts[0][1]
    never = np.setdiff1d(np.arange(size), visited)
    return TableCoverage(tensor=name, rows=size, visited=len(visited), never=tuple(never.tolist()))


def _visited(
    stages: Sequence[StageSpec], tensors: Mapping[str, Array], name: str, rows: int
) -> tuple[npt.NDArray[np.int64], int]:
    """The distinct rows in one batch, and how many rows the table has.

    Codes of words, (batch, tokens, groups), are counted where the mask is 1, a table for every group; codes
    of pictures, (batch, height, width), have one table.
    """
    shapes = {spec.name: spec.shape for stage in stages for spec in stage.outputs}
    if name not in shapes:
        raise UsageError(
            f"a codebook is named for {name!r}, which no stage gives", "name the tensor of codes"
        )
    codes = tensors[name].astype(np.int64)
    if shapes[name][1] != TOKENS:
        return np.unique(codes), rows
    groups = codes.shape[2]
    words = codes[tensors["attention_mask"] == 1] + np.arange(groups) * rows
    return np.unique(words), rows * groups
