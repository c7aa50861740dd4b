"""Garbage collection is as it was after work that goes without."""

from __future__ import annotations

import gc

import pytest

from textual_vision.export.host.gc_tuning import gc_disabled, gc_frozen, refreeze_gc


@pytest.mark.parametrize("collecting", [False, True])
def test_collection_goes_on_as_it_was_after_an_error_too(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), gc_disabled():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


def test_objects_are_searched_again_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), gc_frozen():
        assert gc.get_freeze_count()
        raise ZeroDivisionError
    assert not gc.get_freeze_count()


def test_what_somebody_else_froze_stays_so() -> None:
    gc.freeze()
    try:
        with gc_frozen():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_what_is_set_aside_is_collected_again_afterwards() -> None:
    refreeze_gc()
    assert not gc.get_freeze_count()
    with gc_frozen():
        before = gc.get_freeze_count()
        made = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        refreeze_gc()
        assert gc.get_freeze_count() >= before + len(made)
    assert not gc.get_freeze_count()
