"""Exact checks: files, specs, tokenizer, noise, arithmetic, and the build's own verdict."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from textual_vision.export.precision.arithmetic import (
    ARITHMETIC,
    ARITHMETIC_OF_PRECISION,
    ARITHMETICS,
    arithmetic_in_words,
)
from textual_vision.export.results import PASS
from textual_vision.export.verification.checks import (
    BUILD,
    CONVERSION,
    EDITED,
    EXACT,
    FILES,
    NOISE,
    NOISES,
    PRECISIONS,
    SPECS,
    TOKENIZER,
    TOKENS,
    Check,
    check_of,
)
from textual_vision.export.verification.subject import Subject
from textual_vision.runtime.errors import TextualVisionError
from textual_vision.runtime.generation.program import noise_tensors
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.noise import LAWS, values_from_words, words_from_seed
from textual_vision.runtime.text.tokenizer import Tokenizer, Tokens

if TYPE_CHECKING:
    from textual_vision.export.model.stage import StagedModel

# SHA-256 of `recipe_digest`: values of every law that docs/reference/noise.md defines.
RECIPE_DIGEST = "e41ff35ae0cf1d8311c204b36bc125ddaaae330accfee6ed900d9d5ac8b2537f"
RECIPE_SEEDS, RECIPE_VALUES, RECIPE_TAIL = (0, 7, 2**64 - 1), 64, 0.0228
SHOWN = 3  # differences listed


def exact_checks(subject: Subject, texts: Sequence[str], seeds: Sequence[int]) -> Iterator[Check]:
    """Yield the exact checks; `texts` and `seeds` are those of the whole pictures."""
    yield _digests(subject)
    yield _recipe()
    if subject.model is not None:
        yield from _compared_with_checkpoint(subject, subject.model, texts, seeds)


def precision_checks(subject: Subject, precision: str) -> Iterator[Check]:
    """Yield the exact checks of one precision: its arithmetic and the build's verdict."""
    yield _arithmetic(subject, precision)
    spec = subject.manifest.precisions[precision]
    problems = [] if spec.verdict == PASS else [f"the build's own verdict is {spec.verdict!r}"]
    yield check_of(
        f"{precision}/build/verdict",
        EXACT,
        BUILD,
        problems,
        passed="the build passed",
        tolerance="the verdict of the build is pass",
        cause=CONVERSION,
    )


def required_check(subject: Subject, precision: str) -> Check:
    """Return the check that the bundle has the precision."""
    has = precision in subject.manifest.precisions
    problems = [] if has else [f"the bundle has only {', '.join(subject.manifest.precisions)}"]
    return check_of(
        f"{precision}/required",
        EXACT,
        SPECS,
        problems,
        passed="the bundle has it",
        tolerance=f"--require {precision}",
        cause=EDITED,
    )


def recipe_digest() -> str:
    """Return the SHA-256 of noise by every law, as little-endian float32."""
    digest = hashlib.sha256()
    for seed in RECIPE_SEEDS:
        for stream, law in enumerate(LAWS):
            words = words_from_seed(seed, 2, RECIPE_VALUES, stream)
            tail = RECIPE_TAIL if law == "truncated_normal" else None
            digest.update(values_from_words(words, law, tail=tail).astype("<f4").tobytes())
    return digest.hexdigest()


def _digests(subject: Subject) -> Check:
    subject.bundle.verify()  # IntegrityError, which has its own exit code
    count = len(subject.manifest.files)
    return check_of(
        "files/digests",
        EXACT,
        FILES,
        [],
        passed=f"{count} files have their digests",
        tolerance="SHA-256 and size of every file",
    )


def _recipe() -> Check:
    found = recipe_digest()
    problems = [] if found == RECIPE_DIGEST else [f"the noise has the digest {found[:16]}…"]
    return check_of(
        "noise/recipe",
        EXACT,
        NOISES,
        problems,
        passed=f"the digest {found[:16]}…",
        tolerance=f"the digest {RECIPE_DIGEST[:16]}…",
        cause=NOISE,
    )


def _compared_with_checkpoint(
    subject: Subject, model: StagedModel, texts: Sequence[str], seeds: Sequence[int]
) -> Iterator[Check]:
    manifest = subject.manifest
    names = ("image", "labels", "parameters", "loops")
    problems = [one for name in names for one in _differences(manifest, model, name)]
    yield _spec_check("specs/model", SPECS, problems, EDITED)
    expected = tuple(_without_limits(stage.spec) for stage in model.stages)
    found = tuple(_without_limits(stage) for stage in subject.stages)
    wrong = [stage.name for stage in found if stage not in expected]
    problems = [f"stage {name!r} differs from the checkpoint's" for name in wrong]
    order = [[stage.name for stage in stages] for stages in (found, expected)]
    problems += [] if order[0] == order[1] else [f"the stages are {order[0]}, not {order[1]}"]
    yield _spec_check("specs/stages", SPECS, problems, EDITED)
    yield _spec_check("specs/text", TOKENS, _differences(manifest, model, "text"), TOKENIZER)
    yield _spec_check("specs/noise", NOISES, _differences(manifest, model, "noise"), NOISE)
    yield _noise_values(subject, model, seeds)
    if manifest.text is not None and model.tokenizer is not None:
        data = subject.bundle.read(manifest.text.tokenizer)
        yield _spec_check("tokenizer/file", TOKENS, _json_problems(data, model.tokenizer), TOKENIZER)
        yield _token_ids(subject, model, data, texts)


def _spec_check(id_: str, place: int, problems: Sequence[str], cause: str) -> Check:
    tolerance = "equal to the checkpoint's"
    return check_of(id_, EXACT, place, problems, passed="equal", tolerance=tolerance, cause=cause)


def _differences(manifest: object, model: object, name: str) -> list[str]:
    """The paths at which a field of the manifest differs from the model's."""
    return _paths(_plain(getattr(manifest, name)), _plain(getattr(model, name)), name)[:SHOWN]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def _paths(found: Any, expected: Any, path: str) -> list[str]:
    """Where two JSON values differ, with both values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        parts = (_paths(found.get(key), expected.get(key), f"{path}.{key}") for key in keys)
        return [one for part in parts for one in part]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [one for index, (a, b) in pairs for one in _paths(a, b, f"{path}[{index}]")]
    return [] if found == expected else [f"{path} is {_short(found)}, not {_short(expected)}"]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _without_limits(spec: StageSpec) -> StageSpec:
    """The stage without the sizes of its tables, which only the bundle's spec has."""
    outputs = tuple(dataclasses.replace(one, limit=None) for one in spec.outputs)
    inputs = tuple(dataclasses.replace(one, limit=None) for one in spec.inputs)
    return dataclasses.replace(spec, inputs=inputs, outputs=outputs)


def _noise_values(subject: Subject, model: StagedModel, seeds: Sequence[int]) -> Check:
    """All noise values of the seeds, outside of loops and of a loop's first step."""
    found, expected = (_noise_digest(noise, seeds) for noise in (subject.manifest.noise, model.noise))
    problems = [] if found == expected else [f"the noise of {len(seeds)} seeds has the digest {found[:16]}…"]
    return check_of(
        "noise/values",
        EXACT,
        NOISES,
        problems,
        passed=f"the digest {found[:16]}… of {len(seeds)} seeds",
        tolerance=f"the digest {expected[:16]}…",
        cause=NOISE,
    )


def _noise_digest(noise: Any, seeds: Sequence[int]) -> str:
    digest = hashlib.sha256()
    for step in (None, 0):
        for name, values in noise_tensors(noise, seeds, step=step).items():
            digest.update(f"{name} {values.shape}".encode() + values.astype("<f4").tobytes())
    return digest.hexdigest()


def _json_problems(found: bytes, expected: bytes) -> list[str]:
    """Where two tokenizer files differ; layout and the order of keys do not count."""
    try:
        return _paths(json.loads(found), json.loads(expected), "tokenizer")[:SHOWN]
    except ValueError as error:
        return [f"not JSON: {error}"]


def _token_ids(subject: Subject, model: StagedModel, data: bytes, texts: Sequence[str]) -> Check:
    assert model.text is not None and model.tokenizer is not None and subject.manifest.text is not None
    expected = Tokenizer(model.tokenizer, model.text).encode_batches(texts, 1)
    try:
        found = Tokenizer(data, subject.manifest.text).encode_batches(texts, 1)
        wrong = [text for text, a, b in zip(texts, found, expected, strict=True) if not _same(a, b)]
        problems = [f"{len(wrong)} of {len(texts)} prompts, first {wrong[0][:40]!r}"] if wrong else []
    except TextualVisionError as error:
        problems = [error.message]
    return check_of(
        "tokenizer/ids",
        EXACT,
        TOKENS,
        problems,
        passed=f"{len(texts)} prompts have equal ids",
        tolerance="ids and masks equal to the checkpoint's",
        cause=TOKENIZER,
    )


def _same(first: Tokens, second: Tokens) -> bool:
    return np.array_equal(first.ids, second.ids) and np.array_equal(first.mask, second.mask)


def _arithmetic(subject: Subject, precision: str) -> Check:
    """Whether every stage computes as the build recorded, and one stage in the type of the precision's name.

    Where half makes no stage smaller, the build records an fp16 precision that is all float32.
    """
    wanted = ARITHMETIC_OF_PRECISION[precision]
    found = {stage.name: subject.arithmetic(precision, stage.name) for stage in subject.stages}
    listed = arithmetic_in_words(found)
    recorded = subject.manifest.provenance.get(f"{ARITHMETIC} {precision}")
    lax = any(ARITHMETICS.index(name) > ARITHMETICS.index(wanted) for name in found.values())
    absent = wanted not in found.values() and not (precision == "fp16" and recorded == listed)
    problems = [listed] if lax or absent or recorded not in (None, listed) else []
    tolerance = f"{wanted} in one stage or more" if recorded is None else f"as built: {recorded}"
    return check_of(
        f"{precision}/arithmetic",
        EXACT,
        PRECISIONS,
        problems,
        passed=listed,
        tolerance=tolerance,
        cause=EDITED,
    )
