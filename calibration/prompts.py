"""Prompts to calibrate with: a file of them, and the few that between them visit the most codebook rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, TextualVisionWarning, UsageError
from textual_vision.runtime.strict_json import json_from_bytes

FILE_LIMIT_BYTES = 16 << 20
PROMPT_LIMIT = 100_000
FEW_PROMPTS = 32  # below this the ranges follow the prompts' accidents
RANDOM = "random"  # the name by which random words may be asked for
RANDOM_WORDS = 6  # of a prompt
FORMAT_HINT = "write a UTF-8 text file with one prompt a line; lines that begin with # are comments"


class CalibrationWarning(TextualVisionWarning):
    """A calibration that may not stand for what the model will meet."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Distinct prompts in the order of the file; `repeated` is how many lines said what another had said."""

    texts: tuple[str, ...]
    repeated: int = 0


def read_prompts(path: Path) -> Prompts:
    """Return the prompts in `path`, one per line; blank lines and comments (#) are skipped.

    Raises UsageError when the file is not there, not UTF-8 text, too large, without a prompt, or says the
    same in every line.
    """
    if not path.is_file():
        problem = "is a folder, not a file of prompts" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {problem}", FORMAT_HINT)
    if (size := path.stat().st_size) > FILE_LIMIT_BYTES:
        raise UsageError(
            f"{path}: {size} bytes; at most {FILE_LIMIT_BYTES} are read", "a few thousand prompts do"
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line} is not UTF-8 text", FORMAT_HINT) from None
    if "\0" in text:
        raise UsageError(f"{path}: holds a zero byte, so it is not text", FORMAT_HINT)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return distinct_prompts([line for line in lines if line and not line.startswith("#")], str(path))


def distinct_prompts(texts: Sequence[str], where: str) -> Prompts:
    """`texts` without repetitions (compared without case); `where` names their source in errors.

    Raises UsageError when there is none, too many, or when several all say the same; warns with
    CalibrationWarning when they are few or repeat themselves.
    """
    if not texts:
        raise UsageError(f"{where}: no prompt", FORMAT_HINT)
    if len(texts) > PROMPT_LIMIT:
        raise UsageError(f"{where}: {len(texts)} prompts; at most {PROMPT_LIMIT} are read", "leave some out")
    found = {text.casefold(): text for text in reversed(texts)}  # the first of its kind stays
    kept = tuple(text for text in dict.fromkeys(texts) if found[text.casefold()] == text)
    repeated = len(texts) - len(kept)
    if len(kept) == 1 and repeated:
        problem = f"{where}: all {len(texts)} prompts say {kept[0][:40]!r}"
        raise UsageError(problem, "calibrate with prompts like those that the model will meet")
    if repeated:
        warnings.warn(
            f"{where}: {repeated} of {len(texts)} prompts repeat another", CalibrationWarning, stacklevel=2
        )
    if few := warning_about_few_prompts(len(kept)):
        warnings.warn(f"{where}: {few}", CalibrationWarning, stacklevel=2)
    return Prompts(texts=kept, repeated=repeated)


def tokenizer_of_bundle(bundle: Bundle) -> bytes:
    """The text of the bundle's tokenizer.json; raises UsageError for a model that takes no prompts."""
    text = bundle.manifest.text
    if text is None:
        raise UsageError(f"{bundle.manifest.name} takes no prompts", "leave out `random`")
    return bundle.read(text.tokenizer)


def random_prompts(tokenizer: bytes, count: int, seed: int = 0) -> tuple[str, ...]:
    """`count` prompts of random words of `tokenizer` (the text of tokenizer.json), for those who ask by name.

    Rare words in senseless order reach other codes and other ranges than prompts do: warns of it with
    CalibrationWarning. Raises IntegrityError when the tokenizer lists no words.
    """
    warnings.warn(
        "calibrating with random words: the ranges are not those of real prompts",
        CalibrationWarning,
        stacklevel=2,
    )
    return vocabulary_prompts(tokenizer, count, seed)


def vocabulary_prompts(tokenizer: bytes, count: int, seed: int = 0) -> tuple[str, ...]:
    """Return `count` prompts of random words of `tokenizer`, the text of tokenizer.json.

    Raises IntegrityError when the tokenizer lists no words.
    """
    found = json_from_bytes(tokenizer, "tokenizer.json")
    model = found.get("model") if isinstance(found, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    words = sorted(word for word in vocabulary if word.isalpha()) if isinstance(vocabulary, dict) else []
    if not words:
        raise IntegrityError("tokenizer.json lists no words to choose from", "calibrate with prompts")
    chosen = np.random.default_rng(seed).integers(0, len(words), (count, RANDOM_WORDS))
    return tuple(" ".join(words[index] for index in row) for row in chosen)


def warning_about_few_prompts(count: int) -> str:
    """A warning when `count` different prompts are too few, else nothing."""
    if count >= FEW_PROMPTS:
        return ""
    return f"only {count} different prompts; fewer than {FEW_PROMPTS} give unreliable ranges"


def choose_for_coverage(rows: Sequence[npt.NDArray[np.int64]], count: int) -> list[int]:
    """Which `count` of the prompts to take so that they visit many rows: indices in the order of choice.

    `rows[i]` (any length) are the rows that prompt i visits, each table's rows numbered apart. Greedy set
    cover: the next prompt is the one with the most rows not visited yet. When a round has visited all that
    can be, the next round starts afresh, so that common and rare rows keep their balance.
    """
    sets = [set(np.unique(row).tolist()) for row in rows]
    left = set(range(len(sets)))
    unseen: set[int] = set()
    chosen: list[int] = []
    while left and len(chosen) < count:
        if not any(sets[index] & unseen for index in left):
            unseen = set().union(*(sets[index] for index in left))
        best = max(sorted(left), key=lambda index: len(sets[index] & unseen))
        chosen.append(best)
        left.remove(best)
        unseen -= sets[best]
    return chosen
