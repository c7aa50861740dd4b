"""How well text codes distinguish captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textual_vision.runtime.errors import UsageError
from textual_vision.training.models.caption_encoder import CaptionEncoder, ids_from_captions

CHUNK = 512  # captions encoded at once
MIN_DISTINCT = 0.5  # distinct sequences per distinct caption, below which training stops


@dataclass(frozen=True, kw_only=True)
class TextCodeUsage:
    """Usage of the text codes by captions."""

    captions: int  # distinct captions
    distinct: float  # distinct code sequences per distinct caption
    used: float  # share of all codes that occur
    recall_at_1: float  # share of captions that are found by their codes


@torch.no_grad()
def text_code_usage(encode: CaptionEncoder, captions: Sequence[str]) -> TextCodeUsage:
    """The usage of the codes by `captions`; UsageError when the codes have collapsed."""
    captions = sorted(set(captions))
    codes, mask = encode(captions)
    sequences = {tuple(row[m.bool()].flatten().tolist()) for row, m in zip(codes, mask, strict=True)}
    quantizer = encode.text_encoder.quantizer
    groups = torch.arange(quantizer.groups)
    used = len({(int(g), int(c)) for g in groups for c in codes[mask.bool()][:, g].unique()})
    usage = TextCodeUsage(
        captions=len(captions),
        distinct=len(sequences) / len(captions),
        used=used / (quantizer.groups * quantizer.centroids.shape[1]),
        recall_at_1=_recall_at_1(encode, captions, codes, mask),
    )
    if usage.distinct < MIN_DISTINCT:
        raise UsageError(
            f"the text codes have collapsed: {len(sequences)} distinct code sequences "
            f"for {len(captions)} captions",
            "give the config more model.text.codebook_size or groups",
        )
    return usage


def _recall_at_1(encode: CaptionEncoder, captions: Sequence[str], codes: Tensor, mask: Tensor) -> float:
    """Share of captions whose mean token state is nearest, by cosine, to the mean of its own centroids."""
    encoder = encode.text_encoder
    states = []
    for start in range(0, len(captions), CHUNK):
        ids, m = ids_from_captions(encode.tokenizer, captions[start : start + CHUNK])
        states.append(_mean(encoder.encoder(ids, m), m))
    queries = torch.nn.functional.normalize(torch.cat(states), dim=1)
    groups = torch.arange(encoder.quantizer.groups)
    rows = _mean(encoder.quantizer.centroids[groups, codes].flatten(2), mask)
    keys = torch.nn.functional.normalize(rows, dim=1)
    found = [(part @ keys.T).argmax(1) for part in queries.split(2048)]
    return float((torch.cat(found) == torch.arange(len(keys))).float().mean())


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
