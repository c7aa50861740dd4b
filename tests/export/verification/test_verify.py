"""A clean bundle passes every check, and an error names the first that fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sabotage

from textual_vision.export.results import BuildResult
from textual_vision.export.verification import verify as module
from textual_vision.export.verification.verification import Verification
from textual_vision.export.verification.verify import require_verified
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, ParityError, UsageError

Verify = Callable[..., Verification]


def failed(found):
    return {check.id for check in found.checks if check.failed}


@pytest.fixture(scope="module")
def clean(built: tuple[Path, BuildResult], verify: Verify):
    return verify(built[0], required_precisions=("fp32", "fp16"), level="release", samples=16)


def test_a_clean_bundle_passes_every_check(clean):
    assert failed(clean) == set()
    require_verified(clean)


def test_every_layer_precision_and_stage_has_a_check(clean):
    ids = {check.id for check in clean.checks}
    assert len(ids) == len(clean.checks)
    for precision in ("fp32", "fp16"):
        for stage in ("text_encoder", "latent", "generator"):
            assert {f"{precision}/{stage}/forced/onnxruntime/batch{size}" for size in (1, 4)} <= ids
            assert f"{precision}/{stage}/weights" in ids
        assert f"{precision}/text_encoder/table/tokens/onnxruntime" in ids
        assert f"{precision}/generator/table/codes/onnxruntime" in ids
        assert {f"{precision}/{name}/free/onnxruntime" for name in ("whole", "pipeline")} <= ids
    assert {check.layer for check in clean.checks} == {"exact", "tables", "stages", "whole"}


def test_the_unvisited_and_the_smallest_visible_defect_are_noted(clean):
    assert any("16 pictures show a defect that hits 17.1 % of all pictures" in note for note in clean.notes)
    assert any("of 16 rows of codes" in note for note in clean.notes)


def test_the_error_names_the_stage_the_figure_the_tolerance_and_the_cause(changed: Path, verify: Verify):
    sabotage.edit_graph(changed, "fp32", "generator", sabotage.change_picture(tint=20))
    found = verify(changed)
    with pytest.raises(ParityError) as caught:
        require_verified(found)
    first = r"fp32/generator/\S+: .* limit .*; required: 50 dB.*; likely cause: "
    assert caught.match(first)


def test_a_missing_precision_fails_where_it_is_required(built, verify: Verify):
    found = verify(built[0], required_precisions=("int8",), samples=2, precisions=("fp32",))
    assert failed(found) == {"int8/required"}


def test_a_required_backend_that_is_missing_is_an_error(built, verify: Verify):
    with pytest.raises(BackendMissingError, match="tensorrt is not installed"):
        verify(built[0], required_backends=("tensorrt",))


def test_a_precision_without_a_tolerance_is_named(built, verify: Verify, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(module.TOLERANCES, "fp16")
    with pytest.raises(IntegrityError, match="no tolerance for 'fp16', only for fp32, int8"):
        verify(built[0])


def test_missing_golden_pictures_are_an_error_only_without_a_checkpoint(changed: Path, verify: Verify):
    sabotage.edit_json(changed, "manifest.json", lambda manifest: manifest.update(golden=None))
    assert failed(verify(changed, samples=2, precisions=("fp32",))) == set()
    with pytest.raises(UsageError, match="no golden pictures"):
        verify(changed, checkpoint=None)
