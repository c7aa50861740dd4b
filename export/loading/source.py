"""Load the model to export: a checkpoint, a function in a Python file, or a family's published weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from textual_vision.export.families.assembly import model_from_family
from textual_vision.export.families.registry import family_source
from textual_vision.export.host.parallel import torch_single_thread
from textual_vision.export.loading.checkpoint import model_from_checkpoint
from textual_vision.export.loading.fingerprint import fingerprint_of
from textual_vision.export.loading.model_file import model_from_file
from textual_vision.export.model.spec_checks import check_specs, normalized_model
from textual_vision.export.model.stage import StagedModel, with_fixed_text
from textual_vision.export.model.trial import tried_model
from textual_vision.training.checkpoint import load_checkpoint


def load_checked_model(source: str, tokens: int | None) -> StagedModel:
    """Load the model at `source`, with `tokens` for prompts of that length only, and run it on a few prompts.

    Raises what `load_model`, `with_fixed_text` and `tried_model` raise.
    """
    with torch_single_thread():
        model = load_model(source)
    return tried_model(model if tokens is None else with_fixed_text(model, tokens))


def load_model(source: str) -> StagedModel:
    """Load a shipped checkpoint by name, a checkpoint folder, or what `FILE.py:FUNCTION` returns.

    `FAMILY:FILE,…` are the published weights of a family.

    Raises UsageError when there is no such model or its description is contradictory, and IntegrityError when
    the checkpoint is damaged.
    """
    if (published := family_source(source)) is not None:
        model = normalized_model(model_from_family(published))
        check_specs(model)
        return replace(model, fingerprint=fingerprint_of(model, {}))
    path, colon, function = source.rpartition(":")
    if colon and path.endswith(".py"):
        found, sources = model_from_file(Path(path), function)
        model = normalized_model(found)
        check_specs(model)
        return replace(model, fingerprint=fingerprint_of(model, sources))
    return model_from_checkpoint(load_checkpoint(source))
