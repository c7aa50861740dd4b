"""VQ-Diffusion's networks from its files: last.pth, the merges of CLIP's tokenizer, a mapping of codes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from textual_vision.export.families.clip.text import ClipText, clip_text_from_state
from textual_vision.export.families.clip.tokenizer import clip_tokenizer
from textual_vision.export.families.parts import FamilyNetworks, FamilyStage, stage, tensor
from textual_vision.export.families.vq_diffusion.diffusion import (
    CUMULATIVE,
    SINGLE,
    CodeDecoder,
    DiffusionSchedule,
    DiffusionStep,
    DiffusionText,
    Posterior,
)
from textual_vision.export.families.vq_diffusion.transformer import CodeTransformer, config_from_state
from textual_vision.export.families.vq_gan import VqGanDecoder, decoder_state, vq_gan_from_state
from textual_vision.export.families.weights import (
    State,
    load_state,
    read_checkpoint,
    size_of,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, ParameterSpec, StartSpec

DIFFUSION, CODES, TEXT, EMPTY = "transformer.", "transformer.", "condition_emb.", "empty_text_embed"
DECODER = "content_codec.dec."
HEADS = 16  # of the published networks
LEAST_HEAD_WIDTH = 16
PUBLISHED_TRUNCATION = 0.86
MAX_GUIDANCE = 100.0


def states_from_file(path: Path) -> tuple[State, State]:
    """The diffusion's tensors, averaged ones where the file has them, and those of the whole model."""
    checkpoint = read_checkpoint(path)
    model = state_from_checkpoint(checkpoint, inside=("model",))
    averaged = checkpoint.get("ema") if isinstance(checkpoint, dict) else None
    diffusion = {key.removeprefix(DIFFUSION): one for key, one in model.items() if key.startswith(DIFFUSION)}
    if isinstance(averaged, dict) and averaged:
        diffusion |= state_from_checkpoint(averaged)
    return diffusion, model


def transformer_from_state(state: State, name: str, heads: int | None = None) -> CodeTransformer:
    """The transformer with its weights; `heads` None takes 16, or as many of 16 channels as there are."""
    if not any(key.startswith(f"{CODES}blocks.0.attn1.") for key in state):
        problem = f"{name} has no transformer that attends to text"
        raise UsageError(problem, "give the last.pth of a text-conditional VQ-Diffusion")
    found = config_from_state(state, CODES, HEADS)
    chosen = heads or min(HEADS, max(1, found.width // LEAST_HEAD_WIDTH))
    if found.width % chosen:
        raise UsageError(f"{chosen} heads do not divide {found.width} channels", "give a divisor")
    timesteps = size_of(state, SINGLE[0], 0)
    module = CodeTransformer(config_from_state(state, CODES, chosen), timesteps)
    _load(module, state, CODES, name)
    return module


def posterior_from_state(state: State, codes: int, name: str) -> Posterior:
    """The process with the checkpoint's own schedule."""
    module = Posterior(codes, size_of(state, SINGLE[0], 0))
    load_state(module, {key: state[key] for key in (*SINGLE, *CUMULATIVE) if key in state}, name)
    return module


def _load(module: nn.Module, state: State, prefix: str, name: str) -> None:
    """Load what is under `prefix`, without the causal masks that the original registers and never uses."""
    part = {key.removeprefix(prefix): one for key, one in state.items() if key.startswith(prefix)}
    load_state(module, {key: one for key, one in part.items() if not key.endswith(".mask")}, name)


def text_from_state(state: State, name: str) -> ClipText:
    """The text tower that the checkpoint holds."""
    part = {key.removeprefix(TEXT): one for key, one in state.items() if key.startswith(TEXT)}
    module = clip_text_from_state(part)
    load_state(module, part, name)
    return module


def decoder_from_state(model: State, codes: int, mapping: Path | None, name: str) -> CodeDecoder:
    """The decoder that the checkpoint holds, for the codes that the transformer gives."""
    state = decoder_state(
        {key.removeprefix(DECODER): one for key, one in model.items() if key.startswith(DECODER)}
    )
    decoder: VqGanDecoder = vq_gan_from_state(state)
    load_state(decoder, state, name)
    return CodeDecoder(decoder, _rows(decoder, codes, mapping))


def _rows(decoder: VqGanDecoder, codes: int, mapping: Path | None) -> Tensor:
    size = decoder.quantize.embedding.num_embeddings
    if mapping is None:
        if size != codes:
            problem = f"the transformer gives {codes} codes, the codebook has {size} rows"
            raise UsageError(problem, "give the mapping between them, such as taming_vqvae_2887.pt")
        return torch.arange(codes)
    selected = read_checkpoint(mapping)
    if not isinstance(selected, Tensor) or selected.shape != (size,) or selected.is_floating_point():
        problem = f"{mapping} does not map {size} rows to codes"
        raise IntegrityError(problem, "give the mapping that the transformer was trained with")
    first = {int(code): row for row, code in reversed(list(enumerate(selected)))}
    if sorted(first) != list(range(codes)):
        raise IntegrityError(f"{mapping} does not map to {codes} codes", "give the transformer's own mapping")
    return torch.tensor([first[code] for code in range(codes)])


def unconditional_features(text: DiffusionText, state: State) -> Tensor:
    """The condition of no prompt (1, tokens, width): learned, or the features of an empty prompt."""
    if EMPTY in state:
        return state[EMPTY].to(torch.float32)[None]
    tower = text.condition_emb
    rows = tower.token_embedding.num_embeddings
    ids = torch.zeros(1, tower.context, dtype=torch.int64)
    ids[0, :2] = torch.tensor([rows - 2, rows - 1])  # start and end
    with torch.no_grad():
        features: Tensor = text(ids)
    return features


def load_vq_diffusion(
    checkpoint: Path,
    merges: Path,
    *,
    mapping: Path | None = None,
    heads: int | None = None,
    stride: int = 1,
) -> FamilyNetworks:
    """All stages of a text-conditional VQ-Diffusion; `merges` are those of CLIP's tokenizer."""
    state, model = states_from_file(checkpoint)
    name = checkpoint.name
    transformer = transformer_from_state(state, name, heads)
    config = transformer.config
    tower = text_from_state(state, name)
    text = DiffusionText(tower, config.condition).eval()
    posterior = posterior_from_state(state, config.codes, name)
    step = DiffusionStep(transformer, posterior, unconditional_features(text, state))
    decoder = decoder_from_state(model, config.codes, mapping, name)
    tokenizer, spec = clip_tokenizer(merges, rows=tower.token_embedding.num_embeddings, context=tower.context)
    tables = DiffusionSchedule(timesteps=posterior.timesteps, stride=stride).tables()
    rows, columns = config.grid
    scale = 2 ** (len(decoder.decoder.decoder.up) - 1)
    return FamilyNetworks(
        stages=_stages(text, step, decoder, (rows * scale, columns * scale)),
        image_size=(rows * scale, columns * scale),
        image_range=(-1.0, 1.0),
        rounding="truncate",
        noise=(
            NoiseSpec(name="gumbel", shape=(config.codes + 1, rows * columns), law="gumbel", per_step=True),
        ),
        parameters=(
            ParameterSpec(name="guidance_scale", default=1.0, minimum=0.0, maximum=MAX_GUIDANCE),
            ParameterSpec(name="truncation_rate", default=PUBLISHED_TRUNCATION, minimum=0.0, maximum=1.0),
        ),
        loops=(
            LoopSpec(
                name="sampler",
                stages=("step",),
                steps=len(tables["timestep"]),
                carry={"codes_before": "codes"},
                start={"codes_before": StartSpec(fill=float(config.codes))},
                tables=tables,
            ),
        ),
        tables={"codes": config.codes},
        text=spec,
        tokenizer=tokenizer,
        assumed={} if heads else {"heads": config.heads},
    )


def _stages(
    text: DiffusionText, step: DiffusionStep, decoder: CodeDecoder, size: tuple[int, int]
) -> tuple[FamilyStage, ...]:
    config, context = step.transformer.config, text.condition_emb.context
    condition = tensor("condition", "float32", context, config.condition)
    drawn = tensor("codes", "int64", *config.grid, limit=config.codes + 1)
    step_inputs = (
        tensor("codes_before", "int64", *config.grid, limit=config.codes + 1),
        condition,
        *(tensor(name, "int64") for name in ("timestep", "posterior_timestep")),
        *(tensor(name, "float32") for name in ("guidance_scale", "truncation_rate")),
        tensor("gumbel", "float32", config.codes + 1, config.grid[0] * config.grid[1]),
    )
    return (
        stage("text_encoder", text, (tensor("input_ids", "int64", "tokens"),), (condition,)),
        stage("step", step, step_inputs, (drawn,)),
        stage("decoder", decoder, (drawn,), (tensor("image", "float32", 3, *size),)),
    )
