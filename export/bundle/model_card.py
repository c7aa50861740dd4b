"""MODEL_CARD.md: what a bundle is, what it was made of and how good its precisions are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual_vision.export.results import PrecisionResult
from textual_vision.runtime.manifest import TextSpec

if TYPE_CHECKING:
    from textual_vision.export.model.stage import StagedModel


def model_card(model: StagedModel, precisions: Sequence[PrecisionResult], provenance: dict[str, str]) -> str:
    """The card as Markdown."""
    return "\n".join(
        [
            f"# {model.name}",
            "",
            f"Draws {model.image.width}×{model.image.height} pictures from English prompts of "
            f"{prompt_size(model.text)} (word pieces).",
            "",
            f"License: {model.license}; see NOTICE for the works that the model was trained on.",
            "",
            "## Parts",
            "",
            *_parts(model),
            "",
            "## Precisions",
            "",
            "Compared with the trained model on real prompts; codes are the integers that the stages before "
            "the picture hand over, each stage fed the trained model's own inputs.",
            "",
            "| precision | MB to draw with | codes equal | picture | verdict |",
            "|---|---|---|---|---|",
            *[_row(precision) for precision in precisions],
            "",
            "## Limits",
            "",
            "The model draws what its training pictures show and nothing else. Words that it never saw are "
            "approximated by similar ones or ignored. It writes no legible text and knows no persons.",
            "",
            "## Made with",
            "",
            *[f"- {name}: {value}" for name, value in provenance.items()],
            "",
        ]
    )


def prompt_size(text: TextSpec) -> str:
    """How long prompts may be, in words."""
    return f"up to {text.max_tokens} tokens" + (", padded to as many" if text.fixed_length else "")


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
