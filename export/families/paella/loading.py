"""Paella's networks from its files: paella.pt, vqgan.pt and the folder of the ByT5 encoder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from textual_vision.export.families.paella.byte_tokenizer import byte_tokenizer
from textual_vision.export.families.paella.network import PaellaNetwork, config_from_state
from textual_vision.export.families.paella.sampler import (
    STEPS,
    PaellaSchedule,
    PaellaStart,
    PaellaStep,
    PaellaText,
)
from textual_vision.export.families.paella.t5_encoder import T5Encoder, encoder_state, t5_from_state
from textual_vision.export.families.paella.vq_model import PaellaDecoder, decoder_from_state, decoder_state
from textual_vision.export.families.parts import FamilyNetworks, FamilyStage, stage, tensor
from textual_vision.export.families.weights import State, load_state, read_checkpoint, state_from_checkpoint
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, ParameterSpec, StartSpec

HEADS = 16  # of the published network
LEAST_HEAD_WIDTH = 16
GRID = 32  # rows and columns of codes that the published network was trained on
PUBLISHED_GUIDANCE = 8.0
MAX_GUIDANCE = 100.0


def network_from_file(path: Path, heads: int | None = None) -> PaellaNetwork:
    """The token network of paella.pt with its weights.

    The weights do not say the number of heads: None takes 16, or as many of 16 channels as there are.
    """
    state = state_from_checkpoint(read_checkpoint(path), inside=("state_dict",))
    found = config_from_state(state, ())
    chosen = tuple(heads or min(HEADS, max(1, width // LEAST_HEAD_WIDTH)) for width in found.widths)
    for width, count in zip(found.widths, chosen, strict=True):
        if width % count and heads:
            raise UsageError(f"{heads} heads do not divide {width} channels", "give a divisor of all widths")
    network = PaellaNetwork(config_from_state(state, chosen))
    load_state(network, state, path.name)
    return network.eval()


def decoder_from_file(path: Path) -> PaellaDecoder:
    """The decoder of vqgan.pt with its weights."""
    state = decoder_state(state_from_checkpoint(read_checkpoint(path), inside=("state_dict",)))
    decoder = decoder_from_state(state)
    load_state(decoder, state, path.name)
    return decoder.eval()


def encoder_from_folder(folder: Path) -> T5Encoder:
    """The text encoder of a folder as the transformers library writes it (or of one file of weights)."""
    state = encoder_state(_state_of_folder(folder))
    encoder = t5_from_state(state)
    load_state(encoder, state, folder.name)
    return encoder.eval()


def _state_of_folder(folder: Path) -> State:
    for path in (folder / "model.safetensors", folder):
        if path.is_file() and path.suffix == ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise IntegrityError(f"{path} is damaged: {error}", "download it again") from None
    path = folder / "pytorch_model.bin" if folder.is_dir() else folder
    if not path.is_file():
        raise UsageError(f"{folder} has no model.safetensors or pytorch_model.bin", "give ByT5's folder")
    return state_from_checkpoint(read_checkpoint(path))


def load_paella(
    paella: Path,
    vqgan: Path,
    byt5: Path,
    *,
    heads: int | None = None,
    grid: int = GRID,
    steps: int = STEPS,
) -> FamilyNetworks:
    """All stages of Paella; `grid` is the number of rows and of columns of codes.

    All `steps` but the last renoise.
    """
    network, decoder = network_from_file(paella, heads), decoder_from_file(vqgan)
    encoder = encoder_from_folder(byt5)
    tokenizer, text = byte_tokenizer()
    config, size = network.config, grid * decoder.pixels_per_code
    tables = PaellaSchedule(steps=steps, renoise_steps=max(0, steps - 1)).tables()
    return FamilyNetworks(
        stages=_stages(network, decoder, encoder, grid, size),
        image_size=(size, size),
        image_range=(0.0, 1.0),
        noise=(
            NoiseSpec(name="first_uniforms", shape=(grid, grid), law="uniform"),
            NoiseSpec(name="gumbel", shape=(config.codes, grid, grid), law="gumbel", per_step=True),
            NoiseSpec(name="uniforms", shape=(grid, grid), law="uniform", per_step=True),
        ),
        parameters=(
            ParameterSpec(
                name="guidance_scale", default=PUBLISHED_GUIDANCE, minimum=0.0, maximum=MAX_GUIDANCE
            ),
        ),
        loops=(
            LoopSpec(
                name="sampler",
                stages=("step",),
                steps=len(tables["time"]),
                carry={"codes_before": "codes"},
                start={"codes_before": StartSpec(tensor="first_codes")},
                tables=tables,
            ),
        ),
        tables={"codes": config.codes},
        text=text,
        tokenizer=tokenizer,
        assumed={} if heads else {"heads": max(config.heads)},
    )


def _stages(
    network: PaellaNetwork, decoder: PaellaDecoder, encoder: T5Encoder, grid: int, size: int
) -> tuple[FamilyStage, ...]:
    codes, mask = network.config.codes, tensor("attention_mask", "int64", "tokens")
    condition = tensor("condition", "float32", "tokens", network.config.condition)
    first = tensor("first_codes", "int64", grid, grid, limit=codes)
    drawn = tensor("codes", "int64", grid, grid, limit=codes)
    step_inputs = (
        tensor("codes_before", "int64", grid, grid, limit=codes),
        condition,
        mask,
        first,
        *(tensor(name, "float32") for name in ("time", "next_time", "temperature", "guidance_scale")),
        tensor("gumbel", "float32", codes, grid, grid),
        tensor("uniforms", "float32", grid, grid),
    )
    text_inputs = (tensor("input_ids", "int64", "tokens"), mask)
    picture = tensor("image", "float32", 3, size, size)
    return (
        stage("text_encoder", PaellaText(encoder, network), text_inputs, (condition,)),
        stage("start", PaellaStart(codes), (tensor("first_uniforms", "float32", grid, grid),), (first,)),
        stage("step", PaellaStep(encoder, network), step_inputs, (drawn,)),
        stage("decoder", decoder, (drawn,), (picture,)),
    )
