"""A bundle against its golden pictures, and against a checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from textual_vision.export.model.prompts import COMPARED
from textual_vision.export.parity.verdict import TOLERANCES, open_sessions, parity_of
from textual_vision.export.results import FAIL, StageParity
from textual_vision.export.sessions.opening import usable_backends
from textual_vision.runtime.backends.session import backend_by_name
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BundleWarning, IntegrityError, ParityError, UsageError
from textual_vision.runtime.golden import GoldenResult, compare
from textual_vision.runtime.pipeline import TextToImage


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked: golden pictures by precision and backend, and the comparison with a checkpoint."""

    bundle: str
    files: int
    golden: dict[str, dict[str, tuple[GoldenResult, ...]]]
    parity: dict[str, tuple[StageParity, ...]]


def verified(
    folder: Path, *, backend: str | None, checkpoint: str | None, samples: int, seed: int
) -> Verification:
    """Check everything; `backend` None is every one that is installed, `checkpoint` None compares with none.

    Raises UsageError, BackendMissingError and IntegrityError; what differs is in the result.
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


def failures_in(found: Verification) -> None:
    """ParityError when anything is outside its budget."""
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
        warnings.simplefilter("ignore", BundleWarning)  # what it warns of is what is being checked
        model = TextToImage.load(folder, precision=precision, backend=backend)
        return tuple(compare(model))


def _parity(
    bundle: Bundle, checkpoint: str, backends: tuple[str, ...], samples: int, seed: int
) -> dict[str, tuple[StageParity, ...]]:
    from textual_vision.export.model.loading import model_of
    from textual_vision.export.model.reference_batches import reference_batches

    text = bundle.manifest.text
    model = model_of(checkpoint, text.max_tokens if text.fixed_length else None)
    recorded = bundle.manifest.provenance.get("checkpoint")
    if recorded != model.digest:
        problem = f"the bundle was made of another checkpoint than {checkpoint}"
        raise UsageError(problem, f"its digest is {recorded}, that of {checkpoint} is {model.digest}")
    batches = reference_batches(model, COMPARED, samples=samples, seed=seed)
    specs = bundle.manifest.stages
    found: dict[str, tuple[StageParity, ...]] = {}
    for precision, spec in bundle.manifest.precisions.items():
        if precision not in TOLERANCES:
            problem = (
                f"manifest.precisions: there is no budget for {precision!r}, only for {', '.join(TOLERANCES)}"
            )
            raise IntegrityError(problem, "leave out --checkpoint, or export the bundle again")
        graphs = {stage.name: bundle.read(spec.files[stage.name]) for stage in specs}
        for backend in backends:
            sessions = open_sessions(graphs, backend, trusted=False)
            tolerance = TOLERANCES[precision]
            parity = parity_of(specs, sessions, batches, tolerance=tolerance, backend=backend)
            found[precision] = (*found.get(precision, ()), *parity)
    return found
