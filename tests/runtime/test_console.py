"""Errors and warnings: rendered once, in one line each, with their exit code."""

import errno
import os
import pty
import subprocess
import sys
import warnings

import click
import pytest

from textual_vision.runtime import errors
from textual_vision.runtime.console import run


def outcome(raised, capsys):
    @click.command()
    def failing():
        raise raised

    with pytest.raises(SystemExit) as left:
        run(failing, [])
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.TextualVisionError, 1),
        (errors.UsageError, 2),
        (errors.ParityError, 3),
        (errors.ToleranceError, 4),
        (errors.DeviceMismatchError, 5),
        (errors.BackendMissingError, 6),
        (errors.IntegrityError, 7),
    ],
)
def test_each_of_our_errors_has_its_exit_code(kind, code, capsys):
    assert outcome(kind("went\nwrong", "do this"), capsys) == (code, "error: went wrong\nhint: do this\n")


def test_a_full_disk_says_so(capsys):
    code, err = outcome(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "big.onnx"), capsys)
    assert code == 2
    assert err.startswith("error: No space left on device: big.onnx\nhint: the disk is full")


def test_an_interruption_is_exit_code_130(capsys):
    code, err = outcome(KeyboardInterrupt(), capsys)
    assert (code, err.strip()) == (130, "error: interrupted")


def test_too_little_memory_is_not_a_traceback(capsys):
    code, err = outcome(MemoryError(), capsys)
    assert code == 1
    assert err.startswith("error: not enough memory\n")


def test_our_own_bug_keeps_its_traceback():
    @click.command()
    def buggy():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(buggy, [])


def test_our_warnings_take_one_line_and_others_are_left_alone(capsys):
    @click.command()
    def warning():
        warnings.warn("two\nlines", errors.PromptWarning, stacklevel=1)

    with pytest.raises(SystemExit) as left:
        run(warning, [])
    assert left.value.code == 0
    assert capsys.readouterr().err == "warning: two lines\n"


@pytest.mark.parametrize(
    ("setting", "start"),
    [({}, "\x1b[31m\x1b[1merror: \x1b[0m"), ({"NO_COLOR": "1"}, "error: "), ({"TERM": "dumb"}, "error: ")],
)
def test_on_a_terminal_an_error_is_red_unless_the_user_wants_none_and_still_one_line(setting, start):
    script = (
        "import click\nfrom textual_vision.runtime import console, errors\n"
        "@click.command()\ndef fail(): raise errors.UsageError('[bold]x' * 40, 'y')\nconsole.run(fail, [])\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "40"}
    environment.pop("NO_COLOR", None)
    environment.update(setting)
    process = subprocess.run([sys.executable, "-c", script], stderr=slave, env=environment, check=False)
    os.close(slave)
    shown = os.read(master, 10_000).decode()
    os.close(master)
    assert process.returncode == 2
    assert shown.startswith(start + "[bold]x" * 40)


def test_a_closed_standard_error_changes_no_exit_code():
    program = (
        "import sys, click\n"
        "from textual_vision.runtime import console\n"
        "from textual_vision.runtime.errors import UsageError\n"
        "@click.command()\n"
        "def command():\n"
        "    raise UsageError('no such thing')\n"
        "console.run(command, [])\n"
    )
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program], check=False)
    assert done.returncode == 2
