"""Samples: what every stage sees, and which rows the drawings visit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from textual_vision.calibration.prompts import CalibrationWarning
from textual_vision.calibration.samples import FloatPipeline, samples_from_prompts
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.pipeline import TextToImage
from textual_vision.runtime.text.tokenizer import Tokenizer

PROMPTS = ("dog wearing sunglasses", "green forest with river", "a cat", "a dog", "river")


@pytest.fixture
def pipeline(tiny_bundle: Path) -> FloatPipeline:
    bundle = Bundle(tiny_bundle)
    manifest = bundle.manifest
    files = manifest.precisions["fp32"].files
    return FloatPipeline(
        stages=manifest.stages,
        sessions={
            stage: open_session(bundle.read(file), SessionOptions(backend="onnxruntime", name=file))
            for stage, file in files.items()
        },
        tokenizer=Tokenizer(bundle.read("tokenizer.json"), manifest.text),
        noise_dim=manifest.noise[0].shape[0],
        tables={"codes": 16},
    )


def test_every_stage_gets_the_inputs_that_a_real_drawing_gives_it(
    pipeline: FloatPipeline, tiny_bundle: Path
) -> None:
    samples = samples_from_prompts(pipeline, PROMPTS[:1], count=1, seeds=(7,))
    drawn = TextToImage.load(tiny_bundle, backend="onnxruntime").generate(PROMPTS[:1], [7])
    (inputs,) = samples.inputs["generator"]
    np.testing.assert_array_equal(inputs["codes"], drawn.codes)
    assert set(samples.inputs) == {"text_encoder", "latent", "generator"}
    assert {name for stage in pipeline.stages for name in samples.inputs[stage.name][0]} == {
        "input_ids", "attention_mask", "text", "noise", "codes",
    }  # fmt: skip


def test_every_prompt_is_drawn_with_every_seed(pipeline: FloatPipeline) -> None:
    samples = samples_from_prompts(pipeline, PROMPTS, count=9, seeds=(0, 1, 2))
    assert samples.drawings == 15 == sum(len(batch["noise"]) for batch in samples.inputs["latent"])


def test_visited_and_unvisited_rows_add_up(pipeline: FloatPipeline) -> None:
    samples = samples_from_prompts(pipeline, PROMPTS, count=9)
    codes = np.concatenate([batch["codes"].ravel() for batch in samples.inputs["generator"]])
    (table,) = samples.coverage
    assert table.visited == len(np.unique(codes))
    assert set(table.never) == set(range(16)) - set(codes.tolist())
    assert table.visited + len(table.never) == table.rows == 16


def test_prompts_are_chosen_for_the_rows_they_visit(pipeline: FloatPipeline) -> None:
    two = samples_from_prompts(pipeline, PROMPTS, count=2)
    assert len(two.prompts) == 2 and set(two.prompts) <= set(PROMPTS)
    alone = [samples_from_prompts(pipeline, [p], count=1).coverage[0].visited for p in PROMPTS]
    assert two.coverage[0].visited >= max(alone)


def test_a_table_that_is_hardly_visited_is_warned_of(pipeline: FloatPipeline) -> None:
    wide = FloatPipeline(**{**vars(pipeline), "tables": {"codes": 1000}})
    with pytest.warns(CalibrationWarning, match="of the 1000 rows behind 'codes'"):
        (table,) = samples_from_prompts(wide, PROMPTS[:1], count=1).coverage
    assert table.visited + len(table.never) == table.rows == 1000


def test_codes_of_words_are_counted_by_group_and_without_padding(pipeline: FloatPipeline) -> None:
    words = FloatPipeline(**{**vars(pipeline), "tables": {"text_codes": 4}})
    (table,) = samples_from_prompts(words, PROMPTS[:2], count=2).coverage
    assert table.rows == 8


@pytest.mark.parametrize(("count", "seeds"), [(0, (0,)), (3, ())])
def test_no_drawing_is_an_error(pipeline: FloatPipeline, count: int, seeds: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="prompts and"):
        samples_from_prompts(pipeline, PROMPTS, count=count, seeds=seeds)


def test_a_codebook_of_a_tensor_that_no_stage_gives_is_refused(pipeline: FloatPipeline) -> None:
    with pytest.raises(UsageError, match="'kodes', which no stage gives"):
        samples_from_prompts(replace(pipeline, tables={"kodes": 16}), PROMPTS, count=9)
