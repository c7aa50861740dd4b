"""tv-export: build, inspect, verify and benchmark bundles."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from textual_vision.runtime import console
from textual_vision.runtime.version import __version__

COMMANDS = {
    "bench": "textual_vision.export.cli.bench:bench_command",
    "build": "textual_vision.export.cli.build:build_command",
    "doctor": "textual_vision.export.cli.doctor:doctor_command",
    "engine": "textual_vision.export.cli.engine:engine_command",
    "families": "textual_vision.export.cli.families:families_command",
    "gpu-check": "textual_vision.export.cli.gpu_check:gpu_check_command",
    "sensitivity": "textual_vision.export.cli.sensitivity:sensitivity_command",
    "sign": "textual_vision.export.cli.sign:sign_command",
    "triton": "textual_vision.export.cli.triton:triton_command",
    "verify": "textual_vision.export.cli.verify:verify_command",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, as click's documentation advises."""

    def __init__(self, *args: Any, lazy_subcommands: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy_subcommands = lazy_subcommands or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted([*super().list_commands(ctx), *self.lazy_subcommands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command called `cmd_name`, imported now if its module is lazy."""
        if cmd_name not in self.lazy_subcommands:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy_subcommands[cmd_name].partition(":")
        loaded: click.Command = getattr(importlib.import_module(module), name)
        return loaded


@click.group(cls=LazyGroup, lazy_subcommands=COMMANDS, no_args_is_help=True)
@click.version_option(__version__)
def command() -> None:
    """Export a text-to-image model to ONNX and TensorRT, and verify it."""


@command.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the contents as JSON.")
def inspect_command(bundle: Path, as_json: bool) -> None:
    """Show the contents of BUNDLE.

    These are stages, tensors, precisions, sizes and provenance.
    """
    from textual_vision.export.bundle.inspection import inspect_bundle
    from textual_vision.export.cli import printing

    printing.show_inspection(inspect_bundle(bundle), as_json)


def main() -> None:
    """Run `tv-export` and leave the process with its exit code."""
    console.run(command)


if __name__ == "__main__":
    main()
