"""The checks that need the checkpoint: stored weights, tables, and stages on PyTorch's inputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from textual_vision.export.model.batch import Array, ReferenceBatch
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.precision.arithmetic import FLOAT16_ARITHMETIC, FLOAT32_ARITHMETIC
from textual_vision.export.results import MERGED
from textual_vision.export.verification.checks import (
    BATCH,
    FIRST_STAGE,
    MERGING,
    PIPELINE,
    STAGE_STEP,
    TABLES,
    WEIGHTS,
    Check,
    check_of,
)
from textual_vision.export.verification.layers import overflow
from textual_vision.export.verification.layers.merged_constants import changed_constants
from textual_vision.export.verification.layers.stages import (
    MoreProblems,
    StageSubject,
    forced_check,
    forced_checks,
    recorded_problems,
)
from textual_vision.export.verification.layers.tables import wrong_entries
from textual_vision.export.verification.layers.weights import EXACT_ERROR, StoredWeights, compare_weights
from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.reference import Reference
from textual_vision.export.verification.subject import Subject
from textual_vision.runtime.backends.session import Session, backend_by_name
from textual_vision.runtime.generation.consistency import IMAGE
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.text.tokenizer import Tokenizer

SHOWN = 8  # rows or tokens listed


class CheckpointChecks:
    """The checks of a bundle against a checkpoint, whose `reference` pictures are there already."""

    def __init__(
        self, subject: Subject, model: StagedModel, reference: Reference, options: VerifyOptions
    ) -> None:
        self.subject, self.model, self.reference, self.options = subject, model, reference, options
        self._weights: dict[tuple[str, str], StoredWeights] = {}

    @cached_property
    def vocabulary_size(self) -> int:
        """The number of tokens; 0 without a tokenizer."""
        if self.model.text is None or self.model.tokenizer is None:
            return 0
        return Tokenizer(self.model.tokenizer, self.model.text).largest_id + 1

    def arithmetics(self, precision: str) -> dict[str, str]:
        """Return each stage's arithmetic; float32 with rounded weights counts as float16."""
        return {stage.name: self._arithmetic(precision, stage.name) for stage in self.subject.stages}

    def weights_checks(self, precision: str) -> Iterator[Check]:
        """Yield the check of every stage's stored weights, and of the pipeline's constants."""
        for place, stage in enumerate(self.subject.stages):
            found = self._stored(precision, stage.name)
            problems = [
                f"{name}: {len(rows)} rows differ: {_listed(rows)}" for name, rows in found.wrong.items()
            ]
            share = 100 * found.compared / max(1, found.values)
            yield check_of(
                f"{precision}/{stage.name}/weights",
                TABLES,
                FIRST_STAGE + STAGE_STEP * place,
                problems,
                passed=f"{share:.0f} % of {found.values} values compared, largest error {found.error:.1e}",
                tolerance="every row equal but for the rounding of its storage",
                cause=WEIGHTS,
            )

        if self.subject.has_merged(precision):
            graphs = [self.subject.graph(precision, stage.name) for stage in self.subject.stages]
            changed = changed_constants(self.subject.graph(precision, MERGED), graphs)
            yield check_of(
                f"{precision}/{MERGED}/weights",
                TABLES,
                PIPELINE,
                [f"{name}: {len(rows)} rows differ: {_listed(rows)}" for name, rows in changed.items()],
                passed="the constants of the stages",
                tolerance="every constant equal to its stage's",
                cause=MERGING,
            )

    def stage_checks(
        self, precision: str, backend: str, sessions: Mapping[str, Session], *, first: bool
    ) -> Iterator[Check]:
        """Yield the checks of every stage on a backend: tables, batch sizes, and half kept in half."""
        for place, stage in enumerate(self.subject.stages):
            subject = StageSubject(
                stage=stage,
                precision=precision,
                backend=backend,
                session=sessions[stage.name],
                arithmetic=self._arithmetic(precision, stage.name),
                place=STAGE_STEP * place,
            )
            wrong = bool(self._stored(precision, stage.name).wrong)
            more = recorded_problems(subject, self._recorded(precision, backend, stage))
            forced = list(forced_checks(subject, self.reference.by_size, stored_wrong=wrong, more=more))
            yield from forced
            if first or self.options.defaults.tables_everywhere:
                leak = any(check.cause == BATCH for check in forced)
                yield from self._sweep_checks(subject, BATCH if leak else WEIGHTS if wrong else "")
            if first and self.subject.arithmetic(precision, stage.name) == FLOAT16_ARITHMETIC:
                yield from self._overflow_checks(subject)

    def notes(self) -> list[str]:
        """Return what the checks of stored weights could not compare."""
        found = []
        for (precision, stage), stored in self._weights.items():
            missing = stored.values - stored.compared
            if missing:
                share = 100 * missing / stored.values
                found.append(
                    f"{precision}/{stage}: {share:.0f} % of the weights compared by their effect alone"
                )
        return found

    def _sweep_checks(self, subject: StageSubject, cause: str) -> Iterator[Check]:
        """The sweeps of a stage's tables; `cause` of their failure, where another check tells it."""
        for stage, table, batches in self.reference.sweeps:
            if stage == subject.stage.name:
                parts = ("table", table, subject.backend)
                more = self._entries(subject.stage, table)
                yield forced_check(
                    subject,
                    batches,
                    parts,
                    cause=cause or "weights or conversion",
                    layer=TABLES,
                    more=more,
                    late=cause == BATCH,
                )

    def _entries(self, stage: StageSpec, table: str) -> MoreProblems:
        def find(batches: Sequence[ReferenceBatch], outputs: Sequence[Mapping[str, Array]]) -> list[str]:
            wrong = wrong_entries(stage, table, batches, outputs)
            return [f"{len(wrong)} tokens differ: {_listed(wrong)}"] if wrong else []

        return find

    def _overflow_checks(self, subject: StageSubject) -> Iterator[Check]:
        graph = self.subject.graph(subject.precision, subject.stage.name)
        if importlib.util.find_spec(backend_by_name(overflow.BACKEND).library) is not None:
            yield overflow.overflow_check(subject, graph, self.reference.whole)
        if self.options.defaults.reference:
            yield overflow.reference_check(subject, graph, self.reference.whole)

    def _arithmetic(self, precision: str, stage: str) -> str:
        found = self.subject.arithmetic(precision, stage)
        rounded = self._stored(precision, stage).error > EXACT_ERROR
        return FLOAT16_ARITHMETIC if rounded and found == FLOAT32_ARITHMETIC else found

    def _stored(self, precision: str, stage: str) -> StoredWeights:
        key = precision, stage
        if key not in self._weights:
            graph = self.subject.graph(precision, stage)
            self._weights[key] = compare_weights(self.model.stage(stage), graph)
        return self._weights[key]

    def _recorded(self, precision: str, backend: str, stage: StageSpec) -> float | None:
        """The PSNR of a stage's pictures that the build measured; None where it recorded none."""
        value: object = self.subject.manifest.precisions[precision].parity
        for key in (backend, "teacher-forced", stage.name, "tensors", IMAGE, "psnr_db"):
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if isinstance(value, int | float) else None


def _listed(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN]))
    return shown if len(rows) <= SHOWN else f"{shown} and {len(rows) - SHOWN} more"
