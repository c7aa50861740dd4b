"""tv-export families: the published systems whose weights `tv-export build --family` reads."""

from __future__ import annotations

import click


@click.command("families")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def families_command(as_json: bool) -> None:
    """List the families of published models.

    `tv-export build --family NAME` takes the files that are shown for each.
    """
    from rich.markup import escape
    from rich.table import Table

    from textual_vision.export.cli import printing
    from textual_vision.export.families.registry import FAMILIES

    if as_json:
        found = [
            {
                "name": family.name,
                "title": family.title,
                "files": {role.name: list(role.patterns) for role in family.roles},
            }
            for family in FAMILIES
        ]
        printing.print_json(found)
        return
    table = Table(title="families")
    for name in ("family", "gives", "files"):
        table.add_column(name)
    for family in FAMILIES:
        files = "\n".join(f"{role.name}: {role.patterns[0]}" for role in family.roles)
        table.add_row(family.name, escape(family.title), escape(files))
    printing.console().print(table)
    click.echo("next: tv-export build --family NAME FILES… -o BUNDLE")
