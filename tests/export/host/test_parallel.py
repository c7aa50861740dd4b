"""Work on all cores: in order, never far ahead, and with the errors of the work."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from textual_vision.export.host import parallel as cores
from textual_vision.export.host.parallel import parallel_map, torch_single_thread


@pytest.fixture(params=[1, 2, 4])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(cores.os, "cpu_count", lambda: request.param)
    return int(request.param)


def test_results_come_in_the_order_of_the_items(count: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0.0)
        return 10 * number

    assert list(parallel_map(slow_first, range(9))) == [10 * number for number in range(9)]
    assert list(parallel_map(slow_first, [])) == []


def test_as_much_goes_on_at_a_time_as_there_are_cores(count: int) -> None:
    meeting = threading.Barrier(count, timeout=10)
    assert len(set(parallel_map(lambda _: meeting.wait(), range(count)))) == count


def test_one_core_needs_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 1)
    here = threading.current_thread()
    assert set(parallel_map(lambda _: threading.current_thread(), range(3))) == {here}


def test_no_more_is_begun_than_there_are_cores_before_results_are_looked_at(count: int) -> None:
    begun: list[int] = []
    results = parallel_map(begun.append, range(50))
    next(results)
    time.sleep(0.05)
    assert len(begun) <= count + 1
    results.close()
    assert len(begun) <= count + 1


def test_an_error_of_the_work_is_raised_at_its_turn(count: int) -> None:
    def inverse(number: int) -> float:
        return 1 / number

    results = parallel_map(inverse, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_torch_has_its_threads_again_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError), torch_single_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
