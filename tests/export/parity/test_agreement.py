"""The agreement matrix of precisions, backends and devices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from textual_vision.export.parity.agreement import (
    PYTORCH,
    PictureSet,
    agreement_matrix,
    cell_in_words,
    json_from_matrix,
    matrix_from_bytes,
    short_names,
)
from textual_vision.export.results import BuildResult
from textual_vision.runtime.bundle import Bundle


@pytest.fixture
def sets() -> dict[str, PictureSet]:
    images = np.full((4, 8, 8, 3), 100, np.uint8)
    codes = np.zeros((4, 2, 2), np.int64)
    other = images.copy()
    other[0] += 51  # a fifth of 255
    changed = codes.copy()
    changed[0, 0, 0] = 1
    return {
        PYTORCH: PictureSet(images=images, codes=codes),
        "fp32/onnxruntime/x86_64": PictureSet(images=images, codes=codes),
        "int8/openvino/x86_64": PictureSet(images=other, codes=changed),
    }


def test_every_two_sets_are_compared(sets):
    matrix = agreement_matrix(sets)
    assert cell_in_words(matrix.cells[PYTORCH]["fp32/onnxruntime/x86_64"]) == "="
    cell = matrix.cells["fp32/onnxruntime/x86_64"]["int8/openvino/x86_64"]
    assert (cell.pictures, cell.identical, cell.code_agreement) == (4, 3, 15 / 16)
    assert cell.worst_psnr_db == pytest.approx(20 * np.log10(5))
    assert cell_in_words(cell) == "20.0 dB, 93.75 % codes"
    assert cell == matrix.cells["int8/openvino/x86_64"]["fp32/onnxruntime/x86_64"]


def test_its_json_is_read_again(sets):
    matrix = agreement_matrix(sets)
    assert matrix_from_bytes(json.dumps(json_from_matrix(matrix)).encode()) == matrix


def test_devices_are_named_where_there_are_several(sets):
    assert short_names(list(sets))["int8/openvino/x86_64"] == "int8/openvino"
    assert short_names([*sets, "fp32/onnxruntime/aarch64"])["int8/openvino/x86_64"] == "int8/openvino/x86_64"


def test_a_builds_report_has_the_matrix_on_its_page(built: tuple[Path, BuildResult]):
    bundle = Bundle(built[0])
    value = json.loads(bundle.read("report/report.json"))["agreement"]
    assert value["names"][0] == PYTORCH and len(value["names"]) == 1 + 2 * len(built[1].backends)
    page = bundle.read("report/index.html").decode()
    assert page.index("<h2>Agreement</h2>") < page.index("<h2>Stages</h2>")
    assert "<td>=</td>" in page
