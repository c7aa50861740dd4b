"""Write MODEL_CARD.md: the model, its stages, the parity of its precisions, its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual_vision.export.results import PrecisionResult
from textual_vision.runtime.manifest import Manifest

if TYPE_CHECKING:
    from textual_vision.export.model.stage import StagedModel


def model_card(model: StagedModel, precisions: Sequence[PrecisionResult], provenance: dict[str, str]) -> str:
    """Return the card as Markdown."""
    return "\n".join(
        [
            f"# {model.name}",
            "",
            f"Generates pictures of {model.image.width}×{model.image.height} pixels from "
            f"{condition_in_words(model)}.",
            "",
            f"License: {model.license}; see NOTICE for the works that the model was trained on.",
            "",
            "## Parts",
            "",
            *_parts(model),
            "",
            "## Precisions",
            "",
            "Each stage is compared with the trained model on the trained model's own inputs. Codes are the "
            "integers that one stage passes to the next.",
            "",
            "| precision | MB of graphs | codes equal | picture | verdict |",
            "|---|---|---|---|---|",
            *[_row(precision) for precision in precisions],
            "",
            "## Limits",
            "",
            "The model generates only what its training pictures show. It approximates unknown words by "
            "similar ones or ignores them. It writes no legible text and knows no persons.",
            "",
            "## Made with",
            "",
            *[f"- {name}: {value}" for name, value in provenance.items()],
            "",
        ]
    )


def condition_in_words(model: StagedModel | Manifest) -> str:
    """Return the condition that a model takes as a phrase: a prompt, a label, or nothing."""
    if model.labels is not None:
        return f"one of {len(model.labels.names)} labels"
    if model.text is None:
        return "no condition"
    padded = ", padded to as many" if model.text.fixed_length else ""
    return f"prompts of up to {model.text.max_tokens} tokens{padded}"


def _parts(model: StagedModel) -> list[str]:
    parameters = model.card.get("parameters")
    counts = parameters if isinstance(parameters, dict) else {}
    lines = []
    for stage in model.stages:
        inputs = ", ".join(tensor.name for tensor in stage.spec.inputs)
        outputs = ", ".join(tensor.name for tensor in stage.spec.outputs)
        count = f" ({counts[stage.name] / 1e6:.1f} million parameters)" if stage.name in counts else ""
        lines.append(f"- `{stage.name}`{count}: {inputs} → {outputs}")
    return lines


def _row(result: PrecisionResult) -> str:
    forced = [p for p in result.parity if p.mode == "teacher-forced"]
    codes = [p.codes for p in forced if p.codes is not None]
    pictures = [p.image for p in forced if p.image is not None]
    agreement = min((c.agreement for c in codes), default=None)
    decibels = [i.psnr_db for i in pictures if i.psnr_db is not None]
    megabytes = sum(graph.bytes for graph in result.stage_graphs) / 1e6
    shown_codes = "" if agreement is None else f"{100 * agreement:.2f} %"
    shown_picture = f"{min(decibels):.1f} dB" if decibels else ("identical" if pictures else "")
    return f"| {result.precision} | {megabytes:.1f} | {shown_codes} | {shown_picture} | {result.verdict} |"
