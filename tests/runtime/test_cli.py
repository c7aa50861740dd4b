"""tv-generate: pictures for good input; for bad input one line of error, a hint, an exit code and no file."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textual_vision.runtime.cli.main import command
from textual_vision.runtime.console import run
from textual_vision.runtime.images.png import texts_of_png
from textual_vision.runtime.pipeline import TextToImage


@pytest.fixture
def generate(tiny_bundle, tmp_path, monkeypatch, capsys):
    """Call it with arguments (BUNDLE stands for the tiny bundle); gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            run(command, [str(tiny_bundle) if argument == "BUNDLE" else argument for argument in arguments])
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return call


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_prompt_becomes_the_picture_that_the_library_draws(generate, tiny_bundle, tmp_path):
    assert generate("BUNDLE", "a dog", "--seed", "7") == (0, "wrote out.png\n", "")
    assert np.array_equal(pixels(tmp_path / "out.png"), TextToImage.load(tiny_bundle)("a dog", seed=7))


def test_several_pictures_are_numbered_and_take_the_seeds_that_follow(generate, tiny_bundle, tmp_path):
    code, out, _ = generate("BUNDLE", "dog", "cat", "--count", "2", "--seed", "5", "-o", "x.png")
    assert code == 0
    assert out.split() == ["wrote", "x-1.png", "wrote", "x-2.png", "wrote", "x-3.png", "wrote", "x-4.png"]
    model = TextToImage.load(tiny_bundle)
    assert np.array_equal(pixels(tmp_path / "x-2.png"), model("dog", seed=6))
    assert np.array_equal(pixels(tmp_path / "x-3.png"), model("cat", seed=5))


def test_a_grid_has_a_row_per_prompt_and_a_column_per_seed(generate, tiny_bundle, tmp_path):
    assert generate("BUNDLE", "dog", "cat", "--count", "3", "--grid")[0] == 0
    sheet = pixels(tmp_path / "out.png")
    assert sheet.shape == (16, 24, 3)
    assert np.array_equal(sheet[8:, 16:], TextToImage.load(tiny_bundle)("cat", seed=2))


def test_json_tells_machines_of_each_picture_in_a_line(generate):
    code, out, _ = generate("BUNDLE", "dog", "--count", "2", "--json", "--backend", "openvino")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert (told[0]["bundle"], told[0]["precision"], told[0]["backend"]) == ("tiny", "fp32", "openvino")
    assert [one["seed"] for one in told] == [0, 1]
    assert [one["file"] for one in told] == ["out-1.png", "out-2.png"]


@pytest.mark.parametrize("isolation", ["--no-isolated", "--isolated"])
def test_the_command_ends_with_all_that_it_printed(tiny_bundle, tmp_path, isolation):
    command = [
        sys.executable,
        "-m",
        "textual_vision.runtime.cli.main",
        str(tiny_bundle),
        "dog",
        "unknownword",
    ]
    done = subprocess.run([*command, isolation], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "wrote out-1.png\nwrote out-2.png\n")
    assert "not in the vocabulary" in done.stderr
    full = "/dev/full"
    if Path(full).exists():
        with open(full, "w") as stream:  # noqa: PTH123 - Path.open would do no better
            done = subprocess.run([*command, isolation], cwd=tmp_path, stdout=stream, check=False)
        assert done.returncode != 0


def test_prompts_come_from_a_file_or_the_standard_input(generate, tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("dog\n\n  cat \r\na green forest\n", "utf-8")
    code, out, _ = generate("BUNDLE", "--prompts", "prompts.txt", "--json", "-o", "p.png")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["prompt"] for one in told] == ["dog", "cat", "a green forest"]
    assert np.array_equal(pixels(tmp_path / "p-2.png"), TextToImage.load(tiny_bundle)("cat"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"dog\n")))
    assert generate("BUNDLE", "--prompts", "-", "--count", "2")[1] == "wrote out-1.png\nwrote out-2.png\n"


def test_pictures_are_written_while_later_prompts_are_still_unknown(tiny_bundle, tmp_path):
    command = [sys.executable, "-m", "textual_vision.runtime.cli.main", str(tiny_bundle), "--prompts", "-"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with subprocess.Popen([*command, "--batch-size", "1", "--no-isolated"], **options) as process:
        process.stdin.write("dog\ncat\nriver\n")
        process.stdin.flush()
        assert process.stdout.readline() == "wrote out-1.png\n"
        assert (tmp_path / "out-1.png").exists()
        process.stdin.close()
        assert process.stdout.read() == "wrote out-2.png\nwrote out-3.png\n"
    assert process.returncode == 0


def test_a_picture_file_tells_its_prompt_and_seed(generate, tmp_path):
    assert generate("BUNDLE", "a dog", "--seed", "7")[0] == 0
    told = texts_of_png((tmp_path / "out.png").read_bytes())
    assert (told["prompt"], told["seed"], told["precision"]) == ("a dog", "7", "fp32")


def test_an_explanation_is_a_picture(generate, tmp_path):
    assert generate("BUNDLE", "dog wearing sunglasses", "--explain", "why.png")[0] == 0
    assert pixels(tmp_path / "why.png").shape[2] == 3
    assert generate("BUNDLE", "dog", "cat", "--explain", "why.png")[0] == 2


@pytest.mark.parametrize("prompt", ["🐶", "森林 dog", "dog " * 2500])
def test_an_odd_prompt_gives_a_picture_and_a_warning_of_one_line(generate, tmp_path, prompt):
    code, _, err = generate("BUNDLE", prompt)
    assert code == 0
    assert err.startswith("warning: prompt ")
    assert err.count("\n") == 1
    assert (tmp_path / "out.png").exists()


def test_verify_redraws_the_golden_pictures(generate):
    code, out, err = generate("BUNDLE", "--verify")
    assert (code, err) == (0, "")
    assert out.count("[✓]") == 2
    told = json.loads(generate("BUNDLE", "--verify", "--json")[1])
    assert [picture["passed"] for picture in told["pictures"]] == [True, True]


def test_verify_fails_with_3_when_a_golden_picture_differs(generate, replace_file, tiny_files):
    replace_file("golden/00.png", tiny_files["golden/01.png"])
    code, out, err = generate("BUNDLE", "--verify")
    assert code == 3
    assert "[✗] 'dog wearing sunglasses'" in out
    assert err.startswith("error: 1 of 2 golden pictures")


def test_verify_finds_a_byte_changed_in_a_file_that_drawing_does_not_read(generate, tiny_bundle):
    path = tiny_bundle / "MODEL_CARD.md"
    path.write_bytes(path.read_bytes().replace(b"T", b"t"))
    assert generate("BUNDLE", "--verify")[0] == 7


@pytest.fixture
def loaded(monkeypatch):
    """Whether each model that was loaded is isolated."""
    found = []
    load = TextToImage.load

    def noted(*given, **named):
        found.append(named["isolated"])
        return load(*given, **named)

    monkeypatch.setattr(TextToImage, "load", noted)
    return found


def test_an_unknown_bundle_is_isolated_until_it_is_trusted(generate, loaded, edit_manifest):
    edit_manifest(lambda manifest: manifest.update(name="unknown"))
    calls = [[], ["--no-isolated"], [], ["--trust"], [], ["--isolated"]]
    codes = [generate("BUNDLE", "dog", *options) for options in calls]
    assert codes == [(0, "wrote out.png\n", "")] * 6
    assert loaded == [True, False, True, False, False, True]
    edit_manifest(lambda manifest: manifest.update(name="changed"))
    generate("BUNDLE", "dog")
    assert loaded[-1] is True


BAD_USAGE = {
    "trust and isolation": ["BUNDLE", "dog", "--trust", "--isolated"],
    "more threads than cores": ["BUNDLE", "dog", "--threads", "4000"],
    "no prompt": ["BUNDLE"],
    "an empty prompt": ["BUNDLE", " "],
    "a prompt beside --verify": ["BUNDLE", "dog", "--verify"],
    "no bundle": ["nowhere.tv", "dog"],
    "an unknown option": ["BUNDLE", "dog", "--sed", "1"],
    "a seed that is no number": ["BUNDLE", "dog", "--seed", "x"],
    "a negative seed": ["BUNDLE", "dog", "--seed=-1"],
    "a seed too large": ["BUNDLE", "dog", "--seed", str(2**64)],
    "no picture": ["BUNDLE", "dog", "--count", "0"],
    "no thread": ["BUNDLE", "dog", "--threads", "0"],
    "an unknown precision": ["BUNDLE", "dog", "--precision", "int4"],
    "an unknown backend": ["BUNDLE", "dog", "--backend", "onnx"],
    "prompts in two places": ["BUNDLE", "dog", "--prompts", "-"],
    "a file of prompts that is not there": ["BUNDLE", "--prompts", "nowhere.txt"],
    "a batch larger than the profile's": ["BUNDLE", "dog", "--batch-size", "99"],
    "an output that is a folder": ["BUNDLE", "dog", "-o", "."],
    "an output in no folder": ["BUNDLE", "dog", "-o", "nowhere/out.png"],
    "an output that is no PNG": ["BUNDLE", "dog", "-o", "out.jpg"],
    "an output with too long a name": ["BUNDLE", "dog", "-o", "x" * 300 + ".png"],
}


@pytest.mark.parametrize("case", BAD_USAGE)
def test_bad_usage_is_two_lines_and_exit_code_2_for(generate, tmp_path, case):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = generate(*BAD_USAGE[case])
    assert (code, out) == (2, "")
    error, hint = err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_changed_byte_in_a_graph_is_exit_code_7(generate, tiny_bundle, tmp_path):
    path = tiny_bundle / "onnx/fp32/generator.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, _, err = generate("BUNDLE", "dog")
    assert code == 7
    assert err.startswith("error: onnx/fp32/generator.onnx: ")
    assert not (tmp_path / "out.png").exists()


def test_any_byte_changed_in_the_manifest_never_gives_a_traceback(generate, tiny_bundle, tiny_files):
    text = tiny_files["manifest.json"]
    for place in range(0, len(text), 97):
        (tiny_bundle / "manifest.json").write_bytes(text[:place] + b"\x00" + text[place + 1 :])
        assert generate("BUNDLE", "dog")[0] == 7


def test_a_gpu_that_is_not_there_is_exit_code_6(generate):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has GPU providers")
    code, _, err = generate("BUNDLE", "dog", "--backend", "onnxruntime-cuda", "--no-isolated")
    assert code == 6
    assert "hint: pip uninstall onnxruntime" in err


def test_an_earlier_picture_survives_when_there_is_no_room_for_the_new_one(tiny_bundle, tmp_path):
    script = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "from textual_vision.runtime.cli.main import main\nmain()"
    )
    (tmp_path / "out.png").write_bytes(b"an earlier picture")
    arguments = [sys.executable, "-B", "-c", script, str(tiny_bundle), "dog"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: File too large: out.png\nhint: ")
    assert (tmp_path / "out.png").read_bytes() == b"an earlier picture"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "tiny.tv"]


def test_a_user_without_a_home_draws_isolated_and_is_told_that_nothing_can_be_trusted(generate, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert generate("BUNDLE", "dog") == (0, "wrote out.png\n", "")
    code, _, err = generate("BUNDLE", "dog", "--trust")
    assert code == 2
    assert "XDG_STATE_HOME" in err
