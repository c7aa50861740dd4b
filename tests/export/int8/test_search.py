"""Which choices of a stage's layers the search for int8 looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from textual_vision.export.int8.layers import HALF, INT8, LINEAR, WEIGHT_ONLY, QuantizableLayer
from textual_vision.export.int8.score import Score
from textual_vision.export.int8.search import StageCandidates, search
from textual_vision.export.int8.tolerance import parse_tolerance
from textual_vision.runtime.manifest import StageSpec


class _Weighed:
    """A stage of three layers whose graphs are only as long as they say."""

    layers = tuple(
        QuantizableLayer(
            name=f"layer{i}", kind=LINEAR, weight="w", parameters=1000, axis=1, activation="x", output="y"
        )
        for i in range(3)
    )
    stage = StageSpec(name="latent", inputs=(), outputs=())

    def __init__(self, stored: int) -> None:
        self.sizes = {HALF: 200, WEIGHT_ONLY: stored, INT8: stored}

    def graph(self, modes: Mapping[str, str], *, compact: bool = True) -> bytes:
        said = "".join(modes.values()).encode()
        return said.ljust(max(size for mode, size in self.sizes.items() if mode in modes.values()))


class _Judging:
    """Half loses nothing, int8 weights nearly too much, integers everything."""

    stored: Mapping[str, bytes] = {"latent": b"".ljust(100)}

    def __init__(self) -> None:
        self.looked_at = 0

    def score(self, changed: Mapping[str, bytes]) -> Score:
        graph = b"".join(changed.values())
        agreement = 0.1 if INT8.encode() in graph else 1 - 0.002 * graph.count(WEIGHT_ONLY.encode())
        return Score(text_code_agreement=1, code_agreement=agreement, generator_psnr=99, psnr=99, megabytes=1)

    def holds(self, stage: StageSpec, graph: bytes) -> bool:
        return True

    def stage_error(self, stage: StageSpec, graph: bytes, *, batches: int) -> float:
        self.looked_at += 1
        return 0.0


@pytest.mark.parametrize(
    ("size", "at_any_cost", "looked_at"), [(90, False, 0), (90, True, 3), (50, False, 3)]
)
def test_layers_step_back_only_from_what_could_pay(size: int, at_any_cost: bool, looked_at: int) -> None:
    evaluator: Any = _Judging()
    stage: Any = _Weighed(size)
    one_stage = StageCandidates(stage, evaluator, parse_tolerance("code_agreement>=0.995"))
    candidates = one_stage.candidates(timed=False, at_any_cost=at_any_cost)
    assert evaluator.looked_at == looked_at
    kept = [candidate for candidate in candidates if WEIGHT_ONLY in candidate.modes.values()]
    assert bool(kept) is bool(looked_at)
    assert candidates[-1].modes == {}


def test_there_is_int8_where_the_tolerance_allows_it_though_it_hardly_pays() -> None:
    evaluator: Any = _Judging()
    stage: Any = _Weighed(90)
    found = search([stage], evaluator, parse_tolerance("code_agreement>=0.995"), timed=False)
    assert WEIGHT_ONLY in found.modes["latent"].values()
    assert evaluator.looked_at == 3
