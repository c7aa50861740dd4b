"""The files that a verification writes: JSON on every exit code, JUnit, failures, other devices' tables."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import sabotage
from PIL import Image

from textual_vision.export.cli.main import command
from textual_vision.runtime import console

QUICK = ("--backend", "onnxruntime", "--precision", "fp32", "--samples", "4", "--quiet")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        console.run(command, ["verify", *map(str, words), *QUICK])
    return int(caught.value.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "json": tmp_path / "out.json",
        "junit": tmp_path / "out.xml",
        "save-failures": tmp_path / "failures",
    }


def options(files: dict[str, Path]) -> list[object]:
    return [word for name, path in files.items() for word in (f"--{name}", path)]


def test_a_failure_is_in_every_file(changed, checkpoint, files):
    sabotage.edit_graph(changed, "fp32", "generator", sabotage.change_picture(mirror=True))
    assert run(changed, "--checkpoint", checkpoint, *options(files)) == 3
    value = json.loads(files["json"].read_text("utf-8"))
    assert (value["verdict"], value["exit_code"]) == ("fail", 3)
    failed = [check["id"] for check in value["checks"] if check["verdict"] == "fail"]
    assert "fp32/generator/forced/onnxruntime/batch1" in failed
    assert value["error"].startswith("fp32/generator/")
    assert value["versions"]["torch"] and value["tolerances"]["fp32"]["picture_db"] == 50.0
    assert len(value["samples"]) == 4
    suite = ET.parse(files["junit"]).getroot().find("testsuite")
    assert suite is not None and suite.attrib["failures"] == str(len(failed))
    assert len(suite.findall("testcase")) == len(value["checks"])
    place = files["save-failures"] / "fp32__generator__forced__onnxruntime__batch1"
    with np.load(place / "inputs.npz") as inputs, np.load(place / "found.npz") as found:
        assert set(inputs) == {"codes", "text", "attention_mask", "noise"}
        assert found["image"].shape == (1, 16, 16, 3)
    with Image.open(place / "pictures.png") as picture:
        assert picture.size == (3 * 16 + 2 * 2, 16)
    lines = (place / "repeat.txt").read_text("utf-8").splitlines()
    assert len(lines) == 3 and lines[0].startswith("tv-export")


def test_json_is_written_when_a_file_is_damaged(changed, checkpoint, files):
    (changed / "tokenizer.json").write_bytes(b"x" * (changed / "tokenizer.json").stat().st_size)
    assert run(changed, "--checkpoint", checkpoint, *options(files)) == 7
    value = json.loads(files["json"].read_text("utf-8"))
    assert value["exit_code"] == 7 and "tokenizer.json" in value["error"]
    assert ET.parse(files["junit"]).getroot().attrib["errors"] == "1"


def test_json_is_written_when_a_backend_is_missing(built, files):
    assert run(built[0], "--require-backend", "tensorrt", *options(files)) == 6
    assert json.loads(files["json"].read_text("utf-8"))["exit_code"] == 6


def test_another_device_joins_the_agreement_matrix(built, checkpoint, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert run(built[0], "--checkpoint", checkpoint, "--json", first) == 0
    other = json.loads(first.read_text("utf-8"))
    name = next(one for one in other["pictures"] if one != "PyTorch")
    other["pictures"] = {"fp32/onnxruntime/orin": other["pictures"][name]}
    first.write_text(json.dumps(other), "utf-8")
    assert run(built[0], "--checkpoint", checkpoint, "--merge", first, "--json", second) == 0
    matrix = json.loads(second.read_text("utf-8"))["agreement"]
    assert matrix["names"] == ["PyTorch", name, "fp32/onnxruntime/orin"]
    assert matrix["cells"][name]["fp32/onnxruntime/orin"]["psnr_db"] is None  # identical


def test_other_seeds_do_not_join_it(built, checkpoint, tmp_path, capsys):
    first = tmp_path / "first.json"
    assert run(built[0], "--checkpoint", checkpoint, "--json", first) == 0
    assert run(built[0], "--checkpoint", checkpoint, "--seed", "5", "--merge", first) == 2
    assert "other prompts or seeds" in capsys.readouterr().err


def test_pictures_that_are_worse_than_the_baseline_fail(changed, checkpoint, tmp_path, files):
    old = tmp_path / "old.json"
    assert run(changed, "--checkpoint", checkpoint, "--json", old) == 0
    assert run(changed, "--checkpoint", checkpoint, "--baseline", old) == 0
    sabotage.edit_graph(changed, "fp32", "generator", sabotage.change_picture(block=1))
    assert run(changed, "--checkpoint", checkpoint, "--baseline", old, "--json", files["json"]) == 3
    checks = {check["id"]: check for check in json.loads(files["json"].read_text("utf-8"))["checks"]}
    assert checks["fp32/whole/baseline/onnxruntime"]["verdict"] == "fail"
