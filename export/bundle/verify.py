"""Verify a bundle against its golden pictures, and optionally against its checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from textual_vision.export.model.prompts import COMPARED
from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.parity.verdict import parity_of
from textual_vision.export.results import FAIL, StageParity
from textual_vision.export.sessions.opening import open_sessions, usable_backends
from textual_vision.runtime.backends.session import backend_by_name
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BundleWarning, IntegrityError, ParityError, UsageError
from textual_vision.runtime.generation.program import program_from_manifest
from textual_vision.runtime.golden import GoldenResult, compare
from textual_vision.runtime.pipeline import TextToImage


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The results: golden pictures by precision and backend, and parity with the checkpoint by precision."""

    bundle: str
    files: int
    golden: dict[str, dict[str, tuple[GoldenResult, ...]]]
    parity: dict[str, tuple[StageParity, ...]]


def verify_bundle(
    folder: Path, *, backend: str | None, checkpoint: str | None, samples: int, seed: int
) -> Verification:
    """Check a bundle's files, its golden pictures and, with `checkpoint`, its parity with the checkpoint.

    `backend` None checks every installed one. Raises UsageError, BackendMissingError and IntegrityError;
    pictures that differ are in the result.
    """
    if backend is not None:
        backend_by_name(backend)
    backends = usable_backends() if backend is None else (backend,)
    bundle = Bundle(folder)
    bundle.verify()
    precisions = bundle.manifest.precisions
    golden = {
        precision: {one: _golden(folder, precision, one) for one in backends} for precision in precisions
    }
    parity = {} if checkpoint is None else _parity(bundle, checkpoint, backends, samples, seed)
    return Verification(bundle=str(folder), files=len(bundle.manifest.files), golden=golden, parity=parity)


def require_verified(found: Verification) -> None:
    """Raise ParityError when a picture or a stage is outside its tolerance."""
    golden = [
        f"{precision} by {backend}: golden picture {result.prompt!r}"
        for precision, by_backend in found.golden.items()
        for backend, results in by_backend.items()
        for result in results
        if not result.passed
    ]
    parity = [
        f"{precision} {one.stage} ({one.mode}, {one.backend}): {one.reason}"
        for precision, results in found.parity.items()
        for one in results
        if one.verdict == FAIL
    ]
    if problems := [*golden, *parity]:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ParityError(problems[0] + more, "export the bundle again, or use another --backend")


def _golden(folder: Path, precision: str, backend: str) -> tuple[GoldenResult, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BundleWarning)  # of failures that this function finds itself
        model = TextToImage.load(folder, precision=precision, backend=backend)
        return tuple(compare(model))


def _parity(
    bundle: Bundle, checkpoint: str, backends: tuple[str, ...], samples: int, seed: int
) -> dict[str, tuple[StageParity, ...]]:
    from textual_vision.export.loading.source import load_checked_model
    from textual_vision.export.model.reference_batches import reference_batches
    from textual_vision.export.model.running import texts_of

    text = bundle.manifest.text
    model = load_checked_model(checkpoint, None if text is None or not text.fixed_length else text.max_tokens)
    recorded = bundle.manifest.provenance.get("checkpoint")
    if recorded != model.digest:
        problem = f"the bundle was not made from the checkpoint {checkpoint}"
        raise UsageError(problem, f"the bundle's has the digest {recorded}, this one {model.digest}")
    batches = reference_batches(model, texts_of(model, COMPARED, samples), samples=samples, seed=seed)
    program = program_from_manifest(bundle.manifest)
    specs = bundle.manifest.stages
    found: dict[str, tuple[StageParity, ...]] = {}
    for precision, spec in bundle.manifest.precisions.items():
        if precision not in TOLERANCES:
            known = ", ".join(TOLERANCES)
            problem = f"manifest.precisions: there is no tolerance for {precision!r}, only for {known}"
            raise IntegrityError(problem, "leave out --checkpoint, or export the bundle again")
        graphs = {stage.name: bundle.read(spec.files[stage.name]) for stage in specs}
        for backend in backends:
            sessions = open_sessions(graphs, backend)
            tolerance = TOLERANCES[precision]
            parity = parity_of(program, sessions, batches, tolerance=tolerance, backend=backend)
            found[precision] = (*found.get(precision, ()), *parity)
    return found
