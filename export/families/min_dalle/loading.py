"""min-dalle's networks from its files: encoder.pt, decoder.pt, detoker.pt, vocab.json, merges.txt."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from textual_vision.export.families.min_dalle.decoder import BartDecoder
from textual_vision.export.families.min_dalle.encoder import BartEncoder, PromptEncoder
from textual_vision.export.families.min_dalle.layers import BartConfig, config_from_state, load_bart
from textual_vision.export.families.min_dalle.sampler import Detokenizer, SamplerStep
from textual_vision.export.families.min_dalle.tokenizer import min_dalle_tokenizer, vocabulary_from_file
from textual_vision.export.families.parts import FamilyNetworks, FamilyStage, stage, tensor
from textual_vision.export.families.vq_gan import VqGanDecoder, decoder_state, vq_gan_from_state
from textual_vision.export.families.weights import (
    load_state,
    read_checkpoint,
    size_of,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, ParameterSpec, StartSpec

NORM_EPS = 1e-5  # of the detokenizer's group normalizations, ten times that of the original VQ-GAN
TOP_K, GUIDANCE = 256, 16.0  # as its own code draws
START_TOKEN, END_TOKEN, PAD_TOKEN = "<s>", "</s>", 1


def encoder_from_file(path: Path, heads: int | None = None) -> tuple[BartEncoder, BartConfig]:
    """The text encoder with its weights, and its sizes."""
    state = state_from_checkpoint(read_checkpoint(path))
    config = config_from_state(state, heads)
    encoder = BartEncoder(config)
    load_bart(encoder, state, path.name)
    return encoder.eval(), config


def decoder_from_file(path: Path, heads: int | None = None) -> BartDecoder:
    """The decoder with its weights."""
    state = state_from_checkpoint(read_checkpoint(path))
    decoder = BartDecoder(config_from_state(state, heads), size_of(state, "lm_head.weight", 0))
    load_bart(decoder, state, path.name)
    return decoder.eval()


def detokenizer_from_file(path: Path) -> Detokenizer:
    """The decoder of pictures with its weights."""
    state = state_from_checkpoint(read_checkpoint(path))
    codebook = {f"quantize.{key}": one for key, one in state.items() if key.startswith("embedding.")}
    needed = decoder_state({**state, **codebook})
    decoder: VqGanDecoder = vq_gan_from_state(needed)
    load_state(decoder, needed, path.name)
    for part in decoder.modules():
        if isinstance(part, nn.GroupNorm):
            part.eps = NORM_EPS
    return Detokenizer(decoder).eval()


def load_min_dalle(
    encoder: Path,
    decoder: Path,
    detoker: Path,
    vocabulary: Path,
    merges: Path,
    *,
    heads: int | None = None,
    top_k: int = TOP_K,
) -> FamilyNetworks:
    """All stages of min-dalle, of either size."""
    text, config = encoder_from_file(encoder, heads)
    network, pictures = decoder_from_file(decoder, heads), detokenizer_from_file(detoker)
    _check_sizes(config, network, encoder, decoder)
    words = vocabulary_from_file(vocabulary, config.vocabulary)
    tokenizer, spec = min_dalle_tokenizer(vocabulary, merges, rows=config.vocabulary, tokens=config.positions)
    empty = torch.full((1, config.positions), PAD_TOKEN)
    empty[0, :2] = torch.tensor([words[START_TOKEN], words[END_TOKEN]])
    prompts = PromptEncoder(text, network)
    codes = pictures.decoder.quantize.embedding.num_embeddings
    step = SamplerStep(network, prompts, empty_ids=empty, codes=codes, top_k=top_k)
    positions = network.config.positions
    side = math.isqrt(positions) * 2 ** (len(pictures.decoder.decoder.up) - 1)
    return FamilyNetworks(
        stages=_stages(prompts, step, pictures, config.positions, side),
        image_size=(side, side),
        image_range=(0.0, 1.0),
        rounding="truncate",
        noise=(NoiseSpec(name="gumbel", shape=(codes,), law="gumbel", per_step=True),),
        parameters=(
            ParameterSpec(name="temperature", default=1.0, minimum=0.01, maximum=100.0),
            ParameterSpec(name="guidance_scale", default=GUIDANCE, minimum=0.0, maximum=100.0),
        ),
        loops=(
            LoopSpec(
                name="sampler",
                stages=("step",),
                steps=positions,
                carry={"code_before": "code", "cache_before": "cache", "codes_before": "codes"},
                start={
                    "code_before": StartSpec(fill=float(codes - 1)),
                    "cache_before": StartSpec(fill=0.0),
                    "codes_before": StartSpec(fill=0.0),
                },
                tables={"position": tuple(map(float, range(positions)))},
            ),
        ),
        tables={"codes": codes},
        text=spec,
        tokenizer=tokenizer,
        assumed={} if heads else {"heads": config.heads},
    )


def _check_sizes(config: BartConfig, decoder: BartDecoder, encoder_file: Path, decoder_file: Path) -> None:
    positions, width = decoder.config.positions, decoder.config.width
    if width != config.width:
        problem = f"{encoder_file.name} has width {config.width}, {decoder_file.name} {width}"
        raise UsageError(problem, "give both files of one model, mini or mega")
    if math.isqrt(positions) ** 2 != positions:
        raise UsageError(f"{decoder_file.name}: {positions} positions are no square", "give decoder.pt")


def _stages(
    prompts: PromptEncoder, step: SamplerStep, pictures: Detokenizer, tokens: int, side: int
) -> tuple[FamilyStage, ...]:
    config, codes = step.decoder.config, step.codes
    rows = math.isqrt(config.positions)
    prompt_cache = tensor("prompt_cache", "float32", config.layers, 2, tokens, config.width)
    prompt_mask = tensor("prompt_mask", "int64", tokens)
    cache = (2, config.layers, 2, config.positions, config.width)
    drawn = tensor("codes", "int64", rows, rows, limit=codes)
    step_inputs = (
        tensor("code_before", "int64", limit=codes),
        tensor("cache_before", "float32", *cache),
        tensor("codes_before", "int64", rows, rows, limit=codes),
        tensor("position", "int64"),
        prompt_cache,
        prompt_mask,
        *(tensor(name, "float32") for name in ("temperature", "guidance_scale")),
        tensor("gumbel", "float32", codes),
    )
    step_outputs = (tensor("code", "int64", limit=codes), tensor("cache", "float32", *cache), drawn)
    ids = (tensor("input_ids", "int64", "tokens"),)
    return (
        stage("text_encoder", prompts, ids, (prompt_cache, prompt_mask)),
        stage("step", step, step_inputs, step_outputs),
        stage("decoder", pictures, (drawn,), (tensor("image", "float32", 3, side, side),)),
    )
