"""Every error that a user can meet, each with its exit code.

TextualVisionError          1
├── UsageError              2   what was asked for does not make sense
├── ParityError             3   an exported graph generates other pictures than its source
├── ToleranceError             4   the accuracy that was asked for cannot be met
├── DeviceMismatchError     5   an engine was built for another device or library version
├── BackendMissingError     6   a library, driver or tool is not installed
├── IntegrityError          7   a file is damaged, or is not what it claims to be
└── CancelledError        130   the caller cancelled the work
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

QUOTED_CHARACTERS = 200


def shortened(text: str) -> str:
    """`text` from a file or a library, for a message: one line of at most 200 characters, all printable."""
    line = " ".join(text[: 2 * QUOTED_CHARACTERS].split())
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
    return shown if len(shown) <= QUOTED_CHARACTERS else shown[:QUOTED_CHARACTERS] + "…"


class TextualVisionError(Exception):
    """What went wrong, in one line, with its numbers; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TextualVisionError):
    """What was asked for does not make sense."""

    exit_code = 2


class ParityError(TextualVisionError):
    """An exported graph generates other pictures than its source."""

    exit_code = 3


class ToleranceError(TextualVisionError):
    """The accuracy that was asked for cannot be met."""

    exit_code = 4


class DeviceMismatchError(TextualVisionError):
    """An engine was built for another device or library version."""

    exit_code = 5


class BackendMissingError(TextualVisionError):
    """A library, driver or tool that this needs is not installed."""

    exit_code = 6


class IntegrityError(TextualVisionError):
    """A file is damaged, or is not what it claims to be."""

    exit_code = 7


class CancelledError(TextualVisionError):
    """The caller cancelled the work."""

    exit_code = 130


def choice_hint(name: str, choices: Iterable[str]) -> str:
    """Return a hint that lists the choices, after the one that is nearest to the mistyped `name`."""
    import difflib

    names = list(choices)
    nearest = difflib.get_close_matches(name, names, 1)
    listed = f"choose one of: {', '.join(names)}"
    return f"did you mean {nearest[0]!r}? {listed}" if nearest else listed


class TextualVisionWarning(UserWarning):
    """Something odd that is not an error; `warnings.filterwarnings` can silence it or make it one."""


class PromptWarning(TextualVisionWarning):
    """A part of a prompt was not understood or was cut."""


class BundleWarning(TextualVisionWarning):
    """A bundle is not as good as it should be."""
