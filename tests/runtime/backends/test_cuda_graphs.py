"""CUDA graphs of ONNX Runtime: which runs are recorded, in what buffers, and what happens when none can."""

import threading

import numpy as np
import pytest
from onnxruntime import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from pretended_cuda import PretendedSession, pretend_cuda
from tiny_graphs import CHANNELS, lookup

from textual_vision.runtime.backends import cuda_graphs
from textual_vision.runtime.backends.cuda_graphs import GRAPH_LIMIT, CudaGraphs
from textual_vision.runtime.backends.onnxruntime import LOG_ERRORS, LOG_FATAL
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, TextualVisionError
from textual_vision.runtime.pipeline import TextToImage

NAMES = ["codes", "found"]
ON_CUDA = SessionOptions(backend="onnxruntime-cuda", name="lookup.onnx")
REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the "
    "user  as all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
)


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "DEVICE", "cpu")
    return PretendedSession(lookup())


def rows(seed, batch=2):
    return np.random.default_rng(seed).standard_normal((batch, 4, CHANNELS)).astype(np.float32)


def expected(x):
    return InferenceSession(lookup(), providers=["CPUExecutionProvider"]).run(NAMES, {"x": x})


def same(found, x):
    return all(np.array_equal(one, other) for one, other in zip(found, expected(x), strict=True))


def test_the_first_run_of_a_set_of_shapes_is_not_recorded_and_later_ones_are_one_recording(session):
    graphs = CudaGraphs(session)
    for seed in range(4):
        assert same(graphs.run(NAMES, {"x": rows(seed)}), rows(seed))
    assert session.graph_ids == ["-1", "1", "1", "1"]
    assert len({id(binding) for binding in session.buffers}) == 1


def test_each_set_of_shapes_has_a_recording_of_its_own(session):
    graphs = CudaGraphs(session)
    for seed in range(9):
        x = rows(seed, batch=1 + seed % 3)
        assert same(graphs.run(NAMES, {"x": x}), x)
    assert session.graph_ids == ["-1", "-1", "-1", "1", "2", "3", "1", "2", "3"]
    assert len({id(binding) for binding in session.buffers}) == 3


def test_outputs_are_not_overwritten_by_the_next_run(session):
    graphs = CudaGraphs(session)
    found = [graphs.run(NAMES, {"x": rows(seed)}) for seed in range(4)]
    assert all(same(one, rows(seed)) for seed, one in enumerate(found))


def test_inputs_are_left_as_they_are(session):
    graphs, first, second = CudaGraphs(session), rows(1), rows(2)
    for _ in range(2):
        graphs.run(NAMES, {"x": first})
        graphs.run(NAMES, {"x": second})
    assert np.array_equal(first, rows(1))
    assert np.array_equal(second, rows(2))


def test_a_strided_input_is_read_in_its_order(session):
    graphs, x = CudaGraphs(session), rows(5, batch=6)[::2, ::-1]
    for _ in range(3):
        assert same(graphs.run(NAMES, {"x": x}), x)
    assert session.graph_ids == ["-1", "1", "1"]


def test_beyond_the_limit_nothing_more_is_recorded_and_what_is_recorded_goes_on(session):
    graphs = CudaGraphs(session)
    for batch in [*range(1, GRAPH_LIMIT + 3)] * 3:
        x = rows(batch, batch)
        assert same(graphs.run(NAMES, {"x": x}), x)
    recorded = [str(number + 1) for number in range(GRAPH_LIMIT)]
    first = ["-1"] * (GRAPH_LIMIT + 2)
    assert session.graph_ids == [*first, *recorded, "-1", "-1", *recorded, "-1", "-1"]


def test_a_recording_that_failed_is_tried_again_under_another_number(session, monkeypatch):
    graphs, x = CudaGraphs(session), rows(1)
    graphs.run(NAMES, {"x": x})
    with monkeypatch.context() as broken:
        broken.setattr(PretendedSession, "run_with_iobinding", failing)
        with pytest.raises(RuntimeError, match="CUDA failure 2"):
            graphs.run(NAMES, {"x": x})
    for _ in range(3):
        assert same(graphs.run(NAMES, {"x": x}), x)
    assert session.graph_ids == ["-1", "-1", "2", "2"]


def failing(self, binding, options=None):
    raise RuntimeError("Error in execution: CUDA failure 2: out of memory")


def test_the_backend_records_and_computes_in_whole_float32(monkeypatch):
    sessions, asked = pretend_cuda(monkeypatch)
    opened = open_session(lookup(), ON_CUDA)
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})]
    for _ in range(3):
        opened.run({"x": rows(1)})
    assert sessions[0].graph_ids == ["-1", "1", "1"]


def test_threads_share_the_recordings_and_never_mix_their_values(monkeypatch):
    sessions, _ = pretend_cuda(monkeypatch)
    opened, wrong = open_session(lookup(), ON_CUDA), []
    answers = {seed: expected(rows(seed)) for seed in range(4)}

    def work(seed):
        for _ in range(50):
            found = opened.run({"x": rows(seed)})
            wrong.extend(
                name
                for name, right in zip(NAMES, answers[seed], strict=True)
                if not np.array_equal(found[name], right)
            )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sessions[0].graph_ids == ["-1"] + ["1"] * 199
    assert len(sessions[0].threads) == 1
    assert threading.get_ident() not in sessions[0].threads


@pytest.mark.parametrize(
    "message",
    [REFUSAL, REFUSAL.replace("all compute graph nodes", "the model has control flow nodes")],
)
def test_a_graph_that_cannot_be_recorded_runs_without(message, monkeypatch):
    sessions, asked = pretend_cuda(
        monkeypatch, refuse=lambda asked: Fail(message) if "enable_cuda_graph" in asked else None
    )
    opened = open_session(lookup(), ON_CUDA)
    assert [settings for _, settings in asked] == [
        {"use_tf32": "0", "enable_cuda_graph": "1"},
        {"use_tf32": "0"},
    ]
    for seed in (1, 1, 2):
        found = opened.run({"x": rows(seed)})
        assert same([found[name] for name in NAMES], rows(seed))
    assert sessions[0].graph_ids == [None, None, None]


def test_any_other_error_while_opening_is_not_tried_again(monkeypatch):
    _, asked = pretend_cuda(monkeypatch, refuse=lambda asked: Fail("[ONNXRuntimeError] : 1 : FAIL : a type"))
    with pytest.raises(IntegrityError, match=r"cannot load it: .* a type"):
        open_session(lookup(), ON_CUDA)
    assert len(asked) == 1


def test_why_there_is_no_gpu_is_logged_though_refusals_to_record_are_not(monkeypatch):
    sessions, asked = pretend_cuda(monkeypatch, used="CPUExecutionProvider")
    with pytest.raises(BackendMissingError, match="would use CPUExecutionProvider"):
        open_session(lookup(), ON_CUDA)
    assert ["enable_cuda_graph" in settings for _, settings in asked] == [True, False]
    assert [session.settings.log_severity_level for session in sessions] == [LOG_FATAL, LOG_ERRORS]


@pytest.mark.parametrize(("version", "records"), [("1.29.0", False), ("1.30.0", True), ("2.0.0", True)])
def test_versions_whose_recordings_read_what_others_overwrite_record_nothing(version, records, monkeypatch):
    _, asked = pretend_cuda(monkeypatch, version=version)
    open_session(lookup(), ON_CUDA)
    assert ["enable_cuda_graph" in settings for _, settings in asked] == [records]


def test_a_replay_that_fails_is_our_error(monkeypatch):
    pretend_cuda(monkeypatch)
    opened = open_session(lookup(), ON_CUDA)
    opened.run({"x": rows(1)})
    monkeypatch.setattr(PretendedSession, "run_with_iobinding", failing)
    with pytest.raises(TextualVisionError, match=r"lookup.onnx: ONNX Runtime failed: .* out of memory"):
        opened.run({"x": rows(1)})


@pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.PromptWarning")
def test_pictures_are_those_of_the_cpu_whatever_was_drawn_between(tiny_bundle, monkeypatch):
    prompts = ["a dog", "a cat wearing sunglasses with a dog", "green forest"]
    plain = TextToImage.load(tiny_bundle, backend="onnxruntime")
    drawn = {prompt: plain(prompt, seed=7) for prompt in prompts}
    sessions, _ = pretend_cuda(monkeypatch)
    recorded = TextToImage.load(tiny_bundle, backend="onnxruntime-cuda")
    for prompt in prompts * 4:
        assert np.array_equal(recorded(prompt, seed=7), drawn[prompt])
    assert all("1" in session.graph_ids for session in sessions)
