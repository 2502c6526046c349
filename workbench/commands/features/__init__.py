"""The `workbench features` commands: what makes units fire."""

from __future__ import annotations

import typer

from workbench.commands.features import optimize, sae, scan

app = typer.Typer(help="Find what makes units fire.", no_args_is_help=True)
app.command("scan")(scan.scan)
app.command("optimize")(optimize.optimize)
app.command("sae")(sae.sae)
