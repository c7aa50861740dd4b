"""What a choice of int8 costs and buys, against the model that was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Array, ReferenceBatch, batches_of_stage, is_codes
from textual_vision.export.parity.metrics import metrics_of, psnr, tensor_pair
from textual_vision.export.parity.tolerance import NEAR_TIE_MARGIN, TOLERANCES
from textual_vision.export.parity.verdict import forced_parity
from textual_vision.export.results import FAIL, CodeMetrics
from textual_vision.export.sessions.cached import CachingSession
from textual_vision.export.sessions.opening import open_own_graph, open_stage_sessions
from textual_vision.export.sessions.timing import min_latency_ms
from textual_vision.runtime.backends.session import Session, SessionOptions
from textual_vision.runtime.generation.program import Program, run_unit
from textual_vision.runtime.manifest import StageSpec

TEXT_CODES, CODES, IMAGE = "text_codes", "codes", "image"
# Other pictures than those that are calibrated on may be worse. One wrong word changes all that follow it.
STRICTER = replace(TOLERANCES["int8"], codes=0.995, cosine=(1 + TOLERANCES["int8"].cosine) / 2)
BYTES_PER_MEGABYTE = 1_000_000

Tensors = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a set of graphs does; agreements are shares 0 … 1, PSNR is infinite for identical pictures.

    `text_code_agreement`, `code_agreement` and `psnr` are free-running, `generator_psnr` teacher-forced;
    `megabytes` of all stages' graphs; `milliseconds` of one picture, None where it was not timed.
    """

    text_code_agreement: float
    code_agreement: float
    generator_psnr: float
    psnr: float
    megabytes: float
    milliseconds: float | None = None


class Evaluator:
    """Scores graphs on `batches`, samples whose every tensor the reference gave.

    Stages that are not changed give what the reference gave, and only what follows a changed stage is run.
    `stored` are graphs that compute what the `floats` do, and whose size counts for those not changed.
    """

    def __init__(
        self,
        program: Program,
        floats: Mapping[str, bytes],
        batches: Sequence[ReferenceBatch],
        backend: str,
        stored: Mapping[str, bytes] | None = None,
    ) -> None:
        self.program, self.stages = program, program.stages
        self.floats, self.batches, self.backend = dict(floats), batches, backend
        self.stored = {**self.floats, **(stored or {})}
        self._sessions: dict[str, tuple[bytes, Session]] = {}

    def score(self, changed: Mapping[str, bytes]) -> Score:
        """The score, without time, with the `changed` stages' graphs in place of the float ones."""
        picture = self._picture_stage()
        sessions = self._sessions_for(changed)
        free = list(parallel_map(lambda batch: self._free(batch, sessions), self.batches))
        forced: Sequence[Tensors] = [batch.tensors for batch in self.batches]
        if picture.name in changed:
            # In a loop the last step gives the picture.
            steps = [batches_of_stage([batch], picture)[-1] for batch in self.batches]
            inputs = [_inputs(picture, batch.tensors) for batch in steps]
            forced = list(parallel_map(sessions[picture.name].run, inputs))
        graphs = {**self.stored, **changed}
        return Score(
            text_code_agreement=self._agreement(TEXT_CODES, free),
            code_agreement=self._agreement(CODES, free),
            generator_psnr=self._psnr(picture, forced),
            psnr=self._psnr(picture, free),
            megabytes=sum(len(graph) for graph in graphs.values()) / BYTES_PER_MEGABYTE,
        )

    def stage_error(self, stage: StageSpec, graph: bytes, *, batches: int | None = None) -> float:
        """How far the stage is from the reference, teacher-forced: wrong codes' share plus relative error.

        On the first `batches` samples, None on all.
        """
        session = self._session(graph, stage.name)
        given = batches_of_stage(self.batches[:batches], stage)
        outputs = list(parallel_map(session.run, [_inputs(stage, batch.tensors) for batch in given]))
        everything = [np.ones(len(batch.prompts), bool) for batch in given]
        total = 0.0
        for tensor in stage.outputs:
            pair = tensor_pair(tensor, given, outputs, everything)
            if is_codes(tensor):
                total += float(np.mean(pair.expected != pair.found))
                continue
            expected, found = pair.expected.astype(np.float64), pair.found.astype(np.float64)
            total += float(np.mean((expected - found) ** 2) / max(np.mean(expected**2), 1e-12))
        return total

    def holds(self, stage: StageSpec, graph: bytes) -> bool:
        """Whether what the score does not judge of a changed stage stays well within int8's tolerance.

        That is all but codes and picture: other codes, such as captions, and floats, such as attention.
        """
        others = tuple(one for one in stage.outputs if one.name not in (TEXT_CODES, CODES, IMAGE))
        if not others or graph is self.floats[stage.name]:
            return True
        session = self._session(graph, stage.name)
        spec = replace(stage, outputs=others)
        parity = forced_parity(spec, session, self.batches, tolerance=STRICTER, backend=self.backend)
        return parity.verdict != FAIL

    def time(self, stage: StageSpec, graphs: Sequence[bytes]) -> tuple[float, ...]:
        """Return each graph's milliseconds for one picture, with the threads that the runtime uses.

        What is faster on one thread may be slower on several: integer products leave less to share.
        """
        sessions = open_stage_sessions(graphs, stage, self.backend)
        return min_latency_ms(sessions, stage, self.batches[0])

    def _picture_stage(self) -> StageSpec:
        return next(one for one in self.stages if any(tensor.name == IMAGE for tensor in one.outputs))

    def _sessions_for(self, changed: Mapping[str, bytes]) -> dict[str, Session]:
        """Those of the first stage or loop that is changed and of all after it."""
        sessions: dict[str, Session] = {}
        for unit in self.program.units:
            if sessions or any(stage.name in changed for stage in unit.stages):
                for stage in unit.stages:
                    graph = changed.get(stage.name, self.floats[stage.name])
                    sessions[stage.name] = self._session(graph, stage.name)
        return sessions

    def _free(self, batch: ReferenceBatch, sessions: Mapping[str, Session]) -> Tensors:
        def run(stage: StageSpec, known: Tensors, step: int) -> Tensors:
            return sessions[stage.name].run(_inputs(stage, known))

        tensors = dict(batch.tensors)
        noise, rows = self.program.step_noise(batch.seeds), len(batch.seeds)
        for unit in self.program.units:
            if unit.stages[0].name in sessions:
                tensors.update(run_unit(unit, tensors, run, noise, rows))
        return tensors

    def _agreement(self, name: str, outputs: Sequence[Tensors]) -> float:
        tensor = next((t for stage in self.stages for t in stage.outputs if t.name == name), None)
        if tensor is None:
            return 1.0
        everything = [np.ones(len(batch.prompts), bool) for batch in self.batches]
        figures = metrics_of(tensor_pair(tensor, self.batches, outputs, everything), NEAR_TIE_MARGIN)
        assert isinstance(figures, CodeMetrics)
        return figures.agreement

    def _psnr(self, stage: StageSpec, outputs: Sequence[Tensors]) -> float:
        everything = [np.ones(len(batch.prompts), bool) for batch in self.batches]
        image = next(tensor for tensor in stage.outputs if tensor.name == IMAGE)
        pair = tensor_pair(image, self.batches, outputs, everything)
        decibels = psnr(pair.expected.astype(np.uint8), pair.found.astype(np.uint8))
        return math.inf if decibels is None else decibels

    def _session(self, graph: bytes, stage: str) -> Session:
        """The graph's session; of every stage the float one and the last changed one are kept open."""
        place = f"{stage}.onnx" if graph is self.floats[stage] else f"{stage}.int8.onnx"
        if place not in self._sessions or self._sessions[place][0] != graph:
            options = SessionOptions(backend=self.backend, name=place, threads=1, trusted=True)
            self._sessions[place] = (graph, CachingSession(open_own_graph(graph, options)))
        return self._sessions[place][1]


def _inputs(stage: StageSpec, tensors: Tensors) -> Tensors:
    return {tensor.name: tensors[tensor.name] for tensor in stage.inputs}
