"""What all three commands have in common: errors and warnings in one line each, and exit codes."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TextIO

import click

from textual_vision.runtime.errors import TextualVisionError, TextualVisionWarning


class SeedRange(click.IntRange):
    """An integer from 0 on; help omits the upper limit, which leaves room for the seeds that follow."""

    def _describe_range(self) -> str:
        return "x>=0"


SEED = SeedRange(0, 2**62)
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_OF_SIGNAL = 128  # plus its number, as a shell counts
EXIT_CLOSED_PIPE = 141
OS_HINTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another place",
    errno.EDQUOT: "your quota is used up: free some space or choose another place",
    errno.EFBIG: "the file may not become that large here: choose another place",
    errno.EACCES: "you have no permission there: choose another place",
    errno.EPERM: "you have no permission there: choose another place",
    errno.EROFS: "that place is read-only: choose another",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "that is a folder: give a file's name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def run(command: click.Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a click command and leave the process with its exit code; errors take two lines, never a traceback.

    An exception that is none of ours and not the system's is our bug: it passes through, traceback and all.
    """
    atexit.register(gc.freeze)  # all goes with the process: to search it for cycles first took a build 2 s
    with warnings.catch_warnings():
        warnings.simplefilter("always", TextualVisionWarning)
        warnings.showwarning = _warning_shower(warnings.showwarning)
        with _termination_raised():
            code = _exit_code(command, arguments)
        sys.exit(code)


def print_status(kind: str, text: str, color: str) -> None:
    """`kind: text` on the standard error in one line, `kind` in `color` where that is a terminal.

    No color where NO_COLOR is set or the terminal is "dumb". Nothing where the standard error is closed, or
    its terminal is gone: the exit code says enough.
    """
    line = " ".join(text.split())
    if sys.stderr is None or sys.stderr.closed:
        return
    with contextlib.suppress(OSError):
        plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        name = f"{kind}: " if plain else click.style(f"{kind}: ", fg=color, bold=True)
        click.echo(name + line, err=True)


def print_error(message: str, hint: str = "") -> None:
    """An error, and what to do about it."""
    print_status("error", message, "red")
    if hint:
        print_status("hint", hint, "red")


class _Terminated(BaseException):
    """SIGTERM or SIGHUP, by its number: an exception, so that the way out removes what is half-written."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _termination_raised() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP raise, unless whoever started us has other plans for them."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def stop(number: int, frame: object) -> None:
        for one in ours:  # a second signal must not end what removes files
            signal.signal(one, signal.SIG_IGN)
        raise _Terminated(number)

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _exit_code(command: click.Command, arguments: Sequence[str] | None) -> int:
    try:
        result = command.main(args=arguments, standalone_mode=False)
    except TextualVisionError as error:
        print_error(error.message, error.hint)
        return error.exit_code
    except click.ClickException as error:
        return _click_error(error)
    except (click.Abort, KeyboardInterrupt):
        print_error("interrupted")
        return EXIT_INTERRUPTED
    except _Terminated as error:
        print_error("terminated")
        return EXIT_OF_SIGNAL + error.number
    except BrokenPipeError:
        sys.stderr.close()  # else the interpreter complains again while it shuts down
        return EXIT_CLOSED_PIPE
    except OSError as error:
        return _system_error(error)
    except MemoryError:
        print_error("not enough memory", "generate fewer pictures at once or close other programs")
        return 1
    return result if isinstance(result, int) else 0


def _click_error(error: click.ClickException) -> int:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f"see {context.command_path} --help" if context is not None else ""
    print_error(error.format_message(), hint)
    return error.exit_code


def _system_error(error: OSError) -> int:
    number = error.errno if error.errno is not None else 0
    place = f": {error.filename}" if error.filename else ""
    print_error(f"{error.strerror or error}{place}", OS_HINTS.get(number, ""))
    return EXIT_USAGE


def _warning_shower(show: Callable[..., None]) -> Callable[..., None]:
    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, TextualVisionWarning):
            print_status("warning", str(message), "yellow")
        else:
            show(message, category, filename, lineno, file, line)

    return show_warning
