"""Word-level vocabularies of published systems, read without executing anything, as tokenizers."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.manifest import TextSpec

WORD_PATTERN = r"\w+"
PAD_ID = 0  # the family's vocabularies begin with their end token, which also pads
FILE_LIMIT_BYTES = 256 << 20
ASCII_DROPPED = r"[^\x00-\x7F]"


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, strings and numbers; refuses a pickle that names any class or function."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        """Refuse."""
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def read_plain_pickle(path: Path) -> Any:
    """The plain containers in the pickle at `path`.

    Raises UsageError when there is no such file, IntegrityError when it is damaged or holds anything else:
    nothing in it is executed.
    """
    if not path.is_file():
        raise UsageError(
            f"no file {path}", "give the pickle of the vocabulary that the text encoder was trained on"
        )
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise IntegrityError(f"{path} has {path.stat().st_size} bytes, at most {FILE_LIMIT_BYTES} are read")
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
    ) as error:
        problem = f"{path} is no pickle of plain lists and dicts: {str(error)[:200]}"
        raise IntegrityError(problem, "give the file as the family's own code writes it") from None
    except (MemoryError, OverflowError):
        raise IntegrityError(
            f"{path} is damaged: it declares more than it holds", "download it again"
        ) from None


def words_from_captions(value: Any, path: Path) -> dict[str, int]:
    """Id of each word in DAMSM's pickle [train captions, test captions, word by id, id by word]."""
    if not isinstance(value, list | tuple) or len(value) < 4 or not isinstance(value[3], Mapping):
        problem = f"{path} is no list of captions with two dictionaries of words"
        raise IntegrityError(problem, "give captions.pickle, which DAMSM's own code writes")
    words = dict(value[3])
    good = all(isinstance(word, str) and type(number) is int for word, number in words.items())
    if not good or not words:
        raise IntegrityError(f"{path}: its vocabulary does not map words to numbers", "download it again")
    return words


def word_tokenizer(words: Mapping[str, int], *, rows: int, max_tokens: int) -> tuple[bytes, TextSpec]:
    """The text of a tokenizer.json that splits prompts into lower-case words, and its settings.

    Words outside of the vocabulary are dropped, as DAMSM's code does. `rows` is the size of the embedding.
    Raises IntegrityError when the vocabulary does not fit it.
    """
    highest = max(words.values())
    if highest >= rows or min(words.values()) < 0 or len(set(words.values())) != len(words):
        problem = f"the vocabulary's ids reach {highest}, the text encoder's embedding has {rows} rows"
        raise IntegrityError(problem, "give the vocabulary that the text encoder was trained on")
    unknown = next(name for name in ("[UNK]", "[UNKNOWN]", "[DROPPED]") if name not in words)
    tokenizer = Tokenizer(models.WordLevel({**words, unknown: rows}, unk_token=unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(ASCII_DROPPED), ""), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), "removed", invert=True)
    spec = TextSpec(
        tokenizer="tokenizer.json", max_tokens=max_tokens, pad_id=PAD_ID, unknown_id=rows, drop_unknown=True
    )
    return tokenizer.to_str().encode(), spec
