"""Garbage collection is as it was after work that goes without."""

from __future__ import annotations

import gc

import pytest

from textual_vision.export.host.gc_tuning import collected_lately, set_aside, uncollected


@pytest.mark.parametrize("collecting", [False, True])
def test_collection_goes_on_as_it_was_after_an_error_too(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


def test_objects_are_searched_again_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), collected_lately():
        assert gc.get_freeze_count()
        raise ZeroDivisionError
    assert not gc.get_freeze_count()


def test_what_somebody_else_froze_stays_so() -> None:
    gc.freeze()
    try:
        with collected_lately():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_what_is_set_aside_is_collected_again_afterwards() -> None:
    set_aside()
    assert not gc.get_freeze_count()
    with collected_lately():
        before = gc.get_freeze_count()
        made = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        set_aside()
        assert gc.get_freeze_count() >= before + len(made)
    assert not gc.get_freeze_count()
