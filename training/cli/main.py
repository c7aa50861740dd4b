"""tv-train: data, training and evaluation from the command line."""

from __future__ import annotations

import click

from textual_vision.runtime import console
from textual_vision.runtime.version import __version__
from textual_vision.training.cli.data import data_command
from textual_vision.training.cli.evaluate import COMMANDS as EVALUATION_COMMANDS
from textual_vision.training.cli.run import COMMANDS as RUN_COMMANDS


@click.group(name="tv-train", no_args_is_help=True)
@click.version_option(__version__)
def command() -> None:
    """Train a text-to-image model: make a corpus, train on it, evaluate."""


command.add_command(data_command)
for other_command in (*RUN_COMMANDS, *EVALUATION_COMMANDS):
    command.add_command(other_command)


def main() -> None:
    """The entry point of `tv-train`."""
    console.run(command)


if __name__ == "__main__":
    main()
