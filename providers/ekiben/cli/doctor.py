"""doctor: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from ekiben.cli import options, show

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(json: options.Json = False, stack: options.Stack = "") -> None:
    """Check this machine, with a remedy for each lack.

    Python, Pulumi, plugin, packages, disk, GPU, ports, station, credentials (which are set, never what they are). Exits
    with 1 when a check fails.

    \b
    Examples:
      ekiben doctor
      ekiben doctor --json
    """
    from ekiben.cli.checks import checks

    found = checks(stack)
    if json:
        show.to_json([asdict(check) for check in found])
    else:
        show.table(("check", "state", "detail"), [(check.name, check.state, check.detail) for check in found])
        for check in found:
            if check.remedy:
                show.line(f"\n{check.name}: {check.remedy}")
    if any(check.state == "fail" for check in found):
        raise typer.Exit(1)
