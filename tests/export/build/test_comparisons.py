"""Precisions are compared beside what a build does else: the same results, and nothing left behind."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from pathlib import Path

import onnx
import pytest

from textual_vision.export.build import comparisons as compare
from textual_vision.export.build.comparisons import start_comparisons
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.parity import verdict as parity
from textual_vision.export.precision.registry import PrecisionGraphs
from textual_vision.export.results import PASS, BuildResult
from textual_vision.export.sessions.opening import UnloadableGraphError
from textual_vision.runtime.bundle import Bundle

PROMPTS = ("red apple", "a cat")
Built = tuple[Path, BuildResult]


@pytest.fixture(scope="module")
def batches(tiny_model: StagedModel) -> tuple[ReferenceBatch, ...]:
    return reference_batches(tiny_model, PROMPTS, samples=8, seed=0)


@pytest.fixture
def graphs(built: Built) -> PrecisionGraphs:
    bundle = Bundle(built[0])
    files = bundle.manifest.precisions["fp32"].files
    return PrecisionGraphs(graphs={stage: bundle.read(file) for stage, file in files.items()})


@pytest.fixture(params=[1, 2])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(compare.os, "cpu_count", lambda: request.param)
    return int(request.param)


def test_every_backend_compares_and_the_first_times_the_graphs(
    cores: int, tiny_model: StagedModel, batches: tuple[ReferenceBatch, ...], graphs: PrecisionGraphs
) -> None:
    with start_comparisons(tiny_model, batches, StepCache(None)) as comparisons:
        comparisons.submit("fp32", graphs)
        (result,) = comparisons.results()
    backends = compare.usable_backends()
    assert {one.backend for one in result.parity} == set(backends) and result.verdict == PASS
    assert [one.stage for one in result.graphs] == list(graphs.graphs)
    assert all(one.milliseconds > 0 and one.backend == backends[0] for one in result.graphs)


def test_others_than_the_first_backend_compare_in_a_thread_of_their_own_where_there_is_a_core(
    cores: int,
    tiny_model: StagedModel,
    batches: tuple[ReferenceBatch, ...],
    graphs: PrecisionGraphs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: dict[str, threading.Thread] = {}
    wrapped = compare.parity_of

    def noted(*given: object, backend: str, **named: object) -> object:
        places[backend] = threading.current_thread()
        return wrapped(*given, backend=backend, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(compare, "parity_of", noted)
    with start_comparisons(tiny_model, batches, StepCache(None)) as comparisons:
        comparisons.submit("fp32", graphs)
        comparisons.results()
    first, *others = compare.usable_backends()
    if not others:
        pytest.skip("there is one backend only")
    here = threading.main_thread()
    assert places[first] is here
    assert all((places[one] is here) == (cores == 1) for one in others)


def test_what_was_drawn_to_compare_is_not_drawn_again(
    tiny_model: StagedModel, batches: tuple[ReferenceBatch, ...], graphs: PrecisionGraphs
) -> None:
    with start_comparisons(tiny_model, batches, StepCache(None)) as comparisons:
        comparisons.submit("fp32", graphs)
        comparisons.results()
        session = comparisons.sessions(graphs.graphs)["text_encoder"]
        inputs = {name: batches[0].tensors[name] for name in session.inputs}
        assert session.run(inputs)["text"] is session.run(inputs)["text"]


def test_no_thread_is_left_when_what_goes_on_beside_fails(
    tiny_model: StagedModel,
    batches: tuple[ReferenceBatch, ...],
    graphs: PrecisionGraphs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if len(compare.usable_backends()) < 2:
        pytest.skip("there is one backend only")
    monkeypatch.setattr(compare.os, "cpu_count", lambda: 2)
    before = set(threading.enumerate())
    begun, stopped = threading.Event(), []
    wrapped = parity.run_pipeline

    def endless(*given: object) -> object:
        begun.set()
        try:
            while True:  # until the sessions refuse: they remember no more than the last runs
                for session in given[1].values():  # type: ignore[attr-defined]
                    session.run({name: given[2].tensors[name] for name in session.inputs})  # type: ignore[attr-defined]
        except CancelledError:
            stopped.append(wrapped)
            raise

    monkeypatch.setattr(parity, "run_pipeline", endless)
    with (
        pytest.raises(ZeroDivisionError),
        start_comparisons(tiny_model, batches, StepCache(None)) as comparisons,
    ):
        comparisons.submit("fp32", graphs)
        assert begun.wait(60)
        raise ZeroDivisionError
    assert stopped
    assert set(threading.enumerate()) == before


def test_what_a_backend_cannot_compute_is_an_error_of_the_build(
    cores: int, tiny_model: StagedModel, batches: tuple[ReferenceBatch, ...], graphs: PrecisionGraphs
) -> None:
    latent = onnx.load_from_string(graphs.graphs["latent"])
    latent.graph.node[0].op_type = "Unheard"
    damaged = PrecisionGraphs(graphs={**graphs.graphs, "latent": latent.SerializeToString()})
    with start_comparisons(tiny_model, batches, StepCache(None)) as comparisons:
        comparisons.submit("fp32", damaged)
        with pytest.raises(UnloadableGraphError, match=r"latent\.onnx"):
            comparisons.results()
