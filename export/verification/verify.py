"""Verify a bundle: exact checks, tables, stages and whole pictures, for every precision and backend."""

from __future__ import annotations

import contextlib
import importlib.util
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textual_vision.export.parity.agreement import PYTORCH, PictureSet, agreement_matrix
from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.results import MERGED
from textual_vision.export.sessions.opening import usable_backends
from textual_vision.export.verification.bounds import smallest_visible_share
from textual_vision.export.verification.checks import (
    BACKEND,
    FIRST_STAGE,
    STAGE_STEP,
    STAGES,
    Check,
    check_of,
)
from textual_vision.export.verification.layers.baseline import baseline_checks, read_verification
from textual_vision.export.verification.layers.exact import exact_checks, precision_checks, required_check
from textual_vision.export.verification.layers.goldens import golden_check, golden_checks
from textual_vision.export.verification.layers.whole import (
    coverage_in_words,
    failed_run,
    judge_pictures,
    limits_of_run,
    run_free,
    run_merged,
    whole_check,
)
from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.subject import Subject
from textual_vision.export.verification.verification import (
    AGREEMENT_PICTURES,
    Verification,
    check_same_samples,
    sets_from_json,
)
from textual_vision.runtime.backends.session import Session, backend_by_name, check_threads
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import (
    BackendMissingError,
    IntegrityError,
    ParityError,
    PromptWarning,
    TextualVisionError,
    UsageError,
    choice_hint,
)
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.golden import golden_of_bundle
from textual_vision.runtime.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from textual_vision.export.verification.checkpoint import CheckpointChecks

HINT = "export the bundle again, or use another --backend"


def verify_bundle(
    folder: Path,
    options: VerifyOptions,
    *,
    found: Verification | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> Verification:
    """Verify the bundle at `folder` and return the result; failed checks are in it.

    `found` is filled as the work proceeds, so that a caller has the results so far after an error. Raises
    UsageError (contradicting options, a checkpoint that the bundle was not made from), BackendMissingError
    and IntegrityError (a damaged file).
    """
    found = found or Verification(bundle=str(folder), level=options.level, checkpoint=options.checkpoint)
    check_threads(options.threads)
    bundle = Bundle(folder)
    found.name = bundle.manifest.name
    found.digest = bundle.manifest.provenance.get("checkpoint", "")
    precisions, backends = _chosen_precisions(bundle, options), _chosen_backends(options)
    others = {str(path): read_verification(path) for path in options.merge}
    baseline = None if options.baseline is None else read_verification(options.baseline)
    with warnings.catch_warnings(), _timed(found, "all"):
        warnings.simplefilter("ignore", PromptWarning)  # of prompts that are meant to be odd
        subject, checkpoint = _prepared(bundle, options, found, on_progress)
        texts, seeds = [one.text for one in found.samples], [one.seed for one in found.samples]
        found.checks += exact_checks(subject, texts, seeds)
        found.checks += [required_check(subject, name) for name in options.required_precisions]
        has_golden = bundle.manifest.golden is not None
        if has_golden or checkpoint is None:
            found.checks += golden_checks(subject, () if checkpoint is None else checkpoint.reference.golden)
        for precision in precisions:
            found.checks += precision_checks(subject, precision)
            if checkpoint is not None:
                found.checks += checkpoint.weights_checks(precision)
            for backend in backends:
                on_progress(f"{precision} on {backend}")
                with _timed(found, f"{precision} on {backend}"):
                    _verify_backend(
                        subject, checkpoint, precision, backend, found, first=backend == backends[0]
                    )
                subject.close(precision, backend)
        if checkpoint is not None:
            _add_notes(found, checkpoint)
    for path, other in others.items():
        check_same_samples(found.samples, other.get("samples"), path)
        ours = set(found.sets)
        found.sets.update(
            {name: one for name, one in sets_from_json(other, path).items() if name not in ours}
        )
    if len(found.sets) > 1:
        found.matrix = agreement_matrix(found.sets)
    if baseline is not None:
        found.checks += baseline_checks(baseline, found.decibels, found.samples)
    return found


def require_verified(found: Verification) -> None:
    """Raise ParityError with the first failed check in the running order."""
    if (failure := found.failure) is not None:
        count = sum(check.failed for check in found.checks)
        more = f" (and {count - 1} more checks)" if count > 1 else ""
        raise ParityError(failure.sentence() + more, HINT)


def _prepared(
    bundle: Bundle, options: VerifyOptions, found: Verification, on_progress: ProgressCallback
) -> tuple[Subject, CheckpointChecks | None]:
    """The bundle's graphs, and the checkpoint with its reference pictures."""
    if options.checkpoint is None:
        return Subject(bundle, None, threads=options.threads), None
    from textual_vision.export.loading.source import load_checked_model
    from textual_vision.export.verification.checkpoint import CheckpointChecks
    from textual_vision.export.verification.prompts import samples_of
    from textual_vision.export.verification.reference import make_reference

    text = bundle.manifest.text
    on_progress("load the checkpoint")
    model = load_checked_model(
        options.checkpoint, None if text is None or not text.fixed_length else text.max_tokens
    )
    recorded = bundle.manifest.provenance.get("checkpoint")
    if recorded != model.digest:
        problem = f"the bundle was not made from the checkpoint {options.checkpoint}"
        raise UsageError(problem, f"the bundle's has the digest {recorded}, this one {model.digest}")
    found.samples = samples_of(model, options.count, seed=options.seed, prompts=options.prompts)
    on_progress(f"generate {options.count} reference pictures and the sweeps")
    golden = None if bundle.manifest.golden is None else golden_of_bundle(bundle)
    with _timed(found, "reference"):
        reference = make_reference(model, found.samples, options, bundle.manifest.batch.max, golden)
    found.sets[PYTORCH] = _first_pictures([batch.tensors for batch in reference.whole])
    subject = Subject(bundle, model, threads=options.threads)
    return subject, CheckpointChecks(subject, model, reference, options)


def _verify_backend(
    subject: Subject,
    checkpoint: CheckpointChecks | None,
    precision: str,
    backend: str,
    found: Verification,
    *,
    first: bool,
) -> None:
    """Add the checks of one precision on one backend."""
    opened = _open(subject, precision, backend)
    if isinstance(opened, Check):
        found.checks.append(opened)
        return
    if checkpoint is not None:
        found.checks += checkpoint.stage_checks(precision, backend, opened, first=first)
        _verify_whole(subject, checkpoint, precision, backend, opened, found)
        found.checks += _merged_checks(subject, checkpoint, precision, backend)
    if subject.manifest.golden is not None:
        found.checks.append(golden_check(subject, precision, backend, opened))


def _open(subject: Subject, precision: str, backend: str) -> dict[str, Session] | Check:
    """The sessions of all stages, or the failed check of the first graph that a backend refuses."""
    try:
        return dict(subject.sessions(precision, backend))
    except BackendMissingError:
        raise
    except TextualVisionError as error:
        named = [n for n, stage in enumerate(subject.stages) if f"{stage.name}.onnx" in error.message]
        place = named[0] if named else 0
        stage = subject.stages[place].name
        return check_of(
            f"{precision}/{stage}/open/{backend}",
            STAGES,
            FIRST_STAGE + STAGE_STEP * place,
            [error.message],
            passed="",
            tolerance="the backend loads every graph",
            cause=BACKEND,
        )


def _verify_whole(
    subject: Subject,
    checkpoint: CheckpointChecks,
    precision: str,
    backend: str,
    sessions: dict[str, Session],
    found: Verification,
) -> None:
    id_ = f"{precision}/whole/free/{backend}"
    try:
        run = run_free(subject, sessions, checkpoint.reference.whole)
    except TextualVisionError as error:
        found.checks.append(failed_run(id_, error))
        return
    limits = limits_of_run(checkpoint.arithmetics(precision), subject.stages)
    results = judge_pictures(run, limits)
    found.checks.append(whole_check(id_, run, results, limits, checkpoint.options.defaults.allowance))
    name = f"{precision}/{backend}/{found.device}"
    found.decibels[name] = [None if np.isinf(one.psnr_db) else round(one.psnr_db, 3) for one in results]
    found.sets[name] = _first_pictures(run.outputs)


def _merged_checks(
    subject: Subject, checkpoint: CheckpointChecks, precision: str, backend: str
) -> Iterator[Check]:
    """The check of pipeline.onnx on the first pictures, where there is one."""
    id_ = f"{precision}/{MERGED}/free/{backend}"
    level = checkpoint.options.defaults
    size = len(checkpoint.reference.whole[0].prompts)
    batches = checkpoint.reference.whole[: -(-level.merged // size)]
    try:
        session = subject.merged_session(precision, backend)
        if session is None:
            return
        run = run_merged(subject, session, batches)
    except TextualVisionError as error:
        yield failed_run(id_, error)
        return
    limits = limits_of_run(checkpoint.arithmetics(precision), subject.stages)
    yield whole_check(id_, run, judge_pictures(run, limits), limits, level.allowance)


def _first_pictures(outputs: Sequence[object]) -> PictureSet:
    """The pictures and codes that the agreement matrix compares."""
    tensors = [one for one in outputs if isinstance(one, dict)]
    images = np.concatenate([one[IMAGE] for one in tensors])[:AGREEMENT_PICTURES].astype(np.uint8)
    codes = [one[CODES] for one in tensors if CODES in one]
    return PictureSet(images=images, codes=np.concatenate(codes)[:AGREEMENT_PICTURES] if codes else None)


def _add_notes(found: Verification, checkpoint: CheckpointChecks) -> None:
    count = len(found.samples)
    found.notes += coverage_in_words(
        checkpoint.reference.whole, checkpoint.model.tables, checkpoint.vocabulary_size
    )
    found.notes += checkpoint.notes()
    share = 100 * smallest_visible_share(count)
    found.notes.append(
        f"{count} pictures show a defect that hits {share:.1f} % of all pictures or more (95 %)"
    )


def _chosen_precisions(bundle: Bundle, options: VerifyOptions) -> list[str]:
    has = list(bundle.manifest.precisions)
    for name in options.precisions:
        if name not in has:
            raise UsageError(f"the bundle has no precision {name!r}", choice_hint(name, has))
    chosen = list(options.precisions) or has
    for name in chosen:
        if name not in TOLERANCES:
            problem = (
                f"manifest.precisions: there is no tolerance for {name!r}, only for {', '.join(TOLERANCES)}"
            )
            raise IntegrityError(problem, "choose others with --precision, or export the bundle again")
    return chosen


def _chosen_backends(options: VerifyOptions) -> list[str]:
    for name in (*options.backends, *options.required_backends):
        backend = backend_by_name(name)
        if importlib.util.find_spec(backend.library) is None:
            raise BackendMissingError(
                f"backend {name!r}: {backend.library} is not installed", backend.install
            )
    chosen = options.backends or usable_backends()
    return list(dict.fromkeys((*chosen, *options.required_backends)))


@contextlib.contextmanager
def _timed(found: Verification, name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        found.timings[name] = time.perf_counter() - start
