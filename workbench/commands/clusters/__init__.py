"""The `workbench clusters` commands: where units for a concept are, and what they do."""

from __future__ import annotations

import typer

from workbench.commands.clusters import find, grow, locate, sweep

app = typer.Typer(help="Is a concept held by neurons in one place?", no_args_is_help=True)
app.command("locate")(locate.locate)
app.command("sweep")(sweep.sweep)
app.command("find")(find.find)
app.command("grow")(grow.grow)
