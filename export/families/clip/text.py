"""The text tower of CLIP.

Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021. Keys are
those of its own checkpoints; the transformers library's layout is renamed to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from textual_vision.export.families.attention import causal_bias
from textual_vision.export.families.clip.blocks import Transformer, transformer_from_state
from textual_vision.export.families.weights import (
    State,
    load_state,
    read_checkpoint,
    size_of,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import IntegrityError, UsageError

PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
LIBRARY_PREFIX = "text_model."
LIBRARY_LAYER = "text_model.encoder.layers."
LIBRARY_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
LIBRARY_LAYER_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
JIT_HINT = "OpenAI's archive is a program: save its state dict, or give the transformers library's folder"


class ClipText(nn.Module):
    """Features of all tokens and of the sentence, from ids of exactly `context` tokens."""

    def __init__(self, *, vocabulary: int, context: int, projection: int, transformer: Transformer) -> None:
        super().__init__()
        width = transformer.width
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.transformer = transformer
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, projection))
        self.register_buffer("causal", causal_bias(context), persistent=False)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens float32 (batch, context, width) and sentence float32 (batch, projection).

        The sentence is read at the end token, whose id is the largest.
        """
        x = self.token_embedding(input_ids) + self.positional_embedding
        tokens = self.ln_final(self.transformer(x, self.causal))
        place = input_ids.argmax(1)[:, None, None].expand(-1, 1, tokens.shape[2])
        return tokens, tokens.gather(1, place)[:, 0] @ self.text_projection

    @property
    def context(self) -> int:
        """The number of tokens."""
        return int(self.positional_embedding.shape[0])


def clip_text_from_state(state: Mapping[str, Tensor]) -> ClipText:
    """The text tower whose sizes are those of the state's tensors, without its weights."""
    return ClipText(
        vocabulary=size_of(state, "token_embedding.weight", 0),
        context=size_of(state, "positional_embedding", 0),
        projection=size_of(state, "text_projection", 1),
        transformer=transformer_from_state(state, "transformer."),
    )


def text_state(state: Mapping[str, Tensor]) -> State:
    """The text tower's tensors under CLIP's own keys, from a whole CLIP in its or the library's layout."""
    if any(key.startswith(LIBRARY_PREFIX) for key in state):
        return _renamed(state)
    return {key: value for key, value in state.items() if key.startswith(PARTS)}


def _renamed(state: Mapping[str, Tensor]) -> State:
    found = {new: state[old] for old, new in LIBRARY_NAMES.items() if old in state}
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T.contiguous()
    layers = {int(key.removeprefix(LIBRARY_LAYER).split(".")[0]) for key in state if LIBRARY_LAYER in key}
    for layer in sorted(layers):
        old, new = f"{LIBRARY_LAYER}{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            for source, target in LIBRARY_LAYER_NAMES.items():
                found[f"{new}{target}.{kind}"] = _tensor(state, f"{old}{source}.{kind}")
            parts = [_tensor(state, f"{old}self_attn.{part}_proj.{kind}") for part in "qkv"]
            found[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
    return found


def _tensor(state: Mapping[str, Tensor], key: str) -> Tensor:
    size_of(state, key, 0)
    return state[key]


def clip_text_from_file(path: Path) -> ClipText:
    """The text tower with its weights, from a state dict of CLIP, or a folder of the transformers library."""
    state = text_state(_state_from_path(path))
    tower = clip_text_from_state(state)
    load_state(tower, state, path.name)
    return tower.eval()


def _state_from_path(path: Path) -> State:
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        file = path / "pytorch_model.bin"
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise IntegrityError(f"{file} cannot be read: {error}", "download it again") from None
    try:
        return state_from_checkpoint(read_checkpoint(file), inside=("state_dict",))
    except IntegrityError as error:
        if "torchscript" in error.message.lower():
            raise UsageError(f"{file} is a TorchScript archive", JIT_HINT) from None
        raise
