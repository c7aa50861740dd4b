"""The fused latent network chooses the very codes that the network itself chooses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from textual_vision.export.inference_network.network import inference_latent_network
from textual_vision.export.inference_network.retrieval import FusedRetrieval, PackedCodes
from textual_vision.export.inference_network.steps import Turn, steps_of
from textual_vision.export.model.stage import Stage, inference_stage, tensor
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.manifest import StageSpec
from textual_vision.training.models.text_to_image import LatentStage

BATCH = 32
MakeStage = Callable[..., LatentStage]


def prompts(tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Words, their mask (every third prompt is padded) and noise."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(BATCH, tokens, dtype=torch.int64)
    mask[1::3, tokens // 2 :] = 0
    text = 2 * torch.randn(BATCH, tokens, 16, generator=generator) * mask[:, :, None]
    return text, mask, torch.randn(BATCH, 6, generator=generator)


@torch.no_grad()
def codes_of(module: nn.Module) -> Tensor:
    found: Tensor = module(*prompts())
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 1.0},
        {"stochastic_steps": 0},
        {"stochastic_steps": 4},
        {"steps": 1, "split_doublings": 0, "stochastic_steps": 1},
        {"patch": 1, "steps": 5, "guidance_scale": 1.0},
        {"count": 1},
        {"copy_strength": 2.0, "copy_strength_composition": 0.5, "nearest_bonus": 1.5},
        {"copy_strength": 3.0, "copy_strength_composition": 0.0, "guidance_scale": 1.0},
        {"copy_strength": 3.0, "count": 1},
        {"count": 2, "guidance_scale": 1.0},
        {"count": 8, "blocks": 3, "temperature": 1.0},
    ],
    ids=str,
)
def test_whatever_the_network_it_chooses_the_same_codes(
    latent_stage: MakeStage, changes: dict[str, object]
) -> None:
    stage = latent_stage(**changes)
    module = inference_latent_network(stage)
    assert module is not None
    expected = codes_of(stage)
    assert len(expected.unique()) > 8 and (expected[0] != expected[1]).any()
    assert torch.equal(codes_of(module), expected)


def test_a_network_without_retrieval_is_exported_as_it_is(latent_stage: MakeStage) -> None:
    stage = latent_stage(entries=0)
    assert inference_latent_network(stage) is None
    spec = StageSpec(name="latent", inputs=(), outputs=())
    same = Stage(spec=spec, module=stage, inference_module=lambda: inference_latent_network(stage))
    assert inference_stage(same) is same


def test_it_neither_changes_the_network_nor_draws_random_numbers(latent_stage: MakeStage) -> None:
    stage = latent_stage()
    before = {name: value.clone() for name, value in stage.latent.state_dict().items()}
    buffers = {name: value.clone() for name, value in stage.latent.named_buffers()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    inference_latent_network(stage)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(value, before[name]) for name, value in stage.latent.state_dict().items())
    assert all(torch.equal(value, buffers[name]) for name, value in stage.latent.named_buffers())


def test_the_fused_index_retrieves_the_same_pictures_by_one_pass_less(latent_stage: MakeStage) -> None:
    index = latent_stage(count=5).latent.retrieval
    assert index is not None
    with torch.no_grad():
        codes, near, composed = index(*prompts())
        found, how_near, combine = FusedRetrieval(index)(*prompts())
    assert torch.equal(found, codes)
    torch.testing.assert_close(how_near, near)
    assert torch.equal(combine, composed)


@pytest.mark.parametrize(
    ("largest", "columns", "halves"),
    [(0, 5, 3), (31, 6, 3), (255, 9, 6), (511, 256, 192), (511, 9, 9), (1023, 7, 10), (2047, 24, 22)],
)
def test_codes_are_packed_and_found_again(largest: int, columns: int, halves: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, largest + 1, (60, columns), generator=generator)
    codes[3], codes[5] = largest, 0
    module = PackedCodes(codes)
    assert module.packed.dtype == torch.float16 and module.packed.shape == (60, halves)
    assert torch.equal(module(torch.arange(60)), codes)
    assert torch.equal(module(torch.tensor([7, 3, 7])), codes[[7, 3, 7]])


def test_neighbors_that_no_patch_can_have_are_not_multiplied_by(latent_stage: MakeStage) -> None:
    network = latent_stage(grid=16, steps=8, split_doublings=2).latent
    steps = steps_of(network)
    assert steps[0].neighbors is None
    wide, narrow = network.neighbors.in_features, network.neighbors.in_features // 2
    assert [step.neighbors.in_features for step in steps[1:] if step.neighbors] == [narrow] * 4 + [
        wide,
        narrow,
        wide,
    ]
    assert not isinstance(steps[0].turns[0], Turn), "no code is chosen before the first one"
    slots = [turn.slots for step in steps for turn in step.turns if isinstance(turn, Turn)]
    assert slots == [4, 0, 4, 0, 4, 0, 4, 2, 6, 2, 6, 6, 6, 8, 8]
    assert steps[1].neighbors is steps[2].neighbors, "steps with the same neighbors share their weights"


def test_it_is_exported_for_any_batch_and_any_number_of_words(latent_stage: MakeStage) -> None:
    stage = latent_stage(guidance_scale=1.0, entries=70)  # more than ONNX's reference can choose from
    text, mask, noise = (x[:2].numpy() for x in prompts())
    spec = StageSpec(
        name="latent",
        inputs=(
            tensor("text", "float32", "batch", "tokens", 16),
            tensor("attention_mask", "int64", "batch", "tokens"),
            tensor("noise", "float32", "batch", 6),
        ),
        outputs=(tensor("codes", "int64", "batch", 4, 4),),
    )
    whole = inference_stage(
        Stage(spec=spec, module=stage, inference_module=lambda: inference_latent_network(stage))
    )
    example = {"text": text, "attention_mask": mask, "noise": noise}
    graph = onnx_from_stage(whole, example, ExportOptions(opset=17, max_tokens=12))
    assert {node.domain for node in graph.graph.node} == {""}
    session = open_session(graph.SerializeToString(), SessionOptions(backend="onnxruntime", name="latent"))
    for batch, tokens in ((1, 1), (3, 12), (BATCH, 7)):
        given = [x[:batch].numpy() for x in prompts(tokens)]
        expected = stage(*(torch.from_numpy(x) for x in given)).numpy()
        named = dict(zip(("text", "attention_mask", "noise"), given, strict=True))
        assert np.array_equal(session.run(named)["codes"], expected)
        if batch == 3:
            assert np.array_equal(ReferenceEvaluator(graph).run(None, named)[0], expected)


def test_weights_that_all_steps_use_are_stored_once(latent_stage: MakeStage) -> None:
    stage = latent_stage(guidance_scale=1.0)
    module = inference_latent_network(stage)
    assert module is not None
    own = sum(value.numel() for value in stage.state_dict().values())
    ours = {value.data_ptr(): value.numel() for value in [*module.parameters(), *module.buffers()]}
    assert sum(ours.values()) < 1.3 * own
