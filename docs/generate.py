"""Write the generated parts of the docs: `python docs/generate.py`, or --check to see whether they are stale.

Generated: cli.md, schemas/*.json, and what lies between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in the other pages.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def main(arguments: list[str]) -> int:
    texts = generated()
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is stale: run `make docs`")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
            print(path.relative_to(ROOT))
    return 1 if stale and "--check" in arguments else 0


def generated() -> dict[Path, str]:
    """Every generated file, as it should be."""
    found = {DOCS / "cli.md": cli()}
    for name, schema in schemas().items():
        found[DOCS / "schemas" / f"{name}.json"] = schema
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        if path != DOCS / "cli.md":
            text = path.read_text(encoding="utf-8")
            for name, make in PARTS.items():
                text = re.sub(
                    rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)",
                    lambda match, make=make: match[1] + make() + match[2],
                    text,
                    flags=re.DOTALL,
                )
            found[path] = text
    return found


def limits() -> str:
    """What the lean server takes before it says no."""
    import dataclasses

    from ekiben.serving.limits import Limits

    rows = ["| limit | default |", "|---|---|"]
    rows += [f"| `{field.name}` | {field.default:,} |" for field in dataclasses.fields(Limits)]
    return "\n".join(rows) + "\n"


def features() -> str:
    """Which provider has which feature; a number leads to the reason why not."""
    import ekiben
    from ekiben.features import Feature

    supports = [importlib.import_module(package).SUPPORT for _, package in sorted(ekiben._PROVIDERS.items())]
    reasons: list[str] = []

    def cell(answer: Any) -> str:
        if answer is True:
            return "yes"
        if answer not in reasons:
            reasons.append(answer)
        return f"no ({reasons.index(answer) + 1})"

    rows = [
        "| | " + " | ".join(f"`{support.provider}`" for support in supports) + " |",
        "|---" * (len(supports) + 1) + "|",
    ]
    for feature in Feature:
        rows.append(
            f"| {feature.value} | " + " | ".join(cell(support.features[feature]) for support in supports) + " |"
        )
    notes = [f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(reasons, 1)]
    return "\n".join(rows) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def backends() -> str:
    """What each service that an endpoint can be on holds."""
    from ekiben.aws.backends import table

    return table()


def exit_codes() -> str:
    from ekiben.cli import EXIT_CODES

    return "| code | when |\n|---|---|\n" + "".join(f"| {code} | {text} |\n" for code, text in EXIT_CODES.items())


def error_tree() -> str:
    import ekiben.errors

    tree = (ekiben.errors.__doc__ or "").split("\n\n")[1]
    return "```text\n" + "\n".join(line.removeprefix("    ") for line in tree.splitlines()) + "\n```\n"


def specs() -> str:
    """Each spec with its fields."""
    lines = []
    for name in SPECS:
        model = getattr(importlib.import_module("ekiben"), name)
        about = (model.__doc__ or "").split("\n")[0]
        lines += [
            f"### {name}",
            "",
            f"{about} [Schema](schemas/{name}.json).",
            "",
            "| field | default | |",
            "|---|---|---|",
        ]
        for key, field in model.model_fields.items():
            default = "required" if field.is_required() else f"`{_default(field.default)}`"
            lines.append(f"| `{key}` | {default} | {_cell(field.description or '')} |")
        lines.append("")
    return "\n".join(lines)


def schemas() -> dict[str, str]:
    found = {}
    for name in SPECS:
        schema = getattr(importlib.import_module("ekiben"), name).model_json_schema()
        found[name] = json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return found


def cli() -> str:
    """Every verb, with its help as the terminal shows it."""
    import typer

    os.environ["COLUMNS"] = "100"
    from ekiben.cli.verbs import SECTIONS, app

    root = typer.main.get_command(app)
    context = type(root).context_class(root, info_name="ekiben", **root.context_settings)
    parts = [
        "# The command line",
        "",
        "Written by `make docs` from the program itself. Exit codes: [errors.md](errors.md).",
        "",
        "Data goes to stdout, as text or, with `--json`, as JSON and nothing else; all that is said beside it goes to stderr.",
        "Colours and progress bars are for terminals, and `NO_COLOR` is heeded.",
        "",
        "| variable | |",
        "|---|---|",
        "| `EKIBEN_STACK` | the stack, where `--stack` is not given |",
        "| `EKIBEN_PLATFORM` | the platform record, as JSON or as the path of a file; `--stack` goes before it |",
        "| `EKIBEN_DEBUG` | `1` shows the traceback of an error |",
        "",
        "```text",
        root.get_help(context),
        "```",
        "",
    ]
    for section, names in SECTIONS.items():
        parts += [f"## {section}", ""]
        for name in names.split():
            command = root.get_command(context, name)  # type: ignore[attr-defined]
            if command is None:
                raise SystemExit(f"ekiben.cli.verbs.SECTIONS names the verb {name!r}, which there is not.")
            inner = type(root).context_class(command, info_name=name, parent=context)
            parts += [f"### {name}", "", "```text", command.get_help(inner), "```", ""]
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()) + "\n"


def _default(value: Any) -> str:
    if hasattr(value, "model_dump"):
        given = ", ".join(f"{key}={item!r}" for key, item in value.model_dump(exclude_defaults=True).items())
        return f"{type(value).__name__}({given})"
    return json.dumps(value) if isinstance(value, str | int | float | bool | dict) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


SPECS = (
    "StorageSpec",
    "RegistrySpec",
    "TrainingSpec",
    "EndpointSpec",
    "FunctionSpec",
    "MonitorSpec",
    "BudgetSpec",
    "Resources",
    "NewData",
    "Schedule",
    "Http",
    "On",
)
PARTS: dict[str, Callable[[], str]] = {
    "features": features,
    "backends": backends,
    "exit-codes": exit_codes,
    "error-tree": error_tree,
    "limits": limits,
    "specs": specs,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
