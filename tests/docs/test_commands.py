"""Every command, option, field and example in the documentation is one that there is."""

import ast
import contextlib
import re
import shlex
import shutil

import click
import pytest
from doc_pages import PAGES, ROOT, blocks, id_of, inline_code, prose, shell_lines, text_of

from textual_vision.export.cli.main import command as export_command
from textual_vision.runtime.cli.main import command as generate_command
from textual_vision.training.cli.main import command as train_command
from textual_vision.training.config import TrainConfig

COMMANDS = {"tv-generate": generate_command, "tv-export": export_command, "tv-train": train_command}
MODULES = {"textual_vision.training.cli.main": "tv-train"}
FOREIGN_OPTIONS = {"--system-site-packages", "--check"}
FIELD = re.compile(r"(?:losses|sampling|model\.\w+|\w+_phase)\.\w+")


def words_of(line):
    """The words of a command of ours in a line of shell, without comment and what comes before it."""
    words = shlex.split(line, comments=True)
    for number, word in enumerate(words):
        if word in COMMANDS:
            return words[number:]
        if word in MODULES:
            return [MODULES[word], *words[number + 1 :]]
    return []


def parse(words):
    """Raises a ClickException where the command, an option or a value is not one that there is."""
    command, name, words = COMMANDS[words[0]], words[0], words[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{name} has no command {words[0]!r}"
        command, name, words = found, words[0], words[1:]
    if isinstance(command, click.Group) and not words:
        return
    with contextlib.suppress(click.exceptions.Exit):  # --help or --version
        command.make_context(name, words)


EXAMPLES = [(id_of(page), line) for page in PAGES for line in shell_lines(page) if words_of(line)]
MENTIONS = [
    (id_of(page), code)
    for page in PAGES
    for code in sorted(set(inline_code(page)))
    if code.startswith("tv-") and " " in code and " " in code
]


def test_there_are_commands_to_check():
    assert len(EXAMPLES) > 40 and len(MENTIONS) > 20


@pytest.mark.parametrize(("page", "line"), EXAMPLES)
def test_an_example_is_understood(page, line):
    parse(words_of(line))


@pytest.mark.parametrize(("page", "code"), MENTIONS)
def test_a_command_that_is_mentioned_exists_with_its_options(page, code):
    # A mention may leave out arguments and the values of options.
    with contextlib.suppress(click.MissingParameter, click.BadOptionUsage):
        parse(shlex.split(code))


def every_option(command):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from every_option(command.get_command(context, name))
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_an_option_that_is_mentioned_exists(page):
    known = {option for command in COMMANDS.values() for option in every_option(command)}
    found = {code.split()[0] for code in inline_code(page) if code.startswith("--")}
    assert found <= known | FOREIGN_OPTIONS | {"--help", "--version"}


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_a_field_of_a_config_that_is_mentioned_exists(page):
    for code in inline_code(page):
        if FIELD.fullmatch(code):
            holder = TrainConfig(name="any")
            for part in code.split("."):
                assert hasattr(holder, part), f"{code}: no {part}"
                holder = getattr(holder, part)


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_a_make_target_that_is_mentioned_exists(page):
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    lines = [*shell_lines(page), *inline_code(page)]
    assert {line.split()[1] for line in lines if re.match(r"make [a-z-]+", line)} <= targets


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_a_script_of_the_examples_that_is_mentioned_exists(page):
    for path in re.findall(r"docs/examples/\w+\.\w+", text_of(page)):
        assert (ROOT / path).is_file()


PYTHON = [(id_of(page), code) for page in PAGES for code in blocks(page, "python")]


def imports_of(code):
    tree = ast.parse(code)
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def needs_only_the_runtime(code):
    return {getattr(node, "module", None) for node in imports_of(code)} == {"textual_vision.runtime"}


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_what_an_example_in_python_imports_exists(page, code):
    for node in imports_of(code):
        exec(compile(ast.Module([node], []), page, "exec"), {})


@pytest.mark.parametrize(("page", "code"), [one for one in PYTHON if needs_only_the_runtime(one[1])])
def test_an_example_of_the_runtime_runs(page, code, tiny_bundle, tmp_path, monkeypatch):
    shutil.copytree(tiny_bundle, tmp_path / "emoji.tv")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})


def test_the_notes_are_not_checked_but_linked():
    assert "notes/README.md" in prose(ROOT / "docs" / "index.md")
