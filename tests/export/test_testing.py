"""`assert_parity` and the fixture `parity`, as a project uses them in its own tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import sabotage

from textual_vision.export.testing import assert_parity

QUICK = {"backends": ("onnxruntime",), "precisions": ("fp32",), "samples": 2}

PLUGIN = 'pytest_plugins = ["textual_vision.export.pytest_plugin"]\n'
TEST = """
def test_it(parity):
    parity({bundle!r}, {checkpoint!r}, backends=("onnxruntime",), precisions=("fp32",), samples=2)
"""


def test_a_good_bundle_gives_its_verification(built, checkpoint: Path) -> None:
    assert assert_parity(built[0], checkpoint, **QUICK).verdict == "pass"


def test_a_bad_one_is_an_assertion_error_with_every_failed_check(built, checkpoint, tmp_path) -> None:
    bundle = sabotage.copied(built[0], tmp_path)
    sabotage.edit_graph(bundle, "fp32", "generator", sabotage.change_picture(mirror=True))
    with pytest.raises(AssertionError, match=r"checks fail:\nfp32/generator/"):
        assert_parity(bundle, checkpoint, save_failures=tmp_path / "failures", **QUICK)
    assert (tmp_path / "failures" / "fp32__generator__forced__onnxruntime__batch1" / "found.npz").is_file()


def test_the_fixture_is_found_by_its_plugin(built, checkpoint, tmp_path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN, "utf-8")
    test = TEST.format(bundle=str(built[0]), checkpoint=str(checkpoint))
    (tmp_path / "test_it.py").write_text(test, "utf-8")
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)]) == 0
