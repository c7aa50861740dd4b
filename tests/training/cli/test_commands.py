"""The commands of tv-train, end to end on a corpus of shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from trained import assert_trained

from textual_vision.runtime.errors import TextualVisionError, UsageError
from textual_vision.training.checkpoint import load_checkpoint
from textual_vision.training.cli.main import command
from textual_vision.training.config import TrainConfig
from textual_vision.training.config_file import bytes_from_config
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.data.corpus import load_corpus
from textual_vision.training.data.splits import EVALUATION_SPLITS
from textual_vision.training.evaluation.evaluate import evaluate
from textual_vision.training.trainer.state import PHASES


@pytest.fixture(scope="module")
def made() -> dict[str, Path]:
    return {}


@pytest.fixture
def corpus(made: dict[str, Path], shapes: PictureSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captioned pictures made into a corpus, as a newcomer would."""
    if "corpus" not in made:
        root = tmp_path_factory.mktemp("corpus")
        pictures = root / "pictures"
        pictures.mkdir()
        for index in range(len(shapes)):
            for copy in range(8):  # enough that some are held out
                name = f"{index:02}-{copy}"
                picture = np.roll(shapes.picture(index), copy % 3, axis=copy % 2)
                Image.fromarray(picture).save(pictures / f"{name}.png")
                (pictures / f"{name}.txt").write_text("\n".join(shapes.captions(index)))
        arguments = ["data", "--format", "folder", "--input", str(pictures), "--size", "16"]
        invoke(*arguments, "--output", str(root / "corpus"))
        made["corpus"] = root / "corpus"
    return made["corpus"]


@pytest.fixture
def trained(made: dict[str, Path], corpus: Path, tiny_config: TrainConfig) -> Path:
    """The folder of a finished run."""
    if "run" not in made:
        config = corpus.parent / "tiny.json"
        config.write_bytes(bytes_from_config(tiny_config))
        out = corpus.parent / "run"
        said = invoke("run", str(config), "--corpus", str(corpus), "--output", str(out), "--threads", "1")
        assert f"wrote {out / 'checkpoint'}" in said
        made["run"] = out
    return made["run"]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    return result.output


def test_a_folder_of_pictures_becomes_a_corpus_a_run_and_a_checkpoint(trained: Path) -> None:
    assert load_checkpoint(str(trained / "checkpoint")).config.name == "tiny"
    assert "owner's to state" in (trained / "checkpoint/NOTICE").read_text()


def test_evaluate_writes_scores_and_a_sheet_of_held_out_prompts(trained: Path, corpus: Path) -> None:
    folder = trained / "checkpoint"
    said = invoke("evaluate", str(folder), "--corpus", str(corpus))
    scores = json.loads((folder / "evaluation.json").read_text())
    assert json.loads(said[said.index("{") :]) == scores
    records = [json.loads(line) for line in (corpus / "records.jsonl").read_text().splitlines()]
    assert scores["held_out_pictures"] == sum(record["split"] in EVALUATION_SPLITS for record in records) > 0
    assert scores["reconstruction"]["psnr_db"] > 0
    assert scores["recognition"] is None  # nothing in this corpus wears sunglasses
    assert 0 <= scores["alignment"]["all"]["real"] <= 1
    assert scores["text_codes"]["distinct"] > 0.5
    assert scores["image_codes"]["used"] <= 16
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 500


def test_evaluation_is_repeatable(trained: Path, corpus: Path) -> None:
    checkpoint, opened = load_checkpoint(str(trained / "checkpoint")), load_corpus(corpus)
    first, second = (
        evaluate(checkpoint, opened, limit=None, on_progress=lambda line: None) for _ in range(2)
    )
    assert first == second


def test_a_snapshot_of_a_run_can_be_evaluated_too(trained: Path) -> None:
    assert "(phase end, step 0)" in invoke("snapshot", str(trained))
    load_checkpoint(str(trained / "snapshot"))


def test_describe_prints_a_table_and_json() -> None:
    table = invoke("describe", "emoji-64", "--entries", "100")
    for stage in ("text_encoder", "latent", "generator", "one picture", "discriminator"):
        assert stage in table
    stages: list[Mapping[str, object]] = json.loads(
        invoke("describe", "emoji-64", "--entries", "100", "--json")
    )["stages"]
    assert [stage["stage"] for stage in stages[:3]] == ["text_encoder", "latent", "generator"]


def test_a_corpus_that_is_missing_or_of_another_size_is_told(
    corpus: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.json"
    config.write_bytes(bytes_from_config(tiny_config))
    with pytest.raises(UsageError, match="no corpus at"):
        invoke("run", str(config), "--corpus", str(tmp_path / "none"), "--output", str(tmp_path / "run"))
    with pytest.raises(TextualVisionError, match=r"16 pixels a side, not a multiple of model\.image_size 64"):
        invoke("run", "emoji-64", "--corpus", str(corpus), "--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one precision for a process; a user's command has a process of its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_half_precision_trains_through_every_phase(
    corpus: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    two = {f"{name}_phase": replace(getattr(tiny_config, f"{name}_phase"), steps=2) for name in PHASES}
    short = replace(tiny_config, precision="bfloat16", **two)
    config = tmp_path / "half.json"
    config.write_bytes(bytes_from_config(short))
    invoke("run", str(config), "--corpus", str(corpus), "--output", str(tmp_path / "run"))
    assert_trained(tmp_path / "run", steps=2)
    model = load_checkpoint(str(tmp_path / "run/checkpoint")).model
    assert all(weight.isfinite().all() for weight in model.state_dict().values())


@pytest.mark.parametrize("name", ["run", "snapshot", "describe", "evaluate", "alignment", "data"])
def test_every_command_has_help_without_torch(name: str) -> None:
    script = (
        "import sys\n"
        "from textual_vision.training.cli.main import command\n"
        f"command.main(['{name}', '--help'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Usage" in done.stdout
