"""Python source without what only people read: what runs in a function is small, and starts sooner."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

__all__ = ["lean", "statements"]

# A string, which may hold a `#`, or a comment and the spaces before it. Source that Python 3.11 takes has no string in a string.
STRING_OR_COMMENT = re.compile(
    r"""
    (\"\"\"(?:[^\\]|\\.)*?\"\"\" | '''(?:[^\\]|\\.)*?''' | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
    | [ \t]*\#[^\n]*
    """,
    re.VERBOSE | re.DOTALL,
)


def lean(source: str) -> str:
    """The same program without docstrings and comments. Every line keeps its number, so tracebacks say where."""
    lines = STRING_OR_COMMENT.sub(lambda found: found[1] or "", source).splitlines(keepends=True)
    for node in statements(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            said = range(first.lineno - 1, first.end_lineno or first.lineno)
            for row in said:
                lines[row] = "\n"
            if len(node.body) == 1:  # a body is not empty
                lines[said[0]] = f"{' ' * first.col_offset}...\n"
    return "".join(lines)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A module and all the statements in it, without their expressions: a twentieth of what `ast.walk` goes through."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            yield from statements(child)
