"""Python source without what only people read: what runs in a function is small, and starts sooner."""

from __future__ import annotations

import ast
import io
import tokenize

__all__ = ["lean"]


def lean(source: str) -> str:
    """The same program without docstrings and comments. Every line keeps its number, so tracebacks say where."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            (row, column), line = token.start, lines[token.start[0] - 1]
            lines[row - 1] = line[:column].rstrip() + line[column + len(token.string) :]
    for node in ast.walk(ast.parse(source)):
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
